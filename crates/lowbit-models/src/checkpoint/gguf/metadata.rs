//! The metadata of a GGUF file that is written.

use super::{GgmlType, GgufError, GgufFile};
use crate::checkpoint::source::{Item, SourceError};
use std::collections::{BTreeMap, BTreeSet};

const FILE_TYPE: &str = "general.file_type";
const BLOCKS_VERSION: &str = "general.quantization_version";
/// Where keys begin that describe the calibration data of the weights.
const CALIBRATION: &str = "quantize.imatrix.";
/// The version of the layouts of blocks that are written.
const VERSION_OF_BLOCKS: u32 = 2;
/// The numbers of the types `u32` and string.
const U32: u32 = 4;
const STRING: u32 = 8;

/// The number by which `general.file_type` names the type of most weights, for each type of tensors. Of the
/// variants of llama.cpp that mix types, it is the one of medium size. Source: `llama_ftype` in `llama.h`.
const FILE_TYPES: [(&str, u32); 17] = [
    ("F32", 0),
    ("F16", 1),
    ("Q4_0", 2),
    ("Q4_1", 3),
    ("Q8_0", 7),
    ("Q5_0", 8),
    ("Q5_1", 9),
    ("Q2_K", 10),
    ("Q3_K", 12),
    ("Q4_K", 15),
    ("Q5_K", 17),
    ("Q6_K", 18),
    ("IQ4_NL", 25),
    ("IQ4_XS", 30),
    ("BF16", 32),
    ("MXFP4", 38),
    ("NVFP4", 39),
];

/// The metadata of a GGUF file, as its bytes, and the types and shapes of its tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GgufMetadata {
    /// Keys, and types and values as the file has them.
    entries: Vec<(String, Vec<u8>)>,
    /// The alignment of tensor data.
    pub(super) alignment: Option<usize>,
    /// The tensors of the file, by name. `None` if the metadata are not those of a file.
    tensors: Option<BTreeMap<String, (GgmlType, Vec<usize>)>>,
}

impl GgufMetadata {
    /// Returns metadata with only the name of an architecture.
    pub fn new(architecture: &str) -> Self {
        let value = [&STRING.to_le_bytes()[..], &text(architecture)].concat();
        let entries = vec![("general.architecture".to_owned(), value)];
        Self { entries, ..Self::default() }
    }

    /// Returns the metadata of a model, without what says that it is in several files.
    pub fn of(model: &GgufFile) -> Self {
        let entries = model.entries();
        let entries = entries.filter(|(key, _)| !key.starts_with("split."));
        let entries = entries.map(|(key, value)| (key.to_owned(), value.to_vec())).collect();
        let tensors = model.tensors();
        let tensors = tensors.map(|t| (t.name.to_owned(), (t.kind, t.shape.to_vec()))).collect();
        Self { entries, alignment: Some(model.alignment()), tensors: Some(tensors) }
    }

    /// Checks that every item has the name and the shape of a tensor of the file, because its metadata
    /// describe no others: a program that reads them would look for other names, or take the rows of
    /// a matrix in another order.
    ///
    /// # Errors
    /// Returns [`GgufError::OtherModel`] for the first item that has not.
    pub(super) fn check(&self, items: &[Item]) -> Result<(), SourceError> {
        let Some(tensors) = &self.tensors else { return Ok(()) };
        for item in items {
            let found = tensors.get(&item.name).map(|(_, shape)| shape);
            if found != Some(&item.shape) {
                let (name, have, need) = (item.name.clone(), item.shape.clone(), found.cloned());
                return Err(GgufError::OtherModel { name, have, need }.into());
            }
        }
        Ok(())
    }

    /// Returns the tensors of the file that are not among these items.
    pub(super) fn missing(&self, items: &[Item]) -> Vec<&str> {
        let written: BTreeSet<&str> = items.iter().map(|item| item.name.as_str()).collect();
        let names = self.tensors.iter().flatten().map(|(name, _)| name.as_str());
        names.filter(|name| !written.contains(name)).collect()
    }

    /// Returns the entries for a file with these items in these types. They are those of the original as long
    /// as every tensor has the type that it has there. Otherwise what they say about types is made anew.
    pub(super) fn entries(&self, items: &[Item], kinds: &[GgmlType]) -> Vec<(String, Vec<u8>)> {
        let mut entries = self.entries.clone();
        let kept = |(item, kind): (&Item, &GgmlType)| {
            let original = self.tensors.as_ref().and_then(|tensors| tensors.get(&item.name));
            original.is_some_and(|(original, _)| original == kind)
        };
        if items.iter().zip(kinds).all(kept) {
            return entries;
        }
        entries.retain(|(key, _)| !key.starts_with(CALIBRATION));
        match file_type(items, kinds) {
            Some(number) => set(&mut entries, FILE_TYPE, number),
            None => entries.retain(|(key, _)| key != FILE_TYPE),
        }
        if kinds.iter().any(|kind| kind.block().is_some_and(|(weights, _)| weights > 1)) {
            set(&mut entries, BLOCKS_VERSION, VERSION_OF_BLOCKS);
        }
        entries
    }
}

/// Sets the value of a key, in its place if it is there already.
fn set(entries: &mut Vec<(String, Vec<u8>)>, key: &str, value: u32) {
    let value = [U32.to_le_bytes(), value.to_le_bytes()].concat();
    match entries.iter_mut().find(|(own, _)| own == key) {
        Some((_, old)) => *old = value,
        None => entries.push((key.to_owned(), value)),
    }
}

/// Returns the number of the type that most elements of matrices have, or `None` if it has no number.
fn file_type(items: &[Item], kinds: &[GgmlType]) -> Option<u32> {
    let mut elements: BTreeMap<GgmlType, usize> = BTreeMap::new();
    for (item, kind) in items.iter().zip(kinds).filter(|(item, _)| item.shape.len() > 1) {
        let sum = elements.entry(*kind).or_default();
        *sum = sum.saturating_add(item.elements());
    }
    let (most, _) = elements.into_iter().max_by_key(|(_, elements)| *elements)?;
    let name = most.name()?;
    FILE_TYPES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// Returns the bytes of a string: its length, and then its text.
pub(super) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}
