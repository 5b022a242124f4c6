//! A model in device memory.

use super::segment::Segment;
use super::weights::Weights;
use super::{LoadOptions, RunError};
use crate::architecture::{self, Blueprint};
use crate::checkpoint::source::{self, ModelSource};
use lowbit::host::Host;
use std::path::Path;
use std::sync::Arc;

/// A model whose weights are in device memory.
#[derive(Debug)]
pub struct Model {
    pub(super) host: Arc<Host>,
    pub(super) blueprint: Blueprint,
    pub(super) weights: Weights,
    pub(super) options: LoadOptions,
}

impl Model {
    /// Opens a model of any format and loads it: see [`from_source`](Self::from_source).
    ///
    /// # Errors
    /// Returns [`RunError`].
    pub async fn load(
        host: &Arc<Host>,
        path: impl AsRef<Path>,
        options: &LoadOptions,
    ) -> Result<Self, RunError> {
        Self::from_source(host, &source::open(path)?, options, &|_, _| ()).await
    }

    /// Reads the weights of a model and puts them into device memory: as they are in the file, or compressed
    /// on the way. `progress` is called with the number of parts that are loaded, and of all parts.
    ///
    /// # Errors
    /// Returns [`RunError`] if the model is not understood, a tensor is missing or invalid, or the device
    /// fails.
    pub async fn from_source(
        host: &Arc<Host>,
        source: &dyn ModelSource,
        options: &LoadOptions,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self, RunError> {
        let blueprint = architecture::read(source)?;
        let segment = Segment::whole(&blueprint);
        Self::of_segment(host, source, (blueprint, &segment), options, progress).await
    }

    /// Does the same for a segment of the model that a blueprint describes.
    pub(super) async fn of_segment(
        host: &Arc<Host>,
        source: &dyn ModelSource,
        (blueprint, segment): (Blueprint, &Segment),
        options: &LoadOptions,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self, RunError> {
        let weights = Weights::load(host, source, (&blueprint, segment), options, progress).await?;
        Ok(Self { host: host.clone(), blueprint, weights, options: options.clone() })
    }

    /// Returns what the model is.
    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// Returns the device that the model is on.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Returns the bytes of device memory that the weights take.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }
}
