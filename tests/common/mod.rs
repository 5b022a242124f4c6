//! What several tests need: every choice there is, naga, adapters.
#![allow(dead_code)]

use lowbit::format::{Element, Granularity, ScaleType, WeightFormat};
use lowbit::gpu::Shader;
use lowbit::ops::make::MakeKernel;
use lowbit::ops::matmul::{KernelChoice, MatmulSpec, Schedule};
use lowbit::ops::{DequantizeSpec, FloatType};

/// Every format that exists, with groups that scales align with and groups that they do not.
pub fn all_formats() -> Vec<WeightFormat> {
    let group = |g| Granularity::group(g).unwrap();
    let mut formats = Vec::new();
    for sparse in [false, true] {
        let mut push = |format: WeightFormat| {
            let format = if sparse { format.two_four() } else { format };
            if format.check().is_ok() {
                formats.push(format);
            }
        };
        push(WeightFormat::f32());
        push(WeightFormat::f16());
        for granularity in [Granularity::Tensor, Granularity::Channel, group(32), group(6)] {
            for scale in [ScaleType::F32, ScaleType::F16] {
                push(WeightFormat::int16(granularity).with_scales(scale));
                for format in [WeightFormat::int8(granularity), WeightFormat::int4(granularity)] {
                    push(format.with_scales(scale));
                    push(format.with_scales(scale).asymmetric());
                }
            }
        }
    }
    assert!(formats.iter().any(|f| f.element() == Element::Int16));
    formats
}

/// Every matmul kernel, over K that give each number of lanes.
pub fn all_choices() -> impl Iterator<Item = KernelChoice> {
    all_formats().into_iter().flat_map(|format| {
        let mut choices = Vec::new();
        for k in [7, 8, 64, 4096] {
            for activations in [FloatType::F32, FloatType::F16] {
                for output in [FloatType::F32, FloatType::F16] {
                    for bias in [false, true] {
                        let mut spec = MatmulSpec::new(8, 8, k, format)
                            .with_activations(activations)
                            .with_output(output);
                        spec.bias = bias;
                        choices.extend(
                            Schedule::all(k).into_iter().map(|s| KernelChoice::new(&spec, s)),
                        );
                    }
                }
            }
        }
        choices
    })
}

/// Every shader of the crate.
pub fn all_shaders() -> Vec<Shader> {
    let mut shaders: Vec<_> = all_choices().map(|choice| choice.shader()).collect();
    #[cfg(feature = "conformance")]
    shaders.extend(lowbit::conformance::limit_shaders());
    for format in all_formats() {
        shaders.extend(MakeKernel::ALL.map(|kernel| kernel.shader(&format)));
        for spec in [DequantizeSpec::new(2, 2, format), DequantizeSpec::gather(2, 2, 2, format)] {
            shaders.push(spec.shader());
            shaders.push(spec.with_output(FloatType::F16).shader());
        }
    }
    shaders
}

/// Parses and validates with no extension enabled.
pub fn validate(shader: &Shader) -> naga::Module {
    let wgsl = shader.compose();
    let module = naga::front::wgsl::parse_str(&wgsl.source).unwrap_or_else(|error| {
        panic!("{}: {}", shader.name, wgsl.explain(&error.emit_to_string(&wgsl.source)))
    });
    naga::valid::Validator::new(
        naga::valid::ValidationFlags::all(),
        naga::valid::Capabilities::empty(),
    )
    .validate(&module)
    .unwrap_or_else(|error| panic!("{}: {}", shader.name, error.emit_to_string(&wgsl.source)));
    module
}

/// Compares a WGSL struct with its Rust mirror, name by name and offset by offset.
pub fn assert_mirrors(
    module: &naga::Module,
    name: &str,
    mirror: &(usize, Vec<(&'static str, usize)>),
) {
    let (_, ty) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name)).unwrap();
    let naga::TypeInner::Struct { members, span } = &ty.inner else {
        panic!("{name} is no struct")
    };
    let fields: Vec<_> =
        members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset as usize)).collect();
    assert_eq!(fields, mirror.1);
    assert_eq!(*span as usize, mirror.0);
}

/// A device of the best adapter. Where there is none: a skip that says so, or a failure
/// where the environment demands a GPU.
pub fn host() -> Option<lowbit::host::Host> {
    match lowbit::host::Host::new() {
        Ok(host) => {
            let info = host.adapter_info();
            eprintln!("on {} ({} {})", info.name, info.driver, info.driver_info);
            Some(host)
        }
        Err(error) if std::env::var_os("LOWBIT_REQUIRE_GPU").is_none() => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("LOWBIT_REQUIRE_GPU is set, and {error}"),
    }
}
