//! One threshold of magnitude for the weights of all layers.

use super::{LayerwiseRunError, Plan, floats};
use crate::checkpoint::source::{Item, ModelSource};
use lowbit::compress::layerwise::{LayerwiseError, Pattern};
use std::collections::BTreeMap;

/// The magnitudes from which weights are kept, by weight.
pub(super) type Thresholds = BTreeMap<String, f32>;

/// The bits of a magnitude that are counted at a time.
const BITS: u32 = 16;

/// Finds the thresholds of all weights whose plan has one threshold for all: those that prune the same part share it. It is
/// what [`magnitude_threshold`](lowbit::compress::layerwise::magnitude_threshold) returns of all of them, with one weight in
/// memory at a time.
pub(super) fn thresholds(
    source: &dyn ModelSource,
    items: &BTreeMap<String, Item>,
    plans: &BTreeMap<String, Plan>,
) -> Result<Thresholds, LayerwiseRunError> {
    let mut sets: BTreeMap<u64, (f64, Vec<&Item>)> = BTreeMap::new();
    for (name, plan) in plans.iter().filter(|(_, plan)| plan.treatment.global) {
        if let (Pattern::Fraction(part), Some(item)) = (plan.treatment.sparsity, items.get(name)) {
            sets.entry(part.to_bits()).or_insert((part, Vec::new())).1.push(item);
        }
    }
    let mut found = Thresholds::new();
    for (part, items) in sets.into_values() {
        let all: usize = items.iter().map(|item| item.elements()).sum();
        let pruned = (all as f64 * part) as u64;
        // The high bits of the magnitude at this place in ascending order, and then the low ones.
        let (high, before) = place(source, &items, pruned, |bits| Some(bits >> BITS))?;
        let low = |bits: u32| (bits >> BITS == high).then_some(bits & ((1 << BITS) - 1));
        let (low, _) = place(source, &items, pruned.saturating_sub(before), low)?;
        let threshold = f32::from_bits(high << BITS | low);
        found.extend(items.iter().map(|item| (item.name.clone(), threshold)));
    }
    Ok(found)
}

/// Sorts the keys of the magnitudes that have one, and returns the key at a place, with the number of smaller keys.
fn place(
    source: &dyn ModelSource,
    items: &[&Item],
    place: u64,
    key: impl Fn(u32) -> Option<u32>,
) -> Result<(u32, u64), LayerwiseRunError> {
    let mut counts = vec![0u64; 1 << BITS];
    for item in items {
        let columns = item.shape.last().copied().unwrap_or(1).max(1);
        for (at, value) in floats(source, item)?.into_iter().enumerate() {
            if !value.is_finite() {
                let (what, row, column) = ("the weight", (at / columns) as u64, at % columns);
                let value = f64::from(value);
                return Err(LayerwiseRunError::Weight {
                    name: item.name.clone(),
                    source: LayerwiseError::NonFinite { what, row, column, value },
                });
            }
            // Subnormals count as 0, as in the mask.
            let bits = if value.is_normal() { value.abs().to_bits() } else { 0 };
            if let Some(count) = key(bits).and_then(|key| counts.get_mut(key as usize)) {
                *count += 1;
            }
        }
    }
    let mut before = 0;
    for (key, count) in (0..).zip(counts) {
        if before + count > place {
            return Ok((key, before));
        }
        before += count;
    }
    Ok((0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::ModelFile;
    use crate::checkpoint::{Content, Dtype};
    use crate::layerwise::{Method, Treatment};
    use lowbit::compress::layerwise::magnitude_threshold;

    #[test]
    fn equals_the_threshold_of_all_weights_in_memory() {
        let value = |at: usize| match at % 7 {
            0 => 0.0,
            1 => -1e-42,
            2 => 0.25,
            _ => ((at * 7919 + at * at) % 1000) as f32 / 300.0 - 1.5,
        };
        let weights: Vec<Vec<f32>> =
            [24, 40, 8].map(|count| (0..count).map(|at| value(at + count)).collect()).to_vec();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let bytes = |weight: &Vec<f32>| weight.iter().flat_map(|w| w.to_le_bytes()).collect();
        let bytes: Vec<Vec<u8>> = weights.iter().map(bytes).collect();
        let shapes = weights.iter().map(|weight| [weight.len() / 4, 4]).collect::<Vec<_>>();
        let names = ["a", "b", "c"];
        let tensors: Vec<(&str, Content<'_>)> = names
            .iter()
            .zip(shapes.iter().zip(&bytes))
            .map(|(name, (shape, bytes))| {
                (*name, Content::Plain { dtype: Dtype::F32, shape, bytes })
            })
            .collect();
        crate::checkpoint::write_model(path.as_path(), &tensors, &BTreeMap::new()).unwrap();
        let file = ModelFile::open(&path).unwrap();
        let items: BTreeMap<String, Item> =
            file.items().unwrap().into_iter().map(|item| (item.name.clone(), item)).collect();
        let plan = |part: f64| Plan {
            scheme: "f32".parse().unwrap(),
            treatment: Treatment {
                sparsity: Pattern::Fraction(part),
                global: true,
                ..Treatment::of(Method::Magnitude)
            },
        };
        for part in [0.0, 0.1, 0.3, 0.5, 0.77, 0.99] {
            // The third weight is pruned by another part, and so by itself.
            let plans = [("a", part), ("b", part), ("c", 0.4)];
            let plans = plans.map(|(name, part)| (name.to_owned(), plan(part))).into();
            let found = thresholds(&file, &items, &plans).unwrap();
            let want = magnitude_threshold(&[&weights[0], &weights[1]], part).unwrap();
            assert_eq!((found["a"], found["b"]), (want, want), "{part}");
            assert_eq!(found["c"], magnitude_threshold(&[&weights[2]], 0.4).unwrap());
        }
    }
}
