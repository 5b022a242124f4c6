// Headless Chromium, and a server of static files for it. playwright-core is looked for in $PLAYWRIGHT.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";

const { chromium } = createRequire(join(process.env.PLAYWRIGHT, "/"))("playwright-core");

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

export function serve(folder) {
  const server = createServer(async ({ url }, response) => {
    const path = normalize(decodeURIComponent(new URL(url, "http://x").pathname));
    try {
      const body = await readFile(join(folder, path.endsWith("/") ? `${path}index.html` : path));
      response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "text/html" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  return new Promise((done) => server.listen(0, "127.0.0.1", () => done(server)));
}

// Nothing of Chromium's own is to go over the network.
const QUIET = [
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-default-apps",
  "--disable-domain-reliability",
  "--disable-sync",
  "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication,CertificateTransparencyComponentUpdater",
  "--metrics-recording-only",
  "--no-first-run",
  "--no-pings",
];
export const GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--disable-gpu-sandbox"];

export const launch = (executablePath, flags) =>
  chromium.launch({ executablePath, headless: false, args: ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", ...QUIET, ...flags] });

/** Opens a page and waits until it knows its state. `fault` is called with what the page throws. */
export async function open(browser, address, { colorScheme, script, fault }) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 900 }, colorScheme });
  const page = await context.newPage();
  if (script) await page.addInitScript(script);
  page.on("pageerror", (error) => fault(`the page threw: ${error.message}`));
  page.on("console", (message) => message.type() === "error" && console.log(`console: ${message.text()}`));
  await page.goto(address);
  await page.waitForFunction(() => document.documentElement.dataset.state, null, { timeout: 60_000 });
  return page;
}

export const state = (page) => page.evaluate(() => document.documentElement.dataset.state);
