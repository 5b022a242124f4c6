// Tells which run of steps, with one scale, a step of a row belongs to.
// Requires: run_steps.
// Provides: Run, next_step.

struct Run {
    index: u32,
    place: u32, // of the step in it
}

// Counted along: a division costs more than all else in a step.
fn next_step(run: Run) -> Run {
    let place = run.place + 1u;
    let ends = place == run_steps();
    return Run(select(run.index, run.index + 1u, ends), select(place, 0u, ends));
}
