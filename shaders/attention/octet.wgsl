// Eight neighboring columns: the unit in which heads are loaded.
// Requires: nothing.
// Provides: Octet, dot_octet.

struct Octet {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn dot_octet(a: Octet, b: Octet) -> f32 {
    return dot(a.low, b.low) + dot(a.high, b.high);
}
