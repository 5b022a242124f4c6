//! A matmul case. It runs the same kernel with three kinds of input.

use super::Case;
use super::data::{self, Random};
use super::epilogue::{finished, old_value};
use super::report::{ErrorOverBound, Outcome, Trouble};
use crate::format::{ActivationFunction, PackedWeights};
use crate::host::Host;
use crate::ops::{
    Epilogue, FloatType, MatmulArgs, MatmulPlan, MatmulSpec, RecordError, Select, SubBuffer,
};
use crate::reference::{self, MatmulCase, OutputType};
use half::f16;

/// The contents of outputs before a run, and of the words around rows after it. This is a NaN that
/// no arithmetic produces.
pub(super) const SENTINEL: u32 = 0x7fc5_7fc5;

pub(super) async fn run(host: &Host, case: &Case) -> Result<Outcome, Trouble> {
    let mut random = Random::new(case.seed());
    let packed = data::weights(case, &mut random).map_err(|e| e.to_string())?;
    let batch = if case.strided { 2 } else { 1 };
    let x = data::activations(case, batch * case.m * case.k, &mut random);
    let bias: Vec<f32> = (0..case.n).map(|i| (i % 17) as f32 - 8.0).collect();
    let bias = case.bias.then_some(bias.as_slice());
    let plan = MatmulPlan::new(host.kernels(), &spec(case), how(case)).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let mut outcome = Outcome {
        kernel: plan.kernel(case.m as u32).name(),
        error_over_bound: ErrorOverBound::Ratio(0.0),
        fault: None,
    };
    let mut worst = 0.0f64;

    // First the value pattern is checked against the bound. A function is applied to sums before
    // they are rounded to f16, so its bound starts from the f32 sums, and so does that of an epilogue.
    let plain = case.function == ActivationFunction::Identity && case.epilogue == Epilogue::None;
    let kind = if plain { output(case.output) } else { OutputType::F32 };
    let reference = |packed, x| MatmulCase {
        x,
        m: batch * case.m,
        weights: packed,
        bias,
        output: kind,
        zero_folded: false,
    };
    let after = |sums: Vec<reference::Expected>| {
        if plain { sums } else { finished(case, sums, output(case.output)) }
    };
    let y = multiply(host, case, &plan, &packed, &x, bias).await?;
    let expected = reference::matmul(&reference(&packed, &x)).map_err(|e| e.to_string())?;
    judge(case.y_columns(), "values", &y, &after(expected), &mut worst, &mut outcome.fault);

    // The one-hot pattern shows each weight alone. Pinned cases with short rows test every column,
    // and other cases the last column and some others.
    let rows = batch * case.m;
    let all = case.schedule.is_some() && case.k <= 256 && rows > 0;
    for run in 0..if all { case.k.div_ceil(rows) } else { usize::from(case.k > 0) } {
        let hot: Vec<(usize, f32)> = (0..rows)
            .map(|row| match (all, row) {
                (true, _) => ((run * rows + row) % case.k, 1.0 + (row % 5) as f32 / 4.0),
                (false, 0) => (case.k - 1, -1.5),
                (false, _) => (random.below(case.k as u64) as usize, 1.0 + (row % 5) as f32 / 4.0),
            })
            .collect();
        let mut x = vec![0.0; rows * case.k];
        for (row, &(column, value)) in hot.iter().enumerate() {
            x[row * case.k + column] = value;
        }
        let y = multiply(host, case, &plan, &packed, &x, bias).await?;
        let expected = reference::one_hot(&packed, &hot, bias, kind, false);
        let expected = expected.map_err(|e| e.to_string())?;
        judge(case.y_columns(), "one-hot", &y, &after(expected), &mut worst, &mut outcome.fault);
    }

    if case.function != ActivationFunction::Identity {
        // The functions have no exact results, so the last pattern does not apply.
        outcome.error_over_bound = ErrorOverBound::Ratio(worst);
        return Ok(outcome);
    }
    // The exact pattern: with integers and powers of two, every bit must be right.
    let exact = data::exact_weights(case, &packed, &mut random).map_err(|e| e.to_string())?;
    let limit = reference::exact_limit(&exact, bias, false).map_err(|e| e.to_string())?;
    // With at most 64, f16 activations are exact, and every case of the table has room at K = 4096.
    let limit = u64::from(limit.min(64));
    if limit > 0 {
        let x: Vec<f32> = (0..batch * case.m * case.k)
            .map(|_| random.below(2 * limit + 1) as f32 - limit as f32)
            .collect();
        let y = multiply(host, case, &plan, &exact, &x, bias).await?;
        let expected =
            reference::matmul_exact(&reference(&exact, &x)).map_err(|e| e.to_string())?;
        if !plain {
            // What follows the sums rounds once.
            let expected = after(exact_sums(&expected));
            judge(case.y_columns(), "integers", &y, &expected, &mut worst, &mut outcome.fault);
            outcome.error_over_bound = ErrorOverBound::Ratio(worst);
            return Ok(outcome);
        }
        let wrong = y.iter().zip(&expected).position(|(&got, want)| match case.output {
            FloatType::F32 => !want.is_f32(got),
            FloatType::F16 => !want.is_f16(f16::from_f32(got).to_bits()),
        });
        if let (Some(at), None) = (wrong, &outcome.fault) {
            let (row, column) = (at / case.n, at % case.n);
            let (got, want) = (y[at], expected[at].f32);
            worst = f64::MAX;
            outcome.fault = Some(format!("integers: y[{row}, {column}] is {got}, must be {want}"));
        }
    } else if outcome.fault.is_none() {
        outcome.fault = Some(
            "no integers keep the sums of this case exact: the case table must be changed".into(),
        );
    }
    outcome.error_over_bound = ErrorOverBound::Ratio(worst);
    Ok(outcome)
}

/// Compares Y with what is expected, `[rows, columns]`.
pub(super) fn judge(
    columns: usize,
    pattern: &str,
    y: &[f32],
    expected: &[reference::Expected],
    worst: &mut f64,
    fault: &mut Option<String>,
) {
    for (at, (&got, want)) in y.iter().zip(expected).enumerate() {
        let verdict = reference::check(want, got);
        *worst = worst.max(verdict.error_over_bound);
        if !verdict.passes() && fault.is_none() {
            let (row, column) = (at / columns, at % columns);
            let (value, bound) = (want.value, want.bound);
            *fault = Some(format!(
                "{pattern}: y[{row}, {column}] is {got}, must be {value} ± {bound:.3e}"
            ));
        }
    }
}

/// Returns sums that are known to be exact.
pub(super) fn exact_sums(sums: &[reference::Exact]) -> Vec<reference::Expected> {
    let sum =
        |exact: &reference::Exact| reference::Expected::new(exact.f32.into(), 0.0, OutputType::F32);
    sums.iter().map(sum).collect()
}

pub(super) fn output(float: FloatType) -> OutputType {
    match float {
        FloatType::F16 => OutputType::F16,
        _ => OutputType::F32,
    }
}

pub(super) fn how(case: &Case) -> Select {
    case.schedule.map_or(Select::Auto, Select::Pinned)
}

/// The number of unused values in a strided case before the first row of X and Y. The strides leave
/// more of them after each row and each batch. All are multiples of 4 if K is one, so that both
/// ways to load X are used.
struct Gaps {
    x_offset: u32,
    y_offset: u32,
}

fn gaps(case: &Case) -> Gaps {
    if case.strided { Gaps { x_offset: 8, y_offset: 6 } } else { Gaps { x_offset: 0, y_offset: 0 } }
}

fn spec(case: &Case) -> MatmulSpec {
    let (m, n, k) = (case.m as u32, case.n as u32, case.k as u32);
    let even = |columns: u32| columns + columns % 2;
    let mut spec = MatmulSpec::new(m, n, k, case.format);
    if case.strided {
        spec = MatmulSpec::new(m + 3, n, k, case.format).with_batch(2);
    }
    spec = spec.with_activations(case.activations).with_output(case.output);
    spec = spec.with_epilogue(case.epilogue);
    if case.strided {
        let (x_row, y_row) = (even(k) + 4, even(spec.y_columns()) + 2);
        let rows = spec.max_m;
        spec = spec.with_x_strides(x_row, x_row * rows + 8).with_y_strides(y_row, y_row * rows + 4);
    }
    if case.bias {
        spec = spec.with_bias();
    }
    if case.textures {
        spec = spec.with_code_textures();
    }
    spec.with_function(case.function)
}

/// Runs the kernel and returns Y, `[batch · m, N]`, after checking that nothing else was written.
async fn multiply(
    host: &Host,
    case: &Case,
    plan: &MatmulPlan,
    packed: &PackedWeights,
    x: &[f32],
    bias: Option<&[f32]>,
) -> Result<Vec<f32>, String> {
    let spec = plan.spec();
    let weights = data::upload(host, case, packed).await?;
    let Gaps { x_offset, y_offset } = gaps(case);
    let (x_bytes, y_bytes) = (case.activations.bytes(), case.output.bytes());
    let words = |values: u64, bytes: u64| (values * bytes).div_ceil(4) as usize + 8;
    let x_len = u64::from(x_offset) + spec.x_bytes(spec.max_m) / x_bytes;
    let y_len = u64::from(y_offset) + spec.y_bytes(spec.max_m) / y_bytes;
    // The words between rows of X are NaN, so that a kernel that reads them gives a wrong result.
    let mut x_words = vec![SENTINEL; words(x_len, x_bytes)];
    let x_rows = rows(spec.batch, case.m, x_offset, spec.x_batch_stride, spec.x_stride);
    for (source, at) in x_rows.enumerate() {
        for column in 0..case.k {
            put(&mut x_words, case.activations, at + column, x[source * case.k + column]);
        }
    }
    let mut expected_words = vec![SENTINEL; words(y_len, y_bytes)];
    let y_rows = || rows(spec.batch, case.m, y_offset, spec.y_batch_stride, spec.y_stride);
    let columns = case.y_columns();
    if case.epilogue == Epilogue::Accumulate {
        for (row, at) in y_rows().enumerate() {
            for column in 0..columns {
                put(&mut expected_words, case.output, at + column, old_value(row, column));
            }
        }
    }
    let x_buffer = host.storage_async(&x_words).await.map_err(|e| e.to_string())?;
    let y_buffer = host.storage_async(&expected_words).await.map_err(|e| e.to_string())?;
    let bias = host.optional(bias).await.map_err(|e| e.to_string())?;
    let bound = plan
        .bind(MatmulArgs {
            activations: SubBuffer { buffer: &x_buffer, offset: u64::from(x_offset) * x_bytes },
            weights: &weights,
            bias: bias.as_ref().map(Into::into),
            output: SubBuffer { buffer: &y_buffer, offset: u64::from(y_offset) * y_bytes },
        })
        .await
        .map_err(|e| e.to_string())?;
    let mut recorded: Result<(), RecordError> = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
        .await
        .map_err(|e| e.to_string())?;
    recorded.map_err(|e| e.to_string())?;
    let got =
        host.read_async(&y_buffer, 0, expected_words.len()).await.map_err(|e| e.to_string())?;
    // The results are moved to where sentinels are expected. Everything else must then be equal.
    let mut y = Vec::with_capacity(case.m * columns * spec.batch as usize);
    for at in y_rows() {
        for column in 0..columns {
            let value = take(&got, case.output, at + column);
            put_bits(&mut expected_words, case.output, at + column, value.0);
            y.push(value.1);
        }
    }
    match got.iter().zip(&expected_words).position(|(got, want)| got != want) {
        Some(word) => {
            Err(format!("word {word} of Y, which is outside of its rows, was overwritten"))
        }
        None => Ok(y),
    }
}

/// Returns the index of the first value of each row of each batch.
pub(super) fn rows(
    batch: u32,
    m: usize,
    offset: u32,
    by_batch: u32,
    by_row: u32,
) -> impl Iterator<Item = usize> {
    (0..batch as usize).flat_map(move |b| {
        (0..m).map(move |row| offset as usize + b * by_batch as usize + row * by_row as usize)
    })
}

pub(super) fn put(words: &mut [u32], float: FloatType, at: usize, value: f32) {
    let bits = match float {
        FloatType::F32 => value.to_bits(),
        FloatType::F16 => u32::from(f16::from_f32(value).to_bits()),
    };
    put_bits(words, float, at, bits);
}

pub(super) fn put_bits(words: &mut [u32], float: FloatType, at: usize, bits: u32) {
    match float {
        FloatType::F32 => words[at] = bits,
        FloatType::F16 => {
            let shift = at % 2 * 16;
            words[at / 2] = words[at / 2] & !(0xffff << shift) | bits << shift;
        }
    }
}

pub(super) fn take(words: &[u32], float: FloatType, at: usize) -> (u32, f32) {
    match float {
        FloatType::F32 => (words[at], f32::from_bits(words[at])),
        FloatType::F16 => {
            let bits = words[at / 2] >> (at % 2 * 16) & 0xffff;
            (bits, f16::from_bits(bits as u16).to_f32())
        }
    }
}
