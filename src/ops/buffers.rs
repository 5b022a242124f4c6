//! The caller's buffers: parts of them, checks, and the windows that bindings cover.

use super::{BindError, Role};
use crate::gpu::Caps;

/// The part of a buffer that starts at `offset` bytes.
#[derive(Clone, Copy, Debug)]
pub struct SubBuffer<'a> {
    /// The buffer. It needs `STORAGE` usage.
    pub buffer: &'a wgpu::Buffer,
    /// Where the data starts, in bytes.
    pub offset: u64,
}

impl<'a> From<&'a wgpu::Buffer> for SubBuffer<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        Self { buffer, offset: 0 }
    }
}

/// What a bind group entry refers to.
#[derive(Clone, Debug)]
pub(crate) enum Resource<'a> {
    Buffer(wgpu::BufferBinding<'a>),
    /// A texture of codes. Recording makes the view together with the bind group.
    Texture(&'a wgpu::Texture),
}

impl<'a> Resource<'a> {
    /// Returns the first `bytes` of a buffer.
    pub fn start(buffer: &'a wgpu::Buffer, bytes: u64) -> Self {
        Self::part(buffer, 0, bytes)
    }

    /// `bytes` of a buffer from an aligned offset on.
    pub fn part(buffer: &'a wgpu::Buffer, offset: u64, bytes: u64) -> Self {
        Self::Buffer(wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(bytes) })
    }
}

/// A whole buffer.
impl<'a> From<&'a wgpu::Buffer> for Resource<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        Self::Buffer(wgpu::BufferBinding { buffer, offset: 0, size: None })
    }
}

impl<'a> From<Window<'a>> for Resource<'a> {
    fn from(window: Window<'a>) -> Self {
        Self::part(window.buffer, window.offset, window.size)
    }
}

/// A binding that covers some bytes of a buffer. It starts at an aligned offset; the remaining
/// bytes up to the data are a parameter of the shader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub offset: u64,
    pub size: u64,
    /// Bytes between the binding's start and the data's.
    pub skip: u64,
}

impl<'a> Window<'a> {
    /// Covers `len` bytes (rounded up to whole words) from `start`.
    pub fn new(caps: &Caps, buffer: &'a wgpu::Buffer, start: u64, len: u64) -> Self {
        let skip = start % u64::from(caps.storage_align.max(1));
        let offset = start - skip;
        // 16 bytes hold any element a shader declares; every buffer of ours has as many,
        // and `check` refuses a caller's smaller one.
        // A buffer's size need not be a multiple of 4, a binding's must be.
        let rest = (buffer.size() - offset) & !3;
        let size = (skip + len).next_multiple_of(4).max(16).min(rest);
        Self { buffer, offset, size, skip }
    }

    /// Returns where the data starts within the binding, in units of `unit` bytes.
    pub fn at(&self, unit: u64) -> u32 {
        (self.skip / unit.max(1)) as u32
    }
}

/// Returns the largest number of bytes that a window can always hold: a binding, less what
/// alignment and rounding may add.
pub(crate) fn window_capacity(caps: &Caps) -> u64 {
    caps.max_binding.saturating_sub(u64::from(caps.storage_align) + 16)
}

/// Checks usage, alignment and size of a buffer that must hold `bytes` from its offset.
pub(crate) fn check(
    role: Role,
    at: SubBuffer<'_>,
    bytes: u64,
    align: u64,
) -> Result<(), BindError> {
    if !at.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
        return Err(BindError::Usage { role });
    }
    if !at.offset.is_multiple_of(align) {
        return Err(BindError::Misaligned { role, offset: at.offset, align });
    }
    let have = at.buffer.size();
    let whole =
        |bytes: u64| bytes.checked_next_multiple_of(4).and_then(|b| at.offset.checked_add(b));
    // A binding may not be empty, so that even no data needs a word, and vec4 needs four.
    let need = whole(bytes.max(align.max(4))).ok_or(BindError::Overflow { role })?;
    if have < need { Err(BindError::TooSmall { role, need, have }) } else { Ok(()) }
}

/// Refuses inputs that are also buffers to be written.
pub(crate) fn check_aliases<'a>(
    inputs: impl IntoIterator<Item = (Role, &'a wgpu::Buffer)>,
    written: &[&wgpu::Buffer],
) -> Result<(), BindError> {
    match inputs.into_iter().find(|(_, input)| written.contains(input)) {
        Some((role, _)) => Err(BindError::Aliased { role }),
        None => Ok(()),
    }
}
