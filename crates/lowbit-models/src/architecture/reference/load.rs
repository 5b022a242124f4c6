//! Reads the tensors of a blueprint as f64.

use super::ReferenceError;
use crate::architecture::{Linear, Matrix, Norm, NormKind, Vector};
use crate::checkpoint::source::{Data, Item, ItemKind, ModelSource};
use crate::checkpoint::{Tensor, matrix_shape};
use lowbit::format::{Quantization, StaticScale};
use lowbit::reference::dequantize_f64;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The tensors of a model, of which those that were read are kept until they are dropped all at once.
pub(super) struct Loader<'a> {
    model: &'a dyn ModelSource,
    items: BTreeMap<String, Item>,
    read: RefCell<BTreeMap<String, Rc<Vec<f64>>>>,
    /// What linear layers took, if that is asked for.
    inputs: Option<Rc<Inputs>>,
    /// Whether inputs are rounded to the codes that the file fixes a scale of.
    codes: bool,
}

/// The rows that linear layers took, one after the other, by the names of their weights.
type Inputs = RefCell<BTreeMap<String, Vec<f64>>>;

/// A matrix of `n` rows.
pub(super) struct Rows {
    pub values: Vec<f64>,
    pub k: usize,
}

/// A linear layer.
pub(super) struct Dense {
    matrix: Rows,
    bias: Option<Vec<f64>>,
    /// Where its inputs are kept, and under which name.
    inputs: Option<(Rc<Inputs>, String)>,
    /// What its input becomes first.
    codes: Option<Codes>,
}

/// Codes of the input of a linear layer, with a fixed scale.
struct Codes {
    scale: StaticScale,
    /// What columns are divided by before they become codes.
    factors: Vec<f32>,
}

/// A normalization.
pub(super) struct Scaling {
    kind: NormKind,
    weight: Vec<f64>,
    bias: Option<Vec<f64>>,
    epsilon: f64,
}

impl<'a> Loader<'a> {
    pub fn new(model: &'a dyn ModelSource) -> Result<Self, ReferenceError> {
        let items = model.items()?.into_iter().map(|item| (item.name.clone(), item)).collect();
        Ok(Self { model, items, read: RefCell::default(), inputs: None, codes: false })
    }

    /// Keeps what linear layers take from now on.
    pub fn keep_inputs(&mut self) {
        self.inputs = Some(Rc::default());
    }

    /// Returns what linear layers took, by the names of their weights.
    pub fn inputs(&self) -> BTreeMap<String, Vec<f64>> {
        self.inputs.as_ref().map(|inputs| inputs.take()).unwrap_or_default()
    }

    /// Rounds what linear layers take from now on, where the file fixes a scale.
    pub fn round_inputs(&mut self) {
        self.codes = true;
    }

    fn codes_of(&self, linear: &Linear) -> Result<Option<Codes>, ReferenceError> {
        if !self.codes {
            return Ok(None);
        }
        let found = self.model.activations(&linear.matrix.tensor)?;
        Ok(found.and_then(|found| match found.quantization {
            Quantization::Static(scale) => {
                Some(Codes { scale, factors: found.factors.unwrap_or_default() })
            }
            Quantization::Dynamic(_) => None,
        }))
    }

    fn inputs_of(&self, linear: &Linear) -> Option<(Rc<Inputs>, String)> {
        let inputs = self.inputs.as_ref()?;
        Some((Rc::clone(inputs), linear.matrix.tensor.clone()))
    }

    /// Drops the tensors that were read.
    pub fn forget(&self) {
        self.read.borrow_mut().clear();
    }

    /// Returns all elements of a tensor in order, and its shape as a matrix.
    fn tensor(&self, name: &str) -> Result<(Rc<Vec<f64>>, &Item), ReferenceError> {
        let missing = || ReferenceError::NoTensor { name: name.to_owned() };
        let item = self.items.get(name).ok_or_else(missing)?;
        if let Some(values) = self.read.borrow().get(name) {
            return Ok((Rc::clone(values), item));
        }
        let values = match (self.model.read(name)?, &item.kind) {
            (Data::Plain(bytes), &ItemKind::Plain(dtype)) => {
                let tensor = Tensor { name, dtype, shape: &item.shape, bytes: &bytes };
                let values =
                    tensor.to_f32().map_err(crate::checkpoint::source::SourceError::from)?;
                values.into_iter().map(f64::from).collect()
            }
            (Data::Compressed(weights), _) => {
                let mut values = dequantize_f64(&weights)
                    .map_err(|source| ReferenceError::Weights { name: name.to_owned(), source })?;
                // Columns were multiplied with the factors by which X would have to be divided.
                let activations = self.model.activations(name)?;
                if let Some(factors) = activations.and_then(|activations| activations.factors)
                    && !factors.is_empty()
                {
                    for row in values.chunks_mut(factors.len()) {
                        row.iter_mut().zip(&factors).for_each(|(w, f)| *w /= f64::from(*f));
                    }
                }
                values
            }
            (Data::Plain(_), _) => return Err(missing()),
        };
        let values = Rc::new(values);
        self.read.borrow_mut().insert(name.to_owned(), Rc::clone(&values));
        Ok((values, item))
    }

    /// Returns a matrix with `k` columns, and with `n` rows if that is given.
    pub fn matrix(
        &self,
        matrix: &Matrix,
        n: Option<usize>,
        k: usize,
    ) -> Result<Rows, ReferenceError> {
        let (values, item) = self.tensor(&matrix.tensor)?;
        let compressed = matches!(item.kind, ItemKind::Compressed(_));
        let wrong = || ReferenceError::Shape {
            name: matrix.tensor.clone(),
            have: item.shape.clone(),
            need: format!("{n:?} rows of {k} columns"),
        };
        let values = if matrix.transposed && !compressed {
            let (_, columns) = matrix_shape(&item.shape).ok_or_else(wrong)?;
            if columns == 0 {
                return Err(wrong());
            }
            (0..columns).flat_map(|at| values.iter().skip(at).step_by(columns).copied()).collect()
        } else {
            values.to_vec()
        };
        let columns = match &item.shape[..] {
            [first, ..] if matrix.transposed && !compressed => *first,
            [.., last] => *last,
            [] => 0,
        };
        if columns != k || k == 0 {
            return Err(wrong());
        }
        let values = match &matrix.rows {
            None => values,
            Some(rows) => {
                let range = rows.start.saturating_mul(k)..rows.end.saturating_mul(k);
                values.get(range).ok_or_else(wrong)?.to_vec()
            }
        };
        if n.is_some_and(|n| Some(values.len()) != n.checked_mul(k)) {
            return Err(wrong());
        }
        Ok(Rows { values, k })
    }

    /// Returns the columns of a matrix that is a whole tensor.
    pub fn columns(&self, matrix: &Matrix) -> Result<usize, ReferenceError> {
        let (_, item) = self.tensor(&matrix.tensor)?;
        Ok(item.shape.last().copied().unwrap_or(0))
    }

    /// Returns a vector of `len` elements.
    pub fn vector(&self, vector: &Vector, len: usize) -> Result<Vec<f64>, ReferenceError> {
        let (values, item) = self.tensor(&vector.tensor)?;
        let values = match &vector.part {
            None => Some(&values[..]),
            Some(part) => values.get(part.clone()),
        };
        let values = values.filter(|values| values.len() == len);
        let values = values.ok_or_else(|| ReferenceError::Shape {
            name: vector.tensor.clone(),
            have: item.shape.clone(),
            need: format!("{len} elements"),
        })?;
        Ok(values.to_vec())
    }

    /// Returns a linear layer from `k` columns to `n`.
    pub fn dense(&self, linear: &Linear, n: usize, k: usize) -> Result<Dense, ReferenceError> {
        let matrix = self.matrix(&linear.matrix, Some(n), k)?;
        let bias = linear.bias.as_ref().map(|bias| self.vector(bias, n)).transpose()?;
        let (inputs, codes) = (self.inputs_of(linear), self.codes_of(linear)?);
        Ok(Dense { matrix, bias, inputs, codes })
    }

    /// Returns a linear layer from `k` columns to as many as its matrix has rows.
    pub fn any_dense(&self, linear: &Linear, k: usize) -> Result<(Dense, usize), ReferenceError> {
        let matrix = self.matrix(&linear.matrix, None, k)?;
        let n = matrix.values.len() / k;
        let bias = linear.bias.as_ref().map(|bias| self.vector(bias, n)).transpose()?;
        let (inputs, codes) = (self.inputs_of(linear), self.codes_of(linear)?);
        Ok((Dense { matrix, bias, inputs, codes }, n))
    }

    /// Returns a normalization of rows of `len` columns.
    pub fn norm(&self, norm: &Norm, len: usize) -> Result<Scaling, ReferenceError> {
        let offset = f64::from(norm.weight_offset);
        let weight = self.vector(&norm.weight, len)?.into_iter().map(|w| w + offset).collect();
        let bias = norm.bias.as_ref().map(|bias| self.vector(bias, len)).transpose()?;
        Ok(Scaling { kind: norm.kind, weight, bias, epsilon: f64::from(norm.epsilon) })
    }
}

impl Rows {
    /// Returns a row of the matrix that was read from `matrix`.
    pub fn row(&self, row: usize, matrix: &Matrix) -> Result<Vec<f64>, ReferenceError> {
        let no_row = || ReferenceError::NoRow { name: matrix.tensor.clone(), row };
        let values = self.values.chunks_exact(self.k).nth(row);
        values.map(<[f64]>::to_vec).ok_or_else(no_row)
    }
}

impl Dense {
    /// Returns X · Wᵀ + b.
    pub fn run(&self, x: &[f64]) -> Vec<f64> {
        if let Some((inputs, name)) = &self.inputs {
            inputs.borrow_mut().entry(name.clone()).or_default().extend(x);
        }
        let rounded = self.codes.as_ref().map(|codes| codes.rounded(x));
        let x = rounded.as_deref().unwrap_or(x);
        let Rows { values, k } = &self.matrix;
        let mut y = Vec::new();
        for row in x.chunks_exact(*k) {
            let products = values.chunks_exact(*k).map(|w| dot(row, w));
            match &self.bias {
                None => y.extend(products),
                Some(bias) => y.extend(products.zip(bias).map(|(sum, bias)| sum + bias)),
            }
        }
        y
    }
}

impl Codes {
    /// Returns the numbers that the codes of X stand for, times the factors.
    fn rounded(&self, x: &[f64]) -> Vec<f64> {
        let (scale, zero) = (f64::from(self.scale.scale), f64::from(self.scale.zero_point));
        // Symmetric codes leave out the one that has no opposite.
        let least = if self.scale.zero_point == 0 { -127.0 } else { -128.0 };
        let round = |x: f64| {
            let code = ((x / scale).round_ties_even() + zero).clamp(least, 127.0);
            (code - zero) * scale
        };
        let ones = [1.0f32];
        let factors = if self.factors.is_empty() { &ones[..] } else { &self.factors };
        let factors = factors.iter().cycle().map(|factor| f64::from(*factor));
        x.iter().zip(factors).map(|(x, factor)| round(x / factor) * factor).collect()
    }
}

impl Scaling {
    /// Normalizes rows.
    pub fn run(&self, x: &[f64]) -> Vec<f64> {
        let len = self.weight.len().max(1);
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(len) {
            let count = len as f64;
            let mean = match self.kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => row.iter().sum::<f64>() / count,
            };
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let factor = 1.0 / (variance + self.epsilon).sqrt();
            let scaled = row.iter().zip(&self.weight).map(|(x, w)| (x - mean) * factor * w);
            match &self.bias {
                None => y.extend(scaled),
                Some(bias) => y.extend(scaled.zip(bias).map(|(x, bias)| x + bias)),
            }
        }
        y
    }
}

/// Returns the sum of the products of two vectors.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
