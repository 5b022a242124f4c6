//! Models in several GGUF files.

use super::header::Header;
use super::{FileParts, GgufError};
use crate::checkpoint::beside::resolve;
use crate::checkpoint::bytes::FileBytes;
use crate::checkpoint::source::SourceError;
use std::path::Path;

pub(super) const NUMBER: &str = "split.no";
pub(super) const COUNT: &str = "split.count";
pub(super) const TENSORS: &str = "split.tensors.count";

/// What the name `PREFIX-00001-of-00003.gguf` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SplitName {
    prefix: String,
    /// The number of the file, from 1.
    pub number: u64,
    count: u64,
}

impl SplitName {
    fn file(&self, number: u64) -> String {
        format!("{}{}", self.prefix, ending(number, self.count))
    }
}

fn ending(number: u64, count: u64) -> String {
    format!("-{number:05}-of-{count:05}.gguf")
}

/// Reads the number of a file and the number of files from its name.
pub(crate) fn split_name(path: &Path) -> Option<SplitName> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| {
        let plain = digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
        if plain { digits.parse::<u64>().ok() } else { None }
    };
    Some(SplitName { prefix: prefix.to_owned(), number: parse(number)?, count: parse(count)? })
}

/// Returns the number of files of a model, if it is in several.
pub(super) fn count(header: &Header) -> Result<Option<u64>, GgufError> {
    Ok(number(header, COUNT)?.filter(|&count| count > 1))
}

/// Returns the other files of a model if `first` is one of several. `path` is where it lies.
pub(super) fn open(path: &Path, given: FileParts) -> Result<Vec<FileParts>, SourceError> {
    let Some(count) = count(&given.header)? else {
        return Ok(vec![given]);
    };
    let own = number(&given.header, NUMBER)?.unwrap_or(0);
    let own_number = own.saturating_add(1);
    let name = split_name(path).filter(|name| name.number == own_number && name.count == count);
    let Some(name) = name else {
        let need = ending(own_number, count);
        return Err(GgufError::SplitName { number: own_number, count, need }.into());
    };
    let mut given = Some(given);
    let mut files = Vec::new();
    for number in 1..=count {
        let opened = given.take_if(|_| number == own_number);
        let file = match opened {
            Some(file) => file,
            None => part(path, &name, number)?,
        };
        files.push(file);
    }
    if let Some(need) = files.first().map(|first| self::number(&first.header, TENSORS)) {
        let have = files.iter().map(|file| file.header.tensors.len()).sum();
        if let Some(need) = need?.filter(|&need| need != have as u64) {
            return Err(GgufError::SplitTensors { have, need }.into());
        }
    }
    Ok(files)
}

/// Opens file `number` of the model, from 1, and checks that it is that.
fn part(path: &Path, name: &SplitName, number: u64) -> Result<FileParts, SourceError> {
    let file = name.file(number);
    let refuse = |why| GgufError::SplitFile { count: name.count, file: file.clone(), why };
    let real = resolve(path, Path::new(&file)).map_err(refuse)?;
    let bytes = FileBytes::open(&real)?;
    let damaged = |source| GgufError::InSplit { file: (&file).into(), source: Box::new(source) };
    if !bytes.starts_with(b"GGUF") {
        return Err(refuse("that is no GGUF file").into());
    }
    let header = Header::read(&bytes, bytes.len()).map_err(damaged)?;
    for (key, need) in [(COUNT, name.count), (NUMBER, number - 1)] {
        let have = self::number(&header, key).map_err(damaged)?;
        if have != Some(need) {
            let have = have.map_or("missing".to_owned(), |have| have.to_string());
            return Err(GgufError::SplitMismatch { file, key, have, need }.into());
        }
    }
    Ok(FileParts { name: file, bytes, header })
}

/// Returns a number of the metadata.
fn number(header: &Header, key: &'static str) -> Result<Option<u64>, GgufError> {
    let Some(value) = header.metadata.get(key) else { return Ok(None) };
    match value.as_u64() {
        Some(number) => Ok(Some(number)),
        None => {
            let have = value.to_string();
            Err(GgufError::BadValue { key, need: "a number that is not negative", have })
        }
    }
}
