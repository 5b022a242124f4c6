import { findDevice } from "./device.js";
import { at, bytes, facts, make, notice, plural, show, time } from "./dom.js";

let device = null;
let worker = null;
/** What the worker says of the model, once it is loaded. */
let about = null;
/** The run: what was asked for, and what came of it. One at a time. */
let run = null;
/** What went wrong last. */
let problem = null;

const state = (name) => { document.documentElement.dataset.state = name; };
const rate = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

// ---- the model

function load(file) {
  worker?.terminate();
  [about, run, problem] = [null, null, null];
  for (const id of ["notice", "ask", "answer"]) show(id, false);
  at("model-name").textContent = file.name;
  facts(at("model-facts"), []);
  at("now").textContent = "Reading the file …";
  show("now");
  progress(0, 1);
  show("bar");
  state("loading");
  worker = new Worker("generate-worker.js", { type: "module" });
  const own = worker;
  worker.onmessage = ({ data }) => own === worker && hear(data);
  worker.onerror = (event) => own === worker && fail("open", event.message || "the worker could not be loaded");
  worker.postMessage({ do: "open", file });
}

function progress(done, all) {
  const bar = at("bar");
  bar.firstElementChild.style.width = `${(100 * done) / all}%`;
  bar.setAttribute("aria-valuemax", all);
  bar.setAttribute("aria-valuenow", done);
}

function hear(message) {
  switch (message.is) {
    case "progress":
      progress(message.done, message.all);
      at("now").textContent = `Weights to the GPU: part ${message.done} of ${message.all}`;
      break;
    case "open":
      at("version").textContent = `lowbit ${message.version}`;
      loaded(message.about);
      break;
    case "token":
      token(message);
      break;
    case "done":
      done(message.result);
      break;
    case "broken":
      fail(message.during, message.message, message.lost);
      break;
  }
}

function loaded(what) {
  about = what;
  for (const id of ["bar", "now"]) show(id, false);
  if (about.name) at("model-name").textContent = about.name;
  // Browsers tell the library little of an adapter.
  about.adapter ||= device.name;
  facts(at("model-facts"), [
    ["Architecture", `${about.family}, ${plural(about.layers, "layer")}`],
    ["Vocabulary", plural(about.vocabulary, "token")],
    ["Context", plural(about.context, "token")],
    ["Weights", `${bytes(about.weight_bytes)} on the GPU, loaded in ${time(about.load_s)}`],
    ["Adapter", `${about.adapter}${about.software ? ", software: slow" : ""}`],
    ["Chat template", about.has_template ? "yes" : about.template_problem ? `not understood: ${about.template_problem}` : "none"],
  ]);
  const chat = at("chat");
  chat.disabled = !about.has_template;
  chat.checked = about.has_template;
  at("max-tokens").max = about.context;
  show("ask");
  state("loaded");
}

// ---- the text

/** A number of a field, or nothing after the field has said what is wrong with it. */
function number(id) {
  const field = at(id);
  return field.reportValidity() && field.value !== "" ? field.valueAsNumber : undefined;
}

function start() {
  const [max_tokens, temperature, top_p, seed] = ["max-tokens", "temperature", "top-p", "seed"].map(number);
  if ([max_tokens, temperature, top_p, seed].includes(undefined)) return;
  const wanted = { prompt: at("prompt").value, chat: at("chat").checked, max_tokens, temperature, top_k: 0, top_p, seed };
  run = { wanted, pieces: [], ids: [], first: null, result: null };
  problem = null;
  show("notice", false);
  show("answer");
  show("run", false);
  show("stop");
  at("stop").disabled = false;
  at("speed").textContent = "preparing kernels, then reading the prompt …";
  facts(at("answer-facts"), []);
  // The model continues a prompt, and answers a message.
  const before = wanted.chat ? [] : [make("span", { className: "given", text: wanted.prompt })];
  at("text").replaceChildren(...before, document.createTextNode(""));
  at("file").disabled = true;
  state("generating");
  worker.postMessage({ do: "generate", wanted });
}

function token({ id, piece }) {
  run.ids.push(id);
  run.pieces.push(piece);
  at("text").lastChild.appendData(piece);
  const now = performance.now();
  run.first ??= now;
  const count = run.ids.length;
  at("speed").textContent = count > 1 ? `${rate((1000 * (count - 1)) / (now - run.first))} tokens/s` : "";
}

const ENDS = { end: "the model ended the text", limit: "as many tokens as asked for", stopped: "stopped" };

function done(result) {
  run.result = result;
  at("text").lastChild.data = result.text;
  at("speed").textContent = `${rate(result.decode_tokens_per_s)} tokens/s`;
  facts(at("answer-facts"), [
    ["Prompt", `${plural(result.prompt_tokens, "token")}, ${rate(result.prompt_tokens_per_s)} tokens/s`],
    ["Generated", `${plural(result.token_ids.length, "token")}, ${rate(result.decode_tokens_per_s)} tokens/s; ${ENDS[result.ended]}`],
    ["Kernels and buffers", `ready after ${result.prepare_s.toFixed(1)} s`],
    ["Memory of the GPU", bytes(result.device_bytes)],
    ["Adapter", about.adapter],
  ]);
  idle("done");
}

function idle(how) {
  show("stop", false);
  show("run");
  at("file").disabled = false;
  state(how);
}

function stop() {
  at("stop").disabled = true;
  at("speed").textContent = "stopping after the step that is running …";
  worker.postMessage({ do: "stop" });
}

function fail(during, message, lost) {
  problem = message;
  const again = ["Choose the file again to go on."];
  if (during === "open") {
    for (const id of ["bar", "now"]) show(id, false);
    notice("The model could not be loaded.", [message]);
    worker.terminate();
  } else {
    notice("No text was generated to its end.", [message, ...(lost === undefined ? [] : again)]);
    at("speed").textContent = "";
    if (lost !== undefined) show("ask", false);
  }
  idle("broken");
}

/** What came of the last run; for tests. */
globalThis.lowbitGeneration = () => ({ device, about, run, problem });

at("file").onchange = ({ target }) => target.files[0] && load(target.files[0]);
at("run").onclick = start;
at("stop").onclick = stop;

device = await findDevice();
if (device.problem) {
  notice(device.problem, device.advice);
  state("none");
} else {
  show("model");
  state("ready");
}
