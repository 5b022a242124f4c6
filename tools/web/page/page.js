import { chart, figure, label } from "./chart.js";
import { findDevice } from "./device.js";
import { at, facts, make, notice, plural, show, time } from "./dom.js";
import { Results } from "./results.js";

const asked = new URLSearchParams(location.search);

let device = null;
/** The run: results, workers and what they said. One at a time. */
let run = null;

/** `Chrome 156`, say; the report has all of it. */
function browserName(text) {
  const known = [["Edge", /Edg\w*\/(\d+)/], ["Firefox", /Firefox\/(\d+)/], ["Chrome", /Chrom\w*\/(\d+)/], ["Safari", /Version\/([\d.]+)/]];
  for (const [name, pattern] of known) {
    const version = text.match(pattern)?.[1];
    if (version) return `${name} ${version}`;
  }
  return text;
}

function describeDevice() {
  at("device-name").textContent = device.name;
  const f16 = device.features.includes("shader-f16") ? "yes" : "no";
  const dot = device.wgsl_features.includes("packed_4x8_integer_dot_product") ? "yes" : "no";
  facts(at("device-facts"), [
    ["Vendor", device.vendor || "not said"],
    ["Architecture", device.architecture || "not said"],
    ["Kind", device.fallback ? "software: slow, but it must be right all the same" : "hardware"],
    ["f16 in shaders", f16],
    ["Dot products of bytes", dot],
    ["Largest binding", `${(device.limits.maxStorageBufferBindingSize / 2 ** 20).toLocaleString("en")} MiB`],
    ["Browser", browserName(device.browser)],
  ]);
  at("device-features").textContent = `Features: ${device.features.join(", ") || "none"}. Of WGSL: ${device.wgsl_features.join(", ") || "none"}.`;
  facts(at("device-limits"), Object.entries(device.limits).map(([name, value]) => [name, value.toLocaleString("en")]));
  show("device");
}

// ---- the run

const extent = () => document.querySelector("input[name=extent]:checked").value;

/** How many devices share the work: the oracle keeps a processor busy, a GPU is never far. */
function workerCount() {
  const wanted = Number.parseInt(asked.get("workers") ?? "", 10);
  if (wanted >= 1) return Math.min(wanted, 8);
  return (navigator.hardwareConcurrency ?? 1) >= 4 ? 2 : 1;
}

function start(what) {
  run?.workers.forEach((worker) => worker.terminate());
  const workers = what === "verify" ? workerCount() : 1;
  run = {
    what,
    extent: extent(),
    results: null,
    groups: [],
    workers: [],
    busy: new Map(),
    speed: { timings: [], limits: null, errors: [] },
    started: performance.now(),
    seconds: 0,
    about: null,
    version: null,
    ended: null,
    problem: null,
  };
  show("notice", false);
  show("verify", what === "verify");
  show("speed", what === "bench");
  for (const id of ["run", "bench", "download"]) show(id, false);
  show("stop");
  for (const input of document.querySelectorAll("#extent input")) input.disabled = true;
  at("failures").replaceChildren();
  at("chart").replaceChildren();
  at("timings").replaceChildren();
  at("speed-limits").textContent = "";
  at("headline").textContent = "Starting …";
  at("headline").className = "";
  at("matrix").replaceChildren();
  at("kernels").replaceChildren();
  at("counts").replaceChildren();
  at("now").textContent = "";
  at("bar").firstElementChild.style.width = "0";
  at("bar").className = "";
  for (let i = 0; i < workers; i++) addWorker(run, i === 0);
}

function addWorker(of, first) {
  const worker = new Worker("worker.js", { type: "module" });
  of.workers.push(worker);
  worker.onmessage = ({ data }) => of === run && run.ended === null && hear(worker, data);
  worker.onerror = (event) => {
    if (of === run && run.ended === null) fail(event.message || "the worker could not be loaded");
  };
  const quick = of.extent === "quick";
  const every = Number.parseInt(asked.get("every") ?? "1", 10) || 1;
  const wanted = { filter: asked.get("case") ?? "", except: asked.get("except") ?? "", every };
  worker.postMessage({ do: "open", quick, ...(first && of.what === "verify" ? { wanted } : {}) });
}

function hear(worker, message) {
  switch (message.is) {
    case "open":
      run.about ??= message.about;
      run.version ??= message.version;
      at("version").textContent = `lowbit ${run.version}`;
      if (message.plan) planned(message.plan);
      if (run.ended !== null) break;
      if (run.what === "bench") startBench(worker, message.timings);
      else if (run.results) next(worker);
      else run.busy.delete(worker);
      worker.timings = message.timings;
      break;
    case "start":
      run.busy.set(worker, message.index);
      break;
    case "case":
      run.results.add(message.index, message.report);
      if (message.report.status === "fail") listFailure(message.report, message.lost);
      draw();
      break;
    case "idle":
      next(worker);
      break;
    case "time":
      run.speed.timings.push(message.timing);
      run.speed.limits = message.limits;
      drawSpeed();
      nextTiming(worker, message.index + 1);
      break;
    case "broken":
      if (message.during === "time") {
        run.speed.errors.push(message.message);
        nextTiming(worker, message.index + 1);
      } else {
        fail(message.message);
      }
      break;
  }
}

function planned(plan) {
  run.results = new Results(plan);
  run.names = plan.cases;
  run.groups = plan.groups;
  if (run.results.total === 0 && run.what === "verify") {
    fail(`no case's id holds “${asked.get("case") ?? ""}”`);
    return;
  }
  // Others may have opened before.
  for (const worker of run.workers) if (worker.timings !== undefined) next(worker);
  draw();
}

function next(worker) {
  const group = run.stopping ? undefined : run.groups.pop();
  if (group) {
    run.busy.set(worker, group[0]);
    worker.postMessage({ do: "run", indices: group });
    return;
  }
  run.busy.delete(worker);
  if (run.busy.size > 0 || run.timing) return;
  if (run.stopping) {
    end("stopped");
  } else if (run.what === "verify") {
    // Then how fast: short, and on the device that is there.
    run.seconds = (performance.now() - run.started) / 1000;
    startBench(worker, worker.timings);
    draw();
  }
}

function startBench(worker, count) {
  run.timing = { count };
  show("speed");
  nextTiming(worker, 0);
}

function nextTiming(worker, index) {
  if (run.stopping || index >= run.timing.count) {
    end(run.stopping ? "stopped" : "done");
    return;
  }
  at("speed-now").textContent = `measuring ${index + 1} of ${run.timing.count}, medians`;
  worker.postMessage({ do: "time", index });
}

function stop() {
  run.stopping = true;
  at("stop").disabled = true;
  for (const worker of run.workers) worker.postMessage({ do: "stop" });
  // A case takes seconds at most; a device that hangs is not waited for.
  const of = run;
  setTimeout(() => of === run && run.ended === null && end("stopped"), 8000);
}

function fail(message) {
  run.problem = message;
  notice("The run broke off.", [message, "Reload the page to try again: some browsers give no new device to a page that lost one."]);
  end("broken");
}

function end(how) {
  run.ended = how;
  if (run.seconds === 0) run.seconds = (performance.now() - run.started) / 1000;
  for (const worker of run.workers) worker.terminate();
  show("stop", false);
  at("stop").disabled = false;
  for (const id of ["run", "bench"]) show(id);
  show("download", (run.results?.done ?? 0) > 0 || run.speed.timings.length > 0);
  for (const input of document.querySelectorAll("#extent input")) input.disabled = false;
  at("run").textContent = "Check again";
  draw();
  drawSpeed();
  document.documentElement.dataset.state = how;
}

// ---- drawing, once a frame

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    drawResults();
  });
}

function drawResults() {
  const { results } = run;
  if (!results || run.what !== "verify") return;
  const { passed, failed, skipped } = results.counts;
  const seconds = run.seconds || (performance.now() - run.started) / 1000;
  const bar = at("bar");
  bar.firstElementChild.style.width = `${(100 * results.done) / Math.max(results.total, 1)}%`;
  bar.className = failed > 0 ? "bad" : "";
  bar.setAttribute("aria-valuemax", results.total);
  bar.setAttribute("aria-valuenow", results.done);
  const whole = results.done === results.total;
  const headline = at("headline");
  const text = failed > 0
    ? `${plural(failed, "case")} wrong`
    : whole
      ? `Yes: every case${skipped > 0 ? " that can run here" : ""} is right`
      : run.ended
        ? `Stopped after ${results.done.toLocaleString("en")} of ${plural(results.total, "case")}`
        : "All right so far";
  if (headline.textContent !== text) headline.textContent = text;
  headline.className = failed > 0 ? "bad" : whole ? "good" : "";
  const left = results.done > 20 && !whole && !run.ended ? `, about ${time((seconds / results.done) * (results.total - results.done))} to go` : "";
  at("clock").textContent = `${time(seconds)}${left}`;
  const current = [...run.busy.values()].map((index) => run.names[index]?.id).filter(Boolean);
  at("now").textContent = run.ended || whole ? "" : current.join("   ");
  const count = (value, what) => make("span", {}, make("b", { text: value.toLocaleString("en") }), ` ${what}`);
  at("counts").replaceChildren(
    count(results.done, `of ${plural(results.total, "case")}`),
    count(passed, "right"),
    count(failed, "wrong"),
    ...(skipped > 0 ? [count(skipped, "not possible on this GPU")] : []),
  );
  drawMatrix(results);
  drawKernels(results);
}

function drawMatrix(results) {
  const columns = results.columns();
  const head = make("tr", {}, make("th"), ...columns.map((text) => make("th", { text, scope: "col" })));
  const rows = results.ops().map((op) => {
    const cells = columns.map((column) => {
      const cell = results.at(op, column);
      if (!cell) return make("td", { className: "none", text: "·" });
      const state = cell.failed > 0 ? "fail" : cell.done === 0 ? "wait" : cell.done < cell.cases ? "part" : cell.passed > 0 ? "pass" : "skip";
      const text = cell.failed > 0 ? `${cell.failed} wrong` : cell.done < cell.cases ? `${cell.done}/${cell.cases}` : `${cell.cases}`;
      const worst = cell.worst > 0 ? `, worst error ${figure(cell.worst)} of its bound` : "";
      const title = `${op}, ${column}: ${cell.passed} right, ${cell.failed} wrong, ${cell.skipped} not here, ${cell.cases} in all${worst}`;
      return make("td", { className: state, text, title });
    });
    return make("tr", {}, make("th", { text: op, scope: "row" }), ...cells);
  });
  at("matrix").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

function drawKernels(results) {
  if (!at("kernel-details").open && !run.ended) return;
  const names = ["Kernel", "Cases", "Right", "Wrong", "Not here", "Worst error ÷ bound"];
  const head = make("tr", {}, ...names.map((text, i) => make("th", { text, className: i ? "number" : "" })));
  const rows = [...results.kernels.entries()].sort(([a], [b]) => a.localeCompare(b)).map(([name, k]) => {
    const worst = k.worst === null ? "exact" : k.worst > 1e6 ? "wrong" : figure(k.worst);
    const cells = [k.cases, k.passed, k.failed, k.skipped, worst].map((text) => make("td", { text, className: "number" }));
    return make("tr", {}, make("td", {}, make("code", { text: name })), ...cells);
  });
  at("kernels").replaceChildren(head, ...rows);
}
at("kernel-details").addEventListener("toggle", () => run && draw());

const LISTED = 50;

function listFailure(report, lost) {
  const list = at("failures");
  if (list.childElementCount === LISTED) list.append(make("p", { text: "There are more; the report has all." }));
  if (list.childElementCount >= LISTED) return;
  const again = new URL(location.href);
  again.search = new URLSearchParams({ case: report.id, [run.extent]: "" });
  list.append(
    make("div", { className: "failure" },
      make("p", {}, make("code", { text: report.id }), ` in ${report.kernel || "no kernel"}`),
      make("p", { text: `${report.reason ?? "no reason given"}${lost === undefined ? "" : " The device was lost; a new one goes on."}` }),
      make("p", {}, make("a", { href: again.href, text: "only this case" }), " · natively: ", make("code", { text: `lowbit verify --case '${report.id}'` })),
    ),
  );
}

function drawSpeed() {
  const { timings, limits, errors } = run.speed;
  if (run.ended) {
    at("speed-now").textContent = errors.length > 0 ? `${plural(errors.length, "shape")} could not be measured: ${errors[0]}` : "";
    if (timings.length === 0 && errors.length === 0) show("speed", false);
  }
  if (timings.length === 0) return;
  const giga = (value) => figure(value / 1e9);
  at("speed-limits").textContent =
    `This adapter reaches ${giga(limits.operations_per_second)} GFLOP/s in f32, ${giga(limits.dot_operations_per_second)} G operations/s by dot products of bytes, ` +
    `and reads ${giga(Math.max(limits.read_runs_bytes_per_second, limits.read_coalesced_bytes_per_second))} GB/s. GB/s below are of weights as stored; × int8: X is quantized too, within the time.`;
  at("chart").innerHTML = chart(timings, Math.max(280, Math.min(at("chart").clientWidth, 900)));
  const names = ["Rows", "Weights", "N × K", "Kernel", "ms", "GFLOP/s", "GB/s", "of the limit"];
  const head = make("tr", {}, ...names.map((text) => make("th", { text })));
  const rows = timings.map((t) => {
    const cells = [t.rows, label(t), `${t.n} × ${t.k}`, t.kernel, figure(t.ms), giga(t.operations_per_second), giga(t.weight_bytes_per_second), `${figure(100 * t.share_of_limit)} %`];
    return make("tr", {}, ...cells.map((text) => make("td", { text })));
  });
  at("timings").replaceChildren(head, ...rows);
}
addEventListener("resize", () => run?.speed.timings.length && drawSpeed());

// ---- the report and the link

const empty = () => new Results({ cases: [], groups: [] });

/** What “Download report” writes; also for tests. */
export function report() {
  const { about, version, speed, extent, seconds, ended } = run;
  return { ...(run.results ?? empty()).report({ device, about, version, extent, seconds, speed }), ended };
}
globalThis.lowbitReport = report;

function download() {
  const blob = new Blob([`${JSON.stringify(report(), null, 1)}\n`], { type: "application/json" });
  const name = device.name.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 40);
  const link = make("a", { href: URL.createObjectURL(blob), download: `lowbit-${name}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function share() {
  const link = new URL(location.href);
  link.search = `?${extent()}`;
  try {
    if (navigator.share && matchMedia("(pointer: coarse)").matches) {
      await navigator.share({ title: document.title, url: link.href });
    } else {
      await navigator.clipboard.writeText(link.href);
      at("share").textContent = "Copied";
      setTimeout(() => { at("share").textContent = "Copy link"; }, 1500);
    }
  } catch {
    // Not shared after all, or not allowed: the address bar has it.
  }
}

at("run").onclick = () => start("verify");
at("bench").onclick = () => start("bench");
at("stop").onclick = stop;
at("download").onclick = download;
at("share").onclick = share;

device = await findDevice();
if (device.problem) {
  notice(device.problem, device.advice);
  document.documentElement.dataset.state = "none";
} else {
  describeDevice();
  if (asked.has("full")) document.querySelector("input[value=full]").checked = true;
  show("controls");
  document.documentElement.dataset.state = "ready";
  if (asked.has("autostart")) start(asked.has("bench") ? "bench" : "verify");
}
