// Computes the scale and zero point of all of X from its range.
// Requires: fake/range.
// Implements: fake_scales.
// Provides: main, one invocation.
// It leaves the range empty for the next recording, so that no other dispatch is needed to clear
// it.

@group(0) @binding(4) var<storage, read_write> ranges: array<u32>;
@group(0) @binding(5) var<storage, read_write> scales: array<u32>;
@group(0) @binding(6) var<storage, read_write> zeros: array<u32>;

@compute @workgroup_size(1)
fn main() {
    put_scheme(0u, Range(ranges[0], ranges[1]));
    ranges[0] = 0u;
    ranges[1] = 0u;
}
