// Measures how many f32 multiply-adds the adapter makes, with eight independent chains of vec4 a
// lane: 64 floating-point operations a lane and round.
// Requires: const ROUNDS.
// Provides: main.
// Why eight: that is enough to hide the latency of one, and few enough for the registers.

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sink: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    // Read, so that no compiler computes the result ahead.
    let x = bitcast<vec4<f32>>(source[0]);
    let y = vec4<f32>(f32(id.x) * 1e-9);
    var a = vec4<f32>(0.0);
    var b = vec4<f32>(1.0);
    var c = vec4<f32>(2.0);
    var d = vec4<f32>(3.0);
    var e = vec4<f32>(4.0);
    var f = vec4<f32>(5.0);
    var g = vec4<f32>(6.0);
    var h = vec4<f32>(7.0);
    for (var i = 0u; i < ROUNDS; i += 1u) {
        a = a * x + y;
        b = b * x + y;
        c = c * x + y;
        d = d * x + y;
        e = e * x + y;
        f = f * x + y;
        g = g * x + y;
        h = h * x + y;
    }
    sink[id.x] = (a + b) + (c + d) + ((e + f) + (g + h));
}
