use crate::format::RowOrder;

/// The kind of processor that executes the kernels. Different schedules are fast on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdapterClass {
    /// A graphics processor. Coalesced loads and workgroup memory are fast.
    Gpu,
    /// A software adapter on a CPU. Contiguous loads of a single lane are fast, and barriers are
    /// slow.
    Cpu,
}

/// The capabilities of a device that kernels are chosen by. They are plain data, so that choices
/// can be tested without hardware and limits can be lowered on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caps {
    /// Whether the device is a GPU or a CPU.
    pub class: AdapterClass,
    /// The largest storage binding, in bytes.
    pub max_binding: u64,
    /// The largest buffer, in bytes.
    pub max_buffer: u64,
    /// The alignment of storage binding offsets, in bytes.
    pub storage_align: u32,
    /// The alignment of uniform binding offsets, in bytes.
    pub uniform_align: u32,
    /// The largest number of storage buffers in one stage.
    pub max_storage_buffers: u32,
    /// The largest amount of workgroup memory, in bytes.
    pub max_workgroup_memory: u32,
    /// The largest number of invocations in one workgroup.
    pub max_invocations: u32,
    /// The largest number of workgroups along one dimension of a dispatch.
    pub max_groups: u32,
    /// The number of lanes of every subgroup, or 0 if the device has no subgroups or their size
    /// varies.
    pub subgroup: u32,
    /// Whether shaders may use subgroups, of any size.
    pub subgroups: bool,
    /// The number of rows and columns of cooperative matrices that shaders may use: 16 or 8, or 0
    /// if there are none. See [`with_matrices`](Self::with_matrices).
    pub matrix: u32,
    /// Whether shaders may use 64-bit integers.
    pub int64: bool,
    /// Whether `unpack2x16float` keeps f16 subnormals, which WGSL permits a device to flush. It is
    /// known for Mesa's software drivers. For others,
    /// [`Kernels::for_adapter`](crate::gpu::Kernels::for_adapter) and
    /// [`Host`](crate::host::Host::exact_f16_unpack) measure it.
    pub exact_f16_unpack: bool,
    /// Whether the device executes `dot4I8Packed` as a single operation, as far as the backend
    /// tells. Otherwise kernels multiply bytes in f32. Vulkan, Direct3D 12 and browsers are assumed
    /// to have it. Metal and OpenGL have no such operation.
    pub packed_dot: bool,
    /// The order in which rows of weights are laid out for this device.
    pub row_order: RowOrder,
    /// The width and height of the largest 2D texture, if kernels load long codes faster from
    /// textures than from buffers on this device; 0 otherwise. See
    /// [`DeviceWeights::with_textures`].
    ///
    /// [`DeviceWeights::with_textures`]: crate::ops::DeviceWeights::with_textures
    pub texture_extent: u32,
}

/// The largest number of texels in a row of a texture of codes. The last row then wastes at most
/// 32 KiB, and 256 MiB of codes fit within WebGPU's default limits.
pub(crate) const MAX_TEXTURE_WIDTH: u32 = 2048;

impl Caps {
    /// Returns the capabilities of a device. `limits` and `features` are those that the device was
    /// requested with, which may be below the adapter's.
    ///
    /// They do not include [`exact_f16_unpack`](Self::exact_f16_unpack) of drivers that have to be
    /// measured; [`Kernels::for_adapter`](crate::gpu::Kernels::for_adapter) does.
    pub fn new(info: &wgpu::AdapterInfo, limits: &wgpu::Limits, features: wgpu::Features) -> Self {
        let class = match info.device_type {
            wgpu::DeviceType::Cpu => AdapterClass::Cpu,
            _ => AdapterClass::Gpu,
        };
        let fixed = info.subgroup_min_size == info.subgroup_max_size;
        let subgroups = features.contains(wgpu::Features::SUBGROUP) && fixed;
        Self {
            subgroup: if subgroups { info.subgroup_min_size } else { 0 },
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            int64: features.contains(wgpu::Features::SHADER_INT64),
            // llvmpipe converts with the CPU's own instruction or with integer arithmetic.
            exact_f16_unpack: info.driver == "llvmpipe",
            packed_dot: matches!(
                info.backend,
                wgpu::Backend::Vulkan | wgpu::Backend::Dx12 | wgpu::Backend::BrowserWebGpu
            ),
            // lavapipe gathers the texels of all lanes at once, but loads the words of a buffer
            // lane by lane.
            texture_extent: match (info.driver.as_str(), info.backend) {
                ("llvmpipe", wgpu::Backend::Vulkan) => limits.max_texture_dimension_2d,
                _ => 0,
            },
            ..Self::from_limits(class, limits)
        }
    }

    /// Adds cooperative matrices (experimental) to the capabilities of a device that was requested
    /// with [`EXPERIMENTAL_COOPERATIVE_MATRIX`](wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX).
    /// `kinds` is the result of [`wgpu::Adapter::cooperative_matrix_properties`]. 16×16 matrices
    /// also need [`SHADER_F16`](wgpu::Features::SHADER_F16).
    #[must_use]
    pub fn with_matrices(
        mut self,
        kinds: &[wgpu::CooperativeMatrixProperties],
        features: wgpu::Features,
    ) -> Self {
        use wgpu::CooperativeScalarType::{F16, F32};
        let has = |size, ab| {
            kinds.iter().any(|kind| {
                [kind.m_size, kind.n_size, kind.k_size] == [size; 3]
                    && (kind.ab_type, kind.cr_type) == (ab, F32)
            })
        };
        self.matrix = if !features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            0
        } else if has(16, F16) && features.contains(wgpu::Features::SHADER_F16) {
            16
        } else if has(8, F32) {
            8
        } else {
            0
        };
        self
    }

    /// Returns the features that kernels use if the device has them. Request those of them that the
    /// adapter has.
    pub fn useful_features() -> wgpu::Features {
        wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64
    }

    /// Returns the capabilities of a device of this class and limits without optional features.
    pub fn from_limits(class: AdapterClass, limits: &wgpu::Limits) -> Self {
        Self {
            class,
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            storage_align: limits.min_storage_buffer_offset_alignment,
            uniform_align: limits.min_uniform_buffer_offset_alignment,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            max_workgroup_memory: limits.max_compute_workgroup_storage_size,
            max_invocations: limits.max_compute_invocations_per_workgroup,
            max_groups: limits.max_compute_workgroups_per_dimension,
            subgroup: 0,
            subgroups: false,
            matrix: 0,
            int64: false,
            exact_f16_unpack: false,
            packed_dot: false,
            row_order: match class {
                AdapterClass::Gpu => RowOrder::Rows,
                AdapterClass::Cpu => RowOrder::Panels,
            },
            texture_extent: 0,
        }
    }

    /// Returns the number of texels in a row of a texture of codes: a power of two, or 0 if this
    /// device does not use textures.
    pub(crate) fn texture_width(&self) -> u32 {
        match self.texture_extent.min(MAX_TEXTURE_WIDTH).checked_ilog2() {
            // Copies need rows of at least 256 bytes.
            Some(bits) if bits >= 4 => 1 << bits,
            _ => 0,
        }
    }

    /// Lowers these capabilities to the limits and features of a device, which a caller may not
    /// exceed. Alignments become powers of two, and bindings stay below 4 GiB, because kernels
    /// index them with a `u32`.
    pub(crate) fn within(&self, limits: &wgpu::Limits, features: wgpu::Features) -> Self {
        let device = Self::from_limits(self.class, limits);
        // No device needs more than 256; a bound of 4096 leaves room and limits the padding.
        let align = |asked: u32, needed: u32| {
            let needed = needed.max(16);
            asked.clamp(needed, needed.max(4096)).checked_next_power_of_two().unwrap_or(needed)
        };
        Self {
            class: self.class,
            max_binding: self.max_binding.min(device.max_binding).min(u32::MAX.into()),
            max_buffer: self.max_buffer.min(device.max_buffer),
            storage_align: align(self.storage_align, device.storage_align),
            uniform_align: align(self.uniform_align, device.uniform_align),
            max_storage_buffers: self.max_storage_buffers.min(device.max_storage_buffers),
            max_workgroup_memory: self.max_workgroup_memory.min(device.max_workgroup_memory),
            max_invocations: self.max_invocations.min(device.max_invocations),
            max_groups: self.max_groups.min(device.max_groups),
            subgroup: if features.contains(wgpu::Features::SUBGROUP) { self.subgroup } else { 0 },
            subgroups: self.subgroups && features.contains(wgpu::Features::SUBGROUP),
            matrix: if !features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
                || (self.matrix == 16 && !features.contains(wgpu::Features::SHADER_F16))
            {
                0
            } else {
                self.matrix
            },
            int64: self.int64 && features.contains(wgpu::Features::SHADER_INT64),
            exact_f16_unpack: self.exact_f16_unpack,
            packed_dot: self.packed_dot,
            row_order: self.row_order,
            texture_extent: match limits.max_storage_textures_per_shader_stage {
                0 => 0,
                _ => self.texture_extent.min(limits.max_texture_dimension_2d),
            },
        }
    }

    /// Returns the three dimensions of a dispatch of `groups` workgroups. They are folded over
    /// several dimensions if there are too many for one; kernels compute the linear index and
    /// return if it is past the end. Returns `None` if three dimensions or a `u32` cannot hold
    /// `groups`.
    pub fn fold(&self, groups: u64) -> Option<[u32; 3]> {
        let limit = u64::from(self.max_groups.max(1));
        let x = groups.min(limit);
        let y = groups.div_ceil(x.max(1)).min(limit);
        let z = groups.div_ceil((x * y).max(1));
        (z <= limit && x * y * z <= u64::from(u32::MAX)).then_some([x as u32, y as u32, z as u32])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stated_facts_stay_within_the_device() {
        let limits = wgpu::Limits::defaults();
        let device = Caps::from_limits(AdapterClass::Cpu, &limits);
        let high = Caps {
            class: AdapterClass::Cpu,
            max_binding: u64::MAX,
            max_buffer: u64::MAX,
            storage_align: 0,
            uniform_align: 1,
            max_storage_buffers: u32::MAX,
            max_workgroup_memory: u32::MAX,
            max_invocations: u32::MAX,
            max_groups: u32::MAX,
            subgroup: 8,
            subgroups: true,
            matrix: 16,
            int64: true,
            exact_f16_unpack: false,
            packed_dot: false,
            row_order: RowOrder::Panels,
            texture_extent: u32::MAX,
        };
        let device = Caps { texture_extent: limits.max_texture_dimension_2d, ..device };
        assert_eq!(high.within(&limits, wgpu::Features::empty()), device);
        let mut low = device.clone();
        (low.max_binding, low.max_groups, low.uniform_align) = (4096, 3, 512);
        assert_eq!(low.within(&limits, wgpu::Features::empty()), low);
        low.storage_align = 700;
        assert_eq!(low.within(&limits, wgpu::Features::empty()).storage_align, 1024);
        low.storage_align = u32::MAX;
        assert_eq!(low.within(&limits, wgpu::Features::empty()).storage_align, 4096);
    }

    #[test]
    fn folds_cover_and_fit() {
        let mut caps = Caps::from_limits(AdapterClass::Gpu, &wgpu::Limits::defaults());
        for max in [1, 2, 3, 7, 65_535] {
            caps.max_groups = max;
            for groups in [0, 1, 2, 6, 7, 8, 26, 27, 65_535, 65_536, 1_000_000] {
                let Some([x, y, z]) = caps.fold(groups) else {
                    assert!(groups > u64::from(max).pow(3));
                    continue;
                };
                assert!(x <= max && y <= max && z <= max);
                assert!(u64::from(x) * u64::from(y) * u64::from(z) >= groups);
                assert_eq!(x == 0, groups == 0);
            }
        }
        caps.max_groups = 65_535;
        assert_eq!(caps.fold(1 << 33), None);
    }
}
