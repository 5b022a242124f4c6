// The fast Walsh-Hadamard transform of columns in workgroup memory: orthonormal, in natural (Sylvester)
// order, on blocks of a power of two.
// Requires: const WORKGROUP, const HELD.
// Provides: held, within_quad, transform.
// Workgroup memory: HELD · 16 bytes.
//
// Entry (i, j) of the matrix is (−1)^popcount(i & j) / √block. The caller multiplies by 1/√block where it
// reads the columns, so that sums grow no larger than a column may, puts each quad through `within_quad`,
// and calls `transform`, which adds and subtracts whole quads: four of them a step where that is possible,
// so that 4096 columns take five steps.

var<workgroup> held: array<vec4<f32>, HELD>;

// The columns of a quad that a block shares. A block of one column is left as it is.
fn within_quad(v: vec4<f32>, block: u32) -> vec4<f32> {
    let pairs = vec4<f32>(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
    let quad = vec4<f32>(pairs.xy + pairs.zw, pairs.xy - pairs.zw);
    return select(select(v, pairs, vec4<bool>(block == 2u)), quad, vec4<bool>(block > 2u));
}

// Transforms the first `quads` quads, which are whole blocks if a block has more than one quad. Lane i has
// written any of them; afterwards every lane may read all of them.
fn transform(quads: u32, block: u32, local: u32) {
    workgroupBarrier();
    let end = block / 4u;
    var step = 1u;
    while (step < end) {
        if (4u * step <= end) {
            for (var i = local; 4u * i < quads; i += WORKGROUP) {
                let at = i / step * (4u * step) + i % step;
                let a = held[at];
                let b = held[at + step];
                let c = held[at + 2u * step];
                let d = held[at + 3u * step];
                held[at] = (a + b) + (c + d);
                held[at + step] = (a - b) + (c - d);
                held[at + 2u * step] = (a + b) - (c + d);
                held[at + 3u * step] = (a - b) - (c - d);
            }
            step *= 4u;
        } else {
            for (var i = local; 2u * i < quads; i += WORKGROUP) {
                let at = i / step * (2u * step) + i % step;
                let a = held[at];
                let b = held[at + step];
                held[at] = a + b;
                held[at + step] = a - b;
            }
            step *= 2u;
        }
        workgroupBarrier();
    }
}
