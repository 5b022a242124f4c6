//! Parts of a model that run by themselves.

use crate::architecture::{Blueprint, Layer};
use std::ops::Range;

/// What a segment starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Tokens.
    Tokens,
    /// The residual that an earlier segment left.
    Stream {
        /// Whether something is still to be added to it.
        pending: bool,
    },
}

/// Layers of a model that lie one after the other, with the embedding or the head if they are at either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub entry: Entry,
    pub layers: Range<usize>,
    /// Whether the last normalization and the head follow.
    pub ends: bool,
}

impl Segment {
    /// Returns the segment that is the whole model.
    pub fn whole(blueprint: &Blueprint) -> Self {
        Self { entry: Entry::Tokens, layers: 0..blueprint.layers.len(), ends: true }
    }

    /// Returns its layers.
    pub fn layers_of<'a>(&self, blueprint: &'a Blueprint) -> &'a [Layer] {
        blueprint.layers.get(self.layers.clone()).unwrap_or_default()
    }
}
