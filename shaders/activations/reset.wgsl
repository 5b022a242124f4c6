// Clears the range of X before it is gathered.
// Requires: nothing.
// Provides: main, one invocation.

@group(0) @binding(4) var<storage, read_write> ranges: array<u32>;

@compute @workgroup_size(1)
fn main() {
    ranges[0] = 0u;
    ranges[1] = 0u;
    ranges[2] = 0u;
}
