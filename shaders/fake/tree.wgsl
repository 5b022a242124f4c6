// Sums for the gradients of a scale and a zero point over the lanes of a team.
// Requires: const WORKGROUP.
// Provides: Sums, merged, team_sums.
// Workgroup memory: WORKGROUP · 12 bytes.
// The order of additions is fixed (the columns of a lane, then a tree), so that a second run gives
// the same bits.

// `outside` sums dy beyond the codes; `broken` makes NaN of sums with an x that is NaN or a dy that
// is not finite.
struct Sums {
    scale: f32,
    outside: f32,
    broken: u32,
}

var<workgroup> scale_sums: array<f32, WORKGROUP>;
var<workgroup> outside_sums: array<f32, WORKGROUP>;
var<workgroup> broken_sums: array<u32, WORKGROUP>;

fn merged(a: Sums, b: Sums) -> Sums {
    return Sums(a.scale + b.scale, a.outside + b.outside, a.broken | b.broken);
}

// Returns the sums of all lanes of a team, to its first lane.
fn team_sums(sums: Sums, team: u32, local: u32) -> Sums {
    // Other lanes may still read what this one had put there.
    workgroupBarrier();
    scale_sums[local] = sums.scale;
    outside_sums[local] = sums.outside;
    broken_sums[local] = sums.broken;
    for (var width = team / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (local % team < width) {
            scale_sums[local] += scale_sums[local + width];
            outside_sums[local] += outside_sums[local + width];
            broken_sums[local] |= broken_sums[local + width];
        }
    }
    return Sums(scale_sums[local], outside_sums[local], broken_sums[local]);
}
