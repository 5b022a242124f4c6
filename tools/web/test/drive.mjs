// Drives the page in headless Chromium on SwiftShader, and compares what it found with a native run.
// usage: node drive.mjs PAGE_FOLDER CHROMIUM NATIVE.json OUT.json EVERY EXCEPT [SHOTS_FOLDER]
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { GPU, launch, open, serve, state } from "./browser.mjs";

const [folder, executablePath, nativeFile, outFile, every, except, shots] = process.argv.slice(2);

/** Minutes that the table may take. */
const PATIENCE = 15;

const faults = [];
const fault = (what) => faults.push(what);
const check = (holds, what) => {
  if (!holds) faults.push(what);
  console.log(`${holds ? "ok  " : "FAIL"} ${what}`);
};

const report = (page) => page.evaluate(() => globalThis.lowbitReport());
const ended = (page, minutes) =>
  page.waitForFunction(() => ["done", "stopped", "broken"].includes(document.documentElement.dataset.state), null, {
    timeout: minutes * 60_000,
  });

async function shoot(page, name) {
  if (shots) await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
}

/** Same cases, same ends; how far errors are apart, and bits where both reports carry them. */
function compare(web, native) {
  const natives = new Map(native.adapters[0].cases.map((one) => [one.id, one]));
  const differences = [];
  const sums = { same_kernel: 0, same_error: 0, digests_compared: 0, digests_equal: 0 };
  let farthest = { difference: 0, id: null };
  for (const one of web.adapters[0].cases) {
    const other = natives.get(one.id);
    natives.delete(one.id);
    if (!other) {
      differences.push({ id: one.id, what: "only in the browser" });
      continue;
    }
    if (one.status !== other.status) {
      differences.push({ id: one.id, what: "status", browser: one.status, native: other.status, reason: one.reason ?? other.reason });
    }
    sums.same_kernel += one.kernel === other.kernel;
    const [a, b] = [one.error_over_bound, other.error_over_bound];
    sums.same_error += a === b;
    if (typeof a !== typeof b) differences.push({ id: one.id, what: "kind of error", browser: a, native: b });
    const apart = typeof a === "number" && typeof b === "number" ? Math.abs(a - b) : 0;
    if (apart > farthest.difference) farthest = { difference: apart, id: one.id, browser: a, native: b };
    // Bits may differ where the kernel or its compiler does: told, not judged.
    if (one.bits !== undefined && other.bits !== undefined) {
      sums.digests_compared += 1;
      sums.digests_equal += one.bits === other.bits;
    }
  }
  for (const id of natives.keys()) differences.push({ id, what: "only native" });
  return { differences, ...sums, farthest };
}

async function main() {
  if (shots) await mkdir(shots, { recursive: true });
  const native = JSON.parse(await readFile(nativeFile, "utf8"));
  const server = await serve(folder);
  const address = `http://127.0.0.1:${server.address().port}/`;
  const started = Date.now();

  // Without a GPU, or without WebGPU, the page says so and offers nothing that cannot work.
  const without = await launch(executablePath, ["--disable-gpu"]);
  const none = async (what, says, script) => {
    const page = await open(without, address, { colorScheme: "dark", script, fault });
    const text = await page.locator("#notice").innerText();
    check((await state(page)) === "none" && text.includes(says), `${what}: “${text.split("\n")[0]}”`);
    check(!(await page.locator("#run").isVisible()), "and there is no button that cannot work");
    await shoot(page, what.replaceAll(" ", "-"));
  };
  await none("without an adapter", "offers no GPU");
  await none("without WebGPU", "no WebGPU", () => delete Navigator.prototype.gpu);
  await without.close();

  const browser = await launch(executablePath, GPU);
  // Stopped in the middle, and run again.
  const page = await open(browser, `${address}?${new URLSearchParams({ quick: "", every, except })}`, { colorScheme: "light", fault });
  check((await state(page)) === "ready", "there is an adapter");
  await shoot(page, "ready-light");
  await page.click("#run");
  await page.waitForFunction(() => globalThis.lowbitReport().adapters[0].cases.length >= 5, null, { timeout: 120_000 });
  await shoot(page, "running-light");
  await page.click("#stop");
  await ended(page, 1);
  const stopped = await report(page);
  const some = stopped.adapters[0].cases.length;
  check((await state(page)) === "stopped" && some >= 5 && some < stopped.run.planned, `stopped after ${some} of ${stopped.run.planned} cases`);
  await page.evaluate(() => { document.documentElement.dataset.state = "again"; });
  await page.click("#run");
  const longest = page.evaluate(() => new Promise((done) => {
    // The longest time without a frame: the page must not freeze.
    let [last, most] = [performance.now(), 0];
    const tick = (now) => {
      most = Math.max(most, now - last);
      last = now;
      if (["done", "stopped", "broken"].includes(document.documentElement.dataset.state)) done(most);
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }));
  await ended(page, PATIENCE);
  const frozen = await longest;
  const web = await report(page);
  await shoot(page, "done-light");
  await page.emulateMedia({ colorScheme: "dark" });
  await shoot(page, "done-dark");
  await page.setViewportSize({ width: 390, height: 800 });
  await shoot(page, "done-phone");

  const [{ cases, passed, failed, skipped }] = web.adapters;
  check((await state(page)) === "done", "the run came to its end");
  check(cases.length === web.run.planned && cases.length > 0, `all ${web.run.planned} cases ran in ${Math.round(web.adapters[0].seconds)} s`);
  const wrong = new Set(native.adapters[0].cases.filter((one) => one.status === "fail").map((one) => one.id));
  const own = cases.filter((one) => one.status === "fail" && !wrong.has(one.id)).length;
  check(own === 0, `${passed} passed, ${failed} failed, ${skipped} skipped; ${own} of the failures are the browser's own`);
  for (const one of cases.filter((one) => one.status === "fail").slice(0, 10)) console.log(`     ${one.id} [${one.kernel}]: ${one.reason}`);
  check((web.adapters[0].speed?.rows ?? []).length > 0, `${(web.adapters[0].speed?.rows ?? []).length} timings`);
  check(frozen < 2000, `the longest wait for a frame was ${Math.round(frozen)} ms`);
  const download = page.waitForEvent("download");
  await page.click("#download");
  const saved = JSON.parse(await readFile(await (await download).path(), "utf8"));
  check(saved.adapters[0].cases.length === cases.length, "the download holds the report");
  await browser.close();
  server.close();

  const compared = compare(web, native);
  check(compared.digests_compared > 0, `the bits of ${compared.digests_compared} cases were compared`);
  check(compared.differences.length === 0, `${compared.differences.length} differences from the native run`);
  for (const one of compared.differences.slice(0, 10)) console.log(`     ${JSON.stringify(one)}`);
  const out = {
    table: `quick, each ${every}th case, except ${except || "none"}`,
    cases: cases.length,
    passed,
    failed,
    skipped,
    adapter: web.browser,
    native: { name: native.adapters[0].name, driver: native.adapters[0].driver, backend: native.adapters[0].backend },
    ...compared,
    longest_frame_ms: Math.round(frozen),
    seconds: Math.round((Date.now() - started) / 1000),
    table_seconds: Math.round(web.adapters[0].seconds),
    faults,
  };
  await writeFile(outFile, `${JSON.stringify(out, null, 1)}\n`);
  await writeFile(join(dirname(outFile), "web-report.json"), `${JSON.stringify(web, null, 1)}\n`);
  const { same_kernel, same_error, farthest, digests_compared, digests_equal } = compared;
  console.log(`same kernel in ${same_kernel} of ${cases.length} cases, same error in ${same_error}; farthest ${farthest.difference.toPrecision(3)} of the bound (${farthest.id})`);
  console.log(`same bits in ${digests_equal} of ${digests_compared} cases`);
  console.log(`${outFile}: ${out.seconds} s in the browser`);
  process.exitCode = faults.length > 0 ? 1 : 0;
}

main().catch((error) => {
  console.error(`FAIL ${error.stack ?? error}`);
  process.exit(1);
});
