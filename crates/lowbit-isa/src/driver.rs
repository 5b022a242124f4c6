use crate::IsaError;
use ash::vk;
use lowbit::gpu::{Access, KernelDesc};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::{back::spv, front::wgsl, valid};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};

/// A driver on its null hardware. Which one, the loader's environment says: `VK_DRIVER_FILES`
/// names the manifest and `RADV_FORCE_FAMILY` the family, both from before the process started.
/// RADV aborts the process on names that it does not know.
pub struct Driver {
    instance: ash::Instance,
    device: ash::Device,
    executables: ash::khr::pipeline_executable_properties::Device,
    // Keeps the loader's library; dropped after everything that calls into it.
    _entry: ash::Entry,
}

/// What the driver made of a shader.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The driver's statistics by their names.
    pub statistics: BTreeMap<String, u64>,
    /// The disassembly.
    pub listing: String,
    /// Lanes in a wave.
    pub wave: u32,
    /// Invocations in a workgroup.
    pub workgroup: u32,
}

/// A handle that is destroyed with its scope.
struct Owned<'a, T: Copy> {
    device: &'a ash::Device,
    handle: T,
    destroy: Destroy<T>,
}

// SAFETY: a type only; the one call is in `drop` of `Owned`, and argued there.
type Destroy<T> = unsafe fn(&ash::Device, T, Option<&vk::AllocationCallbacks<'_>>);

impl<T: Copy> Drop for Owned<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the handle was made by this device with no allocator, nothing uses it any
        // more, and only this destroys it.
        unsafe { (self.destroy)(self.device, self.handle, None) }
    }
}

fn failed(call: &'static str) -> impl FnOnce(vk::Result) -> IsaError {
    move |result| IsaError::Vulkan { call, result }
}

/// A string of fixed length that Vulkan filled in.
fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Driver {
    /// Returns the first device that the loader offers.
    ///
    /// # Errors
    /// Returns [`IsaError::NoDevice`] without a loader or a device, [`IsaError::Vulkan`] else.
    pub fn new() -> Result<Self, IsaError> {
        let none = |why: &dyn std::fmt::Display| IsaError::NoDevice(why.to_string());
        // SAFETY: the loader's initializers are sound, and the entry outlives what it makes:
        // it is a field that is dropped last.
        let entry = unsafe { ash::Entry::load() }.map_err(|e| none(&e))?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: the info and what it points to live through the call.
        let instance = unsafe { entry.create_instance(&info, None) }.map_err(|e| none(&e))?;
        match open(&instance) {
            Ok(device) => {
                let executables =
                    ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
                Ok(Self { instance, device, executables, _entry: entry })
            }
            Err(error) => {
                // SAFETY: nothing else was made from the instance, or `open` would be fine.
                unsafe { instance.destroy_instance(None) };
                Err(error)
            }
        }
    }

    /// Compiles a shader with waves of the driver's choice, or of `wave` lanes.
    ///
    /// # Errors
    /// Returns [`IsaError::Shader`] where naga refuses it, [`IsaError::Vulkan`] where the driver
    /// does. RADV aborts on some shaders that it cannot compile.
    pub fn compile(&self, shader: &KernelDesc, wave: Option<u32>) -> Result<Compiled, IsaError> {
        let (spirv, workgroup) = spirv(shader)?;
        let module = {
            let info = vk::ShaderModuleCreateInfo::default().code(&spirv);
            // SAFETY: naga wrote the module, and the info lives through the call.
            let made = unsafe { self.device.create_shader_module(&info, None) };
            self.own(
                made.map_err(failed("vkCreateShaderModule"))?,
                ash::Device::destroy_shader_module,
            )
        };
        let sets = {
            let bindings = bindings(shader);
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            // SAFETY: the info and what it points to live through the call.
            let made = unsafe { self.device.create_descriptor_set_layout(&info, None) };
            let made = made.map_err(failed("vkCreateDescriptorSetLayout"))?;
            self.own(made, ash::Device::destroy_descriptor_set_layout)
        };
        let layout = {
            let sets = [sets.handle];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            // SAFETY: the set layout is alive, and the info lives through the call.
            let made = unsafe { self.device.create_pipeline_layout(&info, None) };
            let made = made.map_err(failed("vkCreatePipelineLayout"))?;
            self.own(made, ash::Device::destroy_pipeline_layout)
        };
        let mut size = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default()
            .required_subgroup_size(wave.unwrap_or_default());
        let mut stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module.handle)
            .name(c"main");
        if wave.is_some() {
            stage = stage.push_next(&mut size);
        }
        let info = vk::ComputePipelineCreateInfo::default()
            .flags(
                vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                    | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
            )
            .stage(stage)
            .layout(layout.handle);
        let cache = vk::PipelineCache::null();
        // SAFETY: module and layout are alive, the info lives through the call, and the
        // bindings that the shader uses are all in the layout.
        let made = unsafe { self.device.create_compute_pipelines(cache, &[info], None) };
        // One pipeline was asked for; a failure holds a null handle, which needs no destroying.
        let made = made.map_err(|(_, result)| failed("vkCreateComputePipelines")(result))?;
        let pipeline = made.into_iter().next().unwrap_or_default();
        let pipeline = self.own(pipeline, ash::Device::destroy_pipeline);
        self.read(pipeline.handle, workgroup)
    }

    fn own<T: Copy>(&self, handle: T, destroy: Destroy<T>) -> Owned<'_, T> {
        Owned { device: &self.device, handle, destroy }
    }

    /// Statistics and listing of the pipeline's only executable.
    fn read(&self, pipeline: vk::Pipeline, workgroup: u32) -> Result<Compiled, IsaError> {
        use vk::PipelineExecutableStatisticFormatKHR as Format;
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline is alive, the extension and its feature are on.
        let properties = unsafe { self.executables.get_pipeline_executable_properties(&info) };
        let properties = properties.map_err(failed("vkGetPipelineExecutablePropertiesKHR"))?;
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: as above; it was made with statistics captured, and a compute pipeline has
        // an executable 0.
        let statistics = unsafe { self.executables.get_pipeline_executable_statistics(&info) };
        let statistics = statistics.map_err(failed("vkGetPipelineExecutableStatisticsKHR"))?;
        let value = |s: &vk::PipelineExecutableStatisticKHR<'_>| match s.format {
            // SAFETY: the format says which member of the union was written.
            Format::UINT64 => Some(unsafe { s.value.u64 }),
            // SAFETY: as above.
            Format::INT64 => u64::try_from(unsafe { s.value.i64 }).ok(),
            _ => None,
        };
        Ok(Compiled {
            statistics: statistics
                .iter()
                .filter_map(|s| value(s).map(|v| (text(&s.name), v)))
                .collect(),
            listing: self.listing(&info)?,
            wave: properties.first().map_or(0, |p| p.subgroup_size),
            workgroup,
        })
    }

    fn listing(&self, info: &vk::PipelineExecutableInfoKHR<'_>) -> Result<String, IsaError> {
        let call = "vkGetPipelineExecutableInternalRepresentationsKHR";
        let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        let mut count = 0;
        let device = self.device.handle();
        // SAFETY: the pipeline is alive and was made with representations captured; with no
        // array only their number is written.
        let result = unsafe { get(device, info, &mut count, std::ptr::null_mut()) };
        result.result().map_err(failed(call))?;
        let mut found =
            vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
        // SAFETY: as above, with room for `count` of them; without room for their data, their
        // sizes are written.
        let result = unsafe { get(device, info, &mut count, found.as_mut_ptr()) };
        result.result().map_err(failed(call))?;
        let mut data: Vec<Vec<u8>> = found.iter().map(|r| vec![0; r.data_size]).collect();
        for (representation, data) in found.iter_mut().zip(&mut data) {
            representation.p_data = data.as_mut_ptr().cast();
        }
        // SAFETY: as above; each points to as many bytes as it asked for, which outlive it.
        let result = unsafe { get(device, info, &mut count, found.as_mut_ptr()) };
        result.result().map_err(failed(call))?;
        let assembly = found.iter().zip(&data).find(|(r, _)| text(&r.name) == "Assembly");
        let bytes = assembly.map_or(&[] as &[u8], |(_, data)| data);
        Ok(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_string())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: what was made from the device was destroyed where it was made; nothing runs
        // on it, and both are destroyed once, the device first.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

/// A device with every feature that RADV has and wgpu may ask for.
fn open(instance: &ash::Instance) -> Result<ash::Device, IsaError> {
    // SAFETY: the instance is alive.
    let devices = unsafe { instance.enumerate_physical_devices() };
    let devices = devices.map_err(failed("vkEnumeratePhysicalDevices"))?;
    let Some(&physical) = devices.first() else {
        return Err(IsaError::NoDevice("the loader found none".into()));
    };
    // SAFETY: the physical device is the instance's.
    let extensions = unsafe { instance.enumerate_device_extension_properties(physical) };
    let extensions = extensions.map_err(failed("vkEnumerateDeviceExtensionProperties"))?;
    let has = |name: &CStr| extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
    let statistics = ash::khr::pipeline_executable_properties::NAME;
    if !has(statistics) {
        return Err(IsaError::NoDevice("the driver tells nothing of its code".into()));
    }
    let mut enabled = vec![statistics.as_ptr()];
    let mut v11 = vk::PhysicalDeviceVulkan11Features::default();
    let mut v12 = vk::PhysicalDeviceVulkan12Features::default();
    let mut v13 = vk::PhysicalDeviceVulkan13Features::default();
    let mut info = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
    let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
    let mut matrix = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
    let mut features = vk::PhysicalDeviceFeatures2::default()
        .push_next(&mut v11)
        .push_next(&mut v12)
        .push_next(&mut v13)
        .push_next(&mut info);
    if has(ash::ext::robustness2::NAME) {
        enabled.push(ash::ext::robustness2::NAME.as_ptr());
        features = features.push_next(&mut robust);
    }
    if has(ash::khr::cooperative_matrix::NAME) {
        enabled.push(ash::khr::cooperative_matrix::NAME.as_ptr());
        features = features.push_next(&mut matrix);
    }
    // SAFETY: the chain holds structures of this version and of extensions that are there.
    unsafe { instance.get_physical_device_features2(physical, &mut features) };
    let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
    // The chain that was filled in is passed on, so that every supported feature is enabled.
    let device = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&enabled)
        .push_next(&mut features);
    // SAFETY: features and extensions are supported, and all that is pointed to lives through
    // the call.
    unsafe { instance.create_device(physical, &device, None) }.map_err(failed("vkCreateDevice"))
}

/// A descriptor for each binding number, even where the shader has none: so that number n lies
/// at 16 · n bytes in RADV's set. Dynamic uniforms count as plain ones for the same reason.
fn bindings(shader: &KernelDesc) -> Vec<vk::DescriptorSetLayoutBinding<'static>> {
    let kind = |number| match shader.bindings.iter().find(|b| b.number == number).map(|b| b.access)
    {
        Some(Access::Texture) => vk::DescriptorType::STORAGE_IMAGE,
        Some(Access::Uniform | Access::DynamicUniform) => vk::DescriptorType::UNIFORM_BUFFER,
        Some(Access::Read | Access::Write) | None => vk::DescriptorType::STORAGE_BUFFER,
    };
    let count = shader.bindings.iter().map(|binding| binding.number + 1).max();
    (0..count.unwrap_or(0))
        .map(|number| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(number)
                .descriptor_type(kind(number))
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        })
        .collect()
}

/// SPIR-V as wgpu's Vulkan backend writes it for [`Kernels`](lowbit::gpu::Kernels): indices
/// clamped, buffers left to the driver's robustness, loops not bounded, workgroup memory not
/// cleared. Also the invocations in a workgroup.
fn spirv(shader: &KernelDesc) -> Result<(Vec<u32>, u32), IsaError> {
    let composed = shader.compose();
    let source = composed.map_err(|error| IsaError::Shader {
        kernel: shader.id.clone(),
        message: error.to_string(),
    })?;
    let refused = |message: String| IsaError::Shader {
        kernel: shader.id.clone(),
        message: source.explain(&message),
    };
    let all = valid::Capabilities::all();
    let options = wgsl::Options { parse_doc_comments: false, capabilities: all };
    let module = wgsl::Frontend::new_with_options(options)
        .parse(&source.source)
        .map_err(|e| refused(e.emit_to_string(&source.source)))?;
    let info = valid::Validator::new(valid::ValidationFlags::all(), all)
        .subgroup_stages(valid::ShaderStages::all())
        .subgroup_operations(valid::SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|e| refused(e.emit_to_string(&source.source)))?;
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies {
            index: BoundsCheckPolicy::Restrict,
            buffer: BoundsCheckPolicy::Unchecked,
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ..Default::default()
    };
    let entry = spv::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: "main".into(),
    };
    let spirv = spv::write_vec(&module, &info, &options, Some(&entry))
        .map_err(|e| refused(e.to_string()))?;
    let workgroup = module.entry_points.iter().find(|e| e.name == "main");
    Ok((spirv, workgroup.map_or(0, |e| e.workgroup_size.iter().product())))
}
