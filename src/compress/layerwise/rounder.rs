//! From weights that are updated column by column to codes, for every scheme that has a rule.

use super::LayerwiseError;
use crate::compress::quantize::zero_points;
use crate::compress::range::Range;
use crate::compress::rules::ggml::{self, Stored};
use crate::compress::rules::{Grid, Group, Rule, Scheme};
use crate::compress::{CompressError, flushed};
use crate::format::{
    CodeKind, CodeType, Geometry, Granularity, Mask24, Offset, PackedWeights, Parts, SUPER_K,
    ScaleType, Scales, put_bits,
};
use half::f16;

/// What a scheme makes of weights, given the scales of their groups.
pub(super) struct Rounder {
    geometry: Geometry,
    kind: Kind,
    clip: bool,
    /// The group of the whole matrix, if there is one scale for all of it.
    tensor: Option<Group>,
}

enum Kind {
    /// Weights are stored as they are, or rounded to f16.
    Floats,
    Grid(Grid),
    Ggml(ggml::Rule),
}

/// The groups of a row.
#[derive(Clone, Default)]
pub(super) struct RowScales {
    groups: Vec<Group>,
    stored: Stored,
}

impl RowScales {
    /// Forgets what ggml's rules have stored, so that units may come again.
    pub fn forget(&mut self) {
        self.stored.halves.clear();
        self.stored.groups.clear();
    }
}

/// The steps of 0.01 by which ranges are shrunk in the search for the one of least error, and the exponent of
/// the error (Frantar et al. 2022, "GPTQ", in its published code).
const SHRUNK: std::ops::RangeInclusive<u8> = 0..=79;
const NORM: f64 = 2.4;

impl Rounder {
    pub fn new(scheme: &Scheme, n: usize, k: usize, clip: bool) -> Result<Self, LayerwiseError> {
        let format = scheme.format();
        let geometry = format.geometry(n, k)?;
        let kind = match scheme.rule() {
            Rule::Ggml => Kind::Ggml(ggml::rule(&format)?),
            Rule::Nearest => Grid::of(&format)?.map_or(Kind::Floats, Kind::Grid),
        };
        if clip && matches!(kind, Kind::Ggml(_)) {
            return Err(LayerwiseError::Unsupported {
                method: "a search for clipping",
                format,
                why: "ggml's rules search for scales by themselves; turn clipping off",
            });
        }
        Ok(Self { geometry, kind, clip, tensor: None })
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Returns whether a code is exactly 0 in every group.
    pub fn has_zero(&self) -> bool {
        let format = &self.geometry.format;
        !format.has_minima()
            && match format.code_type().kind() {
                CodeKind::Table(table) => table.is_some_and(|table| table.contains(&0.0)),
                _ => true,
            }
    }

    /// Returns the number of consecutive columns whose scales are found together, or `None` if there
    /// are no scales or they are those of the whole matrix.
    pub fn unit(&self) -> Option<usize> {
        let per_tensor = self.geometry.format.granularity() == Granularity::Tensor;
        match self.kind {
            Kind::Floats => None,
            _ if per_tensor => None,
            _ => Some(match self.geometry.format.scale_type() {
                ScaleType::Int8Super => SUPER_K,
                _ => self.geometry.group_size,
            }),
        }
    }

    /// Returns whether rows have several groups, so that the order of columns matters to them.
    pub fn has_groups(&self) -> bool {
        matches!(self.geometry.format.granularity(), Granularity::Group(_))
    }

    /// Returns whether scales depend on the whole matrix.
    pub fn needs_whole(&self) -> bool {
        let per_tensor = self.geometry.format.granularity() == Granularity::Tensor;
        matches!(&self.kind, Kind::Grid(grid) if per_tensor || grid.needs_whole())
    }

    /// Finds what depends on the whole matrix. Pruned weights are 0 in `w`.
    pub fn see_whole(&mut self, w: &[f32]) -> Result<(), LayerwiseError> {
        let Kind::Grid(grid) = self.kind else { return Ok(()) };
        let per_tensor = self.geometry.format.granularity() == Granularity::Tensor;
        let mut whole = grid.empty_range();
        w.iter().for_each(|&x| whole.widen(x));
        let grid = if grid.needs_whole() { grid.with_whole(whole) } else { grid };
        self.kind = Kind::Grid(grid);
        if per_tensor && !w.is_empty() {
            let group = self.best_group(&grid, whole, w);
            self.tensor = Some(group.ok_or_else(|| self.out_of_range(0, 0, w))?);
        }
        Ok(())
    }

    /// Returns the scales of a row before any is found.
    pub fn row(&self) -> RowScales {
        let none = Group { scale: 1.0, lower: 1.0, zero: 0, minimum: 0.0 };
        let groups = match (&self.kind, self.tensor) {
            (Kind::Floats, _) => Vec::new(),
            (_, Some(group)) => vec![group],
            _ => vec![none; self.geometry.groups],
        };
        RowScales { groups, stored: Stored::default() }
    }

    /// Finds the scales of a unit of a row. Units of a row that is packed come in order. Pruned weights are 0 in `x`.
    pub fn find(
        &self,
        row: usize,
        unit: usize,
        x: &[f32],
        out: &mut RowScales,
    ) -> Result<(), CompressError> {
        match &self.kind {
            Kind::Floats => Ok(()),
            Kind::Grid(grid) => {
                let mut range = grid.empty_range();
                x.iter().for_each(|&x| range.widen(x));
                let group = self.best_group(grid, range, x);
                let group = group.ok_or_else(|| self.out_of_range(row, unit, x))?;
                out.groups[unit] = group;
                Ok(())
            }
            Kind::Ggml(rule) => {
                let flush = |x: f32| if x.is_subnormal() { 0.0 } else { x };
                let x: Vec<f32> = x.iter().map(|&x| flush(x)).collect();
                let (before, mut codes) = (out.stored.groups.len(), vec![0; x.len()]);
                let made = rule(&x, &mut codes, &mut out.stored);
                let groups_per_unit = ggml::block_size(&self.geometry) / self.geometry.group_size;
                let first = unit * groups_per_unit;
                if made.is_none() || ggml::is_lost(&x, out.stored.halves.last()) {
                    return Err(self.out_of_range(row, first, &x));
                }
                let [upper, upper_minimum] =
                    out.stored.halves.last().map_or([0.0; 2], |halves| halves.map(f16::to_f32));
                for (at, group) in out.groups.iter_mut().skip(first).enumerate() {
                    let lower = match self.geometry.format.scale_type() {
                        ScaleType::Int8Super => out.stored.groups.get(before + at).copied(),
                        _ => (at == 0).then_some([1; 2]),
                    };
                    let Some([lower, minimum]) = lower else { break };
                    group.scale = f32::from(lower) * upper;
                    group.lower = f32::from(lower);
                    group.zero = self.geometry.format.symmetric_zero();
                    if self.geometry.format.offset() == Offset::Minimum {
                        group.minimum = f32::from(minimum) * upper_minimum;
                    }
                }
                Ok(())
            }
        }
    }

    /// Returns the group of a range, or of a part of it that leaves a lower error.
    fn best_group(&self, grid: &Grid, range: Range, x: &[f32]) -> Option<Group> {
        let whole = grid.group(range);
        if !self.clip {
            return whole;
        }
        let error = |group: Group| {
            let off = |&x: &f32| {
                let value = self.value(group, grid.code(group, x) as i32);
                (f64::from(flushed(x)) - f64::from(value)).abs().powf(NORM)
            };
            x.iter().map(off).sum::<f64>()
        };
        let mut best = whole.map(|group| (group, error(group)));
        for step in SHRUNK {
            let factor = (100.0 - f32::from(step)) / 100.0;
            let part = Range { lo: range.lo * factor, hi: range.hi * factor };
            let Some(group) = grid.group(part).filter(|_| step > 0) else { continue };
            let now = error(group);
            if best.is_none_or(|(_, least)| now < least) {
                best = Some((group, now));
            }
        }
        best.map(|(group, _)| group)
    }

    fn out_of_range(&self, row: usize, group: usize, x: &[f32]) -> CompressError {
        let (low, high) = x.iter().fold((0f32, 0f32), |(l, h), &x| (l.min(x), h.max(x)));
        let scale_type = self.geometry.format.scale_type();
        CompressError::ScaleRange { row, group, low, high, scale_type }
    }

    /// Returns the number that a code of a group represents.
    fn value(&self, group: Group, code: i32) -> f32 {
        let format = &self.geometry.format;
        let product = format.code_type().number(code, group.zero, &[]) * group.scale;
        if format.has_minima() { product + group.minimum } else { product }
    }

    /// Returns the code of a weight at a place along K, and the number that it represents.
    pub fn round(&self, scales: &RowScales, place: usize, x: f32) -> (i32, f32) {
        let group = scales.groups.get(if self.tensor.is_some() {
            0
        } else {
            self.geometry.group_of(place)
        });
        match (&self.kind, group) {
            (Kind::Grid(grid), Some(&group)) => {
                let code = grid.code(group, x) as i32;
                (code, self.value(group, code))
            }
            (Kind::Ggml(_), Some(&group)) => {
                let code = self.nearest(group, x);
                (code, self.value(group, code))
            }
            _ if self.geometry.format.code_type() == CodeType::F16 => {
                let half = f16::from_f32(x);
                (i32::from(half.to_bits()), half.to_f32())
            }
            _ => (x.to_bits() as i32, x),
        }
    }

    /// Returns the code of 0 at a place along K, of formats that [have](Self::has_zero) one.
    pub fn zero(&self, scales: &RowScales, place: usize) -> i32 {
        let group = if self.tensor.is_some() { 0 } else { self.geometry.group_of(place) };
        match self.geometry.format.code_type().kind() {
            CodeKind::Integer { .. } => scales.groups.get(group).map_or(0, |group| group.zero),
            CodeKind::Table(table) => {
                let zero = table.and_then(|table| table.iter().position(|&x| x == 0.0));
                zero.unwrap_or(0) as i32
            }
            _ => 0,
        }
    }

    /// Returns the code whose number is nearest to a weight, under a scale of any sign. If the scale
    /// is 0, all are.
    fn nearest(&self, group: Group, x: f32) -> i32 {
        let off = |code: i32| (f64::from(self.value(group, code)) - f64::from(x)).abs();
        let nearer = |a: i32, b: i32| if off(b) < off(a) { b } else { a };
        let Some((low, high)) = self.geometry.format.code_range() else {
            return (1..16).fold(0, nearer);
        };
        if group.scale == 0.0 {
            return group.zero.clamp(low, high);
        }
        let steps = (f64::from(x) - f64::from(group.minimum)) / f64::from(group.scale);
        let middle = (steps.round_ties_even() as i32).saturating_add(group.zero).clamp(low, high);
        // The numbers are rounded to f32, so that a neighbor may be nearer.
        [middle - 1, middle + 1]
            .into_iter()
            .filter(|c| (low..=high).contains(c))
            .fold(middle, nearer)
    }

    /// Packs codes `[n, k]`, in the order of places.
    pub fn pack(
        &self,
        rows: &[RowScales],
        codes: &[i32],
        mask: Option<&Mask24>,
        order: Option<&[u32]>,
    ) -> Result<PackedWeights, LayerwiseError> {
        let Geometry { format, n, k, stored, code_words, .. } = self.geometry;
        let bits = format.code_type().bits();
        let mut words = vec![0; n * code_words];
        for (row, words) in words.chunks_mut(code_words.max(1)).enumerate() {
            for at in 0..stored {
                let place = mask.map_or(at, |mask| mask.kept(row, at / 2)[at % 2]);
                // Codes past K become the code of 0.
                let code = if place < k { codes[row * k + place] } else { 0 };
                put_bits(words, at * bits as usize, bits, code as u32);
            }
        }
        let mut parts = Parts {
            codes: words,
            metadata: mask.map(|mask| mask.words().to_vec()).unwrap_or_default(),
            order: order.map(<[u32]>::to_vec).unwrap_or_default(),
            ..Parts::default()
        };
        match &self.kind {
            Kind::Floats => {}
            Kind::Grid(grid) => {
                let per_row: usize =
                    if self.tensor.is_some() { rows.len().min(1) } else { rows.len() };
                let groups = rows[..per_row].iter().flat_map(|row| &row.groups);
                let groups: Vec<Group> = groups.copied().collect();
                parts.scales = grid.scales(&groups, format.scale_type());
                if format.has_minima() {
                    let minima = groups.iter().map(|group| group.minimum);
                    parts.minima = Scales::one_level(minima, format.scale_type());
                }
                parts.zeros = zero_points(&self.geometry, &groups);
            }
            Kind::Ggml(_) => {
                let stored = rows.iter().map(|row| &row.stored);
                parts.scales = ggml::scales(stored.clone(), format.scale_type(), 0);
                if format.has_minima() {
                    parts.minima = ggml::scales(stored, format.scale_type(), 1);
                }
            }
        }
        let format = if order.is_some() { format.permuted() } else { format };
        Ok(PackedWeights::new(format, n, k, parts)?)
    }
}
