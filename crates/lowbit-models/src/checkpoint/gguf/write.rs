//! Writes GGUF files.

use super::header::{self, ALIGNMENT};
use super::metadata::text;
use super::{GgmlType, GgufMetadata, blocks, split};
use crate::checkpoint::source::{
    Data, Item, ItemKind, ModelSource, SourceError, without_activations,
};
use crate::checkpoint::{AtomicFile, Dtype, IoError, Output};
use crate::progress::Step;
use lowbit::format::{CodeType, PackedWeights};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::PathBuf;

/// The longest name that ggml gives a tensor, in bytes.
const MOST_NAME: usize = 63;
/// The most axes that a tensor of ggml has.
const MOST_AXES: usize = 4;

/// Writes everything that `model` contains to a GGUF file: weights of the formats that GGUF has as their
/// blocks, everything else as plain tensors. Codes and scales are written as they are. Each file appears
/// whole or not at all, and one item is in memory at a time. Several files, which [`Output::in_shards`] asks
/// for, are named as llama.cpp names them; the first, `OUT-00001-of-00003.gguf`, has the metadata, opens the
/// whole model, and appears last. If a tensor has another type than in the file of
/// the metadata, what they say about types is made anew.
///
/// Returns what the user should know about the file, as sentences without a full stop.
///
/// # Errors
/// Returns [`SourceError::Unsupported`] for an item that GGUF has no type for, or whose name, shape,
/// scales or smoothing a GGUF file cannot hold, [`GgufError::OtherModel`](super::GgufError::OtherModel) for
/// one that is not in the file of the metadata, and other [`SourceError`]s if an item cannot be read or a
/// file cannot be written. Nothing is written in that case, except that files of a model in several files stay
/// if a later one cannot be renamed.
pub fn write(
    model: &dyn ModelSource,
    metadata: &GgufMetadata,
    output: impl Into<Output>,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<Vec<String>, SourceError> {
    if let Some(error) = model.refusal() {
        return Err(error);
    }
    let items = model.items()?;
    metadata.check(&items)?;
    let kinds: Vec<(GgmlType, usize)> = items.iter().map(kind).collect::<Result<_, _>>()?;
    let warnings = warnings(model, metadata, &items)?;
    let output = output.into();
    let alignment = metadata.alignment.unwrap_or(ALIGNMENT).max(1);
    let parts = match output.shard_bytes() {
        None => std::iter::once(0..items.len()).collect(),
        Some(most) => divide(&kinds, alignment, most, &output)?,
    };
    let (count, tensors) = (parts.len(), items.len());
    let mut files = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let split = output.shard_bytes().map(|_| Split { number, count, tensors });
        let path = match &split {
            None => output.path().to_owned(),
            Some(_) => output.shard(number + 1, count),
        };
        let mut file = File { file: AtomicFile::create(&path)?, path, at: 0 };
        file.put(&header(metadata, (&items, &kinds), part, split, alignment))?;
        file.align(alignment)?;
        files.push(file);
    }
    for (file, part) in files.iter_mut().zip(&parts) {
        for (item, &(kind, bytes)) in items[part.clone()].iter().zip(&kinds[part.clone()]) {
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
    }
    for file in files.into_iter().rev() {
        file.file.commit()?;
    }
    Ok(warnings)
}

/// Divides items among files with at most `most` bytes of data, in their order. One item is never divided.
fn divide(
    kinds: &[(GgmlType, usize)],
    alignment: usize,
    most: NonZeroU64,
    output: &Output,
) -> Result<Vec<Range<usize>>, IoError> {
    let refuse = |why| {
        let source = io::Error::new(io::ErrorKind::InvalidInput, why);
        IoError::Io { doing: "create", path: output.path().to_owned(), source }
    };
    if output.path().extension().is_none_or(|extension| extension != "gguf") {
        return Err(refuse("the name of a GGUF model in several files ends in .gguf"));
    }
    let mut parts: Vec<Range<usize>> = std::iter::once(0..0).collect();
    let mut bytes = 0u64;
    for (at, (_, size)) in kinds.iter().enumerate() {
        let size = size.next_multiple_of(alignment) as u64;
        if at > 0 && bytes.saturating_add(size) > most.get() {
            parts.push(at..at);
            bytes = 0;
        }
        bytes = bytes.saturating_add(size);
        if let Some(part) = parts.last_mut() {
            part.end = at + 1;
        }
    }
    // The number of files has 16 bits, and 5 digits of the name.
    match u16::try_from(parts.len()) {
        Ok(_) => Ok(parts),
        Err(_) => Err(refuse("these would be more than 65,535 files; allow larger ones")),
    }
}

/// Which of several files one is.
struct Split {
    /// From 0.
    number: usize,
    count: usize,
    /// The tensors of all files.
    tensors: usize,
}

impl Split {
    /// The entries that say so, each with its type before its value.
    fn entries(&self) -> [(String, Vec<u8>); 3] {
        const U16: u32 = 2;
        const I32: u32 = 5;
        let short = |value: usize| [&U16.to_le_bytes()[..], &(value as u16).to_le_bytes()].concat();
        let long = |value: usize| [I32.to_le_bytes(), (value as i32).to_le_bytes()].concat();
        [
            (split::NUMBER.to_owned(), short(self.number)),
            (split::COUNT.to_owned(), short(self.count)),
            (split::TENSORS.to_owned(), long(self.tensors)),
        ]
    }
}

/// Returns what of the model is not in the file.
///
/// # Errors
/// Returns [`SourceError::Unsupported`] for a weight whose X is divided by factors: its columns were
/// multiplied by them, and without them its products would be wrong.
fn warnings(
    model: &dyn ModelSource,
    metadata: &GgufMetadata,
    items: &[Item],
) -> Result<Vec<String>, SourceError> {
    let mut without = Vec::new();
    for item in items.iter().filter(|item| matches!(item.kind, ItemKind::Compressed(_))) {
        match model.activations(&item.name)? {
            Some(activations) if activations.factors.is_some() => {
                let why = "its input is smoothed, which GGUF cannot say; compress the model without \
                           smoothing";
                return Err(unsupported(item, why));
            }
            Some(_) => without.push(item.name.as_str()),
            None => {}
        }
    }
    let mut warnings: Vec<String> = without_activations(&without, "GGUF").into_iter().collect();
    let missing = metadata.missing(items);
    if let Some(first) = missing.first() {
        warnings.push(format!(
            "{} of the tensors that the metadata are about are not in the model, first `{first}`",
            missing.len()
        ));
    }
    Ok(warnings)
}

/// Returns the bytes before the data of the file that has the items `part`.
fn header(
    metadata: &GgufMetadata,
    (items, kinds): (&[Item], &[(GgmlType, usize)]),
    part: &Range<usize>,
    split: Option<Split>,
    alignment: usize,
) -> Vec<u8> {
    const VERSION: u32 = 3;
    let types: Vec<GgmlType> = kinds.iter().map(|(kind, _)| *kind).collect();
    let mut entries = metadata.entries(items, &types);
    if part.start > 0 {
        // The first file has the metadata of all; only the alignment is that of each file.
        entries.retain(|(key, _)| key == header::ALIGNMENT_KEY);
    }
    entries.extend(split.iter().flat_map(Split::entries));
    let (items, kinds) = (&items[part.clone()], &kinds[part.clone()]);
    let mut header = b"GGUF".to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((items.len() as u64).to_le_bytes());
    header.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        header.extend(text(&key));
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
    let kind = kind.ok_or_else(|| {
        let why = match item.kind {
            ItemKind::Compressed(format) if blocks::is_only_read(format) => {
                "lowbit reads this format from GGUF files, but does not write it to them"
            }
            _ => "GGUF has no type for this format",
        };
        unsupported(item, why)
    })?;
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

/// A file that is written.
struct File {
    file: AtomicFile,
    path: PathBuf,
    /// The number of bytes written.
    at: u64,
}

impl File {
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
