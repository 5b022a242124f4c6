// Bars of how fast weights are gone through, a group a number of rows of X.

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** A figure with three digits. */
export const figure = (value) => {
  if (!Number.isFinite(value)) return "–";
  const digits = 2 - Math.floor(Math.log10(Math.max(Math.abs(value), 1e-3)));
  return value.toFixed(Math.min(Math.max(digits, 0), 4));
};

/** What a timing is called. */
export const label = ({ weights, activations }) =>
  `${weights}${activations.startsWith("int8") ? " × int8" : ""}`;

/** The chart as SVG text, as wide as there is room: a bar a timing, its figures beside or above it. */
export function chart(timings, width) {
  const narrow = width < 560;
  const [left, right, bar] = narrow ? [0, 0, 10] : [150, 265, 18];
  const rows = [];
  let y = 0;
  for (const m of [...new Set(timings.map((t) => t.rows))]) {
    const group = timings.filter((t) => t.rows === m);
    const [{ n, k }] = group;
    const most = Math.max(...group.map((t) => t.operations_per_second));
    y += 18;
    const title = `${m} ${m === 1 ? "row" : "rows"} of X, weights ${n} × ${k}`;
    rows.push(`<text class="group" x="0" y="${y}">${title}</text>`);
    y += 8;
    for (const t of group) {
      const long = Math.max(2, ((width - left - right) * t.operations_per_second) / most);
      const kind = t.activations.startsWith("int8") ? "byte" : "float";
      const [flops, bytes] = [t.operations_per_second, t.weight_bytes_per_second];
      const text = [`${figure(flops / 1e9)} GFLOP/s`, `${figure(bytes / 1e9)} GB/s`, `${figure(t.ms)} ms`].join(" · ");
      if (narrow) {
        y += 12;
        rows.push(`<text class="soft" x="0" y="${y}">${escape(label(t))}</text>`);
        rows.push(`<text x="${width}" y="${y}" text-anchor="end">${text}</text>`);
        y += 4;
      } else {
        rows.push(`<text class="soft" x="${left - 8}" y="${y + 13}" text-anchor="end">${escape(label(t))}</text>`);
        rows.push(`<text x="${(left + long + 6).toFixed(1)}" y="${y + 13}">${text}</text>`);
      }
      rows.push(
        `<rect class="${kind}" x="${left}" y="${y}" width="${long.toFixed(1)}" height="${bar}" rx="3">` +
          `<title>${escape(t.kernel)}</title></rect>`,
      );
      y += bar + 5;
    }
    y += 8;
  }
  const what = "Speed of each format by rows of X";
  return `<svg viewBox="0 0 ${width} ${y}" role="img" aria-label="${what}">${rows.join("")}</svg>`;
}
