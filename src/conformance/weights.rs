//! Cases of the kernels that quantize and dequantize weights.

use super::case::{Case, Op};
use super::data::{self, Random};
use super::matmul::{SENTINEL, put_bits, take};
use super::report::{ErrorOverBound, Outcome, Trouble};
use crate::compress::{self, prune_magnitude};
use crate::format::PackedWeights;
use crate::host::Host;
use crate::ops::{
    DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights, FloatType, QuantizeWeightsArgs,
    QuantizeWeightsPlan, QuantizeWeightsSpec, SourceRows, SubBuffer,
};
use crate::reference::{self, OutputType};

/// Quantizes weights on the device into buffers that are full of sentinels, and compares every word
/// of the kernel layout with the host's. The same is done for weights that the device repacks from
/// the canonical layout. Strided cases provide a mask and leave gaps between the rows of W.
pub(super) async fn compress(host: &Host, case: &Case) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let (n, k) = (case.n, case.k);
    let mut random = Random::new(case.seed());
    let w = data::values(case.values, n * k, &mut random);
    let given = case.strided && case.format.is_sparse();
    let gap = if case.strided { 3 } else { 0 };
    // The mask comes from other numbers, so that it differs from the mask by magnitude.
    let other = data::values(case.values, n * k, &mut random);
    let mask = prune_magnitude(&other, n, k).map_err(|e| text(&e))?;
    let expected = if given {
        compress::quantize_masked(&w, &mask, &case.format)
    } else {
        compress::quantize(&w, n, k, &case.format)
    };
    let expected = expected.map_err(|e| text(&e))?;

    let mut spec =
        QuantizeWeightsSpec::new(n as u32, k as u32, case.format).with_stride((k + gap) as u32);
    if given {
        spec = spec.with_given_mask();
    }
    let plan = QuantizeWeightsPlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let kernel = plan.shaders().pop().map(|shader| shader.id).unwrap_or_default();
    // The words between rows are NaN, so that a kernel that reads them reports an error.
    let mut words = vec![SENTINEL; (n * (k + gap)).max(4)];
    for row in 0..n {
        for column in 0..k {
            words[row * (k + gap) + column] = w[row * k + column].to_bits();
        }
    }
    let source = host.storage_async(&words).await.map_err(|e| text(&e))?;
    let mask_buffer =
        host.storage_async(if given { mask.words() } else { &[] }).await.map_err(|e| text(&e))?;
    let output = filled(host, &expected).await?;
    let rows = [SourceRows { at: (&source).into(), rows: n }];
    let mask = given.then_some((&mask_buffer).into());
    let bound = plan.bind(QuantizeWeightsArgs { source: &rows, mask, output: &output }).await;
    let bound = bound.map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, n as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let status =
        host.read_async(bound.status(), 0, bound.status_words()).await.map_err(|e| text(&e))?;
    bound.check(&status).map_err(|e| text(&e))?;

    let repacked = host.repack_async(&expected).await.map_err(|e| text(&e))?;
    let mut fault = None;
    for (how, weights) in [("quantized", &output), ("repacked", &repacked)] {
        fault =
            fault.or(difference(host, weights, &expected).await?.map(|at| format!("{how}: {at}")));
    }
    Ok(Outcome { kernel, error_over_bound: ErrorOverBound::Exact("exact".into()), fault })
}

/// Returns the first difference from the host's weights, if there is one.
async fn difference(
    host: &Host,
    weights: &DeviceWeights,
    expected: &PackedWeights,
) -> Result<Option<String>, String> {
    let want = weights.layout().pack_rows(expected, 0..expected.n());
    let got = host.download_rows_async(weights).await.map_err(|e| e.to_string())?;
    let parts = [("codes", &got.codes, &want.codes), ("side buffer", &got.side, &want.side)];
    for (part, got, want) in parts {
        if let Some(word) = got.iter().zip(want).position(|(g, w)| g != w) {
            let (g, w) = (got[word], want[word]);
            let text = format!("word {word} of the {part} is {g:08x}, the host's is {w:08x}");
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// Creates buffers of a packed matrix's shape that contain sentinels.
async fn filled(host: &Host, packed: &PackedWeights) -> Result<DeviceWeights, String> {
    let (format, n, k) = (packed.format(), packed.n(), packed.k());
    let weights = DeviceWeights::allocate(host.kernels(), format, n, k).await;
    let weights = weights.map_err(|e| e.to_string())?;
    for block in weights.blocks() {
        for buffer in block.buffers() {
            let words = vec![SENTINEL; (buffer.size() / 4) as usize];
            host.queue().write_buffer(buffer, 0, bytemuck::cast_slice(&words));
        }
    }
    Ok(weights)
}

/// Dequantizes all rows, or gathers some of them, of which one does not exist. The output starts as
/// NaN, and nothing around its rows may change.
pub(super) async fn rows(host: &Host, case: &Case) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let mut random = Random::new(case.seed());
    let packed = data::weights(case, &mut random).map_err(|e| text(&e))?;
    let (n, k) = (case.n as u32, case.k as u32);
    let gather = case.op == Op::Gather;
    let indices: Vec<u32> = (0..case.m).map(|_| random.below(u64::from(n)) as u32).collect();
    // An index past the end gives NaN. In an empty matrix, this applies to every index.
    let missing = |row: usize| gather && (n == 0 || row == case.m / 2);
    let sent: Vec<u32> = (0..indices.len())
        .map(|row| if missing(row) { n + row as u32 } else { indices[row] })
        .collect();
    let (rows, mut spec) = if gather {
        // The plan is for more rows than are recorded.
        (case.m, DequantizeSpec::gather(case.m as u32 + 2, n, k, case.format))
    } else {
        (case.n, DequantizeSpec::new(n, k, case.format))
    };
    spec = spec.with_output(case.output);
    if case.textures {
        spec = spec.with_code_textures();
    }
    let offset = if case.strided { 6usize } else { 0 };
    if case.strided {
        spec = spec.clone().with_stride(spec.stride + 4 + spec.stride % 2);
    }
    let plan = DequantizePlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let weights = data::upload(host, case, &packed).await?;
    let index_buffer =
        host.storage_async(&[&sent[..], &[u32::MAX; 4]].concat()).await.map_err(|e| text(&e))?;
    let bytes = case.output.bytes();
    let words = (spec.output_bytes(spec.rows()) + offset as u64 * bytes).div_ceil(4) as usize + 4;
    let mut expected_words = vec![SENTINEL; words];
    let output = host.storage_async(&expected_words).await.map_err(|e| text(&e))?;
    let bound = plan
        .bind(DequantizeArgs {
            weights: &weights,
            indices: gather.then_some((&index_buffer).into()),
            output: SubBuffer { buffer: &output, offset: offset as u64 * bytes },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    let count = if gather { rows as u32 } else { spec.rows() };
    host.submit_async(|pass| recorded = bound.record(pass, count)).await.map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let got = host.read_async(&output, 0, words).await.map_err(|e| text(&e))?;

    let kind = if case.output == FloatType::F16 { OutputType::F16 } else { OutputType::F32 };
    let known: Vec<u32> = if gather && n == 0 { Vec::new() } else { indices };
    let expected = match gather {
        true => reference::gather(&packed, &known, kind),
        false => reference::dequantize(&packed, kind),
    };
    let expected = expected.map_err(|e| text(&e))?;
    let (mut worst, mut fault) = (0.0f64, None);
    for row in 0..rows {
        for column in 0..case.k {
            let at = offset + row * spec.stride as usize + column;
            let (bits, value) = take(&got, case.output, at);
            put_bits(&mut expected_words, case.output, at, bits);
            let ratio = if missing(row) {
                if value.is_nan() { 0.0 } else { f64::INFINITY }
            } else {
                reference::check(&expected[row * case.k + column], value).error_over_bound
            };
            worst = worst.max(ratio);
            if ratio > 1.0 && fault.is_none() {
                fault = Some(format!("row {row}, column {column} is {value}"));
            }
        }
    }
    if let Some(word) = got.iter().zip(&expected_words).position(|(g, w)| g != w) {
        fault = Some(format!("word {word} was written, and lies between or past the rows"));
    }
    let error_over_bound = ErrorOverBound::Ratio(worst);
    Ok(Outcome { kernel: spec.shader(host.kernels().caps()).id, error_over_bound, fault })
}
