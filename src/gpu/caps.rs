use crate::format::RowOrder;

/// The kind of machine that executes the kernels. Different kernels are fast on each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdapterClass {
    /// A graphics processor: coalesced loads and workgroup memory make kernels faster.
    Gpu,
    /// Software on a CPU: a lane should read contiguous runs of its own, and barriers are expensive.
    Cpu,
}

/// Facts about a device that the choice of kernels depends on. They are plain data, so that choices
/// can be tested without hardware and limits can be lowered on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// GPU or CPU.
    pub class: AdapterClass,
    /// Largest storage binding, in bytes.
    pub max_binding: u64,
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
    /// Alignment of storage binding offsets, in bytes.
    pub storage_align: u32,
    /// Alignment of uniform binding offsets, in bytes.
    pub uniform_align: u32,
    /// Storage buffers in one stage.
    pub max_storage_buffers: u32,
    /// Workgroup memory, in bytes.
    pub max_workgroup_memory: u32,
    /// Invocations in one workgroup.
    pub max_invocations: u32,
    /// Workgroups along one dimension of a dispatch.
    pub max_groups: u32,
    /// Lanes of every subgroup; 0 if the device has no subgroups or their sizes vary.
    pub subgroup: u32,
    /// Whether shaders may use subgroups, of any size.
    pub subgroups: bool,
    /// Rows and columns of the cooperative matrices that shaders may use: 16 or 8, else 0. See
    /// [`with_matrices`](Self::with_matrices).
    pub matrix: u32,
    /// Whether shaders may use 64-bit integers.
    pub int64: bool,
    /// Whether `unpack2x16float` keeps f16 subnormals, which WGSL lets a device flush. This is known
    /// of Mesa's software drivers; for others
    /// [`Host::exact_f16_unpack`](crate::host::Host::exact_f16_unpack) finds out.
    pub exact_f16_unpack: bool,
    /// Whether the device executes `dot4I8Packed` as one operation, as far as the backend tells. If
    /// not, kernels multiply bytes in f32. Vulkan, Direct3D 12 and browsers are assumed to have the
    /// operation; Metal and OpenGL do not have it.
    pub packed_dot: bool,
    /// The order in which rows of weights are laid out for this device.
    pub row_order: RowOrder,
    /// Width and height of the largest 2D texture if kernels load long codes faster from textures
    /// than from buffers; else 0. See [`DeviceWeights::with_textures`].
    ///
    /// [`DeviceWeights::with_textures`]: crate::ops::DeviceWeights::with_textures
    pub texture_extent: u32,
}

/// The most texels in a row of a texture of codes. The last row then wastes at most 32 KiB, and
/// 256 MiB fit within WebGPU's default limits.
pub(crate) const MAX_TEXTURE_WIDTH: u32 = 2048;

impl Caps {
    /// The facts of a device. `limits` and `features` are those that the device was requested with,
    /// which may be fewer than those of the adapter.
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
            // It converts with an instruction of the CPU or with integer arithmetic.
            exact_f16_unpack: info.driver == "llvmpipe",
            packed_dot: matches!(
                info.backend,
                wgpu::Backend::Vulkan | wgpu::Backend::Dx12 | wgpu::Backend::BrowserWebGpu
            ),
            // It gathers texels of all lanes at once, but words of a buffer lane by lane.
            texture_extent: match (info.driver.as_str(), info.backend) {
                ("llvmpipe", wgpu::Backend::Vulkan) => limits.max_texture_dimension_2d,
                _ => 0,
            },
            ..Self::from_limits(class, limits)
        }
    }

    /// Adds cooperative matrices (experimental), for a device that was requested with
    /// [`EXPERIMENTAL_COOPERATIVE_MATRIX`](wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX):
    /// `kinds` is what [`wgpu::Adapter::cooperative_matrix_properties`] says. Matrices of 16
    /// need [`SHADER_F16`](wgpu::Features::SHADER_F16) too.
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
        self.matrix = match features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            true if has(16, F16) && features.contains(wgpu::Features::SHADER_F16) => 16,
            true if has(8, F32) => 8,
            _ => 0,
        };
        self
    }

    /// Features that kernels use if the device has them. Request those that the adapter supports.
    pub fn useful_features() -> wgpu::Features {
        wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64
    }

    /// The facts of a device of a class with these limits and without optional features.
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

    /// Texels in a row of a texture of codes, a power of two; 0 if codes do not lie in textures.
    pub(crate) fn texture_width(&self) -> u32 {
        match self.texture_extent.min(MAX_TEXTURE_WIDTH).checked_ilog2() {
            // Copies want rows of 256 bytes.
            Some(bits) if bits >= 4 => 1 << bits,
            _ => 0,
        }
    }

    /// Clamps the facts to the limits of a device: a caller may state lower limits, but not higher
    /// ones. Alignments become powers of two, and everything that kernels index with a `u32` stays
    /// below 4 GiB.
    pub(crate) fn within(&self, limits: &wgpu::Limits, features: wgpu::Features) -> Self {
        let device = Self::from_limits(self.class, limits);
        // No device asks for more than 256; 4096 leaves room and bounds what padding costs.
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
            subgroup: match features.contains(wgpu::Features::SUBGROUP) {
                true => self.subgroup,
                false => 0,
            },
            subgroups: self.subgroups && features.contains(wgpu::Features::SUBGROUP),
            matrix: match features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
                true if self.matrix == 16 && !features.contains(wgpu::Features::SHADER_F16) => 0,
                true => self.matrix,
                false => 0,
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

    /// The three dimensions of a dispatch of `groups` workgroups, which is folded if one dimension is
    /// too short. Kernels compute the index from the three and return if it is past the end. `None` if
    /// three dimensions or a `u32` cannot hold that many workgroups.
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
