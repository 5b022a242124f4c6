//! `lowbit shader`, run as users run it.

use lowbit::format::{Offset, ScaleType};
use lowbit::gpu::BindingRole;
use lowbit::translate::{Stored, Target, translate};
use lowbit_isa as isa;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::process::{Command, Output};

fn lowbit(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lowbit")).arg("shader").args(args).output().unwrap()
}

fn fine(args: &[&str]) -> Vec<u8> {
    let output = lowbit(args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {message}");
    output.stdout
}

fn refused(args: &[&str]) -> String {
    let output = lowbit(args);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn every_kernel_has_an_id() {
    let listed = String::from_utf8(fine(&["--list"])).unwrap();
    let all: Vec<_> = isa::kernels().into_iter().chain(isa::cpu_kernels()).collect();
    let mut names: Vec<_> = all.iter().map(|kernel| kernel.name()).collect();
    names.sort();
    assert_eq!(listed.lines().collect::<Vec<_>>(), names);
    names.dedup();
    assert_eq!(names.len(), all.len(), "ids are of one kernel each");
    let some = String::from_utf8(fine(&["--list", "observe_*"])).unwrap();
    assert!(!some.is_empty() && some.lines().all(|name| name.starts_with("observe_")));
}

/// Also those that no list combines: what `verify` prints can be had.
#[test]
fn ids_of_reports_are_found() {
    if crate::common::host().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    for without in [&[][..], &["--without", "subgroups,int64,textures"]] {
        let mut verify = Command::new(env!("CARGO_BIN_EXE_lowbit"));
        verify.args(["verify", "--quick", "--every", "7", "--json"]).arg(&file).args(without);
        assert!(verify.output().unwrap().status.success());
        let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let cases = json["adapters"][0]["cases"].as_array().unwrap();
        // One that failed to start, or was skipped, names no kernel.
        let ran: Vec<_> = cases.iter().filter(|case| case["status"] == "pass").collect();
        assert!(ran.len() > 100, "{}", ran.len());
        for case in ran {
            let id = case["kernel"].as_str().unwrap();
            let found = isa::find(id).unwrap_or_else(|| panic!("{id} is not found"));
            assert_eq!(found.name(), id);
        }
    }
}

/// Nobody fills a parameter that is not explained, and the stored form is the choice's.
#[test]
fn every_parameter_is_explained() {
    let mut seen = HashSet::new();
    for kernel in isa::kernels().into_iter().chain(isa::cpu_kernels()) {
        let shader = kernel.desc();
        let stored = shader.weights.clone();
        if let Some(choice) = kernel.choice() {
            let stored = stored.unwrap_or_else(|| panic!("{}", kernel.name()));
            let same = (&stored.element[..], stored.two_four, stored.block_bytes);
            let decoder = choice.decoder;
            let element = [decoder.element.name()];
            assert_eq!(same, (&element[..], decoder.sparse, decoder.block_bytes()));
            assert_eq!(stored.panel, choice.order.panel());
            let zero_bits = match choice.offset {
                Offset::ZeroPoint => 8,
                Offset::ZeroPoint4 => 4,
                _ => 0,
            };
            assert_eq!(stored.zero_bits, zero_bits, "{}", kernel.name());
            assert_eq!(stored.zero_points, zero_bits > 0, "{}", kernel.name());
            let minima = matches!(choice.offset, Offset::Minimum | Offset::FloatZeroPoint);
            assert_eq!(stored.minima, minima, "{}", kernel.name());
            let wanted = decoder.element.has_scales().then_some(match choice.scale_type {
                ScaleType::F32 => "f32",
                ScaleType::F16 => "f16",
                ScaleType::E8m0 => "e8m0",
                ScaleType::Int8Super => "i8·f16",
                ScaleType::E4m3Tensor => "e4m3·f32",
            });
            assert_eq!(stored.scales, wanted, "{}", kernel.name());
        }
        // Kernels of one op share their parameters.
        let params = shader.bindings.iter().find_map(|binding| match binding.role {
            BindingRole::Params(layout) => Some(layout),
            _ => None,
        });
        if !params.is_some_and(|params| seen.insert(params)) {
            continue;
        }
        let made = translate(&shader, Target::Wgsl).unwrap();
        for field in made.bindings.iter().flat_map(|bound| &bound.fields) {
            let obvious = field.name.starts_with("pad") || field.name == "value";
            assert!(obvious || !field.comment.is_empty(), "{}: {}", kernel.name(), field.name);
        }
    }
    assert!(seen.len() >= 7, "{seen:?}");
}

#[test]
fn stored_forms_of_kernels_that_multiply_nothing() {
    let stored = |id: &str| isa::find(id).unwrap_or_else(|| panic!("{id}")).desc().weights;
    let form = |element: &[&'static str], two_four, block_bytes, panel, scales, zero_points| {
        let element = element.to_vec();
        let (zero_bits, minima) = (if zero_points { 8 } else { 0 }, false);
        let stored = Stored {
            element,
            two_four,
            block_bytes,
            panel,
            scales,
            zero_points,
            zero_bits,
            minima,
        };
        Some(stored)
    };
    let (f32s, f16s) = (Some("f32"), Some("f16"));
    assert_eq!(stored("repack.b32"), form(&["f32"], false, 128, 1, None, false));
    assert_eq!(stored("repack.b16.24"), form(&["f16", "int16"], true, 32, 1, f32s, false));
    assert_eq!(stored("block_codes.b8.24.to127"), form(&["int8"], true, 16, 1, f32s, false));
    assert_eq!(stored("codes.b4.asym.f16s.to15.panels"), form(&["int4"], false, 16, 8, f16s, true));
    assert_eq!(stored("dequantize.b16.float.24"), form(&["f16"], true, 32, 1, None, false));
    assert_eq!(stored("observe_reset"), None);
}

/// The parameters are those that the op fills.
#[test]
fn the_json_says_what_a_host_must_know() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kernel.spv");
    let path = file.to_str().unwrap();
    let name = "tiled_64x64.int4.asym.bias";
    assert!(fine(&[name, "--target", "spirv", "--version", "1.3", "-o", path]).is_empty());
    let words = std::fs::read(&file).unwrap();
    assert_eq!(&words[..8], [3, 2, 0x23, 7, 0, 3, 1, 0]);
    let json: Value =
        serde_json::from_slice(&std::fs::read(format!("{path}.json")).unwrap()).unwrap();
    assert_eq!((&json["kernel"], &json["target"]), (&name.into(), &"spirv-1.3".into()));
    assert_eq!(json["workgroup_size"], serde_json::json!([128, 1, 1]));
    assert_eq!(json["grid"]["workgroups"], "⌈m/64⌉ · ⌈rows/64⌉ · batch");
    assert_eq!(json["grid"]["variables"].as_array().unwrap().len(), 3);
    let bindings = json["bindings"].as_array().unwrap();
    let numbers: Vec<_> = bindings.iter().map(|b| b["binding"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
    let desc = isa::find(name).unwrap().desc();
    let BindingRole::Params(layout) = desc.bindings[0].role else { panic!("no parameters") };
    assert_eq!(bindings[0]["min_size"], layout.size);
    let fields = bindings[0]["fields"].as_array().unwrap();
    let fields: Vec<_> = fields
        .iter()
        .map(|f| (f["name"].as_str().unwrap(), f["offset"].as_u64().unwrap() as u32))
        .collect();
    assert_eq!(fields, layout.fields().collect::<Vec<_>>());
    assert_eq!(bindings[0]["fields"][2]["comment"], "columns");
    assert_eq!(
        json["weights"],
        serde_json::json!({
            "element": ["int4"], "two_four": false, "block_bytes": 16, "panel": 1,
            "scales": "f32", "zero_points": true, "zero_bits": 8, "minima": false,
        })
    );
    assert!(
        json["requires"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| { r == "k, offset and strides of X are multiples of 4" })
    );
    assert!(bindings.iter().all(|b| b["used"] == true && !b["holds"].as_str().unwrap().is_empty()));
}

#[test]
fn every_target_by_its_name() {
    let name = "gemv_m1_l32.int8";
    let mut heads = BTreeMap::new();
    for target in Target::ALL {
        let mut args = vec![name, "--target", target.language()];
        args.extend(target.version().iter().flat_map(|version| ["--version", version]));
        let made = fine(&args);
        heads.insert(target, made);
    }
    let texts: Vec<_> = heads.values().map(|made| String::from_utf8_lossy(made)).collect();
    for (target, text) in Target::ALL.iter().zip(&texts) {
        let wanted = match target.language() {
            "wgsl" | "wgsl-web" | "wgsl-naga" => "@workgroup_size(",
            "msl" => "[[buffer(4)]]",
            "hlsl" => "register(t4)",
            "glsl" => "#version 310 es",
            _ => continue,
        };
        assert!(text.contains(wanted), "{target}: {text}");
    }
    // WGSL is what wgpu is given.
    let kernels = isa::kernels();
    let kernel = kernels.iter().find(|kernel| kernel.name() == name).unwrap();
    assert_eq!(fine(&[name]), kernel.desc().compose().unwrap().source.as_bytes());
    let json: Value = serde_json::from_slice(&fine(&[name, "--json", "-"])).unwrap();
    assert_eq!(json["target"], "wgsl");
}

#[test]
fn refusals_say_what_to_do() {
    let message = refused(&["gemv_m1_l3"]);
    assert!(message.contains("no kernel") && message.contains("--list 'gemv*'"), "{message}");
    let message = refused(&["coop_16.f32", "--target", "glsl"]);
    assert!(message.contains("f16") && message.contains("glsl-310es"), "{message}");
    let message = refused(&["coop_16.f32", "--target", "cuda"]);
    assert!(message.contains("wgsl-web"), "{message}");
    let message = refused(&["coop_16.f32", "--target", "spirv", "--version", "9"]);
    assert!(message.contains("1.6"), "{message}");
    let message = refused(&["coop_16.f32", "-o", "/nowhere/at/all"]);
    assert!(message.contains("cannot write"), "{message}");
    assert_eq!(lowbit(&[]).status.code(), Some(2));
    refused(&["--list", "nothing*like*this"]);
}
