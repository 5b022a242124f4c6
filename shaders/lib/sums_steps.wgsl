// The sums of one row of X with two or four rows of W, step by step.
// Requires: lib/matmul, lib/quad_step, lib/run, step, part, decoder, scale, const COLUMNS, const GROUPED.
// Implements: row_sums.
// Provides: row_sums.
// Why one loop: a second loop around it, over groups, cost more a group than reading a scale a step.

fn zeros4(r0: Row, r1: Row, r2: Row, r3: Row, run: u32) -> vec4<f32> {
    let first = run_zeros(r0, r1, run);
    if (COLUMNS == 4u) {
        return vec4<f32>(first, run_zeros(r2, r3, run));
    }
    return vec4<f32>(first, first);
}

fn scales4(r0: Row, r1: Row, r2: Row, r3: Row, run: u32) -> vec4<f32> {
    let first = run_scales(r0, r1, run);
    if (COLUMNS == 4u) {
        return vec4<f32>(first, run_scales(r2, r3, run));
    }
    return vec4<f32>(first, first);
}

fn row_sums(r0: Row, r1: Row, r2: Row, r3: Row, x_at: u32, lane: u32) -> vec4<f32> {
    let steps = p.blocks * (32u / STEP);

    var sums = vec4<f32>(0.0);
    var part = vec4<f32>(0.0); // of a run
    var z = zeros4(r0, r1, r2, r3, 0u);
    var run = Run(0u, 0u);
    for (var b = 0u; b < steps; b += 1u) {
        if (GROUPED && run.place == 0u) {
            z = zeros4(r0, r1, r2, r3, run.index);
            part = vec4<f32>(0.0);
        }
        let x = load_part(x_at, b, lane);
        var w = load_blocks(r0, r1, b, 0u);
        var v = w;
        if (COLUMNS == 4u) {
            v = load_blocks(r2, r3, b, 0u);
        }
        part = quad_step(part, x, 0u, z, w, v);
        if (QUADS == 8u) {
            part = quad_step(part, x, 1u, z, w, v);
            if (PIECES == 4u) {
                w = load_blocks(r0, r1, b, 1u);
                if (COLUMNS == 4u) {
                    v = load_blocks(r2, r3, b, 1u);
                }
            }
            part = quad_step(part, x, 2u, z, w, v);
            part = quad_step(part, x, 3u, z, w, v);
            if (PIECES >= 2u) {
                w = load_blocks(r0, r1, b, PIECES / 2u);
                if (COLUMNS == 4u) {
                    v = load_blocks(r2, r3, b, PIECES / 2u);
                }
            }
            part = quad_step(part, x, 4u, z, w, v);
            part = quad_step(part, x, 5u, z, w, v);
            if (PIECES == 4u) {
                w = load_blocks(r0, r1, b, 3u);
                if (COLUMNS == 4u) {
                    v = load_blocks(r2, r3, b, 3u);
                }
            }
            part = quad_step(part, x, 6u, z, w, v);
            part = quad_step(part, x, 7u, z, w, v);
        }
        if (GROUPED) {
            let next = next_step(run);
            if (next.place == 0u || b + 1u == steps) {
                sums += part * scales4(r0, r1, r2, r3, run.index);
            }
            run = next;
        }
    }
    if (!GROUPED) {
        sums = part * scales4(r0, r1, r2, r3, 0u);
    }
    return sums;
}
