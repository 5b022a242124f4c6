// Makes the codes of a row with all lanes of a workgroup.
// Requires: activations/codes, const WORKGROUP.
// Provides: quantize_row.
// Workgroup memory: WORKGROUP · 12 bytes where the row shares a range.

var<workgroup> highs: array<f32, WORKGROUP>;
var<workgroup> lows: array<f32, WORKGROUP>;
var<workgroup> bads: array<u32, WORKGROUP>;

fn shared_range(range: Range, local: u32) -> Range {
    highs[local] = range.high;
    lows[local] = range.low;
    bads[local] = select(0u, 1u, range.bad);
    for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (local < width) {
            highs[local] = max(highs[local], highs[local + width]);
            lows[local] = max(lows[local], lows[local + width]);
            bads[local] |= bads[local + width];
        }
    }
    workgroupBarrier();
    return Range(highs[0], lows[0], bads[0] != 0u);
}

// Writes codes, sums, scales and zero points of the row of floats at x_at to that of codes at y_at.
// `scope` says what shares a range:
//   0  the row, which the lanes split and read twice; `bad` says that it is known not to be finite
//   1  a group of `group_blocks` blocks, one lane each
//   2 and more: `fixed` is the scheme
fn quantize_row(scope: u32, fixed: Scheme, bad: bool, x_at: u32, y_at: u32, local: u32) {
    if (scope == 1u) {
        for (var g = local; g < p.groups; g += WORKGROUP) {
            let first = g * p.group_blocks;
            let end = min(first + p.group_blocks, p.blocks);
            let s = scheme(range_of(x_at, first, end, 1u));
            put_scheme(y_at, g, s);
            for (var b = first; b < end; b += 1u) {
                put_block(x_at, y_at, b, s);
            }
        }
        return;
    }
    var s = fixed;
    if (scope == 0u) {
        var range = range_of(x_at, local, p.blocks, WORKGROUP);
        range.bad = range.bad || bad;
        s = scheme(shared_range(range, local));
    }
    if (local == 0u) {
        put_scheme(y_at, 0u, s);
    }
    for (var b = local; b < p.blocks; b += WORKGROUP) {
        put_block(x_at, y_at, b, s);
    }
}
