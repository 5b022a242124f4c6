//! The enumeration of all matmul kernels, for tests and tools.

use super::choice::KernelChoice;
use super::schedule::Schedule;
use super::{Activations, Epilogue, Experts, MatmulSpec, Output};
use crate::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, BLOCK_K, Granularity, ScaleType,
    WeightFormat, other_formats,
};
use crate::gpu::{Caps, KernelDesc};
use crate::ops::{FloatType, FormatUse};
use std::collections::HashSet;
use std::num::NonZeroU32;

/// Numbers of columns: one for each number of lanes that share a row, and two that are not whole
/// blocks.
const COLUMNS: [u32; 10] = [8, 32, 64, 128, 256, 512, 1024, 4096, 4092, 8192];

/// A number of columns that exceeds one slice.
const LONG: u32 = 40_000;

/// Returns the kernel that completes rows of a quantized Y. It shares bind groups with matmuls, so
/// its layout depends on theirs; the list has the layout without a bias and without textures.
pub(crate) fn sums_kernels(caps: &Caps) -> Vec<KernelDesc> {
    let plain = |spec: &MatmulSpec| matches!(spec.output, Output::Int8(_)) && !spec.bias;
    let spec = integer_specs(BLOCK_K as u32).into_iter().find(plain);
    let choice = spec.map(|spec| KernelChoice::new(&spec, Schedule::IntRows { m_tile: 1 }, caps));
    choice.map(|choice| super::plan::sums_shader(choice.shader().bindings)).into_iter().collect()
}

/// Returns every choice that some spec composes to on such a device, each once: all formats, ways
/// to load X, types of Y, with and without a bias, all activation functions, all schedules.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelChoice> {
    let mut seen = HashSet::new();
    let mut choices = Vec::new();
    let mut push = |spec: &MatmulSpec, schedule| {
        let choice = KernelChoice::new(spec, schedule, caps);
        if seen.insert(choice) {
            choices.push(choice);
        }
    };
    let textures: &[bool] = if caps.texture_extent > 0 { &[false, true] } else { &[false] };
    let able = |schedules: Vec<Schedule>| {
        let all = schedules.into_iter().chain(Schedule::experimental());
        all.filter(|schedule| schedule.check(caps).is_ok()).collect::<Vec<_>>()
    };
    let floats = [FloatType::F32, FloatType::F16];
    for k in COLUMNS {
        let schedules = able(Schedule::all(k));
        for format in WeightFormat::all([32, 6]) {
            for (activations, any_x_offset) in
                [(floats[0], false), (floats[0], true), (floats[1], false)]
            {
                for output in floats {
                    let mut spec = MatmulSpec::new(8, 8, k, format)
                        .with_activations(activations)
                        .with_output(output);
                    spec.any_x_offset = any_x_offset;
                    for &code_textures in textures {
                        spec.code_textures = code_textures;
                        for bias in [false, true] {
                            spec.bias = bias;
                            schedules.iter().for_each(|&schedule| push(&spec, schedule));
                        }
                    }
                }
            }
        }
    }
    // Other formats change how W is decoded and scaled, and nothing else: types, offsets and biases
    // alternate.
    for (turn, format) in other_formats().into_iter().enumerate() {
        for (j, k) in [4096, 100].into_iter().enumerate() {
            let turn = turn + j;
            let mut spec = MatmulSpec::new(8, 8, k, format)
                .with_activations(floats[turn / 2 % 2])
                .with_output(floats[turn / 3 % 2]);
            spec.any_x_offset = turn.is_multiple_of(5);
            spec.bias = turn.is_multiple_of(2);
            for &code_textures in textures {
                spec.code_textures = code_textures;
                able(Schedule::all(k)).into_iter().for_each(|schedule| push(&spec, schedule));
            }
        }
    }
    for k in COLUMNS.into_iter().chain([LONG]) {
        let schedules = Schedule::integer(k);
        let schedules: Vec<_> = schedules.into_iter().filter(|s| s.check(caps).is_ok()).collect();
        for mut spec in integer_specs(k) {
            for &code_textures in textures {
                spec.code_textures = code_textures;
                schedules.iter().for_each(|&schedule| push(&spec, schedule));
            }
        }
    }
    // Other formats change how codes become bytes, and scales, minima and zero points: X, Y and biases
    // alternate.
    let integers =
        other_formats().into_iter().filter(|f| FormatUse::IntegerMatmul.check(f).is_ok());
    for (turn, format) in integers.enumerate() {
        for (j, k) in [4096, 100].into_iter().enumerate() {
            let schedules = Schedule::integer(k);
            for (i, schedule) in schedules.into_iter().enumerate() {
                let turn = turn + i + 3 * j;
                let mut spec = MatmulSpec::new(8, 8, k, format)
                    .with_activations(Activations::Int8(X_FORMATS[turn % X_FORMATS.len()]))
                    .with_output(OUTPUTS[turn / 2 % OUTPUTS.len()]);
                spec.bias = turn.is_multiple_of(3);
                for &code_textures in textures {
                    spec.code_textures = code_textures;
                    if schedule.check(caps).is_ok() {
                        push(&spec, schedule);
                    }
                }
            }
        }
    }
    // Functions change what is stored and nothing else: whole blocks and ragged ones will do.
    for (function, k) in ActivationFunction::ALL.into_iter().flat_map(|f| [(f, 4096), (f, 100)]) {
        let spec = MatmulSpec::new(8, 8, k, WeightFormat::int8(Granularity::Channel));
        let spec = spec.with_function(function);
        able(Schedule::all(k)).into_iter().for_each(|schedule| push(&spec, schedule));
    }
    for spec in epilogue_specs() {
        let schedules = Schedule::for_activations(spec.activations, spec.k);
        let schedules = if spec.activations.int8().is_some() { schedules } else { able(schedules) };
        for (i, schedule) in schedules.into_iter().enumerate() {
            // Types of Y alternate, so that each is with every kind of schedule once.
            let output = floats[(i + usize::from(spec.bias)) % 2];
            let stored = schedule.stores(spec.epilogue, output);
            let output = if stored { output } else { FloatType::F32 };
            if schedule.check(caps).is_ok() {
                push(&spec.clone().with_output(output), schedule);
            }
        }
    }
    // Experts change where rows of X and W are, and nothing else.
    for (format, k) in
        [(WeightFormat::int8(Granularity::Channel), 4096), (WeightFormat::f16(), 100)]
    {
        for schedule in able(Schedule::all(k)) {
            if matches!(schedule, Schedule::Gemv { .. } | Schedule::Rows { .. }) {
                let experts = Experts { count: 4, x_rows: 8, unit: 16 };
                push(&MatmulSpec::new(8, 8, k, format).with_experts(experts), schedule);
            }
        }
    }
    choices
}

/// Specs with the epilogues that change what is stored, and nothing else.
fn epilogue_specs() -> Vec<MatmulSpec> {
    let format = WeightFormat::int8(Granularity::Channel);
    let mut specs = Vec::new();
    for activations in [FloatType::F32.into(), Activations::Int8(TOKEN)] {
        for (epilogue, function, bias) in [
            (Epilogue::Accumulate, ActivationFunction::Identity, true),
            (Epilogue::Gated, ActivationFunction::Silu, false),
        ] {
            let mut spec = MatmulSpec::new(8, 8, 4096, format)
                .with_activations(activations)
                .with_function(function)
                .with_epilogue(epilogue);
            spec.bias = bias;
            specs.push(spec);
        }
    }
    specs
}

/// Groups of 16 columns.
const HALF_BLOCK: Granularity =
    Granularity::Group(NonZeroU32::MIN.saturating_add(BLOCK_K as u32 / 2 - 1));

const fn columns_of(blocks: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(blocks * BLOCK_K as u32 - 1)
}

const TOKEN: ActivationFormat = ActivationFormat::int8(ActivationGranularity::Token);
const GROUPED: ActivationFormat =
    ActivationFormat::int8(ActivationGranularity::Group(columns_of(2)));
const BLOCKS: ActivationFormat =
    ActivationFormat::int8(ActivationGranularity::Group(columns_of(1)));
const TENSOR: ActivationFormat = ActivationFormat::int8(ActivationGranularity::Tensor);

/// A scale a row and a scale for two blocks, with and without zero points.
const X_FORMATS: [ActivationFormat; 4] = [TOKEN, TOKEN.asymmetric(), GROUPED, GROUPED.asymmetric()];

/// A scale for each block, which is a slice where groups of W are half a block.
const X_BLOCKS: [ActivationFormat; 2] = [BLOCKS, BLOCKS.asymmetric()];

const OUTPUTS: [Output; 5] = [
    Output::Float(FloatType::F32),
    Output::Float(FloatType::F16),
    Output::Int8(TENSOR),
    Output::Int8(TENSOR.asymmetric()),
    Output::Accumulators,
];

/// Specs of K columns that between them have every fragment of integer products with every decoder
/// and every way that groups meet; outputs, functions and bias in turn.
fn integer_specs(k: u32) -> Vec<MatmulSpec> {
    let group = |blocks| Granularity::Group(columns_of(blocks));
    let functions = ActivationFunction::ALL;
    let mut specs = Vec::new();
    for element in [WeightFormat::int8, WeightFormat::int4] {
        for granularity in [Granularity::Channel, HALF_BLOCK, group(1), group(2), group(3)] {
            for index in 0..8 {
                let format = element(granularity);
                let format = if index & 1 == 0 { format } else { format.two_four() };
                let format = if index & 2 == 0 { format } else { format.asymmetric() };
                let scales = if index & 4 == 0 { ScaleType::F32 } else { ScaleType::F16 };
                if FormatUse::IntegerMatmul.check(&format).is_err() {
                    continue;
                }
                let more = if granularity == HALF_BLOCK { &X_BLOCKS[..] } else { &[] };
                for &x in X_FORMATS.iter().chain(more) {
                    let turn = specs.len() + specs.len() / OUTPUTS.len();
                    let mut spec = MatmulSpec::new(8, 8, k, format.with_scales(scales))
                        .with_activations(Activations::Int8(x))
                        .with_output(OUTPUTS[turn % OUTPUTS.len()])
                        .with_function(functions[turn / 2 % functions.len()]);
                    spec.bias = turn.is_multiple_of(3);
                    specs.push(spec);
                }
            }
        }
    }
    specs
}
