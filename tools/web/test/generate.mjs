// Gives a model to the page that generates text, in headless Chromium on SwiftShader, and compares text and
// tokens with those of a native run.
// usage: node generate.mjs PAGE_FOLDER CHROMIUM MODEL.gguf PROMPT NATIVE.json OUT.json [SHOTS_FOLDER]
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GPU, launch, open, serve, state } from "./browser.mjs";

const [folder, executablePath, model, prompt, nativeFile, outFile, shots] = process.argv.slice(2);

/** Minutes that a step may take: SwiftShader compiles kernels slowly. */
const PATIENCE = 10;

const faults = [];
const fault = (what) => faults.push(what);
const check = (holds, what) => {
  if (!holds) faults.push(what);
  console.log(`${holds ? "ok  " : "FAIL"} ${what}`);
};

const generation = (page) => page.evaluate(() => globalThis.lowbitGeneration());
const until = (page, ...states) =>
  page.waitForFunction((states) => states.includes(document.documentElement.dataset.state), states, { timeout: PATIENCE * 60_000 });

async function shoot(page, name) {
  if (shots) await page.screenshot({ path: join(shots, `generate-${name}.png`), fullPage: true });
}

/** The longest time without a frame until a state is reached: the page must not freeze. */
const longestFrame = (page, ...states) =>
  page.evaluate((states) => new Promise((done) => {
    let [last, most] = [performance.now(), 0];
    const tick = (now) => {
      most = Math.max(most, now - last);
      last = now;
      if (states.includes(document.documentElement.dataset.state)) done(most);
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }), states);

async function main() {
  if (shots) await mkdir(shots, { recursive: true });
  const native = JSON.parse(await readFile(nativeFile, "utf8"));
  const count = native.token_ids.length;
  const server = await serve(folder);
  const address = `http://127.0.0.1:${server.address().port}/generate.html`;
  const started = Date.now();
  const browser = await launch(executablePath, GPU);
  const page = await open(browser, address, { colorScheme: "light", fault });
  check((await state(page)) === "ready", "there is an adapter");

  // A file that is no model is refused by a sentence, and another can be chosen.
  const scratch = await mkdtemp(join(tmpdir(), "lowbit-web-"));
  const other = join(scratch, "other.gguf");
  await writeFile(other, "no model\n");
  await page.setInputFiles("#file", other);
  await until(page, "loaded", "broken");
  await rm(scratch, { recursive: true });
  const refusal = await page.locator("#notice").innerText();
  check((await state(page)) === "broken" && refusal.includes("no GGUF file"), `a file of text: “${refusal.replaceAll("\n", " ")}”`);

  await page.setInputFiles("#file", model);
  await until(page, "loading", "loaded");
  await until(page, "loaded", "broken");
  const { about, problem } = await generation(page);
  check((await state(page)) === "loaded", `the model is loaded${problem ? `: ${problem}` : ""}`);
  if (problem) throw new Error(problem);
  await shoot(page, "loaded");
  await page.fill("#prompt", prompt);
  if (await page.isEnabled("#chat")) await page.uncheck("#chat");
  await page.fill("#max-tokens", String(count));

  const run = async (...ends) => {
    await page.click("#run");
    const frozen = longestFrame(page, "done", "broken");
    await until(page, ...ends);
    return frozen;
  };
  const frozen = await run("done", "broken");
  const first = await generation(page);
  check((await state(page)) === "done", `the run came to its end${first.problem ? `: ${first.problem}` : ""}`);
  if (first.problem) throw new Error(first.problem);
  const { result, ids, pieces } = first.run;
  await shoot(page, "done");
  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 390, height: 800 });
  await shoot(page, "done-phone");
  console.log(`     browser: ${JSON.stringify(result.text)}`);
  console.log(`     native:  ${JSON.stringify(native.text)}`);
  check(result.text === native.text, "both texts are the same");
  check(JSON.stringify(result.token_ids) === JSON.stringify(native.token_ids), `and so are the ${count} tokens: ${result.token_ids.join(" ")}`);
  check(result.prompt_tokens === native.prompt_tokens, `and the ${result.prompt_tokens} tokens of the prompt`);
  check(ids.join() === result.token_ids.join() && result.text.startsWith(pieces.join("")), "tokens and text came as they were made");
  const shown = await page.locator("#text").textContent();
  check(shown === prompt + result.text, "the page shows the prompt and the text");
  check(frozen < 2000, `the longest wait for a frame was ${Math.round(frozen)} ms`);

  // Stopped in the middle; the same settings then give the same tokens again.
  await page.fill("#max-tokens", "200");
  await page.evaluate(() => { document.documentElement.dataset.state = "again"; });
  await page.click("#run");
  await page.waitForFunction(() => globalThis.lowbitGeneration().run.ids.length >= 2, null, { timeout: PATIENCE * 60_000 });
  await page.click("#stop");
  await until(page, "done", "broken");
  const stopped = (await generation(page)).run.result;
  const few = stopped?.token_ids ?? [];
  check(stopped?.ended === "stopped" && few.length < 200, `stopped after ${few.length} tokens`);
  check(few.slice(0, count).join() === result.token_ids.slice(0, few.length).join(), "which begin with the same");

  // More tokens than the model takes are refused, and the page goes on.
  await page.evaluate(() => { document.getElementById("max-tokens").removeAttribute("max"); });
  await page.fill("#max-tokens", String(about.context));
  await page.click("#run");
  await until(page, "done", "broken");
  const told = await page.locator("#notice").innerText();
  check((await state(page)) === "broken" && told.includes("make the prompt shorter"), `too many tokens: “${told.replaceAll("\n", " ")}”`);
  check(await page.locator("#run").isVisible(), "and the page goes on");
  await browser.close();
  server.close();

  const out = {
    model: about,
    prompt,
    browser: result,
    native,
    longest_frame_ms: Math.round(frozen),
    seconds: Math.round((Date.now() - started) / 1000),
    faults,
  };
  await writeFile(outFile, `${JSON.stringify(out, null, 1)}\n`);
  const rate = (value) => value.toPrecision(3);
  console.log(`browser: prompt ${rate(result.prompt_tokens_per_s)} tokens/s, then ${rate(result.decode_tokens_per_s)}; native: ${rate(native.prompt_tokens_per_s)}, then ${rate(native.decode_tokens_per_s)}`);
  console.log(`${outFile}: ${out.seconds} s in the browser`);
  process.exitCode = faults.length > 0 ? 1 : 0;
}

main().catch((error) => {
  console.error(`FAIL ${error.stack ?? error}`);
  process.exit(1);
});
