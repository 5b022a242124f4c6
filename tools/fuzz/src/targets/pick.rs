//! Choices out of fuzzed bytes. Where they run out every choice is the first, so that short inputs
//! are simple ones.

use arbitrary::Unstructured;
use half::f16;
use lowbit::format::{
    ActivationFormat, ActivationGranularity, CodeType, Granularity, Mask24, PackedWeights,
    ScaleType, Scales, WeightFormat,
};

pub type Bytes<'a> = Unstructured<'a>;

/// One of a list.
pub fn one_of<T: Copy>(u: &mut Bytes<'_>, list: &[T]) -> T {
    list[index(u, list.len())]
}

/// 0…`count` − 1.
pub fn index(u: &mut Bytes<'_>, count: usize) -> usize {
    usize::from(byte(u)) % count.max(1)
}

pub fn byte(u: &mut Bytes<'_>) -> u8 {
    u.arbitrary().unwrap_or(0)
}

pub fn flag(u: &mut Bytes<'_>) -> bool {
    byte(u) % 2 == 1
}

/// Whether something rare happens: one in sixteen.
pub fn rarely(u: &mut Bytes<'_>) -> bool {
    byte(u) % 16 == 15
}

/// Small numbers mostly, edges, and anything.
pub fn number(u: &mut Bytes<'_>) -> u32 {
    const EDGES: [u32; 16] = [
        31,
        32,
        33,
        63,
        64,
        65,
        127,
        128,
        255,
        257,
        1000,
        4096,
        65_535,
        1 << 20,
        1 << 31,
        u32::MAX,
    ];
    match byte(u) {
        small @ 0..=191 => u32::from(small % 10),
        edge @ 192..=247 => EDGES[usize::from(edge) % EDGES.len()],
        _ => u.arbitrary().unwrap_or(0),
    }
}

/// The same with numbers of 64 bits among them.
pub fn wide(u: &mut Bytes<'_>) -> u64 {
    match byte(u) {
        0..=239 => number(u).into(),
        _ => u.arbitrary().unwrap_or(0),
    }
}

pub fn granularity(u: &mut Bytes<'_>) -> Granularity {
    match byte(u) % 4 {
        0 => Granularity::Channel,
        1 => Granularity::Tensor,
        _ => Granularity::group(number(u).max(1)).unwrap_or(Granularity::Channel),
    }
}

/// Any format, also such as does not exist.
pub fn format(u: &mut Bytes<'_>) -> WeightFormat {
    let granularity = granularity(u);
    let mut format = match one_of(u, &CodeType::ALL) {
        CodeType::F32 => WeightFormat::f32(),
        CodeType::F16 => WeightFormat::f16(),
        CodeType::Int16 => WeightFormat::int16(granularity),
        CodeType::Int8 => WeightFormat::int8(granularity),
        _ => WeightFormat::int4(granularity),
    };
    let flags = byte(u);
    if flags & 1 != 0 {
        format = format.two_four();
    }
    if flags & 2 != 0 {
        format = format.asymmetric();
    }
    if flags & 4 != 0 {
        format = format.with_scales(ScaleType::F16);
    }
    format
}

pub fn activation_format(u: &mut Bytes<'_>) -> ActivationFormat {
    let granularity = match byte(u) % 4 {
        0 => ActivationGranularity::Tensor,
        1 => ActivationGranularity::Token,
        2 => match std::num::NonZeroU32::new(number(u).wrapping_mul(32)) {
            Some(group) => ActivationGranularity::Group(group),
            None => ActivationGranularity::Tensor,
        },
        _ => ActivationGranularity::Group(
            std::num::NonZeroU32::new(number(u)).unwrap_or(std::num::NonZeroU32::MIN),
        ),
    };
    let format = ActivationFormat::int8(granularity);
    if flag(u) { format.asymmetric() } else { format }
}

fn words(u: &mut Bytes<'_>, count: usize) -> Vec<u32> {
    (0..count).map(|_| u.arbitrary().unwrap_or(0)).collect()
}

/// Scales, mostly such as are accepted.
fn scale(u: &mut Bytes<'_>) -> f32 {
    match byte(u) {
        0..=239 => 1.0 + f32::from(byte(u)) / 16.0,
        _ => f32::from_bits(u.arbitrary().unwrap_or(0)),
    }
}

/// The parts of a matrix of this format, legal but for what rare bytes say; `None` where there is
/// no such layout or it is large.
pub fn parts(u: &mut Bytes<'_>, format: WeightFormat, n: usize, k: usize) -> Option<Parts> {
    let g = format.geometry(n, k).ok()?;
    if n.saturating_mul(k + 8) > 1 << 12 {
        return None;
    }
    let (codes, zeros) = (words(u, n * g.code_words), g.zeros);
    let metadata = match format.is_sparse() {
        false => Vec::new(),
        true if rarely(u) => words(u, n * g.meta_words),
        true => {
            let bits = byte(u);
            let keep = |row: usize, k: usize| (k + row) % 4 == usize::from(bits) % 4;
            Mask24::from_fn(n, k, keep).ok()?.into_words()
        }
    };
    let scales = match format.scale_type() {
        ScaleType::F32 => Scales::F32((0..g.scales).map(|_| scale(u)).collect()),
        _ => Scales::F16((0..g.scales).map(|_| f16::from_f32(scale(u))).collect()),
    };
    let mask = if rarely(u) { 0xff } else { 0xf };
    let zeros = (0..zeros).map(|_| byte(u) & mask).collect();
    Some(Parts { format, n, k, codes, metadata, scales, zeros })
}

#[derive(Clone)]
pub struct Parts {
    pub format: WeightFormat,
    pub n: usize,
    pub k: usize,
    pub codes: Vec<u32>,
    pub metadata: Vec<u32>,
    pub scales: Scales,
    pub zeros: Vec<u8>,
}

impl Parts {
    pub fn pack(self) -> Option<PackedWeights> {
        let Self { format, n, k, codes, metadata, scales, zeros } = self;
        PackedWeights::from_parts(format, n, k, codes, metadata, scales, zeros).ok()
    }
}
