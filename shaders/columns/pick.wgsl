// Adds eight bits to the threshold of a block of columns, by the counts of these bits, and clears the counts.
// Requires: lib/dispatch, columns/selection.
// Provides: main, one workgroup.
//
// Memory:
//   masks  the masks, and the state after them

@group(0) @binding(3) var<storage, read_write> masks: array<u32>;

var<workgroup> sums: array<u32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let writes = workgroup_index(group, count) == 0u;
    let bins_at = p.state_at + STATE + 4u * local;
    var own: array<u32, 4>;
    var sum = 0u;
    for (var i = 0u; i < 4u; i += 1u) {
        own[i] = masks[bins_at + i];
        sum += own[i];
    }
    sums[local] = sum;
    var score = masks[p.state_at];
    var place = masks[p.state_at + 1u];
    let left = masks[p.state_at + 2u];
    let searches = p.stage != BEGIN && masks[p.state_at + 3u] == 0u;
    // All lanes have read what is written below.
    workgroupBarrier();
    storageBarrier();
    var before = 0u;
    for (var i = 0u; i < local; i += 1u) {
        before += sums[i];
    }
    for (var i = 0u; i < 4u; i += 1u) {
        if (writes) {
            masks[bins_at + i] = 0u;
        }
        // The last weight that is pruned has these eight bits.
        let here = before < left && left - before <= own[i];
        if (writes && searches && here) {
            let bits = (4u * local + i) << p.shift;
            let all = left - before == own[i];
            let lower = (1u << p.shift) - 1u;
            if (p.stage == SCORES) {
                score |= bits;
                if (all) {
                    score |= lower;
                    place = 0xffffffffu;
                }
            } else {
                place |= bits;
                if (all) {
                    place += lower + 1u;
                }
            }
            masks[p.state_at] = score;
            masks[p.state_at + 1u] = place;
            masks[p.state_at + 2u] = left - before;
            masks[p.state_at + 3u] = select(0u, 1u, all);
        }
        before += own[i];
    }
    if (writes && p.stage == BEGIN && local == 0u) {
        masks[p.state_at] = 0u;
        masks[p.state_at + 1u] = 0u;
        masks[p.state_at + 2u] = p.count;
        masks[p.state_at + 3u] = select(0u, 1u, p.count == 0u);
    }
}
