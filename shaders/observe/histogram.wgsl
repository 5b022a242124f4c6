// Counts values in bins whose width is a power of two, and sums |x|. It runs after observe/ranges over
// all of X.
// Requires: observe/tile.
// Provides: main, one workgroup a tile.
// Workgroup memory: 256 bytes.
//
// If e is the largest biased exponent of the channel, bins reach up to 2^(max(e, least) − 126), and
// |x| is summed in units of 2^(e − 150), rounded down, in 64 bits. Both are shifts of the
// significand. If any value is not finite, nothing is counted.
//
// Why bin 0 is counted separately: after a ReLU, half of X falls into it, and atomics on one word
// are executed one after the other.
// Caller: observe_ranges runs before it, over all of X.

var<workgroup> sums: array<atomic<u32>, 32>;
var<workgroup> zeros: array<atomic<u32>, 32>;

fn exponent_of(channel: u32) -> u32 {
    let low = magnitude_of_key(atomicLoad(&y[min_at(channel)]));
    let high = magnitude_of_key(atomicLoad(&y[max_at(channel)]));
    return max(max(low, high) >> 23u, 1u);
}

// If two adds make the low word wrap, each sees its own wrap, and no other add sees it.
fn add_wide(at: u32, value: u32) {
    let before = atomicAdd(&y[at], value);
    if (before + value < before) {
        atomicAdd(&y[at + 1u], 1u);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let tile = tile_of(group, count, local);
    if (local < 32u) {
        atomicStore(&sums[local], 0u);
        atomicStore(&zeros[local], 0u);
    }
    workgroupBarrier();
    let columns = columns_of(tile.column);
    var top: vec4<u32>;
    var above: vec4<u32>;
    for (var i = 0u; i < 4u; i += 1u) {
        // Columns past k read as 0; they go the way of the last, uncounted.
        let channel = channel_of(min(columns[i], p.k - 1u));
        top[i] = exponent_of(channel);
        above[i] = counts_at(channel) + p.bins_2 / 2u;
    }
    let bin_shift = max(top, vec4<u32>(p.least)) + vec4<u32>(24u - p.bins_log);
    var sum = vec4<u32>(0u);
    var near = vec4<u32>(0u);
    let end = select(0u, tile.end, atomicLoad(&y[p.y_offset + 2u]) == NONE);
    for (var row = tile.first; row < end; row += ROW_LANES) {
        let bits = bits_at(row, tile.column);
        let exponent = (bits >> vec4<u32>(23u)) & vec4<u32>(0xffu);
        let zero = exponent == vec4<u32>(0u);
        let significand =
            select((bits & vec4<u32>(0x007fffffu)) | vec4<u32>(0x00800000u), vec4<u32>(0u), zero);
        sum += significand >> min(top - exponent, vec4<u32>(31u));
        let bin = significand >> min(bin_shift - exponent, vec4<u32>(31u));
        let negative = (bits >> vec4<u32>(31u)) * select(vec4<u32>(1u), vec4<u32>(0u), zero);
        let is_near = (bin | negative) == vec4<u32>(0u);
        near += select(vec4<u32>(0u), vec4<u32>(1u), is_near);
        if (p.bins_2 > 0u) {
            let at = select(above + bin, above - vec4<u32>(1u) - bin, negative == vec4<u32>(1u));
            for (var i = 0u; i < 4u; i += 1u) {
                if (!is_near[i]) {
                    atomicAdd(&y[at[i]], 1u);
                }
            }
        }
    }
    for (var i = 0u; i < 4u; i += 1u) {
        atomicAdd(&sums[4u * (local % ROW_LANES) + i], sum[i]);
        atomicAdd(&zeros[4u * (local % ROW_LANES) + i], near[i]);
    }
    workgroupBarrier();
    let column = 32u * tile.block + local;
    if (local < 32u && column < p.k) {
        let channel = channel_of(column);
        add_wide(sum_at(channel), atomicLoad(&sums[local]));
        if (p.bins_2 > 0u) {
            atomicAdd(&y[counts_at(channel) + p.bins_2 / 2u], atomicLoad(&zeros[local]));
        }
    }
}
