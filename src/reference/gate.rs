//! Gated activations in f64, and the error bounds of kernels that compute them.

use super::{ETA, Expected, OutputType, ReferenceError, UNIT, check_length};
use crate::format::ActivationFunction;

/// Returns the expected f(gate) · up of each element. The value is NaN if either is NaN. What an
/// infinity becomes is not defined.
///
/// Let ε be the error of f as [`Expected::after`] derives it, where a subnormal gate may count as 0, and u =
/// 2⁻²³. The product is rounded once, and flushed if it is small, as an input may be:
///
/// ```text
/// |ŷ − y| ≤ ((|f| + ε)(1 + u) − |f|)·|up| + η·(|f| + ε + 1)
/// ```
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`].
pub fn gate(
    gate: &[f32],
    up: &[f32],
    function: ActivationFunction,
    output: OutputType,
) -> Result<Vec<Expected>, ReferenceError> {
    check_length("up", gate.len(), up.len())?;
    let each = |(&gate, &up): (&f32, &f32)| {
        if gate.is_nan() || up.is_nan() {
            return Expected { value: f64::NAN, bound: 0.0, overflow: false };
        }
        let flushed = if gate.is_subnormal() { ETA } else { 0.0 };
        let factor = Expected::new(gate.into(), flushed, OutputType::F32);
        let Expected { value, bound, .. } = factor.after(function, OutputType::F32);
        let (size, up) = (value.abs(), f64::from(up));
        let off = ((size + bound) * (1.0 + UNIT) - size) * up.abs();
        Expected::new(value * up, off + ETA * (size + bound + 1.0), output)
    };
    Ok(gate.iter().zip(up).map(each).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_by_hand() {
        let of =
            |function, output| gate(&[2.0, -2.0, f32::NAN], &[3.0, 3.0, 1.0], function, output);
        let relu = of(ActivationFunction::Relu, OutputType::F32).unwrap();
        assert_eq!((relu[0].value, relu[1].value), (6.0, 0.0));
        assert!(relu[2].value.is_nan());
        assert!(relu[0].bound <= 6.1 * UNIT && relu[1].bound < 1e-37);
        let silu = of(ActivationFunction::Silu, OutputType::F16).unwrap();
        assert!((silu[0].value - 6.0 / (1.0 + (-2.0f64).exp())).abs() < 1e-12);
        let short = gate(&[1.0], &[], ActivationFunction::Relu, OutputType::F32);
        let error = ReferenceError::WrongLength { role: "up", need: 1, have: 0 };
        assert_eq!(short, Err(error));
    }
}
