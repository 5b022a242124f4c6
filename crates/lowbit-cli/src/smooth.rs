//! SmoothQuant on the weights of a file: which linears share factors, and where `1/s` goes.
//!
//! SmoothQuant divides the channels of X by factors and multiplies the columns of W with them. In
//! pre-norm networks the division is folded into the LayerNorm before, whose output nothing else
//! reads. BERT is post-norm: what its LayerNorms give is also the residual, and other factors there
//! would change the network. So:
//!
//! - `attention.output.dense` takes sums of values, weighted by a softmax that values have no part
//!   in, so channel j of X is row j of the value's W (and its bias) times what does not depend on
//!   that row. Dividing those rows by s is exact, and X needs nothing at run time.
//! - Every other weight keeps its factors beside it, and X is divided by them when it is quantized:
//!   one set for query, key and value, which take the same X. GELU stands between the two
//!   feed-forward weights, and commutes with no factor.
//!
//! An α that suits one layer ruins another: where W varies more between channels than X does, X grows
//! outliers that it had not. Unless one is given, each set of factors gets the α whose rounding errors
//! should be the least, and none where that is without.
//!
//! Factors are powers of two: no product or quotient is rounded, and the f32 network is bit for bit
//! the same as long as nothing leaves the normal numbers.

use lowbit::compress::calibrate::{ActivationRange, CalibrateError, Method, Statistics};
use lowbit::compress::smooth::{
    Linear, SmoothError, factors, fold_into_rows, scale_columns, weight_absmax,
};
use lowbit_models::checkpoint::{Dtype, IoError, ModelFile, Tensor, matrix_shape};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Why weights cannot be smoothed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Io(#[from] IoError),
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    #[error("`{name}`")]
    Smooth { name: String, source: SmoothError },
}

fn failed(name: &str) -> impl Fn(SmoothError) -> Failure {
    move |source| Failure::Smooth { name: name.to_owned(), source }
}

/// What weights that take the same X have in common, in the names that BERT's have: query, key and
/// value of an attention, and everything else by itself.
pub fn shared_input(weight: &str) -> &str {
    let ends = ["query.weight", "key.weight", "value.weight"];
    let stem = ends.iter().find_map(|end| weight.strip_suffix(end));
    stem.filter(|stem| stem.ends_with("attention.self.")).unwrap_or(weight)
}

/// What becomes of one weight.
struct Weight {
    /// Its columns are multiplied with these.
    columns: Vec<f32>,
    /// Whether they are folded into what makes X.
    folded: bool,
    /// The range of X divided by them.
    range: ActivationRange,
}

/// What becomes of the weights and biases of a file.
pub struct Smoothing {
    weights: BTreeMap<String, Weight>,
    /// What rows of weights, and elements of biases, are divided by.
    rows: BTreeMap<String, Vec<f32>>,
}

impl Smoothing {
    /// Factors of all the weights, `s_j = max|X_j|^α / max|W_j|^(1 − α)`, with the α that is given or
    /// the best for each; `channels` says of each what is known of its X.
    pub fn new(
        model: &ModelFile,
        selected: &[Tensor<'_>],
        channels: &BTreeMap<&str, &Statistics>,
        alpha: Option<f64>,
    ) -> Result<Self, Failure> {
        let mut smoothing = Self { weights: BTreeMap::new(), rows: BTreeMap::new() };
        let (outputs, others): (Vec<&Tensor<'_>>, _) =
            selected.iter().partition(|tensor| value_of(model, selected, tensor).is_some());
        // First what divides rows of values: their own factors come from what is left.
        for output in outputs {
            smoothing.add(&[output], channels, alpha)?;
            let Some((value, bias)) = value_of(model, selected, output) else { continue };
            let Some(weight) = smoothing.weights.get_mut(output.name) else { continue };
            weight.folded = true;
            smoothing.rows.insert(value.name.to_owned(), weight.columns.clone());
            smoothing.rows.insert(bias.name.to_owned(), weight.columns.clone());
        }
        let mut groups: BTreeMap<&str, Vec<&Tensor<'_>>> = BTreeMap::new();
        for tensor in others {
            groups.entry(shared_input(tensor.name)).or_default().push(tensor);
        }
        for group in groups.values() {
            smoothing.add(group, channels, alpha)?;
        }
        Ok(smoothing)
    }

    /// The factors of weights that take the same X.
    fn add(
        &mut self,
        group: &[&Tensor<'_>],
        channels: &BTreeMap<&str, &Statistics>,
        alpha: Option<f64>,
    ) -> Result<(), Failure> {
        let (Some(first), Some(k)) =
            (group.first(), group.first().and_then(|tensor| columns(tensor)))
        else {
            return Ok(());
        };
        let failed = failed(first.name);
        let mut x = Channels::new(k);
        let (mut weights, mut most) = (Vec::new(), vec![0.0f32; k]);
        for tensor in group {
            let own = self.divided(tensor)?;
            let linear = [Linear { weights: &own, rows: own.len() / k.max(1) }];
            let absmax = weight_absmax(k, &linear).map_err(&failed)?;
            most.iter_mut().zip(absmax).for_each(|(most, own)| *most = most.max(own));
            weights.push(own);
            if let Some(seen) = channels.get(tensor.name) {
                x.add(seen)?;
            }
        }
        let absmax: Vec<f32> = x.ranges.iter().map(ActivationRange::absmax).collect();
        let at = |alpha| factors(&absmax, &most, alpha, true).map_err(&failed);
        let columns = match alpha {
            Some(alpha) => at(alpha)?,
            None => {
                let mut best = vec![1.0; k];
                let mut least = x.rounding(&weights, &best);
                for alpha in (0..=20).map(|step| f64::from(step) / 20.0) {
                    let columns = at(alpha)?;
                    let error = x.rounding(&weights, &columns);
                    if error < least {
                        (best, least) = (columns, error);
                    }
                }
                best
            }
        };
        let (mut min, mut max) = (0.0f32, 0.0f32);
        for (range, s) in x.ranges.iter().zip(&columns) {
            (min, max) = (min.min(range.min() / s), max.max(range.max() / s));
        }
        let range = ActivationRange::new(min, max)?;
        for tensor in group {
            let weight = Weight { columns: columns.clone(), folded: false, range };
            self.weights.insert(tensor.name.to_owned(), weight);
        }
        Ok(())
    }

    /// A weight with what is folded into its rows.
    fn divided(&self, tensor: &Tensor<'_>) -> Result<Vec<f32>, Failure> {
        let mut weights = tensor.to_f32()?;
        if let (Some(rows), Some(k)) = (self.rows.get(tensor.name), columns(tensor)) {
            fold_into_rows(&mut weights, None, k, rows).map_err(failed(tensor.name))?;
        }
        Ok(weights)
    }

    /// A weight as it is to be compressed.
    pub fn weight(&self, tensor: &Tensor<'_>) -> Result<Vec<f32>, Failure> {
        let weights = self.divided(tensor)?;
        match self.weights.get(tensor.name) {
            Some(weight) => scale_columns(&weights, &weight.columns).map_err(failed(tensor.name)),
            None => Ok(weights),
        }
    }

    /// The bytes of another tensor: those of biases change.
    pub fn plain<'a>(&self, tensor: &Tensor<'a>) -> Result<Cow<'a, [u8]>, Failure> {
        let Some(rows) = self.rows.get(tensor.name) else { return Ok(tensor.bytes.into()) };
        let mut bias = tensor.to_f32()?;
        fold_into_rows(&mut bias, None, 1, rows).map_err(failed(tensor.name))?;
        Ok(bias.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    /// A weight whose X is not as it was.
    fn changed(&self, name: &str) -> Option<&Weight> {
        self.weights.get(name).filter(|weight| weight.columns.iter().any(|&s| s != 1.0))
    }

    /// What X of a weight is to be divided by; `None` where nothing is, or it is folded.
    pub fn factors(&self, name: &str) -> Option<&[f32]> {
        self.changed(name).filter(|weight| !weight.folded).map(|weight| &weight.columns[..])
    }

    /// The range of a weight's X, where that is smoothed.
    pub fn range(&self, name: &str) -> Option<ActivationRange> {
        self.changed(name).map(|weight| weight.range)
    }
}

/// What is known of the channels of one X.
struct Channels {
    ranges: Vec<ActivationRange>,
    /// Mean |x|.
    means: Vec<f64>,
}

impl Channels {
    fn new(k: usize) -> Self {
        Self { ranges: vec![ActivationRange::default(); k], means: vec![0.0; k] }
    }

    /// Takes in what was seen of it; of the same X several times that is always the same.
    fn add(&mut self, seen: &Statistics) -> Result<(), CalibrateError> {
        let rows = seen.rows() as f64;
        let ranges = seen.ranges(Method::MinMax, true)?;
        for (at, (range, channel)) in ranges.into_iter().zip(seen.channels()).enumerate() {
            self.ranges[at] = self.ranges[at].union(range);
            self.means[at] = self.means[at].max(channel.abs_sum() / rows);
        }
        Ok(())
    }

    /// The squared error that rounding adds to a row of Y, but for a constant factor, were W
    /// symmetric int8 with a scale a row and X symmetric int8 with one scale: each code is off by a
    /// step times what is evenly within ±½, independently, so
    ///
    /// ```text
    /// step_x² · Σ (W_nj · s_j)²  +  Σ_n step_w,n² · Σ_j E[(X_j / s_j)²]
    /// ```
    ///
    /// E[X²] is taken as (mean |X|)² · π/2, which it is of bell-shaped values.
    fn rounding(&self, weights: &[Vec<f32>], factors: &[f32]) -> f64 {
        let (mut step_x, mut power_x) = (0.0f64, 0.0);
        for ((range, mean), &s) in self.ranges.iter().zip(&self.means).zip(factors) {
            step_x = step_x.max(f64::from(range.absmax()) / f64::from(s));
            power_x += std::f64::consts::FRAC_PI_2 * (mean / f64::from(s)).powi(2);
        }
        let (mut steps_w, mut power_w) = (0.0, 0.0);
        for row in weights.iter().flat_map(|weights| weights.chunks_exact(factors.len().max(1))) {
            let mut most = 0.0f64;
            for (&w, &s) in row.iter().zip(factors) {
                let w = f64::from(w) * f64::from(s);
                most = most.max(w.abs());
                power_w += w * w;
            }
            steps_w += most * most;
        }
        // Both have 127 steps to their largest value.
        step_x * step_x * power_w + steps_w * power_x
    }
}

fn columns(tensor: &Tensor<'_>) -> Option<usize> {
    matrix_shape(tensor.shape).map(|(_, k)| k)
}

/// The weight and bias of the values whose weighted sums a weight takes, where that fits and both
/// can be changed.
fn value_of<'a>(
    model: &'a ModelFile,
    selected: &[Tensor<'a>],
    output: &Tensor<'_>,
) -> Option<(Tensor<'a>, Tensor<'a>)> {
    let stem = output.name.strip_suffix("attention.output.dense.weight")?;
    let name = format!("{stem}attention.self.value");
    let value = format!("{name}.weight");
    let value = *selected.iter().find(|tensor| tensor.name == value)?;
    // A bias of another type might round what is exact in f32.
    let bias = model.tensor(&format!("{name}.bias")).filter(|bias| bias.dtype == Dtype::F32)?;
    let k = columns(output)?;
    (matrix_shape(value.shape)?.0 == k && bias.shape == [k]).then_some((value, bias))
}

#[cfg(test)]
#[path = "../../lowbit-models/tests/tiny_bert.rs"]
mod tiny_bert;

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit::compress::calibrate::Observer;
    use lowbit_models::bert::{Dense, Encoder};
    use std::cell::RefCell;

    fn linear(x: &[f32], weights: &[f32], bias: &[f32], k: usize) -> Vec<f32> {
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
        let row = |x| weights.chunks(k).zip(bias).map(move |(w, b)| dot(x, w) + b);
        x.chunks(k).flat_map(row).collect()
    }

    fn weight(dense: &Dense) -> String {
        format!("{}.weight", dense.name)
    }

    /// All that smoothing changes, in plain f32: the embeddings keep every bit.
    #[test]
    fn the_network_stays_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        tiny_bert::write(folder.path(), &tiny_bert::tensors());
        let encoder = Encoder::open(folder.path()).unwrap();
        let model = ModelFile::open(folder.path().join("model.safetensors")).unwrap();
        let by_channels = |dense: &Dense| Observer::channels(weight(dense), dense.k).with_bins(0);
        let seen = encoder.linears().map(|dense| Statistics::new(by_channels(dense)).unwrap());
        let seen = RefCell::new(seen.collect::<Vec<_>>());
        let embed = |text: &str| {
            encoder.embed(text, &|dense, x, _| {
                seen.borrow_mut()[dense.index].observe(x)?;
                Ok(linear(x, &dense.weight, &dense.bias, dense.k))
            })
        };
        let before: Vec<_> = tiny_bert::TEXT.iter().map(|text| embed(text).unwrap()).collect();
        let seen = seen.take();
        let channels = seen.iter().map(|seen| (seen.layer(), seen)).collect();
        let selected: Vec<_> = model
            .tensors()
            .filter(|tensor| seen.iter().any(|seen| seen.layer() == tensor.name))
            .collect();
        assert_eq!(selected.len(), 6);

        let smoothing = Smoothing::new(&model, &selected, &channels, Some(0.5)).unwrap();
        let changed: Vec<_> = encoder
            .linears()
            .map(|dense| {
                let tensor = model.tensor(&weight(dense)).unwrap();
                let bias = model.tensor(&format!("{}.bias", dense.name)).unwrap();
                let bias: Vec<f32> = smoothing
                    .plain(&bias)
                    .unwrap()
                    .chunks_exact(4)
                    .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                    .collect();
                (smoothing.weight(&tensor).unwrap(), bias, smoothing.factors(tensor.name))
            })
            .collect();
        for (dense, (weights, bias, factors)) in encoder.linears().zip(&changed) {
            assert_ne!(*weights, dense.weight, "{}", dense.name);
            assert_eq!(*bias != dense.bias, dense.name.ends_with("value"), "{}", dense.name);
            // Only sums of values are folded into what makes them.
            let folded = dense.name.ends_with("attention.output.dense");
            assert_eq!(factors.is_none(), folded, "{}", dense.name);
        }
        assert!(changed[0].2 == changed[1].2 && changed[0].2 == changed[2].2);
        let mut most = vec![0.0f32; 6];
        for (text, before) in tiny_bert::TEXT.iter().zip(&before) {
            let largest = RefCell::new(&mut most);
            let after = encoder.embed(text, &|dense, x, _| {
                let (weights, bias, factors) = &changed[dense.index];
                let ones = vec![1.0; dense.k];
                let factors = factors.unwrap_or(&ones);
                let x: Vec<f32> =
                    x.iter().zip(factors.iter().cycle()).map(|(x, s)| x / s).collect();
                let top = x.iter().fold(0.0f32, |top, x| top.max(x.abs()));
                let most = &mut largest.borrow_mut()[dense.index];
                *most = most.max(top);
                Ok(linear(&x, weights, bias, dense.k))
            });
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&after.unwrap()), bits(before));
        }
        // The smoothed X, folded or divided, fills the range that its scale is made of.
        for (dense, most) in encoder.linears().zip(most) {
            assert_eq!(smoothing.range(&weight(dense)).unwrap().absmax(), most, "{}", dense.name);
        }
    }

    /// Rounding errors by their formula, and the α with the least of them.
    #[test]
    fn the_best_alpha_is_taken() {
        let ranges =
            vec![ActivationRange::new(-1.0, 0.5).unwrap(), ActivationRange::new(0.0, 8.0).unwrap()];
        let x = Channels { ranges, means: vec![0.5, 4.0] };
        let weights = [vec![1.0, 0.25], vec![-2.0, 0.5]];
        let want = |[s, t]: [f64; 2]| {
            let step_x = (1.0 / s).max(8.0 / t);
            let power_w = 5.0 * s * s + 0.3125 * t * t;
            let (first, second) = (s.max(0.25 * t), (2.0 * s).max(0.5 * t));
            let power_x = (0.25 / (s * s) + 16.0 / (t * t)) * std::f64::consts::FRAC_PI_2;
            step_x * step_x * power_w + (first * first + second * second) * power_x
        };
        for [s, t] in [[1.0, 1.0], [0.5, 4.0], [1.0, 8.0]] {
            // Every value is a short binary fraction but π/2: a few roundings of 2⁻⁵³.
            let found = x.rounding(&weights, &[s as f32, t as f32]);
            assert!((found - want([s, t])).abs() <= 1e-12 * found, "{found} {}", want([s, t]));
        }
        // The large channel of X meets small weights: dividing it loses less.
        assert!(want([0.5, 4.0]) < want([1.0, 1.0]));
    }

    #[test]
    fn queries_keys_and_values_share_their_input() {
        let stem = "bert.encoder.layer.3.attention.self.";
        for part in ["query", "key", "value"] {
            assert_eq!(shared_input(&format!("{stem}{part}.weight")), stem);
        }
        for alone in ["value.weight", "a.attention.output.dense.weight", "a.query.weight", ""] {
            assert_eq!(shared_input(alone), alone);
        }
    }
}
