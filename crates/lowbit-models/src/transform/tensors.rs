//! The float tensors of a model, and what is to become of them.
//!
//! What happens to a tensor is collected first and then done in one go, in f64, so that its elements are rounded
//! once, and no more than one tensor is in memory in f64.

use super::TransformError;
use super::hadamard::Hadamard;
use crate::architecture::{Matrix, Vector};
use crate::checkpoint::source::{Data, Item, ItemKind, ModelSource, SourceError};
use crate::checkpoint::{Tensor, matrix_shape};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Tensors by their names, as shapes and elements in row-major order.
pub(super) type Floats = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// An orthogonal matrix Q.
#[derive(Clone, Debug)]
pub(super) enum Rotation {
    /// H · diag(s), for a Hadamard matrix H and signs s.
    Signed(Hadamard, Vec<f64>),
    /// Hᵀ · diag(s) · H, where the first of the signs s is 1. H maps a vector of equal elements to one that has
    /// only a first element, so Q leaves it as it is.
    Conjugated(Hadamard, Vec<f64>),
}

impl Rotation {
    fn len(&self) -> usize {
        match self {
            Self::Signed(hadamard, _) | Self::Conjugated(hadamard, _) => hadamard.order(),
        }
    }

    /// Multiplies Q by each of the vectors that `x` has one after the other.
    pub fn apply(&self, x: &mut [f64]) {
        let turn = |x: &mut [f64], signs: &[f64]| {
            for vector in x.chunks_exact_mut(self.len()) {
                vector.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
            }
        };
        match self {
            Self::Signed(hadamard, signs) => {
                turn(x, signs);
                hadamard.multiply(x);
            }
            Self::Conjugated(hadamard, signs) => {
                hadamard.multiply(x);
                turn(x, signs);
                hadamard.multiply_transposed(x);
            }
        }
    }
}

/// What becomes of the rows or columns of a matrix, or the elements of a vector.
#[derive(Clone, Debug, Default)]
pub(super) enum Side {
    /// They stay as they are.
    #[default]
    Same,
    /// Each run of as many as the rotation has is multiplied by it.
    Rotated(Arc<Rotation>),
    /// They become these, in this order.
    Chosen(Vec<usize>),
}

/// What becomes of a matrix W `[N, K]`.
#[derive(Clone, Debug, Default)]
pub(super) struct Edit {
    /// What its columns are multiplied with first.
    pub factors: Option<Vec<f64>>,
    /// What becomes of the columns, which take the inputs.
    pub inputs: Side,
    /// What becomes of the rows, which make the outputs.
    pub outputs: Side,
}

/// What becomes of a part of a tensor.
enum Change {
    Matrix {
        matrix: Matrix,
        edit: Edit,
    },
    /// These numbers are added to the elements first.
    Vector {
        vector: Vector,
        add: Option<Vec<f64>>,
        side: Side,
    },
    /// The elements become these.
    Values {
        vector: Vector,
        values: Vec<f64>,
    },
}

impl Change {
    /// Returns the rows of the tensor, or the elements of a vector, that it is about.
    fn range(&self, all: usize) -> Range<usize> {
        let part = match self {
            Self::Matrix { matrix, .. } => &matrix.rows,
            Self::Vector { vector, .. } | Self::Values { vector, .. } => &vector.part,
        };
        part.clone().unwrap_or(0..all)
    }
}

/// The tensors of a model and their changes.
pub(super) struct Tensors<'a> {
    source: &'a dyn ModelSource,
    items: BTreeMap<String, Item>,
    /// The changes of each new tensor, which is made of the tensor that they name.
    changes: BTreeMap<String, Vec<Change>>,
}

impl<'a> Tensors<'a> {
    pub fn new(source: &'a dyn ModelSource) -> Result<Self, TransformError> {
        let items = source.items()?.into_iter().map(|item| (item.name.clone(), item)).collect();
        Ok(Self { source, items, changes: BTreeMap::new() })
    }

    /// Returns whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.items.contains_key(name)
    }

    fn item(&self, name: &str) -> Result<&Item, TransformError> {
        let missing = || SourceError::NotFound { name: name.to_owned() };
        Ok(self.items.get(name).ok_or_else(missing)?)
    }

    /// Returns the elements of a tensor.
    fn values(&self, name: &str) -> Result<Vec<f32>, TransformError> {
        let item = self.item(name)?;
        if let ItemKind::Plain(dtype) = item.kind
            && let Data::Plain(bytes) = self.source.read(name)?
        {
            let tensor = Tensor { name, dtype, shape: &item.shape, bytes: &bytes };
            return Ok(tensor.to_f32()?);
        }
        let (name, stored) = (name.to_owned(), item.stored.clone());
        Err(TransformError::Compressed { name, stored })
    }

    /// Returns the elements of a vector.
    pub fn vector(&self, vector: &Vector) -> Result<Vec<f64>, TransformError> {
        let values = self.values(&vector.tensor)?;
        let part = vector.part.clone().unwrap_or(0..values.len());
        Ok(self.part(&vector.tensor, &values, part)?.iter().copied().map(f64::from).collect())
    }

    /// Returns the elements of a matrix, row by row, and the number of its columns.
    pub fn matrix(&self, matrix: &Matrix) -> Result<(Vec<f32>, usize), TransformError> {
        let (values, k) = self.whole(matrix)?;
        let Some(rows) = &matrix.rows else { return Ok((values, k)) };
        let range = rows.start.saturating_mul(k)..rows.end.saturating_mul(k);
        Ok((self.part(&matrix.tensor, &values, range)?.to_vec(), k))
    }

    /// Returns the rows and columns of a matrix.
    pub fn size(&self, matrix: &Matrix) -> Result<(usize, usize), TransformError> {
        let item = self.item(&matrix.tensor)?;
        let columns = item.shape.last().copied().unwrap_or(0);
        let rows = item.elements().checked_div(columns).unwrap_or(0);
        let (rows, columns) = if matrix.transposed { (columns, rows) } else { (rows, columns) };
        Ok((matrix.rows.as_ref().map_or(rows, ExactSizeIterator::len), columns))
    }

    fn part<'v>(
        &self,
        name: &str,
        values: &'v [f32],
        range: Range<usize>,
    ) -> Result<&'v [f32], TransformError> {
        let missing = || SourceError::NotFound { name: format!("{name}[{range:?}]") };
        Ok(values.get(range.clone()).ok_or_else(missing)?)
    }

    /// Returns the elements of the whole tensor in which a matrix is, as rows `[N, K]`, and K.
    fn whole(&self, matrix: &Matrix) -> Result<(Vec<f32>, usize), TransformError> {
        let values = self.values(&matrix.tensor)?;
        let columns = self.item(&matrix.tensor)?.shape.last().copied().unwrap_or(0);
        let rows = values.len().checked_div(columns).unwrap_or(0);
        if matrix.transposed {
            Ok((transposed(&values, columns), rows))
        } else {
            Ok((values, columns))
        }
    }

    /// Changes a matrix.
    pub fn edit(&mut self, matrix: &Matrix, edit: Edit) {
        self.edit_into(&matrix.tensor, matrix, edit);
    }

    /// Makes a new tensor of a matrix, which stays as it is.
    pub fn edit_into(&mut self, name: &str, matrix: &Matrix, edit: Edit) {
        self.change(name, Change::Matrix { matrix: matrix.clone(), edit });
    }

    /// Adds numbers to the elements of a vector and changes it.
    pub fn edit_vector(&mut self, vector: &Vector, add: Option<Vec<f64>>, side: Side) {
        self.change(&vector.tensor, Change::Vector { vector: vector.clone(), add, side });
    }

    /// Puts values in the place of the elements of a vector.
    pub fn replace(&mut self, vector: &Vector, values: Vec<f64>) {
        self.change(&vector.tensor, Change::Values { vector: vector.clone(), values });
    }

    fn change(&mut self, name: &str, change: Change) {
        self.changes.entry(name.to_owned()).or_default().push(change);
    }

    /// Makes all changes and returns the new tensors.
    pub fn finish(mut self) -> Result<Floats, TransformError> {
        let changes = std::mem::take(&mut self.changes);
        let mut floats = Floats::new();
        for (name, changes) in changes {
            let (shape, values) = self.changed(&name, changes)?;
            if let Some((index, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
                return Err(TransformError::NotFinite { name, index, value: *value });
            }
            floats.insert(name, (shape, values));
        }
        Ok(floats)
    }

    /// Makes a tensor by changes of another, or of its rows.
    fn changed(
        &self,
        name: &str,
        mut changes: Vec<Change>,
    ) -> Result<(Vec<usize>, Vec<f32>), TransformError> {
        let shared = || TransformError::Shared { name: name.to_owned() };
        let Some(Change::Matrix { matrix, .. }) = changes.first() else {
            return self.changed_vector(name, changes);
        };
        let matrix = matrix.clone();
        let (values, k) = self.whole(&matrix)?;
        let rows = values.len().checked_div(k).unwrap_or(0);
        changes.sort_by_key(|change| change.range(rows).start);
        let (mut all, mut columns, mut next) = (Vec::new(), None, 0);
        for change in &changes {
            let range = change.range(rows);
            let Change::Matrix { edit, .. } = change else { return Err(shared()) };
            // Rows between two changes keep their columns.
            if range.start != next && columns.is_some_and(|columns| columns != k) {
                return Err(shared());
            }
            if range.start < next {
                return Err(shared());
            }
            all.extend_from_slice(self.part(name, &values, next * k..range.start * k)?);
            let part = self.part(name, &values, range.start * k..range.end * k)?;
            let (part, own) = edited(part, k, edit);
            if columns.is_some_and(|columns| columns != own) || (next != range.start && own != k) {
                return Err(shared());
            }
            (columns, next) = (Some(own), range.end);
            all.extend(part);
        }
        let columns = columns.unwrap_or(k);
        if next < rows && columns != k {
            return Err(shared());
        }
        all.extend_from_slice(self.part(name, &values, next * k..rows * k)?);
        let rows_now = all.len().checked_div(columns).unwrap_or(0);
        if matrix.transposed {
            return Ok((vec![columns, rows_now], transposed(&all, columns)));
        }
        let mut shape = self.item(&matrix.tensor)?.shape.clone();
        if rows_now == rows && columns == k {
            return Ok((shape, all));
        }
        // Only a matrix has other sizes afterwards, and no stack of them.
        if matrix_shape(&shape) != Some((rows, k)) {
            return Err(shared());
        }
        shape = vec![rows_now, columns];
        Ok((shape, all))
    }

    fn changed_vector(
        &self,
        name: &str,
        mut changes: Vec<Change>,
    ) -> Result<(Vec<usize>, Vec<f32>), TransformError> {
        let shared = || TransformError::Shared { name: name.to_owned() };
        let values = self.values(name)?;
        changes.sort_by_key(|change| change.range(values.len()).start);
        let (mut all, mut next) = (Vec::new(), 0);
        for change in changes {
            let range = change.range(values.len());
            if range.start < next {
                return Err(shared());
            }
            all.extend_from_slice(self.part(name, &values, next..range.start)?);
            let part = self.part(name, &values, range.clone())?;
            next = range.end;
            match change {
                Change::Values { values, .. } => all.extend(values.into_iter().map(|v| v as f32)),
                Change::Vector { add, side, .. } => {
                    let mut part: Vec<f64> = part.iter().copied().map(f64::from).collect();
                    if let Some(add) = add {
                        part.iter_mut().zip(add).for_each(|(x, more)| *x += more);
                    }
                    all.extend(side.apply(part).into_iter().map(|v| v as f32));
                }
                Change::Matrix { .. } => return Err(shared()),
            }
        }
        all.extend_from_slice(self.part(name, &values, next..values.len())?);
        let shape = match self.item(name)?.shape.clone() {
            shape if all.len() == values.len() => shape,
            _ => vec![all.len()],
        };
        Ok((shape, all))
    }
}

impl Side {
    fn apply(&self, mut x: Vec<f64>) -> Vec<f64> {
        match self {
            Self::Same => x,
            Self::Rotated(rotation) => {
                rotation.apply(&mut x);
                x
            }
            Self::Chosen(chosen) => chosen.iter().filter_map(|at| x.get(*at)).copied().collect(),
        }
    }
}

/// Returns the rows of a matrix of `k` columns after a change, and the number of their columns.
fn edited(values: &[f32], k: usize, edit: &Edit) -> (Vec<f32>, usize) {
    let wide = |row: &[f32]| {
        let mut row: Vec<f64> = row.iter().copied().map(f64::from).collect();
        if let Some(factors) = &edit.factors {
            row.iter_mut().zip(factors).for_each(|(w, factor)| *w *= factor);
        }
        edit.inputs.apply(row)
    };
    let narrow = |row: Vec<f64>| row.into_iter().map(|w| w as f32);
    let columns = if let Side::Chosen(chosen) = &edit.inputs { chosen.len() } else { k };
    let rows = values.par_chunks_exact(k.max(1));
    let all: Vec<f32> = match &edit.outputs {
        Side::Same => rows.flat_map_iter(|row| narrow(wide(row))).collect(),
        Side::Chosen(chosen) => {
            let row = |at: &usize| values.get(at * k..(at + 1) * k).unwrap_or_default();
            chosen.par_iter().flat_map_iter(|at| narrow(wide(row(at)))).collect()
        }
        Side::Rotated(rotation) => {
            let all: Vec<f64> = rows.flat_map_iter(wide).collect();
            let n = all.len().checked_div(columns).unwrap_or(0);
            let mut turned = transposed(&all, columns);
            drop(all);
            turned.par_chunks_exact_mut(n.max(1)).for_each(|column| rotation.apply(column));
            let narrow: Vec<f32> = turned.par_iter().map(|w| *w as f32).collect();
            transposed(&narrow, n)
        }
    };
    (all, columns)
}

/// Returns the transpose of a matrix of `k` columns.
fn transposed<T: Copy + Send + Sync>(values: &[T], k: usize) -> Vec<T> {
    let column = |at: usize| values.iter().skip(at).step_by(k.max(1)).copied();
    (0..k).into_par_iter().flat_map_iter(column).collect()
}
