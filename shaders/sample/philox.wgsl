// Random numbers that depend on a key and a counter alone: Philox4x32-10 (Salmon, Moraes, Dror and Shaw,
// 2011).
// Requires: nothing.
// Provides: wide_product, philox.

// The low and the high word of a product.
fn wide_product(a: u32, b: u32) -> vec2<u32> {
    let low = vec2<u32>(a & 0xffffu, b & 0xffffu);
    let high = vec2<u32>(a >> 16u, b >> 16u);
    let cross = low.x * high.y;
    let other = high.x * low.y;
    let middle = ((low.x * low.y) >> 16u) + (cross & 0xffffu) + (other & 0xffffu);
    return vec2<u32>(a * b, high.x * high.y + (cross >> 16u) + (other >> 16u) + (middle >> 16u));
}

fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round += 1u) {
        let a = wide_product(0xd2511f53u, c.x);
        let b = wide_product(0xcd9e8d57u, c.z);
        c = vec4<u32>(b.y ^ c.y ^ k.x, b.x, a.y ^ c.w ^ k.y, a.x);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}
