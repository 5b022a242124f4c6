// A lane has one row of W.
// Requires: lib/half.
// Implements: rows.
// Provides: F, U, bits_of, half_of.

alias F = f32;
alias U = u32;

// The bits of the integer that a number is, in two's complement.
fn bits_of(x: F) -> U {
    return bitcast<U>(i32(x));
}

// The nearest f16, as f32.
fn half_of(x: F) -> F {
    return half_to_f32(f32_to_half(x));
}
