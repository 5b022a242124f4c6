//! Work that exceeds a limit of the device is split, and the results must equal those of the
//! unsplit run bit for bit.
//!
//! The limits are lowered on the device itself, so that it would refuse an unsplit binding or grid.
//! Each test asserts that splitting took place.

use crate::common::Random;
use half::f16;
use lowbit::format::{PackedWeights, RowOrder, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::{
    Activations, DeviceWeights, FloatType, MatmulArgs, MatmulPlan, MatmulSpec, Output, Schedule,
    Select, SubBuffer,
};
use pollster::block_on;
use std::collections::HashSet;

const K: u32 = 200;
/// A word that is NaN as f32 and as two f16. Arithmetic on finite numbers does not produce it.
const SENTINEL: u32 = 0x7fc5_7fc5;
/// The offset of X and Y in bytes. It is not a multiple of the binding alignment.
const X_OFFSET: u64 = 48;
const Y_OFFSET: u64 = 20;

const FORMATS: [&str; 6] =
    ["f32", "2:4+f16", "int8-channel-asym", "int4-g64-asym", "2:4+int4-g24-asym-f16s", "int16-g7"];

struct Job {
    packed: PackedWeights,
    spec: MatmulSpec,
    schedule: Schedule,
    x: Vec<u32>,
    bias: Vec<u32>,
    /// The number of rows, which is less than `spec.max_m`.
    m: u32,
}

impl Job {
    /// Creates a job with three tiles of rows and two or three of columns, with odd dimensions and
    /// a batch of three. These are more than 9 workgroups, even with two tiles of rows, and at most
    /// 27.
    fn new(format: &str, schedule: Schedule, x: FloatType, y: FloatType, seed: u64) -> Self {
        let (tile_m, tile_n) = schedule.tile();
        // With small tiles, the last of three is nearly full, so that not all of W fits into one
        // binding.
        let n = match tile_n {
            0..=16 => 3 * tile_n - 1,
            17..=128 => 2 * tile_n + 1,
            _ => tile_n + 1,
        };
        let max_m = 2 * tile_m + 1;
        let format: WeightFormat = format.parse().unwrap();
        let spec = MatmulSpec::new(max_m, n, K, format)
            .with_activations(x)
            .with_output(y)
            .with_batch(3)
            .with_bias()
            .with_x_strides(K + 4, (K + 4) * max_m + 8)
            .with_y_strides(n + 3, (n + 3) * max_m + 2);
        Self::from_spec(spec, schedule, 2 * tile_m, seed)
    }

    fn from_spec(spec: MatmulSpec, schedule: Schedule, m: u32, seed: u64) -> Self {
        assert!(m < spec.max_m);
        spec.check().unwrap();
        let mut random = Random(seed);
        let words = (X_OFFSET + spec.x_bytes(spec.max_m)).div_ceil(4);
        let x = (0..words).map(|_| match spec.activations {
            Activations::Float(FloatType::F32) => random.float().to_bits(),
            _ => {
                let [low, high] =
                    [(); 2].map(|()| u32::from(f16::from_f32(random.float()).to_bits()));
                low | high << 16
            }
        });
        Self {
            x: x.collect(),
            bias: (0..spec.n).map(|_| random.float().to_bits()).collect(),
            packed: crate::common::random_weights(spec.weights, spec.n as usize, K as usize, seed),
            spec,
            schedule,
            m,
        }
    }

    fn name(&self) -> String {
        let MatmulSpec { weights, activations, output, max_m, n, batch, .. } = &self.spec;
        let (x, y) = (activations, output);
        format!("{weights} {} {x}→{y} {max_m}×{n}×{batch}", self.schedule)
    }
}

struct Ran {
    /// Y after `m` rows and after all rows, including sentinels.
    y: [Vec<u32>; 2],
    blocks: usize,
    dispatches: usize,
    /// The size of the largest buffer of weights in bytes.
    largest: u64,
}

fn run(host: &Host, job: &Job) -> Ran {
    let weights = host.upload(&job.packed).unwrap();
    let mut spec = job.spec.clone();
    spec.code_textures = weights.has_textures();
    let spec = &spec;
    assert_eq!(host.download(&weights).unwrap(), job.packed);
    let plan =
        block_on(MatmulPlan::new(host.kernels(), spec, Select::Pinned(job.schedule))).unwrap();
    let x = host.storage(&job.x).unwrap();
    let bias = host.storage(&job.bias).unwrap();
    let words = (Y_OFFSET + spec.y_bytes(spec.max_m)).div_ceil(4) as usize + 9;
    let y = [job.m, spec.max_m].map(|m| {
        let y = host.storage(&vec![SENTINEL; words]).unwrap();
        let bound = block_on(plan.bind(MatmulArgs {
            activations: SubBuffer { buffer: &x, offset: X_OFFSET },
            weights: &weights,
            bias: Some((&bias).into()),
            output: SubBuffer { buffer: &y, offset: Y_OFFSET },
        }))
        .unwrap();
        host.submit(|pass| bound.record(pass, m).unwrap()).unwrap();
        (host.read(&y, 0, words).unwrap(), bound.dispatches())
    });
    let buffers = weights.blocks().iter().flat_map(lowbit::ops::RowBlock::buffers);
    let largest = buffers.map(wgpu::Buffer::size).max().unwrap();
    let dispatches = y[0].1;
    let y = y.map(|(y, _)| y);
    for (y, m) in y.iter().zip([job.m, spec.max_m]) {
        let written = match spec.output {
            Output::Float(FloatType::F32) => y.iter().filter(|&&w| w != SENTINEL).count(),
            _ => y.iter().flat_map(|w| [w & 0xffff, w >> 16]).filter(|&h| h != 0x7fc5).count(),
        };
        assert_eq!(written, (spec.batch * m * spec.n) as usize, "{}", job.name());
    }
    Ran { y, blocks: weights.blocks().len(), dispatches, largest }
}

/// Returns every schedule with a third of the formats and every format with a third of the
/// schedules. All pairs of types of X and Y occur.
fn jobs() -> Vec<Job> {
    let types = [FloatType::F32, FloatType::F16];
    let mut jobs = Vec::new();
    for (i, format) in FORMATS.into_iter().enumerate() {
        for (j, schedule) in Schedule::all(K).into_iter().enumerate() {
            if (i + j) % 3 == 0 {
                let (x, y) = (types[jobs.len() % 2], types[jobs.len() / 2 % 2]);
                jobs.push(Job::new(format, schedule, x, y, (10 * i + j) as u64));
            }
        }
    }
    for x in types {
        for y in types {
            let with = |job: &&Job| (job.spec.activations, job.spec.output) == (x.into(), y.into());
            assert!(jobs.iter().filter(with).count() >= 3, "{x:?} {y:?}");
        }
    }
    jobs
}

#[test]
fn bindings_and_grids_are_split() {
    let Some(whole) = crate::common::host() else { return };
    const BINDING: u64 = 2048;
    let bindings = crate::common::host_within(whole, |limits| {
        limits.max_storage_buffer_binding_size = BINDING;
        limits.min_storage_buffer_offset_alignment = 256;
        limits.max_compute_workgroups_per_dimension = 2;
    });
    // Panels of eight rows would not fit into such a small binding. `slices_are_split` splits them.
    let mut caps = bindings.kernels().caps().clone();
    caps.row_order = RowOrder::Rows;
    let (info, device) = (whole.adapter_info().clone(), bindings.device().clone());
    let bindings = Host::with_caps(info, device, bindings.queue().clone(), &caps).unwrap();
    let grids = crate::common::host_within(whole, |limits| {
        limits.max_compute_workgroups_per_dimension = 3;
    });
    assert_eq!(bindings.device().limits().max_storage_buffer_binding_size, BINDING);
    assert_eq!(grids.device().limits().max_compute_workgroups_per_dimension, 3);
    let mut folded_schedules = HashSet::new();
    for job in jobs() {
        let name = job.name();
        let unsplit = run(whole, &job);
        assert_eq!((unsplit.blocks, unsplit.dispatches), (1, 1), "{name}");

        let split = run(&bindings, &job);
        assert!(split.largest <= BINDING, "{name}: a buffer of {} bytes", split.largest);
        assert!(split.blocks > 1, "{name}: the weights are in one piece");
        // X and Y have more than one span, so rows or batches were split as well.
        assert!(split.dispatches >= 2 * split.blocks, "{name}: X and Y are in one piece");
        assert!(split.y == unsplit.y, "{name}: split bindings change the result");

        let choice =
            lowbit::ops::KernelChoice::new(&job.spec, job.schedule, grids.kernels().caps());
        for m in [job.m, job.spec.max_m] {
            let groups = choice.groups(m, job.spec.n, job.spec.batch);
            let fold = grids.kernels().caps().fold(groups).unwrap();
            assert!(fold.iter().all(|&d| (2..=3).contains(&d)), "{name}: {groups} as {fold:?}");
        }
        // How a grid folds is up to the schedule alone.
        if !folded_schedules.insert(job.schedule) {
            continue;
        }
        let folded = run(&grids, &job);
        assert_eq!((folded.blocks, folded.dispatches), (1, 1), "{name}");
        assert!(folded.y == unsplit.y, "{name}: a folded grid changes the result");
    }
}

/// If whole batches fit into a binding, each dispatch takes as many as fit.
#[test]
fn whole_batches_share_a_dispatch() {
    let Some(whole) = crate::common::host() else { return };
    let small = crate::common::host_within(whole, |limits| {
        limits.max_storage_buffer_binding_size = 16384;
        limits.min_storage_buffer_offset_alignment = 256;
    });
    let (n, max_m, format) = (31, 9, "int8-channel".parse().unwrap());
    let spec = MatmulSpec::new(max_m, n, K, format).with_bias().with_batch(5);
    // One X takes 9 · 200 · 4 = 7200 bytes. Two of them fit into 16384 − 272 bytes, and three do
    // not.
    let job = Job::from_spec(spec, Schedule::Rows { m_tile: 4, n_tile: 2 }, 5, 1);
    let (unsplit, split) = (run(whole, &job), run(&small, &job));
    assert_eq!((split.blocks, split.dispatches), (1, 3));
    assert!(split.y == unsplit.y);
    // An X that all batches share need not be split, so only Y counts: 5 · 9 · 31 · 4 bytes.
    let shared = job.spec.clone().with_x_strides(K, 0);
    let job = Job::from_spec(shared, Schedule::Rows { m_tile: 4, n_tile: 2 }, 5, 2);
    let (unsplit, split) = (run(whole, &job), run(&small, &job));
    assert_eq!((split.blocks, split.dispatches), (1, 1));
    assert!(split.y == unsplit.y);
}

/// The calls on slices split their work as well.
#[test]
fn slices_are_split() {
    let Some(whole) = crate::common::host() else { return };
    let small = crate::common::host_within(whole, |limits| {
        limits.max_storage_buffer_binding_size = 8192;
        limits.min_storage_buffer_offset_alignment = 256;
        limits.max_compute_workgroups_per_dimension = 4;
    });
    let (m, n, k) = (21, 301, 300);
    let mut random = Random(3);
    let x: Vec<f32> = (0..m * k).map(|_| random.float()).collect();
    let bias: Vec<f32> = (0..n).map(|_| random.float()).collect();
    for format in ["2:4+int8-g64", "int4-g20-asym"] {
        let packed = crate::common::random_weights(format.parse().unwrap(), n, k, 4);
        let results = [whole, &small].map(|host| {
            let weights = host.upload(&packed).unwrap();
            let y = host.matmul(&x, m, &weights, Some(&bias)).unwrap();
            (y, host.dequantize(&weights).unwrap(), weights.blocks().len())
        });
        assert_eq!(results[0].2, 1);
        assert!(results[1].2 > 1);
        assert!(results[0].0 == results[1].0, "{format}: Y differs");
        assert!(results[0].1 == results[1].1, "{format}: dequantized weights differ");
    }
}

/// A limit that only `Caps` states, and not the device, is respected as well.
#[test]
fn stated_limits_split_too() {
    let Some(whole) = crate::common::host() else { return };
    let mut caps = whole.kernels().caps().clone();
    (caps.max_binding, caps.storage_align) = (4096, 256);
    let (info, device) = (whole.adapter_info().clone(), whole.device().clone());
    let stated = Host::with_caps(info, device, whole.queue().clone(), &caps).unwrap();
    let format: WeightFormat = "int4-g32".parse().unwrap();
    let job = Job::new(
        "int4-g32",
        Schedule::Gemv { lanes: 8, m_tile: 4 },
        FloatType::F32,
        FloatType::F32,
        5,
    );
    let (unsplit, split) = (run(whole, &job), run(&stated, &job));
    assert!(split.blocks > 1 && split.dispatches >= 2 * split.blocks && split.largest <= 4096);
    assert!(split.y == unsplit.y);
    // Empty buffers that kernels fill are split in the same way.
    let (n, k) = (job.packed.n(), job.packed.k());
    let empty = block_on(DeviceWeights::allocate(stated.kernels(), format, n, k)).unwrap();
    let rows = |w: &DeviceWeights| w.blocks().iter().map(|b| b.rows()).collect::<Vec<_>>();
    assert_eq!(rows(&empty), rows(&stated.upload(&job.packed).unwrap()));
    assert!(empty.blocks().iter().all(|b| b.codes().size().max(b.side().size()) <= 4096));
}
