// A language model on a device of its own, off the page's thread.
// Takes {do: "open" | "generate" | "stop", …}, answers with {is: …}.
import init, { Generator, version } from "./lowbit_web.js";

let generator = null;
let stopped = false;

const tell = (is, more = {}) => postMessage({ is, ...more });

const tasks = {
  async open({ file }) {
    await init({ module_or_path: new URL("lowbit_web_bg.wasm", import.meta.url) });
    // Tensors are read one by one, so that the file need not fit into the module's memory.
    const reader = new FileReaderSync();
    globalThis.lowbitRead = (start, end) => new Uint8Array(reader.readAsArrayBuffer(file.slice(start, end)));
    globalThis.lowbitProgress = (done, all) => tell("progress", { done, all });
    generator = await Generator.open(file.name, file.size);
    tell("open", { version: version(), about: JSON.parse(generator.about()) });
  },

  async generate({ wanted }) {
    stopped = false;
    const each = (id, piece) => {
      tell("token", { id, piece });
      return !stopped;
    };
    const result = JSON.parse(await generator.generate(JSON.stringify(wanted), each));
    tell("done", { result });
  },
};

onmessage = async ({ data }) => {
  if (data.do === "stop") {
    stopped = true;
    return;
  }
  try {
    await tasks[data.do](data);
  } catch (error) {
    tell("broken", { during: data.do, message: error?.message ?? String(error), lost: generator?.lost() });
  }
};
