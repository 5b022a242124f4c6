//! The index of a model in several safetensors files.

use super::beside::{self, resolve};
use super::bytes::FileBytes;
use super::header::{self, Header, Pairs};
use super::{IoError, read_limited};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The longest index, configuration or other JSON file that is read: as long as a header may be.
const MAX_JSON: u64 = header::MAX_HEADER as u64;

/// An index as the file stores it. Its `metadata`, which holds sizes, is not needed.
#[derive(Deserialize)]
struct RawIndex {
    weight_map: Pairs<String>,
}

/// Returns whether JSON text is an index of shards.
pub(super) fn is_index(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Any {
        #[serde(rename = "weight_map")]
        _weight_map: serde::de::IgnoredAny,
    }
    json.len() as u64 <= MAX_JSON && serde_json::from_slice::<Any>(json).is_ok()
}

/// One of the files of a model, with its header.
pub(super) struct Shard {
    /// The name by which the index calls it.
    pub name: String,
    pub bytes: FileBytes,
    pub header: Header,
}

impl Shard {
    pub fn new(name: String, bytes: FileBytes) -> Result<Self, IoError> {
        // The header is copied out of the map before it is read, so that a concurrent change to the
        // file alters values only and never a bound.
        let header = header::parse(&bytes)?;
        Ok(Self { name, bytes, header })
    }
}

/// Opens the files that an index names, and checks that every tensor lies where the index says.
pub(super) fn open(index: &Path, json: &[u8]) -> Result<Vec<Shard>, IoError> {
    let bad = |source| IoError::BadJson { path: index.to_owned(), source };
    if json.len() as u64 > MAX_JSON {
        return Err(too_long(index));
    }
    let RawIndex { weight_map: Pairs(pairs) } = serde_json::from_slice(json).map_err(bad)?;
    let places = header::unique(pairs)?;
    let names: BTreeSet<&String> = places.values().collect();
    // One that is missing may have been forgotten; if all are, the index was given alone.
    let missing = |name: &&String| !beside::folder(index).join(name).exists();
    if let Some(first) = names.first()
        && names.iter().all(missing)
    {
        return Err(IoError::IndexAlone { files: names.len(), first: first.to_string() });
    }
    let shards: Vec<Shard> =
        names.into_iter().map(|name| shard(index, name)).collect::<Result<_, _>>()?;
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for shard in &shards {
        for (tensor, _) in &shard.header.tensors {
            if let Some(first) = found.insert(tensor, &shard.name) {
                return Err(IoError::InTwoShards {
                    name: tensor.clone(),
                    first: first.to_owned(),
                    second: shard.name.clone(),
                });
            }
            if !places.contains_key(tensor) {
                let (name, shard) = (tensor.clone(), shard.name.clone());
                return Err(IoError::NotInIndex { name, shard });
            }
        }
    }
    for (name, said) in &places {
        let have = found.get(name.as_str()).copied();
        if have != Some(said) {
            return Err(IoError::NotInShard {
                name: name.clone(),
                shard: said.clone(),
                have: have.map(str::to_owned),
            });
        }
    }
    Ok(shards)
}

fn shard(index: &Path, name: &str) -> Result<Shard, IoError> {
    let refuse = |why| IoError::BadShard { shard: name.to_owned(), why };
    let path = resolve(index, Path::new(name)).map_err(refuse)?;
    let in_shard = |source| IoError::InShard { shard: name.to_owned(), source: Box::new(source) };
    Shard::new(name.to_owned(), FileBytes::open(&path)?).map_err(in_shard)
}

fn too_long(path: &Path) -> IoError {
    IoError::JsonTooLong { path: path.to_owned(), limit: MAX_JSON }
}

/// Reads the file `name` beside a model, or returns `Value::Null` if there is none.
///
/// # Errors
/// Returns [`IoError`] if it cannot be read, is too long, or is not a JSON object.
pub(super) fn read_object(folder: &Path, name: &str) -> Result<Value, IoError> {
    let path: PathBuf = folder.join(name);
    let bytes = match read_limited(&path, MAX_JSON) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(source) => return Err(IoError::Io { doing: "read", path, source }),
        Ok(None) => return Err(too_long(&path)),
        Ok(Some(bytes)) => bytes,
    };
    let object: serde_json::Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|source| IoError::BadJson { path, source })?;
    Ok(Value::Object(object))
}
