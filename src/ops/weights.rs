//! Compressed weights in device memory.

use super::buffers::{Resource, check};
use super::{BindError, Role, WeightsError};
use crate::format::{
    BLOCK_K, CodeType, DeviceImage, DeviceLayout, FormatError, Granularity, PackedWeights,
    RowOrder, Sizes, WeightFormat, inverse_order,
};
use crate::gpu::{BufferFill, CODE_TEXTURE, Caps, Const, Kernels};
use std::ops::Range;

/// Compressed weights in the kernel layout, in one or more blocks of rows so that no
/// buffer exceeds a binding. One copy serves every m.
#[derive(Clone, Debug)]
pub struct DeviceWeights {
    layout: DeviceLayout,
    blocks: Vec<RowBlock>,
    /// If columns are permuted: the column at each of K places, then the place of each of K columns.
    order: Option<wgpu::Buffer>,
}

/// The memory of some consecutive rows, in the layout of [`DeviceLayout`].
#[derive(Clone, Debug)]
pub struct RowBlock {
    pub(crate) codes: Codes,
    pub(crate) side: wgpu::Buffer,
    pub(crate) rows: Range<usize>,
}

/// The memory of the codes of a block of rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codes {
    /// A buffer. Kernels write codes to buffers, and every GPU reads them fastest from there.
    Buffer(wgpu::Buffer),
    /// A texture made by [`DeviceWeights::with_textures`]: four words a texel, one row of texels
    /// after the other.
    Texture(wgpu::Texture),
}

impl From<wgpu::Buffer> for Codes {
    fn from(buffer: wgpu::Buffer) -> Self {
        Self::Buffer(buffer)
    }
}

impl Codes {
    /// Returns the buffer, if the codes are in one.
    pub fn buffer(&self) -> Option<&wgpu::Buffer> {
        match self {
            Self::Buffer(buffer) => Some(buffer),
            Self::Texture(_) => None,
        }
    }

    /// Returns the number of bytes of memory that the codes take.
    pub fn size(&self) -> u64 {
        match self {
            Self::Buffer(buffer) => buffer.size(),
            Self::Texture(t) => u64::from(t.width()) * u64::from(t.height()) * TEXEL,
        }
    }

    /// Returns the number of texels in a row; 0 for a buffer.
    fn texture_width(&self) -> u32 {
        match self {
            Self::Buffer(_) => 0,
            Self::Texture(texture) => texture.width(),
        }
    }
}

impl RowBlock {
    /// Describes the memory of the rows `rows` of W. `codes` holds `[rows, code_words]` words in the
    /// layout's order, and the side buffer `[rows, side_words]` words; both hold whole panels and have
    /// at least 32 bytes.
    pub fn new(rows: Range<usize>, codes: Codes, side: wgpu::Buffer) -> Self {
        Self { codes, side, rows }
    }

    /// The rows of W that it holds.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The memory of the codes.
    pub fn codes(&self) -> &Codes {
        &self.codes
    }

    /// The side buffer: metadata, scales and zero points.
    pub fn side(&self) -> &wgpu::Buffer {
        &self.side
    }

    /// Its buffers: side data, and codes unless those are in a texture.
    pub fn buffers(&self) -> impl Iterator<Item = &wgpu::Buffer> {
        self.codes.buffer().into_iter().chain([&self.side])
    }

    /// Codes and side data as kernels bind them. Buffers may be larger than a binding.
    pub(crate) fn resources(&self, layout: &DeviceLayout) -> [Resource<'_>; 2] {
        let (codes, side) = layout.bytes(self.rows.len());
        let codes = match &self.codes {
            Codes::Buffer(buffer) => Resource::start(buffer, codes.max(MIN_WEIGHT_BYTES)),
            Codes::Texture(texture) => Resource::Texture(texture),
        };
        [codes, Resource::start(&self.side, side.max(MIN_WEIGHT_BYTES))]
    }
}

impl DeviceWeights {
    /// Splits the rows of a matrix so that every buffer fits a binding. All blocks but the last
    /// hold a multiple of 64 rows if that many fit, otherwise whole panels.
    ///
    /// # Errors
    /// Returns [`WeightsError`] if the format is invalid or not even two rows fit.
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

    /// Allocates buffers for an `[n, k]` matrix, to be filled on the GPU. If its columns are permuted,
    /// [`with_column_order`](Self::with_column_order) must follow.
    ///
    /// # Errors
    /// Returns the errors of [`split`](Self::split), and [`DeviceError`](crate::gpu::DeviceError).
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
                codes: kernels.buffer("lowbit weight codes", USAGE, codes).await?.into(),
                side: kernels.buffer("lowbit weight side data", USAGE, side).await?,
                rows,
            });
        }
        Ok(Self { layout, blocks, order: None })
    }

    /// Copies packed weights to the device, through mapped memory: nothing is submitted. If their
    /// columns are permuted, the order of columns goes along.
    ///
    /// # Errors
    /// Returns the errors of [`allocate`](Self::allocate).
    pub async fn upload(kernels: &Kernels, packed: &PackedWeights) -> Result<Self, WeightsError> {
        let (layout, ranges) =
            Self::split(kernels.caps(), packed.format(), packed.n(), packed.k())?;
        let mut blocks = Vec::with_capacity(ranges.len());
        for rows in ranges {
            let DeviceImage { codes, side } = layout.pack(packed, rows.clone());
            let (codes, side) = (BufferFill::Words(&codes), BufferFill::Words(&side));
            blocks.push(RowBlock {
                codes: kernels.buffer("lowbit weight codes", USAGE, codes).await?.into(),
                side: kernels.buffer("lowbit weight side data", USAGE, side).await?,
                rows,
            });
        }
        let weights = Self { layout, blocks, order: None };
        if packed.format().is_permuted() {
            weights.with_column_order(kernels, packed.order()).await
        } else {
            Ok(weights)
        }
    }

    /// Gives weights with permuted columns the order of their columns, which replaces an earlier one:
    /// entry j is the column of W whose codes are at place j
    /// ([`PackedWeights::order`](crate::format::PackedWeights::order)). It takes 8 bytes a column, through
    /// mapped memory: nothing is submitted.
    ///
    /// # Errors
    /// Returns [`WeightsError::Format`] if the columns are not permuted, or if `order` does not name
    /// each column once, and [`WeightsError::Device`].
    pub async fn with_column_order(
        mut self,
        kernels: &Kernels,
        order: &[u32],
    ) -> Result<Self, WeightsError> {
        let need = if self.format().is_permuted() { self.k() } else { 0 };
        if !self.format().is_permuted() || order.len() != need {
            let part = "order";
            return Err(FormatError::WrongLength { part, need, have: order.len() }.into());
        }
        let words = [order, &inverse_order(order)?].concat();
        let label = "lowbit column order";
        self.order = Some(kernels.buffer(label, USAGE, BufferFill::Words(&words)).await?);
        Ok(self)
    }

    /// Takes buffers that the caller filled in the layout of [`DeviceLayout`]. Binding checks that
    /// they have `STORAGE` usage. If the columns are permuted,
    /// [`with_column_order`](Self::with_column_order) must follow.
    ///
    /// # Errors
    /// Returns [`WeightsError`] if the format is invalid, blocks are out of order, or buffers are
    /// too small.
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
            let Codes::Buffer(buffer) = &b.codes else {
                return Err(WeightsError::OwnTexture { block });
            };
            for (part, buffer, bytes) in [("codes", buffer, codes), ("side", &b.side, side)] {
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
        Ok(Self { layout, blocks, order: None })
    }

    /// Copies the codes into textures, for plans of [`MatmulSpec::of`](super::MatmulSpec::of) the
    /// new weights; [`code_textures_pay`] says on which devices that is faster. The copy is
    /// recorded, so submit `encoder` before any matmul. The buffers of codes are released with
    /// `self`.
    ///
    /// # Errors
    /// Returns [`WeightsError::Texture`], [`WeightsError::NoCopy`], [`WeightsError::Device`];
    /// nothing is recorded then.
    pub async fn with_textures(
        &self,
        kernels: &Kernels,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<Self, WeightsError> {
        let (caps, format) = (kernels.caps(), self.format());
        let width = texture_width(&format, self.k() as u32, caps);
        let limit = u64::from(width) * u64::from(caps.texture_extent) * TEXEL;
        let mut copies = Vec::with_capacity(self.blocks.len());
        for (block, b) in self.blocks.iter().enumerate() {
            let (codes, _) = self.layout.bytes(b.rows.len());
            if codes > limit || width == 0 {
                return Err(WeightsError::Texture { format, codes, limit });
            }
            let copied = wgpu::BufferUsages::COPY_SRC;
            let buffer = b.codes.buffer().filter(|buffer| buffer.usage().contains(copied));
            let buffer = buffer.ok_or(WeightsError::NoCopy { block })?;
            let height = codes.div_ceil(u64::from(width) * TEXEL).max(1) as u32;
            let descriptor = wgpu::TextureDescriptor {
                label: Some("lowbit weight codes"),
                size: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
                mip_level_count: 1,
                sample_count: 1,
                dimension: wgpu::TextureDimension::D2,
                format: CODE_TEXTURE,
                usage: wgpu::TextureUsages::STORAGE_BINDING
                    | wgpu::TextureUsages::COPY_DST
                    | wgpu::TextureUsages::COPY_SRC,
                view_formats: &[],
            };
            let make = || kernels.device().create_texture(&descriptor);
            let bytes = u64::from(width) * u64::from(height) * TEXEL;
            let texture = kernels.guarded("a texture of codes", make).await;
            let texture = texture.map_err(|error| error.of_bytes(bytes))?;
            copies.push((buffer, texture, (codes / TEXEL) as u32));
        }
        let mut blocks = self.blocks.clone();
        for (block, (buffer, texture, texels)) in blocks.iter_mut().zip(copies) {
            copy_codes(encoder, buffer, &texture, texels);
            block.codes = Codes::Texture(texture);
        }
        Ok(Self { layout: self.layout, blocks, order: self.order.clone() })
    }

    /// Returns the buffer of the order of columns, if there is one: the column at each of K places,
    /// then the place of each of K columns, u32.
    pub fn column_order(&self) -> Option<&wgpu::Buffer> {
        self.order.as_ref()
    }

    /// Returns the buffer of the order of columns as kernels bind it, or `None` if columns are not
    /// permuted. Refuses weights that lack theirs.
    pub(crate) fn check_order(&self, caps: &Caps) -> Result<Option<Resource<'_>>, BindError> {
        if !self.format().is_permuted() {
            return Ok(None);
        }
        let order = self.order.as_ref().ok_or(BindError::NoColumnOrder)?;
        let (need, limit) = (8 * self.k() as u64, caps.max_binding);
        if need > limit {
            return Err(BindError::RowTooLarge { role: Role::ColumnOrder, need, limit });
        }
        Ok(Some(Resource::start(order, need.max(MIN_WEIGHT_BYTES))))
    }

    /// Returns whether the codes are in textures, that is, whether these weights came from
    /// [`with_textures`](Self::with_textures).
    pub fn has_textures(&self) -> bool {
        self.texture_width() > 0
    }

    /// Returns the number of texels in a row of the textures; 0 if there are none.
    fn texture_width(&self) -> u32 {
        self.blocks.first().map_or(0, |block| block.codes.texture_width())
    }

    /// Refuses buffers that no kernel can bind.
    pub(crate) fn check_buffers(&self, role: Role, caps: &Caps) -> Result<(), BindError> {
        let limit = caps.max_binding;
        for block in &self.blocks {
            for buffer in block.buffers() {
                check(role, buffer.into(), MIN_WEIGHT_BYTES, 4)?;
            }
            let (codes, side) = self.layout.bytes(block.rows.len());
            let codes = block.codes.buffer().map_or(0, |_| codes);
            // Only a caller's own blocks, or those of another device, can be so large.
            if let Some(need) = [codes, side].into_iter().find(|&need| need > limit) {
                return Err(BindError::BlockTooLarge { need, limit });
            }
        }
        Ok(())
    }

    /// Refuses weights that kernels cannot write: codes and side data must be in separate buffers.
    pub(crate) fn check_written(&self, caps: &Caps) -> Result<(), BindError> {
        for block in &self.blocks {
            let codes = block.codes.buffer().ok_or(BindError::TexturesWritten)?;
            if *codes == block.side {
                return Err(BindError::Aliased { role: Role::Weights });
            }
        }
        self.check_buffers(Role::Output, caps)
    }

    /// Refuses weights whose codes are not where a plan reads them. Empty weights fit any plan.
    pub(crate) fn check_textures(&self, need: u32) -> Result<(), BindError> {
        let have = self.texture_width();
        match self.blocks.is_empty() || need == have {
            true => Ok(()),
            false => Err(BindError::Textures { need, have }),
        }
    }

    /// Returns the layout of the buffers.
    pub fn layout(&self) -> &DeviceLayout {
        &self.layout
    }

    /// Returns the blocks of rows, in order.
    pub fn blocks(&self) -> &[RowBlock] {
        &self.blocks
    }

    /// Returns the format.
    pub fn format(&self) -> WeightFormat {
        self.layout.geometry.format
    }

    /// Returns the number of rows of `W`.
    pub fn n(&self) -> usize {
        self.layout.geometry.n
    }

    /// Columns of `W`.
    pub fn k(&self) -> usize {
        self.layout.geometry.k
    }

    /// Returns the exact sizes of the canonical layout.
    pub fn sizes(&self) -> Sizes {
        self.layout.geometry.sizes()
    }

    /// Returns the number of bytes in device memory, including the padding of rows to whole blocks
    /// and of the last row of textures, and the order of columns.
    pub fn device_bytes(&self) -> u64 {
        let order = self.order.as_ref().map_or(0, wgpu::Buffer::size);
        self.blocks.iter().map(|b| b.codes.size() + b.side.size()).sum::<u64>() + order
    }

    pub(crate) fn describe(format: WeightFormat, n: usize, k: usize, order: RowOrder) -> String {
        match order {
            RowOrder::Rows => format!("{n}×{k} {format}"),
            RowOrder::Panels => format!("{n}×{k} {format} in panels"),
        }
    }

    /// Refuses weights of another format, shape or order than a plan was made for.
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

/// Returns whether [`DeviceWeights::with_textures`] makes matmuls faster. It does on devices with a
/// [`Caps::texture_extent`], wherever kernels can read the codes from textures: blocks of 32
/// columns must take at least 16 bytes, and scales must align with them. docs/performance.md has
/// figures.
pub fn code_textures_pay(format: &WeightFormat, k: u32, caps: &Caps) -> bool {
    texture_width(format, k, caps) > 0
}

/// Returns the number of texels in a row of a texture of such codes; 0 if kernels cannot read them
/// from one.
pub(crate) fn texture_width(format: &WeightFormat, k: u32, caps: &Caps) -> u32 {
    if in_textures(format, k) { caps.texture_width() } else { 0 }
}

/// Returns whether kernels can read such codes from textures, on devices where that is faster.
pub(crate) fn in_textures(format: &WeightFormat, k: u32) -> bool {
    let columns = if format.is_sparse() { BLOCK_K / 2 } else { BLOCK_K } as u32;
    // Half a block may have a scale, but not of wide or 2:4 sparse codes.
    let halves = !format.is_sparse() && format.code_type().bits() <= 8;
    let unit = BLOCK_K as u32 / if halves { 2 } else { 1 };
    let aligned = match format.granularity() {
        Granularity::Group(g) if format.code_type().has_scales() && g.get() < k => {
            g.get().is_multiple_of(unit)
        }
        _ => true,
    };
    aligned && columns * format.code_type().low_bits() / 8 >= 16
}

/// The constants of a table of a code type: the bits of its numbers.
const TABLE: [&str; 16] = [
    "TABLE_0", "TABLE_1", "TABLE_2", "TABLE_3", "TABLE_4", "TABLE_5", "TABLE_6", "TABLE_7",
    "TABLE_8", "TABLE_9", "TABLE_10", "TABLE_11", "TABLE_12", "TABLE_13", "TABLE_14", "TABLE_15",
];

/// Returns the constants of a code type's table, as bits of f32, and whether the second half of the table
/// is the first with the other sign. There are none if the code type has no table of its own.
pub(crate) fn table_constants(code_type: CodeType) -> (Vec<(&'static str, Const)>, bool) {
    let bits = code_type.table().map(|table| table.map(f32::to_bits));
    let mirrored = bits.is_some_and(|bits| (0..8).all(|i| bits[i] ^ bits[i + 8] == 1 << 31));
    let bits = bits.into_iter().flatten().map(Const::U32);
    (TABLE.into_iter().zip(bits).collect(), mirrored)
}

/// Bytes of a texel.
const TEXEL: u64 = 16;

/// Whole rows of texels, then the rest of the last one.
fn copy_codes(
    encoder: &mut wgpu::CommandEncoder,
    codes: &wgpu::Buffer,
    texture: &wgpu::Texture,
    texels: u32,
) {
    let width = texture.width();
    let (whole, rest) = (texels / width, texels % width);
    for (y, columns, rows) in [(0, width, whole), (whole, rest, 1)] {
        if columns == 0 || rows == 0 {
            continue;
        }
        let layout = wgpu::TexelCopyBufferLayout {
            offset: u64::from(y) * u64::from(width) * TEXEL,
            bytes_per_row: Some(width * TEXEL as u32),
            rows_per_image: None,
        };
        let origin = wgpu::Origin3d { x: 0, y, z: 0 };
        encoder.copy_buffer_to_texture(
            wgpu::TexelCopyBufferInfo { buffer: codes, layout },
            wgpu::TexelCopyTextureInfo { origin, ..texture.as_image_copy() },
            wgpu::Extent3d { width: columns, height: rows, depth_or_array_layers: 1 },
        );
    }
}

/// The smallest binding of weights: the widest load of any kernel.
pub(crate) const MIN_WEIGHT_BYTES: u64 = 32;

/// The largest number of blocks of rows: 2²⁰, 128 TiB of WebGPU's default bindings.
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
