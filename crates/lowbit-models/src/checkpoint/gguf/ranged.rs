//! GGUF files whose tensors are read one by one, for programs that cannot map a file.

use super::header::{Header, Place};
use super::source::{check, data, items, number, upper_place};
use super::{FileBytes, FileParts, GgmlType, GgufError, GgufFile, GgufTensor, split};
use crate::checkpoint::IoError;
use crate::checkpoint::source::{Data, Family, Item, ModelSource, SourceError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// How many bytes are read first. The headers of most models have fewer.
const FIRST: u64 = 4 << 20;
/// The longest header. Those of models have at most 20 MB.
const MOST_HEADER: u64 = 256 << 20;

/// Reads bytes of a file: as many as the range has, or an error.
pub type ReadBytes = Box<dyn Fn(Range<u64>) -> std::io::Result<Vec<u8>> + Send + Sync>;

/// A GGUF file of which only the header stays in memory. A tensor is read when it is asked for.
///
/// [`GgufFile`] is what to use where a file can be mapped. Both give the same items and data.
pub struct RangedGguf {
    /// The metadata, without tensors.
    head: GgufFile,
    tensors: BTreeMap<String, Place>,
    name: String,
    length: usize,
    read: ReadBytes,
}

impl std::fmt::Debug for RangedGguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RangedGguf")
            .field("name", &self.name)
            .field("length", &self.length)
            .field("tensors", &self.tensors.len())
            .finish()
    }
}

impl RangedGguf {
    /// Reads the header of a file of `length` bytes. `name` is the name of the file.
    ///
    /// # Errors
    /// Returns [`SourceError`] if the file cannot be read, is not a GGUF file, is damaged, is one of several
    /// files of a model, or is too long for this platform.
    pub fn open(name: &str, length: u64, read: ReadBytes) -> Result<Self, SourceError> {
        let most = usize::MAX as u64;
        let whole = usize::try_from(length).ok().filter(|&length| length < usize::MAX);
        let whole = whole.ok_or(GgufError::TooLong { have: length, most })?;
        let mut known = FIRST.min(length);
        let (bytes, header) = loop {
            let bytes = fetch(&read, name, 0..known)?;
            if !bytes.starts_with(b"GGUF") {
                return Err(GgufError::NotGguf.into());
            }
            match Header::read(&bytes, whole) {
                Ok(header) => break (bytes, header),
                // The header may go on after what is known.
                Err(GgufError::Truncated { .. } | GgufError::Count { .. }) if known < length => {
                    if known >= MOST_HEADER {
                        return Err(GgufError::LongHeader { most: MOST_HEADER }.into());
                    }
                    known = known.saturating_mul(4).min(length).min(MOST_HEADER);
                }
                Err(error) => return Err(error.into()),
            }
        };
        if let Some(count) = split::count(&header)? {
            return Err(GgufError::SplitAlone { count }.into());
        }
        let parts = FileParts { name: name.to_owned(), bytes: FileBytes::Read(bytes), header };
        let mut head = GgufFile::new(vec![parts])?;
        let tensors = std::mem::take(&mut head.tensors);
        Ok(Self { head, tensors, name: name.to_owned(), length: whole, read })
    }

    /// Returns the metadata: a file without tensors, of which a tokenizer and a chat template are made.
    pub fn head(&self) -> &GgufFile {
        &self.head
    }

    /// Reads the bytes of a tensor.
    fn bytes(&self, name: &str) -> Result<(&Place, Vec<u8>), SourceError> {
        let missing = || SourceError::NotFound { name: name.to_owned() };
        let place = self.tensors.get(name).ok_or_else(missing)?;
        let range = place.range.start as u64..place.range.end as u64;
        Ok((place, fetch(&self.read, &self.name, range)?))
    }

    /// Reads the upper level of the scales of a tensor, where that is a tensor of its own.
    fn upper_scale(&self, name: &str, kind: GgmlType) -> Result<f32, SourceError> {
        match upper_place(&self.tensors, name, kind)? {
            Some((scale, _)) => Ok(number(&self.bytes(scale)?.1)),
            None => Ok(1.0),
        }
    }
}

/// Reads a range, and checks that it is whole.
fn fetch(read: &ReadBytes, name: &str, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
    let need = range.end.saturating_sub(range.start);
    let short = |have: usize| {
        let text = format!("{have} bytes were given of {need}");
        std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text)
    };
    let whole = |bytes: Vec<u8>| match bytes.len() {
        have if have as u64 == need => Ok(bytes),
        have => Err(short(have)),
    };
    read(range).and_then(whole).map_err(|source| {
        let path = Path::new(name).to_owned();
        IoError::Io { doing: "read", path, source }.into()
    })
}

impl ModelSource for RangedGguf {
    fn family(&self) -> Family {
        self.head.family()
    }

    fn variant(&self) -> Option<String> {
        self.head.variant()
    }

    fn architecture(&self) -> Option<&str> {
        self.head.architecture()
    }

    fn config(&self) -> &Value {
        self.head.config()
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.head.metadata()
    }

    fn files(&self) -> Vec<String> {
        self.head.files()
    }

    fn file_bytes(&self) -> usize {
        self.length
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        Ok(items(&self.tensors))
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        let (Place { kind, shape, .. }, bytes) = self.bytes(name)?;
        let tensor = GgufTensor { name, kind: *kind, shape, bytes: &bytes };
        let compressed = match data(&tensor, self.upper_scale(name, *kind)?)? {
            Data::Compressed(weights) => Some(weights),
            Data::Plain(_) => None,
        };
        Ok(compressed.map_or_else(|| Data::Plain(bytes.into()), Data::Compressed))
    }

    fn check(&self, name: &str) -> Result<(), SourceError> {
        let (Place { kind, shape, .. }, bytes) = self.bytes(name)?;
        let tensor = GgufTensor { name, kind: *kind, shape, bytes: &bytes };
        check(&tensor, self.upper_scale(name, *kind)?)
    }
}
