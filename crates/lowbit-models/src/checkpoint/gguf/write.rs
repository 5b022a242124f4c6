//! Writes GGUF files.

use super::{GgmlType, GgufFile, blocks};
use crate::checkpoint::source::{Data, Item, ItemKind, ModelSource, SourceError};
use crate::checkpoint::{AtomicFile, Dtype, IoError};
use crate::progress::Step;
use lowbit::format::{CodeType, PackedWeights};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The longest name that ggml gives a tensor, in bytes.
const MOST_NAME: usize = 63;
/// The most axes that a tensor of ggml has.
const MOST_AXES: usize = 4;

/// The metadata of a GGUF file, as its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GgufMetadata {
    /// Keys, and types and values as the file has them.
    entries: Vec<(String, Vec<u8>)>,
    /// The alignment of tensor data.
    alignment: Option<usize>,
}

impl GgufMetadata {
    /// Returns metadata with only the name of an architecture.
    pub fn new(architecture: &str) -> Self {
        const STRING: u32 = 8;
        let value = [&STRING.to_le_bytes()[..], &text(architecture)].concat();
        Self { entries: vec![("general.architecture".to_owned(), value)], alignment: None }
    }

    /// Returns the metadata of a model, without what says that it is in several files.
    pub fn of(model: &GgufFile) -> Self {
        let entries = model.entries();
        let entries = entries.filter(|(key, _)| !key.starts_with("split."));
        let entries = entries.map(|(key, value)| (key.to_owned(), value.to_vec())).collect();
        Self { entries, alignment: Some(model.alignment()) }
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Writes everything that `model` contains to a GGUF file: weights of the formats that GGUF has as their
/// blocks, everything else as plain tensors. Codes and scales are written as they are. The file appears
/// whole or not at all, and one item is in memory at a time.
///
/// # Errors
/// Returns [`SourceError::Unsupported`] for an item that GGUF has no type for, or whose name, shape or
/// scales a GGUF file cannot hold, and other [`SourceError`]s if an item cannot be read or the file cannot
/// be written. Nothing is written in that case.
pub fn write(
    model: &dyn ModelSource,
    metadata: &GgufMetadata,
    path: impl AsRef<Path>,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<(), SourceError> {
    if let Some(error) = model.refusal() {
        return Err(error);
    }
    let items = model.items()?;
    let kinds: Vec<(GgmlType, usize)> = items.iter().map(kind).collect::<Result<_, _>>()?;
    let path = path.as_ref();
    let mut file = Output { file: AtomicFile::create(path)?, path: path.to_owned(), at: 0 };
    let alignment = metadata.alignment.unwrap_or(super::header::ALIGNMENT).max(1);
    file.put(&header(metadata, &items, &kinds, alignment))?;
    file.align(alignment)?;
    for (item, &(kind, bytes)) in items.iter().zip(&kinds) {
        progress(Step::Started(&item.name));
        let start = file.at;
        match model.read(&item.name)? {
            Data::Plain(bytes) => file.put(&bytes)?,
            Data::Compressed(weights) => file.weights(item, kind, &weights)?,
        }
        if file.at - start != bytes as u64 {
            return Err(unsupported(item, "its data have not the size of its type and shape"));
        }
        file.align(alignment)?;
        progress(Step::Finished(&item.name));
    }
    Ok(file.file.commit()?)
}

/// Returns the bytes before the data.
fn header(
    metadata: &GgufMetadata,
    items: &[Item],
    kinds: &[(GgmlType, usize)],
    alignment: usize,
) -> Vec<u8> {
    const VERSION: u32 = 3;
    let mut header = b"GGUF".to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((items.len() as u64).to_le_bytes());
    header.extend((metadata.entries.len() as u64).to_le_bytes());
    for (key, value) in &metadata.entries {
        header.extend(text(key));
        header.extend(value);
    }
    let mut offset = 0;
    for (item, (kind, bytes)) in items.iter().zip(kinds) {
        header.extend(text(&item.name));
        header.extend((item.shape.len() as u32).to_le_bytes());
        // The file has the innermost size first.
        item.shape.iter().rev().for_each(|&size| header.extend((size as u64).to_le_bytes()));
        header.extend(kind.number().to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset = (offset + bytes).next_multiple_of(alignment);
    }
    header
}

fn unsupported(item: &Item, why: impl Into<String>) -> SourceError {
    let (name, stored) = (item.name.clone(), item.stored.clone());
    SourceError::Unsupported { name, stored, why: why.into() }
}

/// Returns the type that an item is written as, and the number of its bytes.
fn kind(item: &Item) -> Result<(GgmlType, usize), SourceError> {
    if item.name.len() > MOST_NAME {
        return Err(unsupported(item, format!("names in GGUF have at most {MOST_NAME} bytes")));
    }
    if item.shape.len() > MOST_AXES {
        return Err(unsupported(item, format!("tensors in GGUF have at most {MOST_AXES} axes")));
    }
    let kind = match &item.kind {
        ItemKind::Plain(dtype) => plain(*dtype),
        ItemKind::Compressed(format) => match format.code_type() {
            CodeType::F32 if !format.is_sparse() => Some(GgmlType::F32),
            CodeType::F16 if !format.is_sparse() => Some(GgmlType::F16),
            _ => blocks::kind(*format),
        },
        ItemKind::Unsupported(why) => return Err(unsupported(item, why.as_str())),
    };
    let kind = kind.ok_or_else(|| unsupported(item, "GGUF has no type for this format"))?;
    let (columns, block_bytes) =
        kind.block().ok_or_else(|| unsupported(item, "GGUF has no type for this format"))?;
    let row = item.shape.last().copied().unwrap_or(1);
    if row % columns != 0 {
        let why = format!("rows of {kind} are whole blocks of {columns}, and these have {row}");
        return Err(unsupported(item, why));
    }
    Ok((kind, item.elements() / columns * block_bytes))
}

fn plain(dtype: Dtype) -> Option<GgmlType> {
    let kinds = (0..=30).map(GgmlType::new);
    kinds.into_iter().find(|kind| kind.dtype() == Some(dtype))
}

/// The file that is written.
struct Output {
    file: AtomicFile,
    path: PathBuf,
    /// The number of bytes written.
    at: u64,
}

impl Output {
    fn put(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        self.at += bytes.len() as u64;
        let error = |source| IoError::Io { doing: "write", path: self.path.clone(), source };
        self.file.write_all(bytes).map_err(error)
    }

    fn align(&mut self, alignment: usize) -> Result<(), IoError> {
        let bytes = self.at.next_multiple_of(alignment as u64) - self.at;
        for _ in 0..bytes {
            self.put(&[0])?;
        }
        Ok(())
    }

    fn weights(
        &mut self,
        item: &Item,
        kind: GgmlType,
        weights: &PackedWeights,
    ) -> Result<(), SourceError> {
        if kind.dtype().is_some() {
            // Floats without scales: rows may end inside of a word.
            let bytes = weights.format().code_type().bits() as usize / 8;
            let geometry = weights.geometry();
            for row in weights.codes().chunks(geometry.code_words.max(1)) {
                let row: Vec<u8> = row.iter().flat_map(|word| word.to_le_bytes()).collect();
                self.put(row.get(..geometry.k * bytes).unwrap_or(&row))?;
            }
            return Ok(());
        }
        let refusal = blocks::write(weights, kind, |block| self.put(block))?;
        Err(match refusal {
            None => return Ok(()),
            Some(blocks::Refusal::Ragged(columns)) => {
                unsupported(item, format!("rows of {kind} are whole blocks of {columns}"))
            }
            Some(blocks::Refusal::Range { value, low, high }) => unsupported(
                item,
                format!(
                    "a scale or minimum of a group is {value}, and {kind} holds {low} to {high}"
                ),
            ),
        })
    }
}
