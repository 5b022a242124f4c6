//! That each checker catches what it is there for.

use super::tools::{self, Glslang, SpirvVal, Tint};
use lowbit::gpu::{Access, Binding, Fragment, KernelDesc};
use lowbit::translate::{
    Feature, Parsed, SpirvVersion, Target, TranslateError, Translated, TranslatedCode, translate,
};
use lowbit_isa as isa;
use std::collections::BTreeSet;

/// The first kernel whose fragments declare a feature, or none at all.
fn kernel(wanted: Option<Feature>) -> Parsed {
    let declares = |features: &BTreeSet<Feature>| match wanted {
        Some(feature) => features.contains(&feature),
        None => features.is_empty(),
    };
    let mut kernels = isa::kernels().into_iter().map(|kernel| kernel.desc());
    let found = kernels.find(|kernel| declares(&kernel.features().unwrap())).unwrap();
    let parsed = Parsed::new(&found).unwrap();
    assert!(wanted.is_none_or(|wanted| parsed.features().any(|feature| feature == wanted)));
    parsed
}

fn with_text(made: &Translated, change: impl Fn(&str) -> String) -> Translated {
    let text = change(made.output.text().unwrap());
    assert_ne!(made.output.text(), Some(text.as_str()));
    Translated { output: TranslatedCode::Text(text), ..made.clone() }
}

/// A shader that naga accepts and that no browser does: lanes part before a barrier.
fn parted() -> KernelDesc {
    let text = "// Lanes part.\n\
        @group(0) @binding(0) var<storage, read_write> y: array<u32>;\n\
        @compute @workgroup_size(64)\n\
        fn main(@builtin(local_invocation_index) local: u32) {\n\
            if (y[local] > 1u) { workgroupBarrier(); }\n\
            y[local] = local;\n\
        }\n";
    let y = Binding::data(0, "y", "anything", Access::Write);
    KernelDesc::new("planted", vec![Fragment { name: "planted", text }], vec![y])
}

#[test]
fn spirv_val_catches_faults() {
    let Some(checker) = tools::found(SpirvVal::new()) else { return };
    let plain = kernel(None);
    let good = plain.translate(Target::Spirv(SpirvVersion::V1_6)).unwrap();
    let TranslatedCode::Words(words) = &good.output else { panic!("SPIR-V is words") };
    let check = |environment: &str, words: &[u32]| {
        checker.check(environment, &TranslatedCode::Words(words.to_vec()).bytes())
    };
    assert_eq!(check("vulkan1.3", words), Ok(()));
    assert!(check("vulkan1.1", words).is_err(), "a later version than the environment's");
    assert!(check("vulkan1.3", &words[..words.len() - 1]).is_err(), "no end");
    // OpCapability Shader, two words after the header of five, becomes OpNop twice.
    let mut bare = words.clone();
    assert_eq!(bare[5] & 0xffff, 17);
    bare[5..7].fill(1 << 16);
    assert!(check("vulkan1.3", &bare).is_err(), "no capability");
}

/// naga writes what SPIR-V 1.0 does not have: hence the refusal.
#[test]
fn what_is_refused_is_wrong() {
    let subgroups = kernel(Some(Feature::Subgroups));
    let refused = subgroups.translate(Target::Spirv(SpirvVersion::V1_0));
    let Err(TranslateError::Refused { feature, needs, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((feature, needs), (Feature::Subgroups, "SPIR-V 1.3"));
    let Some(checker) = tools::found(SpirvVal::new()) else { return };
    let good = subgroups.translate(Target::Spirv(SpirvVersion::V1_3)).unwrap();
    assert_eq!(checker.check("vulkan1.1", &good.output.bytes()), Ok(()));
    let source = good_source(&subgroups);
    let (module, info) = super::read(&source).unwrap();
    let options = naga::back::spv::Options { lang_version: (1, 0), ..Default::default() };
    let words = naga::back::spv::write_vec(&module, &info, &options, None).unwrap();
    let wrong = checker.check("vulkan1.0", &TranslatedCode::Words(words).bytes()).unwrap_err();
    assert!(wrong.contains("GroupNonUniform"), "{wrong}");
}

fn good_source(parsed: &Parsed) -> String {
    let made = parsed.translate(Target::Wgsl).unwrap();
    made.output.text().unwrap().to_string()
}

#[test]
fn glslang_catches_faults() {
    let Some(checker) = tools::found(Glslang::new()) else { return };
    let plain = kernel(None);
    let good = plain.translate(Target::Glsl).unwrap();
    let bad = with_text(&good, |text| {
        text.replacen("void main() {", "void main() {\n    int planted = 1.5;", 1)
    });
    let folder = tempfile::tempdir().unwrap();
    let files = [("good.comp", &good), ("bad.comp", &bad)].map(|(name, made)| {
        let path = folder.path().join(name);
        std::fs::write(&path, made.output.bytes()).unwrap();
        path
    });
    assert_eq!(checker.check(&files[..1]), Ok(()));
    // Also among good ones.
    let wrong = checker.check(&files).unwrap_err();
    assert!(wrong.contains("bad.comp") && wrong.contains("ERROR"), "{wrong}");
}

#[test]
fn tint_catches_faults() {
    let Some(mut tint) = tools::found(Tint::new()) else { return };
    for feature in ["shader-f16", "subgroups"] {
        assert!(tint.features.iter().any(|f| f == feature), "{:?}", tint.features);
    }
    let wrong = tint.check(&translate(&parted(), Target::WgslWeb).unwrap()).unwrap_err();
    assert!(wrong.contains("uniform control flow"), "{wrong}");
    // Without the directives that naga refuses.
    let subgroups = kernel(Some(Feature::Subgroups));
    let good = subgroups.translate(Target::WgslWeb).unwrap();
    assert_eq!(tint.check(&good), Ok(()));
    let bare = with_text(&good, |text| text.replace("enable subgroups;\n", ""));
    let wrong = tint.check(&bare).unwrap_err();
    assert!(wrong.contains("subgroup"), "{wrong}");
    // A layout that says other things than the shader does.
    let mut other = good.clone();
    other.bindings[0].min_size = 4;
    assert!(tint.check(&other).is_err());
    other.bindings.pop();
    assert!(tint.check(&other).is_err());
    assert_eq!(tint.check(&good), Ok(()), "after what was wrong");
}

#[test]
fn naga_catches_faults() {
    assert!(super::read("@compute @workgroup_size(1) fn main() {}").is_ok());
    assert!(super::read("@compute @workgroup_size(1) fn main() { let a: u32 = 1.5; }").is_err());
    assert!(super::read("fn main() {").is_err());
}
