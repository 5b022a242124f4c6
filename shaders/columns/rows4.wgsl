// A lane has four neighbouring rows of W.
// Requires: lib/half.
// Implements: rows.
// Provides: F, U, bits_of, half_of.
// Why: what all rows have in common is loaded once for four of them.

alias F = vec4<f32>;
alias U = vec4<u32>;

// The bits of the integer that a number is, in two's complement.
fn bits_of(x: F) -> U {
    return bitcast<U>(vec4<i32>(x));
}

// The nearest f16, as f32.
fn half_of(x: F) -> F {
    return vec4<f32>(
        half_to_f32(f32_to_half(x.x)), half_to_f32(f32_to_half(x.y)),
        half_to_f32(f32_to_half(x.z)), half_to_f32(f32_to_half(x.w)),
    );
}
