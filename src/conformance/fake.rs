//! Cases of fake quantization (X quantized and dequantized at once) and its gradients.

use super::Case;
use super::case::FakeScales;
use super::data::{self, Random};
use super::matmul::SENTINEL;
use super::report::{ErrorOverBound, Outcome, Trouble};
use super::rows::Rows;
use crate::host::Host;
use crate::ops::{
    FakeQuantArgs, FakeQuantBackwardArgs, FakeQuantPlan, FakeQuantSpec, FloatType, SubBuffer,
};
use crate::reference::{self, FakeQuantCase, FakeQuantGradients, OutputType};

/// The inputs of a case.
struct Job {
    spec: FakeQuantSpec,
    x: Vec<f32>,
    dy: Vec<f32>,
    /// The static scales, or nothing if they are computed from X.
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

/// The results of the forward and the backward pass.
struct Results {
    y: Vec<f32>,
    scales: Vec<f32>,
    zeros: Vec<f32>,
    gradients: FakeQuantGradients<f32>,
}

pub(super) async fn run(host: &Host, case: &Case, from: FakeScales) -> Result<Outcome, Trouble> {
    let job = job(case, from);
    let plan = FakeQuantPlan::new(host.kernels(), &job.spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let results = both_passes(host, case, &plan, &job).await?;
    let caps = host.kernels().caps();
    // The last kernel of the forward pass names the case. The name of the backward kernel only adds
    // a suffix.
    let kernel = job.spec.forward_shaders(caps).pop().map(|shader| shader.id);
    let judged = judge(case, &job, &results).map_err(|e| e.to_string())?;
    Ok(Outcome {
        kernel: kernel.unwrap_or_default(),
        error_over_bound: ErrorOverBound::Ratio(judged.error_over_bound),
        fault: judged.fault,
    })
}

fn job(case: &Case, from: FakeScales) -> Job {
    // The plan is for more rows than are recorded.
    let rows = case.m as u32 + if case.strided { 2 } else { 0 };
    let spec = FakeQuantSpec::new(rows, case.k as u32, case.format);
    let mut spec = spec.with_types(case.activations, case.output);
    if case.strided {
        // f32 rows of X and of dY are loaded in two ways, depending on the stride. Both ways are
        // used.
        let (x, y) = [(4, 4), (2, 4), (4, 2)][case.m % 3];
        (spec.x_stride, spec.y_stride) = (spec.x_stride + x, spec.y_stride + y);
    }
    spec.given = from != FakeScales::Dynamic;
    spec.gradient_scale = from == FakeScales::Lsq;
    let mut random = Random::new(case.seed());
    let x = data::rows(case, &mut random);
    let dy = data::values(super::Values::Normal, x.len(), &mut random);
    let dy = dy.into_iter().map(|v| data::rounded(case.output, v)).collect();
    let groups = if spec.given { spec.scales(case.m as u32) as usize } else { 0 };
    let (qmin, qmax) = spec.codes();
    let steps = (qmax - qmin) as f32;
    let row_scales = (groups / case.m.max(1)).max(1);
    let mut scale = |group: usize| {
        // Two standard deviations are inside the range, and the rest is clipped. Powers of two keep
        // ties exact.
        let exact = data::size(group / row_scales) * (4.0 / steps).log2().floor().exp2();
        if random.below(2) == 0 { exact } else { exact * (0.7 + random.below(600) as f32 / 1000.0) }
    };
    let scales = (0..groups).map(&mut scale).collect();
    // Some zero points are slightly outside the range of codes and are clamped to its ends.
    let mut zero = |_| qmin as f32 + (random.below(1101) as f32 / 1000.0 - 0.05) * steps;
    let zeros = if case.format.is_symmetric() { 0 } else { groups };
    Job { spec, x, dy, scales, zeros: (0..zeros).map(&mut zero).collect() }
}

/// Number of words before the numbers in a buffer of scales, zero points or their gradients, and
/// after them.
const BEFORE: usize = 3;

async fn both_passes(
    host: &Host,
    case: &Case,
    plan: &FakeQuantPlan,
    job: &Job,
) -> Result<Results, String> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let (spec, m) = (&job.spec, case.m as u32);
    let rows = |float, stride: u32, offset: usize| {
        let offset = if case.strided { offset } else { 0 };
        Rows { float, offset, stride: stride as usize, k: case.k }
    };
    let (x, dy) = (rows(spec.input, spec.x_stride, 8), rows(spec.output, spec.y_stride, 16));
    let (y, dx) = (rows(spec.output, spec.y_stride, 6), rows(spec.input, spec.x_stride, 10));
    let lay = async |rows: &Rows, values: &[f32]| {
        host.storage_async(&rows.lay(spec.max_m as usize, values)).await
    };
    let x_buffer = lay(&x, &job.x).await.map_err(|e| text(&e))?;
    let dy_buffer = lay(&dy, &job.dy).await.map_err(|e| text(&e))?;
    let y_buffer = lay(&y, &[]).await.map_err(|e| text(&e))?;
    let dx_buffer = lay(&dx, &[]).await.map_err(|e| text(&e))?;
    let most = spec.scales(spec.max_m) as usize;
    let side = async |values: &[f32]| {
        let mut words = vec![SENTINEL; most + 2 * BEFORE];
        words[BEFORE..][..values.len()].copy_from_slice(bytemuck::cast_slice(values));
        host.storage_async(&words).await.map_err(|e| text(&e))
    };
    let (scales, zeros) = (side(&job.scales).await?, side(&job.zeros).await?);
    let (ds, dz) = (side(&[]).await?, side(&[]).await?);
    let asymmetric = !spec.format.is_symmetric();
    fn at<'a>(buffer: &'a wgpu::Buffer, rows: &Rows) -> SubBuffer<'a> {
        SubBuffer { buffer, offset: rows.bytes() }
    }
    fn inner(buffer: &wgpu::Buffer) -> SubBuffer<'_> {
        SubBuffer { buffer, offset: 4 * BEFORE as u64 }
    }
    let forward = plan
        .bind(FakeQuantArgs {
            input: at(&x_buffer, &x),
            scales: inner(&scales),
            zeros: asymmetric.then(|| inner(&zeros)),
            output: at(&y_buffer, &y),
        })
        .await
        .map_err(|e| text(&e))?;
    let backward = plan
        .bind_backward(FakeQuantBackwardArgs {
            input: at(&x_buffer, &x),
            scales: inner(&scales),
            zeros: asymmetric.then(|| inner(&zeros)),
            output_gradient: at(&dy_buffer, &dy),
            input_gradient: at(&dx_buffer, &dx),
            scale_gradients: spec.given.then(|| inner(&ds)),
            zero_gradients: (spec.given && asymmetric).then(|| inner(&dz)),
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = forward.record(pass, m).and(backward.record(pass, m)))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;

    // Buffers may be larger than their contents.
    let read = async |buffer: &wgpu::Buffer, words| {
        host.read_async(buffer, 0, words).await.map_err(|e| text(&e))
    };
    let numbers = async |buffer: &wgpu::Buffer, count: usize| {
        let words = read(buffer, most + 2 * BEFORE).await?;
        let (inner, after) = words[BEFORE..].split_at(count);
        let mut around = words[..BEFORE].iter().chain(after);
        if around.any(|&word| word != SENTINEL) {
            Err("words around the scales, the zero points or their gradients were written"
                .to_string())
        } else {
            Ok(inner.iter().map(|&word| f32::from_bits(word)).collect())
        }
    };
    let groups = spec.scales(m) as usize;
    let zero_count = if asymmetric { groups } else { 0 };
    let learned = |count| if spec.given { count } else { 0 };
    Ok(Results {
        y: y.take(&read(&y_buffer, y.words(spec.max_m as usize)).await?, case.m)?,
        scales: numbers(&scales, groups).await?,
        zeros: numbers(&zeros, zero_count).await?,
        gradients: FakeQuantGradients {
            x: dx.take(&read(&dx_buffer, dx.words(spec.max_m as usize)).await?, case.m)?,
            scales: numbers(&ds, learned(groups)).await?,
            zeros: numbers(&dz, learned(zero_count)).await?,
        },
    })
}

fn judge(
    case: &Case,
    job: &Job,
    got: &Results,
) -> Result<reference::Judgement, reference::ReferenceError> {
    let kind = |float| match float {
        FloatType::F16 => OutputType::F16,
        FloatType::F32 => OutputType::F32,
    };
    // The results are judged by the scales in the buffers now. These are the kernel's own, or the
    // static ones, which must not have changed.
    let (format, k) = (&case.format, case.k);
    let by = FakeQuantCase { format, x: &job.x, k, scales: &got.scales, zeros: &got.zeros };
    let y = reference::check_fake_quantize(&by, kind(case.output), &got.y)?;
    let (dy, x_kind) = (&job.dy, kind(case.activations));
    if job.spec.given {
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let kept = bits(&got.scales) == bits(&job.scales) && bits(&got.zeros) == bits(&job.zeros);
        let lsq = job.spec.gradient_scale;
        let mut judged =
            y.and(reference::check_fake_gradients(&by, dy, lsq, x_kind, &got.gradients)?);
        if !kept {
            judged.fault = Some("the static scales or zero points were overwritten".into());
        }
        return Ok(judged);
    }
    let ranges = reference::check_fake_ranges(&by)?;
    let dx = reference::check_fake_straight_through(&by, dy, x_kind, &got.gradients.x)?;
    Ok(ranges.and(y).and(dx))
}
