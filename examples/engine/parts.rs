//! The parts of the example that an engine has anyway (data, buffers and a pass of its own), and
//! the check of the results.

use lowbit::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, Granularity, PackedWeights,
    StaticScale, WeightFormat,
};
use lowbit::ops::BoundMatmul;
use lowbit::reference::{
    Expected, IntegerCase, OutputType, UNIT, check, check_activations, check_code, integer_matmul,
};
use lowbit::wgpu::{self, BufferUsages, util::DeviceExt};
use std::error::Error;

/// The format of X: each row has a scale and a zero point, computed from the row.
pub const TOKEN: ActivationFormat =
    ActivationFormat::int8(ActivationGranularity::Token).asymmetric();
/// The format of the first layer's output, which is the second layer's input: one static scale and
/// zero point.
pub const BETWEEN: ActivationFormat =
    ActivationFormat::int8(ActivationGranularity::Tensor).asymmetric();
/// The static scale and zero point, as a calibration would give them: codes represent −0.25…3.73,
/// and gelu is never less than −0.17.
pub const SCALE: StaticScale = StaticScale { scale: 1.0 / 64.0, zero_point: -112 };

/// The two layers and their inputs.
pub struct Data {
    pub w1: PackedWeights,
    pub w2: PackedWeights,
    pub x: Vec<f32>,
    pub bias: Vec<f32>,
    m: usize,
}

impl Data {
    /// Creates X `[m, k]`, W₁ `[inner, k]`, W₂ `[k, inner]` and b `[inner]` with uniform random
    /// values.
    pub fn new(m: u32, k: u32, inner: u32) -> Result<Self, Box<dyn Error>> {
        let int4 = WeightFormat::int4(Granularity::group(64)?).asymmetric();
        let (m, k, inner) = (m as usize, k as usize, inner as usize);
        Ok(Self {
            w1: PackedWeights::quantize(&uniform(inner * k, 0.1, 1), inner, k, &int4)?,
            w2: PackedWeights::quantize(&uniform(k * inner, 0.1, 2), k, inner, &int4)?,
            x: uniform(m * k, 1.0, 3),
            bias: uniform(inner, 0.5, 4),
            m,
        })
    }
}

/// Returns numbers within ±`range` from a linear congruential generator.
fn uniform(count: usize, range: f32, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / 8_388_608.0 - 1.0) * range
    };
    (0..count).map(|_| next()).collect()
}

/// Creates a buffer for kernels, or one that the CPU can read.
pub fn buffer(device: &wgpu::Device, size: u64, read: bool) -> wgpu::Buffer {
    let usage = match read {
        true => BufferUsages::MAP_READ | BufferUsages::COPY_DST,
        false => BufferUsages::STORAGE | BufferUsages::COPY_SRC,
    };
    let label = Some("engine");
    device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
}

/// Creates a buffer that contains `data`.
pub fn upload(device: &wgpu::Device, data: &[f32]) -> wgpu::Buffer {
    device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("engine"),
        contents: bytemuck::cast_slice(data),
        usage: BufferUsages::STORAGE,
    })
}

const RESIDUAL: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn add(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&y) {
        y[id.x] += x[id.x];
    }
}";

/// The engine's own pass: `Y += X`.
pub fn residual(
    device: &wgpu::Device,
    x: &wgpu::Buffer,
    y: &wgpu::Buffer,
) -> (wgpu::ComputePipeline, wgpu::BindGroup) {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("residual"),
        source: wgpu::ShaderSource::Wgsl(RESIDUAL.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("residual"),
        layout: None,
        module: &module,
        entry_point: Some("add"),
        compilation_options: Default::default(),
        cache: None,
    });
    let entries = [(0, x), (1, y)].map(|(binding, buffer)| wgpu::BindGroupEntry {
        binding,
        resource: buffer.as_entire_binding(),
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("residual"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    (pipeline, group)
}

/// Waits for the device and reads a buffer back.
pub fn words(device: &wgpu::Device, from: &wgpu::Buffer) -> Result<Vec<u32>, Box<dyn Error>> {
    // The callback can ignore its result, because requesting the mapped range fails if mapping
    // failed.
    from.map_async(wgpu::MapMode::Read, .., |_| ());
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let bytes = from.get_mapped_range(..)?;
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// The largest error of each step as a fraction of its bound.
pub struct Judged {
    codes: f64,
    inner: f64,
    y: f64,
    kernels: [String; 2],
}

impl Judged {
    /// Checks each step using the codes that the previous step actually wrote: every code of X,
    /// every code of the hidden layer, and every number of Y.
    pub fn of(
        data: &Data,
        words: &[u32],
        sizes: [u64; 3],
        layers: [&BoundMatmul; 2],
    ) -> Result<Self, Box<dyn Error>> {
        let [codes, inner, _] = sizes.map(|bytes| (bytes / 4) as usize);
        let (codes, rest) = words.split_at(codes);
        let (inner, y) = rest.split_at(inner);
        let (x_layout, inner_layout) = (TOKEN.layout(data.w1.k())?, BETWEEN.layout(data.w2.k())?);
        let judged = check_activations(TOKEN, &x_layout, &data.x, None, codes)?;
        if let Some(fault) = judged.fault {
            return Err(format!("X in int8: {fault}").into());
        }
        let parts = layers.map(|layer| {
            layer.plan().kernel(data.m as u32).part_columns(layer.plan().spec()) as usize
        });

        let (weights, bias) = (&data.w1, Some(&data.bias[..]));
        let case = IntegerCase { x: codes, m: data.m, layout: &x_layout, weights, bias };
        let n = weights.n();
        let mut worst_inner = 0.0f64;
        for (at, sum) in integer_matmul(&case, parts[0])?.into_iter().enumerate() {
            let expected = sum.after(ActivationFunction::Gelu, OutputType::F32);
            let word = inner[at / n * inner_layout.row_words + at % n / 4];
            let code = word.to_le_bytes()[at % n % 4] as i8;
            let verdict = check_code(&expected, SCALE.scale, SCALE.zero_point, false, code);
            worst_inner = worst_inner.max(within("the first layer", at, verdict.error_over_bound)?);
        }

        let weights = &data.w2;
        let case = IntegerCase { x: inner, m: data.m, layout: &inner_layout, weights, bias: None };
        let mut worst_y = 0.0f64;
        for (at, sum) in integer_matmul(&case, parts[1])?.into_iter().enumerate() {
            // The engine's own addition rounds once, in either direction.
            let value = sum.value + f64::from(data.x[at]);
            let bound = sum.bound + UNIT * (value.abs() + sum.bound) + f64::from(f32::MIN_POSITIVE);
            let expected = Expected::new(value, bound, OutputType::F32);
            let verdict = check(&expected, f32::from_bits(y[at]));
            worst_y = worst_y.max(within("Y", at, verdict.error_over_bound)?);
        }
        let kernels = layers.map(|layer| layer.plan().kernel(data.m as u32).name());
        Ok(Self { codes: judged.error_over_bound, inner: worst_inner, y: worst_y, kernels })
    }
}

fn within(what: &str, at: usize, error_over_bound: f64) -> Result<f64, Box<dyn Error>> {
    match error_over_bound <= 1.0 {
        true => Ok(error_over_bound),
        false => Err(format!("{what}, element {at}: {error_over_bound} times its bound").into()),
    }
}

impl std::fmt::Display for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "X in int8, two int4 layers and the engine's own addition: one submission")?;
        let [first, second] = &self.kernels;
        writeln!(f, "kernels: {first}, {second}")?;
        writeln!(f, "worst error ÷ bound, of every number:")?;
        writeln!(f, "  X as codes        {:.3}", self.codes)?;
        writeln!(f, "  gelu(X·W₁ᵀ + b)   {:.3}  as codes", self.inner)?;
        write!(f, "  Y                 {:.3}", self.y)
    }
}
