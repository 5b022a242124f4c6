// What the pages share: elements, and figures as text.

export const at = (id) => document.getElementById(id);
export const show = (id, yes = true) => { at(id).hidden = !yes; };

/** An element with text and children; text is never markup. */
export function make(tag, { text, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

export function notice(title, lines = []) {
  const list = make("ul", {}, ...lines.map((text) => make("li", { text })));
  at("notice").replaceChildren(make("b", { text: title }), list);
  show("notice");
}

export function facts(list, entries) {
  list.replaceChildren(...entries.flatMap(([term, text]) => [make("dt", { text: term }), make("dd", { text })]));
}

export const plural = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

export function time(seconds) {
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export function bytes(count) {
  const mebibytes = count / 2 ** 20;
  return mebibytes < 1024 ? `${Math.round(mebibytes)} MiB` : `${(mebibytes / 1024).toFixed(2)} GiB`;
}
