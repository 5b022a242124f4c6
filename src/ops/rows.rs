//! Rows of numbers in a buffer, `[batch, rows, columns]`: what they span, how they are checked,
//! and how they are split where they exceed a binding.

use super::buffers::{Resource, Window, check, window_capacity};
use super::{BindError, FloatType, Output, PlanError, Role, SubBuffer};
use crate::gpu::Caps;

/// How rows lie in a buffer. Lengths and strides count units: elements, or words where a row
/// holds codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowsSpec {
    pub role: Role,
    /// Units in a row.
    pub columns: u32,
    /// Units from one row to the next.
    pub stride: u32,
    /// Whether all rows share one, however many there are; `stride` is then 0.
    pub single: bool,
    /// Bytes of a unit.
    pub unit: u64,
    /// What strides must be a multiple of.
    pub multiple: u32,
    pub batch: u32,
    /// Units from one matrix of the batch to the next.
    pub batch_stride: u32,
    /// Whether all of the batch may share one matrix (a batch stride of 0).
    pub shared: bool,
}

impl RowsSpec {
    /// Creates rows of floats.
    pub fn floats(role: Role, columns: u32, stride: u32, float: FloatType) -> Self {
        let multiple = 4 / float.bytes() as u32;
        Self { unit: float.bytes(), multiple, ..Self::words(role, columns, stride) }
    }

    /// Creates rows of 32-bit words.
    pub fn words(role: Role, columns: u32, stride: u32) -> Self {
        let (unit, multiple, single) = (4, 1, false);
        let (batch, batch_stride, shared) = (1, 0, false);
        Self { role, columns, stride, single, unit, multiple, batch, batch_stride, shared }
    }

    /// Creates rows of the output of an op, whose columns are `columns` floats or codes.
    pub fn output(columns: u32, stride: u32, output: Output) -> Self {
        let role = Role::Output;
        match output {
            Output::Float(float) => Self::floats(role, columns, stride, float),
            Output::Accumulators => Self::words(role, columns, stride),
            Output::Int8(format) => {
                // A layout that is refused is one that no buffer holds.
                let words = format.layout(columns as usize).ok();
                let words = words.and_then(|layout| u32::try_from(layout.row_words).ok());
                let words = words.unwrap_or(u32::MAX);
                Self { multiple: 4, ..Self::words(role, words, stride) }
            }
        }
    }

    /// Returns whether rows of f32 can be loaded 16 bytes at a time.
    pub fn is_quads(&self) -> bool {
        self.unit == 4 && self.columns.is_multiple_of(4) && self.stride.is_multiple_of(4)
    }

    /// Returns the alignment that loads need, in bytes.
    pub fn align(&self) -> u64 {
        if self.is_quads() { 16 } else { 4 }
    }

    /// Refuses strides by which `max_rows` rows overlap or are misaligned.
    pub fn check(&self, max_rows: u32) -> Result<(), PlanError> {
        let &Self { role, columns, stride, multiple, batch, batch_stride, shared, .. } = self;
        if max_rows > 1 && stride < columns {
            return Err(PlanError::Stride { role, stride, need: columns.into() });
        }
        let need = Self { batch: 1, ..*self }.units(max_rows);
        // Heads lie side by side in a row: all of the batch fits between two rows.
        let (each, all) = (u64::from(batch_stride), Self { batch, ..*self }.units(1));
        let side_by_side = batch_stride >= columns && (max_rows <= 1 || all <= stride.into());
        let apart = each >= need || side_by_side || shared && batch_stride == 0;
        if batch > 1 && !apart {
            return Err(PlanError::Stride { role, stride: batch_stride, need });
        }
        let odd = [(stride, max_rows), (batch_stride, batch)]
            .into_iter()
            .find(|&(stride, count)| count > 1 && !stride.is_multiple_of(multiple));
        match odd {
            Some((stride, _)) => Err(PlanError::OddStride { role, stride, multiple }),
            None => Ok(()),
        }
    }

    /// Returns the number of units from the start of the first row to the end of the last.
    fn units(&self, rows: u32) -> u64 {
        let rows = if self.single { 1 } else { rows };
        if self.batch == 0 || rows == 0 || self.columns == 0 {
            return 0;
        }
        // `check` keeps these far below 2⁶⁴; whoever asks before it gets no panic.
        let batches = u64::from(self.batch - 1) * u64::from(self.batch_stride);
        let rows = u64::from(rows - 1) * u64::from(self.stride);
        batches.saturating_add(rows).saturating_add(self.columns.into())
    }

    /// Returns the number of bytes from the start of the first row to the end of the last.
    pub fn bytes(&self, rows: u32) -> u64 {
        self.units(rows).saturating_mul(self.unit)
    }
}

/// [`RowsSpec`] with a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub spec: RowsSpec,
    pub at: SubBuffer<'a>,
    /// What the offset must be a multiple of, in bytes.
    pub align: u64,
    /// Whether kernels write the rows.
    pub written: bool,
}

impl<'a> Rows<'a> {
    /// Rows that are read, loaded by quads where possible.
    pub fn read(spec: RowsSpec, at: SubBuffer<'a>) -> Self {
        Self { spec, at, align: spec.align(), written: false }
    }

    /// Rows that are written by words.
    pub fn write(spec: RowsSpec, at: SubBuffer<'a>) -> Self {
        Self { spec, at, align: 4, written: true }
    }

    /// Returns the binding for the rows of a span.
    pub fn window(&self, caps: &Caps, span: &Span) -> Window<'a> {
        let RowsSpec { columns, stride, batch_stride, unit, .. } = self.spec;
        // Rows of no columns need no buffer, wherever they would start.
        let first = if columns == 0 {
            0
        } else {
            u64::from(span.batch0) * u64::from(batch_stride)
                + u64::from(span.m0) * u64::from(stride)
        };
        let bytes = RowsSpec { batch: span.batch, ..self.spec }.bytes(span.m_cap);
        Window::new(caps, self.at.buffer, self.at.offset + first * unit, bytes)
    }

    /// Returns the binding for the rows of a span, for a bind group.
    pub fn resource(&self, caps: &Caps, span: Span) -> Resource<'a> {
        self.window(caps, &span).into()
    }
}

/// Checks that buffers hold `max_rows` rows, and that no buffer is written and also used as
/// another argument.
pub(crate) fn check_rows(all: &[Rows<'_>], max_rows: u32) -> Result<(), BindError> {
    for (i, rows) in all.iter().enumerate() {
        check(rows.spec.role, rows.at, rows.spec.bytes(max_rows), rows.align)?;
        let shared = all.iter().enumerate().find(|(j, other)| {
            *j != i && other.at.buffer == rows.at.buffer && (rows.written || other.written)
        });
        if let Some((_, other)) = shared {
            // The error names the one that is not the output.
            let output = other.spec.role == Role::Output;
            let role = if output { rows.spec.role } else { other.spec.role };
            return Err(BindError::Aliased { role });
        }
    }
    Ok(())
}

/// Rows that one dispatch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub m0: u32,
    pub m_cap: u32,
    pub batch0: u32,
    pub batch: u32,
}

impl Span {
    /// Returns the span of the first `rows` rows.
    pub fn all(rows: u32) -> Self {
        Self { m0: 0, m_cap: rows, batch0: 0, batch: 1 }
    }

    /// Returns how many of the first `rows` rows belong to the span.
    pub fn rows(&self, rows: u32) -> u32 {
        rows.saturating_sub(self.m0).min(self.m_cap)
    }
}

/// A split of all rows into spans that fit bindings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spans {
    max_rows: u32,
    batch: u32,
    /// Rows and matrices of a span.
    rows: u32,
    batches: u32,
}

impl Spans {
    /// Creates the fewest spans that bindings allow: whole matrices of a batch, or rows of one.
    pub fn new(
        caps: &Caps,
        max_rows: u32,
        all: impl IntoIterator<Item = RowsSpec>,
    ) -> Result<Self, BindError> {
        let limit = window_capacity(caps);
        let (mut rows, mut batch, mut batches) = (u64::from(max_rows), 1, u64::MAX);
        for spec in all {
            let need = u64::from(spec.columns) * spec.unit;
            let fit = |rest: u64, stride: u32| match u64::from(stride) * spec.unit {
                0 => u64::MAX,
                stride => rest / stride + 1,
            };
            let Some(rest) = limit.checked_sub(need) else {
                return Err(BindError::RowTooLarge { role: spec.role, need, limit });
            };
            rows = rows.min(fit(rest, spec.stride));
            let matrix = RowsSpec { batch: 1, ..spec }.bytes(max_rows);
            let rest = limit.checked_sub(matrix);
            batches = batches.min(rest.map_or(1, |rest| fit(rest, spec.batch_stride)));
            batch = spec.batch;
        }
        let batches = batches.min(batch.into()) as u32;
        Ok(Self { max_rows, batch, rows: rows as u32, batches })
    }

    /// Returns one span of all rows of one matrix.
    pub fn whole(max_rows: u32) -> Self {
        Self { max_rows, batch: 1, rows: max_rows, batches: 1 }
    }

    /// Returns no spans, if there is nothing to compute.
    pub fn none() -> Self {
        Self { max_rows: 0, batch: 0, rows: 1, batches: 1 }
    }

    /// Returns the number of spans.
    pub fn count(&self) -> u64 {
        let rows = self.max_rows.div_ceil(self.rows.max(1));
        u64::from(rows) * u64::from(self.batch.div_ceil(self.batches.max(1)))
    }

    /// Returns the spans, by matrix and row.
    pub fn iter(self) -> impl Iterator<Item = Span> {
        let Self { max_rows, batch, rows, batches } = self;
        let starts = move || (0..max_rows).step_by(rows.max(1) as usize);
        (0..batch).step_by(batches.max(1) as usize).flat_map(move |batch0| {
            starts().map(move |m0| Span {
                m0,
                m_cap: rows.min(max_rows - m0),
                batch0,
                batch: batches.min(batch - batch0),
            })
        })
    }
}
