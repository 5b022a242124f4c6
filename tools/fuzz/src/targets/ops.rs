//! The ops of a transformer beside matmuls: any spec, buffers of any sizes and offsets, on a device that validates like
//! any other and runs nothing. Nothing panics, and what is accepted passes wgpu's own validation.

use super::pick::{self, Bytes};
use super::plans::{Rig, accepted, at, weights, with_rig};
use lowbit::format::{ActivationFunction, CacheFormat, StaticScale};
use lowbit::gpu::Kernels;
use lowbit::ops::{
    AttentionArgs, AttentionPlan, AttentionSpec, Bound, CombineArgs, CombinePlan, CombineSpec,
    Epilogue, Experts, FloatType, GateArgs, GateLayout, GatePlan, GateSpec, HadamardArgs,
    HadamardPlan, HadamardSpec, HeadNorm, MatmulArgs, MatmulPlan, MatmulSpec, NormArgs, NormKind,
    NormPlan, NormResidual, NormSpec, Output, PositionsArgs, PositionsPlan, PositionsSpec,
    RotaryArgs, RotaryPairs, RotaryPlan, RotarySpec, RouteArgs, RoutePlan, RouteSpec, SampleArgs,
    SamplePlan, SampleSettings, SampleSpec, Select, SoftmaxArgs, SoftmaxPlan, SoftmaxSpec,
};
use pollster::block_on;

pub fn run(data: &[u8]) {
    let mut u = Bytes::new(data);
    with_rig(&mut u, |rig, kernels, u| {
        match pick::index(u, 11) {
            0 => norm(rig, kernels, u),
            1 => gate(rig, kernels, u),
            2 => softmax(rig, kernels, u),
            3 => sample(rig, kernels, u),
            4 => rotary(rig, kernels, u),
            5 => attention(rig, kernels, u),
            6 => hadamard(rig, kernels, u),
            7 => positions(rig, kernels, u),
            8 => route(rig, kernels, u),
            9 => combine(rig, kernels, u),
            _ => experts(rig, kernels, u),
        };
    });
}

fn float(u: &mut Bytes<'_>) -> FloatType {
    pick::one_of(u, &[FloatType::F32, FloatType::F16])
}

fn output(u: &mut Bytes<'_>) -> Output {
    match pick::index(u, 8) {
        0..=4 => float(u).into(),
        5 | 6 => Output::Int8(pick::activation_format(u)),
        _ => Output::Accumulators,
    }
}

/// A number that is often in range.
fn real(u: &mut Bytes<'_>) -> f32 {
    match pick::byte(u) {
        some @ 0..=239 => f32::from(some) / 64.0,
        _ => f32::from_bits(u.arbitrary().unwrap_or(0)),
    }
}

/// A stride that is often right.
fn stride(u: &mut Bytes<'_>, right: u32) -> u32 {
    match pick::byte(u) {
        0..=199 => right,
        near @ 200..=239 => right.saturating_add_signed(i32::from(near % 12) - 2),
        _ => pick::number(u),
    }
}

fn scale(u: &mut Bytes<'_>, output: Output) -> Option<StaticScale> {
    let is_given = matches!(output, Output::Int8(format) if format.to_string().contains("tensor"));
    let (scale, zero_point) = (real(u), i32::from(pick::byte(u)) - 128);
    (is_given != pick::rarely(u)).then_some(StaticScale { scale, zero_point })
}

/// Records any number of rows: more than there are is refused.
fn record<P>(rig: &Rig, u: &mut Bytes<'_>, bound: &Bound<P>, max_m: u32) {
    let m = if pick::flag(u) { pick::number(u) } else { max_m };
    rig.submit(|pass| assert_eq!(bound.record(pass, m).is_err(), m > max_m));
}

fn norm(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let kind = pick::one_of(u, &[NormKind::Rms, NormKind::Layer]);
    let mut spec = NormSpec::new(pick::number(u), pick::number(u), kind, real(u));
    spec = spec.with_activations(float(u)).with_output(output(u)).with_weight_offset(real(u));
    spec = if pick::flag(u) { spec.with_residual(float(u)) } else { spec };
    spec = if pick::flag(u) { spec.with_bias() } else { spec };
    spec = if pick::rarely(u) { spec.without_weight() } else { spec };
    spec = if pick::index(u, 4) == 3 { spec.with_batch(pick::number(u)) } else { spec };
    let strides = [spec.x_stride, spec.x_batch_stride, spec.y_stride, spec.y_batch_stride];
    let [x, xb, y, yb] = strides.map(|right| stride(u, right));
    spec = spec.with_x_strides(x, xb).with_y_strides(y, yb);
    let plan = block_on(NormPlan::new(kernels, &spec)).ok()?;
    let m = spec.max_m;
    let sizes = [spec.x_bytes(m), spec.residual_bytes(m), spec.sum_bytes(m), spec.y_bytes(m)];
    let [x, residual, sum, y] = sizes.map(|size| rig.place(u, size));
    let [weight, bias] = [(); 2].map(|()| rig.place(u, 4 * u64::from(spec.k)));
    let args = NormArgs {
        activations: at(&x),
        residual: (spec.residual.is_some() != pick::rarely(u))
            .then(|| NormResidual { input: at(&residual), sum: at(&sum) }),
        weight: (spec.weight != pick::rarely(u)).then(|| at(&weight)),
        bias: (spec.bias != pick::rarely(u)).then(|| at(&bias)),
        scale: scale(u, spec.output),
        output: at(&y),
    };
    let bound = accepted(block_on(plan.bind(args)))?;
    record(rig, u, &bound, m);
    Some(())
}

fn gate(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let function = pick::one_of(u, &ActivationFunction::ALL);
    let mut spec = GateSpec::new(pick::number(u), pick::number(u), function)
        .with_layout(pick::one_of(u, &GateLayout::ALL))
        .with_activations(float(u))
        .with_output(output(u));
    let (x, y) = (stride(u, spec.x_stride), stride(u, spec.y_stride));
    spec = spec.with_strides(x, y);
    let plan = block_on(GatePlan::new(kernels, &spec)).ok()?;
    let x = rig.place(u, spec.x_bytes(spec.max_m));
    let y = rig.place(u, spec.y_bytes(spec.max_m));
    let scale = scale(u, spec.output);
    let bound =
        accepted(block_on(plan.bind(GateArgs { activations: at(&x), scale, output: at(&y) })))?;
    record(rig, u, &bound, spec.max_m);
    Some(())
}

fn softmax(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let mut spec = SoftmaxSpec::new(pick::number(u), pick::number(u))
        .with_types(float(u), float(u))
        .with_scale(real(u))
        .with_soft_cap(real(u));
    let (x, y) = (stride(u, spec.x_stride), stride(u, spec.y_stride));
    spec = spec.with_strides(x, y);
    let plan = block_on(SoftmaxPlan::new(kernels, &spec)).ok()?;
    let x = rig.place(u, spec.x_bytes(spec.max_m));
    let y = rig.place(u, spec.y_bytes(spec.max_m));
    let bound = accepted(block_on(plan.bind(SoftmaxArgs { activations: at(&x), output: at(&y) })))?;
    record(rig, u, &bound, spec.max_m);
    Some(())
}

fn sample(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let mut spec = SampleSpec::new(pick::number(u), pick::number(u)).with_activations(float(u));
    let x = stride(u, spec.x_stride);
    spec = spec.with_stride(x);
    let random = pick::flag(u);
    spec = if random { spec.with_random() } else { spec };
    let plan = block_on(SamplePlan::new(kernels, &spec)).ok()?;
    let x = rig.place(u, spec.x_bytes(spec.max_m));
    let y = rig.place(u, spec.token_bytes(spec.max_m));
    let settings = rig.place(u, SampleSettings::BYTES);
    let settings = (random != pick::rarely(u)).then(|| at(&settings));
    let args = SampleArgs { activations: at(&x), settings, output: at(&y) };
    let bound = accepted(block_on(plan.bind(args)))?;
    record(rig, u, &bound, spec.max_m);
    Some(())
}

fn cache(u: &mut Bytes<'_>) -> CacheFormat {
    pick::one_of(u, &CacheFormat::ALL)
}

/// The bytes of a cache, for as much as fits a buffer here.
fn cache_bytes(format: CacheFormat, heads: u32, slots: u32, columns: u32) -> u64 {
    let layout = format.layout(heads as usize, slots as usize, columns as usize);
    layout.map_or(4, |layout| 4 * layout.words as u64)
}

/// Columns of a head, mostly such as there are.
fn columns(u: &mut Bytes<'_>) -> u32 {
    if pick::rarely(u) { pick::number(u) } else { pick::one_of(u, &[32, 64, 80, 96, 128, 256]) }
}

fn rotary(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let (heads, kv_heads, columns) = (pick::number(u), pick::number(u), columns(u));
    let (format, slots) = (cache(u), pick::number(u));
    let mut spec = RotarySpec::new(pick::number(u), heads, kv_heads, columns)
        .with_activations(float(u))
        .with_output(float(u))
        .with_hadamard(pick::flag(u), pick::flag(u));
    let is_cached = pick::flag(u);
    spec = if is_cached { spec.with_cache(format, slots) } else { spec };
    if pick::flag(u) {
        let pairs = pick::one_of(u, &[RotaryPairs::Adjacent, RotaryPairs::HalfSplit]);
        let dim = if pick::flag(u) { columns } else { pick::number(u) };
        spec = spec.with_rotation(pairs, dim, pick::number(u));
    }
    let is_normed = pick::flag(u);
    spec = if is_normed {
        spec.with_norm(HeadNorm { epsilon: real(u), offset: real(u) })
    } else {
        spec
    };
    let plan = block_on(RotaryPlan::new(kernels, &spec)).ok()?;
    let m = spec.max_m;
    let kept = cache_bytes(format, kv_heads, slots, columns);
    let [x, q, angles] =
        [spec.x_bytes(m), spec.q_bytes(m), spec.table_bytes()].map(|size| rig.place(u, size));
    let [keys, values] = [(); 2].map(|()| rig.place(u, kept));
    let [query_norm, key_norm] = [(); 2].map(|()| rig.place(u, 4 * u64::from(columns)));
    let rows = rig.place(u, 16 * u64::from(m));
    let args = RotaryArgs {
        activations: at(&x),
        rows: at(&rows),
        angles: (spec.table_bytes() > 0 || pick::rarely(u)).then(|| at(&angles)),
        query_norm: (is_normed != pick::rarely(u)).then(|| at(&query_norm)),
        key_norm: (is_normed != pick::rarely(u)).then(|| at(&key_norm)),
        queries: (heads > 0 || pick::rarely(u)).then(|| at(&q)),
        keys: (is_cached != pick::rarely(u)).then(|| at(&keys)),
        values: (is_cached != pick::rarely(u)).then(|| at(&values)),
    };
    let bound = accepted(block_on(plan.bind(args)))?;
    record(rig, u, &bound, m);
    Some(())
}

fn attention(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let (kv_heads, columns, slots) = (pick::number(u), columns(u), pick::number(u));
    let heads = kv_heads.saturating_mul(u32::from(1 + pick::byte(u) % 4));
    let heads = if pick::rarely(u) { pick::number(u) } else { heads };
    let format = cache(u);
    let mut spec = AttentionSpec::new(pick::number(u), heads, kv_heads, columns, slots)
        .with_cache(format)
        .with_types(float(u), float(u))
        .with_scale(real(u))
        .with_soft_cap(real(u));
    spec = if pick::flag(u) { spec.with_bias(pick::number(u)) } else { spec };
    spec = if pick::flag(u) { spec.with_inverse_hadamard() } else { spec };
    let (q, y) = (stride(u, spec.q_stride), stride(u, spec.y_stride));
    spec = spec.with_strides(q, y);
    let plan = block_on(AttentionPlan::new(kernels, &spec)).ok()?;
    let m = spec.max_m;
    let kept = cache_bytes(format, kv_heads, slots, columns);
    let sizes = [
        spec.q_bytes(m),
        kept,
        kept,
        16 * u64::from(m),
        spec.bias_bytes(),
        spec.y_bytes(m),
        spec.scratch_bytes(),
    ];
    let [q, keys, values, rows, bias, y, scratch] = sizes.map(|size| rig.place(u, size));
    let args = AttentionArgs {
        queries: at(&q),
        keys: at(&keys),
        values: at(&values),
        rows: at(&rows),
        bias: ((spec.bias_bytes() > 0) != pick::rarely(u)).then(|| at(&bias)),
        output: at(&y),
        scratch: (!pick::rarely(u)).then(|| at(&scratch)),
    };
    let bound = accepted(block_on(plan.bind(args)))?;
    record(rig, u, &bound, m);
    Some(())
}

fn hadamard(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let k = if pick::flag(u) { 32 * u32::from(pick::byte(u)) } else { pick::number(u) };
    let mut spec = HadamardSpec::new(pick::number(u), k);
    spec = if pick::flag(u) { spec.with_block(pick::number(u)) } else { spec };
    spec = spec.with_activations(float(u)).with_output(float(u));
    let (x, y) = (stride(u, spec.x_stride), stride(u, spec.y_stride));
    spec = spec.with_strides(x, y);
    let plan = block_on(HadamardPlan::new(kernels, &spec)).ok()?;
    let x = rig.place(u, spec.x_bytes(spec.max_m));
    let y = rig.place(u, spec.y_bytes(spec.max_m));
    let bound =
        accepted(block_on(plan.bind(HadamardArgs { activations: at(&x), output: at(&y) })))?;
    record(rig, u, &bound, spec.max_m);
    Some(())
}

fn positions(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let mut spec = PositionsSpec::new(pick::number(u)).with_index_base(pick::number(u));
    spec = if pick::flag(u) { spec.with_window(pick::number(u)) } else { spec };
    spec = if pick::flag(u) { spec.without_advance() } else { spec };
    let plan = block_on(PositionsPlan::new(kernels, &spec)).ok()?;
    let (state, output) = (rig.place(u, 4), rig.place(u, spec.output_bytes()));
    let args = PositionsArgs { state: at(&state), output: at(&output) };
    let bound = accepted(block_on(plan.bind(args)))?;
    record(rig, u, &bound, spec.max_m);
    Some(())
}

fn route_spec(u: &mut Bytes<'_>) -> RouteSpec {
    let mut spec = RouteSpec::new(pick::number(u), pick::number(u), pick::number(u))
        .with_logits(float(u))
        .with_unit(pick::one_of(u, &[1, 4, 8, 0, 64, 65, u32::MAX]));
    let right = stride(u, spec.stride);
    spec = spec.with_stride(right);
    if pick::flag(u) { spec.with_weights_of_all() } else { spec }
}

fn route(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let spec = route_spec(u);
    assert!(spec.list_rows(spec.max_m) <= spec.list_rows(u32::MAX));
    let plan = block_on(RoutePlan::new(kernels, &spec)).ok()?;
    let logits = 4 * u64::from(spec.stride) * u64::from(spec.max_m);
    let sizes = [logits, spec.list_bytes(), spec.choices_bytes()];
    let [logits, list, choices] = sizes.map(|size| rig.place(u, size));
    let args = RouteArgs { logits: at(&logits), list: at(&list), choices: at(&choices) };
    let bound = accepted(block_on(plan.bind(args)))?;
    record(rig, u, &bound, spec.max_m);
    Some(())
}

fn combine(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let (m, n, top, rows) = (pick::number(u), pick::number(u), pick::number(u), pick::number(u));
    let mut spec =
        CombineSpec::new(m, n, top, rows).with_activations(float(u)).with_output(float(u));
    let (x, y) = (stride(u, spec.x_stride), stride(u, spec.y_stride));
    spec = spec.with_strides(x, y);
    spec = if pick::flag(u) { spec.with_accumulate() } else { spec };
    let plan = block_on(CombinePlan::new(kernels, &spec)).ok()?;
    let sizes = [spec.x_bytes(), spec.choices_bytes(), spec.y_bytes(m)];
    let [x, choices, y] = sizes.map(|size| rig.place(u, size));
    let args = CombineArgs { activations: at(&x), choices: at(&choices), output: at(&y) };
    let bound = accepted(block_on(plan.bind(args)))?;
    record(rig, u, &bound, m);
    Some(())
}

/// Matmuls with an epilogue, of experts or of one matrix.
fn experts(rig: &Rig, kernels: &Kernels, u: &mut Bytes<'_>) -> Option<()> {
    let (m, n, k) = (pick::number(u), pick::number(u), pick::number(u));
    let format = pick::format(u);
    let mut spec = MatmulSpec::new(m, n, k, format)
        .with_activations(float(u))
        .with_output(float(u))
        .with_function(pick::one_of(u, &ActivationFunction::ALL))
        .with_epilogue(pick::one_of(u, &[Epilogue::None, Epilogue::Accumulate, Epilogue::Gated]));
    let is_listed = pick::flag(u);
    let count = u32::from(1 + pick::byte(u) % 4);
    if is_listed {
        let (x_rows, unit) = (pick::number(u), pick::one_of(u, &[1, 4, 8, 0, 3, u32::MAX]));
        spec = spec.with_experts(Experts { count, x_rows, unit });
        spec = if pick::flag(u) { spec.with_own_rows() } else { spec };
    }
    let plan = block_on(MatmulPlan::new(kernels, &spec, Select::Auto)).ok()?;
    let rows = if is_listed { n.checked_mul(count)? } else { n };
    let weights = weights(kernels, format, rows, k)?;
    let sizes = [spec.x_bytes(m), spec.y_bytes(m), 8 * u64::from(m)];
    let [x, y, list] = sizes.map(|size| rig.place(u, size));
    let args = MatmulArgs { activations: at(&x), weights: &weights, bias: None, output: at(&y) };
    let bound = if is_listed != pick::rarely(u) {
        block_on(plan.bind_experts(args, at(&list)))
    } else {
        block_on(plan.bind(args))
    };
    let bound = accepted(bound)?;
    record(rig, u, &bound, m);
    Some(())
}
