//! How a quantized tensor of the file becomes a matrix of this crate.

use super::source::{Kind, Source};
use crate::checkpoint::matrix_shape;
use half::f16;
use lowbit::format::{
    CodeType, FormatError, Granularity, PackedWeights, ScaleType, Scales, WeightFormat,
};
use safetensors::Dtype;

/// What a scale of a quantized tensor covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// All of it.
    Tensor,
    /// A slice along an axis.
    Axis(usize),
    /// Runs of `size` elements along an axis.
    Blocks { axis: usize, size: usize },
    /// `MatMulNBits`: `[n, ⌈k/size⌉, size · bits / 8]`, whatever shapes the tensors claim.
    Bits { n: usize, k: usize, size: usize, bits: usize },
}

/// A quantized tensor: `(code − zero) · scale`. Tensors are indices of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quantized {
    pub codes: usize,
    pub scale: usize,
    pub zero: Option<usize>,
    pub spread: Spread,
}

impl Quantized {
    /// The tensors it is made of.
    pub fn tensors(&self) -> impl Iterator<Item = usize> {
        [Some(self.codes), Some(self.scale), self.zero].into_iter().flatten()
    }
}

/// Where element `(row, column)` of a matrix stands in a tensor.
#[derive(Clone, Copy, Debug)]
struct View {
    source: usize,
    kind: Kind,
    row: usize,
    column: usize,
}

impl View {
    fn at(&self, row: usize, column: usize) -> usize {
        row * self.row + column * self.column
    }

    /// An integer in the crate's domain: int8 −128…127, int4 0…15.
    fn code(&self, sources: &[Source], row: usize, column: usize) -> i32 {
        let stored = sources[self.source].integer(self.kind, self.at(row, column)) as i32;
        match self.kind {
            Kind::Plain(Dtype::U8) => stored - 128,
            Kind::Int4 => stored + 8,
            _ => stored,
        }
    }
}

/// A weight that can be imported: `[n, k]`, N output channels.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub format: WeightFormat,
    pub shape: Vec<usize>,
    n: usize,
    k: usize,
    groups: usize,
    codes: View,
    scales: View,
    zeros: Option<View>,
    /// The zero point where none is stored.
    default_zero: i32,
}

impl Plan {
    /// `n_axis` is the axis of output channels: 0 for `[N, K, …]`, 1 for `[K, N]`.
    ///
    /// # Errors
    /// Why it cannot be imported.
    pub fn new(sources: &[Source], from: &Quantized, n_axis: usize) -> Result<Self, String> {
        let (codes, scale) = (&sources[from.codes], &sources[from.scale]);
        if !scale.kind.is_float() {
            return Err(format!("scales of {} are not understood", scale.kind));
        }
        let shape = match (from.spread, n_axis, codes.shape.as_slice()) {
            (Spread::Bits { n, k, .. }, ..) => vec![n, k],
            (_, 0, shape) => shape.to_vec(),
            (_, 1, &[k, n]) => vec![n, k],
            (.., shape) => return Err(format!("a weight of shape {shape:?} is no matrix")),
        };
        let (n, k) = matrix_shape(&shape)
            .filter(|&(n, k)| n > 0 && k > 0)
            .ok_or_else(|| format!("a weight of shape {shape:?} is no matrix"))?;

        // MatMulNBits has bytes, and the codes inside of them.
        let kind = match (from.spread, codes.kind) {
            (Spread::Bits { bits: 4, .. }, Kind::Plain(Dtype::U8)) => Kind::Uint4,
            (_, kind) => kind,
        };
        let (element, default_zero) = match kind {
            Kind::Plain(Dtype::I8) => (WeightFormat::int8 as fn(_) -> _, 0),
            Kind::Plain(Dtype::U8) => (WeightFormat::int8 as fn(_) -> _, -128),
            Kind::Int4 => (WeightFormat::int4 as fn(_) -> _, 8),
            Kind::Uint4 => (WeightFormat::int4 as fn(_) -> _, 0),
            other => return Err(format!("weights of {other} are not understood")),
        };
        // Strides of row and column, and how many elements there are, of n × `columns`.
        let strides = |columns: usize| match n_axis {
            0 => (columns, 1, n * columns),
            _ => (1, n, n * columns),
        };
        let (granularity, groups, code, scaling, zero) = match from.spread {
            Spread::Tensor => (Granularity::Tensor, 1, strides(k), (0, 0, 1), (0, 0, 1)),
            Spread::Axis(axis) if axis == n_axis => {
                (Granularity::Channel, 1, strides(k), (1, 0, n), (1, 0, n))
            }
            Spread::Axis(_) => return Err("its scales are per input channel".to_owned()),
            Spread::Blocks { axis, size } => {
                if axis == n_axis || shape.len() != 2 {
                    return Err("its blocks do not run along input channels".to_owned());
                }
                let groups = k.div_ceil(size.max(1));
                (group(size)?, groups, strides(k), strides(groups), strides(groups))
            }
            Spread::Bits { size, bits, .. } => {
                let groups = k.div_ceil(size.max(1));
                let padded = groups.checked_mul(size).and_then(|row| row.checked_mul(n));
                let padded = padded.ok_or("its size overflows")?;
                // Rows of zero points are padded to whole bytes.
                let zeros = (groups * bits).div_ceil(8) * 8 / bits;
                let code = (padded / n, 1, padded);
                (group(size)?, groups, code, (groups, 1, n * groups), (zeros, 1, n * zeros))
            }
        };
        // Exactly as many elements as will be asked for.
        let view = |source: usize, kind, (row, column, need)| {
            let tensor = &sources[source];
            let have = match (from.spread, kind) {
                (Spread::Bits { .. }, Kind::Uint4) => 2 * tensor.elements,
                _ => tensor.elements,
            };
            match have == need {
                true => Ok(View { source, kind, row, column }),
                false => Err(format!("`{}` has {have} elements, not {need}", tensor.name)),
            }
        };
        let zeros = match from.zero {
            None => None,
            Some(zero) if sources[zero].kind != codes.kind => {
                return Err(format!(
                    "zero points of {} are not understood where codes are {}",
                    sources[zero].kind, codes.kind
                ));
            }
            // One for all, beside scales of any number.
            Some(source) if sources[source].elements == 1 && kind == codes.kind => {
                Some(view(source, kind, (0, 0, 1))?)
            }
            Some(source) => Some(view(source, kind, zero)?),
        };
        let mut plan = Self {
            format: element(granularity),
            n,
            k,
            groups,
            codes: view(from.codes, kind, code)?,
            scales: view(from.scale, scale.kind, scaling)?,
            zeros,
            // MatMulNBits alone puts zero in the middle.
            default_zero: match (from.spread, default_zero) {
                (Spread::Bits { .. }, -128) => 0,
                (Spread::Bits { .. }, _) => 8,
                (_, zero) => zero,
            },
            shape,
        };
        if plan.needs_zeros(sources) {
            plan.format = plan.format.asymmetric();
        }
        if plan.halves(sources) {
            plan.format = plan.format.with_scales(ScaleType::F16);
        }
        Ok(plan)
    }

    /// Rows and groups of scales as stored: one for a whole tensor.
    fn scale_places(&self) -> impl Iterator<Item = (usize, usize)> {
        let rows = if self.format.granularity() == Granularity::Tensor { 1 } else { self.n };
        let groups = self.groups;
        (0..rows).flat_map(move |row| (0..groups).map(move |group| (row, group)))
    }

    fn zero(&self, sources: &[Source], row: usize, group: usize) -> i32 {
        self.zeros.map_or(self.default_zero, |view| view.code(sources, row, group))
    }

    /// Whether zero points must be stored: one is not the symmetric one, a code is −128,
    /// which symmetric int8 does not have, or a scale is negative.
    fn needs_zeros(&self, sources: &[Source]) -> bool {
        let symmetric = self.format.symmetric_zero();
        let lowest = self.format.code_range().map_or(0, |(low, _)| low);
        self.scale_places().any(|(row, group)| self.zero(sources, row, group) != symmetric)
            || self.scale_values(sources).iter().any(|scale| *scale < 0.0)
            || (0..self.n)
                .any(|row| (0..self.k).any(|column| self.codes.code(sources, row, column) < lowest))
    }

    /// The scales of the file, signs and all.
    fn scale_values(&self, sources: &[Source]) -> Vec<f32> {
        // `new` took float scales only.
        let floats = sources[self.scales.source].floats().unwrap_or_default();
        self.scale_places()
            .map(|(row, group)| floats.get(self.scales.at(row, group)).copied().unwrap_or(0.0))
            .collect()
    }

    /// Whether scales are f16 in the file and all are normal. Subnormal ones are normal as
    /// f32.
    fn halves(&self, sources: &[Source]) -> bool {
        self.scales.kind == Kind::Plain(Dtype::F16)
            && self.scale_values(sources).into_iter().all(|s| f16::from_f32(s).is_normal())
    }

    /// A code or zero point under the negated scale: `(c − z)·s = (−1−c − (−1−z))·(−s)`, and
    /// int4's domain is 15 minus where int8's is −1 minus.
    fn turned(&self, code: i32, scale: f32) -> i32 {
        match (scale < 0.0, self.format.code_type()) {
            (false, _) => code,
            (true, CodeType::Int4) => 15 - code,
            (true, _) => -1 - code,
        }
    }

    /// Codes and zero points exactly. Scales are the file's; a format's are positive, so the
    /// codes under a negative one are turned over.
    pub fn pack(&self, sources: &[Source]) -> Result<PackedWeights, FormatError> {
        let geometry = self.format.geometry(self.n, self.k)?;
        let bits = self.format.code_type().bits();
        let per = self.format.code_type().per_word() as usize;
        let scales = self.scale_values(sources);
        let scale =
            |row, group| scales.get(geometry.scale_index(row, group)).copied().unwrap_or_default();
        let mut codes = vec![0u32; self.n * geometry.code_words];
        for (row, words) in codes.chunks_exact_mut(geometry.code_words).enumerate() {
            for column in 0..self.k {
                let code = self.codes.code(sources, row, column);
                let code = self.turned(code, scale(row, geometry.group_of(column))) as u32;
                let code = code & (u32::MAX >> (32 - bits));
                words[column / per] |= code << ((column % per) as u32 * bits);
            }
        }
        let zeros = if self.format.is_symmetric() {
            Vec::new()
        } else {
            let zero =
                |(row, group)| self.turned(self.zero(sources, row, group), scale(row, group)) as u8;
            self.scale_places().map(zero).collect()
        };
        let scales = match self.format.scale_type() {
            ScaleType::F16 => {
                Scales::F16(scales.iter().map(|&scale| f16::from_f32(scale.abs())).collect())
            }
            ScaleType::F32 => Scales::F32(scales.iter().map(|scale| scale.abs()).collect()),
        };
        PackedWeights::from_parts(self.format, self.n, self.k, codes, vec![], scales, zeros)
    }
}

fn group(size: usize) -> Result<Granularity, String> {
    let size = u32::try_from(size).map_err(|_| "its blocks are too long".to_owned())?;
    Granularity::group(size).map_err(|error| error.to_string())
}
