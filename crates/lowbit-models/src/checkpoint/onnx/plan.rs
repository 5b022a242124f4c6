//! How a quantized tensor of the file becomes a packed matrix.

use super::source::{Kind, Source};
use crate::checkpoint::matrix_shape;
use crate::checkpoint::scales::is_dead;
use half::f16;
use lowbit::format::{
    CodeType, FormatError, Granularity, PackedWeights, ScaleType, Scales, WeightFormat,
};
use safetensors::Dtype;

/// The elements of a quantized tensor that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// The whole tensor.
    Tensor,
    /// Each slice along an axis.
    Axis(usize),
    /// Runs of `size` elements along an axis.
    Blocks { axis: usize, size: usize },
    /// The layout of `MatMulNBits`: `[n, ⌈k/size⌉, size · bits / 8]`, for any shapes of the tensors.
    Bits { n: usize, k: usize, size: usize, bits: usize },
}

/// A quantized tensor, `(code − zero) · scale`. The fields are indices of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quantized {
    pub codes: usize,
    pub scale: usize,
    pub zero: Option<usize>,
    pub spread: Spread,
    /// A single float by which every scale is multiplied. Only biases have it.
    pub also: Option<usize>,
}

impl Quantized {
    /// Returns the tensors that it is made of.
    pub fn tensors(&self) -> impl Iterator<Item = usize> {
        [Some(self.codes), Some(self.scale), self.zero].into_iter().flatten()
    }
}

/// Where element `(row, column)` of a matrix lies in a tensor.
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

    /// Returns an integer in the range of the crate's codes: int8 −128…127, int4 0…15.
    fn code(&self, sources: &[Source], row: usize, column: usize) -> i32 {
        let stored = sources[self.source].integer(self.kind, self.at(row, column)) as i32;
        match self.kind {
            Kind::Plain(Dtype::U8) => stored - 128,
            Kind::Int4 => stored + 8,
            _ => stored,
        }
    }
}

/// A weight that can be imported: `[n, k]`, with n output channels.
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
    /// The zero point if none is stored.
    default_zero: i32,
}

impl Plan {
    /// Plans an import. `n_axis` is the axis of output channels: 0 for `[N, K, …]`, 1 for `[K, N]`.
    ///
    /// # Errors
    /// Returns the reason why the weight cannot be imported.
    pub fn new(sources: &[Source], from: &Quantized, n_axis: usize) -> Result<Self, String> {
        let (codes, scale) = (&sources[from.codes], &sources[from.scale]);
        if !scale.kind.is_float() {
            return Err(format!("scales of {} are not understood", scale.kind));
        }
        let shape = match (from.spread, n_axis, codes.shape.as_slice()) {
            (Spread::Bits { n, k, .. }, ..) => vec![n, k],
            (_, 0, shape) => shape.to_vec(),
            (_, 1, &[k, n]) => vec![n, k],
            (.., shape) => return Err(format!("a weight of shape {shape:?} is not a matrix")),
        };
        let (n, k) = matrix_shape(&shape)
            .filter(|&(n, k)| n > 0 && k > 0)
            .ok_or_else(|| format!("a weight of shape {shape:?} is not a matrix"))?;

        // MatMulNBits stores bytes that contain the codes.
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
        // The strides of row and column, and the number of elements, of n × `columns`.
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
        // The tensor must have exactly as many elements as will be read.
        let view = |source: usize, kind, (row, column, need)| {
            let tensor = &sources[source];
            let have = match (from.spread, kind) {
                (Spread::Bits { .. }, Kind::Uint4) => 2 * tensor.elements,
                _ => tensor.elements,
            };
            if have == need {
                return Ok(View { source, kind, row, column });
            }
            Err(format!("`{}` has {have} elements, not {need}", tensor.name))
        };
        let zeros = match from.zero {
            None => None,
            Some(zero) if sources[zero].kind != codes.kind => {
                return Err(format!(
                    "zero points of {} are not understood where codes are {}",
                    sources[zero].kind, codes.kind
                ));
            }
            // There may be one zero point for all, with any number of scales.
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
            // Only MatMulNBits has its default zero in the middle of the range.
            default_zero: match (from.spread, default_zero) {
                (Spread::Bits { .. }, -128) => 0,
                (Spread::Bits { .. }, _) => 8,
                (_, zero) => zero,
            },
            shape,
        };
        plan.check_scales(sources)?;
        plan.format.geometry(n, k).map_err(|error| error.to_string())?;
        if plan.needs_zeros(sources) {
            plan.format = plan.format.asymmetric();
        }
        if plan.halves(sources) {
            plan.format = plan.format.with_scales(ScaleType::F16);
        }
        Ok(plan)
    }

    /// Returns row and group of every stored scale; there is one for a whole tensor.
    fn scale_places(&self) -> impl Iterator<Item = (usize, usize)> {
        let rows = if self.format.granularity() == Granularity::Tensor { 1 } else { self.n };
        let groups = self.groups;
        (0..rows).flat_map(move |row| (0..groups).map(move |group| (row, group)))
    }

    fn zero(&self, sources: &[Source], row: usize, group: usize) -> i32 {
        self.zeros.map_or(self.default_zero, |view| view.code(sources, row, group))
    }

    /// Checks that every scale is a number. Zero and subnormal scales are numbers.
    fn check_scales(&self, sources: &[Source]) -> Result<(), String> {
        let scales = self.scale_values(sources);
        match self.scale_places().zip(&scales).find(|(_, scale)| !scale.is_finite()) {
            None => Ok(()),
            Some(((row, group), scale)) => {
                Err(format!("the scale of row {row}, group {group} is {scale}"))
            }
        }
    }

    /// Returns whether zero points must be stored: because one is not the symmetric one, because a code
    /// is −128, which symmetric int8 does not have, or because a scale is negative. Groups whose weights
    /// are 0 because of their scale need none.
    fn needs_zeros(&self, sources: &[Source]) -> bool {
        let Ok(geometry) = self.format.geometry(self.n, self.k) else { return false };
        let symmetric = self.format.symmetric_zero();
        let lowest = self.format.code_range().map_or(0, |(low, _)| low);
        let scales = self.scale_values(sources);
        let dead = |row, group| {
            scales.get(geometry.scale_index(row, group)).is_none_or(|&scale| is_dead(scale))
        };
        let offset =
            |(row, group)| !dead(row, group) && self.zero(sources, row, group) != symmetric;
        let low = |row, column| {
            self.codes.code(sources, row, column) < lowest && !dead(row, geometry.group_of(column))
        };
        self.scale_places().any(offset)
            || scales.iter().any(|&scale| scale < 0.0 && !is_dead(scale))
            || (0..self.n).any(|row| (0..self.k).any(|column| low(row, column)))
    }

    /// Returns the scales of the file with their signs.
    fn scale_values(&self, sources: &[Source]) -> Vec<f32> {
        // `new` accepts only float scales.
        let floats = sources[self.scales.source].floats().unwrap_or_default();
        self.scale_places()
            .map(|(row, group)| floats.get(self.scales.at(row, group)).copied().unwrap_or(0.0))
            .collect()
    }

    /// Returns whether the scales are f16 in the file and all of them are normal or 0. (Subnormal f16
    /// are normal as f32.)
    fn halves(&self, sources: &[Source]) -> bool {
        let fits = |scale: f32| scale == 0.0 || f16::from_f32(scale).is_normal();
        self.scales.kind == Kind::Plain(Dtype::F16)
            && self.scale_values(sources).into_iter().all(fits)
    }

    /// Mirrors a code or zero point if its scale is negative: `(c − z)·s = (−1−c − (−1−z))·(−s)` for
    /// int8. For int4 the mirror image is 15 minus the code instead of −1 minus the code.
    fn turned(&self, code: i32, scale: f32) -> i32 {
        match (scale < 0.0, self.format.code_type()) {
            (false, _) => code,
            (true, CodeType::Int4) => 15 - code,
            (true, _) => -1 - code,
        }
    }

    /// Packs the weight. Codes and zero points are exact. Scales are those of the file; since a format's
    /// scales are positive, codes with a negative scale are mirrored. A group whose scale is 0 or
    /// subnormal gets the scale 1 and the codes of zero, which are the same weights.
    pub fn pack(&self, sources: &[Source]) -> Result<PackedWeights, FormatError> {
        let geometry = self.format.geometry(self.n, self.k)?;
        let bits = self.format.code_type().bits();
        let per = 32 / bits as usize;
        let scales = self.scale_values(sources);
        let scale =
            |row, group| scales.get(geometry.scale_index(row, group)).copied().unwrap_or_default();
        let symmetric = self.format.symmetric_zero();
        let mut codes = vec![0u32; self.n * geometry.code_words];
        for (row, words) in codes.chunks_exact_mut(geometry.code_words).enumerate() {
            for column in 0..self.k {
                let scale = scale(row, geometry.group_of(column));
                let code = if is_dead(scale) {
                    symmetric
                } else {
                    self.turned(self.codes.code(sources, row, column), scale)
                };
                let code = code as u32 & (u32::MAX >> (32 - bits));
                words[column / per] |= code << ((column % per) as u32 * bits);
            }
        }
        let zeros = if self.format.is_symmetric() {
            Vec::new()
        } else {
            let zero = |(row, group)| match scale(row, group) {
                dead if is_dead(dead) => symmetric as u8,
                scale => self.turned(self.zero(sources, row, group), scale) as u8,
            };
            self.scale_places().map(zero).collect()
        };
        let live = scales.iter().map(|&s| if is_dead(s) { 1.0 } else { s.abs() });
        let scales = match self.format.scale_type() {
            ScaleType::F16 => Scales::F16(live.map(f16::from_f32).collect()),
            _ => Scales::F32(live.collect()),
        };
        PackedWeights::from_parts(self.format, self.n, self.k, codes, vec![], scales, zeros)
    }
}

fn group(size: usize) -> Result<Granularity, String> {
    let size = u32::try_from(size).map_err(|_| "its blocks are too long".to_owned())?;
    Granularity::group(size).map_err(|error| error.to_string())
}
