//! Cases of matmuls of quantized X. First their exact sums are checked bit for bit, then their
//! results.

use super::Case;
use super::case::Quantized;
use super::data::{self, Random};
use super::epilogue::{finished, old_value};
use super::matmul::{SENTINEL, how, put, put_bits, take};
use super::report::{ErrorOverBound, Outcome, Trouble};
use crate::format::{ActivationFormat, ActivationLayout, StaticScale};
use crate::host::Host;
use crate::ops::{
    self, DeviceWeights, Epilogue, FloatType, MatmulArgs, MatmulPlan, MatmulSpec, SubBuffer,
};
use crate::reference::{self, Expected, IntegerCase};

/// The scale and zero point that Y is quantized with, if it is quantized.
const OUTPUT: StaticScale = StaticScale { scale: 0.375, zero_point: 5 };

pub(super) async fn run(
    host: &Host,
    case: &Case,
    quantized: &Quantized,
) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let mut random = Random::new(case.seed());
    let packed = data::weights(case, &mut random).map_err(|e| text(&e))?;
    let weights = data::upload(host, case, &packed).await?;
    let layout = quantized.format.layout(case.k).map_err(|e| text(&e))?;
    let batch = if case.strided { 2 } else { 1 };
    let x = codes(case, quantized, &layout, batch * case.m, &mut random);
    let bias: Vec<f32> = (0..case.n).map(|i| (i % 17) as f32 - 8.0).collect();
    let bias = case.bias.then_some(bias.as_slice());
    let reference =
        IntegerCase { x: &x, m: batch * case.m, layout: &layout, weights: &packed, bias };

    // The kernel runs twice: first it writes its exact sums, and then its results.
    let sums = spec(case, quantized, ops::Output::Accumulators);
    let plan = plan(host, case, &sums).await?;
    let slice = sums.slice_blocks() as usize;
    let want = reference::integer_accumulators(&reference, slice).map_err(|e| text(&e))?;
    let y = multiply(host, case, &plan, &weights, &x, None).await?;
    let wrong = y.iter().zip(&want).position(|(&got, &want)| i64::from(got as i32) != want);
    let mut fault = wrong.map(|at| {
        let (got, want) = (y[at] as i32, want[at]);
        format!("sums of slices: entry {at} of [m, slices, n] is {got}, must be {want}")
    });

    let spec = spec(case, quantized, quantized.output);
    let plan = self::plan(host, case, &spec).await?;
    let choice = plan.kernel(case.m as u32);
    let parts = choice.part_columns(&spec) as usize;
    let expected = reference::integer_matmul(&reference, parts).map_err(|e| text(&e))?;
    let y = multiply(host, case, &plan, &weights, &x, bias).await?;
    let (worst, wrong) = match quantized.output {
        ops::Output::Int8(_) => judge_codes(case, quantized, &expected, &y),
        _ => judge(case, &expected, &y, quantized.output),
    };
    fault = fault.or(wrong);
    let error_over_bound = ErrorOverBound::Ratio(if fault.is_some() { f64::MAX } else { worst });
    Ok(Outcome { kernel: choice.name(), error_over_bound, fault })
}

async fn plan(host: &Host, case: &Case, spec: &MatmulSpec) -> Result<MatmulPlan, Trouble> {
    MatmulPlan::new(host.kernels(), spec, how(case))
        .await
        .map_err(|error| Trouble::of(case, &error))
}

fn spec(case: &Case, quantized: &Quantized, output: ops::Output) -> MatmulSpec {
    let (m, n, k) = (case.m as u32, case.n as u32, case.k as u32);
    let batch = if case.strided { 2 } else { 1 };
    // The plan is for more rows than are recorded.
    let rows = if case.strided { m + 3 } else { m };
    let mut spec = MatmulSpec::new(rows, n, k, case.format)
        .with_batch(batch)
        .with_activations(ops::Activations::Int8(quantized.format))
        .with_output(output)
        .with_function(case.function);
    // Exact sums have none.
    if output != ops::Output::Accumulators {
        spec = spec.with_epilogue(case.epilogue);
    }
    if case.strided {
        let (x_row, y_row) = (spec.x_stride + 4, spec.y_stride + 4);
        spec = spec.with_x_strides(x_row, x_row * rows + 8).with_y_strides(y_row, y_row * rows + 4);
    }
    spec.bias = case.bias;
    spec.code_textures = case.textures;
    spec
}

/// Returns rows of X as any calibration or device might produce them: all codes occur, scales
/// differ widely, and each group has its own zero point if the format is asymmetric.
fn codes(
    case: &Case,
    quantized: &Quantized,
    layout: &ActivationLayout,
    rows: usize,
    random: &mut Random,
) -> Vec<u32> {
    let symmetric = quantized.format.is_symmetric();
    let mut all = vec![0u32; rows * layout.row_words];
    for (index, row) in all.chunks_mut(layout.row_words.max(1)).enumerate() {
        // In every second row, the codes are on the other side of the zero point.
        let far = if index % 2 == 0 { (127i8, -128i64) } else { (-128, 127) };
        for column in 0..layout.k {
            let code = match case.values {
                super::Values::Constant if symmetric => far.0.max(-127),
                super::Values::Constant => far.0,
                super::Values::Extreme => [-127i8, 127][random.below(2) as usize],
                super::Values::SignedZeros if random.below(2) == 0 => 0,
                _ if symmetric => (random.below(255) as i64 - 127) as i8,
                _ => (random.below(256) as i64 - 128) as i8,
            };
            row[column / 4] |= u32::from(code as u8) << (8 * (column % 4));
        }
        for group in 0..layout.groups {
            let scale = (1.0 + random.below(1000) as f32 / 997.0) / 64.0;
            row[layout.scale_at + group] = scale.to_bits();
            let zero = match (symmetric, case.values) {
                (true, _) => 0,
                (_, super::Values::Constant) => far.1,
                (_, super::Values::Extreme) => [-128, 127][random.below(2) as usize],
                _ => random.below(256) as i64 - 128,
            };
            row[layout.zero_at + group] = zero as i32 as u32;
        }
        for block in 0..layout.blocks {
            let codes = (0..8).flat_map(|word| row[8 * block + word].to_le_bytes());
            let sum: i32 = codes.map(|code| i32::from(code as i8)).sum();
            row[layout.sum_at + block] = sum as u32;
        }
    }
    all
}

/// Returns the words of the rows of Y after checking that nothing else was written. If Y is f16,
/// each word contains one value.
async fn multiply(
    host: &Host,
    case: &Case,
    plan: &MatmulPlan,
    weights: &DeviceWeights,
    x: &[u32],
    bias: Option<&[f32]>,
) -> Result<Vec<u32>, String> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let spec = plan.spec();
    let row_words = spec.x_row() as usize;
    let rows = |batch_stride: u32, stride: u32, offset: usize| {
        let by_batch = move |b: usize| b * batch_stride as usize;
        (0..spec.batch as usize).flat_map(move |b| {
            (0..case.m).map(move |row| offset + by_batch(b) + row * stride as usize)
        })
    };
    let (x_offset, y_offset) = if case.strided { (8, 12) } else { (0, 0) };
    let x_len = x_offset + (spec.x_bytes(spec.max_m) / 4) as usize;
    let mut x_words = vec![SENTINEL; x_len + 8];
    // Rows without columns have no position.
    let x_rows = rows(spec.x_batch_stride, spec.x_stride, x_offset).filter(|_| row_words > 0);
    for (source, at) in x_rows.enumerate() {
        x_words[at..at + row_words].copy_from_slice(&x[source * row_words..][..row_words]);
    }
    let unit = spec.output.unit();
    let float = if unit == 2 { FloatType::F16 } else { FloatType::F32 };
    let y_len = y_offset as u64 + spec.y_bytes(spec.max_m) / unit;
    let adds = spec.output == ops::Output::Accumulators;
    let mut around = vec![SENTINEL; (y_len * unit).div_ceil(4) as usize + 8];
    let columns = spec.y_row() as usize;
    let adds = adds && columns > 0;
    for at in rows(spec.y_batch_stride, spec.y_stride, y_offset).filter(|_| adds) {
        around[at..at + columns].fill(0);
    }
    if spec.epilogue == Epilogue::Accumulate {
        for (row, at) in rows(spec.y_batch_stride, spec.y_stride, y_offset).enumerate() {
            for column in 0..columns {
                put(&mut around, float, at + column, old_value(row, column));
            }
        }
    }
    let x = host.storage_async(&x_words).await.map_err(|e| text(&e))?;
    let y = host.storage_async(&around).await.map_err(|e| text(&e))?;
    let zeros = vec![0.0; case.n];
    let bias = spec.bias.then(|| bias.unwrap_or(&zeros));
    let bias = host.optional(bias).await.map_err(|e| text(&e))?;
    let args = MatmulArgs {
        activations: SubBuffer { buffer: &x, offset: 4 * x_offset as u64 },
        weights,
        bias: bias.as_ref().map(Into::into),
        output: SubBuffer { buffer: &y, offset: y_offset as u64 * unit },
    };
    let bound = match spec.output {
        ops::Output::Int8(format) => plan.bind_scaled(args, scale_of(format)).await,
        _ => plan.bind(args).await,
    };
    let bound = bound.map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let got = host.read_async(&y, 0, around.len()).await.map_err(|e| text(&e))?;
    let mut out = Vec::new();
    for at in rows(spec.y_batch_stride, spec.y_stride, y_offset) {
        for column in 0..columns {
            let (bits, _) = take(&got, float, at + column);
            put_bits(&mut around, float, at + column, bits);
            out.push(bits);
        }
    }
    match got.iter().zip(&around).position(|(got, want)| got != want) {
        Some(word) => {
            Err(format!("word {word} of Y, which is outside of its rows, was overwritten"))
        }
        None => Ok(out),
    }
}

fn scale_of(format: ActivationFormat) -> StaticScale {
    let zero_point = if format.is_symmetric() { 0 } else { OUTPUT.zero_point };
    StaticScale { zero_point, ..OUTPUT }
}

fn judge(
    case: &Case,
    expected: &[Expected],
    y: &[u32],
    output: ops::Output,
) -> (f64, Option<String>) {
    let half = output == ops::Output::Float(FloatType::F16);
    let (float, kind) = if half {
        (FloatType::F16, reference::OutputType::F16)
    } else {
        (FloatType::F32, reference::OutputType::F32)
    };
    let mut worst = 0.0f64;
    let (expected, columns) = (finished(case, expected.to_vec(), kind), case.y_columns());
    for (at, (&bits, want)) in y.iter().zip(expected).enumerate() {
        let (_, got) = take(&[bits], float, 0);
        let verdict = reference::check(&want, got);
        worst = worst.max(verdict.error_over_bound);
        if !verdict.passes() {
            let (row, column) = (at / columns, at % columns);
            let Expected { value, bound, .. } = want;
            let text = format!("y[{row}, {column}] is {got}, must be {value} ± {bound:.3e}");
            return (worst, Some(text));
        }
    }
    (worst, None)
}

fn judge_codes(
    case: &Case,
    quantized: &Quantized,
    expected: &[Expected],
    y: &[u32],
) -> (f64, Option<String>) {
    let mut worst = 0.0f64;
    let ops::Output::Int8(format) = quantized.output else { return (worst, None) };
    let Ok(layout) = format.layout(case.n) else { return (worst, None) };
    let StaticScale { scale, zero_point } = scale_of(format);
    for (row, words) in y.chunks(layout.row_words.max(1)).enumerate() {
        if case.n == 0 {
            break;
        }
        let code = |column: usize| words[column / 4].to_le_bytes()[column % 4] as i8;
        for column in 0..case.n {
            let want =
                expected[row * case.n + column].after(case.function, reference::OutputType::F32);
            let symmetric = format.is_symmetric();
            let verdict = reference::check_code(&want, scale, zero_point, symmetric, code(column));
            worst = worst.max(verdict.error_over_bound);
            if !verdict.passes() {
                let (got, value, off) = (code(column), want.value, verdict.error);
                let text = format!(
                    "y[{row}, {column}] has code {got}, but its value is {value}: off by {off} codes"
                );
                return (worst, Some(text));
            }
        }
        if (case.n..32 * layout.blocks).any(|column| code(column) != 0) {
            return (worst, Some(format!("row {row}: codes past the last column are not 0")));
        }
        for block in 0..layout.blocks {
            let sum: i32 = (32 * block..32 * block + 32).map(|c| i32::from(code(c))).sum();
            if words[layout.sum_at + block] as i32 != sum {
                return (worst, Some(format!("row {row}: the sum of block {block} is wrong")));
            }
        }
        let side = (words[layout.scale_at], words[layout.zero_at] as i32);
        if side != (scale.to_bits(), zero_point) {
            let want = (scale.to_bits(), zero_point);
            let text = format!(
                "row {row}: scale and zero point are {side:?}, must be {want:?} (bits of f32, i32)"
            );
            return (worst, Some(text));
        }
        let used = layout.sum_at + layout.blocks;
        if words[used..].iter().any(|&word| word != SENTINEL) {
            return (worst, Some(format!("row {row}: the padding after its sums was overwritten")));
        }
    }
    (worst, None)
}
