use lowbit::conformance::formats;
use lowbit::format::{ActivationFunction, Granularity, WeightFormat};
use lowbit::gpu::{AdapterClass, Binding, Caps, Shader};
use lowbit::host::probe_shader;
use lowbit::ops::matmul::{KernelChoice, Schedule, Step, integer_specs, sums_shader};
use lowbit::ops::quantize_weights::{WeightsAccess, WeightsKernel};
use lowbit::ops::{DequantizeSpec, FloatType, Grid, MatmulSpec, RepackSpec};
use lowbit::ops::{fake_quant, observe, quantize_activations};
use std::collections::HashSet;

/// A kernel of the crate.
#[derive(Clone, Debug)]
pub struct Kernel {
    name: String,
    of: Of,
}

#[derive(Clone, Debug)]
enum Of {
    Matmul(Box<KernelChoice>),
    /// Makes or undoes weights.
    Other(Shader),
}

/// Binding of codes in every matmul kernel; see `lib/matmul`.
const CODES: u32 = 4;

impl Kernel {
    fn matmul(choice: KernelChoice) -> Self {
        Self { name: choice.name(), of: Of::Matmul(Box::new(choice)) }
    }

    fn other(shader: Shader) -> Self {
        Self { name: shader.name.clone(), of: Of::Other(shader) }
    }

    /// The kernel id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The choice behind a matmul kernel.
    pub fn choice(&self) -> Option<&KernelChoice> {
        match &self.of {
            Of::Matmul(choice) => Some(choice),
            Of::Other(_) => None,
        }
    }

    /// The shader.
    pub fn shader(&self) -> Shader {
        match &self.of {
            Of::Matmul(choice) => choice.shader(),
            Of::Other(shader) => shader.clone(),
        }
    }

    /// How many workgroups it wants.
    pub fn grid(&self) -> Option<Grid> {
        match &self.of {
            Of::Matmul(choice) => Some(choice.grid()),
            Of::Other(shader) => Grid::of(shader),
        }
    }

    /// The binding that codes are read from.
    pub fn codes_binding(&self) -> Option<u32> {
        self.choice().map(|_| CODES)
    }

    /// What the main loop covers.
    pub fn step(&self) -> Option<Step> {
        self.choice().map(Step::new)
    }

    /// Whether it multiplies packed bytes.
    pub fn integer_dot(&self) -> bool {
        self.calls("dot4I8Packed") || self.calls("dot4U8Packed")
    }

    /// Whether it multiplies cooperative matrices.
    pub fn matrix(&self) -> bool {
        self.calls("coopMultiplyAdd")
    }

    /// Lanes a wave must have: matrices are those of half waves.
    pub fn wave(&self) -> Option<u32> {
        self.matrix().then_some(32)
    }

    /// Whether the shader's text, less comments, calls a built-in.
    fn calls(&self, builtin: &str) -> bool {
        self.shader().fragments.iter().any(|fragment| {
            let code = |line: &'static str| line.split("//").next().unwrap_or_default();
            fragment.text.lines().any(|line| code(line).contains(builtin))
        })
    }
}

/// Numbers of columns: one for each number of lanes that share a row, and two that are not whole
/// blocks.
const COLUMNS: [u32; 10] = [8, 32, 64, 128, 256, 512, 1024, 4096, 4092, 8192];

const FLOATS: [FloatType; 2] = [FloatType::F32, FloatType::F16];

/// Devices that differ in what choices look at.
struct Devices {
    /// One with nothing beyond what WebGPU asks for; it decides which schedules there are.
    plain: Caps,
    /// More of them, for floats.
    others: Vec<Caps>,
    /// How W is loaded where weights are made.
    accesses: &'static [WeightsAccess],
    /// Schedules that only a caller can pin.
    experimental: Vec<Schedule>,
}

impl Devices {
    fn gpus() -> Self {
        let plain = Caps::from_limits(AdapterClass::Gpu, &lowbit::wgpu::Limits::defaults());
        let subgroups = Caps { subgroups: true, ..plain.clone() };
        let halves = Caps { exact_f16_unpack: true, ..plain.clone() };
        Self {
            plain,
            others: vec![subgroups, halves],
            // The third access is of CPU adapters.
            accesses: &[WeightsAccess::Words, WeightsAccess::Quads],
            experimental: Schedule::experimental().to_vec(),
        }
    }

    /// With panels, every size of subgroup that shares loads, 64-bit words and textures.
    fn cpus() -> Self {
        let plain = Caps::from_limits(AdapterClass::Cpu, &lowbit::wgpu::Limits::defaults());
        let others = [(0, true, 0), (4, true, 8192), (8, false, 0), (8, true, 0), (16, true, 0)];
        let others = others.map(|(subgroup, int64, texture_extent)| {
            let subgroups = subgroup > 0;
            Caps { subgroup, subgroups, int64, texture_extent, ..plain.clone() }
        });
        let (others, experimental) = (others.to_vec(), Vec::new());
        Self { plain, others, accesses: &WeightsAccess::ALL, experimental }
    }

    fn all(&self) -> impl Iterator<Item = &Caps> {
        std::iter::once(&self.plain).chain(&self.others)
    }

    fn schedules(&self, all: Vec<Schedule>) -> impl Iterator<Item = Schedule> {
        all.into_iter().filter(|schedule| schedule.check(&self.plain).is_ok())
    }
}

/// Every kernel that some spec composes to on a GPU, each once: all formats, ways to load X, types
/// of Y, with and without a bias, all schedules.
pub fn kernels() -> Vec<Kernel> {
    collect(&Devices::gpus())
}

/// Those that only software adapters take.
pub fn cpu_kernels() -> Vec<Kernel> {
    let gpus: HashSet<String> = kernels().into_iter().map(|kernel| kernel.name).collect();
    let mut kernels = collect(&Devices::cpus());
    kernels.retain(|kernel| !gpus.contains(&kernel.name));
    kernels
}

fn collect(devices: &Devices) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    let mut seen = HashSet::new();
    let mut push = |kernel: Kernel| {
        if seen.insert(kernel.name.clone()) {
            kernels.push(kernel);
        }
    };
    let plain = &devices.plain;
    for format in formats([32, 6]) {
        for k in COLUMNS {
            let schedules = devices.schedules(Schedule::all(k));
            for schedule in schedules.chain(devices.experimental.iter().copied()) {
                for (activations, any_x_offset) in
                    [(FLOATS[0], false), (FLOATS[0], true), (FLOATS[1], false)]
                {
                    for output in FLOATS {
                        for bias in [false, true] {
                            let mut spec = MatmulSpec::new(8, 8, k, format)
                                .with_activations(activations)
                                .with_output(output);
                            (spec.bias, spec.any_x_offset) = (bias, any_x_offset);
                            for caps in devices.all() {
                                spec.code_textures = caps.texture_extent > 0;
                                push(Kernel::matmul(KernelChoice::new(&spec, schedule, caps)));
                            }
                        }
                    }
                }
            }
        }
    }
    // And rows longer than sums of one slice may be.
    for k in COLUMNS.into_iter().chain([40_000]) {
        for mut spec in integer_specs(k) {
            for schedule in devices.schedules(Schedule::integer(k)) {
                for (caps, packed_dot) in devices.all().flat_map(|c| [(c, false), (c, true)]) {
                    spec.code_textures = caps.texture_extent > 0;
                    let caps = Caps { packed_dot, ..caps.clone() };
                    push(Kernel::matmul(KernelChoice::new(&spec, schedule, &caps)));
                }
            }
        }
    }
    // Functions change what is stored and nothing else: whole blocks and ragged ones will do.
    for (function, k) in ActivationFunction::ALL.into_iter().flat_map(|f| [(f, 4096), (f, 100)]) {
        let spec = MatmulSpec::new(8, 8, k, WeightFormat::int8(Granularity::Channel));
        let spec = spec.with_function(function);
        let schedules = devices.schedules(Schedule::all(k));
        for schedule in schedules.chain(devices.experimental.iter().copied()) {
            push(Kernel::matmul(KernelChoice::new(&spec, schedule, plain)));
        }
    }
    others(devices).into_iter().for_each(|shader| push(Kernel::other(shader)));
    kernels
}

/// All that are no matmul, some more than once.
fn others(devices: &Devices) -> Vec<Shader> {
    let plain = &devices.plain;
    let mut shaders = vec![sums_shader(every_binding(plain)), probe_shader()];
    for format in formats([32, 6]) {
        for &access in devices.accesses {
            let make = WeightsKernel::ALL.map(|k| k.shader(&format, plain.row_order, access));
            shaders.extend(make);
        }
        shaders.push(RepackSpec::new(2, 2, format).shader(plain.row_order));
        for spec in [DequantizeSpec::new(2, 2, format), DequantizeSpec::gather(2, 2, 2, format)] {
            for caps in devices.all() {
                shaders.extend(FLOATS.map(|output| {
                    let spec = spec.clone().with_output(output);
                    match caps.texture_extent {
                        0 => spec.shader(caps),
                        _ => spec.with_code_textures().shader(caps),
                    }
                }));
            }
        }
    }
    for caps in devices.all() {
        shaders.extend(
            quantize_activations::every_spec().into_iter().flat_map(|spec| spec.shaders(caps)),
        );
        shaders.extend(observe::every_spec().into_iter().flat_map(|spec| spec.shaders(caps)));
        for spec in fake_quant::every_spec() {
            shaders.extend(spec.forward_shaders(caps));
            shaders.extend(spec.backward_shaders(caps));
        }
    }
    shaders
}

/// The kernel of that id: any that some spec composes to on some device, also those of schedules
/// and features that no list here combines.
pub fn find(name: &str) -> Option<Kernel> {
    if let Ok(choice) = name.parse() {
        return Some(Kernel::matmul(choice));
    }
    let all = [Devices::gpus(), Devices::cpus()];
    let mut shaders = all.iter().flat_map(others);
    shaders.find(|shader| shader.name == name).map(Kernel::other)
}

/// Of these kernels every one that is no matmul, and so many others that every two properties
/// that occur together do: schedule, decoder with scaling, zero points, type of scales, X, Y,
/// bias, tail with pairs and subgroups, activation function; of integer products how groups meet,
/// zero points of X and how they multiply.
pub fn covering(kernels: Vec<Kernel>) -> Vec<Kernel> {
    let mut missing: HashSet<_> = kernels.iter().flat_map(pairs).collect();
    let mut chosen = vec![false; kernels.len()];
    // Greedy by threshold: first those that bring many pairs.
    for least in (1..=55).rev() {
        for (kernel, chosen) in kernels.iter().zip(&mut chosen) {
            if *chosen {
                continue;
            }
            let pairs = pairs(kernel);
            let new = pairs.iter().filter(|pair| missing.contains(*pair)).count();
            *chosen = new >= least || kernel.choice().is_none();
            if *chosen {
                missing.retain(|pair| !pairs.contains(pair));
            }
        }
    }
    kernels
        .into_iter()
        .zip(chosen)
        .filter_map(|(kernel, chosen)| chosen.then_some(kernel))
        .collect()
}

type Pair = [(usize, String); 2];

fn pairs(kernel: &Kernel) -> Vec<Pair> {
    let Some(c) = kernel.choice() else { return Vec::new() };
    let properties = [
        c.schedule.to_string(),
        format!("{:?} {:?}", c.decoder, c.scaling),
        c.asymmetric.to_string(),
        format!("{:?}", c.scale_type),
        format!("{:?}", c.x),
        format!("{:?}", c.y),
        c.bias.to_string(),
        format!("{} {} {}", c.ragged, c.pair, c.subgroup_sum),
        format!("{:?}", c.integer.map(|i| (i.w_groups, i.x_groups, i.whole))),
        format!("{:?}", c.integer.map(|i| (i.x_zeros, i.packed_dot))),
        c.function.name().to_string(),
    ];
    let properties: Vec<_> = properties.into_iter().enumerate().collect();
    let mut pairs = Vec::new();
    for (i, a) in properties.iter().enumerate() {
        pairs.extend(properties[i + 1..].iter().map(|b| [a.clone(), b.clone()]));
    }
    pairs
}

/// What a matmul of quantized X binds.
fn every_binding(caps: &Caps) -> Vec<Binding> {
    let spec = integer_specs(64).swap_remove(0);
    KernelChoice::new(&spec, Schedule::IntRows { m_tile: 1 }, caps).shader().bindings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_kernels_apart() {
        let kernels = kernels();
        let shaders: HashSet<_> =
            kernels.iter().map(|k| (k.shader(), k.choice().copied())).collect();
        assert_eq!(shaders.len(), kernels.len());
        let wanted: HashSet<_> = kernels.iter().flat_map(pairs).collect();
        let total = kernels.len();
        let some = covering(kernels);
        let found: HashSet<_> = some.iter().flat_map(pairs).collect();
        assert_eq!(found, wanted);
        assert!(some.len() * 4 < total, "{} of {total}", some.len());
        eprintln!("{} of {total} kernels cover every pair of properties", some.len());
    }
}
