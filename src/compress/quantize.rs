use super::range::Range;
use super::rows::each_row;
use super::rules::{self, Grid, Group, Rule, Scheme};
use super::{CompressError, check_weights, prune_magnitude};
use crate::format::{
    CodeType, Geometry, Granularity, Mask24, Offset, PackedWeights, Parts, Scales, WeightFormat,
    put_bits,
};
use half::f16;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Quantizes and packs a dense `[n, k]` row-major matrix by this crate's own rules, which
/// [`compress`](crate::compress) defines. For a 2:4 format, the matrix is first pruned with
/// [`prune_magnitude`].
///
/// f32 weights are copied bit for bit, and f16 weights are rounded to the nearest, with ties to
/// even. Padding and 2:4 positions past K contain the zero point of the row's last group.
///
/// ```
/// use lowbit::compress::{dequantize, quantize, relative_error};
/// use lowbit::format::{Granularity, WeightFormat};
/// let w: Vec<f32> = (0..4 * 128).map(|i| (i as f32 * 0.37).sin()).collect();
/// let int4 = WeightFormat::int4(Granularity::group(32)?);
/// let packed = quantize(&w, 4, 128, &int4)?;
/// // 4 bits per code and one f32 scale per 32 weights.
/// assert_eq!(packed.geometry().sizes().total(), 4 * 128 / 2 + 4 * 4 * 4);
/// let error = relative_error(&w, &dequantize(&packed));
/// assert!(error > 0.0 && error < 0.1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Returns a [`CompressError`] of any variant but [`NotTwoFour`](CompressError::NotTwoFour).
pub fn quantize(
    w: &[f32],
    n: usize,
    k: usize,
    format: &WeightFormat,
) -> Result<PackedWeights, CompressError> {
    let geometry = format.geometry(n, k)?;
    let grid = Grid::of(format)?;
    if format.is_sparse() {
        let mask = prune_magnitude(w, n, k)?;
        Source { w, geometry, mask: Some(&mask) }.pack(grid)
    } else {
        check_weights(w, n, k)?;
        Source { w, geometry, mask: None }.pack(grid)
    }
}

/// Quantizes and packs a dense `[n, k]` row-major matrix by the rule of a scheme: like [`quantize`], or
/// as ggml does. ggml's rules take a group, or a block of 256 columns, that is cut off by the end of a
/// row as it is; they compute with its columns only.
///
/// ```
/// use lowbit::compress::{Scheme, quantize_scheme};
/// let w: Vec<f32> = (0..2 * 256).map(|i| (i as f32 * 0.37).sin()).collect();
/// let q4_k: Scheme = "q4_k".parse()?;
/// let packed = quantize_scheme(&w, 2, 256, &q4_k)?;
/// assert_eq!(packed.geometry().sizes().bits_per_weight(), 4.625);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Returns the errors of [`quantize`]. Where ggml would silently store zeros or infinities for weights
/// that are neither, this is [`CompressError::ScaleRange`].
pub fn quantize_scheme(
    w: &[f32],
    n: usize,
    k: usize,
    scheme: &Scheme,
) -> Result<PackedWeights, CompressError> {
    match scheme.rule() {
        Rule::Nearest => quantize(w, n, k, &scheme.format()),
        Rule::Ggml => rules::ggml::quantize(w, n, k, scheme.format()),
    }
}

/// Quantizes and packs a matrix into a 2:4 format like [`quantize`], but with the given mask. The
/// matrix has the shape of the mask. Scales and zero points are computed from the kept weights
/// only.
///
/// [`Mask24`] has an example.
///
/// # Errors
/// Returns a [`CompressError`]. A non-finite weight is refused even if it is pruned.
pub fn quantize_masked(
    w: &[f32],
    mask: &Mask24,
    format: &WeightFormat,
) -> Result<PackedWeights, CompressError> {
    if !format.is_sparse() {
        return Err(CompressError::NotTwoFour { format: *format });
    }
    let geometry = format.geometry(mask.n(), mask.k())?;
    let grid = Grid::of(format)?;
    check_weights(w, mask.n(), mask.k())?;
    Source { w, geometry, mask: Some(mask) }.pack(grid)
}

impl PackedWeights {
    /// Quantizes on the host; see [`compress::quantize`](crate::compress::quantize()).
    ///
    /// # Errors
    /// Returns the errors of [`compress::quantize`](crate::compress::quantize()).
    pub fn quantize(
        w: &[f32],
        n: usize,
        k: usize,
        format: &WeightFormat,
    ) -> Result<Self, CompressError> {
        quantize(w, n, k, format)
    }
}

/// Returns the dense `[n, k]` matrix that packed weights represent: `v(c) · s + m`. The number v(c) of
/// a code is exact, a scale of two levels is their product rounded to f32, and the product and the sum
/// are one f32 operation each; nothing is added if the format has no minima. f32 weights are returned
/// as they are and f16 weights are widened. Weights that 2:4 sparsity prunes are +0.0.
///
/// A product beyond the range of f32 is infinite. Weights that [`quantize`] made from finite ones are
/// finite; scales of other sources may be too large for their codes.
pub fn dequantize(packed: &PackedWeights) -> Vec<f32> {
    let geometry = packed.geometry();
    let (scaled, minima) = (geometry.format.code_type().has_scales(), geometry.format.has_minima());
    let mut w = vec![0.0; geometry.n * geometry.k];
    for row in 0..geometry.filled_rows() {
        let weights = &mut w[row * geometry.k..][..geometry.k];
        for at in 0..geometry.stored {
            let place = packed.place(row, at);
            if place >= geometry.k {
                continue;
            }
            let group = geometry.group_of(place);
            let number = packed.number(row, at, packed.zero(row, group));
            let product = if scaled { number * packed.scale(row, group) } else { number };
            weights[packed.column(row, at)] =
                if minima { product + packed.minimum(row, group) } else { product };
        }
    }
    w
}

/// Returns the zero points of all groups as a format stores them.
pub(super) fn zero_points(geometry: &Geometry, groups: &[Group]) -> Vec<u8> {
    match geometry.format.offset() {
        // Both int8's two's complement and values below 64 fit in one byte.
        Offset::ZeroPoint => groups.iter().map(|group| group.zero as u8).collect(),
        Offset::ZeroPoint4 => groups
            .chunks(geometry.groups.max(1))
            .flat_map(|row| row.chunks(2))
            .map(|pair| pair.iter().rev().fold(0, |byte, g| byte << 4 | g.zero as u8))
            .collect(),
        _ => Vec::new(),
    }
}

/// A matrix of finite weights with the right length, and how to pack it.
struct Source<'a> {
    w: &'a [f32],
    geometry: Geometry,
    /// `Some` for 2:4 formats and only for them.
    mask: Option<&'a Mask24>,
}

impl Source<'_> {
    /// Packs by the rule of `grid`; without one, codes are the weights themselves.
    fn pack(&self, grid: Option<Grid>) -> Result<PackedWeights, CompressError> {
        let Geometry { format, n, k, .. } = self.geometry;
        let mut parts = Parts {
            metadata: self.mask.map(|mask| mask.words().to_vec()).unwrap_or_default(),
            ..Parts::default()
        };
        match grid {
            None => parts.codes = self.float_codes()?,
            Some(grid) => {
                let (grid, groups) = self.groups(grid)?;
                parts.codes = self.scaled_codes(&grid, &groups);
                parts.scales = grid.scales(&groups, format.scale_type());
                if format.has_minima() {
                    let minima = groups.iter().map(|group| group.minimum);
                    parts.minima = Scales::one_level(minima, format.scale_type());
                }
                parts.zeros = zero_points(&self.geometry, &groups);
            }
        }
        Ok(PackedWeights::new(format, n, k, parts)?)
    }

    /// Returns the column of stored position `at`. It is K or more for padding and if the mask
    /// points past K.
    fn column(&self, row: usize, at: usize) -> usize {
        match self.mask {
            _ if at >= self.geometry.stored => self.geometry.k,
            None => at,
            Some(mask) => mask.kept(row, at / 2)[at % 2],
        }
    }

    /// Returns the weight of a column and its group. Past K this is a 0 of the last group: its code
    /// is the one that padding needs, and a 0 changes no range.
    fn weight(&self, row: usize, column: usize) -> (f32, usize) {
        let Geometry { k, groups, .. } = self.geometry;
        if column < k {
            (self.w[row * k + column], self.geometry.group_of(column))
        } else {
            (0.0, groups - 1)
        }
    }

    /// Returns what each group stores, and the grid with which codes are computed.
    fn groups(&self, grid: Grid) -> Result<(Grid, Vec<Group>), CompressError> {
        let geometry = &self.geometry;
        // The range of a whole tensor is merged from the ranges of its rows.
        let mut ranges = vec![grid.empty_range(); geometry.n * geometry.groups];
        each_row(&mut ranges, geometry.groups, |row, ranges| {
            for at in 0..geometry.stored {
                let (x, group) = self.weight(row, self.column(row, at));
                ranges[group].widen(x);
            }
        });
        let per_tensor = geometry.format.granularity() == Granularity::Tensor;
        let mut grid = grid;
        if per_tensor || grid.needs_whole() {
            let mut whole = grid.empty_range();
            ranges.iter().for_each(|&range| whole.merge(range));
            if grid.needs_whole() {
                grid = grid.with_whole(whole);
            }
            if per_tensor {
                ranges = vec![whole; geometry.scales];
            }
        }
        let group = |(index, &range): (usize, &Range)| {
            grid.group(range).ok_or_else(|| self.scale_range(index, range))
        };
        let groups = ranges.iter().enumerate().map(group).collect::<Result<_, _>>()?;
        Ok((grid, groups))
    }

    fn scale_range(&self, index: usize, range: Range) -> CompressError {
        let Geometry { format, groups, .. } = self.geometry;
        let (row, group) = rules::place(format.granularity(), groups, index);
        CompressError::ScaleRange {
            row,
            group,
            low: 0.0 - range.lo,
            high: range.hi,
            scale_type: format.scale_type(),
        }
    }

    fn scaled_codes(&self, grid: &Grid, groups: &[Group]) -> Vec<u32> {
        let geometry = &self.geometry;
        self.words(|row, column| {
            let (x, group) = self.weight(row, column);
            grid.code(groups[geometry.scale_index(row, group)], x)
        })
    }

    fn float_codes(&self) -> Result<Vec<u32>, CompressError> {
        if self.geometry.format.code_type() == CodeType::F32 {
            return Ok(self.words(|row, column| self.weight(row, column).0.to_bits()));
        }
        let k = self.geometry.k;
        // Threads may find overflows in any order; the first one in the matrix is reported.
        let overflow = AtomicUsize::new(usize::MAX);
        let words = self.words(|row, col| {
            let half = f16::from_f32(self.weight(row, col).0);
            if half.is_infinite() {
                overflow.fetch_min(row * k + col, Ordering::Relaxed);
            }
            u32::from(half.to_bits())
        });
        match overflow.into_inner() {
            usize::MAX => Ok(words),
            at => Err(CompressError::F16Overflow { row: at / k, col: at % k, value: self.w[at] }),
        }
    }

    /// Packs `code(row, column)` of every stored position and of the padding, in row-major order.
    /// Bits above the width of the code type are dropped.
    fn words(&self, code: impl Fn(usize, usize) -> u32 + Send + Sync) -> Vec<u32> {
        let geometry = &self.geometry;
        let bits = geometry.format.code_type().bits();
        let per_row = geometry.code_words * 32 / bits as usize;
        let mut words = vec![0; geometry.n * geometry.code_words];
        each_row(&mut words, geometry.code_words, |row, words| {
            for at in 0..per_row {
                put_bits(words, at * bits as usize, bits, code(row, self.column(row, at)));
            }
        });
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FormatError, ScaleType};

    fn format(name: &str) -> WeightFormat {
        name.parse().unwrap()
    }

    fn packed(w: &[f32], n: usize, k: usize, name: &str) -> PackedWeights {
        quantize(w, n, k, &format(name)).unwrap()
    }

    fn bits(w: &[f32]) -> Vec<u32> {
        w.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn int8_by_hand() {
        // Row 0 has scale 1 and row 1 has scale 2. Each row pads its last word with zeros.
        let w = [127.0, -63.5, 0.5, 1.5, -2.5, 254.0, -254.0, 2.9, 3.1, -0.0];
        let p = packed(&w, 2, 5, "int8-channel");
        assert_eq!(p.codes(), [0x0200_c07f, 0x0000_00fe, 0x0201_817f, 0]);
        assert_eq!(*p.scales(), Scales::F32(vec![1.0, 2.0]));
        assert!(p.zeros().is_empty() && p.metadata().is_empty());
        let restored = [127.0, -64.0, 0.0, 2.0, -2.0, 254.0, -254.0, 2.0, 4.0, 0.0];
        assert_eq!(bits(&dequantize(&p)), bits(&restored));
    }

    #[test]
    fn int8_asymmetric_by_hand() {
        let p = packed(&[-100.0, 155.0, 0.0], 1, 3, "int8-channel-asym");
        // The codes are 0, 255 and 100, each minus 128. The padding is the zero point.
        assert_eq!(p.codes(), [0xe4e4_7f80]);
        assert_eq!(p.zeros(), [0xe4]);
        assert_eq!(dequantize(&p), [-100.0, 155.0, 0.0]);
    }

    #[test]
    fn int4_by_hand() {
        let p = packed(&[7.0, -3.5, 2.5, 1.5], 1, 4, "int4-channel");
        assert_eq!(p.codes(), [0x8888_aa4f]);
        let p = packed(&[-5.0, 10.0, 0.5, -0.5, 2.5], 1, 5, "int4-channel-asym");
        assert_eq!(p.codes(), [0x5557_55f0]);
        assert_eq!(p.zeros(), [5]);
        assert_eq!(dequantize(&p), [-5.0, 10.0, 0.0, 0.0, 2.0]);
    }

    #[test]
    fn int16_by_hand() {
        let p = packed(&[-32767.0, 1.5, 2.5], 1, 3, "int16-tensor");
        assert_eq!(p.codes(), [0x0002_8001, 2]);
        assert_eq!(dequantize(&p), [-32767.0, 2.0, 2.0]);
    }

    /// The last group of a row is shorter, and the next row starts with a new group.
    #[test]
    fn ragged_groups() {
        let w = [15.0, -0.0, 30.0, 0.0, 45.0, 60.0, 0.0, 0.0, 0.0, -75.0];
        let p = packed(&w, 2, 5, "int4-g2-asym");
        assert_eq!(*p.scales(), Scales::F32(vec![1.0, 2.0, 3.0, 4.0, 1.0, 5.0]));
        assert_eq!(p.zeros(), [0, 0, 0, 0, 0, 15]);
        // Row 1 is padded with 15, the zero point of its last group.
        assert_eq!(p.codes(), [0x000f_0f0f, 0xfff0_000f]);
        assert_eq!(bits(&dequantize(&p)), bits(&w.map(|x| x + 0.0)));
    }

    #[test]
    fn one_scale_for_a_tensor() {
        let p = packed(&[1.0, -2.0, 127.0, 0.0], 2, 2, "int8-tensor");
        assert_eq!(*p.scales(), Scales::F32(vec![1.0]));
        assert_eq!(dequantize(&p), [1.0, -2.0, 127.0, 0.0]);
    }

    #[test]
    fn floats_keep_their_bits() {
        let w = [-0.0, 1e-40, -1e-45, f32::MAX, 1.0 + f32::EPSILON];
        for name in ["f32", "2:4+f32"] {
            let p = quantize(&w[..2], 1, 2, &format(name)).unwrap();
            assert_eq!(p.codes(), bits(&w[..2]));
        }
        assert_eq!(bits(&dequantize(&packed(&w, 1, 5, "f32"))), bits(&w));
        // f16: half a step rounds to even, values below half the least subnormal become ±0, and
        // subnormals are kept.
        let w = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, -1e-40, 65519.0, 6e-8];
        let p = packed(&w, 1, 5, "f16");
        assert_eq!(p.codes(), [0x3c02_3c00, 0x7bff_8000, 0x0000_0001]);
        let half = |bits| f16::from_bits(bits).to_f32();
        let restored = [1.0, half(0x3c02), -0.0, 65504.0, half(1)];
        assert_eq!(bits(&dequantize(&p)), bits(&restored));
    }

    /// Neither a large pruned weight nor a group without kept weights affects a range.
    #[test]
    fn sparse_scales_come_from_kept_weights() {
        let w = [7.0, 100.0, -14.0, 900.0, 3.0, 0.0, 5.0, 5.0];
        let keep = |_: usize, k: usize| matches!(k, 0 | 2 | 4 | 5);
        let mask = Mask24::from_fn(1, 8, keep).unwrap();
        let p = quantize_masked(&w, &mask, &format("2:4+int4-g2")).unwrap();
        let thirds = 3.0f32 / 7.0;
        assert_eq!(*p.scales(), Scales::F32(vec![1.0, 2.0, thirds, 1.0]));
        assert_eq!(p.codes(), [0x8888_8f1f]);
        assert_eq!(p.metadata(), mask.words());
        assert_eq!(dequantize(&p), [7.0, 0.0, -14.0, 0.0, thirds * 7.0, 0.0, 0.0, 0.0]);

        let p = packed(&w, 1, 8, "2:4+int8-channel");
        assert_eq!(p.column(0, 0), 1);
        assert_eq!(p.scale(0, 0), 900.0 / 127.0);
    }

    /// The missing positions of a group of four and the padding contain zeros of the last group.
    #[test]
    fn sparse_and_ragged() {
        let w = [1.0, 12.0, 0.0, -3.0, -30.0];
        let p = packed(&w, 1, 5, "2:4+int4-g4-asym");
        assert_eq!((p.column(0, 2), p.column(0, 3)), (4, 5));
        assert_eq!(*p.scales(), Scales::F32(vec![1.0, 2.0]));
        assert_eq!(p.zeros(), [3, 15]);
        assert_eq!(p.codes(), [0xffff_f00f]);
        assert_eq!(dequantize(&p), [0.0, 12.0, 0.0, -3.0, -30.0]);
        let p = packed(&w, 1, 5, "2:4+f16");
        assert_eq!(p.codes(), [0xc200_4a00, 0x0000_cf80]);
    }

    #[test]
    fn the_greatest_weights() {
        let max = f32::MAX;
        for name in ["int4-channel", "int8-channel-asym", "int4-channel-asym", "f32"] {
            assert!(dequantize(&packed(&[max, 0.0], 1, 2, name))[0] > 0.9999 * max, "{name}");
        }
        // An additive mask of `finfo.min`, under every format.
        for name in ["int8-channel", "int16-channel", "int4-channel", "int8-channel-asym"] {
            let w = dequantize(&packed(&[-max, 0.0, max.next_down(), 0.0], 2, 2, name));
            assert!(w.iter().all(|w| w.is_finite()), "{name}: {w:?}");
            assert!(w[0] < -0.9999 * max && w[2] > 0.9999 * max && w[1] == 0.0, "{name}: {w:?}");
        }
    }

    #[test]
    fn dead_groups_restore_zero() {
        let w = [-0.0, 1e-39, 0.0, 0.0, 0.0, -1e-45];
        for name in ["int8-channel", "int8-g2-asym", "int4-tensor", "2:4+int4-g1-asym-f16s"] {
            let p = packed(&w, 2, 3, name);
            assert!((0..p.scales().len()).all(|i| p.scales().get(i) == 1.0), "{name}");
            assert_eq!(bits(&dequantize(&p)), [0; 6], "{name}");
        }
    }

    #[test]
    fn empty_matrices() {
        for name in ["f32", "2:4+f16", "int8-tensor", "int4-g3-asym", "2:4+int4-channel-asym"] {
            for (n, k) in [(0, 0), (0, 5), (5, 0)] {
                let p = packed(&[], n, k, name);
                assert_eq!((p.n(), p.k(), p.geometry().sizes().total()), (n, k, 0));
                assert!(dequantize(&p).is_empty());
            }
        }
    }

    #[test]
    fn shapes_and_formats_are_checked() {
        let w = [1.0; 8];
        let length = |need| Err(CompressError::WrongLength { need, have: 8 });
        let int8 = format("int8-channel");
        assert_eq!(quantize(&w, 3, 3, &int8), length(9));
        assert_eq!(quantize(&w, 0, 3, &int8), length(0));
        let mask = Mask24::first_two(1, 7).unwrap();
        assert_eq!(quantize_masked(&w, &mask, &int8.two_four()), length(7));
        let dense = Err(CompressError::NotTwoFour { format: int8 });
        assert_eq!(quantize_masked(&w, &mask, &int8), dense);
        let bad = quantize(&w, 2, 4, &WeightFormat::f32().asymmetric());
        assert_eq!(bad, Err(FormatError::NoAsymmetric(CodeType::F32).into()));
        let large = quantize(&w, usize::MAX, 8, &int8);
        assert!(matches!(large, Err(CompressError::Format(FormatError::TooLarge { .. }))));
    }

    #[test]
    fn non_finite_comes_first() {
        // Row 0 alone would be out of range for an f16 scale and for f16 itself.
        let mut w = [1e9, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0];
        let sparse = ["2:4+f32", "2:4+f16", "2:4+int8-g2-asym"];
        for name in ["f32", "f16", "int8-channel-f16s"].into_iter().chain(sparse) {
            for value in [f32::INFINITY, f32::NEG_INFINITY] {
                w[5] = value;
                w[7] = f32::NAN;
                let error = Err(CompressError::NonFinite { row: 1, col: 1, value });
                assert_eq!(quantize(&w, 2, 4, &format(name)), error, "{name}");
                if sparse.contains(&name) {
                    let mask = Mask24::from_fn(2, 4, |_, k| k == 0 || k == 2).unwrap();
                    assert_eq!(quantize_masked(&w, &mask, &format(name)), error, "{name}");
                }
            }
        }
    }

    #[test]
    fn scale_ranges_are_reported() {
        let w = [1.0, 2.0, -1e-6, 0.0, -1e9, 1e-3, 3.0, 4.0];
        let error = |row, group, low, high, scale_type| {
            Err(CompressError::ScaleRange { row, group, low, high, scale_type })
        };
        let got = quantize(&w, 2, 4, &format("int8-g2-f16s"));
        assert_eq!(got, error(0, 1, -1e-6, 0.0, ScaleType::F16));
        let got = quantize(&w, 2, 4, &format("int8-channel-f16s"));
        assert_eq!(got, error(1, 0, -1e9, 4.0, ScaleType::F16));
        let got = quantize(&w, 2, 4, &format("int8-tensor-asym-f16s"));
        assert_eq!(got, error(0, 0, -1e9, 4.0, ScaleType::F16));
        assert!(quantize(&w, 2, 4, &format("int8-g2")).is_ok());

        let w = [f32::MIN, f32::MAX];
        assert!(quantize(&w, 1, 2, &format("int4-channel")).is_ok());
        let got = quantize(&w, 1, 2, &format("int4-channel-asym"));
        assert_eq!(got, error(0, 0, f32::MIN, f32::MAX, ScaleType::F32));
        let tiny = f32::MIN_POSITIVE;
        let got = quantize(&[1.0, tiny], 2, 1, &format("int16-channel"));
        assert_eq!(got, error(1, 0, 0.0, tiny, ScaleType::F32));
    }

    #[test]
    fn f16_overflow_is_reported_where_kept() {
        let w = [1.0, 65519.0, 2.0, -65520.0, 0.0, 1e9, 0.0, 0.0];
        let error = |row, col, value| Err(CompressError::F16Overflow { row, col, value });
        assert_eq!(quantize(&w, 2, 4, &format("f16")), error(0, 3, -65520.0));
        assert_eq!(quantize(&w, 2, 4, &format("2:4+f16")), error(0, 3, -65520.0));
        let mask = Mask24::from_fn(2, 4, |row, k| k == row || k == 1).unwrap();
        let got = quantize_masked(&w, &mask, &format("2:4+f16"));
        assert_eq!(got, error(1, 1, 1e9));
        let mask = Mask24::from_fn(2, 4, |_, k| k == 0 || k == 2).unwrap();
        let p = quantize_masked(&w, &mask, &format("2:4+f16")).unwrap();
        assert_eq!(dequantize(&p), [1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
