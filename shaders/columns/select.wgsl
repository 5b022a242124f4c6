// Counts the weights of a block of columns by eight bits of their scores or places, or writes which of them
// are kept. A lane has 32 columns of a row, a word of the masks.
// Requires: lib/dispatch, columns/selection.
// Provides: main, one workgroup for 64 rows of 32 columns.
//
// Memory:
//   u     [k, k]: the upper triangle U with H⁻¹ = UᵀU
//   w     [k, rows]: what is left of the columns
//   masks [⌈k/32⌉, rows]: a bit for each column, 1 where the weight is kept; then the state
//
// One kernel counts and writes, so that a quotient, which may be rounded either way, is the same in all
// stages: as many weights are pruned as were counted.

@group(0) @binding(3) var<storage, read> u: array<f32>;
@group(0) @binding(4) var<storage, read> w: array<f32>;
@group(0) @binding(5) var<storage, read_write> masks: array<atomic<u32>>;

var<workgroup> bins: array<atomic<u32>, 256>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let across = (p.rows + 63u) / 64u;
    let index = workgroup_index(group, count);
    let first = 32u * (index / across);
    let row = 64u * (index % across) + local;
    for (var i = local; i < 256u; i += 64u) {
        atomicStore(&bins[i], 0u);
    }
    workgroupBarrier();
    let score_found = atomicLoad(&masks[p.state_at]);
    let place_found = atomicLoad(&masks[p.state_at + 1u]);
    let counts = p.stage != MASK && row < p.n && atomicLoad(&masks[p.state_at + 3u]) == 0u;
    let writes = p.stage == MASK && row < p.rows && first < p.width;
    var columns = 0u;
    if (first < p.width && (counts || writes)) {
        columns = min(32u, p.width - first);
    }
    var kept = 0u;
    for (var c = 0u; c < columns; c += 1u) {
        let at = p.first + first + c;
        let score = bitcast<u32>(w[at * p.rows + row] / u[at * (p.k + 1u)]) << 1u;
        let place = p.n * p.width - 1u - (row * p.width + first + c);
        if (writes) {
            let below = score < score_found || (score == score_found && place < place_found);
            kept |= select(1u << c, 0u, below && row < p.n);
        } else {
            let key = select(score, place, p.stage == PLACES);
            let found = select(score_found, place_found, p.stage == PLACES);
            // Two shifts, because the sum of both may be 32.
            let agrees = ((key ^ found) >> p.shift) >> 8u == 0u;
            if (agrees && (p.stage == SCORES || score == score_found)) {
                atomicAdd(&bins[(key >> p.shift) & 0xffu], 1u);
            }
        }
    }
    if (writes) {
        atomicStore(&masks[(p.first + first) / 32u * p.rows + row], kept);
    }
    workgroupBarrier();
    for (var i = local; i < 256u; i += 64u) {
        let found = atomicLoad(&bins[i]);
        if (found > 0u) {
            atomicAdd(&masks[p.state_at + STATE + i], found);
        }
    }
}
