//! Tests of rounding and pruning column by column. Every step of the device is checked against f64, given the
//! errors that it made in the columns before: so each decision has a bound of its own.

mod fraction;
mod run;

use crate::common::{Noop, floats, host, in_turn, some_of};
use lowbit::compress::{dequantize, quantize};
use lowbit::format::WeightFormat;
use lowbit::gpu::{AdapterClass, KernelDesc, Kernels};
use lowbit::host::{Gptq, Host, HostError};
use lowbit::ops::{
    BindError, ColumnsArgs, ColumnsError, ColumnsPlan, ColumnsSpec, FactorError, Pattern,
    PlanError, Role,
};
use pollster::block_on;
use run::{Run, inputs, triangle};

fn format(name: &str) -> WeightFormat {
    name.parse().unwrap()
}

const DENSE: [&str; 9] = [
    "int4-g32",
    "int4-g128-asym-f16s",
    "int8-channel",
    "int8-g64-asym",
    "int3-g16-asym",
    "int2-g64-asym",
    "int5-g32-f16s",
    "int6-channel-asym",
    "int4-channel-f16s",
];

/// The host with kernels as GPUs have them: a lane has one row, and products use workgroup memory.
fn as_gpu(host: &Host) -> Host {
    let mut caps = host.kernels().caps().clone();
    caps.class = AdapterClass::Gpu;
    let (info, queue) = (host.adapter_info().clone(), host.queue().clone());
    Host::with_kernels(info, queue, block_on(Kernels::new(host.device(), &caps)).unwrap())
}

/// Every format and pattern, in both orders, with rows and columns that end within tiles and lanes. Kernels of GPUs
/// have a third of the formats, another one for each sample.
#[test]
fn each_step_is_that_of_the_definition() {
    let Some(host) = host() else { return };
    let gpu = as_gpu(host);
    for (at, host) in [host, &gpu].into_iter().enumerate() {
        let shapes: &[(usize, usize)] = if at == 0 { &[(9, 300), (70, 131)] } else { &[(9, 131)] };
        for (turn, &(n, k)) in shapes.iter().enumerate() {
            let gram = triangle(&inputs(k + 20, k), k);
            let w = floats(n * k, 3);
            let forward: Vec<u32> = (0..k as u32).collect();
            let backward: Vec<u32> = (0..k as u32).map(|i| (i * 7 + 3) % k as u32).collect();
            for (i, name) in DENSE.into_iter().enumerate() {
                // A second shape takes every third format.
                if turn == 1 && i % 3 != 0 {
                    continue;
                }
                if at == 1 && !in_turn(i, 3) {
                    continue;
                }
                let order = if i % 2 == turn { &forward } else { &backward };
                let spec = ColumnsSpec::new(n as u32, k as u32, Some(format(name)));
                Run::new(host, &spec, &w, &gram, order, &[]).check(&w, order);
                let patterns = [(2, 4), (1, 4), (6, 8), (8, 16), (1, 2)];
                let (kept, of) = patterns[i % 5];
                let spec = spec.with_pattern(Pattern::OfM { kept, of });
                if at == 0 && turn == 0 {
                    Run::new(host, &spec, &w, &gram, order, &[]).check(&w, order);
                }
                if i < 5 {
                    let mut spec = spec;
                    spec.format = None;
                    Run::new(host, &spec, &w, &gram, order, &[]).check(&w, order);
                }
            }
        }
    }
}

/// The scales and zero points of rounding to nearest, as a run takes them.
fn given(spec: &ColumnsSpec, w: &[f32]) -> Vec<f32> {
    let (n, k) = (spec.n as usize, spec.k as usize);
    let packed = quantize(w, n, k, &spec.format.unwrap()).unwrap();
    let (rows, groups) = (spec.rows() as usize, spec.groups() as usize);
    let mut scales = vec![1.0; 2 * rows * groups];
    for row in 0..n {
        for group in 0..groups {
            scales[group * rows + row] = packed.scale(row, group);
            scales[(groups + group) * rows + row] = packed.zero(row, group) as f32;
        }
    }
    scales
}

/// Given scales are those of groups of columns, in whatever order columns are taken.
#[test]
fn given_scales_are_used() {
    let Some(host) = host() else { return };
    let (n, k) = (6, 200);
    let gram = triangle(&inputs(220, k), k);
    let w = floats(n * k, 5);
    let order: Vec<u32> = (0..k as u32).map(|i| (i * 7 + 3) % k as u32).collect();
    for name in ["int4-g32-asym", "int8-channel", "int4-g128"] {
        let spec = ColumnsSpec::new(n as u32, k as u32, Some(format(name))).with_given_scales();
        let scales = given(&spec, &w);
        let run = Run::new(host, &spec, &w, &gram, &order, &scales);
        run.check(&w, &order);
        let kept = run.scales.iter().zip(&scales).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(kept, "{name}: given scales were changed");
    }
}

/// ‖X(W − Ŵ)ᵀ‖² of rows of W.
fn objective(x: &[f32], w: &[f32], got: &[f32], k: usize) -> f64 {
    let mut sum = 0.0;
    for (w, got) in w.chunks(k).zip(got.chunks(k)) {
        let off: Vec<f64> = w.iter().zip(got).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
        for x in x.chunks(k) {
            let y: f64 = x.iter().zip(&off).map(|(x, w)| f64::from(*x) * w).sum();
            sum += y * y;
        }
    }
    sum
}

/// The whole method in f64, for a symmetric format with scales of channels: the dequantized result.
fn in_f64(x: &[f32], w: &[f32], k: usize, steps: f64, zero: f64) -> Vec<f32> {
    let mut h = vec![0.0; k * k];
    for row in x.chunks(k) {
        for i in 0..k {
            for j in 0..k {
                h[i * k + j] += f64::from(row[i]) * f64::from(row[j]);
            }
        }
    }
    let mean = (0..k).map(|i| h[i * k + i]).sum::<f64>() / k as f64;
    h.iter_mut().for_each(|value| *value /= mean);
    (0..k).for_each(|i| h[i * k + i] += 0.01);
    // H = V · Vᵀ from the last column on, and U = V⁻¹.
    let mut v = vec![0.0; k * k];
    for j in (0..k).rev() {
        for i in (0..=j).rev() {
            let rest: f64 = (j + 1..k).map(|l| v[i * k + l] * v[j * k + l]).sum();
            let value = h[i * k + j] - rest;
            v[i * k + j] = if i == j { value.sqrt() } else { value / v[j * k + j] };
        }
    }
    let mut u = vec![0.0; k * k];
    for j in 0..k {
        u[j * k + j] = 1.0 / v[j * k + j];
        for i in (0..j).rev() {
            let rest: f64 = (i + 1..=j).map(|l| v[i * k + l] * u[l * k + j]).sum();
            u[i * k + j] = -rest / v[i * k + i];
        }
    }
    let mut out = Vec::new();
    for row in w.chunks(k) {
        let mut left: Vec<f64> = row.iter().map(|&w| f64::from(w)).collect();
        let scale = left.iter().fold(0.0f64, |most, w| most.max(w.abs())) / steps;
        for i in 0..k {
            let code = ((left[i] / scale).round_ties_even()).clamp(-zero, steps);
            let q = code * scale;
            let error = (left[i] - q) / u[i * k + i];
            (i..k).for_each(|j| left[j] -= error * u[i * k + j]);
            out.push(q as f32);
        }
    }
    out
}

/// The objective is that of the method in f64 within 0.5 %, and well below that of rounding to nearest.
#[test]
fn objectives_are_those_of_f64() {
    let Some(host) = host() else { return };
    let (n, k) = (24, 200);
    let x = inputs(400, k);
    let w = floats(n * k, 11);
    let gram = host.gram(&x, k).unwrap();
    let channel = format("int4-channel");
    let packed = host.gptq(&w, n, k, &gram, &channel, &Gptq::default()).unwrap();
    let got = objective(&x, &w, &dequantize(&packed), k);
    let want = objective(&x, &w, &in_f64(&x, &w, k, 7.0, 8.0), k);
    let nearest = objective(&x, &w, &dequantize(&quantize(&w, n, k, &channel).unwrap()), k);
    eprintln!("gptq {got:.4}, in f64 {want:.4}, to nearest {nearest:.4}");
    assert!((got / want - 1.0).abs() < 0.005 && got < 0.7 * nearest);

    // Found scales in another order: the columns of the result are permuted, and the error stays small.
    let order: Vec<u32> = (0..k as u32).rev().collect();
    let how = Gptq { order: Some(&order), ..Gptq::default() };
    let grouped = format("int4-g32-asym");
    let packed = host.gptq(&w, n, k, &gram, &grouped, &how).unwrap();
    assert!(packed.format().is_permuted() && packed.order() == order);
    let nearest = objective(&x, &w, &dequantize(&quantize(&w, n, k, &grouped).unwrap()), k);
    assert!(objective(&x, &w, &dequantize(&packed), k) < 0.7 * nearest);
    // Given scales: the columns of the result are in order.
    let rounded = quantize(&w, n, k, &grouped).unwrap();
    let places = || (0..n).flat_map(|row| (0..k.div_ceil(32)).map(move |group| (row, group)));
    let scales: Vec<f32> = places().map(|(row, group)| rounded.scale(row, group)).collect();
    let zeros: Vec<f32> = places().map(|(row, group)| rounded.zero(row, group) as f32).collect();
    let how = Gptq { given: Some((&scales, &zeros)), ..how };
    let packed = host.gptq(&w, n, k, &gram, &grouped, &how).unwrap();
    assert_eq!((packed.format(), packed.scales()), (grouped, rounded.scales()));
    assert!(objective(&x, &w, &dequantize(&packed), k) < 0.7 * nearest);

    // SparseGPT beats pruning by magnitude.
    let how = Gptq { pattern: Some(Pattern::OfM { kept: 2, of: 4 }), ..Gptq::default() };
    let pruned = host.sparse_gpt(&w, n, k, &gram, &how).unwrap();
    let fours = pruned.chunks(4).all(|four| four.iter().filter(|w| **w != 0.0).count() == 2);
    assert!(fours);
    let by_magnitude: Vec<f32> = w
        .chunks(4)
        .flat_map(|four| {
            let rank = |at: usize| four.iter().filter(|w| w.abs() > four[at].abs()).count();
            [0, 1, 2, 3].map(|at| if rank(at) < 2 { four[at] } else { 0.0 })
        })
        .collect();
    let (got, magnitude) = (objective(&x, &w, &pruned, k), objective(&x, &w, &by_magnitude, k));
    eprintln!("2:4 {got:.4}, by magnitude {magnitude:.4}");
    assert!(got < 0.7 * magnitude);
}

#[test]
fn what_is_not_sound_is_reported() {
    let Some(host) = host() else { return };
    let (n, k) = (5, 40);
    let gram = triangle(&inputs(60, k), k);
    let mut w = floats(n * k, 1);
    let gptq = |w: &[f32], gram: &[i128], name: &str, how: &Gptq| {
        host.gptq(w, n, k, gram, &format(name), how)
    };
    let how = Gptq::default();
    let small: Vec<f32> = w.iter().map(|w| w * 1e-9).collect();
    let error = gptq(&small, &gram, "int4-g32-f16s", &how).unwrap_err();
    assert!(matches!(error, HostError::Columns(ColumnsError::ScaleRange { .. })), "{error}");
    assert!(gptq(&small, &gram, "int4-g32", &how).is_ok());
    w[77] = f32::NAN;
    let error = gptq(&w, &gram, "int4-g32", &how).unwrap_err();
    assert!(matches!(error, HostError::Columns(_)), "{error}");
    w[77] = 0.0;
    let negative: Vec<i128> = gram.iter().map(|sum| -sum).collect();
    // A diagonal that is not positive counts as one of columns that are always 0: what is off it is not used.
    assert!(gptq(&w, &negative, "int4-g32", &how).is_ok());
    let mut odd = gram.clone();
    odd[1] = 100 * odd[0];
    let error = gptq(&w, &odd, "int4-g32", &how).unwrap_err();
    assert!(matches!(error, HostError::Factor(FactorError::NotPositive { .. })), "{error}");
    let error = gptq(&w[1..], &gram, "int4-g32", &how).unwrap_err();
    assert!(matches!(error, HostError::WrongLength { what: "W", .. }), "{error}");
    assert!(gptq(&w, &gram[1..], "int4-g32", &how).is_err());
    let twice = Gptq { order: Some(&[0; 40]), ..Gptq::default() };
    assert!(gptq(&w, &gram, "int4-g32", &twice).is_err());
    for name in ["nf4-g32", "int16-channel", "int4-g24", "2:4+int4-g32", "int4-tensor", "f16"] {
        let error = gptq(&w, &gram, name, &how).unwrap_err();
        assert!(matches!(error, HostError::Plan(PlanError::Unsupported { .. })), "{name}: {error}");
    }
    for (kept, of) in [(1, 3), (4, 4), (0, 32)] {
        let how = Gptq { pattern: Some(Pattern::OfM { kept, of }), ..Gptq::default() };
        let error = gptq(&w, &gram, "int4-g32", &how).unwrap_err();
        assert!(matches!(error, HostError::Plan(PlanError::Number { .. })), "{kept}:{of}: {error}");
    }
    for fraction in [1.0, -0.25, f64::NAN] {
        let how = Gptq { pattern: Some(Pattern::Fraction(fraction)), ..Gptq::default() };
        let error = gptq(&w, &gram, "int4-g32", &how).unwrap_err();
        assert!(matches!(error, HostError::Plan(PlanError::Number { .. })), "{fraction}: {error}");
    }
    assert_eq!(ColumnsPlan::decode(&[0]), Err(ColumnsError::Words(1)));
    let empty = host.gptq(&[], 0, k, &gram, &format("int4-g32"), &how).unwrap();
    assert_eq!((empty.n(), empty.k()), (0, k));
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = ColumnsSpec::new(8, 64, Some(format("int4-g32")));
    let plan = block_on(ColumnsPlan::new(&kernels, &spec)).unwrap();
    let [w, order, diagonal, u, columns, output, scales, masks, status] =
        [2048, 256, 260, 16384, 2048, 512, 128, 64, 16].map(|bytes| noop.buffer(bytes));
    let good = ColumnsArgs {
        weights: (&w).into(),
        order: (&order).into(),
        diagonal: &diagonal,
        factor: &u,
        columns: &columns,
        output: &output,
        scales: &scales,
        masks: &masks,
        status: (&status).into(),
    };
    // W by columns, and a block of columns.
    let bound = block_on(plan.bind(good)).unwrap();
    assert_eq!(bound.dispatches(), 2);
    noop.submit(|pass| {
        assert!(bound.record(pass, 7).is_err());
        assert!(bound.record(pass, 8).is_ok());
    });
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let same = ColumnsArgs { columns: &w, ..good };
    assert!(matches!(refuse(same), BindError::Aliased { .. }));
    let same = ColumnsArgs { scales: &masks, ..good };
    assert!(matches!(refuse(same), BindError::TooSmall { role: Role::Scales, .. }));
    let short = ColumnsArgs { factor: &w, ..good };
    assert!(matches!(refuse(short), BindError::TooSmall { role: Role::Factor, .. }));
    // A fraction needs room after the masks. It has a first stage, four for bits of scores and two for the nine
    // bits of places, of two dispatches each, and one that writes masks.
    let spec = spec.with_pattern(Pattern::Fraction(0.5));
    let plan = block_on(ColumnsPlan::new(&kernels, &spec)).unwrap();
    let refused = block_on(plan.bind(good)).map(drop).unwrap_err();
    assert!(matches!(refused, BindError::TooSmall { role: Role::Mask, .. }), "{refused}");
    let masks = noop.buffer(spec.masks_bytes());
    let bound = block_on(plan.bind(ColumnsArgs { masks: &masks, ..good })).unwrap();
    // W is transposed by columns. A workgroup counts 64 rows of 32 columns, and one picks.
    let stages = [[2, 1]; 4 + 2].as_flattened();
    assert_eq!(bound.workgroups(8), [&[64, 1][..], stages, &[2, 1]].concat());
    noop.submit(|pass| bound.record(pass, 8).unwrap());
    noop.assert_quiet();
}

/// A device with a mistake in a kernel of a spec.
fn planted(spec: &ColumnsSpec, kernel: &str, from: &str, to: &str) -> Host {
    // A device of its own, because kernels are cached there.
    let faulty = Host::new().unwrap();
    let shaders = spec.shaders(faulty.kernels().caps());
    let has = |shader: &&KernelDesc| {
        shader.id.starts_with(kernel) && shader.compose().unwrap().source.contains(from)
    };
    let shader = shaders.iter().find(has).unwrap_or_else(|| panic!("{from}: it has changed"));
    let text = shader.compose().unwrap().source.replace(from, to);
    block_on(faulty.kernels().plant(shader, &text)).unwrap();
    faulty
}

/// Each of these mistakes in a kernel is found by the checks above: half of them, or all.
#[test]
fn planted_faults_are_caught() {
    if host().is_none() {
        return;
    }
    let (n, k) = (9, 150);
    let gram = triangle(&inputs(170, k), k);
    let w = floats(n * k, 3);
    let order: Vec<u32> = (0..k as u32).map(|i| (i * 7 + 3) % k as u32).collect();
    let spec = ColumnsSpec::new(n as u32, k as u32, Some(format("int4-g32-asym")))
        .with_pattern(Pattern::OfM { kept: 2, of: 4 });
    let faults = [
        ("columns", "round(q / affine.scale)", "trunc(q / affine.scale)"),
        ("columns", "q = (t - affine.zero) * affine.scale", "q = t * affine.scale"),
        (
            "columns",
            "for (var i = c + 1u; i < SUB; i += 1u)",
            "for (var i = c + 2u; i < SUB; i += 1u)",
        ),
        (
            "columns",
            "for (var j = s + SUB; j < p.width; j += 1u)",
            "for (var j = s + SUB + 1u; j < p.width; j += 1u)",
        ),
        (
            "columns",
            "let end = min(column + p.group, p.k);",
            "let end = min(column + p.group, p.k) - 1u;",
        ),
        ("columns", "score[j] < score[i]", "score[j] > score[i]"),
        ("columns", "let error = (x[c] - q) / u[at * (p.k + 1u)]", "let error = (x[c] - q)"),
        (
            "product",
            "select(vec4<f32>(0.0), values, k < end)",
            "select(vec4<f32>(0.0), values, k + 1u < end)",
        ),
        ("product", "select(values, -values, has(SUBTRACT))", "values"),
        ("columns_enter", "order[p.order_at + place]", "place"),
    ];
    for (kernel, from, to) in some_of(faults, 2) {
        let faulty = planted(&spec, kernel, from, to);
        let run = Run::new(&faulty, &spec, &w, &gram, &order, &[]);
        let checked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.check(&w, &order)));
        assert!(checked.is_err(), "{from} → {to} was not caught");
    }
    Run::new(host().unwrap(), &spec, &w, &gram, &order, &[]).check(&w, &order);
}

/// Kernels of patterns of 16 columns go through 16 at a time, but the words of codes end after a whole number of eight.
/// A word past the end would replace the last one where a driver moves it there, and other data in a larger buffer.
#[test]
fn nothing_is_written_past_the_codes() {
    let Some(host) = host() else { return };
    let (n, k) = (9, 24);
    let gram = triangle(&inputs(60, k), k);
    let w = floats(n * k, 3);
    let order: Vec<u32> = (0..k as u32).collect();
    let spec = ColumnsSpec::new(n as u32, k as u32, Some(format("int8-channel")))
        .with_pattern(Pattern::OfM { kept: 8, of: 16 });
    Run::new(host, &spec, &w, &gram, &order, &[]).check(&w, &order);
    let faulty = planted(
        &spec,
        "columns",
        "if (column + c < 8u * ((p.k + 7u) / 8u))",
        "if (column + c < 8u * ((p.k + 15u) / 8u))",
    );
    let run = Run::new(&faulty, &spec, &w, &gram, &order, &[]);
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.check(&w, &order)));
    assert!(checked.is_err(), "what is written past the end was not caught");
}
