use super::columns::{Columns, Prune};
use super::error::LayerwiseError;
use super::objective::Objective;
use super::rounder::Rounder;
use super::{Gram, Made, Mask, Options, Order, Pattern, Warning, check_gram, check_matrix, dense};
use crate::compress::{Rule, Scheme, dequantize, quantize_scheme};
use crate::format::PackedWeights;

/// Quantizes a layer column by column, and corrects the columns that follow for the error of each
/// (Frantar, Ashkboos, Hoefler and Alistarh 2022, "GPTQ: Accurate Post-Training Quantization for
/// Generative Pre-trained Transformers").
///
/// `w` is `[n, k]` in row-major order, where k is the number of columns of `gram`, the Gram matrix of
/// the layer's inputs. With H its multiple whose diagonal has the mean 1, plus the damping on the diagonal, and
/// U upper triangular with H⁻¹ = UᵀU, for each column i:
///
/// ```text
/// ŵ_i = round(w_i)        e = (w_i − ŵ_i) / U_ii        w_j −= e · U_ij for j > i
/// ```
///
/// Scales follow from the updated weights when the first column of their group is reached, or from the
/// weights before all updates with static groups. Scales for the whole matrix are those of the weights
/// before all updates. Of ggml's rules, blocks find their scales as theirs do, and each weight then
/// takes the code whose number is nearest.
///
/// [`Made::error_before`] is the error of rounding to nearest by the same scheme.
///
/// # Errors
/// Returns a [`LayerwiseError`] if sizes do not match, a weight is not finite, an option is out of
/// range, there are no rows of inputs, or the format is 2:4 sparse, has no rule or cannot hold the
/// weights.
pub fn gptq(
    w: &[f32],
    n: usize,
    k: usize,
    gram: &Gram,
    scheme: &Scheme,
    options: &Options,
) -> Result<Made, LayerwiseError> {
    if scheme.format().is_sparse() {
        return Err(LayerwiseError::Unsupported {
            method: "gptq",
            format: scheme.format(),
            why: "it prunes nothing; use sparse_gpt with the pattern 2:4",
        });
    }
    let prepared = Prepared::new(w, n, k, gram, scheme, options)?;
    let plain = quantize_scheme(w, n, k, scheme)?;
    let before = dequantize(&plain);
    prepared.run(Prune::Pattern(Pattern::Dense), &before, || Ok((plain, None)))
}

/// A layer whose inputs and options are checked, with what its methods share.
pub(super) struct Prepared<'a> {
    w: &'a [f32],
    n: usize,
    k: usize,
    gram: &'a Gram,
    options: &'a Options,
    rounder: Rounder,
}

impl<'a> Prepared<'a> {
    pub fn new(
        w: &'a [f32],
        n: usize,
        k: usize,
        gram: &'a Gram,
        scheme: &'a Scheme,
        options: &'a Options,
    ) -> Result<Self, LayerwiseError> {
        let rounder = Rounder::new(scheme, n, k, options.clip)?;
        check_matrix("the matrix", w, n, k)?;
        check_gram(gram, k)?;
        options.check()?;
        let permutes = options.order == Order::ByDiagonal { static_groups: false };
        if permutes && scheme.rule() == Rule::Ggml {
            return Err(LayerwiseError::Unsupported {
                method: "the order by the diagonal",
                format: scheme.format(),
                why: "ggml's types store no order of columns; use static groups",
            });
        }
        Ok(Self { w, n, k, gram, options, rounder })
    }

    pub fn rounder(&self) -> &Rounder {
        &self.rounder
    }

    /// Runs the loop. `before` is what the plain method keeps, and `plain` gives its weights and
    /// mask, which are the result if H cannot be factored.
    pub fn run(
        self,
        prune: Prune<'_>,
        before: &[f32],
        plain: impl FnOnce() -> Result<(PackedWeights, Option<Mask>), LayerwiseError>,
    ) -> Result<Made, LayerwiseError> {
        let objective = Objective::new(self.gram);
        let error_before = objective.error(self.w, before)?;
        let diagonal = self.gram.diagonal();
        let dead: Vec<bool> = diagonal.iter().map(|&x| x <= 0.0).collect();
        let mut warnings = Vec::new();
        if let Some(first) = dead.iter().position(|&dead| dead) {
            let count = dead.iter().filter(|&&dead| dead).count();
            warnings.push(Warning::DeadColumns { count, first });
        }
        let order = match self.options.order {
            Order::AsIs | Order::AsIsStatic => None,
            Order::ByDiagonal { .. } => Some(by_diagonal(&diagonal)),
        };
        let factor = self.factor(&diagonal, order.as_deref(), &mut warnings);
        let (packed, mask) = match &factor {
            None => plain()?,
            Some(factor) => {
                let columns = Columns {
                    w: self.w,
                    n: self.n,
                    k: self.k,
                    factor: Some(factor),
                    dead: &dead,
                    order: order.as_deref(),
                    static_groups: matches!(
                        self.options.order,
                        Order::AsIsStatic | Order::ByDiagonal { static_groups: true }
                    ),
                    prune,
                    block: self.options.block,
                };
                let made = columns.run(self.rounder)?;
                (made.packed, made.mask)
            }
        };
        let kept = dequantize(&packed);
        let error = objective.error(self.w, &kept)?;
        Ok(Made { packed, mask, kept, warnings, error_before, error })
    }

    /// Factors H, with more damping if that is needed, or returns `None`.
    fn factor(
        &self,
        diagonal: &[f64],
        order: Option<&[u32]>,
        warnings: &mut Vec<Warning>,
    ) -> Option<Vec<f64>> {
        let alive = diagonal.iter().filter(|&&x| x > 0.0);
        let mean = alive.clone().sum::<f64>() / alive.count().max(1) as f64;
        let asked = self.options.damping;
        let mut damping = asked;
        loop {
            let column = |at: usize| order.map_or(at, |order| order[at] as usize);
            let entry = |i: usize, j: usize| {
                let (a, b) = (column(i), column(j));
                let dead = diagonal[a] <= 0.0 || diagonal[b] <= 0.0;
                match (i == j, dead) {
                    (true, true) => 1.0 + damping,
                    (true, false) => diagonal[a] / mean + damping,
                    (false, true) => 0.0,
                    (false, false) => self.gram.value(a, b) / mean,
                }
            };
            let factor = dense::factor(self.k, entry);
            if factor.is_some() {
                if damping != asked {
                    warnings.push(Warning::Damped { asked, used: damping });
                }
                return factor;
            }
            if damping >= MOST_DAMPING {
                warnings.push(Warning::Rounded { damping });
                return None;
            }
            let next = if damping == 0.0 { Options::default().damping } else { 10.0 * damping };
            damping = next.min(MOST_DAMPING);
        }
    }
}

/// The damping beyond which updates would be small anyway: as much as the mean of the diagonal.
const MOST_DAMPING: f64 = 1.0;

/// Returns the columns by falling diagonal of the Gram matrix. Of equal ones, the lowest comes first.
fn by_diagonal(diagonal: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..diagonal.len() as u32).collect();
    order.sort_by(|&a, &b| diagonal[b as usize].total_cmp(&diagonal[a as usize]));
    order
}
