//! Small kernels that measure what an adapter can do at most.

use super::{MeasuredLimits, median};
use crate::gpu::{AdapterClass, Binding, CODE_TEXTURE, Const, Pipeline, Shader, fragment};
use crate::host::{COLD, Host, HostError};

/// What one of the small kernels measures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    Fma,
    Dot,
    ReadRuns,
    ReadCoalesced,
    ReadTexture(u32),
    Copy,
}

impl Limit {
    /// Texels in a row of the texture, where one is to be read.
    fn all(texture_width: u32) -> Vec<Self> {
        let mut all = vec![Self::Fma, Self::Dot, Self::ReadRuns, Self::ReadCoalesced, Self::Copy];
        if texture_width > 0 {
            all.push(Self::ReadTexture(texture_width));
        }
        all
    }

    fn shader(self) -> Shader {
        let (rounds, run) = (("ROUNDS", Const::U32(ROUNDS)), ("RUN", Const::U32(RUN)));
        let contiguous = |yes| ("CONTIGUOUS", Const::Bool(yes));
        let (name, fragments, consts) = match self {
            Self::Fma => ("limit_fma", vec!["limits/fma"], vec![rounds]),
            Self::Dot => ("limit_dot", vec!["limits/dot"], vec![rounds]),
            Self::ReadRuns => ("limit_read_runs", vec!["limits/read"], vec![run, contiguous(true)]),
            Self::ReadCoalesced => {
                ("limit_read_coalesced", vec!["limits/read"], vec![run, contiguous(false)])
            }
            Self::ReadTexture(width) => {
                let consts = vec![run, ("TEXTURE_WIDTH", Const::U32(width))];
                ("limit_read_texture", vec!["access/texel", "limits/read_texture"], consts)
            }
            Self::Copy => ("limit_copy", vec!["limits/copy"], vec![run]),
        };
        Shader {
            name: name.into(),
            consts,
            fragments: fragments.into_iter().map(fragment).collect(),
            bindings: match self {
                Self::ReadTexture(_) => {
                    let absent = Binding::Absent;
                    vec![absent, Binding::Write, absent, absent, Binding::Texture]
                }
                _ => vec![Binding::Read, Binding::Write],
            },
        }
    }

    /// Operations, or bytes, of so many workgroups.
    fn work(self, groups: u64) -> u64 {
        match self {
            Self::Fma => groups * 64 * u64::from(ROUNDS) * 64,
            Self::Dot => groups * 64 * u64::from(ROUNDS) * 32,
            Self::Copy => 2 * groups * READ_GROUP,
            _ => groups * READ_GROUP,
        }
    }
}

/// The shaders of [`limits`].
pub fn limit_shaders() -> Vec<Shader> {
    Limit::all(2048).into_iter().map(Limit::shader).collect()
}

const ROUNDS: u32 = 4096;
const RUN: u32 = 64;
/// Bytes that one workgroup of the reading kernel reads.
const READ_GROUP: u64 = 64 * RUN as u64 * 16;

/// Measures what the adapter can do.
///
/// # Errors
/// [`HostError`].
#[cfg(not(target_arch = "wasm32"))]
pub fn limits(host: &Host) -> Result<MeasuredLimits, HostError> {
    pollster::block_on(limits_async(host))
}

/// [`limits`], to be awaited.
///
/// # Errors
/// The same.
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
        let bindings = shader.bindings.iter().zip(0..).filter(|(b, _)| **b != Binding::Absent);
        let entries: Vec<_> = bindings
            .map(|(_, binding)| wgpu::BindGroupEntry { binding, resource: resource(binding) })
            .collect();
        let group = host.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&shader.name),
            layout: &pipeline.layout,
            entries: &entries,
        });
        let record = |pass: &mut wgpu::ComputePass<'_>| {
            dispatch(pass, &pipeline, &group, groups);
            Ok(())
        };
        let (ms, _) = median(host, record).await?;
        Ok::<f64, HostError>(limit.work(groups.into()) as f64 / ms * 1e3)
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
