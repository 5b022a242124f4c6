//! Reads matrices and vectors of a model: codes and scales as they are, or floats.

use super::RunError;
use crate::architecture::{Matrix, Vector};
use crate::checkpoint::source::{Data, Item, ItemKind, ModelSource};
use crate::checkpoint::{Dtype, Tensor};
use lowbit::compress::{Scheme, dequantize};
use lowbit::format::{FormatError, PackedWeights, Quantization, WeightFormat};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// How the rows of several matrices become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Join {
    Stack,
    Interleave,
}

/// A matrix before it is on the device.
#[allow(clippy::large_enum_variant, reason = "there are few at a time, and they own megabytes")]
pub(super) enum Read {
    Packed(PackedWeights),
    /// Floats that are to be compressed.
    Floats {
        values: Vec<f32>,
        n: usize,
        k: usize,
    },
}

/// A tensor as it was read.
#[allow(clippy::large_enum_variant, reason = "there are few at a time, and they own megabytes")]
enum Raw {
    Packed(PackedWeights),
    Floats(Vec<f32>),
}

/// The tensors of a model.
pub(super) struct Reader<'a> {
    model: &'a dyn ModelSource,
    items: BTreeMap<String, Item>,
    /// Tensors of this layer of which matrices are parts.
    parts: HashMap<String, Rc<Raw>>,
}

impl<'a> Reader<'a> {
    pub fn new(model: &'a dyn ModelSource) -> Result<Self, RunError> {
        let items = model.items()?.into_iter().map(|item| (item.name.clone(), item)).collect();
        Ok(Self { model, items, parts: HashMap::new() })
    }

    /// Drops the tensors that are kept for the parts of a layer.
    pub fn end_layer(&mut self) {
        self.parts.clear();
    }

    /// Returns the columns of a tensor: its last dimension, or 0.
    pub fn columns(&self, name: &str) -> Result<usize, RunError> {
        Ok(self.item(name)?.shape.last().copied().unwrap_or(0))
    }

    fn item(&self, name: &str) -> Result<&Item, RunError> {
        self.items.get(name).ok_or_else(|| RunError::tensor(name, "the model has no such tensor"))
    }

    /// Returns all elements of a tensor as f32.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, RunError> {
        let item = self.item(name)?;
        match (self.model.read(name)?, &item.kind) {
            (Data::Plain(bytes), &ItemKind::Plain(dtype)) => {
                let tensor = Tensor { name, dtype, shape: &item.shape, bytes: &bytes };
                tensor.to_f32().map_err(|error| RunError::tensor(name, error))
            }
            (Data::Compressed(weights), _) => Ok(dequantize(&weights)),
            (Data::Plain(_), _) => Err(RunError::tensor(name, "its type has no numbers")),
        }
    }

    /// Reads a tensor as a matrix of `k` columns. One of which matrices are parts is kept until the end of the
    /// layer.
    fn raw(&mut self, name: &str, k: usize, part: bool) -> Result<Rc<Raw>, RunError> {
        if let Some(raw) = self.parts.get(name) {
            return Ok(raw.clone());
        }
        let raw = if matches!(self.item(name)?.kind, ItemKind::Compressed(_))
            && let Data::Compressed(packed) = self.model.read(name)?
        {
            Raw::Packed(with_columns(packed, k).map_err(|e| RunError::tensor(name, e))?)
        } else {
            Raw::Floats(self.floats(name)?)
        };
        let raw = Rc::new(raw);
        if part {
            self.parts.insert(name.to_owned(), raw.clone());
        }
        Ok(raw)
    }

    /// Returns how the file says that the input of a matrix becomes codes.
    pub fn quantization(&self, matrix: &Matrix) -> Result<Option<Quantization>, RunError> {
        Ok(self.model.activations(&matrix.tensor)?.map(|activations| activations.quantization))
    }

    /// Returns the factors by which the file says that the input of a matrix is divided.
    pub fn factors(&self, matrix: &Matrix) -> Result<Option<Vec<f32>>, RunError> {
        let factors = self.model.activations(&matrix.tensor)?.and_then(|found| found.factors);
        Ok(factors.filter(|factors| !factors.is_empty()))
    }

    /// Reads a matrix: codes and scales as they are, or floats if it is to be compressed.
    pub fn read(&mut self, matrix: &Matrix, scheme: Option<&Scheme>) -> Result<Read, RunError> {
        let name = &*matrix.tensor;
        let item = self.item(name)?.clone();
        let Some(&k) = item.shape.last() else {
            return Err(RunError::tensor(name, "it has no columns"));
        };
        let kind = item.kind.clone();
        let raw = self.raw(name, k, matrix.rows.is_some())?;
        let mut values = match (&*raw, scheme, &matrix.rows) {
            (Raw::Packed(packed), None, None) => return Ok(Read::Packed(packed.clone())),
            (Raw::Packed(packed), None, Some(rows)) => {
                return Ok(Read::Packed(packed.select_rows(rows.clone())?));
            }
            (Raw::Packed(packed), Some(_), _) => dequantize(packed),
            (Raw::Floats(values), _, _) => values.clone(),
        };
        let (mut n, mut k) = (values.len().checked_div(k).unwrap_or(0), k);
        if matrix.transposed && matches!(kind, ItemKind::Plain(_)) {
            values = transposed(&values, n, k);
            (n, k) = (k, n);
        }
        if let Some(rows) = &matrix.rows {
            let part = rows.start.saturating_mul(k)..rows.end.saturating_mul(k);
            let missing = || RunError::tensor(name, format_args!("it has no rows {rows:?}"));
            values = values.get(part).ok_or_else(missing)?.to_vec();
            n = rows.len();
        }
        if scheme.is_some() {
            return Ok(Read::Floats { values, n, k });
        }
        let format = match kind {
            ItemKind::Plain(Dtype::F16) => WeightFormat::f16(),
            _ => WeightFormat::f32(),
        };
        let packed = PackedWeights::quantize(&values, n, k, &format);
        Ok(Read::Packed(packed.map_err(|error| RunError::tensor(name, error))?))
    }

    pub fn vector(&self, vector: &Vector) -> Result<Vec<f32>, RunError> {
        let values = self.floats(&vector.tensor)?;
        match &vector.part {
            None => Ok(values),
            Some(part) => {
                let missing = || RunError::tensor(&vector.tensor, "it is too short");
                values.get(part.clone()).map(<[f32]>::to_vec).ok_or_else(missing)
            }
        }
    }

    pub fn rows(&self, matrix: &Matrix) -> Result<usize, RunError> {
        if let Some(rows) = &matrix.rows {
            return Ok(rows.len());
        }
        let item = self.item(&matrix.tensor)?;
        let columns = item.shape.last().copied().unwrap_or(0);
        let plain = matches!(item.kind, ItemKind::Plain(_));
        let rows = item.elements().checked_div(columns).unwrap_or(0);
        Ok(if matrix.transposed && plain { columns } else { rows })
    }
}

/// Joins the rows of matrices, or returns them as they are if their formats differ.
pub(super) fn joined(parts: Vec<Read>, join: Join) -> Result<Vec<Read>, RunError> {
    if let [_] = parts[..] {
        return Ok(parts);
    }
    let same = |packed: &[&PackedWeights]| {
        packed.windows(2).all(|pair| pair[0].format() == pair[1].format())
    };
    let packed: Vec<&PackedWeights> = parts
        .iter()
        .filter_map(|part| match part {
            Read::Packed(packed) => Some(packed),
            Read::Floats { .. } => None,
        })
        .collect();
    if packed.len() == parts.len() {
        if !same(&packed) {
            return Ok(parts);
        }
        let joined = match (join, &packed[..]) {
            (Join::Interleave, [gate, up]) => PackedWeights::interleave(gate, up),
            _ => PackedWeights::stack(&packed),
        };
        // Matrices may differ in what all rows share, such as the order of their columns.
        return Ok(joined.map_or(parts, |joined| vec![Read::Packed(joined)]));
    }
    let floats: Vec<_> = parts
        .iter()
        .filter_map(|part| match part {
            Read::Floats { values, n, k } => Some((values, *n, *k)),
            Read::Packed(_) => None,
        })
        .collect();
    let Some(&(_, _, k)) = floats.first() else { return Ok(parts) };
    let alike = floats.len() == parts.len() && floats.iter().all(|part| part.2 == k);
    if !alike || k == 0 {
        return Ok(parts);
    }
    let values: Vec<f32> = match (join, &floats[..]) {
        (Join::Interleave, [(gate, _, _), (up, _, _)]) => {
            gate.chunks(k).zip(up.chunks(k)).flat_map(|(g, u)| [g, u].concat()).collect()
        }
        _ => floats.iter().flat_map(|(values, _, _)| values.iter().copied()).collect(),
    };
    let n = values.len() / k;
    Ok(vec![Read::Floats { values, n, k }])
}

/// Returns a packed tensor as a matrix of `k` columns. Tensors of three dimensions are stored as one row for each
/// of the first; their parts lie in the same order if each row of `k` columns has whole words and groups.
fn with_columns(packed: PackedWeights, k: usize) -> Result<PackedWeights, FormatError> {
    if k == 0 || packed.k() == k || !packed.k().is_multiple_of(k) {
        return Ok(packed);
    }
    let (format, n) = (packed.format(), packed.n() * (packed.k() / k));
    let (whole, part) = (packed.geometry(), format.geometry(n, k)?);
    let rows = n / packed.n().max(1);
    let same = [
        (whole.code_words, part.code_words),
        (whole.groups, part.groups),
        (whole.supers, part.supers),
        (whole.meta_words, part.meta_words),
    ];
    // Zero points of 4 bits are packed by two within a row.
    let zeros = part.groups.is_multiple_of(2) || !format.has_zeros();
    if zeros && same.iter().all(|(whole, part)| *whole == part * rows) {
        return PackedWeights::new(format, n, k, packed.into_parts());
    }
    Err(FormatError::WrongLength {
        part: "columns of an expert, which has to be whole groups",
        need: k.next_multiple_of(256),
        have: k,
    })
}

/// Returns the `[k, n]` matrix that is the transpose of an `[n, k]` one.
fn transposed(values: &[f32], n: usize, k: usize) -> Vec<f32> {
    (0..k).flat_map(|column| (0..n).map(move |row| values[row * k + column])).collect()
}
