//! Specs of any numbers: what is checked, and all that is pure: sizes, layouts, choices, splits.

use super::pick::{self, Bytes};
use lowbit::compress::calibrate::Axis;
use lowbit::format::{ActivationFunction, BLOCK_K, DeviceLayout, Geometry, RowOrder, WeightFormat};
use lowbit::gpu::{AdapterClass, Caps};
use lowbit::ops::matmul::{KernelChoice, Schedule, candidates, select};
use lowbit::ops::{
    Activations, DequantizeSpec, DeviceWeights, FakeQuantSpec, FloatType, MatmulSpec, ObserveSpec,
    Output, QuantizeActivationsSpec, QuantizeWeightsSpec,
};
use wgpu::Limits;

pub fn run(data: &[u8]) {
    let mut u = Bytes::new(data);
    let caps = caps(&mut u);
    match pick::index(&mut u, 8) {
        0..=3 => matmuls(&matmul(&mut u), &caps, &mut u),
        4 => shapes(&mut u, &caps),
        5 => quantizes(&quantize(&mut u)),
        6 => fakes(&fake(&mut u)),
        _ => others(&mut u),
    }
}

/// A device that is one there is, or one with a limit that is odd.
pub fn caps(u: &mut Bytes<'_>) -> Caps {
    let class = if pick::flag(u) { AdapterClass::Cpu } else { AdapterClass::Gpu };
    let limits = match pick::index(u, 3) {
        0 => Limits::defaults(),
        1 => Limits::downlevel_defaults(),
        _ => Limits::downlevel_webgl2_defaults(),
    };
    let mut caps = Caps::from_limits(class, &limits);
    match pick::index(u, 12) {
        0 => caps.max_binding = pick::wide(u),
        1 => caps.max_buffer = pick::wide(u),
        2 => caps.max_groups = pick::number(u),
        3 => caps.max_invocations = pick::number(u),
        4 => caps.max_workgroup_memory = pick::number(u),
        5 => caps.texture_extent = pick::number(u),
        6 => (caps.subgroup, caps.subgroups) = (pick::one_of(u, &[4, 8, 16, 32, 64, 3]), true),
        7 => caps.row_order = RowOrder::Panels,
        8 => caps.packed_dot = !caps.packed_dot,
        _ => {}
    }
    caps
}

fn float(u: &mut Bytes<'_>) -> FloatType {
    pick::one_of(u, &[FloatType::F32, FloatType::F16])
}

/// A stride that is often right, sometimes just wrong, sometimes anything.
fn stride(u: &mut Bytes<'_>, right: u32) -> u32 {
    match pick::byte(u) {
        0..=159 => right,
        near @ 160..=223 => right.saturating_add_signed(i32::from(near % 12) - 2),
        _ => pick::number(u),
    }
}

pub fn matmul(u: &mut Bytes<'_>) -> MatmulSpec {
    let format = pick::format(u);
    let mut spec = MatmulSpec::new(pick::number(u), pick::number(u), pick::number(u), format);
    spec = match pick::flag(u) {
        false => spec.with_activations(float(u)),
        true => spec.with_activations(Activations::Int8(pick::activation_format(u))),
    };
    spec = match pick::index(u, 8) {
        0..=5 => spec.with_output(float(u)),
        6 => spec.with_output(Output::Int8(pick::activation_format(u))),
        _ => spec.with_output(Output::Accumulators),
    };
    if pick::index(u, 4) == 3 {
        spec = spec.with_batch(pick::number(u));
    }
    let (row, batch) = (stride(u, spec.x_stride), stride(u, spec.x_batch_stride));
    spec = spec.with_x_strides(row, batch);
    let (row, batch) = (stride(u, spec.y_stride), stride(u, spec.y_batch_stride));
    spec = spec.with_y_strides(row, batch);
    // Of all it would take kernels for hours to be compiled once each.
    spec.function = pick::one_of(u, &[ActivationFunction::Identity, ActivationFunction::Gelu]);
    let flags = pick::byte(u);
    (spec.bias, spec.any_x_offset) = (flags & 1 != 0, flags & 2 != 0);
    spec.code_textures = flags & 12 == 12;
    spec
}

fn matmuls(spec: &MatmulSpec, caps: &Caps, u: &mut Bytes<'_>) {
    let checked = spec.check();
    let (x, y) = (spec.x_bytes(spec.max_m), spec.y_bytes(spec.max_m));
    assert!(x <= spec.x_bytes(u32::MAX) && y <= spec.y_bytes(u32::MAX));
    assert!(spec.slice_blocks() > 0 && spec.slice_blocks() <= 1024);
    let m = pick::number(u);
    let schedule = select(spec, caps, m);
    assert_eq!(select(spec, caps, m), schedule);
    if let Err(error) = checked {
        assert!(!error.to_string().is_empty());
        return;
    }
    if spec.max_m > 0 && spec.batch > 0 {
        let need = |row: u32, unit: u64| u128::from(row) * u128::from(unit);
        let rows = u128::from(spec.max_m) * u128::from(spec.batch);
        assert!(u128::from(y) >= need(spec.y_row(), spec.output.unit()) * rows);
        assert!(u128::from(x) >= need(spec.x_row(), spec.activations.unit()));
    }
    let pinned = pick::one_of(u, &Schedule::for_activations(spec.activations, spec.k));
    for schedule in [schedule, pinned] {
        let choice = KernelChoice::new(spec, schedule, caps);
        assert!(!choice.name().is_empty());
        assert!(choice.x_align() >= 4 && choice.part_columns(spec) > 0);
        let groups = choice.groups(m, spec.n, spec.batch);
        if m > 0 && spec.n > 0 && spec.batch > 0 {
            assert!(groups > 0, "{schedule} with m = {m}");
        }
        if let Some([a, b, c]) = caps.fold(groups) {
            assert!(u64::from(a) * u64::from(b) * u64::from(c) >= groups);
            assert!(a.max(b).max(c) <= caps.max_groups.max(1));
        }
    }
    if schedule.check(caps).is_ok() {
        assert_eq!(candidates(spec, caps, m).first(), Some(&schedule));
    }
}

/// Sizes of weights: canonical, on the device, split.
fn shapes(u: &mut Bytes<'_>, caps: &Caps) {
    let format = pick::format(u);
    let (n, k) = (pick::wide(u) as usize, pick::wide(u) as usize);
    let Ok(g) = format.geometry(n, k) else { return };
    counts(&g);
    for order in [RowOrder::Rows, RowOrder::Panels] {
        let layout = DeviceLayout::new(format, n, k, order).expect("what has a geometry");
        assert_eq!(layout.blocks, k.div_ceil(BLOCK_K));
        let rows = pick::number(u) as usize % n.max(1);
        let (codes, side) = layout.words(rows);
        assert_eq!(layout.bytes(rows), (4 * codes as u64, 4 * side as u64));
        assert!(codes / rows.max(1) >= layout.code_words || rows == 0);
    }
    if let Ok((layout, blocks)) = DeviceWeights::split(caps, format, n, k) {
        let mut next = 0;
        // As many as are worth looking at.
        for rows in blocks.into_iter().take(1 << 12) {
            assert_eq!(rows.start, next);
            assert!(!rows.is_empty() && rows.end <= n);
            let (codes, side) = layout.bytes(rows.len());
            assert!(codes.max(side) <= caps.max_binding);
            next = rows.end;
        }
    }
}

fn counts(g: &Geometry) {
    let sizes = g.sizes();
    let bits = u128::from(g.format.code_type().bits());
    let [n, stored, codes] = [g.n, g.stored, sizes.codes].map(|count| count as u128);
    assert!(8 * codes >= n * stored * bits && 8 * codes <= n * (stored * bits + 31));
    assert!(sizes.total() >= sizes.codes);
    assert!(g.groups as u128 * g.group_size as u128 >= g.k as u128);
    assert!(g.k == 0 || g.group_of(g.k - 1) == g.groups - 1);
    if g.scales > 0 {
        assert_eq!(g.scale_index(g.n - 1, g.groups - 1), g.scales - 1);
    }
}

pub fn quantize(u: &mut Bytes<'_>) -> QuantizeActivationsSpec {
    let format = pick::activation_format(u);
    let spec = QuantizeActivationsSpec::new(pick::number(u), pick::number(u), format);
    let spec = spec.with_activations(float(u));
    let stride = stride(u, spec.x_stride);
    let spec = spec.with_stride(stride);
    if pick::flag(u) { spec.with_given_scale() } else { spec }
}

fn quantizes(spec: &QuantizeActivationsSpec) {
    assert!(spec.x_bytes(spec.max_m) <= spec.x_bytes(u32::MAX));
    if spec.check().is_err() {
        return;
    }
    let layout = spec.layout().expect("what was checked");
    assert!(4 * layout.row_words >= spec.k as usize);
    assert!(layout.row_words.is_multiple_of(4));
}

pub fn fake(u: &mut Bytes<'_>) -> FakeQuantSpec {
    let format = pick::format(u);
    let spec = FakeQuantSpec::new(pick::number(u), pick::number(u), format);
    let (x, y) = (float(u), float(u));
    let mut spec = spec.with_types(x, y);
    let (x, y) = (stride(u, spec.x_stride), stride(u, spec.y_stride));
    spec = spec.with_strides(x, y);
    let flags = pick::byte(u);
    (spec.given, spec.gradient_scale) = (flags & 1 != 0, flags & 2 != 0);
    spec
}

fn fakes(spec: &FakeQuantSpec) {
    assert!(spec.x_bytes(spec.max_m) <= spec.x_bytes(u32::MAX));
    assert!(spec.y_bytes(spec.max_m) <= spec.y_bytes(u32::MAX));
    let _ = spec.scales(u32::MAX);
    if spec.check().is_ok() {
        let (low, high) = spec.codes();
        assert!(low <= 0 && high > 0);
    }
}

pub fn dequantize(u: &mut Bytes<'_>) -> DequantizeSpec {
    let format = pick::format(u);
    let mut spec = DequantizeSpec::new(pick::number(u), pick::number(u), format);
    if pick::flag(u) {
        spec = spec.with_gather(pick::number(u));
    }
    spec = spec.with_output(float(u));
    let stride = stride(u, spec.stride);
    spec = spec.with_stride(stride);
    if pick::rarely(u) { spec.with_code_textures() } else { spec }
}

pub fn make(u: &mut Bytes<'_>) -> QuantizeWeightsSpec {
    let format: WeightFormat = pick::format(u);
    let spec = QuantizeWeightsSpec::new(pick::number(u), pick::number(u), format);
    let stride = stride(u, spec.stride);
    let spec = spec.with_stride(stride);
    if pick::index(u, 4) == 3 { spec.with_given_mask() } else { spec }
}

pub fn observe(u: &mut Bytes<'_>) -> ObserveSpec {
    let axis = pick::one_of(u, &[Axis::Tensor, Axis::Channel]);
    let bins = pick::one_of(u, &[0, 4, 16, 128, 2048, 3, 1 << 20, u32::MAX]);
    let spec = ObserveSpec::new(pick::number(u), pick::number(u), axis, bins);
    let spec = spec.with_activations(float(u));
    let stride = stride(u, spec.x_stride);
    let spec = spec.with_stride(stride);
    match pick::index(u, 4) {
        3 => spec.with_bin_width(u.arbitrary().unwrap_or(0)),
        2 => spec.with_bin_width(i32::from(pick::byte(u)) - 128),
        _ => spec,
    }
}

fn others(u: &mut Bytes<'_>) {
    match pick::index(u, 3) {
        0 => {
            let spec = dequantize(u);
            let bytes = spec.output_bytes(spec.rows());
            assert!(bytes <= spec.output_bytes(u32::MAX));
            if spec.check().is_ok() && spec.rows() > 0 {
                assert!(bytes >= u64::from(spec.k) * spec.output.bytes());
            }
        }
        1 => {
            let spec = make(u);
            assert!(spec.check().is_err() || !spec.kernels().is_empty());
        }
        _ => {
            let spec = observe(u);
            if spec.check().is_ok() {
                assert!(spec.words() <= i32::MAX as u64);
                assert!(spec.x_bytes(spec.max_m) <= spec.x_bytes(u32::MAX));
            }
        }
    }
}
