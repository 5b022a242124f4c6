//! Every kernel of the crate, as the registry lists them: with no adapter.

use crate::common::{Noop, random_weights};
use lowbit::compress::calibrate::Axis;
use lowbit::format::{
    ActivationFormat, ActivationFunction, CacheFormat, StaticScale, WeightFormat,
};
use lowbit::gpu::{Access, BindingRole, FRAGMENTS, KernelDesc, UniformLayout};
use lowbit::ops::matmul::KernelChoice;
use lowbit::ops::registry::{self, Kernel};
use lowbit::ops::*;
use naga::{AddressSpace, GlobalVariable, Module, StorageAccess, TypeInner};
use pollster::block_on;
use std::collections::{BTreeMap, HashMap, HashSet};
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
/// resolve, and WebGPU's default limits suffice. Then naga, for
/// distinct shaders of which every two fragments or constants that occur together do so in one:
/// they are valid, and declared as they are. `LOWBIT_TARGETS` takes more of them, or all.
#[test]
fn every_kernel_is_as_declared() {
    let kernels = crate::common::kernels();
    assert!(kernels.len() > 120_000, "only {} kernels", kernels.len());
    let ids = Mutex::new(HashMap::new());
    on_all_processors(kernels, |kernel| {
        let desc = kernel.desc();
        check_declaration(kernel, &desc);
        let before = ids.lock().unwrap().insert(desc.id.clone(), kernel.clone());
        assert!(before.is_none(), "{} is the id of two kernels", desc.id);
    });
    let (count, total) = (kernels.len(), crate::common::shaders().len());
    let parts = |kernel: &Kernel| registry::parts(&kernel.desc());
    let shaders = crate::common::chosen(crate::common::shaders().to_vec(), parts);
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

/// Every op records the workgroups that are counted here by hand, so the grids that kernels declare
/// are right: ops record by them.
#[test]
fn recorded_grids_are_counted_by_hand() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let buffer = || noop.buffer(1 << 20);
    let scratch_sums = buffer();
    let int4: WeightFormat = "int4-g64-asym".parse().unwrap();
    let upload = |n, k| {
        let packed = random_weights(int4, n, k, 1);
        block_on(DeviceWeights::upload(&kernels, &packed)).unwrap()
    };

    // A lane of 32 makes two columns of four rows: ⌈70/4⌉ · ⌈300/64⌉ · 3.
    let spec = MatmulSpec::new(70, 300, 200, int4).with_batch(3);
    let select = Select::Pinned(Schedule::Rows { m_tile: 4, n_tile: 2 });
    let plan = block_on(MatmulPlan::new(&kernels, &spec, select)).unwrap();
    let (x, y, weights) = (buffer(), buffer(), upload(300, 200));
    let (activations, output) = (SubBuffer::from(&x), SubBuffer::from(&y));
    let args = MatmulArgs { activations, weights: &weights, bias: None, output };
    let bound = block_on(plan.bind(args)).unwrap();
    assert_eq!([70, 7, 0].map(|m| bound.workgroups(m)), [vec![270], vec![30], vec![]]);

    // The rows of a quantized Y are completed one by one: ⌈9/4⌉ · ⌈300/128⌉, then 9.
    let int8: ActivationFormat = "int8-token".parse().unwrap();
    let tensor: ActivationFormat = "int8-tensor".parse().unwrap();
    let spec = MatmulSpec::new(9, 300, 200, int4)
        .with_activations(Activations::Int8(int8))
        .with_output(Output::Int8(tensor));
    let select = Select::Pinned(Schedule::IntRows { m_tile: 4 });
    let plan = block_on(MatmulPlan::new(&kernels, &spec, select)).unwrap();
    let scale = StaticScale { scale: 1.0, zero_point: 0 };
    let bound = block_on(plan.bind_scaled(args, scale)).unwrap();
    assert_eq!([9, 4].map(|m| bound.workgroups(m)), [[9, 9], [3, 4]]);

    // Lanes write words of two f16: ⌈5 · 150 / 64⌉, and ⌈3 · 150 / 64⌉ of those gathered.
    let weights = upload(5, 300);
    let spec = DequantizeSpec::of(&weights).with_output(FloatType::F16);
    let plan = block_on(DequantizePlan::new(&kernels, &spec)).unwrap();
    let args = DequantizeArgs { weights: &weights, indices: None, output };
    assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(5), [12]);
    let plan = block_on(DequantizePlan::new(&kernels, &spec.with_gather(4))).unwrap();
    let args = DequantizeArgs { indices: Some(activations), ..args };
    assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(3), [8]);

    // Lanes write words of two f16: ⌈2 · 7 · 150 / 64⌉. A matmul of permuted columns does that first.
    let spec = PermuteColumnsSpec::new(9, 300).with_activations(FloatType::F16).with_batch(2);
    let plan = block_on(PermuteColumnsPlan::new(&kernels, &spec)).unwrap();
    let order = noop.buffer(1200);
    let args = PermuteColumnsArgs { activations, order: (&order).into(), output };
    assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(7), [33]);
    let permuted = lowbit::format::random_weights(int4.permuted(), 300, 200, 1, true).unwrap();
    let permuted = block_on(DeviceWeights::upload(&kernels, &permuted)).unwrap();
    let spec = MatmulSpec::of(70, &permuted).with_batch(3);
    let select = Select::Pinned(Schedule::Rows { m_tile: 4, n_tile: 2 });
    let plan = block_on(MatmulPlan::new(&kernels, &spec, select)).unwrap();
    let args = MatmulArgs { activations, weights: &permuted, bias: None, output };
    assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(7), [3 * 7 * 200 / 64 + 1, 30]);

    // A workgroup takes a row of each head: 3 · 7.
    let spec = NormSpec::new(9, 64, NormKind::Rms, 1e-6).with_batch(3);
    let spec = spec.with_x_strides(192, 64).with_y_strides(192, 64);
    let plan = block_on(NormPlan::new(&kernels, &spec)).unwrap();
    let (weight, residual, bias, scale) = (Some((&order).into()), None, None, None);
    let args = NormArgs { activations, residual, weight, bias, scale, output };
    assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(7), [21]);

    // Lanes write four columns: ⌈7 · 75 / 64⌉; codes take a workgroup a row.
    for (out, groups) in [(FloatType::F16.into(), 9), (Output::Int8(int8), 7)] {
        let spec = GateSpec::new(9, 300, ActivationFunction::Silu).with_output(out);
        let plan = block_on(GatePlan::new(&kernels, &spec)).unwrap();
        let args = GateArgs { activations, scale: None, output };
        assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(7), [groups]);
    }

    // A workgroup chooses the token of a row.
    let spec = SampleSpec::new(9, 300).with_random();
    let plan = block_on(SamplePlan::new(&kernels, &spec)).unwrap();
    let args = SampleArgs { activations, settings: Some((&order).into()), output };
    assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(7), [7]);

    // A workgroup takes the softmax of a row.
    let plan = block_on(SoftmaxPlan::new(&kernels, &SoftmaxSpec::new(9, 300))).unwrap();
    let args = SoftmaxArgs { activations, output };
    assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(7), [7]);

    // Three columns of tiles of 64 columns: 1 + 2 + 3, whatever the number of rows is.
    let plan = block_on(GramPlan::new(&kernels, &GramSpec::new(9, 130))).unwrap();
    let status = buffer();
    let args = GramArgs { activations, sums: (&scratch_sums).into(), status: (&status).into() };
    assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(7), [6]);

    // A row has 10 blocks of 4 words of codes, 5 scales and 5 zero points, a byte each:
    // ⌈5 · (40 + 5 + 2) / 64⌉.
    let (codes, scales, zeros) = (buffer(), buffer(), buffer());
    let plan = block_on(RepackPlan::new(&kernels, &RepackSpec::new(5, 300, int4))).unwrap();
    let args = RepackArgs {
        codes: SubBuffer::from(&codes),
        metadata: None,
        scales: Some(SubBuffer::from(&scales)),
        zeros: Some(SubBuffer::from(&zeros)),
        output: &weights,
    };
    assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(5), [4]);

    // ⌈5 · 10 words of ranges / 64⌉; ⌈5 · 10 blocks / 64⌉; ⌈5 · 7 words of side data / 64⌉; blocks.
    let spec = QuantizeWeightsSpec::new(50, 300, int4);
    let plan = block_on(QuantizeWeightsPlan::new(&kernels, &spec)).unwrap();
    let output_weights = upload(50, 300);
    let source = [SourceRows { at: activations, rows: 50 }];
    let args = QuantizeWeightsArgs { source: &source, mask: None, output: &output_weights };
    let bound = block_on(plan.bind(args)).unwrap();
    assert_eq!((bound.workgroups(), bound.dispatches()), (vec![8, 8, 6, 8], 4));

    // The reset clears 4 + 4 + 2 · 64 words; tiles have 256 rows of 32 columns: ⌈100/32⌉ · ⌈m/256⌉.
    let spec = ObserveSpec::new(300, 100, Axis::Tensor, 64);
    let plan = block_on(ObservePlan::new(&kernels, &spec)).unwrap();
    let bound = block_on(plan.bind(ObserveArgs { activations, output })).unwrap();
    assert_eq!([300, 256].map(|m| bound.workgroups(m)), [[3, 8, 8], [3, 4, 4]]);

    // A workgroup takes a row. The range of all of X is cleared and found first.
    for (format, groups) in [(int8, vec![7]), (tensor, vec![1, 7, 7])] {
        let spec = QuantizeActivationsSpec::new(70, 100, format);
        let plan = block_on(QuantizeActivationsPlan::new(&kernels, &spec)).unwrap();
        let args = QuantizeActivationsArgs { activations, given: None, output };
        assert_eq!(block_on(plan.bind(args)).unwrap().workgroups(7), groups, "{format}");
    }

    // A workgroup takes a head: 7 · (9 + 2 · 3). One takes 1024 columns, or the block that is longer:
    // 7 · ⌈11008/1024⌉ and 7 · 7.
    let spec = RotarySpec::new(9, 9, 3, 64).with_cache(CacheFormat::Int8, 100);
    let plan = block_on(RotaryPlan::new(&kernels, &spec)).unwrap();
    let [x, rows, q, keys, values] = [buffer(), buffer(), buffer(), buffer(), buffer()];
    let bound = block_on(plan.bind(RotaryArgs {
        activations: (&x).into(),
        rows: (&rows).into(),
        angles: None,
        query_norm: None,
        key_norm: None,
        queries: Some((&q).into()),
        keys: Some((&keys).into()),
        values: Some((&values).into()),
    }));
    assert_eq!([7, 0].map(|m| bound.as_ref().unwrap().workgroups(m)), [vec![105], vec![]]);
    for (k, groups) in [(11008, 77), (28672, 49), (48, 7)] {
        let plan = block_on(HadamardPlan::new(&kernels, &HadamardSpec::new(9, k))).unwrap();
        let bound = block_on(plan.bind(HadamardArgs { activations, output })).unwrap();
        assert_eq!(bound.workgroups(7), [groups], "{k}");
    }

    // A workgroup takes 2048 columns of a row, of which there are ⌈9000/2048⌉; sums of a row, or of
    // all rows, come after.
    let [dx, dy, ds] = [buffer(), buffer(), buffer()];
    for (format, given, forward, backward) in [
        ("int8-tensor", false, vec![15, 1, 15], vec![15]),
        ("int8-tensor", true, vec![15], vec![20, 1]),
        ("int8-channel", true, vec![15], vec![15, 3]),
        ("int8-g64", true, vec![15], vec![15]),
    ] {
        let spec = FakeQuantSpec::new(4, 9000, format.parse().unwrap());
        let spec = if given { spec.with_given_scales() } else { spec };
        let plan = block_on(FakeQuantPlan::new(&kernels, &spec)).unwrap();
        let (input, scales, zeros) = (activations, SubBuffer::from(&scales), None);
        let args = FakeQuantArgs { input, scales, zeros, output };
        let bound = block_on(plan.bind(args)).unwrap();
        assert_eq!(bound.workgroups(3), forward, "{format}");
        let args = FakeQuantBackwardArgs {
            input,
            scales,
            zeros,
            output_gradient: SubBuffer::from(&dy),
            input_gradient: SubBuffer::from(&dx),
            scale_gradients: given.then(|| SubBuffer::from(&ds)),
            zero_gradients: None,
        };
        let bound = block_on(plan.bind_backward(args)).unwrap();
        assert_eq!(bound.workgroups(3), backward, "{format}, backward");
    }
}

/// A fragment that no kernel uses is dead; one that a name cannot find would panic. A constant that
/// no fragment requires is dead too.
#[test]
fn every_fragment_is_used() {
    let mut used = HashSet::new();
    let mut seen = HashSet::new();
    let mut unused_consts = BTreeMap::new();
    for kernel in crate::common::shaders() {
        let desc = kernel.desc();
        let kind: Vec<_> = desc.fragments.iter().map(|f| f.name).collect();
        let consts: Vec<_> = desc.consts.iter().map(|(name, _)| *name).collect();
        if seen.insert((kind, consts)) {
            used.extend(desc.resolve().unwrap().iter().map(|f| f.name));
            for name in desc.unused_consts().unwrap() {
                unused_consts.entry((desc.fragments[0].name, name)).or_insert(desc.id.clone());
            }
        }
    }
    assert!(unused_consts.is_empty(), "constants that no fragment requires: {unused_consts:#?}");
    let mut seen = HashSet::new();
    for choice in crate::common::kernels().iter().filter_map(Kernel::choice) {
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
