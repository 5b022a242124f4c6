//! What binding and planning share whatever the op: parameters in slots of one uniform buffer,
//! bind groups that know m, spans of rows that fit bindings.

use super::buffers::window_capacity;
use super::{BindError, Role};
use crate::gpu::{BufferFill, Caps, DeviceError, KernelDesc, Kernels, Pipeline};
use std::sync::Arc;
use wgpu::{BindGroupEntry, BindingResource};

/// Parameters of dispatches in one uniform buffer, a slot each.
pub(crate) struct Slots {
    label: &'static str,
    buffer: wgpu::Buffer,
    /// Bytes from one slot to the next, and of the parameters in it.
    stride: u64,
    size: u64,
}

impl Slots {
    /// Uploads a slot for each of `params`.
    pub async fn new<P: bytemuck::Pod>(
        kernels: &Kernels,
        label: &'static str,
        params: &[P],
    ) -> Result<Self, DeviceError> {
        let stride = Self::stride::<P>(kernels.caps());
        let mut words = vec![0u32; params.len() * stride / 4];
        for (params, slot) in params.iter().zip(words.chunks_mut(stride / 4)) {
            slot[..size_of::<P>() / 4]
                .copy_from_slice(bytemuck::cast_slice(std::slice::from_ref(params)));
        }
        let (usage, fill) = (wgpu::BufferUsages::UNIFORM, BufferFill::Words(&words));
        let buffer = kernels.buffer(label, usage, fill).await?;
        Ok(Self { label, buffer, stride: stride as u64, size: size_of::<P>() as u64 })
    }

    /// Bytes from one slot to the next.
    pub fn stride<P>(caps: &Caps) -> usize {
        size_of::<P>().next_multiple_of(caps.uniform_align.max(4) as usize)
    }

    /// The parameters of one dispatch.
    pub fn binding(&self, index: usize) -> BindingResource<'_> {
        part(&self.buffer, index as u64 * self.stride, self.size)
    }

    /// The bind group of a kernel: the parameters at binding 0, and what else is bound.
    pub fn group<'a>(
        &'a self,
        kernels: &Kernels,
        pipeline: &Pipeline,
        index: usize,
        bound: impl IntoIterator<Item = (u32, BindingResource<'a>)>,
    ) -> wgpu::BindGroup {
        let mut entries = vec![entry(0, self.binding(index))];
        entries.extend(bound.into_iter().map(|(binding, resource)| entry(binding, resource)));
        kernels.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(self.label),
            layout: &pipeline.layout,
            entries: &entries,
        })
    }

    /// The same of a kernel that knows m, whose digits are bindings 1 and 2.
    pub fn group_of_m<'a>(
        &'a self,
        kernels: &'a Kernels,
        pipeline: &Pipeline,
        index: usize,
        bound: impl IntoIterator<Item = (u32, BindingResource<'a>)>,
    ) -> wgpu::BindGroup {
        let digits = [1, 2].map(|binding| (binding, part(kernels.m_table(), 0, 16)));
        self.group(kernels, pipeline, index, digits.into_iter().chain(bound))
    }
}

fn entry(binding: u32, resource: BindingResource<'_>) -> BindGroupEntry<'_> {
    BindGroupEntry { binding, resource }
}

/// Some bytes of a buffer.
pub(crate) fn part(buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> BindingResource<'_> {
    let size = wgpu::BufferSize::new(bytes);
    BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
}

/// The pipelines of shaders, in their order; those that are not cached are compiled at once.
pub(crate) async fn pipelines(
    kernels: &Kernels,
    shaders: &[KernelDesc],
) -> Result<Vec<Arc<Pipeline>>, DeviceError> {
    kernels.prepare(shaders).await?;
    let mut pipelines = Vec::with_capacity(shaders.len());
    for shader in shaders {
        pipelines.push(kernels.pipeline(shader).await?);
    }
    Ok(pipelines)
}

/// First row and rows of each dispatch, so that every part fits a binding. Parts are bytes of one
/// row, and from one row to the next, 0 where all rows share them.
pub(crate) fn spans(
    caps: &Caps,
    max_m: u32,
    parts: impl IntoIterator<Item = (Role, u64, u64)>,
) -> Result<Vec<(u32, u32)>, BindError> {
    let limit = window_capacity(caps);
    let mut rows = u64::from(max_m);
    for (role, need, stride) in parts {
        let rest = limit.checked_sub(need);
        let rest = rest.ok_or(BindError::RowTooLarge { role, need, limit })?;
        rows = rest.checked_div(stride).map_or(rows, |more| rows.min(more + 1));
    }
    let starts = (0..max_m).step_by((rows as usize).max(1));
    Ok(starts.map(|m0| (m0, (rows as u32).min(max_m - m0))).collect())
}

/// Refuses a grid that no dispatch holds.
pub(crate) fn check_grid(caps: &Caps, groups: u64) -> Result<(), BindError> {
    match caps.fold(groups) {
        Some(_) => Ok(()),
        None => Err(BindError::GridTooLarge { groups, limit: caps.max_groups }),
    }
}
