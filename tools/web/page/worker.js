// A device of its own, off the page's thread: the oracle computes for seconds.
// Takes {do: "open" | "run" | "time" | "stop", …}, answers with {is: …}.
import init, { Session, plan, version } from "./lowbit_web.js";

let session = null;
let quick = true;
let stopped = false;

const tell = (is, more = {}) => postMessage({ is, ...more });

const tasks = {
  async open(message) {
    await init({ module_or_path: new URL("lowbit_web_bg.wasm", import.meta.url) });
    quick = message.quick;
    session = await Session.open(quick);
    const { wanted } = message;
    const first = wanted ? { plan: JSON.parse(plan(quick, wanted.filter, wanted.except, wanted.every)) } : {};
    tell("open", { version: version(), about: JSON.parse(session.about()), timings: session.timings(), ...first });
  },

  async run({ indices }) {
    for (const index of indices) {
      if (stopped) break;
      tell("start", { index });
      const report = JSON.parse(await session.run(index));
      const lost = session.lost();
      tell("case", { index, report, lost });
      // What comes after runs on a new device.
      if (lost !== undefined) {
        session.free();
        session = await Session.open(quick);
      }
    }
    tell("idle");
  },

  async time({ index }) {
    const timing = JSON.parse(await session.time(index));
    tell("time", { index, timing, limits: JSON.parse(session.limits()) });
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
    tell("broken", { during: data.do, index: data.index, message: error?.message ?? String(error) });
  }
};
