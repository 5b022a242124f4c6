//! Sizes of models, what a token reads of them, and recipes of their weights.

use super::energy::picojoules;
use super::kept::{Made, Weight};
use super::solver::{Cost, least};
use super::{Candidate, ExploreError, Job, Limit};
use crate::compress::{Pattern, Recipe, Rule};
use crate::layerwise::Treatment;
use lowbit::format::Sparsity;
use std::collections::{BTreeMap, BTreeSet};

/// Returns which weights take one input, by its number, and which candidates go with each other, by the number of the first.
pub(super) fn joints(weights: &[Weight], candidates: &[Candidate]) -> (Vec<usize>, Vec<usize>) {
    let inputs = weights.iter().map(|weight| weight.input).collect();
    let first = |candidate: &Candidate| candidates.iter().position(|c| c.goes_with(candidate));
    let kinds = candidates.iter().map(|candidate| first(candidate).unwrap_or(0)).collect();
    (inputs, kinds)
}

/// The sizes that all models of an exploration have in common, and those that candidates change.
pub(super) struct Sizes<'a> {
    weights: &'a [Weight],
    candidates: &'a [Candidate],
    made: &'a [Vec<Option<Made>>],
    /// The bytes of all other tensors.
    pub others: usize,
    /// The bytes of others that a token does not read: tables of which it reads a row.
    tables: usize,
    /// Products of a head that is not explored.
    head: f64,
    /// The elements of the weights.
    pub elements: usize,
}

impl<'a> Sizes<'a> {
    pub fn new(
        job: &'a Job<'_>,
        weights: &'a [Weight],
        made: &'a [Vec<Option<Made>>],
    ) -> Result<Self, ExploreError> {
        let explored: BTreeSet<&str> = weights.iter().map(|weight| weight.name.as_str()).collect();
        let embedding = &job.blueprint.embedding;
        let head = job.blueprint.head.as_ref().map(|head| head.linear.matrix.tensor.as_str());
        let positions = embedding.positions.as_ref().map(|(matrix, _)| matrix);
        let tables: BTreeSet<&str> = std::iter::once(&embedding.tokens)
            .chain(positions)
            .chain(&embedding.types)
            .map(|matrix| matrix.tensor.as_str())
            .filter(|&name| Some(name) != head)
            .collect();
        let mut sizes = Self {
            weights,
            candidates: &job.candidates,
            made,
            others: 0,
            tables: 0,
            head: 0.0,
            elements: weights.iter().map(|weight| weight.n * weight.k).sum(),
        };
        for item in job.source.items()? {
            let name = item.name.as_str();
            if explored.contains(name) {
                continue;
            }
            sizes.others += item.bytes;
            if tables.contains(name) {
                sizes.tables += item.bytes;
            }
            if Some(name) == head {
                sizes.head = item.elements() as f64;
            }
        }
        Ok(sizes)
    }

    fn made(&self, chosen: &[usize]) -> impl Iterator<Item = &Made> {
        self.made.iter().zip(chosen).filter_map(|(made, &index)| made.get(index)?.as_ref())
    }

    /// Returns the bytes of all tensors.
    pub fn bytes(&self, chosen: &[usize]) -> usize {
        self.others + self.made(chosen).map(|made| made.bytes).sum::<usize>()
    }

    /// Returns the bits of an explored weight on average.
    pub fn bits_per_weight(&self, chosen: &[usize]) -> f64 {
        let bytes: usize = self.made(chosen).map(|made| made.bytes).sum();
        8.0 * bytes as f64 / self.elements.max(1) as f64
    }

    /// Returns the bytes that are read for a token: all tensors but tables, of which it reads a row.
    pub fn bytes_per_token(&self, chosen: &[usize]) -> usize {
        self.bytes(chosen) - self.tables
    }

    /// Returns an estimate of the energy of a token.
    pub fn picojoules(&self, chosen: &[usize]) -> f64 {
        let (mut floats, mut integers) = (self.head, 0.0);
        for (weight, &index) in self.weights.iter().zip(chosen) {
            let candidate = self.candidates.get(index);
            let scheme = candidate.and_then(Candidate::scheme);
            let sparse = scheme.is_some_and(|s| s.format().sparsity() == Sparsity::TwoFour);
            let all = weight.n as f64 * weight.k as f64;
            let codes = candidate.and_then(Candidate::activations).is_some();
            let products = if codes { &mut integers } else { &mut floats };
            *products += if sparse { all / 2.0 } else { all };
        }
        picojoules(self.bytes_per_token(chosen), floats, integers)
    }

    /// Returns the bytes of all tensors that a limit of sizes allows.
    pub fn budget(&self, limit: Option<Limit>) -> Option<usize> {
        match limit? {
            Limit::Size(bytes) => Some(usize::try_from(bytes).unwrap_or(usize::MAX)),
            Limit::Bits(bits) => {
                Some(self.others.saturating_add((bits * self.elements as f64 / 8.0) as usize))
            }
            Limit::Loss(_) | Limit::Latency(_) => None,
        }
    }

    /// Checks that a limit of sizes can be kept.
    ///
    /// # Errors
    /// Returns [`ExploreError::Size`] or [`ExploreError::Bits`] with the smallest size that there is.
    pub fn check(&self, limit: Option<Limit>) -> Result<(), ExploreError> {
        let cost = |made: &Option<Made>| made.map(|made| Cost { bytes: made.bytes, loss: 0.0 });
        let costs: Vec<Vec<Option<Cost>>> =
            self.made.iter().map(|made| made.iter().map(cost).collect()).collect();
        let joints = joints(self.weights, self.candidates);
        let weights = least(&costs, &joints.0, &joints.1).ok_or(ExploreError::NoWeights)?;
        if self.budget(limit).is_none_or(|budget| budget >= self.others + weights) {
            return Ok(());
        }
        match limit {
            Some(Limit::Size(asked)) => {
                Err(ExploreError::Size { asked, least: self.others + weights })
            }
            Some(Limit::Bits(asked)) => {
                let least = 8.0 * weights as f64 / self.elements.max(1) as f64;
                Err(ExploreError::Bits { asked, least })
            }
            _ => Ok(()),
        }
    }

    /// Returns the recipe that gives each weight its candidate. Weights that stay as they are need no rule.
    pub fn recipe(&self, chosen: &[usize]) -> Result<Recipe, ExploreError> {
        let mut by_candidate: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for (weight, &index) in self.weights.iter().zip(chosen) {
            by_candidate.entry(index).or_default().push(&weight.name);
        }
        let pattern = |name: &str| -> Result<Pattern, ExploreError> {
            let pattern = globset::escape(name).parse();
            pattern.map_err(|source| ExploreError::Name { name: name.to_owned(), source })
        };
        let mut rules = Vec::new();
        for (index, names) in by_candidate {
            let Some(candidate) = self.candidates.get(index) else { continue };
            if candidate.scheme().is_some() {
                let tensors = names.into_iter().map(pattern).collect::<Result<_, _>>()?;
                rules.push(Rule {
                    tensors: Some(tensors),
                    scheme: candidate.scheme(),
                    treatment: candidate.treatment().clone(),
                });
            }
        }
        if rules.is_empty() {
            let tensors = Some(vec![
                "*".parse().map_err(|source| ExploreError::Name { name: "*".into(), source })?,
            ]);
            rules.push(Rule { tensors, scheme: None, treatment: Treatment::default() });
        }
        Ok(Recipe { rules })
    }
}
