//! Which weights of a model a recipe is about.

use super::{Plan, Treatment};
use crate::architecture;
use crate::checkpoint::source::{Item, ItemKind, ModelSource, SourceError};
use crate::checkpoint::{Dtype, matrix_shape};
use crate::compress::{Pattern, Rule, SelectRequest};
use std::collections::BTreeMap;

/// The plans of a model's weights, and the patterns that match none.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Plans {
    /// The plans, by weight.
    pub plans: BTreeMap<String, Plan>,
    /// The patterns that match no weight that could be compressed.
    pub unmatched: Vec<String>,
    /// The names of all weights that could be compressed.
    pub weights: Vec<String>,
}

/// Returns what becomes of each weight of a model: of its float and compressed matrices, those that a pattern of the
/// recipe matches, or that are the weights of linear layers.
///
/// # Errors
/// Returns [`SourceError`] if the model cannot be listed.
pub fn plans(source: &dyn ModelSource, request: &SelectRequest) -> Result<Plans, SourceError> {
    let roles = architecture::roles(source);
    let is_weight = |item: &&Item| {
        let numbers = match &item.kind {
            ItemKind::Plain(dtype) => matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16),
            ItemKind::Compressed(_) => true,
            ItemKind::Unsupported(_) => false,
        };
        numbers && item.shape.len() == 2 && matrix_shape(&item.shape).is_some()
    };
    let items = source.items()?;
    let items: Vec<&Item> = items.iter().filter(is_weight).collect();
    let excluded = |name: &str| request.exclude.iter().any(|pattern| pattern.matches(name));
    let mut found = Plans::default();
    for item in &items {
        let name = item.name.as_str();
        found.weights.push(name.to_owned());
        let linear = roles.get(name).copied().or(item.role).is_some_and(|role| role.is_linear());
        let about = |rule: &&Rule| match &rule.tensors {
            None => linear,
            Some(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
        };
        let rule = request.recipe.rules.iter().find(about).filter(|_| !excluded(name));
        if let Some(Rule { scheme: Some(scheme), treatment, .. }) = rule {
            let treatment: Treatment = treatment.clone();
            found.plans.insert(name.to_owned(), Plan { scheme: *scheme, treatment });
        }
    }
    let patterns = request.recipe.rules.iter().flat_map(|rule| rule.tensors.iter().flatten());
    let unmatched = |pattern: &&Pattern| !items.iter().any(|item| pattern.matches(&item.name));
    let all = patterns.chain(&request.exclude).filter(unmatched);
    found.unmatched = all.map(ToString::to_string).collect();
    Ok(found)
}
