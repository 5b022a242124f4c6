//! Tests of misuse, on a device that validates but executes nothing. Each misuse gives its typed
//! error, and none reaches the device's uncaptured error handler. wgpu accepts everything that the
//! crate accepts.

use crate::common::Noop;
use lowbit::format::{FormatError, RowOrder, WeightFormat};
use lowbit::gpu::{AdapterClass, Caps, DeviceError, Feature, Kernels};
use lowbit::ops::matmul::KernelChoice;
use lowbit::ops::registry::{self, Kernel};
use lowbit::ops::{
    BindError, BoundMatmul, DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights,
    FloatType, MatmulArgs, MatmulPlan, MatmulSpec, PlanError, QuantizeWeightsArgs,
    QuantizeWeightsPlan, QuantizeWeightsSpec, RecordError, Role, RowBlock, Schedule, Select,
    SourceRows, SubBuffer, WeightsError,
};
use pollster::block_on;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};
use wgpu::{BufferUsages, Limits};

const ROWS: Schedule = Schedule::Rows { m_tile: 4, n_tile: 2 };

fn int4() -> WeightFormat {
    "int4-g64-asym".parse().unwrap()
}

fn plan(kernels: &Kernels, spec: &MatmulSpec) -> Result<MatmulPlan, PlanError> {
    block_on(MatmulPlan::new(kernels, spec, Select::Pinned(ROWS)))
}

fn empty(kernels: &Kernels, format: WeightFormat, n: usize, k: usize) -> DeviceWeights {
    block_on(DeviceWeights::allocate(kernels, format, n, k)).unwrap()
}

/// What every device has, though naga calls it a feature.
fn common_features() -> BTreeSet<Feature> {
    BTreeSet::from([Feature::PackedDot, Feature::ReadTexture])
}

/// WebGPU's default limits and no feature suffice for every kernel that declares none.
#[test]
fn every_kernel_fits_default_limits() {
    let noop = Noop::new(Limits::defaults());
    let kernels = noop.kernels();
    let caps = kernels.caps().clone();
    let plain = |kernel: &Kernel| kernel.desc().features().unwrap().is_subset(&common_features());
    // Kernels with one shader differ in their ids and grids only, and their pipelines are the same.
    let all: Vec<_> = crate::common::shaders().iter().filter(|k| plain(k)).cloned().collect();
    for kernel in crate::common::chosen(all, |kernel| registry::parts(&kernel.desc())) {
        if let Some(choice) = kernel.choice() {
            // Many rows of X at a time are for CPU-type adapters.
            let class = match choice.schedule {
                Schedule::Rows { m_tile: 5.., .. } => AdapterClass::Cpu,
                _ => AdapterClass::Gpu,
            };
            let mut caps = caps.clone();
            caps.class = class;
            choice.schedule.check(&caps).unwrap();
        }
        block_on(kernels.pipeline(&kernel.desc())).unwrap();
    }
    noop.assert_quiet();
    assert!(kernels.cached_pipelines() > 200, "{}", kernels.cached_pipelines());
}

/// Cooperative matrices: pipelines for every format on a device that supports them, and an error on
/// others.
#[test]
fn cooperative_matrices_are_pinned_only() {
    let features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16;
    let noop = wgpu::NoopBackendOptions {
        enable: true,
        limits: Some(Limits::defaults()),
        ..Default::default()
    };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::NOOP,
        backend_options: wgpu::BackendOptions { noop, ..Default::default() },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = block_on(instance.request_adapter(&Default::default())).unwrap();
    let (device, _queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: features,
        // SAFETY: nothing runs on this device.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..Default::default()
    }))
    .unwrap();
    let kind = |size, ab_type| wgpu::CooperativeMatrixProperties {
        m_size: size,
        n_size: size,
        k_size: size,
        ab_type,
        cr_type: wgpu::CooperativeScalarType::F32,
        saturating_accumulation: false,
    };
    let plain = Caps::new(&adapter.get_info(), &device.limits(), device.features());
    assert_eq!(plain.matrix, 0);
    for (size, ab) in
        [(16, wgpu::CooperativeScalarType::F16), (8, wgpu::CooperativeScalarType::F32)]
    {
        let caps = plain.clone().with_matrices(&[kind(size, ab)], device.features());
        assert_eq!(caps.matrix, size);
        let none = plain.clone().with_matrices(&[kind(size, ab)], wgpu::Features::empty());
        assert_eq!(none.matrix, 0);
        let kernels = block_on(Kernels::new(&device, &caps)).unwrap();
        let this = Schedule::Coop { size };
        let mut formats = HashSet::new();
        for kernel in registry::kernels(std::slice::from_ref(&caps)) {
            let of_this = |choice: &&KernelChoice| choice.schedule == this;
            let Some(choice) = kernel.choice().filter(of_this) else { continue };
            // Each decoder once.
            if formats.insert((choice.decoder, choice.scaling)) {
                block_on(kernels.pipeline(&kernel.desc())).unwrap();
            }
        }
        assert!(formats.len() > 12, "{}", formats.len());
        for schedule in Schedule::experimental() {
            assert_eq!(schedule.check(&caps).is_ok(), schedule == this);
            assert!(schedule.check(&plain).is_err());
        }
    }
}

/// If a device has fewer storage buffers than a kernel needs, the error is typed. The four of
/// OpenGL ES 3.1 are enough for a matmul, but not for one with a bias.
#[test]
fn downlevel_limits_are_refused_by_name() {
    let spec = MatmulSpec::new(4, 8, 8, int4());
    for (limits, spec) in [
        (Limits::downlevel_defaults(), spec.clone().with_bias()),
        (Limits::downlevel_webgl2_defaults(), spec.clone()),
    ] {
        let noop = Noop::new(limits);
        let kernels = noop.kernels();
        for how in [Select::Auto, Select::Pinned(ROWS)] {
            let error = block_on(MatmulPlan::new(&kernels, &spec, how)).unwrap_err();
            assert!(matches!(error, PlanError::NotApplicable { .. }), "{error}");
        }
        noop.assert_quiet();
    }
    let noop = Noop::new(Limits::downlevel_defaults());
    let kernels = noop.kernels();
    block_on(MatmulPlan::new(&kernels, &spec, Select::Auto)).unwrap();
    let compress =
        block_on(QuantizeWeightsPlan::new(&kernels, &QuantizeWeightsSpec::new(8, 64, int4())))
            .unwrap_err();
    assert!(
        matches!(compress, PlanError::Device(DeviceError::Limit { need: 6, have: 4, .. })),
        "{compress}"
    );
    noop.assert_quiet();
}

#[test]
fn specs_are_refused() {
    let ok = MatmulSpec::new(4, 7, 9, int4());
    assert_eq!(ok.check(), Ok(()));
    let too_large = |change: &dyn Fn(&mut MatmulSpec)| {
        let mut spec = MatmulSpec::new(1, 1, 1, WeightFormat::f32());
        change(&mut spec);
        match spec.check().unwrap_err() {
            PlanError::TooLarge { name, value, limit } => {
                assert!(value > limit);
                name
            }
            other => panic!("{other}"),
        }
    };
    assert_eq!(too_large(&|s| s.max_m = 1 << 20), "max_m");
    assert_eq!(too_large(&|s| s.n = 1 << 31), "n");
    assert_eq!(too_large(&|s| s.k = 1 << 31), "k");
    assert_eq!(too_large(&|s| s.batch = 1 << 16), "batch");
    let mut largest = ok.clone();
    (largest.max_m, largest.batch) = ((1 << 20) - 1, 1);
    assert_eq!(largest.check(), Ok(()));

    let stride = |spec: MatmulSpec| match spec.check().unwrap_err() {
        PlanError::Stride { role, stride, need } => (role, stride, need),
        other => panic!("{other}"),
    };
    let x = ok.clone();
    assert_eq!(stride(x.clone().with_x_strides(8, 36)), (Role::Activations, 8, 9));
    assert_eq!(stride(x.clone().with_y_strides(6, 28)), (Role::Output, 6, 7));
    let batch = ok.clone().with_batch(2);
    assert_eq!(stride(batch.clone().with_x_strides(9, 35)), (Role::Activations, 35, 36));
    assert_eq!(stride(batch.clone().with_y_strides(7, 27)), (Role::Output, 27, 28));
    // No output may be written twice, but X may be shared.
    assert_eq!(stride(batch.clone().with_y_strides(7, 0)), (Role::Output, 0, 28));
    assert_eq!(batch.with_x_strides(9, 0).check(), Ok(()));
    // A single row needs no stride.
    assert_eq!(MatmulSpec::new(1, 7, 9, int4()).with_x_strides(0, 0).check(), Ok(()));

    let f16 = ok.with_activations(FloatType::F16).with_output(FloatType::F16).with_batch(2);
    assert_eq!(f16.check(), Ok(()));
    let odd = |spec: MatmulSpec| match spec.check().unwrap_err() {
        PlanError::OddStride { role, stride, .. } => (role, stride),
        other => panic!("{other}"),
    };
    assert_eq!(odd(f16.clone().with_x_strides(11, 60)), (Role::Activations, 11));
    assert_eq!(odd(f16.clone().with_x_strides(10, 61)), (Role::Activations, 61));
    assert_eq!(odd(f16.clone().with_y_strides(9, 60)), (Role::Output, 9));
    assert_eq!(odd(f16.with_y_strides(8, 61)), (Role::Output, 61));

    let bad = MatmulSpec::new(1, 1, 1, WeightFormat::f16().asymmetric());
    assert!(matches!(bad.check(), Err(PlanError::Format(FormatError::NoAsymmetric(_)))));
}

#[test]
fn plans_are_refused() {
    let noop = Noop::new(Limits::defaults());
    let spec = MatmulSpec::new(4, 8, 64, int4());
    let refused = |kernels: &Kernels, schedule| match block_on(MatmulPlan::new(
        kernels,
        &spec,
        Select::Pinned(schedule),
    ))
    .unwrap_err()
    {
        PlanError::NotApplicable { what, need, have, .. } => {
            // If several values are allowed, `have` is the largest.
            assert!(need > have || what.contains('('));
            what
        }
        other => panic!("{other}"),
    };
    let kernels = noop.kernels();
    for lanes in [0, 3, 512, u32::MAX] {
        let what = refused(&kernels, Schedule::Gemv { lanes, m_tile: 1 });
        assert_eq!(what, "lanes (a power of two up to 256)");
    }
    for m_tile in [0, 9, u32::MAX] {
        let gemv = refused(&kernels, Schedule::Gemv { lanes: 8, m_tile });
        assert_eq!(gemv, "rows at a time (1 to 8)");
    }
    for m_tile in [0, 2, 3, 5, 7, 32, u32::MAX] {
        let rows = refused(&kernels, Schedule::Rows { m_tile, n_tile: 2 });
        assert_eq!(rows, "rows at a time (1, 4, 8 or 16)");
    }
    let gpu = noop.kernels_with(|caps| caps.class = AdapterClass::Gpu);
    let rows = refused(&gpu, Schedule::Rows { m_tile: 8, n_tile: 2 });
    assert_eq!(rows, "rows at a time (1 or 4 on a GPU)");
    for (m_tile, n_tile) in [(1, 0), (1, 3), (1, 8), (4, 4), (4, u32::MAX)] {
        let rows = refused(&kernels, Schedule::Rows { m_tile, n_tile });
        assert_eq!(rows, "columns a lane (2, or 4 for one row)");
    }
    let few = noop.kernels_with(|caps| caps.max_invocations = 64);
    assert_eq!(refused(&few, Schedule::Tiled { m_tile: 32 }), "invocations a workgroup");
    let small = noop.kernels_with(|caps| caps.max_workgroup_memory = 8192);
    assert_eq!(refused(&small, Schedule::Tiled { m_tile: 32 }), "bytes of workgroup memory");
    let gemv = Schedule::Gemv { lanes: 64, m_tile: 8 };
    assert!(block_on(MatmulPlan::new(&small, &spec, Select::Pinned(gemv))).is_ok());
    let smaller = noop.kernels_with(|caps| caps.max_workgroup_memory = 8191);
    assert_eq!(refused(&smaller, gemv), "bytes of workgroup memory");
    let four = noop.kernels_with(|caps| caps.max_storage_buffers = 4);
    let biased = MatmulSpec::new(4, 8, 64, int4()).with_bias();
    let refusal = block_on(MatmulPlan::new(&four, &biased, Select::Pinned(ROWS))).unwrap_err();
    let PlanError::NotApplicable { what, need: 5, have: 4, .. } = refusal else {
        panic!("{refusal}")
    };
    assert_eq!(what, "storage buffers");
    // With `Select::Auto`, a plan uses a kernel that fits such a small device.
    let auto =
        block_on(MatmulPlan::new(&smaller, &MatmulSpec::new(65, 8, 64, int4()), Select::Auto));
    for range in auto.unwrap().row_ranges() {
        range.choice.schedule.check(smaller.caps()).unwrap();
    }
    let odd = MatmulSpec::new(4, 8, 64, WeightFormat::f32()).with_x_strides(3, 0);
    assert!(matches!(plan(&kernels, &odd), Err(PlanError::Stride { .. })));
    noop.assert_quiet();
}

/// Limits that are higher than the device's are ignored.
#[test]
fn stated_limits_never_exceed_the_device() {
    let limits = Limits { max_compute_workgroup_storage_size: 4096, ..Limits::defaults() };
    let noop = Noop::new(limits);
    let boastful = noop.kernels_with(|caps| {
        caps.class = AdapterClass::Gpu;
        caps.max_binding = u64::MAX;
        caps.max_buffer = u64::MAX;
        caps.storage_align = 0;
        caps.uniform_align = 0;
        caps.max_storage_buffers = 100;
        caps.max_workgroup_memory = u32::MAX;
        caps.max_invocations = u32::MAX;
        caps.max_groups = u32::MAX;
        caps.subgroup = 8;
        caps.subgroups = true;
        caps.matrix = 16;
        caps.int64 = true;
        caps.exact_f16_unpack = false;
        caps.packed_dot = false;
        caps.row_order = RowOrder::Rows;
        caps.texture_extent = u32::MAX;
    });
    let how = Select::Pinned(Schedule::Tiled { m_tile: 32 });
    let refused = block_on(MatmulPlan::new(&boastful, &MatmulSpec::new(65, 8, 64, int4()), how));
    assert!(matches!(refused, Err(PlanError::NotApplicable { need: 12288, have: 4096, .. })));
    let rig = Rig::new(&boastful, &noop, MatmulSpec::new(65, 300, 64, int4()).with_bias());
    let bound = rig.bind(|_| ()).unwrap();
    noop.submit(|pass| bound.record(pass, 65).unwrap());
    noop.assert_quiet();
}

/// A plan with weights and buffers of the right size.
struct Rig {
    plan: MatmulPlan,
    weights: DeviceWeights,
    x: wgpu::Buffer,
    y: wgpu::Buffer,
    bias: wgpu::Buffer,
}

impl Rig {
    fn new(kernels: &Kernels, noop: &Noop, spec: MatmulSpec) -> Self {
        let plan = plan(kernels, &spec).unwrap();
        let weights = empty(kernels, spec.weights, spec.n as usize, spec.k as usize);
        let (x, y) = (spec.x_bytes(spec.max_m), spec.y_bytes(spec.max_m));
        // The buffers are as small as possible, so that every size check is tested at its limit.
        let buffer = |bytes: u64, least: u64| noop.buffer(bytes.next_multiple_of(4).max(least));
        let (x, y) = (buffer(x, plan.kernel(1).x_align()), buffer(y, 4));
        let bias = buffer(4 * u64::from(spec.n), 4);
        Self { plan, weights, x, y, bias }
    }

    fn args(&self) -> MatmulArgs<'_> {
        MatmulArgs {
            activations: (&self.x).into(),
            weights: &self.weights,
            bias: self.plan.spec().bias.then_some((&self.bias).into()),
            output: (&self.y).into(),
        }
    }

    fn bind<'a>(
        &'a self,
        change: impl FnOnce(&mut MatmulArgs<'a>),
    ) -> Result<BoundMatmul, BindError> {
        let mut args = self.args();
        change(&mut args);
        block_on(self.plan.bind(args))
    }
}

#[test]
fn buffers_are_refused() {
    let noop = Noop::new(Limits::defaults());
    let kernels = noop.kernels();
    let rig = Rig::new(&kernels, &noop, MatmulSpec::new(5, 7, 64, int4()).with_bias());
    let bound = rig.bind(|_| ()).unwrap();
    noop.submit(|pass| bound.record(pass, 5).unwrap());
    noop.assert_quiet();

    // Each is too small by one word.
    let (x, y) = (noop.buffer(5 * 64 * 4 - 4), noop.buffer(5 * 7 * 4 - 4));
    let bias = noop.buffer(7 * 4 - 4);
    let small = |role, need, have| Err(BindError::TooSmall { role, need, have });
    let got = rig.bind(|a| a.activations = (&x).into()).map(drop);
    assert_eq!(got, small(Role::Activations, 1280, 1276));
    let got = rig.bind(|a| a.output = (&y).into()).map(drop);
    assert_eq!(got, small(Role::Output, 140, 136));
    let got = rig.bind(|a| a.bias = Some((&bias).into())).map(drop);
    assert_eq!(got, small(Role::Bias, 28, 24));
    // The buffer is large enough, but not from this offset on.
    let got = rig.bind(|a| a.output.offset = 4).map(drop);
    assert_eq!(got, small(Role::Output, 144, 140));
    let got = rig.bind(|a| a.activations.offset = 1 << 40).map(drop);
    assert_eq!(got, small(Role::Activations, (1 << 40) + 1280, 1280));

    // These offsets overflow.
    let last = u64::MAX - 15;
    let got = rig.bind(|a| a.activations.offset = last).map(drop);
    assert_eq!(got, Err(BindError::Overflow { role: Role::Activations }));
    let got = rig.bind(|a| a.output.offset = last).map(drop);
    assert_eq!(got, Err(BindError::Overflow { role: Role::Output }));

    // These offsets are misaligned. X is loaded 16 bytes at a time here, and everything else by
    // words.
    let big = noop.buffer(1 << 16);
    let at = |offset| SubBuffer { buffer: &big, offset };
    let misaligned = |role, offset, align| Err(BindError::Misaligned { role, offset, align });
    for offset in [4, 8, 12, 2, 17] {
        let got = rig.bind(|a| a.activations = at(offset)).map(drop);
        assert_eq!(got, misaligned(Role::Activations, offset, 16));
    }
    for offset in [1, 2, 3, 6] {
        let got = rig.bind(|a| a.output = at(offset)).map(drop);
        assert_eq!(got, misaligned(Role::Output, offset, 4));
        let got = rig.bind(|a| a.bias = Some(at(offset))).map(drop);
        assert_eq!(got, misaligned(Role::Bias, offset, 4));
    }
    let any = MatmulSpec::new(5, 7, 64, int4()).with_any_x_offset();
    for spec in [any, MatmulSpec::new(5, 7, 63, int4())] {
        let rig = Rig::new(&kernels, &noop, spec);
        let bound = rig.bind(|a| a.activations = at(4)).unwrap();
        noop.submit(|pass| bound.record(pass, 5).unwrap());
        let got = rig.bind(|a| a.activations = at(2)).map(drop);
        assert_eq!(got, misaligned(Role::Activations, 2, 4));
    }
    let halves = MatmulSpec::new(5, 7, 64, int4()).with_activations(FloatType::F16);
    let halves = Rig::new(&kernels, &noop, halves.with_output(FloatType::F16));
    let got = halves.bind(|a| a.activations = at(2)).map(drop);
    assert_eq!(got, misaligned(Role::Activations, 2, 4));
    let got = halves.bind(|a| a.output = at(6)).map(drop);
    assert_eq!(got, misaligned(Role::Output, 6, 4));

    // These buffers lack the storage usage.
    let copies = noop.buffer_for(1 << 16, BufferUsages::COPY_SRC | BufferUsages::COPY_DST);
    let usage = |role| Err(BindError::Usage { role });
    let got = rig.bind(|a| a.activations = (&copies).into()).map(drop);
    assert_eq!(got, usage(Role::Activations));
    let got = rig.bind(|a| a.output = (&copies).into()).map(drop);
    assert_eq!(got, usage(Role::Output));
    let got = rig.bind(|a| a.bias = Some((&copies).into())).map(drop);
    assert_eq!(got, usage(Role::Bias));
    for part in ["codes", "side"] {
        let mut block = rig.weights.blocks()[0].clone();
        replace(&mut block, part, &copies);
        let weights =
            DeviceWeights::from_blocks(int4(), 7, 64, RowOrder::Rows, vec![block]).unwrap();
        let mut args = rig.args();
        args.weights = &weights;
        assert_eq!(block_on(rig.plan.bind(args)).map(drop), usage(Role::Weights));
    }

    // The output is also an input, whether the ranges overlap or not.
    let aliased = |role| Err(BindError::Aliased { role });
    for offset in [0, 1 << 15] {
        let got = rig.bind(|a| (a.activations, a.output) = (at(0), at(offset))).map(drop);
        assert_eq!(got, aliased(Role::Activations));
        let got = rig.bind(|a| (a.bias, a.output) = (Some(at(0)), at(offset))).map(drop);
        assert_eq!(got, aliased(Role::Bias));
    }
    for part in ["codes", "side"] {
        let mut block = rig.weights.blocks()[0].clone();
        replace(&mut block, part, &big);
        let weights =
            DeviceWeights::from_blocks(int4(), 7, 64, RowOrder::Rows, vec![block]).unwrap();
        let mut args = rig.args();
        (args.weights, args.output) = (&weights, at(1 << 15));
        assert_eq!(block_on(rig.plan.bind(args)).map(drop), aliased(Role::Weights));
    }
    // Inputs may share a buffer.
    let bound = rig.bind(|a| (a.activations, a.bias) = (at(0), Some(at(4)))).unwrap();
    noop.submit(|pass| bound.record(pass, 5).unwrap());

    // One bias is missing, and one is superfluous.
    let got = rig.bind(|a| a.bias = None).map(drop);
    assert_eq!(got, Err(BindError::Bias { planned: true }));
    let plain = Rig::new(&kernels, &noop, MatmulSpec::new(5, 7, 64, int4()));
    let got = plain.bind(|a| a.bias = Some((&big).into())).map(drop);
    assert_eq!(got, Err(BindError::Bias { planned: false }));
    noop.assert_quiet();
}

#[test]
fn weights_of_another_plan_are_refused() {
    let noop = Noop::new(Limits::defaults());
    let kernels = noop.kernels();
    let rig = Rig::new(&kernels, &noop, MatmulSpec::new(5, 7, 64, int4()));
    let symmetric = "int4-g64".parse().unwrap();
    for (format, n, k) in
        [(symmetric, 7, 64), (int4(), 8, 64), (int4(), 7, 65), (int4().two_four(), 7, 64)]
    {
        let other = empty(&kernels, format, n, k);
        let mut args = rig.args();
        args.weights = &other;
        let error = block_on(rig.plan.bind(args)).map(drop).unwrap_err();
        let BindError::WrongWeights { need, have } = &error else { panic!("{error}") };
        assert_eq!(need, "7×64 int4-g64-asym");
        assert_eq!(*have, format!("{n}×{k} {format}"));
    }
    // These weights are in blocks for another device, and too large for a binding of this one.
    let small = noop.kernels_with(|caps| caps.max_binding = 4096);
    let plan = plan(&small, &MatmulSpec::new(5, 300, 64, int4())).unwrap();
    let weights = empty(&kernels, int4(), 300, 64);
    let (x, y) = (noop.buffer(1 << 16), noop.buffer(1 << 16));
    let activations = (&x).into();
    let args = MatmulArgs { activations, weights: &weights, bias: None, output: (&y).into() };
    let got = block_on(plan.bind(args)).map(drop);
    let too_large = Err(BindError::BlockTooLarge { need: 300 * 32, limit: 4096 });
    assert_eq!(got, too_large);
    let spec = DequantizeSpec::new(300, 64, int4());
    let plan = block_on(DequantizePlan::new(&small, &spec)).unwrap();
    let w = noop.buffer(300 * 64 * 4);
    let args = DequantizeArgs { weights: &weights, indices: None, output: (&w).into() };
    assert_eq!(block_on(plan.bind(args)).map(drop), too_large);
    let plan =
        block_on(QuantizeWeightsPlan::new(&small, &QuantizeWeightsSpec::new(300, 64, int4())))
            .unwrap();
    let source = [SourceRows { at: (&w).into(), rows: 300 }];
    let args = QuantizeWeightsArgs { source: &source, mask: None, output: &weights };
    assert_eq!(block_on(plan.bind(args)).map(drop), too_large);
    noop.assert_quiet();
}

/// wgpu detects buffers of another device, and its message is returned as an error.
#[test]
fn buffers_of_another_device_are_refused() {
    let (noop, other) = (Noop::new(Limits::defaults()), Noop::new(Limits::defaults()));
    let rig = Rig::new(&noop.kernels(), &noop, MatmulSpec::new(5, 7, 64, int4()));
    let foreign = other.buffer(1 << 16);
    let got = rig.bind(|a| a.activations = (&foreign).into()).map(drop);
    assert!(matches!(got, Err(BindError::Device(DeviceError::Refused { .. }))), "{got:?}");
    // The same holds for a buffer that was destroyed.
    let gone = noop.buffer(1 << 16);
    gone.destroy();
    let got = rig.bind(|a| a.output = (&gone).into()).map(drop);
    assert!(matches!(got, Err(BindError::Device(DeviceError::Refused { .. }))), "{got:?}");
    noop.assert_quiet();
    other.assert_quiet();
}

#[test]
fn rows_and_grids_too_large_are_refused() {
    let noop = Noop::new(Limits::defaults());
    // A window holds 4096 bytes, less the alignment (256) and rounding (16).
    let small = noop.kernels_with(|caps| caps.max_binding = 4096);
    let limit = 4096 - 272;
    let row = |spec: MatmulSpec| {
        let n = spec.n;
        let rig = Rig::new(&small, &noop, spec);
        match rig.bind(|_| ()).map(drop) {
            Err(BindError::RowTooLarge { role, need, limit: have }) => {
                assert_eq!(have, limit);
                (role, need)
            }
            other => panic!("{n}: {other:?}"),
        }
    };
    let int4 = "int4-channel".parse().unwrap();
    assert_eq!(row(MatmulSpec::new(2, 8, 960, int4)), (Role::Activations, 3840));
    assert_eq!(row(MatmulSpec::new(2, 960, 8, int4)), (Role::Output, 3840));
    let bias = MatmulSpec::new(2, 960, 8, int4).with_bias().with_output(FloatType::F16);
    assert_eq!(row(bias), (Role::Bias, 3840));
    // The largest rows that fit can be bound, and wgpu accepts them.
    for (n, k) in [(8, 956), (956, 8)] {
        let rig = Rig::new(&small, &noop, MatmulSpec::new(2, n, k, int4).with_bias());
        let bound = rig.bind(|_| ()).unwrap();
        assert!(bound.dispatches() > 1);
        noop.submit(|pass| bound.record(pass, 2).unwrap());
    }

    let few = noop.kernels_with(|caps| caps.max_groups = 2);
    // Tiles of 4 rows by `tile` columns need 3 · 3 groups, but only 2 · 2 · 2 fit.
    let tile = ROWS.tile().1;
    let rig = Rig::new(&few, &noop, MatmulSpec::new(9, 2 * tile + 1, 8, int4));
    let got = rig.bind(|_| ()).map(drop);
    assert_eq!(got, Err(BindError::GridTooLarge { groups: 9, limit: 2 }));
    let rig = Rig::new(&few, &noop, MatmulSpec::new(8, 2 * tile + 1, 8, int4));
    let bound = rig.bind(|_| ()).unwrap();
    noop.submit(|pass| bound.record(pass, 8).unwrap());

    // There are so many dispatches that their parameters, 256 bytes each, exceed a buffer.
    let tight = noop.kernels_with(|caps| {
        (caps.max_binding, caps.max_buffer) = (512, 10 * 256);
    });
    let spec = MatmulSpec::new(11, 10, 60, int4);
    let plan = plan(&tight, &spec).unwrap();
    let weights = empty(&tight, int4, 10, 60);
    assert_eq!(weights.blocks().len(), 1);
    let (x, y) = (noop.buffer(spec.x_bytes(11)), noop.buffer(spec.y_bytes(11)));
    let got = block_on(plan.bind(MatmulArgs {
        activations: (&x).into(),
        weights: &weights,
        bias: None,
        output: (&y).into(),
    }));
    assert_eq!(got.map(drop), Err(BindError::TooManyDispatches { dispatches: 11, limit: 10 }));
    noop.assert_quiet();
}

#[test]
fn recordings_are_refused() {
    let noop = Noop::new(Limits::defaults());
    let rig = Rig::new(&noop.kernels(), &noop, MatmulSpec::new(5, 7, 64, int4()));
    let bound = rig.bind(|_| ()).unwrap();
    noop.submit(|pass| {
        for m in [6, u32::MAX] {
            assert_eq!(bound.record(pass, m), Err(RecordError::MTooLarge { m, max_m: 5 }));
        }
        for m in [0, 1, 5] {
            bound.record(pass, m).unwrap();
        }
    });
    noop.assert_quiet();
}

#[test]
fn weights_are_refused() {
    let noop = Noop::new(Limits::defaults());
    let kernels = noop.kernels_with(|caps| caps.max_binding = 1024);
    let caps = kernels.caps().clone();
    let split = |format, n, k| DeviceWeights::split(&caps, format, n, k).map(|(_, rows)| rows);

    // f32 with K = 64 takes 256 bytes per row.
    let f32 = WeightFormat::f32();
    assert_eq!(split(f32, 9, 64).unwrap(), [0..4, 4..8, 8..9]);
    assert_eq!(split(f32, 0, 64).unwrap(), [] as [std::ops::Range<usize>; 0]);
    assert_eq!(split(f32, 9, 128).unwrap().len(), 5);
    let row = |need| Err::<Vec<_>, _>(WeightsError::RowTooLarge { rows: 2, need, limit: 1024 });
    assert_eq!(split(f32, 9, 129), row(2 * 160 * 4));
    // A single row may fill the whole binding.
    assert_eq!(split(f32, 1, 256).unwrap(), std::slice::from_ref(&(0..1)));
    assert_eq!(split(f32, 2, 256), row(2048));
    assert_eq!(split(f32, 1, 257), row(2 * 288 * 4));
    let bad = WeightFormat::f32().asymmetric();
    assert!(matches!(split(bad, 1, 1), Err(WeightsError::Format(FormatError::NoAsymmetric(_)))));
    let overflow = split(f32, usize::MAX, usize::MAX);
    assert!(matches!(overflow, Err(WeightsError::Format(FormatError::TooLarge { .. }))));
    let large = 1 << 31;
    assert_eq!(split(f32, large, 1), Err(WeightsError::TooLarge { n: large, k: 1 }));
    assert_eq!(split(f32, 1, large), Err(WeightsError::TooLarge { n: 1, k: large }));
    let endless = split(f32, large - 1, 128);
    assert_eq!(endless, Err(WeightsError::TooManyBlocks { blocks: 1 << 30, limit: 1 << 20 }));

    let allocate = |n, k| block_on(DeviceWeights::allocate(&kernels, f32, n, k)).map(drop);
    assert_eq!(allocate(9, 129), row(2 * 160 * 4).map(drop));
    let packed = crate::common::random_weights(f32, 2, 256, 1);
    assert_eq!(block_on(DeviceWeights::upload(&kernels, &packed)).map(drop), row(2048).map(drop));

    let buffers = |rows, bytes| {
        let buffer = || noop.buffer(bytes);
        RowBlock::new(rows, buffer().into(), buffer())
    };
    let take =
        |n, blocks| DeviceWeights::from_blocks(f32, n, 64, RowOrder::Rows, blocks).map(|w| w.n());
    let block = |rows| buffers(rows, 4096);
    assert_eq!(take(9, vec![block(0..4), block(4..9)]), Ok(9));
    assert_eq!(take(0, vec![]), Ok(0));
    let out = |block, have, start| Err(WeightsError::Blocks { block, have, start });
    assert_eq!(take(9, vec![]), out(0, 0..0, 0));
    assert_eq!(take(9, vec![block(0..4)]), out(1, 4..4, 4));
    assert_eq!(take(9, vec![block(2..9)]), out(0, 2..9, 0));
    assert_eq!(take(9, vec![block(0..4), block(3..9)]), out(1, 3..9, 4));
    assert_eq!(take(9, vec![block(0..3), block(3..9)]), out(0, 0..3, 0));
    assert_eq!(take(9, vec![block(0..10)]), out(0, 0..10, 0));
    assert_eq!(take(9, vec![block(0..0), block(0..9)]), out(0, 0..0, 0));
    assert_eq!(take(9, vec![block(0..usize::MAX)]), out(0, 0..usize::MAX, 0));
    #[expect(clippy::reversed_empty_ranges)]
    let backwards = 4..0;
    assert_eq!(take(9, vec![block(backwards.clone())]), out(0, backwards, 0));
    let got = take(9, vec![buffers(0..9, 9 * 256 - 4)]);
    let part = "codes";
    let (need, have) = (2304, 2300);
    assert_eq!(got, Err(WeightsError::TooSmall { block: 0, part, need, have }));
    let whole = block(0..9);
    let short = RowBlock::new(0..9, whole.codes().clone(), noop.buffer(12));
    let (part, need, have) = ("side", 32, 12);
    assert_eq!(take(9, vec![short]), Err(WeightsError::TooSmall { block: 0, part, need, have }));
    assert_eq!(take(large, vec![]), Err(WeightsError::TooLarge { n: large, k: 64 }));
    noop.assert_quiet();
}

/// The noop device allocates from the heap, so a size that no heap has is out of memory.
#[test]
fn out_of_memory_is_an_error() {
    let noop = Noop::new(Limits { max_buffer_size: 1 << 62, ..Limits::defaults() });
    let host = lowbit::host::Host::with_caps(
        noop.device.adapter_info(),
        noop.device.clone(),
        noop.queue.clone(),
        noop.kernels().caps(),
    )
    .unwrap();
    let error = host.zeros(1 << 61).unwrap_err();
    let lowbit::host::HostError::Device(DeviceError::OutOfMemory { what, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!(what, "lowbit host");
    // Exceeding the device's limit is a different error from running out of memory.
    let error = host.zeros(u64::MAX).unwrap_err();
    assert!(matches!(error, lowbit::host::HostError::Device(DeviceError::Refused { .. })));
    noop.assert_quiet();
    // The device works after both errors.
    host.zeros(16).unwrap();
    let rig = Rig::new(host.kernels(), &noop, MatmulSpec::new(5, 7, 64, int4()));
    let bound = rig.bind(|_| ()).unwrap();
    noop.submit(|pass| bound.record(pass, 5).unwrap());
    noop.assert_quiet();
}

#[test]
fn a_lost_device_is_an_error() {
    let noop = Noop::new(Limits::defaults());
    let kernels = noop.kernels();
    let rig = Rig::new(&kernels, &noop, MatmulSpec::new(5, 7, 64, int4()));
    noop.device.destroy();
    let _ = noop.device.poll(wgpu::PollType::Poll);
    let lost = |error: &DeviceError| matches!(error, DeviceError::Lost(_));
    match plan(&kernels, &MatmulSpec::new(2, 2, 2, int4())).map(drop) {
        Err(PlanError::Device(error)) => assert!(lost(&error)),
        other => panic!("{other:?}"),
    }
    match rig.bind(|_| ()).map(drop) {
        Err(BindError::Device(error)) => assert!(lost(&error)),
        other => panic!("{other:?}"),
    }
    match block_on(DeviceWeights::allocate(&kernels, int4(), 2, 2)).map(drop) {
        Err(WeightsError::Device(error)) => assert!(lost(&error)),
        other => panic!("{other:?}"),
    }
    assert!(lost(&kernels.lost_flag().reason().map(|r| DeviceError::Lost(r.into())).unwrap()));
    noop.assert_quiet();
}

/// The size of a buffer need not be a multiple of 4 bytes, but that of a binding must be.
#[test]
fn odd_buffer_sizes_are_bound() {
    let noop = Noop::new(Limits::defaults());
    let kernels = noop.kernels();
    for (n, k, float) in [(1, 1, FloatType::F32), (1, 1, FloatType::F16), (3, 5, FloatType::F16)] {
        let spec = MatmulSpec::new(1, n, k, int4()).with_activations(float).with_output(float);
        let plan = plan(&kernels, &spec).unwrap();
        let weights = empty(&kernels, int4(), n as usize, k as usize);
        let words = |bytes: u64| bytes.next_multiple_of(4);
        for extra in 0..9 {
            let x = noop.buffer(words(spec.x_bytes(1)) + extra);
            let y = noop.buffer(words(spec.y_bytes(1)) + extra);
            let (activations, output) = ((&x).into(), (&y).into());
            let args = MatmulArgs { activations, weights: &weights, bias: None, output };
            let bound = block_on(plan.bind(args)).unwrap();
            noop.submit(|pass| bound.record(pass, 1).unwrap());
        }
    }
    noop.assert_quiet();
}

/// X without columns has no bytes, however many rows and whatever strides it has, and Y is the
/// bias.
#[test]
fn no_columns_need_no_buffer() {
    let noop = Noop::new(Limits::defaults());
    let kernels = noop.kernels_with(|caps| caps.max_binding = 1024);
    for batch in [1, 3] {
        let spec = MatmulSpec::new(31, 31, 0, WeightFormat::f32()).with_batch(batch);
        let rig = Rig::new(&kernels, &noop, spec.with_x_strides(300, 9300));
        assert_eq!(rig.x.size(), 16);
        let bound = rig.bind(|_| ()).unwrap();
        assert!(bound.dispatches() > 1);
        noop.submit(|pass| bound.record(pass, 31).unwrap());
    }
    noop.assert_quiet();
}

fn send_and_sync<T: Send + Sync>() {}

#[test]
fn handles_cross_threads() {
    send_and_sync::<Kernels>();
    send_and_sync::<DeviceWeights>();
    send_and_sync::<MatmulPlan>();
    send_and_sync::<BoundMatmul>();
    send_and_sync::<lowbit::host::Host>();
}

/// Generates small numbers, edge cases and arbitrary numbers.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        12 => 0u32..10,
        8 => prop::sample::select(vec![31, 32, 33, 63, 64, 65, 127, 130, 255, 257, 1000]),
        1 => prop::sample::select(vec![
            65_535, 65_536, (1 << 20) - 1, 1 << 20, i32::MAX as u32, 1 << 31, u32::MAX - 1, u32::MAX
        ]),
        1 => any::<u32>(),
    ]
}

fn format() -> impl Strategy<Value = WeightFormat> {
    prop::sample::select(vec![
        "f32",
        "2:4+f16",
        "int8-channel",
        "int4-g64-asym",
        "2:4+int4-g24-asym-f16s",
        "2:4+int8-tensor",
    ])
    .prop_map(|name| name.parse().unwrap())
}

fn schedule() -> impl Strategy<Value = Select> {
    prop_oneof![
        8 => Just(Select::Auto),
        8 => prop::sample::select(Schedule::all(200)).prop_map(Select::Pinned),
        1 => (prop::sample::select(vec![0, 1, 2, 3, 64, 65]), 0u32..10)
            .prop_map(|(lanes, m_tile)| Select::Pinned(Schedule::Gemv { lanes, m_tile })),
    ]
}

/// Returns a stride that is often right, sometimes slightly wrong and sometimes arbitrary.
fn adjust(stride: u32, by: &Adjust) -> u32 {
    match *by {
        Adjust::Keep => stride,
        Adjust::Add(d) => stride.saturating_add_signed(d),
        Adjust::Set(v) => v,
    }
}

#[derive(Clone, Debug)]
enum Adjust {
    Keep,
    Add(i32),
    Set(u32),
}

fn adjustment() -> impl Strategy<Value = Adjust> {
    prop_oneof![
        30 => Just(Adjust::Keep),
        8 => (-1i32..9).prop_map(Adjust::Add),
        1 => number().prop_map(Adjust::Set),
    ]
}

prop_compose! {
    fn spec()(
        format in format(),
        (max_m, n, k, batch) in (number(), number(), number(), prop_oneof![3 => Just(1), 1 => number()]),
        (x16, y16, bias, any_offset) in any::<(bool, bool, bool, bool)>(),
        strides in prop::array::uniform4(adjustment()),
    ) -> MatmulSpec {
        let float = |half| if half { FloatType::F16 } else { FloatType::F32 };
        let mut spec = MatmulSpec::new(max_m, n, k, format)
            .with_activations(float(x16))
            .with_output(float(y16))
            .with_batch(batch);
        (spec.bias, spec.any_x_offset) = (bias, any_offset);
        let row = adjust(spec.x_stride, &strides[0]);
        let whole = row.saturating_mul(max_m);
        spec = spec.with_x_strides(row, adjust(whole, &strides[1]));
        let row = adjust(spec.y_stride, &strides[2]);
        let whole = row.saturating_mul(max_m);
        spec.with_y_strides(row, adjust(whole, &strides[3]))
    }
}

/// Generates the offset in a buffer, and by how much it is longer than necessary.
fn place() -> impl Strategy<Value = (u64, i64)> {
    let offset = prop_oneof![
        12 => Just(0u64),
        8 => (0u64..20).prop_map(|o| 16 * o),
        2 => (0u64..80).prop_map(|o| 4 * o),
        1 => 0u64..64,
        1 => any::<u64>(),
    ];
    (offset, prop_oneof![10 => Just(0i64), 9 => 1i64..300, 1 => -20i64..0])
}

thread_local! {
    /// The number of random cases that were recorded.
    static BOUND: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    /// One device, and kernels that are told of different limits.
    static RIG: (Noop, Vec<Kernels>) = {
        let noop = Noop::new(Limits::defaults());
        let kernels = vec![
            noop.kernels(),
            noop.kernels_with(|c| c.class = AdapterClass::Cpu),
            noop.kernels_with(|c| (c.max_binding, c.max_groups) = (1024, 3)),
            noop.kernels_with(|c| (c.max_binding, c.max_buffer) = (1300, 1 << 14)),
            noop.kernels_with(|c| (c.max_binding, c.max_groups) = (8192, 1)),
            noop.kernels_with(|c| (c.max_workgroup_memory, c.max_invocations) = (1024, 64)),
            noop.kernels_with(|c| (c.storage_align, c.uniform_align) = (3000, 513)),
            // With these limits, nothing can run.
            noop.kernels_with(|c| (c.max_binding, c.max_buffer, c.max_groups) = (0, 0, 0)),
        ];
        (noop, kernels)
    };
}

/// How many matmuls are drawn.
fn draws() -> u32 {
    if crate::common::long() { 4000 } else { 1500 }
}

/// Nothing panics or reaches the uncaptured error handler, and everything that is accepted passes
/// wgpu's own validation when it is recorded and submitted without an error scope.
#[test]
fn any_matmul_is_safe() {
    matmuls();
    let bound = BOUND.with(std::cell::Cell::get);
    let drawn = draws() as usize;
    let said = format!("{bound} of {drawn} matmuls were accepted");
    eprintln!("{said}");
    assert!(bound > drawn / 10, "{said}: the others hide everything");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: draws(), failure_persistence: None, ..Default::default() })]

    fn matmuls(
        spec in spec(),
        how in schedule(),
        which in prop_oneof![9 => 0usize..7, 1 => Just(7)],
        places in prop::array::uniform3(place()),
        m in prop_oneof![Just(None), number().prop_map(Some)],
    ) {
        RIG.with(|(noop, kernels)| {
            let kernels = &kernels[which];
            let bytes =
                [spec.x_bytes(spec.max_m), spec.y_bytes(spec.max_m), 4 * u64::from(spec.n)];
            let Ok(plan) = block_on(MatmulPlan::new(kernels, &spec, how)) else {
                noop.assert_quiet();
                return;
            };
            // Large shapes get no memory here, because they must be refused before anything is
            // read.
            let (n, k) = (spec.n as usize, spec.k as usize);
            let small = n.saturating_mul(k + 64) < 1 << 20;
            let allocated = small.then(|| block_on(DeviceWeights::allocate(kernels, spec.weights, n, k)));
            let Some(Ok(weights)) = allocated else {
                noop.assert_quiet();
                return;
            };
            let buffer = |at: usize| {
                let (offset, more) = places[at];
                let need = bytes[at].saturating_add(offset).saturating_add_signed(more);
                noop.buffer(need.clamp(1, 1 << 20))
            };
            let (x, y, bias) = (buffer(0), buffer(1), buffer(2));
            let at = |buffer, at: usize| SubBuffer { buffer, offset: places[at].0 };
            let bound = block_on(plan.bind(MatmulArgs {
                activations: at(&x, 0),
                weights: &weights,
                bias: spec.bias.then(|| at(&bias, 2)),
                output: at(&y, 1),
            }));
            if let Ok(bound) = bound {
                let m = m.unwrap_or(spec.max_m);
                noop.submit(|pass| {
                    assert_eq!(bound.record(pass, m).is_err(), m > spec.max_m);
                });
                BOUND.with(|count| count.set(count.get() + 1));
            } else if let Err(BindError::Device(error)) = bound {
                // The device must not refuse anything that was checked before.
                panic!("{error}");
            }
            noop.assert_quiet();
        });
    }

    /// Splitting covers every row once, in order and within the limit, or returns an error.
    #[test]
    fn any_split_is_whole(
        format in format(),
        n in prop_oneof![number().prop_map(|n| n as usize), any::<usize>()],
        k in prop_oneof![number().prop_map(|k| k as usize), any::<usize>()],
        limit in prop_oneof![0u64..10_000, any::<u64>()],
        class in prop_oneof![Just(AdapterClass::Gpu), Just(AdapterClass::Cpu)],
    ) {
        let mut caps = Caps::from_limits(class, &Limits::defaults());
        caps.max_binding = limit;
        if let Ok((layout, blocks)) = DeviceWeights::split(&caps, format, n, k) {
            let mut start = 0;
            for rows in blocks {
                prop_assert_eq!(rows.start, start);
                prop_assert!(!rows.is_empty());
                prop_assert!(rows.end == n || rows.end % 2 == 0);
                let (codes, side) = layout.bytes(rows.len());
                prop_assert!(codes.max(side) <= limit);
                start = rows.end;
            }
            prop_assert_eq!(start, n);
        }
    }

    /// Tests the sizes of specs that were not checked.
    #[test]
    fn any_spec_is_checked(
        numbers in prop::array::uniform8(prop_oneof![number(), any::<u32>()]),
        half in any::<bool>(),
        format in format(),
    ) {
        let [max_m, n, k, batch, x, xb, y, yb] = numbers;
        let float = if half { FloatType::F16 } else { FloatType::F32 };
        let spec = MatmulSpec::new(max_m, n, k, format)
            .with_activations(float)
            .with_output(float)
            .with_batch(batch)
            .with_x_strides(x, xb)
            .with_y_strides(y, yb);
        let (x, y) = (spec.x_bytes(max_m), spec.y_bytes(max_m));
        prop_assert!(x <= spec.x_bytes(u32::MAX) && y <= spec.y_bytes(u32::MAX));
        if spec.check().is_ok() && max_m > 0 && batch > 0 {
            prop_assert!(x >= u64::from(k) * float.bytes());
            prop_assert!(u128::from(y) >= u128::from(n) * u128::from(max_m) * u128::from(batch) * u128::from(float.bytes()));
        }
    }
}

/// Replaces a block's codes or its side buffer.
fn replace(block: &mut RowBlock, part: &str, buffer: &wgpu::Buffer) {
    let (rows, codes, side) = (block.rows(), block.codes().clone(), block.side().clone());
    *block = if part == "codes" {
        RowBlock::new(rows, buffer.clone().into(), side)
    } else {
        RowBlock::new(rows, codes, buffer.clone())
    };
}
