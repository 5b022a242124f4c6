"""What peers written in Python share; `protocol/src/lib.rs` says what the lines mean."""

import json
import os
import sys
import time

import numpy as np

LEAST_MS = 2.0
CHECKED_ROWS = 16
TOLERANCE = {"f32": 1e-4, "f16": 2e-1, "int8": 5e-2}


def serve(hello, prepare):
    """Answers the driver until it hangs up. `prepare(case)` gives a kernel's name, the
    activations that are in force, and a function that runs one matmul and waits for it."""
    # What libraries print to stdout must not stand among the replies.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**reply):
        print(json.dumps(reply), file=out)

    say(hello=hello)
    runs = []
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                kernel, activations, run = prepare(request["prepare"])
                timed(run, 1)
                runs.append((run, int(min(max(LEAST_MS / timed(run, 1), 1), 50))))
                say(ready={"kernel": kernel, "activations": activations})
            else:
                say(ms=timed(*runs[request["time"]]))
        except Exception as error:  # a peer that fails is a row that says why
            say(error=" ".join(str(error).split()) or repr(error))
    # Not every library survives its own destructors.
    os._exit(0)


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
