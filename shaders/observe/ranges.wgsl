// Finds min and max of each column or of all of X, the number of NaN and infinities, and the index
// of the first of them.
// Requires: observe/tile.
// Provides: main, one workgroup a tile.
// Workgroup memory: 256 bytes.
// If any value is not finite, min and max have no meaning.
// Caller: observe_reset runs before it.

var<workgroup> lows: array<atomic<u32>, 32>;
var<workgroup> highs: array<atomic<u32>, 32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let tile = tile_of(group, count, local);
    if (local < 32u) {
        atomicStore(&lows[local], NONE);
        atomicStore(&highs[local], 0u);
    }
    workgroupBarrier();
    let columns = columns_of(tile.column);
    let inside = columns < vec4<u32>(p.k);
    var low = vec4<u32>(NONE);
    var high = vec4<u32>(0u);
    var nan = 0u;
    var infinite = 0u;
    var first = NONE;
    for (var row = tile.first; row < tile.end; row += ROW_LANES) {
        let bits = bits_at(row, tile.column);
        let key = keys_of(bits);
        low = min(low, select(vec4<u32>(NONE), key, inside));
        high = max(high, select(vec4<u32>(0u), key, inside));
        // Columns past k read as 0.
        let magnitude = bits & vec4<u32>(0x7fffffffu);
        if (any(magnitude >= vec4<u32>(INFINITY))) {
            for (var i = 0u; i < 4u; i += 1u) {
                if (magnitude[i] >= INFINITY) {
                    nan += select(0u, 1u, magnitude[i] > INFINITY);
                    infinite += select(1u, 0u, magnitude[i] > INFINITY);
                    first = min(first, (p.m0 + row) * p.k + columns[i]);
                }
            }
        }
    }
    if (first != NONE) {
        atomicAdd(&y[p.y_offset], nan);
        atomicAdd(&y[p.y_offset + 1u], infinite);
        atomicMin(&y[p.y_offset + 2u], first);
    }
    for (var i = 0u; i < 4u; i += 1u) {
        atomicMin(&lows[4u * (local % ROW_LANES) + i], low[i]);
        atomicMax(&highs[4u * (local % ROW_LANES) + i], high[i]);
    }
    workgroupBarrier();
    let column = 32u * tile.block + local;
    if (local < 32u && column < p.k) {
        let channel = channel_of(column);
        atomicMin(&y[min_at(channel)], atomicLoad(&lows[local]));
        atomicMax(&y[max_at(channel)], atomicLoad(&highs[local]));
    }
}
