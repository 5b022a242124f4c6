//! Finds adapters and chooses one by name.

use crate::error::CliError;
use clap::ValueEnum;
use lowbit::host::{Host, HostError};
use wgpu::{Backend, DeviceType};

/// The `--adapter` option of commands that run on one adapter.
#[derive(Clone, clap::Args)]
pub struct AdapterArg {
    /// The adapter to use: part of its name, driver or backend, or its number in `lowbit adapters`.
    /// The default is the fastest kind of adapter
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
}

impl AdapterArg {
    /// Returns the requested adapter, or the best one.
    pub fn choose(&self) -> Result<wgpu::Adapter, CliError> {
        let all = enumerate()?;
        let chosen = matching(&all, self.adapter.as_deref())?;
        chosen.first().map(|&adapter| adapter.clone()).ok_or_else(none_found)
    }
}

/// Options of all commands that run kernels: what the device must do without.
#[derive(Clone, clap::Args)]
pub struct DeviceArg {
    /// Do not use features that the adapter has, separated by commas
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    without: Vec<Feature>,
    /// Request at most these limits
    #[arg(long, value_name = "LIMITS")]
    limits: Option<LimitsArg>,
    /// The largest storage binding in bytes; larger buffers are split
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(4096..))]
    binding_limit: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Feature {
    /// Subgroups.
    Subgroups,
    /// 64-bit integers.
    Int64,
    /// Conversion of f16 values by the device's own operation.
    #[value(alias = "halves")]
    F16,
    /// Reading codes from textures.
    Textures,
    /// Dot products of four bytes by the device's own operation.
    Dot,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LimitsArg {
    /// The limits that every WebGPU device has.
    Webgpu,
    /// The limits that wgpu requires of OpenGL ES 3.1.
    Downlevel,
}

/// Returns the name of a value on the command line.
fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
}

impl std::fmt::Display for DeviceArg {
    /// Writes the options as they are typed, each after a space, and nothing if none was given.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, feature) in self.without.iter().enumerate() {
            f.write_str(if i == 0 { " --without " } else { "," })?;
            f.write_str(&name_of(feature))?;
        }
        if let Some(limits) = &self.limits {
            write!(f, " --limits {}", name_of(limits))?;
        }
        match self.binding_limit {
            Some(limit) => write!(f, " --binding-limit {limit}"),
            None => Ok(()),
        }
    }
}

impl DeviceArg {
    /// Returns whether no option is given.
    pub fn is_empty(&self) -> bool {
        self.without.is_empty() && self.limits.is_none() && self.binding_limit.is_none()
    }

    /// Opens a device of the adapter with the requested features and limits.
    pub fn host(&self, adapter: &wgpu::Adapter) -> Result<Host, HostError> {
        if self.is_empty() {
            return Host::with_adapter(adapter);
        }
        let mut features = wgpu::Features::all();
        for feature in &self.without {
            features.remove(match feature {
                Feature::Subgroups => wgpu::Features::SUBGROUP | wgpu::Features::SUBGROUP_BARRIER,
                Feature::Int64 => wgpu::Features::SHADER_INT64,
                Feature::F16 => wgpu::Features::SHADER_F16,
                Feature::Textures | Feature::Dot => wgpu::Features::empty(),
            });
        }
        let mut limits = adapter.limits();
        if let Some(asked) = self.limits {
            let low = match asked {
                LimitsArg::Webgpu => wgpu::Limits::defaults(),
                LimitsArg::Downlevel => wgpu::Limits::downlevel_defaults(),
            };
            // If the adapter's own limit is lower, it applies.
            limits = low.or_worse_values_from(&limits);
        }
        if let Some(bytes) = self.binding_limit {
            limits.max_storage_buffer_binding_size =
                limits.max_storage_buffer_binding_size.min(bytes);
        }
        let host = Host::with_features(adapter, features, limits)?;
        let mut caps = host.kernels().caps().clone();
        for feature in &self.without {
            match feature {
                Feature::Subgroups => (caps.subgroup, caps.subgroups) = (0, false),
                Feature::Int64 => caps.int64 = false,
                Feature::F16 => caps.exact_f16_unpack = false,
                Feature::Textures => caps.texture_extent = 0,
                Feature::Dot => caps.packed_dot = false,
            }
        }
        let (device, queue) = (host.device().clone(), host.queue().clone());
        Host::with_caps(adapter.get_info(), device, queue, &caps)
    }
}

/// Returns every adapter of every backend that supports compute shaders, the best first; at least one.
///
/// Software adapters (llvmpipe, WARP, SwiftShader) are included.
pub fn enumerate() -> Result<Vec<wgpu::Adapter>, CliError> {
    if wgpu::Instance::enabled_backend_features().is_empty() {
        return Err(CliError::new("this build has no wgpu backend for this platform"));
    }
    // The options come from the environment, so that wgpu's WGPU_BACKEND applies.
    let options = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let instance = wgpu::Instance::new(options);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.retain(|adapter| {
        let flags = adapter.get_downlevel_capabilities().flags;
        flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
    });
    // The sort is stable, so that equal adapters keep the order of the drivers.
    adapters.sort_by_key(|adapter| rank(&adapter.get_info()));
    if adapters.is_empty() { Err(none_found()) } else { Ok(adapters) }
}

/// Ranks an adapter; lower is better. The kind of device comes first, then how direct the backend is.
fn rank(info: &wgpu::AdapterInfo) -> (u8, u8) {
    let device = match info.device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    };
    let backend = match info.backend {
        Backend::Vulkan | Backend::Metal => 0,
        Backend::Dx12 => 1,
        _ => 2,
    };
    (device, backend)
}

fn none_found() -> CliError {
    CliError::new("no adapter with compute shaders was found").hint(
        "install a driver; on Debian and Ubuntu, for any CPU: \
         apt-get install mesa-vulkan-drivers libvulkan1",
    )
}

/// Returns the adapters that `--adapter` selects: all for nothing or `all`, one for its number, and
/// otherwise those whose name, driver or backend contains the text.
pub fn matching<'a>(
    adapters: &'a [wgpu::Adapter],
    wanted: Option<&str>,
) -> Result<Vec<&'a wgpu::Adapter>, CliError> {
    let infos: Vec<_> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    Ok(indices(&infos, wanted)?.into_iter().map(|index| &adapters[index]).collect())
}

fn indices(infos: &[wgpu::AdapterInfo], wanted: Option<&str>) -> Result<Vec<usize>, CliError> {
    let Some(wanted) = wanted.filter(|wanted| *wanted != "all") else {
        return Ok((0..infos.len()).collect());
    };
    // A number is only an index in the list, because "2" is also part of "256 bits".
    let number: Option<usize> = wanted.parse().ok();
    let low = wanted.to_lowercase();
    // The name that reports use is unique.
    let full = |info: &wgpu::AdapterInfo| {
        let driver = format!("{} {}", info.driver, info.driver_info);
        format!("{} ({}, {})", info.name, driver.trim(), info.backend).to_lowercase()
    };
    if let Some(index) = infos.iter().position(|info| full(info) == low) {
        return Ok(vec![index]);
    }
    let holds = |text: &str| !low.is_empty() && text.to_lowercase().contains(&low);
    let found: Vec<usize> = (0..infos.len())
        .filter(|&index| {
            let info = &infos[index];
            if let Some(number) = number {
                return index == number;
            }
            holds(&info.name) || holds(&info.driver) || holds(&info.backend.to_string())
        })
        .collect();
    if found.is_empty() {
        let there: Vec<String> = infos.iter().enumerate().map(describe).collect();
        let message = format!("no adapter matches `{wanted}`");
        return Err(CliError::new(message).hint(format!("there is {}", there.join("; "))));
    }
    Ok(found)
}

fn describe((index, info): (usize, &wgpu::AdapterInfo)) -> String {
    format!("{index}: {} ({}, {})", info.name, info.driver, info.backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn infos() -> Vec<wgpu::AdapterInfo> {
        [
            ("NVIDIA H100", "NVIDIA", DeviceType::DiscreteGpu, Backend::Vulkan),
            ("llvmpipe (LLVM 15)", "llvmpipe", DeviceType::Cpu, Backend::Vulkan),
            ("llvmpipe (LLVM 15)", "", DeviceType::Cpu, Backend::Gl),
        ]
        .into_iter()
        .map(|(name, driver, device_type, backend)| wgpu::AdapterInfo {
            name: name.to_owned(),
            driver: driver.to_owned(),
            ..wgpu::AdapterInfo::new(device_type, backend)
        })
        .collect()
    }

    #[test]
    fn names_numbers_and_all() {
        let infos = infos();
        let got = |wanted| indices(&infos, wanted).map_err(|error| format!("{error:?}"));
        assert_eq!(got(None).unwrap(), [0, 1, 2]);
        assert_eq!(got(Some("all")).unwrap(), [0, 1, 2]);
        assert_eq!(got(Some("1")).unwrap(), [1]);
        assert_eq!(got(Some("h100")).unwrap(), [0]);
        assert_eq!(got(Some("LLVMPipe")).unwrap(), [1, 2]);
        assert_eq!(got(Some("vulkan")).unwrap(), [0, 1]);
        assert_eq!(got(Some("llvmpipe (LLVM 15) (llvmpipe, vulkan)")).unwrap(), [1]);
        // 15 is part of a name, but not the number of an adapter.
        for none in ["", "radeon", "7", "15"] {
            let error = got(Some(none)).unwrap_err();
            assert!(error.contains("NVIDIA H100") && error.contains("llvmpipe"), "{error}");
        }
    }

    #[test]
    fn the_best_comes_first() {
        let mut infos = infos();
        infos.reverse();
        infos.sort_by_key(rank);
        let order: Vec<_> = infos.iter().map(|info| (info.device_type, info.backend)).collect();
        assert_eq!(order[0], (DeviceType::DiscreteGpu, Backend::Vulkan));
        assert_eq!(order[2], (DeviceType::Cpu, Backend::Gl));
    }
}
