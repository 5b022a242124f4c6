//! The part of a model that can be read.

use super::{Data, Family, Item, ItemKind, ModelSource, Omission, SourceError};
use crate::checkpoint::{IoError, LayerActivations};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A model without the tensors and weights that cannot be read: those that lowbit has no format for, and
/// those whose scales are not valid. They are among its [`omissions`](ModelSource::omissions), so that one
/// of them does not keep the others from being imported, decompressed or exported.
#[derive(Debug)]
pub struct Readable<'a> {
    model: &'a dyn ModelSource,
    items: Vec<Item>,
    omissions: Vec<Omission>,
    refused: Option<Refused>,
}

/// The reason to refuse a model of which nothing can be read.
#[derive(Debug)]
struct Refused {
    count: usize,
    stored: String,
    first: Omission,
}

impl<'a> Readable<'a> {
    /// Checks every item of a model. The scales of weights are read for this, but not their codes.
    ///
    /// # Errors
    /// Returns [`SourceError`] if something in the model does not fit together.
    pub fn new(model: &'a dyn ModelSource) -> Result<Self, SourceError> {
        let mut items = model.items()?;
        let mut found = Vec::new();
        if model.refusal().is_none() {
            items.retain(|item| match reason(model, item) {
                None => true,
                Some(why) => {
                    let (name, what) = (item.name.clone(), item.stored.clone());
                    found.push(Omission { name, what, why });
                    false
                }
            });
        }
        let refused = found.first().filter(|_| items.is_empty()).map(|first| {
            let stored: BTreeSet<&str> = found.iter().map(|left| left.what.as_str()).collect();
            let stored = stored.into_iter().collect::<Vec<_>>().join(", ");
            Refused { count: found.len(), stored, first: first.clone() }
        });
        let mut omissions = model.omissions();
        omissions.extend(found);
        omissions.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { model, items, omissions, refused })
    }
}

/// Returns the reason why an item cannot be read, if it cannot.
fn reason(model: &dyn ModelSource, item: &Item) -> Option<String> {
    if let ItemKind::Unsupported(why) = &item.kind {
        return Some(why.clone());
    }
    Some(match model.check(&item.name).err()? {
        // The name stands beside the reason already.
        SourceError::Io(IoError::Format { source, .. }) => source.to_string(),
        error => format!("{error}; {}", error.next_step()),
    })
}

impl ModelSource for Readable<'_> {
    fn family(&self) -> Family {
        self.model.family()
    }

    fn variant(&self) -> Option<String> {
        self.model.variant()
    }

    fn architecture(&self) -> Option<&str> {
        self.model.architecture()
    }

    fn config(&self) -> &Value {
        self.model.config()
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.model.metadata()
    }

    fn files(&self) -> Vec<String> {
        self.model.files()
    }

    fn file_bytes(&self) -> usize {
        self.model.file_bytes()
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        Ok(self.items.clone())
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        self.model.read(name)
    }

    fn activations(&self, name: &str) -> Result<Option<LayerActivations>, SourceError> {
        self.model.activations(name)
    }

    /// Returns the reason of the model, or that nothing of it can be read.
    fn refusal(&self) -> Option<SourceError> {
        let nothing = |Refused { count, stored, first }: &Refused| {
            let (first, why) = (first.name.clone(), first.why.clone());
            SourceError::UnsupportedWeights { count: *count, stored: stored.clone(), first, why }
        };
        self.model.refusal().or_else(|| self.refused.as_ref().map(nothing))
    }

    fn omissions(&self) -> Vec<Omission> {
        self.omissions.clone()
    }

    fn warnings(&self) -> Vec<String> {
        self.model.warnings()
    }
}
