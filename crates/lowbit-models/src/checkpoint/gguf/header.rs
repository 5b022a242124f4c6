//! The header of a GGUF file: its metadata and the places of its tensors.

use super::cursor::Cursor;
use super::value::read_value;
use super::{GgmlType, GgufError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;

/// The alignment of tensor data unless `general.alignment` says another.
pub(super) const ALIGNMENT: usize = 32;
/// The key of another alignment.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
/// The largest alignment. It is written as bytes between tensors.
const MOST_ALIGNMENT: u64 = 1 << 20;
/// The most axes that a tensor of ggml has.
const MOST_AXES: usize = 4;
/// The fewest bytes of an entry of the metadata: a length, a type and a byte.
const ENTRY_BYTES: usize = 8 + 4 + 1;
/// The fewest bytes that describe a tensor: the length of its name, the number of its axes, its type and
/// its place.
const TENSOR_BYTES: usize = 8 + 4 + 4 + 8;

/// Where a tensor is, and what it is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The index of the file.
    pub file: usize,
    pub kind: GgmlType,
    /// The outermost size first.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// A checked header.
pub(super) struct Header {
    pub version: u32,
    pub metadata: BTreeMap<String, Value>,
    /// The keys in their order, and the bytes of their types and values in the file.
    pub entries: Vec<(String, Range<usize>)>,
    pub alignment: usize,
    pub tensors: BTreeMap<String, Place>,
}

/// A tensor as the header describes it.
struct Described {
    name: String,
    kind: GgmlType,
    shape: Vec<usize>,
    /// The number of its bytes, if its type is known.
    bytes: Option<usize>,
    offset: u64,
}

impl Header {
    /// Reads and checks the header of a file of `length` bytes, of which the first are given. No value of a
    /// tensor is read.
    pub fn read(bytes: &[u8], length: usize) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        let _magic: [u8; 4] = cursor.array(|| "the first word".to_owned())?;
        let version = version(&mut cursor)?;
        let tensors = cursor.count("tensors", TENSOR_BYTES)?;
        let entries = cursor.count("entries of metadata", ENTRY_BYTES)?;
        let (mut metadata, mut places) = (BTreeMap::new(), Vec::new());
        for _ in 0..entries {
            let key = cursor.string(|| "a key of the metadata".to_owned())?;
            let start = cursor.at();
            let value = read_value(&mut cursor, &key)?;
            places.push((key.clone(), start..cursor.at()));
            if metadata.contains_key(&key) {
                return Err(GgufError::Duplicate { what: "key", name: key });
            }
            metadata.insert(key, value);
        }
        let alignment = alignment(&metadata)?;
        let mut described = Vec::new();
        for _ in 0..tensors {
            described.push(Described::read(&mut cursor, alignment)?);
        }
        // The data start at the next multiple of the alignment. A file without data may end before it.
        let start = cursor.at().checked_next_multiple_of(alignment).unwrap_or(length);
        let start = start.min(length);
        let tensors = place(described, start, length - start)?;
        Ok(Self { version, metadata, entries: places, alignment, tensors })
    }
}

fn version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let version = cursor.u32(|| "the version".to_owned())?;
    match version {
        2 | 3 => Ok(version),
        // A small number with its bytes turned around.
        _ if version & 0xffff == 0 && version != 0 => {
            Err(GgufError::BigEndian { version: version.swap_bytes() })
        }
        _ => Err(GgufError::Version { version }),
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<usize, GgufError> {
    let value = metadata.get(ALIGNMENT_KEY).cloned().unwrap_or_else(|| ALIGNMENT.into());
    let possible = |number: &u64| number.is_power_of_two() && *number <= MOST_ALIGNMENT;
    let number = value.as_u64().filter(possible);
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| GgufError::BadValue {
        key: ALIGNMENT_KEY,
        need: "a power of two of at most 1 MiB",
        have: value.to_string(),
    })
}

impl Described {
    fn read(cursor: &mut Cursor<'_>, alignment: usize) -> Result<Self, GgufError> {
        let name = cursor.string(|| "the name of a tensor".to_owned())?;
        let what = || format!("the description of tensor `{name}`");
        let axes = cursor.u32(what)?;
        let most = usize::try_from(axes).ok().filter(|&axes| axes <= MOST_AXES);
        let Some(axes) = most else {
            return Err(GgufError::Axes { name, have: axes, limit: MOST_AXES });
        };
        let mut dims = Vec::with_capacity(axes);
        for _ in 0..axes {
            dims.push(cursor.u64(what)?);
        }
        let kind = GgmlType::new(cursor.u32(what)?);
        let offset = cursor.u64(what)?;
        if offset % alignment as u64 != 0 {
            return Err(GgufError::Alignment { name, offset, alignment });
        }
        let overflow = || GgufError::Overflow { name: name.clone(), dims: dims.clone() };
        let sizes = dims.iter().map(|&size| usize::try_from(size).ok());
        let mut shape: Vec<usize> = sizes.collect::<Option<_>>().ok_or_else(overflow)?;
        // The check is for bits of the widest type, so that no later product of sizes overflows.
        let elements = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))
            .filter(|elements| elements.checked_mul(64).is_some())
            .ok_or_else(overflow)?;
        let row = shape.first().copied().unwrap_or(1);
        let bytes = match kind.block() {
            None => None,
            Some((block, _)) if row % block != 0 => {
                return Err(GgufError::Ragged { name, have: row, block });
            }
            Some((block, bytes)) => {
                Some((elements / block).checked_mul(bytes).ok_or_else(overflow)?)
            }
        };
        // The file has the innermost size first.
        shape.reverse();
        Ok(Self { name, kind, shape, bytes, offset })
    }
}

/// Checks that every tensor lies in the data and that no two overlap. `start` is where the data start, and
/// `have` the number of their bytes.
fn place(
    mut described: Vec<Described>,
    start: usize,
    have: usize,
) -> Result<BTreeMap<String, Place>, GgufError> {
    described.sort_by(|a, b| a.offset.cmp(&b.offset).then_with(|| a.bytes.cmp(&b.bytes)));
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    let mut reached = (0, String::new());
    let mut rest = described.into_iter().peekable();
    while let Some(Described { name, kind, shape, bytes, offset }) = rest.next() {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        // A tensor of a type that is not known reaches to the next tensor.
        let next = rest.peek().map_or(have, |next| usize::try_from(next.offset).unwrap_or(have));
        let need = bytes.unwrap_or(next.min(have).saturating_sub(from));
        let end = from.checked_add(need).filter(|&end| end <= have && from <= have);
        let Some(end) = end else {
            return Err(GgufError::Range { name, kind, offset, need, have });
        };
        if from < reached.0 && need > 0 {
            return Err(GgufError::Overlap { first: reached.1, second: name });
        }
        if need > 0 {
            reached = (end, name.clone());
        }
        if places.contains_key(&name) {
            return Err(GgufError::Duplicate { what: "tensor", name });
        }
        let range = start + from..start + end;
        places.insert(name, Place { file: 0, kind, shape, range });
    }
    Ok(places)
}
