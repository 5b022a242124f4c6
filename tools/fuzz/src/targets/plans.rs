//! Plans on a device that validates like any other and runs nothing: any spec, buffers of any sizes
//! and offsets. Nothing panics, and what is accepted passes wgpu's own validation.

use super::pick::{self, Bytes};
use super::specs;
use lowbit::format::{RowOrder, StaticScale, WeightFormat};
use lowbit::gpu::{AdapterClass, Caps, Kernels};
use lowbit::ops::matmul::Schedule;
use lowbit::ops::{
    BindError, DequantizeArgs, DequantizePlan, DeviceWeights, FakeQuantArgs, FakeQuantBackwardArgs,
    FakeQuantPlan, MatmulArgs, MatmulPlan, ObserveArgs, ObservePlan, Output,
    QuantizeActivationsArgs, QuantizeActivationsPlan, QuantizeWeightsArgs, QuantizeWeightsPlan,
    RepackArgs, RepackPlan, RepackSpec, Select, SourceRows, SubBuffer,
};
use pollster::block_on;
use std::sync::{Arc, Mutex};
use wgpu::{Buffer, BufferUsages, Limits};

pub struct Rig {
    device: wgpu::Device,
    queue: wgpu::Queue,
    kernels: Vec<Kernels>,
    errors: Arc<Mutex<Vec<String>>>,
}

thread_local! {
    static RIG: Rig = rig();
}

fn rig() -> Rig {
    let limits = Limits::defaults();
    let noop = wgpu::NoopBackendOptions {
        enable: true,
        limits: Some(limits.clone()),
        ..Default::default()
    };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::NOOP,
        backend_options: wgpu::BackendOptions { noop, ..Default::default() },
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = block_on(instance.request_adapter(&Default::default())).expect("noop");
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = block_on(adapter.request_device(&descriptor)).expect("noop");
    let errors = Arc::<Mutex<Vec<String>>>::default();
    let uncaptured = errors.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        uncaptured.lock().expect("no panic").push(error.to_string());
    }));
    let kernels = |change: &dyn Fn(&mut Caps)| {
        let mut caps = Caps::new(&device.adapter_info(), &device.limits(), device.features());
        caps.row_order = RowOrder::Rows;
        change(&mut caps);
        block_on(Kernels::new(&device, &caps)).expect("kernels of a noop device")
    };
    let kernels = vec![
        kernels(&|_| ()),
        kernels(&|c| (c.class, c.row_order) = (AdapterClass::Cpu, RowOrder::Panels)),
        kernels(&|c| (c.max_binding, c.max_groups) = (1024, 3)),
        kernels(&|c| (c.max_binding, c.max_buffer) = (1300, 1 << 14)),
        kernels(&|c| (c.max_workgroup_memory, c.max_invocations) = (1024, 64)),
        kernels(&|c| (c.storage_align, c.uniform_align) = (3000, 513)),
    ];
    Rig { device, queue, kernels, errors }
}

/// The largest buffer there is here: what asks for more is refused for its size.
const MOST: u64 = 1 << 16;

impl Rig {
    /// A buffer of about the bytes that are needed, and where in it data start.
    pub fn place(&self, u: &mut Bytes<'_>, need: u64) -> (Buffer, u64) {
        let offset = match pick::byte(u) {
            0..=159 => 0,
            some @ 160..=223 => 16 * u64::from(some % 20),
            some @ 224..=239 => 4 * u64::from(some % 20),
            some @ 240..=247 => u64::from(some % 64),
            _ => pick::wide(u),
        };
        let more = match pick::byte(u) {
            0..=191 => 0,
            some @ 192..=239 => i64::from(some - 191),
            some => 239 - i64::from(some),
        };
        let size = need.saturating_add(offset).saturating_add_signed(more).clamp(1, MOST);
        let usage =
            if pick::byte(u) == 255 { BufferUsages::UNIFORM } else { BufferUsages::STORAGE };
        let usage = usage | BufferUsages::COPY_DST;
        let descriptor =
            wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        (self.device.create_buffer(&descriptor), offset)
    }

    pub fn submit(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        record(&mut encoder.begin_compute_pass(&Default::default()));
        self.queue.submit([encoder.finish()]);
        let _ = self.device.poll(wgpu::PollType::Poll);
    }
}

pub fn at((buffer, offset): &(Buffer, u64)) -> SubBuffer<'_> {
    SubBuffer { buffer, offset: *offset }
}

/// The device refuses nothing that was checked before.
pub fn accepted<T>(bound: Result<T, BindError>) -> Option<T> {
    match bound {
        Ok(bound) => Some(bound),
        Err(BindError::Device(error)) => panic!("{error}"),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// Weights of a shape that is small enough to be there.
pub fn weights(kernels: &Kernels, format: WeightFormat, n: u32, k: u32) -> Option<DeviceWeights> {
    let (n, k) = (n as usize, k as usize);
    if n.saturating_mul(k + 64) > 1 << 14 {
        return None;
    }
    block_on(DeviceWeights::allocate(kernels, format, n, k)).ok()
}

/// Runs what uses a device of this thread, and kernels for one of several kinds of it.
pub fn with_rig(u: &mut Bytes<'_>, run: impl FnOnce(&Rig, &Kernels, &mut Bytes<'_>)) {
    RIG.with(|rig| {
        let kernels = &rig.kernels[pick::index(u, rig.kernels.len())];
        run(rig, kernels, u);
        let errors = std::mem::take(&mut *rig.errors.lock().expect("no panic"));
        assert!(errors.is_empty(), "{errors:?}");
    });
}

pub fn run(data: &[u8]) {
    let mut u = Bytes::new(data);
    with_rig(&mut u, |rig, kernels, u| {
        match pick::index(u, 12) {
            0..=4 => matmul(rig, kernels, u),
            5 => quantize(rig, kernels, u),
            6 => dequantize(rig, kernels, u),
            7 => make(rig, kernels, u),
            8 => repack(rig, kernels, u),
            9 => observe(rig, kernels, u),
            _ => fake(rig, kernels, u),
        };
    });
}

fn matmul(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let spec = specs::matmul(u);
    let how = match pick::index(u, 3) {
        0 => Select::Auto,
        1 => {
            let all = Schedule::for_activations(spec.activations, spec.k);
            Select::Pinned(pick::one_of(u, &all))
        }
        _ => Select::Pinned(Schedule::Gemv { lanes: pick::number(u), m_tile: pick::number(u) }),
    };
    let plan = block_on(MatmulPlan::new(kernels, &spec, how)).ok()?;
    let weights = weights(kernels, spec.weights, spec.n, spec.k)?;
    let x = rig.place(u, spec.x_bytes(spec.max_m));
    let y = rig.place(u, spec.y_bytes(spec.max_m));
    let bias = rig.place(u, 4 * u64::from(spec.n));
    let args = MatmulArgs {
        activations: at(&x),
        weights: &weights,
        bias: (spec.bias != pick::rarely(u)).then(|| at(&bias)),
        output: at(&y),
    };
    let bound = match (spec.output, pick::rarely(u)) {
        (Output::Int8(_), false) | (_, true) => {
            let scale = f32::from(pick::byte(u)) / 8.0;
            let zero_point = i32::from(pick::byte(u)) - 128;
            block_on(plan.bind_scaled(args, StaticScale { scale, zero_point }))
        }
        _ => block_on(plan.bind(args)),
    };
    let bound = accepted(bound)?;
    let m = if pick::flag(u) { pick::number(u) } else { spec.max_m };
    rig.submit(|pass| assert_eq!(bound.record(pass, m).is_err(), m > spec.max_m));
    Some(())
}

fn quantize(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let spec = specs::quantize(u);
    let plan = block_on(QuantizeActivationsPlan::new(kernels, &spec)).ok()?;
    let x = rig.place(u, spec.x_bytes(spec.max_m));
    let y = rig.place(u, plan.output_bytes(spec.max_m));
    let given = rig.place(u, 8);
    let given = (spec.given != pick::rarely(u)).then(|| at(&given));
    let args = QuantizeActivationsArgs { activations: at(&x), given, output: at(&y) };
    let bound = accepted(block_on(plan.bind(args)))?;
    let m = if pick::flag(u) { pick::number(u) } else { spec.max_m };
    rig.submit(|pass| assert_eq!(bound.record(pass, m).is_err(), m > spec.max_m));
    Some(())
}

fn dequantize(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let spec = specs::dequantize(u);
    let plan = block_on(DequantizePlan::new(kernels, &spec)).ok()?;
    let weights = weights(kernels, spec.weights, spec.n, spec.k)?;
    let rows = spec.rows();
    let y = rig.place(u, spec.output_bytes(rows));
    let indices = rig.place(u, 4 * u64::from(rows));
    let indices = (spec.gather.is_some() != pick::rarely(u)).then(|| at(&indices));
    let args = DequantizeArgs { weights: &weights, indices, output: at(&y) };
    let bound = accepted(block_on(plan.bind(args)))?;
    let first = pick::number(u);
    rig.submit(|pass| {
        assert!(bound.record(pass, rows).is_ok());
        let recorded = bound.record(pass, first).is_ok();
        assert_eq!(recorded, first == rows || spec.gather.is_some() && first < rows);
    });
    Some(())
}

fn make(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let spec = specs::make(u);
    let plan = block_on(QuantizeWeightsPlan::new(kernels, &spec)).ok()?;
    let output = weights(kernels, spec.weights, spec.n, spec.k)?;
    let (n, stride) = (u64::from(spec.n), u64::from(spec.stride));
    let cut = if pick::flag(u) { u64::from(pick::number(u)).min(n) } else { n };
    let places = [cut, n - cut].map(|rows| {
        let rows = if pick::rarely(u) { rows + 1 } else { rows };
        (rows as usize, rig.place(u, 4 * rows.saturating_mul(stride)))
    });
    let sources: Vec<SourceRows<'_>> =
        places.iter().map(|(rows, place)| SourceRows { at: at(place), rows: *rows }).collect();
    let mask = rig.place(u, 4 * n * u64::from(spec.k).div_ceil(32));
    let given = matches!(spec.mask, lowbit::ops::MaskSource::Given) != pick::rarely(u);
    let source = if cut == n { &sources[..1] } else { &sources[..] };
    let args = QuantizeWeightsArgs { source, mask: given.then(|| at(&mask)), output: &output };
    let bound = accepted(block_on(plan.bind(args)))?;
    let rows = if pick::rarely(u) { pick::number(u) } else { spec.n };
    rig.submit(|pass| assert_eq!(bound.record(pass, rows).is_ok(), rows == spec.n));
    // Whatever a device leaves there.
    let status: Vec<u32> = (0..bound.status_words()).map(|_| pick::number(u)).collect();
    let _ = bound.check(&status);
    Some(())
}

fn repack(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let format = pick::format(u);
    let spec = RepackSpec::new(pick::number(u), pick::number(u), format);
    let plan = block_on(RepackPlan::new(kernels, &spec)).ok()?;
    let output = weights(kernels, format, spec.n, spec.k)?;
    let sizes = output.sizes();
    let codes = rig.place(u, sizes.codes as u64);
    let others = [sizes.metadata, sizes.scales, sizes.zeros];
    let places = others.map(|size| (size > 0 || pick::rarely(u), rig.place(u, size as u64)));
    let part = |index: usize| places[index].0.then(|| at(&places[index].1));
    let args = RepackArgs {
        codes: at(&codes),
        metadata: part(0),
        scales: part(1),
        zeros: part(2),
        output: &output,
    };
    let bound = accepted(block_on(plan.bind(args)))?;
    let rows = if pick::rarely(u) { pick::number(u) } else { spec.n };
    rig.submit(|pass| assert_eq!(bound.record(pass, rows).is_ok(), rows == spec.n));
    Some(())
}

fn observe(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let spec = specs::observe(u);
    let plan = block_on(ObservePlan::new(kernels, &spec)).ok()?;
    let x = rig.place(u, spec.x_bytes(spec.max_m));
    let y = rig.place(u, 4 * spec.words());
    // Whatever a device leaves there.
    if spec.words() < 1 << 12 {
        let words: Vec<u32> = (0..spec.words()).map(|_| pick::number(u)).collect();
        let _ = plan.batch(spec.max_m, &words);
    }
    let args = ObserveArgs { activations: at(&x), output: at(&y) };
    let bound = accepted(block_on(plan.bind(args)))?;
    let m = if pick::flag(u) { pick::number(u) } else { spec.max_m };
    rig.submit(|pass| assert_eq!(bound.record(pass, m).is_err(), m > spec.max_m));
    Some(())
}

fn fake(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let spec = specs::fake(u);
    let plan = block_on(FakeQuantPlan::new(kernels, &spec)).ok()?;
    let m = spec.max_m;
    let x = rig.place(u, spec.x_bytes(m));
    let y = rig.place(u, spec.y_bytes(m));
    let scales = rig.place(u, 4 * spec.scales(m));
    let zeros = rig.place(u, 4 * spec.scales(m));
    let zeros = (spec.format.is_symmetric() == pick::rarely(u)).then(|| at(&zeros));
    let record = if pick::flag(u) { pick::number(u) } else { m };
    let args = FakeQuantArgs { input: at(&x), scales: at(&scales), zeros, output: at(&y) };
    if let Some(bound) = accepted(block_on(plan.bind(args))) {
        rig.submit(|pass| assert_eq!(bound.record(pass, record).is_err(), record > m));
    }
    let (dy, dx) = (rig.place(u, spec.y_bytes(m)), rig.place(u, spec.x_bytes(m)));
    let (ds, dz) = (rig.place(u, 4 * spec.scales(m)), rig.place(u, 4 * spec.scales(m)));
    let asymmetric = !spec.format.is_symmetric();
    let args = FakeQuantBackwardArgs {
        input: at(&x),
        scales: at(&scales),
        zeros,
        output_gradient: at(&dy),
        input_gradient: at(&dx),
        scale_gradients: (spec.given != pick::rarely(u)).then(|| at(&ds)),
        zero_gradients: ((spec.given && asymmetric) != pick::rarely(u)).then(|| at(&dz)),
    };
    let bound = accepted(block_on(plan.bind_backward(args)))?;
    rig.submit(|pass| assert_eq!(bound.record(pass, record).is_err(), record > m));
    Some(())
}
