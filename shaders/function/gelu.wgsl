// v · Φ(v), with the error function: erfc(z) = t·(a1 + t·(a2 + …))·exp(−z²) with t = 1/(1 + 0.3275911z),
// to within 1.5e-7 for z ≥ 0 (Abramowitz and Stegun 7.1.26).
// Requires: nothing.
// Implements: function.
// Provides: activate.
// Below −12 the result is 0, so that a large |v| does no harm.

fn activate(v: vec2<f32>) -> vec2<f32> {
    let z = min(abs(v) * 0.70710678, vec2<f32>(9.0));
    let t = vec2<f32>(1.0) / (vec2<f32>(1.0) + 0.3275911 * z);
    let even = t * (0.254829592
        + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    // Half of erfc(z): Φ(−|v|).
    let tail = 0.5 * even * exp(-z * z);
    let whole = v * select(vec2<f32>(1.0) - tail, tail, v < vec2<f32>(0.0));
    return select(whole, vec2<f32>(0.0), v < vec2<f32>(-12.0));
}
