"""What peers written in Python share; `protocol/src/lib.rs` says what the lines mean."""

import time

import numpy as np

from conversation import converse

LEAST_MS = 2.0
CHECKED_ROWS = 16
TOLERANCE = {"f32": 1e-4, "f16": 2e-1, "int8": 5e-2}


def serve(hello, prepare):
    """Answers the driver until it hangs up. `prepare(case)` gives a kernel's name, the
    activations that are in force, and a function that runs one matmul and waits for it."""
    runs = []

    def answer(request):
        if "prepare" not in request:
            return {"ms": timed(*runs[request["time"]])}
        kernel, activations, run = prepare(request["prepare"])
        timed(run, 1)
        runs.append((run, int(min(max(LEAST_MS / timed(run, 1), 1), 50))))
        return {"ready": {"kernel": kernel, "activations": activations}}

    converse(hello, answer)


def timed(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) * 1e3 / calls


def check(case, activations, x, w, y):
    """Compares Y with X · Wᵀ in f64, W `[n, k]`."""
    rows = np.arange(case["m"] - 1, -1, -(-(-case["m"] // CHECKED_ROWS)))
    exact = x[rows].astype(np.float64) @ w.T.astype(np.float64)
    off = np.abs(y[rows] - exact).max() / np.sqrt((exact**2).mean())
    # NaN is no smaller than anything.
    if not off <= TOLERANCE[activations]:
        raise ValueError(
            f"wrong result: off by {off:.1e} of its root mean square,"
            f" {TOLERANCE[activations]:.0e} allowed"
        )
