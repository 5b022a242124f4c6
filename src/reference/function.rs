//! Activation functions in f64, and the error bounds of kernels that compute them.

use super::bound::{ETA, UNIT};
use super::{Expected, OutputType};
use crate::format::ActivationFunction;

/// The largest slope of all the functions. It is that of GELU: 1.1290 at v = √2.
const SLOPE: f64 = 1.13;

impl Expected {
    /// Returns the expected value after an activation function, written as `output`. `self` must
    /// have been computed for [`OutputType::F32`].
    ///
    /// Let |v̂ − v| ≤ b. Then f as a kernel computes it is within 1.13·b + ε of f(v). With u =
    /// 2⁻²³, F = |f(v)| + 1.13·b is a bound on |f(v̂)|. WGSL's exp is accurate to 3 + 2|x| ulp and
    /// its division to 2.5 ulp. The values of ε are:
    ///
    /// - identity, ReLU: ε = 0;
    /// - SiLU: the error of exp reaches the result with the factor |v|·e^−|v|, and |v|·e^−|v|·(3 +
    ///   2|v|) < 2.5. A sum and a division cost 4F, so ε = u(2.5 + 6F);
    /// - GELU with tanh: the exponent w := 1.6v(1 + 0.045v²) has an error of 5u|w|, so that
    ///   |v|·e^−|w|·(3 + 7|w|) < 3.5 and ε = u(3.5 + 6F);
    /// - GELU: the approximation of erfc has an error of at most 1.5e-7 (Abramowitz and Stegun
    ///   7.1.26). It is halved and multiplied by |v|, which is at most 12 where the approximation
    ///   is used. t has an error of 4.5u, and a slope of 16 makes it 72u. Horner's scheme costs
    ///   45u, and exp and the product with it cost 8u. All this is multiplied by e^−v²/2, and
    ///   |v|·e^−v²/2 < 0.61. So ε = 0.75e-7·min(|v| + b, 12) + u(48 + 4F).
    ///
    /// Kernels return 0 below a certain v. There, |f| is less than 1e-30.
    #[must_use]
    pub fn after(self, function: ActivationFunction, output: OutputType) -> Self {
        let value = apply(function, self.value);
        let slope = match function {
            ActivationFunction::Identity | ActivationFunction::Relu => 1.0,
            _ => SLOPE,
        };
        let bound = slope * self.bound;
        let reach = value.abs() + bound;
        let own = match function {
            ActivationFunction::Identity | ActivationFunction::Relu => 0.0,
            ActivationFunction::Silu => UNIT * (2.5 + 6.0 * reach),
            ActivationFunction::GeluTanh => UNIT * (3.5 + 6.0 * reach),
            ActivationFunction::Gelu => {
                let v = self.value.abs() + self.bound;
                0.75e-7 * v.min(12.0) + UNIT * (48.0 + 4.0 * reach)
            }
        };
        Self::new(value, bound + own, output)
    }

    /// Returns the expected value after it is added to an element of Y that holds `old`, written as
    /// `output`. `self` must be for [`OutputType::F32`].
    ///
    /// With |v̂ − v| ≤ b and the model of [`matmul`](super::matmul()), the sum is rounded once, relative
    /// to at most |v| + b + |old|. `old` may be flushed where it is read, and the sum where it is
    /// written: 2η. The f64 sum here is rounded once too.
    #[must_use]
    pub fn accumulated(self, old: f64, output: OutputType) -> Self {
        let value = self.value + old;
        let reach = self.value.abs() + self.bound + old.abs();
        // Zeros are added exactly.
        let flushes = if reach == 0.0 { 0.0 } else { 2.0 * ETA };
        let rounding = (UNIT + f64::EPSILON) * (reach + flushes);
        Self::new(value, self.bound + rounding + flushes, output)
    }

    /// Returns the expected product f(gate) · up, written as `output`. Both must be for
    /// [`OutputType::F32`].
    ///
    /// Let f(gate) be F ± a by [`after`](Self::after), and up be U ± b. The product of what is within
    /// these bounds is within |F|·b + |U|·a + a·b of F·U. It is rounded once, relative to at most
    /// (|F| + a)(|U| + b), and may be flushed: η. A factor that is flushed where it is read was not
    /// where it was written, so that its bound covers that. A factor that is known to be 0 makes 0.
    #[must_use]
    pub fn gated(gate: Self, up: Self, function: ActivationFunction, output: OutputType) -> Self {
        let gate = gate.after(function, OutputType::F32);
        let (f, a, u, b) = (gate.value, gate.bound, up.value, up.bound);
        let reach = (f.abs() + a) * (u.abs() + b);
        let flush = if reach == 0.0 { 0.0 } else { ETA };
        let bound = f.abs() * b + u.abs() * a + a * b;
        Self::new(f * u, bound + (UNIT + f64::EPSILON) * reach + flush, output)
    }
}

/// Returns f(v).
pub fn apply(function: ActivationFunction, v: f64) -> f64 {
    match function {
        ActivationFunction::Identity => v,
        ActivationFunction::Relu => v.max(0.0),
        ActivationFunction::Gelu => v * 0.5 * erfc(-v * std::f64::consts::FRAC_1_SQRT_2),
        ActivationFunction::GeluTanh => {
            let w = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
            v / (1.0 + (-2.0 * w).exp())
        }
        ActivationFunction::Silu => v / (1.0 + (-v).exp()),
    }
}

/// Returns 1 − erf(z). Below 3 it uses the series 2/√π·e^(−z²)·Σ 2ⁿz²ⁿ⁺¹/(2n+1)!!, and above 3 the
/// continued fraction e^(−z²)/√π / (z + ½/(z + 1/(z + 3⁄2/(z + …)))).
fn erfc(z: f64) -> f64 {
    let a = z.abs();
    let upper = if a < 3.0 {
        let (mut term, mut sum) = (a, 0.0);
        for n in 0..80 {
            sum += term;
            term *= 2.0 * a * a / f64::from(2 * n + 3);
        }
        1.0 - std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * sum
    } else {
        let tail = (1..=120).rev().fold(0.0, |tail, n| f64::from(n) / 2.0 / (a + tail));
        (-a * a).exp() * std::f64::consts::FRAC_2_SQRT_PI / 2.0 / (a + tail)
    };
    if z < 0.0 { 2.0 - upper } else { upper }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are from Abramowitz and Stegun, table 7.1.
    #[test]
    fn erfc_is_right() {
        for (z, want) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (4.0, 1.541_725_790_028_002e-8),
        ] {
            assert!((erfc(z) - want).abs() <= 1e-14 + 1e-9 * want, "{z}: {}", erfc(z));
            assert!((erfc(-z) - (2.0 - want)).abs() <= 1e-14, "{z}");
        }
        // Both forms agree where they meet.
        assert!((erfc(3.0 - 1e-12) - erfc(3.0)).abs() < 1e-14);
    }

    #[test]
    fn functions_at_known_points() {
        for function in ActivationFunction::ALL {
            assert_eq!(apply(function, 0.0), 0.0);
            assert!((apply(function, 30.0) - 30.0).abs() < 1e-9);
        }
        assert!((apply(ActivationFunction::Gelu, 1.0) - 0.841_344_746_068_543).abs() < 1e-14);
        assert!((apply(ActivationFunction::Silu, 1.0) - 0.731_058_578_630_005).abs() < 1e-14);
        assert!((apply(ActivationFunction::GeluTanh, 1.0) - 0.841_191_990_608_304).abs() < 1e-12);
        assert_eq!(apply(ActivationFunction::Relu, -2.0), 0.0);
    }

    #[test]
    fn epilogues_by_hand() {
        let exact = |value| Expected::new(value, 0.0, OutputType::F32);
        let sum = exact(3.0).accumulated(-5.0, OutputType::F32);
        assert_eq!(sum.value, -2.0);
        assert!(sum.bound >= 8.0 * UNIT && sum.bound < 8.1 * UNIT, "{}", sum.bound);
        assert_eq!(exact(0.0).accumulated(0.0, OutputType::F32).bound, 0.0);
        let relu = ActivationFunction::Relu;
        let product = Expected::gated(exact(3.0), exact(-4.0), relu, OutputType::F32);
        assert_eq!(product.value, -12.0);
        assert!(product.bound >= 12.0 * UNIT && product.bound < 12.1 * UNIT);
        let closed = Expected::gated(exact(-3.0), exact(7.0), relu, OutputType::F16);
        assert_eq!((closed.value, closed.bound), (0.0, 0.0));
        // The errors of both factors reach the product: 3 · 0.25 + 4 · 0.5 + 0.5 · 0.25.
        let wide = |value, bound| Expected::new(value, bound, OutputType::F32);
        let product = Expected::gated(wide(3.0, 0.5), wide(4.0, 0.25), relu, OutputType::F32);
        assert!((product.bound - 2.875).abs() < 20.0 * UNIT, "{}", product.bound);
    }

    /// No function has a larger slope than the bound assumes.
    #[test]
    fn slopes() {
        for function in ActivationFunction::ALL {
            for step in -8000..8000 {
                let v = f64::from(step) / 1000.0;
                let slope = (apply(function, v + 1e-5) - apply(function, v - 1e-5)) / 2e-5;
                assert!(slope.abs() <= SLOPE, "{function:?} {v}: {slope}");
            }
        }
    }
}
