//! Statistics of the channels of X, and the rounding error that follows from them without the rows
//! of X.

use super::{Linear, SmoothError, check_length};
use crate::compress::calibrate::{ActivationRange, Method, Statistics};

/// The range and the mean magnitude of every channel of one X, as calibration observed them.
#[derive(Clone, Debug, PartialEq)]
pub struct Channels {
    ranges: Vec<ActivationRange>,
    /// The mean of |x|.
    means: Vec<f64>,
}

impl Channels {
    /// Creates `k` channels of which nothing is known yet.
    pub fn new(k: usize) -> Self {
        Self { ranges: vec![ActivationRange::default(); k], means: vec![0.0; k] }
    }

    /// Adds what was observed of these channels. Statistics of several layers that take the same X
    /// may be added, since they are equal.
    ///
    /// # Errors
    /// Returns [`SmoothError`] if the statistics are not those of as many channels, or if they do
    /// not give ranges because nothing was observed or values were not finite.
    pub fn add(&mut self, seen: &Statistics) -> Result<(), SmoothError> {
        let ranges = seen.ranges(Method::MinMax, true)?;
        check_length("the ranges of channels", self.ranges.len(), ranges.len())?;
        let rows = seen.rows() as f64;
        for (at, (range, channel)) in ranges.into_iter().zip(seen.channels()).enumerate() {
            self.ranges[at] = self.ranges[at].union(range);
            self.means[at] = self.means[at].max(channel.abs_sum() / rows);
        }
        Ok(())
    }

    /// Returns the range of each channel.
    pub fn ranges(&self) -> &[ActivationRange] {
        &self.ranges
    }

    /// Returns the largest magnitude in each channel.
    pub fn absmax(&self) -> Vec<f32> {
        self.ranges.iter().map(ActivationRange::absmax).collect()
    }

    /// Estimates the squared error that rounding adds to a row of Y, up to a constant factor, if W
    /// is symmetric int8 with a scale for each row and X is symmetric int8 with one scale. Each code
    /// is off by its step times a value that is uniform within ±½, independently, so the error is
    ///
    /// ```text
    /// step_x² · Σ (W_nj · s_j)²  +  Σ_n step_w,n² · Σ_j E[(X_j / s_j)²]
    /// ```
    ///
    /// `E[X²]` is taken to be (mean |X|)² · π/2, which holds for normally distributed values.
    pub fn rounding_error(&self, linears: &[Linear<'_>], factors: &[f32]) -> f64 {
        let (mut step_x, mut power_x) = (0.0f64, 0.0);
        for ((range, mean), &s) in self.ranges.iter().zip(&self.means).zip(factors) {
            step_x = step_x.max(f64::from(range.absmax()) / f64::from(s));
            power_x += std::f64::consts::FRAC_PI_2 * (mean / f64::from(s)).powi(2);
        }
        let (mut steps_w, mut power_w) = (0.0, 0.0);
        let k = factors.len().max(1);
        for row in linears.iter().flat_map(|linear| linear.weights.chunks_exact(k)) {
            let mut most = 0.0f64;
            for (&w, &s) in row.iter().zip(factors) {
                let w = f64::from(w) * f64::from(s);
                most = most.max(w.abs());
                power_w += w * w;
            }
            steps_w += most * most;
        }
        // X and W both have 127 steps up to their largest value.
        step_x * step_x * power_w + steps_w * power_x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::smooth::{Options, search_channels};

    /// Checks the rounding errors against their formula, written out for two channels.
    #[test]
    fn rounding_errors_are_their_formula() {
        let ranges =
            vec![ActivationRange::new(-1.0, 0.5).unwrap(), ActivationRange::new(0.0, 8.0).unwrap()];
        let x = Channels { ranges, means: vec![0.5, 4.0] };
        let weights = [[1.0, 0.25], [-2.0, 0.5]];
        let linears = weights.each_ref().map(|weights| Linear { weights, rows: 1 });
        let want = |[s, t]: [f64; 2]| {
            let step_x = (1.0 / s).max(8.0 / t);
            let power_w = 5.0 * s * s + 0.3125 * t * t;
            let (first, second) = (s.max(0.25 * t), (2.0 * s).max(0.5 * t));
            let power_x = (0.25 / (s * s) + 16.0 / (t * t)) * std::f64::consts::FRAC_PI_2;
            step_x * step_x * power_w + (first * first + second * second) * power_x
        };
        for [s, t] in [[1.0, 1.0], [0.5, 4.0], [1.0, 8.0]] {
            // Every value except π/2 is a short binary fraction: a few roundings of 2⁻⁵³ remain.
            let found = x.rounding_error(&linears, &[s as f32, t as f32]);
            assert!((found - want([s, t])).abs() <= 1e-12 * found, "{found} {}", want([s, t]));
        }
        // The large channel of X meets small weights, so dividing it loses less.
        assert!(want([0.5, 4.0]) < want([1.0, 1.0]));
        // The search takes the α with the least of these errors.
        let options = Options { powers_of_two: true, ..Options::default() };
        let found = search_channels(&x, &linears, &options).unwrap();
        assert_eq!(found.error_before(), x.rounding_error(&linears, &[1.0, 1.0]));
        let least = found.tried().iter().map(|(_, error)| *error).fold(f64::INFINITY, f64::min);
        assert_eq!(found.error(), least.min(found.error_before()));
        assert_eq!(found.error(), x.rounding_error(&linears, found.factors()));
        assert!(found.alpha().is_some() && found.error() <= want([0.5, 4.0]));
        assert_eq!(found.tried().len(), 21);
    }

    #[test]
    fn statistics_of_other_channels_are_refused() {
        use crate::compress::calibrate::Observer;
        let mut seen = Statistics::new(Observer::channels("layer", 3)).unwrap();
        let mut channels = Channels::new(2);
        assert!(matches!(channels.add(&seen), Err(SmoothError::Calibrate(_))));
        seen.observe(&[1.0, -2.0, 3.0]).unwrap();
        let error = channels.add(&seen);
        assert!(matches!(error, Err(SmoothError::WrongLength { need: 2, have: 3, .. })));
        let mut channels = Channels::new(3);
        channels.add(&seen).unwrap();
        assert_eq!(channels.absmax(), [1.0, 2.0, 3.0]);
    }
}
