//! Compressed weights in device memory.

use super::BindError;
use crate::format::{
    DeviceImage, DeviceLayout, FormatError, PackedWeights, RowOrder, Sizes, WeightFormat,
};
use crate::gpu::{BufferFill, Caps, DeviceError, Kernels};
use std::ops::Range;

/// Compressed weights in the kernel layout, in one or more blocks of rows so that no
/// buffer exceeds a binding. One copy serves every m.
#[derive(Clone, Debug)]
pub struct DeviceWeights {
    layout: DeviceLayout,
    blocks: Vec<RowBlock>,
}

/// The buffers of some consecutive rows; see [`DeviceLayout`] for what they hold.
#[derive(Clone, Debug)]
pub struct RowBlock {
    /// `[rows, code_words]` words in the layout's order, whole panels, at least 32 bytes.
    pub codes: wgpu::Buffer,
    /// `[rows, side_words]` words likewise.
    pub side: wgpu::Buffer,
    /// Which rows of `W`.
    pub rows: Range<usize>,
}

/// Why weights cannot be placed on a device.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The format or shape is bad.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Rows that lie together exceed a binding, so that splitting between rows does not help.
    #[error("{rows} rows of weights take {need} bytes, a binding holds {limit}")]
    RowTooLarge {
        /// Rows that must stay together.
        rows: usize,
        /// Their bytes.
        need: u64,
        /// The device's limit.
        limit: u64,
    },
    /// More rows or columns than a shader's u32 index.
    #[error("{n}×{k} weights exceed the 2³¹ − 1 rows or columns that kernels index")]
    TooLarge {
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
    },
    /// So many blocks that even a list of them is too long.
    #[error("the weights would be split into {blocks} blocks of rows, more than {limit}")]
    TooManyBlocks {
        /// Blocks needed.
        blocks: usize,
        /// The most there may be.
        limit: usize,
    },
    /// Blocks that do not cover the rows in order, or break a row pair.
    #[error(
        "row block {block} covers rows {have:?}; it must start at {start} and end at an even row or the last"
    )]
    Blocks {
        /// Which block.
        block: usize,
        /// Its rows.
        have: Range<usize>,
        /// Where it must start.
        start: usize,
    },
    /// A buffer of a block is too small.
    #[error("the {part} buffer of row block {block} has {have} bytes, {need} are needed")]
    TooSmall {
        /// Which block.
        block: usize,
        /// `codes` or `side`.
        part: &'static str,
        /// Bytes needed.
        need: u64,
        /// Bytes it has.
        have: u64,
    },
    /// The device said no.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl DeviceWeights {
    /// How the rows of a matrix are split so that every buffer fits a binding: all but the
    /// last block hold a multiple of 64 rows where that many fit, else whole panels.
    ///
    /// # Errors
    /// [`WeightsError`] where the format is bad, or not even two rows fit.
    pub fn split(
        caps: &Caps,
        format: WeightFormat,
        n: usize,
        k: usize,
    ) -> Result<(DeviceLayout, Vec<Range<usize>>), WeightsError> {
        let layout = indexable(format, n, k, caps.row_order)?;
        let panel = caps.row_order.panel().max(2) as usize;
        let row = 4 * (layout.code_words.max(layout.side_words) as u64).max(1);
        let limit = caps.max_binding.min(caps.max_buffer);
        let fit = usize::try_from(limit / row).unwrap_or(usize::MAX);
        let fit = match fit {
            fit if fit >= n.next_multiple_of(caps.row_order.panel() as usize) => n,
            64.. => fit / 64 * 64,
            _ => fit / panel * panel,
        };
        if fit == 0 && n > 0 {
            return Err(WeightsError::RowTooLarge { rows: panel, need: panel as u64 * row, limit });
        }
        let blocks = n.div_ceil(fit.max(1));
        if blocks > MAX_BLOCKS {
            return Err(WeightsError::TooManyBlocks { blocks, limit: MAX_BLOCKS });
        }
        let blocks =
            (0..n).step_by(fit.max(1)).map(|start| start..n.min(start.saturating_add(fit)));
        Ok((layout, blocks.collect()))
    }

    /// Empty buffers for an `[n, k]` matrix, to be filled on the GPU.
    ///
    /// # Errors
    /// As [`split`](Self::split), and [`DeviceError`].
    pub async fn allocate(
        kernels: &Kernels,
        format: WeightFormat,
        n: usize,
        k: usize,
    ) -> Result<Self, WeightsError> {
        let (layout, ranges) = Self::split(kernels.caps(), format, n, k)?;
        let mut blocks = Vec::with_capacity(ranges.len());
        for rows in ranges {
            let (codes, side) = layout.bytes(rows.len());
            let (codes, side) = (BufferFill::Zeros(codes), BufferFill::Zeros(side));
            blocks.push(RowBlock {
                codes: kernels.buffer("lowbit weight codes", USAGE, codes).await?,
                side: kernels.buffer("lowbit weight side data", USAGE, side).await?,
                rows,
            });
        }
        Ok(Self { layout, blocks })
    }

    /// Copies packed weights to the device, through mapped memory: nothing is submitted.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub async fn upload(kernels: &Kernels, packed: &PackedWeights) -> Result<Self, WeightsError> {
        let (layout, ranges) =
            Self::split(kernels.caps(), packed.format(), packed.n(), packed.k())?;
        let mut blocks = Vec::with_capacity(ranges.len());
        for rows in ranges {
            let DeviceImage { codes, side } = layout.pack(packed, rows.clone());
            let (codes, side) = (BufferFill::Words(&codes), BufferFill::Words(&side));
            blocks.push(RowBlock {
                codes: kernels.buffer("lowbit weight codes", USAGE, codes).await?,
                side: kernels.buffer("lowbit weight side data", USAGE, side).await?,
                rows,
            });
        }
        Ok(Self { layout, blocks })
    }

    /// Takes buffers that the caller filled in the layout of [`DeviceLayout`]; `STORAGE`
    /// usage is checked where they are bound.
    ///
    /// # Errors
    /// [`WeightsError`]: a bad format, blocks out of order, buffers too small.
    pub fn from_blocks(
        format: WeightFormat,
        n: usize,
        k: usize,
        order: RowOrder,
        blocks: Vec<RowBlock>,
    ) -> Result<Self, WeightsError> {
        let layout = indexable(format, n, k, order)?;
        let mut start = 0;
        for (block, b) in blocks.iter().enumerate() {
            let whole = b.rows.end == n || b.rows.end.is_multiple_of(2);
            if b.rows.start != start || b.rows.is_empty() || b.rows.end > n || !whole {
                return Err(WeightsError::Blocks { block, have: b.rows.clone(), start });
            }
            start = b.rows.end;
            let (codes, side) = layout.bytes(b.rows.len());
            for (part, buffer, bytes) in [("codes", &b.codes, codes), ("side", &b.side, side)] {
                let need = bytes.max(MIN_WEIGHT_BYTES);
                if buffer.size() < need {
                    let have = buffer.size();
                    return Err(WeightsError::TooSmall { block, part, need, have });
                }
            }
        }
        if start != n {
            let (block, have) = (blocks.len(), start..start);
            return Err(WeightsError::Blocks { block, have, start });
        }
        Ok(Self { layout, blocks })
    }

    /// The layout of the buffers.
    pub fn layout(&self) -> &DeviceLayout {
        &self.layout
    }

    /// The blocks of rows, in order.
    pub fn blocks(&self) -> &[RowBlock] {
        &self.blocks
    }

    /// The format.
    pub fn format(&self) -> WeightFormat {
        self.layout.geometry.format
    }

    /// Rows of `W`.
    pub fn n(&self) -> usize {
        self.layout.geometry.n
    }

    /// Columns of `W`.
    pub fn k(&self) -> usize {
        self.layout.geometry.k
    }

    /// Exact sizes of the canonical layout.
    pub fn sizes(&self) -> Sizes {
        self.layout.geometry.sizes()
    }

    /// Bytes in device memory: the kernel layout pads rows to whole blocks.
    pub fn device_bytes(&self) -> u64 {
        self.blocks.iter().map(|b| b.codes.size() + b.side.size()).sum()
    }

    pub(crate) fn describe(format: WeightFormat, n: usize, k: usize, order: RowOrder) -> String {
        match order {
            RowOrder::Rows => format!("{n}×{k} {format}"),
            RowOrder::Panels => format!("{n}×{k} {format} in panels"),
        }
    }

    /// Whether these are the weights that a plan was made for, or how they differ.
    pub(crate) fn check(
        &self,
        format: WeightFormat,
        (n, k): (u32, u32),
        order: RowOrder,
    ) -> Result<(), BindError> {
        let need = (format, n as usize, k as usize, order);
        let have = (self.format(), self.n(), self.k(), self.layout.order);
        if need == have {
            return Ok(());
        }
        let text = |(format, n, k, order)| Self::describe(format, n, k, order);
        Err(BindError::WrongWeights { need: text(need), have: text(have) })
    }
}

/// What a binding of weights holds at least: the widest load of any kernel.
pub(crate) const MIN_WEIGHT_BYTES: u64 = 32;

/// Blocks of rows at most: 2²⁰, 128 TiB of WebGPU's default bindings.
const MAX_BLOCKS: usize = 1 << 20;

fn indexable(
    format: WeightFormat,
    n: usize,
    k: usize,
    order: RowOrder,
) -> Result<DeviceLayout, WeightsError> {
    let layout = DeviceLayout::new(format, n, k, order)?;
    if n > i32::MAX as usize || k > i32::MAX as usize {
        return Err(WeightsError::TooLarge { n, k });
    }
    Ok(layout)
}

const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);
