//! Checks that ten thousand mixed dispatches on one device leak neither memory nor handles. The
//! same measurement detects binds that are kept.

mod common;

use common::Random;
use lowbit::compress::{self, calibrate};
use lowbit::format::PackedWeights;
use lowbit::host::Host;
use lowbit::ops::matmul::BoundMatmul;
use lowbit::ops::{DeviceWeights, MatmulArgs, MatmulPlan, MatmulSpec, Schedule, Select};
use lowbit::reference::{self, OutputType};
use pollster::block_on;
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Instant;

/// The number of heap bytes that Rust code holds: objects of wgpu and of this crate.
static HEAP: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.fetch_add(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HEAP.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Dispatches between two counts, and in `make test-all`.
const DISPATCHES: [usize; 2] = [10_000, 100_000];
const MAX_M: u32 = 40;

/// The resources that the process and the device hold.
#[derive(Clone, Debug)]
struct Footprint {
    /// Resident memory in bytes, including the driver's.
    resident: isize,
    /// Bytes of Rust's heap.
    heap: isize,
    /// Allocated bytes of the device's memory.
    device: isize,
    /// Number of open files.
    files: usize,
    /// Number of live objects of wgpu and of the driver, by kind.
    handles: BTreeMap<&'static str, isize>,
}

impl Footprint {
    /// Measures once the device is idle.
    fn of(instance: &wgpu::Instance, host: &Host) -> Self {
        for _ in 0..2 {
            host.submit(|_| ()).unwrap();
            host.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: isize = line.trim().trim_end_matches(" kB").parse().unwrap();
        let mut handles = BTreeMap::new();
        let report = instance.generate_report().expect("a report of wgpu's own objects");
        let hub = report.hub_report();
        for (kind, registry) in [
            ("buffer ids", &hub.buffers),
            ("bind group ids", &hub.bind_groups),
            ("bind group layout ids", &hub.bind_group_layouts),
            ("pipeline layout ids", &hub.pipeline_layouts),
            ("pipeline ids", &hub.compute_pipelines),
            ("shader ids", &hub.shader_modules),
            ("texture ids", &hub.textures),
            ("texture view ids", &hub.texture_views),
            ("encoder ids", &hub.command_encoders),
            ("command buffer ids", &hub.command_buffers),
            ("pass ids", &hub.compute_passes),
            ("query set ids", &hub.query_sets),
        ] {
            handles.insert(kind, registry.num_kept_from_user as isize);
        }
        // wgpu 30 decrements its count of textures but does not increment it, so only their ids are
        // counted.
        let counters = host.device().get_internal_counters().hal;
        for (kind, counter) in [
            ("buffers", &counters.buffers),
            ("bind groups", &counters.bind_groups),
            ("bind group layouts", &counters.bind_group_layouts),
            ("pipeline layouts", &counters.pipeline_layouts),
            ("pipelines", &counters.compute_pipelines),
            ("shaders", &counters.shader_modules),
            ("texture views", &counters.texture_views),
            ("query sets", &counters.query_sets),
            ("fences", &counters.fences),
        ] {
            handles.insert(kind, counter.read());
        }
        handles.insert("cached kernels", host.kernels().cached_pipelines() as isize);
        let device = host.device().generate_allocator_report();
        Self {
            resident: 1024 * kib,
            heap: HEAP.load(Ordering::Relaxed),
            device: device.map_or(0, |report| report.total_allocated_bytes as isize),
            files: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            handles,
        }
    }
}

/// Returns what has grown over so many dispatches although it must not. No further objects are
/// allowed. Bytes are compared with `bind`, the heap bytes of one bind: a leak in one of a hundred
/// dispatches is detected. Resident memory is rounded to pages, and allocators return it late, so
/// only a leak in one of ten dispatches is detected there.
fn leaks(before: &Footprint, after: &Footprint, dispatches: usize, bind: isize) -> Vec<String> {
    let mut found = Vec::new();
    for (kind, count) in &after.handles {
        if *count > before.handles[kind] {
            found.push(format!("{kind}: {} → {count}", before.handles[kind]));
        }
    }
    if after.files > before.files {
        found.push(format!("open files: {} → {}", before.files, after.files));
    }
    if after.device > before.device {
        found.push(format!("device memory: {} → {} bytes", before.device, after.device));
    }
    let dispatches = dispatches as isize;
    for (what, before, after, limit) in [
        ("heap", before.heap, after.heap, bind * dispatches / 100),
        ("resident memory", before.resident, after.resident, bind * dispatches / 10),
    ] {
        if after - before > limit {
            found.push(format!("{what}: {before} → {after} bytes, more than {limit}"));
        }
    }
    found
}

/// A matmul whose weights, buffers and bind are dropped and created again after some turns.
struct Slot {
    format: &'static str,
    schedule: Option<Schedule>,
    made: Option<Made>,
}

struct Made {
    packed: PackedWeights,
    /// These are held although nothing reads them: binds keep the buffers alive without them.
    _weights: DeviceWeights,
    bound: BoundMatmul,
    x: Vec<f32>,
    y: wgpu::Buffer,
    turns: u64,
}

impl Slot {
    fn new(format: &'static str, schedule: Option<Schedule>) -> Self {
        Self { format, schedule, made: None }
    }

    fn make(&self, host: &Host, random: &mut Random) -> Made {
        let (n, k) = (2 * (1 + random.next() % 60) as usize, 32 * (1 + random.next() % 8) as usize);
        let packed = common::random_weights(self.format.parse().unwrap(), n, k, random.next());
        let weights = host.upload(&packed).unwrap();
        let spec = MatmulSpec::of(MAX_M, &weights);
        let how = self.schedule.map_or(Select::Auto, Select::Pinned);
        let plan = block_on(MatmulPlan::new(host.kernels(), &spec, how)).unwrap();
        let x = common::floats(MAX_M as usize * k, random.next());
        let x_buffer = host.storage(bytemuck::cast_slice(&x)).unwrap();
        let y = host.zeros(spec.y_bytes(MAX_M)).unwrap();
        let args = MatmulArgs {
            activations: (&x_buffer).into(),
            weights: &weights,
            bias: None,
            output: (&y).into(),
        };
        let bound = block_on(plan.bind(args)).unwrap();
        let turns = 1 + random.next() % 12;
        Made { packed, _weights: weights, bound, x, y, turns }
    }

    /// Records a few dispatches at once, each with its own m. Checks the last one if `check` is
    /// set. Returns the number of dispatches and the bind, in case it is kept.
    fn turn(&mut self, host: &Host, random: &mut Random, check: bool) -> (usize, BoundMatmul) {
        let mut made = self.made.take().unwrap_or_else(|| self.make(host, random));
        let ms: Vec<u32> =
            (0..1 + random.next() % 6).map(|_| 1 + random.next() as u32 % MAX_M).collect();
        host.submit(|pass| ms.iter().for_each(|&m| made.bound.record(pass, m).unwrap())).unwrap();
        if check {
            let (m, (n, k)) = (ms[ms.len() - 1] as usize, (made.packed.n(), made.packed.k()));
            let y = host.read(&made.y, 0, m * n).unwrap();
            let y: Vec<f32> = y.into_iter().map(f32::from_bits).collect();
            common::assert_within_bound(&made.packed, &made.x[..m * k], m, &y);
        }
        let bound = made.bound.clone();
        made.turns -= 1;
        self.made = (made.turns > 0).then_some(made);
        (ms.len(), bound)
    }
}

fn slots() -> Vec<Slot> {
    let rows = Schedule::Rows { m_tile: 4, n_tile: 2 };
    let gemv = Schedule::Gemv { lanes: 32, m_tile: 4 };
    let tiled = Schedule::Tiled { m_tile: 32 };
    vec![
        Slot::new("int4-g32-asym", None),
        Slot::new("2:4+int8-channel", Some(rows)),
        Slot::new("int8-g64", Some(gemv)),
        Slot::new("f16", Some(tiled)),
        Slot::new("2:4+int4-g40", Some(rows)),
        Slot::new("f32", None),
    ]
}

/// Runs the other ops on slices, where buffers, plans and binds are created and dropped each time.
/// Returns the least number of dispatches.
fn other(host: &Host, random: &mut Random, check: bool) -> usize {
    let (n, k, m) = (2 * (1 + random.next() as usize % 20), 64, 1 + random.next() as usize % 9);
    let (w, x) = (common::floats(n * k, random.next()), common::floats(m * k, random.next()));
    let format = ["int4-g32-asym", "2:4+int8-channel"][random.next() as usize % 2];
    let format = format.parse().unwrap();
    let packed = || compress::quantize(&w, n, k, &format).unwrap();
    let right = |got: &[f32], want: Vec<reference::Expected>| {
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(&want).all(|(&got, want)| reference::check(want, got).passes()));
    };
    match random.next() % 7 {
        0 => {
            let made = host.compress(&w, n, k, &format).unwrap();
            if check {
                assert_eq!(host.download(&made).unwrap(), packed());
            }
            2
        }
        1 => {
            let rows = host.dequantize(&host.upload(&packed()).unwrap()).unwrap();
            if check {
                right(&rows, reference::dequantize(&packed(), OutputType::F32).unwrap());
            }
            1
        }
        2 => {
            let indices = [0, n as u32 - 1, n as u32 / 2];
            let rows = host.gather(&host.upload(&packed()).unwrap(), &indices).unwrap();
            if check {
                right(&rows, reference::gather(&packed(), &indices, OutputType::F32).unwrap());
            }
            1
        }
        3 => {
            let made = host.repack(&packed()).unwrap();
            if check {
                assert_eq!(host.download(&made).unwrap(), packed());
            }
            1
        }
        4 => {
            common::quantizes_and_multiplies(host, &packed(), &x, m).unwrap();
            2
        }
        5 => {
            let observer = calibrate::Observer::tensor("x", k);
            let mut seen = calibrate::Statistics::new(observer.clone()).unwrap();
            host.observe(&mut seen, &x).unwrap();
            if check {
                let mut want = calibrate::Statistics::new(observer).unwrap();
                want.observe(&x).unwrap();
                assert_eq!(seen, want);
            }
            1
        }
        _ => {
            common::fakes(host, &"int8-g32".parse().unwrap(), (&x, &x), (m, k)).unwrap();
            2
        }
    }
}

/// Runs at least so many dispatches and returns the number of results that were checked. Binds are
/// moved into `kept`, if that is given.
fn run(
    host: &Host,
    slots: &mut [Slot],
    dispatches: usize,
    random: &mut Random,
    mut kept: Option<&mut Vec<BoundMatmul>>,
) -> (usize, usize) {
    let (mut done, mut checked, mut turn) = (0, 0, 0);
    while done < dispatches {
        let check = turn % 16 == 0;
        checked += usize::from(check);
        turn += 1;
        if random.next().is_multiple_of(3) {
            done += other(host, random, check);
            continue;
        }
        let slot = &mut slots[random.next() as usize % 6];
        let (count, bound) = slot.turn(host, random, check);
        done += count;
        if let Some(kept) = &mut kept {
            kept.push(bound);
        }
    }
    // Everything is created again afterwards.
    slots.iter_mut().for_each(|slot| slot.made = None);
    (done, checked)
}

/// Returns the heap bytes that a bind holds, measured with a few hundred binds of one plan.
fn bind_cost(instance: &wgpu::Instance, host: &Host) -> isize {
    const COUNT: isize = 400;
    let weights = host.upload(&common::random_weights("f16".parse().unwrap(), 8, 32, 1)).unwrap();
    let spec = MatmulSpec::of(1, &weights);
    let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).unwrap();
    let (x, y) = (host.zeros(256).unwrap(), host.zeros(256).unwrap());
    let bind = || {
        let args = MatmulArgs {
            activations: (&x).into(),
            weights: &weights,
            bias: None,
            output: (&y).into(),
        };
        block_on(plan.bind(args)).unwrap()
    };
    let before = Footprint::of(instance, host);
    let binds: Vec<_> = (0..COUNT).map(|_| bind()).collect();
    let after = Footprint::of(instance, host);
    drop(binds);
    (after.heap - before.heap) / COUNT
}

#[test]
#[cfg(target_os = "linux")]
fn ten_thousand_dispatches_leak_nothing() {
    if common::host().is_none() {
        return;
    }
    let instance = wgpu::Instance::default();
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    let adapter = block_on(instance.request_adapter(&options)).unwrap();
    let host = Host::with_adapter(&adapter).unwrap();
    let (mut slots, mut random) = (slots(), Random(7));
    // Warm up until every kernel is compiled and every pool has its final size.
    let start = Instant::now();
    let (warm, _) = run(&host, &mut slots, 2000, &mut random, None);
    let bind = bind_cost(&instance, &host);
    eprintln!(
        "warm-up: {warm} dispatches, {:.1} s; a bind holds {bind} bytes of heap",
        seconds(start)
    );
    assert!(bind > 0, "{bind}");

    let dispatches = DISPATCHES[usize::from(common::long())];
    let before = Footprint::of(&instance, &host);
    let start = Instant::now();
    let (done, checked) = run(&host, &mut slots, dispatches, &mut random, None);
    let after = Footprint::of(&instance, &host);
    eprintln!("{done} dispatches, {checked} checked, {:.1} s", seconds(start));
    eprintln!("before: {before:?}\nafter: {after:?}");
    eprintln!(
        "grown a dispatch: {:.1} bytes of heap, {:.1} resident",
        (after.heap - before.heap) as f64 / done as f64,
        (after.resident - before.resident) as f64 / done as f64,
    );
    assert_eq!(leaks(&before, &after, done, bind), [""; 0]);

    // Every measure must detect a run that keeps its binds.
    let mut kept = Vec::new();
    let before = Footprint::of(&instance, &host);
    let (done, _) = run(&host, &mut slots, 2000, &mut Random(11), Some(&mut kept));
    let after = Footprint::of(&instance, &host);
    let found = leaks(&before, &after, done, bind);
    eprintln!("{} binds kept over {done} dispatches:\n  {}", kept.len(), found.join("\n  "));
    for what in ["bind group ids", "bind groups", "buffers", "device memory", "heap", "resident"] {
        assert!(found.iter().any(|leak| leak.starts_with(what)), "{what}: unseen");
    }
    // Dropping them frees everything, except for memory that allocators keep. wgpu's tables keep the size
    // that the most objects at a time took, so that a second run of the same dispatches must leave the heap as it was.
    drop(kept);
    let before = Footprint::of(&instance, &host);
    let mut kept = Vec::new();
    let (done, _) = run(&host, &mut slots, 2000, &mut Random(11), Some(&mut kept));
    drop(kept);
    let after = Footprint::of(&instance, &host);
    let mut found = leaks(&before, &after, done, bind);
    found.retain(|leak| !leak.starts_with("resident"));
    assert_eq!(found, [""; 0]);
}

fn seconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
