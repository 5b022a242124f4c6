use super::IoError;
use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::marker::PhantomData;

/// The longest header that readers of the format accept.
pub(super) const MAX_HEADER: usize = 100_000_000;
/// The header's key for the file's own metadata.
pub(super) const METADATA: &str = "__metadata__";
/// Bytes of the header's length.
pub(super) const LENGTH_BYTES: usize = 8;

/// A checked header: the bytes of every tensor lie in the file, and no two tensors share any.
pub(super) struct Header {
    pub metadata: BTreeMap<String, String>,
    /// The tensors in the order of their bytes.
    pub tensors: Vec<(String, TensorInfo)>,
    /// Where the tensors' bytes start in the file.
    pub data_start: usize,
}

/// Reads and checks the header of a whole file.
///
/// The safetensors crate reads headers too, and this function accepts no file that it refuses. But
/// that crate takes the last of two tensors with the same name, adds offsets that may overflow (which
/// panics if overflow checks are on), and often does not name the tensor that it refuses.
pub(super) fn parse(file: &[u8]) -> Result<Header, IoError> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(IoError::TooShort { have: file.len() });
    };
    let length = u64::from_le_bytes(*length);
    let limit = rest.len().min(MAX_HEADER);
    let json = usize::try_from(length)
        .ok()
        .filter(|&length| length <= limit)
        .and_then(|length| rest.get(..length))
        .ok_or(IoError::HeaderLength { length, limit: limit as u64 })?;
    // This is checked before the header is copied, since a sparse file may have any size.
    if json.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(IoError::HeaderJson(serde_json::Error::custom("it does not start with `{`")));
    }
    // This is a copy, so that text that was found to be UTF-8 stays valid if the file changes.
    let json = json.to_vec();
    let RawHeader { metadata, mut tensors } =
        serde_json::from_slice(&json).map_err(IoError::HeaderJson)?;
    tensors.sort_by(|(a_name, a), (b_name, b)| {
        a.data_offsets.cmp(&b.data_offsets).then_with(|| a_name.cmp(b_name))
    });
    let data_start = LENGTH_BYTES + json.len();
    check_places(&tensors, file.len() - data_start)?;
    let metadata = unique(metadata)?;
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(IoError::DuplicateName { name: pair[0].to_owned() });
    }
    Ok(Header { metadata, tensors, data_start })
}

/// Checks that the tensors, sorted by offset, fill the data without gap or overlap, and that each has
/// the size of its shape.
fn check_places(tensors: &[(String, TensorInfo)], have: usize) -> Result<(), IoError> {
    let mut reached = 0;
    for (index, (name, info)) in tensors.iter().enumerate() {
        let (start, end) = info.data_offsets;
        if start > end || end > have {
            return Err(IoError::BadOffsets { name: name.clone(), start, end, have });
        }
        if start < reached {
            let first = tensors[index - 1].0.clone();
            return Err(IoError::Overlap { first, second: name.clone() });
        }
        if start > reached {
            return Err(IoError::Gap { start: reached, end: start });
        }
        let bits = info
            .shape
            .iter()
            .try_fold(info.dtype.bitsize(), |bits, &size| bits.checked_mul(size))
            .ok_or_else(|| IoError::Overflow { name: name.clone(), shape: info.shape.clone() })?;
        if bits % 8 != 0 || bits / 8 != end - start {
            return Err(IoError::WrongSize {
                name: name.clone(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                have: end - start,
            });
        }
        reached = end;
    }
    if reached < have {
        return Err(IoError::Gap { start: reached, end: have });
    }
    Ok(())
}

/// Makes a map of pairs, and refuses a name that appears twice.
pub(super) fn unique<V>(pairs: Vec<(String, V)>) -> Result<BTreeMap<String, V>, IoError> {
    let mut map = BTreeMap::new();
    for (name, value) in pairs {
        if map.contains_key(&name) {
            return Err(IoError::DuplicateName { name });
        }
        map.insert(name, value);
    }
    Ok(map)
}

/// A JSON object as pairs, so that duplicate names are seen.
pub(super) struct Pairs<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
    type Value = Pairs<V>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
        let mut pairs = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = named(&name, map.next_value())?;
            pairs.push((name, value));
        }
        Ok(Pairs(pairs))
    }
}

/// Adds the name of the entry to an error.
fn named<V, E: Error>(name: &str, value: Result<V, E>) -> Result<V, E> {
    value.map_err(|error| E::custom(format_args!("`{name}`: {error}")))
}

/// A header as the file stores it.
struct RawHeader {
    metadata: Vec<(String, String)>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut metadata: Option<Pairs<String>> = None;
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name != METADATA {
                let info = named(&name, map.next_value())?;
                tensors.push((name, info));
            } else if metadata.is_some() {
                return Err(A::Error::duplicate_field(METADATA));
            } else {
                // Some writers store `null` if there is no metadata.
                let given: Option<Pairs<String>> = named(METADATA, map.next_value())?;
                metadata = Some(given.unwrap_or(Pairs(Vec::new())));
            }
        }
        let metadata = metadata.map_or_else(Vec::new, |pairs| pairs.0);
        Ok(RawHeader { metadata, tensors })
    }
}
