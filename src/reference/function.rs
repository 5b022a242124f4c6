//! Activation functions in f64, and how far a kernel's may be off.

use super::bound::UNIT;
use super::{Expected, OutputType};
use crate::format::ActivationFunction;

/// The largest slope of any of the functions: GELU's, 1.1290 at v = √2.
const SLOPE: f64 = 1.13;

impl Expected {
    /// The same after an activation function, and written as `output`. This one must be of
    /// [`OutputType::F32`].
    ///
    /// With |v̂ − v| ≤ b, f as a kernel computes it is within 1.13·b + ε of f(v); u = 2⁻²³, and
    /// F = |f(v)| + 1.13·b bounds |f(v̂)|. WGSL's exp is good to 3 + 2|x| ulp, its division to 2.5:
    ///
    /// - identity, ReLU: ε = 0;
    /// - SiLU: exp's error reaches the result with a factor |v|·e^−|v|, and |v|·e^−|v|·(3 + 2|v|) < 2.5;
    ///   a sum and a division cost 4F: ε = u(2.5 + 6F);
    /// - GELU as tanh: the exponent 1.6v(1 + 0.045v²) =: w is off by 5u|w|, so that
    ///   |v|·e^−|w|·(3 + 7|w|) < 3.5: ε = u(3.5 + 6F);
    /// - GELU: the fit of erfc is within 1.5e-7 (Abramowitz and Stegun 7.1.26), halved and times |v|,
    ///   which is at most 12 where it is used. t is off by 4.5u, which a slope of 16 makes 72u;
    ///   Horner's scheme costs 45u, exp and the product with it 8u, all times e^−v²/2, and
    ///   |v|·e^−v²/2 < 0.61: ε = 0.75e-7·min(|v| + b, 12) + u(48 + 4F).
    ///
    /// Past the point below which kernels return 0, f is less than 1e-30.
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
}

/// f(v).
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

/// 1 − erf(z): by the series 2/√π·e^(−z²)·Σ 2ⁿz²ⁿ⁺¹/(2n+1)!! below 3, above by the continued
/// fraction e^(−z²)/√π / (z + ½/(z + 1/(z + 3⁄2/(z + …)))).
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

    /// Values of tables (Abramowitz and Stegun, table 7.1).
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

    /// No slope exceeds what the bound takes.
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
