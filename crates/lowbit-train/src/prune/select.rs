//! Masks from scores.

use super::{Mask, PruneError};
use crate::random::{Purpose, Random};
use serde::Deserialize;
use std::cmp::Ordering;

/// How kept weights may lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Pattern {
    /// Anywhere.
    #[default]
    Unstructured,
    /// At most `n` in every `m` consecutive columns of a row; the last ones of a row may be fewer.
    NofM {
        /// Weights that are kept.
        n: usize,
        /// Weights of which they are kept.
        m: usize,
    },
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bad = || {
            format!("{text:?} is no pattern: it is unstructured, or N:M like 2:4 with N below M")
        };
        if text == "unstructured" {
            return Ok(Self::Unstructured);
        }
        let (n, m) = text.split_once(':').ok_or_else(bad)?;
        match (n.parse(), m.parse()) {
            (Ok(n), Ok(m)) if n > 0 && n < m && m <= 64 => Ok(Self::NofM { n, m }),
            _ => Err(bad()),
        }
    }
}

/// Which weights compete for being kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The weights of one layer.
    #[default]
    Layer,
    /// The weights of all layers.
    Global,
}

/// What a layer's weights are worth, `[rows, columns]`, and the fraction of them that is pruned.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// The greater, the better. NaN is less than any number.
    pub values: Vec<f32>,
    /// The fraction of weights to prune, within 0…1.
    pub sparsity: f64,
}

/// Makes masks that keep the weights with the greatest scores. Among equal scores, the lowest positions are
/// kept, and the first layers. Unstructured masks prune the nearest number to `sparsity · weights`: of each
/// layer, or the sum over layers. The pattern N:M alone says how many weights it keeps.
///
/// # Errors
/// Returns [`PruneError::BadParameter`] if a sparsity is not within 0…1.
pub fn select(layers: &[Scores], pattern: Pattern, scope: Scope) -> Result<Vec<Mask>, PruneError> {
    if let Some(bad) = layers.iter().find(|layer| !(0.0..=1.0).contains(&layer.sparsity)) {
        let value = bad.sparsity.to_string();
        return Err(PruneError::BadParameter { what: "the sparsity", value, allowed: "0 to 1" });
    }
    Ok(match (pattern, scope) {
        (Pattern::NofM { n, m }, _) => layers.iter().map(|layer| n_of_m(layer, n, m)).collect(),
        (_, Scope::Layer) => {
            layers.iter().flat_map(|layer| best(std::slice::from_ref(layer))).collect()
        }
        (_, Scope::Global) => best(layers),
    })
}

/// Makes random masks that keep as many weights of each layer as `like`.
pub fn select_random(like: &[Mask], seed: u64) -> Vec<Mask> {
    let random = like.iter().zip(0..).map(|(mask, layer)| {
        let order = Random::new(seed, Purpose::Mask(layer)).permutation(mask.len());
        let mut keep = vec![false; mask.len()];
        order[..mask.kept()].iter().for_each(|&at| keep[at] = true);
        Mask::new(mask.rows(), mask.columns(), |at| keep[at])
    });
    random.collect()
}

/// Orders scores from the best to the worst.
fn better(a: f32, b: f32) -> Ordering {
    let rank = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x + 0.0 };
    rank(b).total_cmp(&rank(a))
}

/// Makes unstructured masks over all given layers.
fn best(layers: &[Scores]) -> Vec<Mask> {
    let pruned: f64 = layers.iter().map(|layer| layer.sparsity * layer.values.len() as f64).sum();
    let mut order: Vec<(u32, u32)> = layers
        .iter()
        .zip(0..)
        .flat_map(|(layer, number)| (0..layer.values.len() as u32).map(move |at| (number, at)))
        .collect();
    let kept = order.len() - (pruned.round() as usize).min(order.len());
    let score = |&(layer, at): &(u32, u32)| layers[layer as usize].values[at as usize];
    if kept < order.len() {
        order.select_nth_unstable_by(kept, |a, b| better(score(a), score(b)).then(a.cmp(b)));
    }
    let mut keep: Vec<Vec<bool>> =
        layers.iter().map(|layer| vec![false; layer.values.len()]).collect();
    order[..kept].iter().for_each(|&(layer, at)| keep[layer as usize][at as usize] = true);
    let masks = layers.iter().zip(&keep);
    masks.map(|(layer, keep)| Mask::new(layer.rows, layer.columns, |at| keep[at])).collect()
}

/// Keeps the best `n` of every `m` columns.
fn n_of_m(layer: &Scores, n: usize, m: usize) -> Mask {
    let mut keep = vec![false; layer.values.len()];
    for row in 0..layer.rows {
        for from in (0..layer.columns).step_by(m) {
            let first = row * layer.columns + from;
            let count = m.min(layer.columns - from);
            let mut order: Vec<usize> = (first..first + count).collect();
            order.sort_by(|&a, &b| better(layer.values[a], layer.values[b]));
            order.iter().take(n).for_each(|&at| keep[at] = true);
        }
    }
    Mask::new(layer.rows, layer.columns, |at| keep[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(rows: usize, columns: usize, values: &[f32], sparsity: f64) -> Scores {
        Scores { rows, columns, values: values.to_vec(), sparsity }
    }

    fn kept(mask: &Mask) -> Vec<usize> {
        (0..mask.len()).filter(|&at| mask.keeps(at)).collect()
    }

    #[test]
    fn layers_by_hand() {
        let layers = [
            scores(2, 3, &[3.0, 1.0, 2.0, 1.0, f32::NAN, 2.0], 0.5),
            scores(1, 2, &[9.0, 8.0], 0.5),
        ];
        let masks = select(&layers, Pattern::Unstructured, Scope::Layer).unwrap();
        assert_eq!(masks.iter().map(kept).collect::<Vec<_>>(), [vec![0, 2, 5], vec![0]]);
        let masks = select(&layers, Pattern::Unstructured, Scope::Global).unwrap();
        assert_eq!(masks.iter().map(kept).collect::<Vec<_>>(), [vec![0, 2], vec![0, 1]]);
    }

    #[test]
    fn ties_keep_the_lowest_positions() {
        let layers = [scores(1, 4, &[0.0, -0.0, 0.0, 0.0], 0.5), scores(1, 2, &[0.0; 2], 0.5)];
        for scope in [Scope::Layer, Scope::Global] {
            let masks = select(&layers, Pattern::Unstructured, scope).unwrap();
            let left: Vec<_> = masks.iter().map(kept).collect();
            let want =
                if scope == Scope::Layer { [vec![0, 1], vec![0]] } else { [vec![0, 1, 2], vec![]] };
            assert_eq!(left, want);
        }
    }

    /// Magnitudes give the mask of lowbit's own 2:4 pruning, ragged rows too.
    #[test]
    fn two_of_four_is_that_of_lowbit() {
        let random = Random::new(3, Purpose::Subset);
        for columns in [8, 7, 13, 1] {
            let w: Vec<f32> =
                (0..4 * columns).map(|at| (random.normal(at as u64) * 3.0).round()).collect();
            let values: Vec<f32> = w.iter().map(|w| w.abs()).collect();
            let layer = scores(4, columns, &values, 0.5);
            let pattern = Pattern::NofM { n: 2, m: 4 };
            let mask = select(&[layer], pattern, Scope::Layer).unwrap().remove(0);
            let want = lowbit::compress::prune_magnitude(&w, 4, columns).unwrap();
            for at in 0..mask.len() {
                assert_eq!(
                    mask.keeps(at),
                    want.keeps(at / columns, at % columns),
                    "{columns} {at}"
                );
            }
        }
    }

    #[test]
    fn all_and_nothing() {
        for (sparsity, left) in [(0.0, 5), (1.0, 0)] {
            let layer = scores(1, 5, &[1.0; 5], sparsity);
            let masks = select(&[layer], Pattern::Unstructured, Scope::Global).unwrap();
            assert_eq!(masks[0].kept(), left);
        }
        let bad = scores(1, 1, &[1.0], 1.5);
        assert!(select(&[bad], Pattern::Unstructured, Scope::Layer).is_err());
        assert!(select(&[], Pattern::Unstructured, Scope::Global).unwrap().is_empty());
    }

    #[test]
    fn random_masks_keep_as_many() {
        let like = [Mask::new(10, 30, |at| at % 7 == 0), Mask::all(2, 3)];
        let masks = select_random(&like, 1);
        assert_eq!(masks.iter().map(Mask::kept).collect::<Vec<_>>(), [43, 6]);
        assert_ne!(masks[0], like[0]);
        assert_eq!(masks, select_random(&like, 1));
        assert_ne!(masks, select_random(&like, 2));
    }

    #[test]
    fn names_of_patterns() {
        let parse = |text: &str| Pattern::try_from(text.to_owned());
        assert_eq!(parse("unstructured"), Ok(Pattern::Unstructured));
        assert_eq!(parse("2:4"), Ok(Pattern::NofM { n: 2, m: 4 }));
        for bad in ["", "2:", "4:4", "0:4", "a:b", "2:4:8", "1:65"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
