//! Small kernels that measure what an adapter can do at most.

use super::{MeasuredLimits, median};
use crate::gpu::{AdapterClass, CODE_TEXTURE, Pipeline};
use crate::host::{COLD, Host, HostError};
use crate::ops::limits::{Limit, ROUNDS, RUN};

/// Operations, or bytes, of `groups` workgroups.
fn work(limit: Limit, groups: u64) -> u64 {
    match limit {
        Limit::Fma => groups * 64 * u64::from(ROUNDS) * 64,
        Limit::Dot => groups * 64 * u64::from(ROUNDS) * 32,
        Limit::Copy => 2 * groups * READ_GROUP,
        _ => groups * READ_GROUP,
    }
}

/// Bytes that one workgroup of the reading kernel reads.
const READ_GROUP: u64 = 64 * RUN as u64 * 16;

/// Measures what the adapter can do.
///
/// # Errors
/// Returns [`HostError`].
#[cfg(not(target_arch = "wasm32"))]
pub fn limits(host: &Host) -> Result<MeasuredLimits, HostError> {
    pollster::block_on(limits_async(host))
}

/// [`limits`], to be awaited.
///
/// # Errors
/// Returns [`HostError`] if the device fails.
pub async fn limits_async(host: &Host) -> Result<MeasuredLimits, HostError> {
    let bytes = COLD.min(host.kernels().caps().max_binding).min(host.kernels().caps().max_buffer);
    let groups = (bytes / READ_GROUP).clamp(1, 4096) as u32;
    let source = host.zeros_async(u64::from(groups) * READ_GROUP).await?;
    host.queue().write_buffer(&source, 0, bytemuck::cast_slice(&[1.000_000_1f32; 4]));
    let sink = host.zeros_async(u64::from(groups) * READ_GROUP).await?;
    let caps = host.kernels().caps();
    let texels = u64::from(groups) * READ_GROUP / 16;
    let height = texels.div_ceil(caps.texture_width().max(1).into());
    // Stated limits may be too small for so many bytes.
    let width = if height > caps.texture_extent.into() { 0 } else { caps.texture_width() };
    let texels = match width {
        0 => None,
        width => Some(
            host.kernels()
                .guarded("a texture", || {
                    let texture = host.device().create_texture(&wgpu::TextureDescriptor {
                        label: Some("lowbit limit"),
                        size: wgpu::Extent3d {
                            width,
                            height: height as u32,
                            depth_or_array_layers: 1,
                        },
                        mip_level_count: 1,
                        sample_count: 1,
                        dimension: wgpu::TextureDimension::D2,
                        format: CODE_TEXTURE,
                        usage: wgpu::TextureUsages::STORAGE_BINDING,
                        view_formats: &[],
                    });
                    texture.create_view(&Default::default())
                })
                .await?,
        ),
    };
    let rate = async |limit: Limit| {
        if !Limit::all(width).contains(&limit) {
            return Ok(0.0);
        }
        // Software has few lanes, and these take it seconds a sample.
        let arithmetic = matches!(limit, Limit::Fma | Limit::Dot);
        let groups = match caps.class {
            AdapterClass::Cpu if arithmetic => groups.div_ceil(16),
            _ => groups,
        };
        let shader = limit.shader();
        let pipeline = host.kernels().pipeline(&shader).await?;
        let resource = |binding| match (binding, &texels) {
            (1, _) => sink.as_entire_binding(),
            (4, Some(texels)) => wgpu::BindingResource::TextureView(texels),
            _ => source.as_entire_binding(),
        };
        let numbers = shader.bindings.iter().map(|binding| binding.number);
        let entries: Vec<_> = numbers
            .map(|binding| wgpu::BindGroupEntry { binding, resource: resource(binding) })
            .collect();
        let group = host.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&shader.id),
            layout: &pipeline.layout,
            entries: &entries,
        });
        let record = |pass: &mut wgpu::ComputePass<'_>| {
            dispatch(pass, &pipeline, &group, groups);
            Ok(())
        };
        let (ms, _) = median(host, record).await?;
        Ok::<f64, HostError>(work(limit, groups.into()) as f64 / ms * 1e3)
    };
    Ok(MeasuredLimits {
        operations_per_second: rate(Limit::Fma).await?,
        dot_operations_per_second: rate(Limit::Dot).await?,
        read_runs_bytes_per_second: rate(Limit::ReadRuns).await?,
        read_coalesced_bytes_per_second: rate(Limit::ReadCoalesced).await?,
        read_texture_bytes_per_second: rate(Limit::ReadTexture(width)).await?,
        copy_bytes_per_second: rate(Limit::Copy).await?,
    })
}

fn dispatch(
    pass: &mut wgpu::ComputePass<'_>,
    pipeline: &Pipeline,
    group: &wgpu::BindGroup,
    groups: u32,
) {
    pass.set_pipeline(&pipeline.pipeline);
    pass.set_bind_group(0, group, &[]);
    pass.dispatch_workgroups(groups, 1, 1);
}
