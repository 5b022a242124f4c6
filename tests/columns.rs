//! Tests of rounding and pruning column by column. Every step of the device is checked against f64, given the
//! errors that it made in the columns before: so each decision has a bound of its own.

use crate::common::{Noop, floats, host};
use lowbit::compress::{dequantize, quantize};
use lowbit::format::{Granularity, WeightFormat};
use lowbit::gpu::{AdapterClass, KernelDesc, Kernels};
use lowbit::host::{Gptq, Host, HostError};
use lowbit::ops::{
    BindError, ColumnsArgs, ColumnsError, ColumnsPlan, ColumnsSpec, FactorArgs, FactorError,
    FactorPlan, FactorSpec, GramSpec, Pattern, PlanError, Role,
};
use lowbit::reference::{UNIT, gamma};
use pollster::block_on;

/// The rows of inputs of a layer, `[m, k]`: columns of different sizes, with what is common to neighbours.
fn inputs(m: usize, k: usize) -> Vec<f32> {
    let mut x = floats(m * k, 7);
    for row in x.chunks_mut(k) {
        for j in 1..k {
            row[j] = 0.6 * row[j - 1] + row[j] * [1.0, 2.0, 0.5][j % 3];
        }
    }
    x
}

fn triangle(x: &[f32], k: usize) -> Vec<i128> {
    let mut h = vec![0.0; k * k];
    for row in x.chunks(k) {
        for i in 0..k {
            for j in i..k {
                h[i * k + j] += f64::from(row[i]) * f64::from(row[j]);
            }
        }
    }
    let upper = (0..k).flat_map(|i| (i..k).map(move |j| i * k + j));
    upper.map(|at| (h[at] * 2f64.powi(72)) as i128).collect()
}

/// What a run left.
struct Run {
    spec: ColumnsSpec,
    output: Vec<u32>,
    scales: Vec<f32>,
    masks: Vec<u32>,
    errors: Vec<f32>,
    u: Vec<f32>,
    status: Vec<u32>,
}

impl Run {
    fn new(
        host: &Host,
        spec: &ColumnsSpec,
        w: &[f32],
        gram: &[i128],
        order: &[u32],
        scales: &[f32],
    ) -> Self {
        let k = spec.k;
        let mut places = vec![0; k as usize];
        order.iter().enumerate().for_each(|(at, &column)| places[column as usize] = at as u32);
        let factor = FactorSpec::new(k);
        let sums = host.storage(&GramSpec::new(1, k).encode(gram).unwrap()).unwrap();
        let order = host.storage(&[order, &places].concat()).unwrap();
        let hole = |bytes: u64| host.storage(&vec![0x7fc5_7fc5; bytes as usize / 4]).unwrap();
        let (scratch, upper) = (hole(factor.matrix_bytes()), hole(factor.matrix_bytes()));
        let diagonal = hole(4 * (u64::from(k) + 1));
        let status = host.zeros(8).unwrap();
        let plan = block_on(FactorPlan::new(host.kernels(), &factor)).unwrap();
        let args = FactorArgs {
            sums: (&sums).into(),
            order: (&order).into(),
            scratch: &scratch,
            output: &upper,
            diagonal: &diagonal,
            status: (&status).into(),
        };
        let factored = block_on(plan.bind(args)).unwrap();
        let weights = host.storage(bytemuck::cast_slice(w)).unwrap();
        let (columns, output) = (hole(spec.columns_bytes()), hole(spec.output_bytes()));
        let mut all = scales.to_vec();
        all.resize((spec.scales_bytes() / 4) as usize, f32::NAN);
        let scales = host.storage(bytemuck::cast_slice(&all)).unwrap();
        let masks = hole(spec.masks_bytes());
        let plan = block_on(ColumnsPlan::new(host.kernels(), spec)).unwrap();
        let args = ColumnsArgs {
            weights: (&weights).into(),
            order: (&order).into(),
            diagonal: &diagonal,
            factor: &upper,
            columns: &columns,
            output: &output,
            scales: &scales,
            masks: &masks,
            status: (&status).into(),
        };
        let bound = block_on(plan.bind(args)).unwrap();
        host.submit(|pass| {
            factored.record(pass, k).unwrap();
            bound.record(pass, spec.n).unwrap();
        })
        .unwrap();
        let words = |buffer, bytes: u64| host.read(buffer, 0, (bytes / 4) as usize).unwrap();
        let floats = |buffer, bytes| words(buffer, bytes).into_iter().map(f32::from_bits).collect();
        Self {
            output: words(&output, spec.output_bytes()),
            scales: floats(&scales, spec.scales_bytes()),
            masks: words(&masks, spec.masks_bytes()),
            errors: floats(&columns, spec.columns_bytes()),
            u: floats(&upper, factor.matrix_bytes()),
            status: host.read(&status, 0, 2).unwrap(),
            spec: spec.clone(),
        }
    }

    fn rows(&self) -> usize {
        self.spec.rows() as usize
    }

    fn code(&self, row: usize, at: usize) -> i32 {
        let byte = self.output[at / 4 * self.rows() + row] >> (8 * (at % 4)) & 0xff;
        let signed = self.spec.format.unwrap().code_range().unwrap().0 < 0;
        if signed { i32::from(byte as u8 as i8) } else { byte as i32 }
    }

    /// The scale and zero point that the code at a place has.
    fn affine(&self, row: usize, group: usize) -> (f64, f64) {
        let at = group * self.rows() + row;
        let zeros = self.scales.len() / 2;
        (f64::from(self.scales[at]), f64::from(self.scales[zeros + at]))
    }

    fn is_kept(&self, row: usize, at: usize) -> bool {
        self.spec.pattern.is_none() || self.masks[at / 32 * self.rows() + row] >> (at % 32) & 1 == 1
    }

    /// What is left of a row of W at each place from `from` on when the columns before `taken` were taken, and
    /// how far the device may be off.
    ///
    /// A kernel subtracts ê_j·U_ji in some order: with T = `taken` terms, γ_(2T+2) of Σ|ê_j·U_ji| + |w|, because a
    /// term goes through its product and at most T additions, in sums that are added or one by one.
    fn left(&self, w: &[f64], row: usize, taken: usize, at: usize) -> (f64, f64) {
        let k = self.spec.k as usize;
        let (mut value, mut size) = (w[at], w[at].abs());
        for j in 0..taken {
            let part =
                f64::from(self.errors[j * self.rows() + row]) * f64::from(self.u[j * k + at]);
            value -= part;
            size += part.abs();
        }
        (value, gamma(2 * taken + 2) * size + f64::from(f32::MIN_POSITIVE))
    }

    /// Checks scales, decisions and errors of every column of every row.
    fn check(&self, w: &[f32], order: &[u32]) {
        assert_eq!(self.status, [0, 0]);
        let (n, k) = (self.spec.n as usize, self.spec.k as usize);
        let mut near = 0;
        for row in 0..n {
            let column = |&column: &u32| f64::from(w[row * k + column as usize]);
            let w: Vec<f64> = order.iter().map(column).collect();
            for at in 0..k {
                let (left, off) = self.left(&w, row, at, at);
                if let Some(Pattern { of, .. }) = self.spec.pattern
                    && at % of as usize == 0
                {
                    self.check_pattern(&w, row, at);
                }
                let kept = self.is_kept(row, at);
                let q = match self.spec.format {
                    None => {
                        let q = f64::from(f32::from_bits(self.output[at * self.rows() + row]));
                        let fine = if kept { (q - left).abs() <= off } else { q == 0.0 };
                        assert!(fine, "row {row}, place {at}: {q}, must be {left} ± {off}");
                        q
                    }
                    Some(format) => {
                        let group = self.group_of(at, order);
                        if !self.spec.given && at.is_multiple_of(self.group()) {
                            self.check_scale(&w, row, at, group);
                        }
                        let (scale, zero) = self.affine(row, group);
                        let (low, high) = format.code_range().unwrap();
                        let steps = left / scale;
                        let want = (steps.round_ties_even() + zero).clamp(low.into(), high.into());
                        let want = if kept { want } else { zero };
                        let got = f64::from(self.code(row, at));
                        // The division is accurate to 2.5 ulp.
                        let slack = off / scale + 4.0 * UNIT * steps.abs();
                        let tie = (steps - steps.floor() - 0.5).abs();
                        let fine = got == want || kept && (got - want).abs() == 1.0 && tie <= slack;
                        assert!(fine, "row {row}, place {at}: {got}, must be {want}");
                        near += usize::from(got != want);
                        (got - zero) * scale
                    }
                };
                let d = f64::from(self.u[at * k + at]);
                let error = (left - q) / d;
                let got = f64::from(self.errors[at * self.rows() + row]);
                // q is rounded once, the difference once, and the quotient is accurate to 2.5 ulp.
                let slack =
                    (off + UNIT * q.abs()) / d * (1.0 + 5.0 * UNIT) + 5.0 * UNIT * error.abs();
                let fine = (got - error).abs() <= slack + f64::from(f32::MIN_POSITIVE);
                assert!(fine, "row {row}, place {at}: e is {got}, must be {error} ± {slack}");
            }
        }
        // Codes next to ties are rare, so most decisions were checked.
        assert!(near * 100 <= n * k, "{near} codes of {} lie next to ties", n * k);
    }

    fn group(&self) -> usize {
        match self.spec.format.map(|format| format.granularity()) {
            Some(Granularity::Group(group)) => group.get() as usize,
            _ => self.spec.k as usize,
        }
    }

    fn group_of(&self, at: usize, order: &[u32]) -> usize {
        if self.spec.given { order[at] as usize / self.group() } else { at / self.group() }
    }

    fn check_scale(&self, w: &[f64], row: usize, at: usize, group: usize) {
        let format = self.spec.format.unwrap();
        let end = (at + self.group()).min(self.spec.k as usize);
        let (mut low, mut high, mut off) = (0.0f64, 0.0f64, 0.0f64);
        for place in at..end {
            let (left, own) = self.left(w, row, at, place);
            (low, high, off) = (low.max(-left), high.max(left), off.max(own));
        }
        let (least, most) = format.code_range().unwrap();
        let symmetric = format.is_symmetric();
        let extent = if symmetric { low.max(high) } else { low + high };
        let steps =
            f64::from(if symmetric { most - format.symmetric_zero() } else { most - least });
        let (scale, zero) = self.affine(row, group);
        let half = f64::from(u8::from(format.scale_type() == lowbit::format::ScaleType::F16));
        // A sum, a division of 2.5 ulp, and half an ulp of f16.
        let slack = 2.0 * off / steps + extent / steps * (4.0 * UNIT + half * 2f64.powi(-11));
        let want = extent / steps;
        assert!((scale - want).abs() <= slack, "row {row}, group {group}: {scale}, must be {want}");
        if symmetric {
            assert_eq!(zero, f64::from(format.symmetric_zero()));
        } else {
            let want = low / scale;
            let slack = off / scale + 4.0 * UNIT * want + 1e-12;
            let got = zero - f64::from(least);
            let (down, up) = (want - slack, want + slack);
            let fine = got >= down.round_ties_even().clamp(0.0, steps)
                && got <= up.round_ties_even().clamp(0.0, steps);
            assert!(fine, "row {row}, group {group}: zero point {got}, must be near {want}");
        }
    }

    /// As many are pruned as the pattern says, and no score of one is above that of one that is kept.
    fn check_pattern(&self, w: &[f64], row: usize, at: usize) {
        let (k, pattern) = (self.spec.k as usize, self.spec.pattern.unwrap());
        let end = (at + pattern.of as usize).min(k);
        let score = |place: usize| {
            let (left, off) = self.left(w, row, at, place);
            let d = f64::from(self.u[place * k + place]);
            let size = left.abs() / d;
            // The division and the square.
            let off = off / d + 4.0 * UNIT * size;
            ((size - off).max(0.0).powi(2), (size + off).powi(2) * (1.0 + 2.0 * UNIT))
        };
        let (kept, gone): (Vec<usize>, Vec<usize>) =
            (at..end).partition(|&place| self.is_kept(row, place));
        let absent = at + pattern.of as usize - end;
        let pruned = ((pattern.of - pattern.kept) as usize).saturating_sub(absent);
        assert_eq!(gone.len(), pruned, "row {row}, places from {at} on");
        for &gone in &gone {
            for &kept in &kept {
                assert!(score(gone).0 <= score(kept).1, "row {row}: {gone} is pruned, not {kept}");
            }
        }
    }
}

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

/// Every format and pattern, in both orders, with rows and columns that end within tiles and lanes.
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
                let order = if i % 2 == turn { &forward } else { &backward };
                let spec = ColumnsSpec::new(n as u32, k as u32, Some(format(name)));
                Run::new(host, &spec, &w, &gram, order, &[]).check(&w, order);
                let patterns = [(2, 4), (1, 4), (6, 8), (8, 16), (1, 2)];
                let (kept, of) = patterns[i % 5];
                let spec = spec.with_pattern(Pattern { kept, of });
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
        let packed = quantize(&w, n, k, &format(name)).unwrap();
        let (rows, groups) = (spec.rows() as usize, spec.groups() as usize);
        let mut scales = vec![1.0; 2 * rows * groups];
        for row in 0..n {
            for group in 0..groups {
                scales[group * rows + row] = packed.scale(row, group);
                scales[(groups + group) * rows + row] = packed.zero(row, group) as f32;
            }
        }
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
    let how = Gptq { pattern: Some(Pattern { kept: 2, of: 4 }), ..Gptq::default() };
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
        let how = Gptq { pattern: Some(Pattern { kept, of }), ..Gptq::default() };
        let error = gptq(&w, &gram, "int4-g32", &how).unwrap_err();
        assert!(matches!(error, HostError::Plan(PlanError::Number { .. })), "{kept}:{of}: {error}");
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
    noop.assert_quiet();
}

/// Each of these mistakes in a kernel is found by the checks above.
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
        .with_pattern(Pattern { kept: 2, of: 4 });
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
    for (kernel, from, to) in faults {
        // A device of its own, because kernels are cached there.
        let faulty = Host::new().unwrap();
        let shaders = spec.shaders(faulty.kernels().caps());
        let has = |shader: &&KernelDesc| {
            shader.id.starts_with(kernel) && shader.compose().unwrap().source.contains(from)
        };
        let shader = shaders.iter().find(has).unwrap_or_else(|| panic!("{from}: it has changed"));
        let text = shader.compose().unwrap().source.replace(from, to);
        block_on(faulty.kernels().plant(shader, &text)).unwrap();
        let run = Run::new(&faulty, &spec, &w, &gram, &order, &[]);
        let checked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.check(&w, &order)));
        assert!(checked.is_err(), "{from} → {to} was not caught");
    }
    Run::new(host().unwrap(), &spec, &w, &gram, &order, &[]).check(&w, &order);
}
