//! Every composable shader, checked by naga with no adapter.

use lowbit::gpu::FRAGMENTS;
use lowbit::ops::matmul;
use std::collections::HashSet;

#[test]
fn every_shader_validates() {
    let shaders: Vec<_> =
        crate::common::all_shaders().into_iter().collect::<HashSet<_>>().into_iter().collect();
    assert!(shaders.len() > 1000, "only {} shaders", shaders.len());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for some in shaders.chunks(shaders.len().div_ceil(threads)) {
            scope.spawn(|| some.iter().for_each(|shader| drop(crate::common::validate(shader))));
        }
    });
    eprintln!("{} shaders validated", shaders.len());
}

/// A fragment that no shader uses is dead; one that a name cannot find would panic.
#[test]
fn every_fragment_is_used() {
    let mut used = HashSet::new();
    for shader in crate::common::all_shaders() {
        used.extend(shader.fragments.iter().map(|f| f.name));
    }
    let mut seen = HashSet::new();
    for choice in crate::common::all_choices() {
        let unpack = lowbit::conformance::unpack_shader(&choice);
        // Each kind of loop, decoder and scaling once: the rest is not replaced.
        let kind =
            (choice.schedule.to_string(), choice.decoder, choice.scaling, choice.texture_width);
        if !seen.insert(kind) {
            continue;
        }
        used.extend(unpack.fragments.iter().map(|f| f.name));
        crate::common::validate(&unpack);
    }
    let unused: Vec<_> = FRAGMENTS.iter().map(|f| f.name).filter(|n| !used.contains(n)).collect();
    assert!(unused.is_empty(), "fragments that nothing composes: {unused:?}");
    for fragment in FRAGMENTS {
        assert!(fragment.text.starts_with("// "), "{} opens with no comment", fragment.name);
        assert!(
            fragment.text.contains("// Requires: "),
            "{} states no requirements",
            fragment.name
        );
    }
}

#[test]
fn params_mirror_the_shader() {
    let choice = crate::common::all_choices().next().unwrap();
    let module = crate::common::validate(&choice.shader());
    crate::common::assert_mirrors(&module, "Params", &matmul::params_layout());
}
