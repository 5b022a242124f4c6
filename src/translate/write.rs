//! The back ends of naga, with the options of each.

use super::{
    BindingKind, BoundResource, Extra, MslVersion, ShaderModel, SpirvVersion, TranslatedCode,
};
use naga::back::{glsl, hlsl, msl, spv, wgsl};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::ModuleInfo;
use naga::{Module, ResourceBinding, ShaderStage};

/// The output of a back end.
pub(super) struct Written {
    pub output: TranslatedCode,
    pub entry_point: String,
    pub extra: Option<Extra>,
}

pub(super) type WriteResult = Result<Written, String>;

const ENTRY: &str = "main";

/// Indices are clamped everywhere, even in buffers. wgpu does the same if a driver promises nothing by
/// itself.
const CHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Restrict,
    buffer: BoundsCheckPolicy::Restrict,
    image_load: BoundsCheckPolicy::Restrict,
    // This crate has no binding arrays.
    binding_array: BoundsCheckPolicy::Unchecked,
};

fn resource(bound: &BoundResource) -> ResourceBinding {
    ResourceBinding { group: bound.group, binding: bound.binding }
}

fn text(output: String, extra: Option<Extra>) -> Written {
    Written { output: TranslatedCode::Text(output), entry_point: ENTRY.into(), extra }
}

pub(super) fn naga_wgsl(module: &Module, info: &ModuleInfo) -> WriteResult {
    let text_of = wgsl::write_string(module, info, wgsl::WriterFlags::empty());
    Ok(text(text_of.map_err(|error| error.to_string())?, None))
}

pub(super) fn spirv(
    module: &Module,
    info: &ModuleInfo,
    version: SpirvVersion,
    bindings: &mut [BoundResource],
) -> WriteResult {
    for bound in bindings {
        bound.slot = format!("DescriptorSet {}, Binding {}", bound.group, bound.binding);
    }
    let options = spv::Options {
        lang_version: match version {
            SpirvVersion::V1_0 => (1, 0),
            SpirvVersion::V1_3 => (1, 3),
            SpirvVersion::V1_5 => (1, 5),
            SpirvVersion::V1_6 => (1, 6),
        },
        // Keep names for readers and for further translation.
        flags: spv::WriterFlags::DEBUG,
        bounds_check_policies: CHECKED,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ..Default::default()
    };
    let entry =
        spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: ENTRY.into() };
    let words = spv::write_vec(module, info, &options, Some(&entry));
    let words = words.map_err(|error| error.to_string())?;
    Ok(Written { output: TranslatedCode::Words(words), entry_point: ENTRY.into(), extra: None })
}

pub(super) fn msl(
    module: &Module,
    info: &ModuleInfo,
    version: MslVersion,
    bindings: &mut [BoundResource],
) -> WriteResult {
    let mut resources = msl::EntryPointResources::default();
    let mut slots = 0u8;
    for bound in bindings.iter_mut() {
        let slot = u8::try_from(bound.binding).map_err(|error| error.to_string())?;
        slots = slots.max(slot.saturating_add(1));
        let mut target =
            msl::BindTarget { mutable: bound.kind == BindingKind::Storage, ..Default::default() };
        bound.slot = match bound.kind {
            BindingKind::ReadTexture => {
                target.texture = Some(slot);
                format!("[[texture({slot})]]")
            }
            _ => {
                target.buffer = Some(slot);
                format!("[[buffer({slot})]]")
            }
        };
        resources.resources.insert(resource(bound), target);
    }
    resources.sizes_buffer = Some(slots);
    let options = msl::Options {
        lang_version: match version {
            MslVersion::V2_1 => (2, 1),
            MslVersion::V2_3 => (2, 3),
            MslVersion::V3_0 => (3, 0),
        },
        per_entry_point_map: [(ENTRY.to_string(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: CHECKED,
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, ENTRY.into())),
        ..Default::default()
    };
    let (output, reflection) =
        msl::write_string(module, info, &options, &pipeline).map_err(|error| error.to_string())?;
    let entry = reflection.entry_point_names.into_iter().next();
    let entry = entry.ok_or("no entry point was written")?.map_err(|error| error.to_string())?;
    // The buffers that end in an array of any length, in naga's order.
    let mut sizes = Vec::new();
    for (_, global) in module.global_variables.iter() {
        if module.types[global.ty].inner.is_dynamically_sized(&module.types) {
            sizes.extend(global.binding.map(|b| b.binding));
        }
    }
    let extra = (!sizes.is_empty()).then(|| Extra {
        slot: format!("[[buffer({slots})]]"),
        holds: "sizes, a u32 each: the bytes of each of these buffers as bound, in this order, by \
                which indices are clamped",
        bindings: sizes,
    });
    Ok(Written { entry_point: entry, ..text(output, extra) })
}

pub(super) fn hlsl(
    module: &Module,
    info: &ModuleInfo,
    version: ShaderModel,
    bindings: &mut [BoundResource],
) -> WriteResult {
    let mut options = hlsl::Options {
        shader_model: match version {
            ShaderModel::V5_1 => hlsl::ShaderModel::V5_1,
            ShaderModel::V6_0 => hlsl::ShaderModel::V6_0,
            ShaderModel::V6_2 => hlsl::ShaderModel::V6_2,
            ShaderModel::V6_4 => hlsl::ShaderModel::V6_4,
        },
        fake_missing_bindings: false,
        restrict_indexing: true,
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let target = |register: u32| hlsl::BindTarget {
        space: 0,
        register,
        restrict_indexing: true,
        ..Default::default()
    };
    let mut registers = 0;
    for bound in bindings {
        let class = match bound.kind {
            BindingKind::Uniform => "b",
            BindingKind::ReadStorage => "t",
            // naga declares textures that are read without a sampler as `RWTexture2D`.
            BindingKind::Storage | BindingKind::ReadTexture => "u",
        };
        bound.slot = format!("register({class}{})", bound.binding);
        registers = registers.max(bound.binding + 1);
        options.binding_map.insert(resource(bound), target(bound.binding));
    }
    let counts = |e: &naga::EntryPoint| {
        let builtin = naga::Binding::BuiltIn(naga::BuiltIn::NumWorkGroups);
        e.function.arguments.iter().any(|argument| argument.binding.as_ref() == Some(&builtin))
    };
    let extra = module.entry_points.iter().any(counts).then(|| Extra {
        slot: format!("register(b{registers})"),
        holds: "the grid, three u32: workgroups in x, y and z, which HLSL has no built-in for",
        bindings: Vec::new(),
    });
    options.special_constants_binding = extra.as_ref().map(|_| target(registers));
    let pipeline =
        hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, ENTRY.into())) };
    let mut output = String::new();
    let reflection = hlsl::Writer::new(&mut output, &options, &pipeline)
        .write(module, info, None)
        .map_err(|error| error.to_string())?;
    let entry = reflection.entry_point_names.into_iter().next();
    let entry = entry.ok_or("no entry point was written")?.map_err(|error| error.to_string())?;
    Ok(Written { entry_point: entry, ..text(output, extra) })
}

pub(super) fn glsl(
    module: &Module,
    info: &ModuleInfo,
    bindings: &mut [BoundResource],
) -> WriteResult {
    let mut options = glsl::Options {
        version: glsl::Version::Embedded { version: 310, is_webgl: false },
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    // Uniform blocks, storage blocks and images are numbered separately, and devices have few of each.
    let (mut uniforms, mut buffers, mut images) = (0u8, 0u8, 0u8);
    for bound in bindings {
        let (next, what) = match bound.kind {
            BindingKind::Uniform => (&mut uniforms, "uniform"),
            BindingKind::ReadStorage | BindingKind::Storage => (&mut buffers, "buffer"),
            BindingKind::ReadTexture => (&mut images, "image"),
        };
        bound.slot = format!("layout(binding = {next}) {what}");
        options.binding_map.insert(resource(bound), *next);
        *next = next.checked_add(1).ok_or("too many bindings")?;
    }
    // naga has no bounds checks for GLSL ES; a context with robust access clamps.
    let policies = BoundsCheckPolicies {
        index: BoundsCheckPolicy::Unchecked,
        buffer: BoundsCheckPolicy::Unchecked,
        image_load: BoundsCheckPolicy::Unchecked,
        binding_array: BoundsCheckPolicy::Unchecked,
    };
    let pipeline = glsl::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: ENTRY.into(),
        multiview: None,
    };
    let mut output = String::new();
    glsl::Writer::new(&mut output, module, info, &options, &pipeline, policies)
        .and_then(|mut writer| writer.write())
        .map_err(|error| error.to_string())?;
    Ok(text(output, None))
}
