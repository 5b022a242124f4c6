use lowbit::format::{Granularity, Offset, ScaleType, WeightFormat};

/// A format that values can be fake-quantized to: dense integer codes with one level of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeFormat {
    format: WeightFormat,
    pub(super) low: i32,
    pub(super) high: i32,
}

/// The reason why a format has no fake quantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no fake quantization to {format}: it takes integers of 2 to 16 bits with f32 or f16 scales, \
     for example int8-channel, int4-g64-asym or int2-channel"
)]
pub struct FakeFormatError {
    /// The format.
    pub format: WeightFormat,
}

impl FakeFormat {
    /// Creates the fake quantization to a format. A 2:4 format is that of its kept weights.
    ///
    /// # Errors
    /// Returns [`FakeFormatError`] if codes are no integers, or scales have two levels or one byte, or
    /// there are minima, float zero points or permuted columns.
    pub fn new(format: WeightFormat) -> Result<Self, FakeFormatError> {
        let plain = format.check().is_ok()
            && format.code_type().is_integer()
            && matches!(format.scale_type(), ScaleType::F32 | ScaleType::F16)
            && matches!(format.offset(), Offset::Fixed | Offset::ZeroPoint | Offset::ZeroPoint4)
            && !format.is_permuted();
        match format.code_range() {
            Some((low, high)) if plain => {
                let zero = if format.is_symmetric() { format.symmetric_zero() } else { 0 };
                Ok(Self { format, low: low - zero, high: high - zero })
            }
            _ => Err(FakeFormatError { format }),
        }
    }

    /// Returns the format.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Returns the least and the greatest code. If the format is symmetric they are relative to the code
    /// of zero.
    pub fn codes(&self) -> (i32, i32) {
        (self.low, self.high)
    }

    /// Returns whether zero points are fixed.
    pub fn is_symmetric(&self) -> bool {
        self.format.is_symmetric()
    }

    /// Returns what a range is divided by to get its scale, which is LSQ's greatest code too.
    pub fn steps(&self) -> f32 {
        (if self.is_symmetric() { self.high } else { self.high - self.low }) as f32
    }

    /// Returns whether scales are rounded to f16.
    pub(super) fn has_half_scales(&self) -> bool {
        self.format.scale_type() == ScaleType::F16
    }

    /// Returns how many columns share a scale.
    pub(super) fn group(&self, columns: usize) -> usize {
        match self.format.granularity() {
            Granularity::Group(size) => (size.get() as usize).min(columns.max(1)),
            _ => columns.max(1),
        }
    }

    /// Returns the shape of scales, and of zero points, of `[rows, columns]` values.
    pub fn scales(&self, rows: usize, columns: usize) -> [usize; 2] {
        match self.format.granularity() {
            Granularity::Tensor => [1, 1],
            _ => [rows, columns.div_ceil(self.group(columns))],
        }
    }

    /// Returns the values that share each scale, in the order of scales: ranges of `[rows, columns]`
    /// values in a row-major slice.
    pub(super) fn parts(
        &self,
        rows: usize,
        columns: usize,
    ) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let whole = self.format.granularity() == Granularity::Tensor;
        let (rows, columns) = if whole { (1, rows * columns) } else { (rows, columns) };
        let group = if whole { columns.max(1) } else { self.group(columns) };
        let parts = if whole { 1 } else { columns.div_ceil(group) };
        (0..rows * parts).map(move |at| {
            let (row, part) = (at / parts, at % parts);
            row * columns + part * group..row * columns + ((part + 1) * group).min(columns)
        })
    }
}
