// Goes through a block of columns of W, [k, n], in order: it rounds or prunes a column, and moves the error that
// this makes into the columns after it. A lane has some rows of W.
// Requires: lib/dispatch, columns/params, rows, const SUB, const ASYMMETRIC, const GIVEN, const FLOATS,
// const HALF, const OF, const PRUNED, const MASKED.
// Provides: main.
//
// Memory, where rows of lanes lie side by side, `stride` of them:
//   u      [k, k]: the upper triangle U with H⁻¹ = UᵀU
//   w      [k]: what is left of the columns. A column that was taken holds e = (w − q)/U_ii instead
//   out    [⌈k/4⌉]: four codes of 8 bits; of floats [k]: the bits of q
//   scales [groups] scales, then [groups] zero points
//   masks  [⌈k/32⌉]: a bit for each column, 1 where the weight is kept
//   order  [k]: the column of W at each place. Given scales are those of groups of these columns
//   status two words: scales that are no normal numbers of their type, and weights that are not finite
//
// The columns of a block are taken SUB at a time. Their errors are known when the rest of the block is
// updated, so that the rest passes through memory once for SUB columns.
// Each row prunes PRUNED of every OF columns, those with the least w²/U_ii². OF divides SUB; nothing is pruned
// if PRUNED is 0. If MASKED, the masks of the block say what is pruned: they were written before it.

@group(0) @binding(3) var<storage, read> u: array<f32>;
@group(0) @binding(4) var<storage, read_write> w: array<F>;
@group(0) @binding(5) var<storage, read_write> out: array<U>;
@group(0) @binding(6) var<storage, read_write> scales: array<F>;
@group(0) @binding(7) var<storage, read_write> masks: array<U>;
@group(0) @binding(8) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(9) var<storage, read> order: array<u32>;

struct Affine {
    scale: F,
    zero: F,
}

// The scale and zero point of the group that begins at a column, by the rules of compress/mod.rs. Weights that
// the masks prune count as 0, as far as the masks are known.
fn affine_of(column: u32, lane: u32) -> Affine {
    var low = F(0.0);
    var high = F(0.0);
    let end = min(column + p.group, p.k);
    for (var j = column; j < end; j += 1u) {
        var value = w[j * p.stride + lane];
        if (MASKED && j < p.first + p.width) {
            let kept = (masks[j / 32u * p.stride + lane] >> U(j % 32u)) & U(1u);
            value = select(F(0.0), value, kept == U(1u));
        }
        low = max(low, -value);
        high = max(high, value);
    }
    var extent = max(low, high);
    if (ASYMMETRIC) {
        extent = low + high;
    }
    let empty = extent == F(0.0);
    var scale = extent / p.steps;
    if (HALF) {
        scale = half_of(scale);
    }
    scale = select(scale, F(1.0), empty);
    let bits = bitcast<U>(scale);
    // f16 has exponents from −14 on; what rounds to infinity is one.
    let least = select(0x00800000u, 0x38800000u, HALF);
    if (any(bits < U(least)) || any(bits >= U(0x7f800000u))) {
        atomicAdd(&status[p.status_at], 1u);
    }
    var zero = F(p.zero);
    if (ASYMMETRIC) {
        let steps = clamp(round(low / scale), F(0.0), F(p.high - p.low));
        zero = select(steps, F(0.0), empty) + F(p.low);
    }
    return Affine(scale, zero);
}

fn stored(number: u32, lane: u32) -> Affine {
    return Affine(
        scales[number * p.stride + lane],
        scales[(p.groups + number) * p.stride + lane],
    );
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = workgroup_index(group, count) * 64u + local;
    if (lane >= p.stride) {
        return;
    }
    var affine = Affine(F(1.0), F(p.zero));
    var kept = U(0u);
    for (var s = 0u; s < p.width; s += SUB) {
        let column = p.first + s;
        let own = min(SUB, p.width - s);
        if (!FLOATS) {
            let number = column / p.group;
            if (!GIVEN && column % p.group == 0u) {
                affine = affine_of(column, lane);
                scales[number * p.stride + lane] = affine.scale;
                scales[(p.groups + number) * p.stride + lane] = affine.zero;
            } else if (!GIVEN && s == 0u) {
                affine = stored(number, lane);
            }
        }
        var x: array<F, SUB>;
        var e: array<F, SUB>;
        for (var c = 0u; c < SUB; c += 1u) {
            x[c] = w[min(column + c, p.k - 1u) * p.stride + lane];
        }
        if (PRUNED > 0u && column % 32u == 0u) {
            kept = U(0u);
        }
        // Which of the columns are pruned.
        var cut = U(0u);
        if (MASKED) {
            cut = ~(masks[column / 32u * p.stride + lane] >> U(column % 32u));
        }
        var codes = U(0u);
        for (var c = 0u; c < SUB; c += 1u) {
            let at = min(column + c, p.k - 1u);
            let here = c < own;
            if (PRUNED > 0u && c % OF == 0u) {
                var score: array<F, OF>;
                for (var i = 0u; i < OF; i += 1u) {
                    let d = u[min(column + c + i, p.k - 1u) * (p.k + 1u)];
                    let t = x[c + i] / d;
                    // Columns past the last go first.
                    score[i] = select(F(-1.0), t * t, c + i < own);
                }
                for (var i = 0u; i < OF; i += 1u) {
                    // How many are pruned before this one. Of equal ones the lowest stays.
                    var before = U(0u);
                    for (var j = 0u; j < OF; j += 1u) {
                        let less = select(score[j] < score[i], score[j] <= score[i], j > i);
                        before += select(U(0u), U(1u), less);
                    }
                    cut |= select(U(0u), U(1u << (c + i)), before < U(PRUNED));
                }
            }
            var q = x[c];
            var code = U(0u);
            let gone = (cut & U(1u << c)) != U(0u);
            if (GIVEN) {
                affine = stored(order[p.order_at + at] / p.group, lane);
            }
            if (!FLOATS) {
                var t = clamp(round(q / affine.scale) + affine.zero, F(p.low), F(p.high));
                t = select(t, affine.zero, gone);
                code = bits_of(t) & U(0xffu);
                q = (t - affine.zero) * affine.scale;
            }
            q = select(q, F(0.0), gone);
            if ((PRUNED > 0u || FLOATS) && here) {
                kept |= select(U(1u << ((column + c) % 32u)), U(0u), gone);
            }
            let error = (x[c] - q) / u[at * (p.k + 1u)];
            e[c] = select(F(0.0), error, here);
            for (var i = c + 1u; i < SUB; i += 1u) {
                x[i] = fma(-e[c], F(u[at * p.k + min(column + i, p.k - 1u)]), x[i]);
            }
            if (FLOATS) {
                if (here) {
                    out[at * p.stride + lane] = bitcast<U>(q);
                }
            } else {
                codes |= code << U(8u * (c % 4u));
                if (c % 4u == 3u) {
                    // The result ends after a whole number of eight columns, and a pattern may be of 16.
                    if (column + c < 8u * ((p.k + 7u) / 8u)) {
                        out[(column + c) / 4u * p.stride + lane] = codes;
                    }
                    codes = U(0u);
                }
            }
            if (here) {
                w[at * p.stride + lane] = e[c];
            }
            let exponent = bitcast<U>(e[c]) & U(0x7f800000u);
            if (any(exponent == U(0x7f800000u))) {
                atomicAdd(&status[p.status_at + 1u], 1u);
            }
        }
        if (PRUNED > 0u) {
            masks[column / 32u * p.stride + lane] = kept;
        }
        for (var j = s + SUB; j < p.width; j += 1u) {
            let to = p.first + j;
            var rest = w[to * p.stride + lane];
            for (var c = 0u; c < SUB; c += 1u) {
                rest = fma(-e[c], F(u[(column + c) * p.k + to]), rest);
            }
            w[to * p.stride + lane] = rest;
        }
    }
}
