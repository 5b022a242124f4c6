//! Structured pruning: rows of feed-forward blocks and attention heads are cut out.

use super::tensors::{Edit, Side, Tensors};
use super::{Changed, TransformError, World, settings};
use crate::architecture::{self, Attention, Blueprint, Feed, Gated, Layer, Linear, Matrix};
use crate::checkpoint::source::ModelSource;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How much of something is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// This many.
    Count(usize),
    /// This share of what there is, rounded up: above 0 and at most 1.
    Share(f64),
}

/// The parts of each layer that are kept; the rest is cut out. Layers keep the same number, as the configuration
/// has one number for all of them, but each keeps its own best.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cut {
    /// The rows between the two linear layers of a feed-forward block (`intermediate_size`), or `None` for all.
    pub feed: Option<Keep>,
    /// The heads of queries, or `None` for all. Heads that share a head of keys and values are kept or cut
    /// together.
    pub heads: Option<Keep>,
}

/// The Euclidean norms of the columns of what weights take, by the names of the weights.
pub type InputNorms = BTreeMap<String, Vec<f32>>;

/// Cuts rows of feed-forward blocks and attention heads out of a model.
///
/// Kept are those with the highest scores. If `norms` are given, the score of a row of a feed-forward block is the
/// norm of that column of the input of `down`, times the norm of the column of `down` that takes it, and the score of
/// a head is the root of the sum of these products' squares over its columns of the output layer. If not, the
/// norm of the input is replaced by that of the row of weights that makes it: of `up`, times that of `gate`, or of
/// the values. Of equal scores the first is kept.
///
/// # Errors
/// Returns [`TransformError::Refused`] for mixtures of experts, and for heads of models whose configuration cannot
/// say that a head has another size than the hidden size over the number of heads; [`TransformError::Keep`] if
/// there are not as many as are to be kept, or if they are no whole groups; [`TransformError::MissingFor`] and
/// [`TransformError::WrongLength`] for `norms` that do not fit; and other errors if the model is not one of
/// valid floats.
pub fn cut(
    source: &dyn ModelSource,
    request: &Cut,
    norms: Option<&InputNorms>,
) -> Result<Changed, TransformError> {
    let blueprint = architecture::read(source)?;
    let (world, mut config) = settings(source);
    let mut cutting = Cutting { tensors: Tensors::new(source)?, norms };
    let mut sizes = Vec::new();
    if let Some(keep) = request.feed {
        let count = cutting.feed(&blueprint, keep)?;
        sizes.extend(feed_setting(&blueprint, world).map(|key| (key, count)));
    }
    if let Some(keep) = request.heads {
        check_heads(&blueprint)?;
        let (heads, kv_heads, head_dim) = cutting.heads(&blueprint, keep)?;
        let keys = match world {
            World::Hf => ["num_attention_heads", "num_key_value_heads", "head_dim"],
            World::Gguf => {
                ["attention.head_count", "attention.head_count_kv", "attention.key_length"]
            }
        };
        sizes.extend(keys.into_iter().zip([heads, kv_heads, head_dim]));
        if world == World::Gguf {
            sizes.push(("attention.value_length", head_dim));
        }
    }
    set(&mut config, world, &sizes);
    let config = (!sizes.is_empty()).then_some(config);
    Changed { tensors: cutting.tensors.finish()?, config }.check(source)
}

fn refused(blueprint: &Blueprint, why: &str) -> TransformError {
    let (family, why) = (blueprint.family, why.to_owned());
    TransformError::Refused { family, change: "cut", why }
}

/// Checks that the configuration can say how many heads there are, whatever the hidden size is. Those of decoders
/// with rotary embeddings can.
fn check_heads(blueprint: &Blueprint) -> Result<(), TransformError> {
    if blueprint.layers.iter().all(|layer| layer.attention.rotary.is_some()) {
        return Ok(());
    }
    let why = "its configuration has no size of a head, which is taken to be the hidden size over the number of heads";
    Err(refused(blueprint, why))
}

/// Returns the setting that has the rows of feed-forward blocks.
fn feed_setting(blueprint: &Blueprint, world: World) -> Option<&'static str> {
    Some(match (world, blueprint.family) {
        (World::Gguf, _) => "feed_forward_length",
        (World::Hf, "gpt2") => "n_inner",
        (World::Hf, "distilbert") => "hidden_dim",
        (World::Hf, _) => "intermediate_size",
    })
}

/// Sets sizes in a configuration.
fn set(config: &mut Value, world: World, sizes: &[(&str, usize)]) {
    let prefix = match world {
        World::Hf => String::new(),
        World::Gguf => {
            let name = config.get("general.architecture").and_then(Value::as_str);
            name.map_or_else(String::new, |name| format!("{name}."))
        }
    };
    // A model of several parts has the settings of its text model inside of its own.
    let inner = world == World::Hf && config.get("text_config").is_some_and(Value::is_object);
    let settings = if inner { config.get_mut("text_config") } else { Some(config) };
    if let Some(Value::Object(settings)) = settings {
        settings.extend(sizes.iter().map(|(key, size)| (format!("{prefix}{key}"), json!(size))));
    }
}

impl Keep {
    /// Returns how many of `all` are kept.
    fn of(self, all: usize, what: &'static str) -> Result<usize, TransformError> {
        let (count, have) = match self {
            Self::Count(count) => (count, count.to_string()),
            Self::Share(share) => {
                let count = (share * all as f64).ceil();
                let valid = share > 0.0 && share <= 1.0;
                (if valid { count as usize } else { 0 }, format!("a share of {share} of the"))
            }
        };
        if (1..=all).contains(&count) {
            return Ok(count);
        }
        let need = match self {
            Self::Count(_) => format!("from 1 to {all}"),
            Self::Share(_) => "one above 0 and at most 1".to_owned(),
        };
        Err(TransformError::Keep { what, have, need })
    }
}

/// A model out of which something is being cut.
struct Cutting<'a> {
    tensors: Tensors<'a>,
    norms: Option<&'a InputNorms>,
}

impl Cutting<'_> {
    /// Cuts rows out of all feed-forward blocks, and returns how many are left in each.
    fn feed(&mut self, blueprint: &Blueprint, keep: Keep) -> Result<usize, TransformError> {
        let mut left = 0;
        for Layer { feed, .. } in &blueprint.layers {
            let (ups, down) = match feed {
                Feed::Plain { up, down, .. } => (vec![up], down),
                Feed::Gated(Gated { gate, up, down, .. }) => (vec![gate, up], down),
                Feed::Experts { .. } => {
                    let why = "rows of the experts of a mixture are not cut";
                    return Err(refused(blueprint, why));
                }
            };
            let mut scores = self.columns(&down.matrix)?;
            left = keep.of(scores.len(), "rows of a feed-forward block")?;
            match self.norms_of(&down.matrix, scores.len())? {
                Some(norms) => multiply(&mut scores, norms.iter().map(|norm| f64::from(*norm))),
                None => {
                    for up in &ups {
                        let rows = self.rows(&up.matrix)?;
                        multiply(&mut scores, rows.into_iter());
                    }
                }
            }
            let kept = best(&scores, left);
            for up in ups {
                self.keep_rows(up, &kept);
            }
            let inputs = Side::Chosen(kept);
            self.tensors.edit(&down.matrix, Edit { inputs, ..Edit::default() });
        }
        Ok(left)
    }

    /// Cuts heads out of all attentions. Returns how many heads of queries and of keys are left in each, and the
    /// size of a head.
    fn heads(
        &mut self,
        blueprint: &Blueprint,
        keep: Keep,
    ) -> Result<(usize, usize, usize), TransformError> {
        const WHAT: &str = "attention heads";
        let mut left = (0, 0, 0);
        for Layer { attention, .. } in &blueprint.layers {
            let Attention { heads, kv_heads, head_dim, query, key, value, output, .. } = attention;
            let group = heads.checked_div(*kv_heads).unwrap_or(1).max(1);
            let count = match keep {
                // A share is one of the groups, so that it always fits.
                Keep::Share(_) => keep.of(*kv_heads, WHAT)? * group,
                Keep::Count(_) => keep.of(*heads, WHAT)?,
            };
            if !count.is_multiple_of(group) {
                let need = format!("a multiple of {group}, which share a head of keys and values");
                let have = count.to_string();
                return Err(TransformError::Keep { what: WHAT, have, need });
            }
            left = (count, count / group, *head_dim);
            let mut columns = self.columns(&output.matrix)?;
            match self.norms_of(&output.matrix, columns.len())? {
                Some(norms) => multiply(&mut columns, norms.iter().map(|norm| f64::from(*norm))),
                None => {
                    let rows = self.rows(&value.matrix)?;
                    let of_heads = rows.chunks((*head_dim).max(1));
                    let repeated = of_heads.flat_map(|head| std::iter::repeat_n(head, group));
                    multiply(&mut columns, repeated.flatten().copied());
                }
            }
            let squares = |group: &[f64]| group.iter().map(|x| x * x).sum::<f64>().sqrt();
            let scores: Vec<f64> = columns.chunks((group * head_dim).max(1)).map(squares).collect();
            let kept = best(&scores, count / group);
            let of = |size: usize| -> Vec<usize> {
                kept.iter().flat_map(|head| head * size..(head + 1) * size).collect()
            };
            let (queries, keys) = (of(group * head_dim), of(*head_dim));
            self.keep_rows(query, &queries);
            self.keep_rows(key, &keys);
            self.keep_rows(value, &keys);
            let inputs = Side::Chosen(queries);
            self.tensors.edit(&output.matrix, Edit { inputs, ..Edit::default() });
        }
        Ok(left)
    }

    fn keep_rows(&mut self, linear: &Linear, kept: &[usize]) {
        let outputs = Side::Chosen(kept.to_vec());
        if let Some(bias) = &linear.bias {
            self.tensors.edit_vector(bias, None, outputs.clone());
        }
        self.tensors.edit(&linear.matrix, Edit { outputs, ..Edit::default() });
    }

    fn norms_of(&self, matrix: &Matrix, columns: usize) -> Result<Option<&[f32]>, TransformError> {
        const WHAT: &str = "norms of inputs";
        let Some(norms) = self.norms else { return Ok(None) };
        let name = || matrix.tensor.clone();
        let missing = || TransformError::MissingFor { name: name(), what: WHAT };
        let norms = norms.get(&matrix.tensor).ok_or_else(missing)?;
        if norms.len() == columns {
            return Ok(Some(norms));
        }
        let have = norms.len();
        Err(TransformError::WrongLength { name: name(), what: WHAT, have, need: columns })
    }

    /// Returns the norms of the rows of a matrix.
    fn rows(&self, matrix: &Matrix) -> Result<Vec<f64>, TransformError> {
        let (values, k) = self.tensors.matrix(matrix)?;
        let norm = |row: &[f32]| row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
        Ok(values.chunks_exact(k.max(1)).map(norm).collect())
    }

    /// Returns the norms of the columns of a matrix.
    fn columns(&self, matrix: &Matrix) -> Result<Vec<f64>, TransformError> {
        let (values, k) = self.tensors.matrix(matrix)?;
        let mut sums = vec![0.0; k];
        for row in values.chunks_exact(k.max(1)) {
            sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(*w).powi(2));
        }
        Ok(sums.into_iter().map(f64::sqrt).collect())
    }
}

fn multiply(scores: &mut [f64], by: impl Iterator<Item = f64>) {
    scores.iter_mut().zip(by).for_each(|(score, by)| *score *= by);
}

/// Returns the places of the highest scores, in order. Of equal scores the first is taken.
fn best(scores: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<(usize, f64)> = scores.iter().copied().enumerate().collect();
    places.sort_by(|a, b| b.1.total_cmp(&a.1));
    places.truncate(count);
    let mut places: Vec<usize> = places.into_iter().map(|(place, _)| place).collect();
    places.sort_unstable();
    places
}
