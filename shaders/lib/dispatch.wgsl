// The number of rows that a recording passes to a dispatch, in two digits, and the number of the
// workgroup.
// Requires: const M_TABLE.
// Provides: recorded_count, workgroup_index.
// The digits lie in a table of numbers that all dispatches share (Kernels::m_offsets), so that
// recording writes nothing.

struct Digit {
    value: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(1) var<uniform> count_low: Digit;
@group(0) @binding(2) var<uniform> count_high: Digit;

fn recorded_count() -> u32 {
    return count_high.value * M_TABLE + count_low.value;
}

// Grids longer than one dimension allows are folded into three.
fn workgroup_index(group: vec3<u32>, count: vec3<u32>) -> u32 {
    return group.x + count.x * (group.y + count.y * group.z);
}
