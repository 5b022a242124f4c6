//! Every kernel of the crate, as the registry lists them: with no adapter.

use lowbit::gpu::{Access, BindingRole, FRAGMENTS, KernelDesc, UniformLayout};
use lowbit::ops::matmul::KernelChoice;
use lowbit::ops::registry::{self, Kernel};
use naga::{AddressSpace, GlobalVariable, Module, StorageAccess, TypeInner};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `check` on every item, on all processors.
fn on_all_processors<T: Sync>(items: &[T], check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(item);
                }
            });
        }
    });
}

/// What holds without naga, for every kernel: ids tell kernels apart and are read back, imports
/// resolve, grids are those that ops record, and WebGPU's default limits suffice. Then naga, for
/// distinct shaders of which every two fragments or constants that occur together do so in one:
/// they are valid, and declared as they are. `LOWBIT_TARGETS=all` takes every distinct shader.
#[test]
fn every_kernel_is_as_declared() {
    let kernels = registry::all();
    assert!(kernels.len() > 120_000, "only {} kernels", kernels.len());
    let ids = Mutex::new(HashMap::new());
    on_all_processors(&kernels, |kernel| {
        let desc = kernel.desc();
        check_declaration(kernel, &desc);
        let before = ids.lock().unwrap().insert(desc.id.clone(), kernel.clone());
        assert!(before.is_none(), "{} is the id of two kernels", desc.id);
    });
    let count = kernels.len();
    let mut shaders = registry::distinct_shaders(kernels);
    let total = shaders.len();
    if std::env::var("LOWBIT_TARGETS").as_deref() != Ok("all") {
        shaders = registry::covering(shaders, |kernel| registry::parts(&kernel.desc()));
    }
    on_all_processors(&shaders, |kernel| check_reflection(&kernel.desc()));
    eprintln!("{count} kernels, {} of {total} shaders validated", shaders.len());
}

fn check_declaration(kernel: &Kernel, desc: &KernelDesc) {
    let id = &desc.id;
    assert_eq!(id.parse::<KernelChoice>().ok().as_ref(), kernel.choice(), "{id}");
    let limits = wgpu::Limits::defaults();
    assert!(desc.storage_buffers() <= limits.max_storage_buffers_per_shader_stage, "{id}");
    assert!(desc.workgroup_size <= limits.max_compute_invocations_per_workgroup, "{id}");
    assert!(desc.workgroup_memory <= limits.max_compute_workgroup_storage_size, "{id}");
    assert!(desc.bindings.is_sorted_by(|a, b| a.number < b.number), "{id}: {:?}", desc.bindings);
    assert!(!desc.grid.formula().is_empty(), "{id}");
    if let Some(choice) = kernel.choice() {
        let sizes = [("m", 7), ("rows", 100), ("batch", 3)];
        let size = |name| sizes.iter().find(|(known, _)| *known == name).unwrap().1;
        let groups = desc.grid.groups(|variable| size(variable.name));
        assert_eq!(groups, choice.groups(7, 100, 3), "{id}");
    }
    // No template stays in the conditions.
    let requires = desc.requires().unwrap();
    assert!(requires.iter().all(|text| !text.contains(['{', '}'])), "{id}: {requires:?}");
}

/// Compares what a kernel declares with what naga reads in its shader.
fn check_reflection(desc: &KernelDesc) {
    let (id, (module, info)) = (&desc.id, crate::common::validate(desc));
    let [main] = &module.entry_points[..] else { panic!("{id} has not one entry point") };
    assert_eq!((main.name.as_str(), main.workgroup_size), ("main", [desc.workgroup_size, 1, 1]));
    let shared = module.global_variables.iter().filter(|(_, g)| g.space == AddressSpace::WorkGroup);
    let size = |g: &GlobalVariable| module.types[g.ty].inner.size(module.to_ctx());
    let memory: u32 = shared.map(|(_, g)| size(g)).sum();
    assert_eq!(memory, desc.workgroup_memory, "{id}: workgroup memory");
    for (handle, global) in module.global_variables.iter() {
        let Some(bound) = &global.binding else { continue };
        // A fragment may declare a variable for functions that this kernel does not call.
        if info.get_entry_point(0)[handle].is_empty() {
            continue;
        }
        let name = global.name.as_deref().unwrap_or_default();
        assert_eq!(bound.group, 0, "{id}: {name}");
        let declared = desc.bindings.iter().find(|binding| binding.number == bound.binding);
        let declared = declared.unwrap_or_else(|| panic!("{id} does not declare {name}"));
        assert_eq!(declared.name, name, "{id}");
        let access = match (global.space, &module.types[global.ty].inner) {
            (AddressSpace::Uniform, _) if declared.access == Access::DynamicUniform => {
                Access::DynamicUniform
            }
            (AddressSpace::Uniform, _) => Access::Uniform,
            (AddressSpace::Storage { access }, _) if access.contains(StorageAccess::STORE) => {
                Access::Write
            }
            (AddressSpace::Storage { .. }, _) => Access::Read,
            (_, TypeInner::Image { .. }) => Access::Texture,
            (space, _) => panic!("{id}: {name} is in {space:?}"),
        };
        assert_eq!(access, declared.access, "{id}: {name}");
        match &declared.role {
            BindingRole::Params(layout) => check_mirror(&module, global, layout),
            BindingRole::CountLow | BindingRole::CountHigh => {
                assert!(size(global) <= declared.uniform_bytes(), "{id}: {name}");
            }
            BindingRole::Codes | BindingRole::Data(_) => {}
        }
    }
}

/// Compares a uniform structure with its Rust mirror, name by name and offset by offset.
fn check_mirror(module: &Module, global: &GlobalVariable, layout: &UniformLayout) {
    let ty = &module.types[global.ty];
    assert_eq!(ty.name.as_deref(), Some(layout.structure));
    let TypeInner::Struct { members, span } = &ty.inner else {
        panic!("{} is no structure", layout.structure)
    };
    let fields: Vec<_> = members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset)).collect();
    assert_eq!(fields, layout.fields().collect::<Vec<_>>(), "{}", layout.fragment);
    assert_eq!(*span, layout.size, "{}", layout.fragment);
    let declares = |f: &&lowbit::gpu::Fragment| f.name == layout.fragment;
    let text = FRAGMENTS.iter().find(declares).map_or("", |fragment| fragment.text);
    assert!(text.contains(&format!("struct {} {{", layout.structure)), "{}", layout.fragment);
}

/// A fragment that no kernel uses is dead; one that a name cannot find would panic. A constant that
/// no fragment requires is dead too.
#[test]
fn every_fragment_is_used() {
    let mut used = HashSet::new();
    let kernels = registry::all();
    let mut seen = HashSet::new();
    for kernel in &kernels {
        let desc = kernel.desc();
        let kind: Vec<_> = desc.fragments.iter().map(|f| f.name).collect();
        if seen.insert(kind) {
            used.extend(desc.resolve().unwrap().iter().map(|f| f.name));
        }
    }
    let mut seen = HashSet::new();
    for choice in kernels.iter().filter_map(Kernel::choice) {
        // Each kind of loop, decoder and scaling once: the rest is not replaced.
        let kind =
            (choice.schedule.to_string(), choice.decoder, choice.scaling, choice.texture_width);
        if choice.schedule.is_integer() || !seen.insert(kind) {
            continue;
        }
        let unpack = lowbit::conformance::unpack_shader(choice).unwrap();
        used.extend(unpack.resolve().unwrap().iter().map(|f| f.name));
        crate::common::validate(&unpack);
    }
    let unused: Vec<_> = FRAGMENTS.iter().map(|f| f.name).filter(|n| !used.contains(n)).collect();
    assert!(unused.is_empty(), "fragments that nothing composes: {unused:?}");
}
