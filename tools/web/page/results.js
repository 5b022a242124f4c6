// What came of the cases so far: sums by op and weights, by kernel, and the report.

const STATUS = { pass: "passed", fail: "failed", skip: "skipped" };

export class Results {
  /** @param plan what `plan()` of the library says */
  constructor(plan) {
    const indices = plan.groups.flat().sort((a, b) => a - b);
    this.planned = indices.map((index) => ({ index, ...plan.cases[index] }));
    this.reports = new Map();
    this.counts = { passed: 0, failed: 0, skipped: 0 };
    this.cells = new Map();
    this.kernels = new Map();
    for (const one of this.planned) this.cell(one).cases += 1;
  }

  static column({ weights, sparsity }) {
    if (weights === "none") return "X alone";
    return sparsity === "dense" ? weights : `${weights} ${sparsity}`;
  }

  cell(one) {
    const key = `${one.op}\n${Results.column(one)}`;
    if (!this.cells.has(key)) this.cells.set(key, { cases: 0, done: 0, passed: 0, failed: 0, skipped: 0, worst: 0 });
    return this.cells.get(key);
  }

  add(index, report) {
    this.reports.set(index, report);
    const what = STATUS[report.status];
    this.counts[what] += 1;
    const error = report.error_over_bound;
    const kernel = report.kernel || "none";
    if (!this.kernels.has(kernel)) this.kernels.set(kernel, { cases: 0, passed: 0, failed: 0, skipped: 0, worst: null });
    for (const sum of [this.cell(report), this.kernels.get(kernel)]) {
      if ("done" in sum) sum.done += 1;
      else sum.cases += 1;
      sum[what] += 1;
      if (typeof error === "number") sum.worst = Math.max(sum.worst ?? 0, error);
    }
  }

  get total() {
    return this.planned.length;
  }

  get done() {
    return this.reports.size;
  }

  get failures() {
    return [...this.reports.values()].filter((report) => report.status === "fail");
  }

  ops() {
    return [...new Set(this.planned.map((one) => one.op))];
  }

  columns() {
    const order = ["f32", "f16", "int16", "int8", "int4"].flatMap((w) => [w, `${w} 2:4`]);
    const there = new Set(this.planned.map(Results.column));
    return [...order, "X alone"].filter((column) => there.has(column));
  }

  at(op, column) {
    return this.cells.get(`${op}\n${column}`);
  }

  /** As `lowbit verify --json` writes it, in the order of the table, and what only a browser knows. */
  report({ device, about, version, extent, seconds, speed }) {
    const cases = [...this.reports.entries()].sort(([a], [b]) => a - b).map(([, report]) => report);
    const timed = speed.timings.length > 0 && speed.limits;
    return {
      version,
      adapters: [
        {
          name: about?.name || device.name,
          driver: "",
          backend: about?.backend ?? "webgpu",
          features: about?.features ?? [],
          seconds: seconds ?? 0,
          ...(timed ? { speed: { limits: speed.limits, rows: speed.timings } } : {}),
          cases,
          ...this.counts,
        },
      ],
      browser: { ...device, kernels: about },
      run: { extent, planned: this.total, date: new Date().toISOString() },
    };
  }
}
