//! The tensors of a model: each is looked up by name and checked before it is part of a blueprint.

use super::{ArchitectureError, Linear, Matrix, Norm, NormKind, Vector};
use crate::checkpoint::Dtype;
use crate::checkpoint::source::{Item, ItemKind};
use std::collections::BTreeMap;

/// Whether a linear layer has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    Always,
    Never,
    /// The configuration does not say it: there is one if there is a tensor.
    IfPresent,
}

impl Bias {
    pub fn when(there: bool) -> Self {
        if there { Self::Always } else { Self::Never }
    }
}

/// The tensors of a model, by name.
#[derive(Clone, Debug)]
pub(super) struct Tensors(BTreeMap<String, Item>);

impl Tensors {
    pub fn new(items: Vec<Item>) -> Self {
        Self(items.into_iter().map(|item| (item.name.clone(), item)).collect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, name: &str) -> Result<&Item, ArchitectureError> {
        self.0.get(name).ok_or_else(|| ArchitectureError::MissingTensor { name: name.to_owned() })
    }

    /// Returns the shape of a tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize], ArchitectureError> {
        Ok(&self.get(name)?.shape)
    }

    /// Returns whether a tensor is a compressed weight.
    pub fn is_compressed(&self, name: &str) -> Result<bool, ArchitectureError> {
        Ok(matches!(self.get(name)?.kind, ItemKind::Compressed(_)))
    }

    /// Checks that a tensor has this shape, and elements that are read as numbers.
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), ArchitectureError> {
        let item = self.get(name)?;
        let readable = match &item.kind {
            ItemKind::Plain(dtype) => matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16),
            ItemKind::Compressed(_) => shape.len() > 1,
            ItemKind::Unsupported(why) => {
                return Err(ArchitectureError::WrongTensor {
                    name: name.to_owned(),
                    have: format!("stored as {} ({why})", item.stored),
                    need: format!("numbers of shape {shape:?}"),
                });
            }
        };
        if readable && item.shape == shape {
            return Ok(());
        }
        let kinds =
            if shape.len() > 1 { "F32, F16, BF16 or a weight format" } else { "F32, F16 or BF16" };
        Err(ArchitectureError::WrongTensor {
            name: name.to_owned(),
            have: format!("{} {:?}", item.stored, item.shape),
            need: format!("{kinds} {shape:?}"),
        })
    }

    /// Returns a vector of `len` elements.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vector, ArchitectureError> {
        self.check(name, &[len])?;
        Ok(Vector { tensor: name.to_owned(), part: None })
    }

    /// Returns a matrix of `n` rows and `k` columns.
    pub fn matrix(&self, name: &str, n: usize, k: usize) -> Result<Matrix, ArchitectureError> {
        self.check(name, &[n, k])?;
        Ok(Matrix { tensor: name.to_owned(), rows: None, transposed: false })
    }

    /// Returns the matrices of `n` rows and `k` columns that a tensor has one after the other, each in `parts`
    /// of as many rows.
    pub fn stacked(
        &self,
        name: &str,
        count: usize,
        (n, k): (usize, usize),
        parts: usize,
    ) -> Result<Vec<Matrix>, ArchitectureError> {
        self.check(name, &[count, n, k])?;
        // The tensor has as many rows, so the products do not overflow.
        let rows = n / parts;
        let part = |at: usize| Matrix {
            tensor: name.to_owned(),
            rows: Some(at * rows..(at + 1) * rows),
            transposed: false,
        };
        Ok((0..count * parts).map(part).collect())
    }

    /// Returns the linear layer of a module, from `k` columns to `n`.
    pub fn linear(
        &self,
        module: &str,
        (n, k): (usize, usize),
        bias: Bias,
    ) -> Result<Linear, ArchitectureError> {
        let matrix = self.matrix(&format!("{module}.weight"), n, k)?;
        let name = format!("{module}.bias");
        let there = match bias {
            Bias::Always => true,
            Bias::Never => false,
            Bias::IfPresent => self.has(&name),
        };
        let bias = there.then(|| self.vector(&name, n)).transpose()?;
        Ok(Linear { matrix, bias })
    }

    /// Returns an RMS normalization.
    pub fn rms_norm(
        &self,
        module: &str,
        len: usize,
        epsilon: f32,
        weight_offset: f32,
    ) -> Result<Norm, ArchitectureError> {
        let weight = self.vector(&format!("{module}.weight"), len)?;
        Ok(Norm { kind: NormKind::Rms, weight, bias: None, epsilon, weight_offset })
    }

    /// Returns a layer normalization. Files that were converted from TensorFlow call its tensors `gamma` and
    /// `beta`.
    pub fn layer_norm(
        &self,
        module: &str,
        len: usize,
        epsilon: f32,
    ) -> Result<Norm, ArchitectureError> {
        let either = |new: &str, old: &str| {
            let [new, old] = [new, old].map(|part| format!("{module}.{part}"));
            self.vector(if self.has(&old) { &old } else { &new }, len)
        };
        let (weight, bias) = (either("weight", "gamma")?, Some(either("bias", "beta")?));
        Ok(Norm { kind: NormKind::Layer, weight, bias, epsilon, weight_offset: 0.0 })
    }
}
