//! GGUF files as a [`ModelSource`].

use super::header::Place;
use super::{GgmlType, GgufFile, GgufTensor, blocks};
use crate::checkpoint::matrix_shape;
use crate::checkpoint::source::{Data, Family, Item, ItemKind, ModelSource, Role, SourceError};
use serde_json::Value;
use std::collections::BTreeMap;

impl ModelSource for GgufFile {
    fn family(&self) -> Family {
        Family::Gguf
    }

    fn variant(&self) -> Option<String> {
        Some(format!("version {}", self.version))
    }

    fn architecture(&self) -> Option<&str> {
        self.config.get("general.architecture").and_then(Value::as_str)
    }

    fn config(&self) -> &Value {
        &self.config
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        // A vocabulary is not in it. `GgufMetadata` has everything.
        [("gguf.metadata".to_owned(), self.config.to_string())].into()
    }

    fn files(&self) -> Vec<String> {
        self.files.iter().map(|(name, _)| name.clone()).collect()
    }

    fn file_bytes(&self) -> usize {
        self.files.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        Ok(items(&self.tensors))
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        let missing = || SourceError::NotFound { name: name.to_owned() };
        let tensor = self.tensor(name).ok_or_else(missing)?;
        data(&tensor, self.upper_scale(&tensor)?)
    }

    fn check(&self, name: &str) -> Result<(), SourceError> {
        match self.tensor(name) {
            Some(tensor) => check(&tensor, self.upper_scale(&tensor)?),
            None => Ok(()),
        }
    }
}

impl GgufFile {
    fn upper_scale(&self, tensor: &GgufTensor<'_>) -> Result<f32, SourceError> {
        let place = upper_place(&self.tensors, tensor.name, tensor.kind)?;
        Ok(place.map_or(1.0, |(name, place)| number(self.view(name, place).bytes)))
    }
}

/// The upper level of scales from the bytes of its tensor. What is no number is refused as a scale.
pub(super) fn number(bytes: &[u8]) -> f32 {
    bytes.try_into().map_or(f32::NAN, f32::from_le_bytes)
}

/// Returns the tensor with the upper level of a tensor's scales: for NVFP4 `NAME.scale`, where the weight is
/// `NAME.weight` or `NAME`. Without it, the upper level is 1.
///
/// # Errors
/// Returns [`SourceError::Unsupported`] if there are two, or if it is not one f32.
pub(super) fn upper_place<'a>(
    tensors: &'a BTreeMap<String, Place>,
    name: &str,
    kind: GgmlType,
) -> Result<Option<(&'a str, &'a Place)>, SourceError> {
    if kind != GgmlType::NVFP4 {
        return Ok(None);
    }
    let names = [Some(name), name.strip_suffix(".weight")];
    let names = names.into_iter().flatten().map(|stem| format!("{stem}{SCALE}"));
    let found: Vec<_> = names.filter_map(|name| tensors.get_key_value(&name)).collect();
    let why = match found[..] {
        [] => return Ok(None),
        [(scale, place)] if place.kind == GgmlType::F32 && place.range.len() == 4 => {
            return Ok(Some((scale, place)));
        }
        [(scale, place), ..] if found.len() == 1 => {
            format!("its scale `{scale}` is {} {:?} instead of one F32", place.kind, place.shape)
        }
        _ => {
            let names: Vec<_> = found.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!("it has more than one scale: {}", names.join(" and "))
        }
    };
    Err(SourceError::Unsupported { name: name.to_owned(), stored: kind.to_string(), why })
}

/// How the name of a tensor with the upper level of scales ends.
const SCALE: &str = ".scale";

/// Describes the tensors. Those that have the scales of others are parts of them, and are not listed.
pub(super) fn items(tensors: &BTreeMap<String, Place>) -> Vec<Item> {
    let is_part = |name: &str| {
        let stem = name.strip_suffix(SCALE).unwrap_or_default();
        let owners = [stem.to_owned(), format!("{stem}.weight")];
        owners.iter().filter_map(|owner| tensors.get_key_value(owner)).any(|(owner, place)| {
            let part = upper_place(tensors, owner, place.kind).ok().flatten();
            let is_read = matches!(kind(place.kind, &place.shape), ItemKind::Compressed(_));
            is_read && part.is_some_and(|(part, _)| part == name)
        })
    };
    let listed = tensors.iter().filter(|(name, _)| !is_part(name));
    let item = |(name, place): (&String, &Place)| Item {
        name: name.to_owned(),
        shape: place.shape.clone(),
        stored: place.kind.to_string(),
        bytes: place.range.len(),
        kind: match upper_place(tensors, name, place.kind) {
            Err(SourceError::Unsupported { why, .. }) => ItemKind::Unsupported(why),
            _ => kind(place.kind, &place.shape),
        },
        role: Role::of(name),
    };
    listed.map(item).collect()
}

/// Reads a tensor. `upper` is the upper level of its scales, where that is a tensor of its own.
pub(super) fn data<'a>(tensor: &GgufTensor<'a>, upper: f32) -> Result<Data<'a>, SourceError> {
    match kind(tensor.kind, tensor.shape) {
        ItemKind::Plain(_) => Ok(Data::Plain(tensor.bytes.into())),
        ItemKind::Compressed(_) => Ok(Data::Compressed(blocks::read(tensor, upper)?)),
        ItemKind::Unsupported(why) => Err(SourceError::Unsupported {
            name: tensor.name.to_owned(),
            stored: tensor.kind.to_string(),
            why,
        }),
    }
}

/// Checks the scales of a tensor, if it has any.
pub(super) fn check(tensor: &GgufTensor<'_>, upper: f32) -> Result<(), SourceError> {
    if matches!(kind(tensor.kind, tensor.shape), ItemKind::Compressed(_)) {
        blocks::check(tensor, upper)?;
    }
    Ok(())
}

/// Returns what a tensor is when it is read.
fn kind(stored: GgmlType, shape: &[usize]) -> ItemKind {
    let unsupported = |why: &str| ItemKind::Unsupported(why.to_owned());
    if let Some(dtype) = stored.dtype() {
        return ItemKind::Plain(dtype);
    }
    match (blocks::format(stored), stored.name()) {
        (Some(format), _) if matrix_shape(shape).is_some() => ItemKind::Compressed(format),
        (Some(_), _) => unsupported("only matrices are read in this type, and it has one axis"),
        (None, Some(_)) => unsupported("lowbit has no format for this type"),
        (None, None) => unsupported("no type of ggml has this number"),
    }
}
