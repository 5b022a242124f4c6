// Put before a shader that is traced: the log, and the functions that `rewrite` calls.

struct LowbitLog {
    // Records that were wanted, also those past the end of the log.
    count: atomic<u32>,
    // One workgroup in so many is traced.
    every: u32,
    records: array<vec2<u32>>,
}

@group(1) @binding(0) var<storage, read_write> lowbit_log: LowbitLog;

// The number among the traced workgroups, times 1024, plus that of the invocation.
var<private> lowbit_lane: u32;

const LOWBIT_UNTRACED = 0xffffffffu;

fn lowbit_begin(group: vec3<u32>, count: vec3<u32>, local: u32) {
    let index = group.x + count.x * (group.y + count.y * group.z);
    let slot = index / lowbit_log.every;
    let traced = index % lowbit_log.every == 0u && slot < 64u;
    lowbit_lane = select(LOWBIT_UNTRACED, slot * 1024u + local, traced);
}

// A load or a store: its place in the shader, and the first byte.
fn lowbit_access(site: u32, at: u32) {
    if (lowbit_lane != LOWBIT_UNTRACED) {
        let record = atomicAdd(&lowbit_log.count, 1u);
        if (record < arrayLength(&lowbit_log.records)) {
            lowbit_log.records[record] = vec2<u32>(site << 16u | lowbit_lane, at);
        }
    }
}
