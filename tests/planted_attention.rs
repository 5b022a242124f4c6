//! Faults in the kernels of attention: each must be caught, as those of `planted_faults.rs`.

use crate::planted_faults::caught;
use lowbit::conformance::{AttentionOf, Case, Extent, Op, Sight, Status, Values, run, table};
use lowbit::format::{CacheFormat, WeightFormat};
use lowbit::gpu::{AdapterClass, Caps, KernelDesc};
use lowbit::host::Host;
use lowbit::ops::{AttentionSpec, FloatType, registry};

/// The kernels that a fault is planted in.
#[derive(Clone, Copy, PartialEq)]
enum In {
    /// Those of single subgroups, where the adapter takes them.
    Lanes,
    /// Those of workgroups.
    Group,
    /// Both, one after the other: the words of the fault are in a fragment that they share, or in both.
    Both,
    /// The one that combines parts.
    Combine,
}

/// A name, rows and columns of a head, the case, the kernel, and the replacement.
type Fault = (&'static str, (usize, usize), AttentionOf, In, [&'static str; 2]);

/// Two heads of the cache, each of which three heads of queries share. The last row sees two parts of the
/// slots, and the last step is whole.
const PLAIN: AttentionOf = AttentionOf {
    heads: 6,
    kv_heads: 2,
    slots: 136,
    cache: CacheFormat::F32,
    sight: Sight::Causal,
    cap: false,
    bias: false,
    hadamard: false,
    plain: false,
};

const INT8: AttentionOf = AttentionOf { cache: CacheFormat::Int8, ..PLAIN };
const INT4: AttentionOf = AttentionOf { cache: CacheFormat::Int4, ..PLAIN };
const F16: AttentionOf = AttentionOf { cache: CacheFormat::F16, ..PLAIN };
const WINDOW: AttentionOf = AttentionOf { sight: Sight::Window, ..PLAIN };
const PACKED: AttentionOf = AttentionOf { sight: Sight::Packed, ..PLAIN };
const ODD: AttentionOf = AttentionOf { sight: Sight::Odd, ..PLAIN };
const CAPPED: AttentionOf = AttentionOf { cap: true, ..PLAIN };
const BIASED: AttentionOf = AttentionOf { bias: true, ..PLAIN };
const ROTATED: AttentionOf = AttentionOf { hadamard: true, ..PLAIN };
/// Windows are longer than a step, and what a row sees is one part, although it does not begin at 0.
const FAR: AttentionOf = AttentionOf { slots: 300, ..WINDOW };
/// A third part is not whole.
const LONG: AttentionOf = AttentionOf { slots: 330, ..PLAIN };

/// Rows that decode, and rows that take tiles of queries, of heads of 64 columns.
const DECODE: (usize, usize) = (3, 64);
const PREFILL: (usize, usize) = (11, 64);

/// Faults in which head, slot or column is meant.
const PLACES: [Fault; 22] = [
    (
        "another head of the cache for a group",
        DECODE,
        PLAIN,
        In::Both,
        ["tile.kv_head * p.group + n % p.group", "n % p.group * p.kv_heads + tile.kv_head"],
    ),
    (
        "the values of the neighboring head",
        PREFILL,
        PLAIN,
        In::Both,
        ["p.values_at + (kv_head * p.slots", "p.values_at + ((kv_head ^ 1u) * p.slots"],
    ),
    (
        "the keys of the neighboring slot",
        DECODE,
        F16,
        In::Both,
        ["p.keys_at + (kv_head * p.slots + slot)", "p.keys_at + (kv_head * p.slots + (slot ^ 1u))"],
    ),
    (
        "a slot too many at the end",
        PREFILL,
        PLAIN,
        In::Both,
        ["let end = min(r.w, p.slots);", "let end = min(r.w + 1u, p.slots);"],
    ),
    (
        "a slot too few at the end",
        DECODE,
        PLAIN,
        In::Both,
        ["let end = min(r.w, p.slots);", "let end = min(r.w - 1u, p.slots);"],
    ),
    (
        "a slot too many at the start",
        PREFILL,
        WINDOW,
        In::Both,
        ["let first = min(r.z, end);", "let first = min(max(r.z, 1u) - 1u, end);"],
    ),
    (
        "a slot too few at the start",
        DECODE,
        WINDOW,
        In::Both,
        ["let first = min(r.z, end);", "let first = min(r.z + 1u, end);"],
    ),
    (
        "a tile that starts where its last query does",
        PREFILL,
        PACKED,
        In::Both,
        ["sight.begin = min(sight.begin, query.first);", "sight.begin = query.first;"],
    ),
    (
        "a slot that only some queries of a tile see",
        PREFILL,
        PLAIN,
        In::Both,
        ["sight.all_to = min(sight.all_to, query.end);", ""],
    ),
    (
        "a window that only some queries of a tile see",
        PREFILL,
        FAR,
        In::Both,
        ["sight.all_from = max(sight.all_from, query.first);", ""],
    ),
    (
        "a bias that is one off",
        DECODE,
        BIASED,
        In::Both,
        ["(2u * p.reach + 1u) + u32(distance)", "(2u * p.reach + 1u) + u32(distance) + 1u"],
    ),
    (
        "a bias of the other side",
        PREFILL,
        BIASED,
        In::Both,
        ["i32(slot) - i32(query.slot)", "i32(query.slot) - i32(slot)"],
    ),
    (
        "the bias of the neighboring head",
        PREFILL,
        BIASED,
        In::Both,
        ["query.head * (2u * p.reach", "(query.head ^ 1u) * (2u * p.reach"],
    ),
    (
        "the scale of the neighboring token's keys, int8",
        DECODE,
        INT8,
        In::Both,
        [
            "key_word(p.keys_at + p.scales_at + head * p.slots + slot)",
            "key_word(p.keys_at + p.scales_at + head * p.slots + (slot ^ 1u))",
        ],
    ),
    (
        "the scale of the neighboring token's keys, int4",
        PREFILL,
        INT4,
        In::Both,
        [
            "key_word(p.keys_at + p.scales_at + head * p.slots + slot)",
            "key_word(p.keys_at + p.scales_at + head * p.slots + (slot ^ 1u))",
        ],
    ),
    (
        "the scale of the neighboring head's values, int8",
        PREFILL,
        INT8,
        In::Both,
        [
            "value_word(p.values_at + p.scales_at + head * p.slots + slot)",
            "value_word(p.values_at + p.scales_at + (head ^ 1u) * p.slots + slot)",
        ],
    ),
    (
        "the scale of the neighboring head's values, int4",
        DECODE,
        INT4,
        In::Both,
        [
            "value_word(p.values_at + p.scales_at + head * p.slots + slot)",
            "value_word(p.values_at + p.scales_at + (head ^ 1u) * p.slots + slot)",
        ],
    ),
    (
        "the last columns of a head left out",
        (3, 36),
        PLAIN,
        In::Both,
        ["(p.head_dim + 7u) / 8u", "p.head_dim / 8u"],
    ),
    (
        "padding that counts",
        (11, 36),
        F16,
        In::Both,
        ["k.high = select(vec4<f32>(0.0), k.high", "k.high = select(k.high, k.high"],
    ),
    (
        "the last chunk left out unless it is whole",
        (11, 96),
        PLAIN,
        In::Lanes,
        [
            "min(octets() - min(c * LANES, octets()), LANES)",
            "select(0u, LANES, (c + 1u) * LANES <= octets())",
        ],
    ),
    (
        "a part that ends a slot too late",
        DECODE,
        PLAIN,
        In::Both,
        ["let end = min(begin + each, sight.end);", "let end = min(begin + each + 1u, sight.end);"],
    ),
    (
        "a last slot that counts for all lanes past it",
        DECODE,
        LONG,
        In::Both,
        ["select(slot, p.slots, at + lane >= end)", "slot"],
    ),
];

/// Faults in what is computed.
const NUMBERS: [Fault; 25] = [
    ("no scale", DECODE, PLAIN, In::Both, ["product * p.scale", "product"]),
    ("a dropped soft cap", PREFILL, CAPPED, In::Both, ["if (p.cap > 0.0)", "if (false)"]),
    ("a soft cap of another sharpness", DECODE, CAPPED, In::Both, ["exp(2.0 * x)", "exp(x)"]),
    (
        "a maximum that is not subtracted",
        DECODE,
        PLAIN,
        In::Lanes,
        ["max(highest[i], subgroupMax(select(LOWEST, s, visible)))", "0.0"],
    ),
    (
        "a maximum that is not subtracted",
        PREFILL,
        PLAIN,
        In::Group,
        ["highest_now = max(highest_now, shared_most[i * SEEKERS + k]);", "highest_now = 0.0;"],
    ),
    (
        "a maximum of each lane",
        PREFILL,
        PLAIN,
        In::Lanes,
        ["subgroupMax(select(LOWEST, s, visible))", "select(LOWEST, s, visible)"],
    ),
    (
        "a maximum that leaves out most lanes",
        PREFILL,
        PLAIN,
        In::Group,
        ["most = max(most, shared_weights[at + k * SEEKERS]);", ""],
    ),
    (
        "nothing scaled to a new maximum",
        DECODE,
        PLAIN,
        In::Both,
        ["let factor = decay(highest[i] - highest_now);", "let factor = 1.0;"],
    ),
    (
        "sums not scaled to a new maximum",
        PREFILL,
        PLAIN,
        In::Both,
        ["sums[i] = sums[i] * factor + weight;", "sums[i] = sums[i] + weight;"],
    ),
    (
        "half of the values not scaled to a new maximum",
        DECODE,
        PLAIN,
        In::Group,
        ["y_high[i] *= factor;", ""],
    ),
    (
        "values not scaled to a new maximum",
        DECODE,
        PLAIN,
        In::Lanes,
        [
            "scale_chunk(0u, i, factor);\n    if (CHUNKS > 1u) {\n        scale",
            "if (CHUNKS > 1u) {\n        scale",
        ],
    ),
    ("the sum of one lane", PREFILL, PLAIN, In::Lanes, ["subgroupAdd(sums[i])", "sums[i]"]),
    (
        "the sum of one lane",
        PREFILL,
        PLAIN,
        In::Group,
        ["sum += shared_most[k];", "sum = shared_most[k];"],
    ),
    (
        "nothing seen as nothing divided by nothing",
        PREFILL,
        ODD,
        In::Both,
        ["select(reciprocal(sum), 0.0, query.first >= query.end)", "reciprocal(sum)"],
    ),
    (
        "a NaN times 0",
        PREFILL,
        PLAIN,
        In::Lanes,
        ["select(low, low + weight * v.low, visible)", "low + weight * v.low"],
    ),
    ("a NaN times 0", PREFILL, PLAIN, In::Group, ["if (sees(i, slot)) {", "if (true) {"]),
    (
        "halves of bytes swapped",
        DECODE,
        INT4,
        In::Both,
        [
            "fn codes_of(word: u32) -> Octet {",
            "fn codes_of(stored: u32) -> Octet {
                let word = ((stored & 0x0f0f0f0fu) << 4u) | ((stored >> 4u) & 0x0f0f0f0fu);",
        ],
    ),
    (
        "codes without the 8 that was added",
        PREFILL,
        INT4,
        In::Both,
        [
            "vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - 8.0",
            "vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu))",
        ],
    ),
    (
        "codes without a sign",
        DECODE,
        INT8,
        In::Both,
        ["unpack4xI8(words.y)", "unpack4xU8(words.y)"],
    ),
    (
        "the maximum of a part ignored",
        DECODE,
        LONG,
        In::Combine,
        ["let factor = decay(part.x - highest);", "let factor = 1.0;"],
    ),
    ("a part of a sum not scaled", DECODE, PLAIN, In::Combine, ["factor * part.y", "part.y"]),
    (
        "a part that is not there",
        DECODE,
        FAR,
        In::Combine,
        ["parts_used(end - min(r.z, end))", "parts_used(end)"],
    ),
    ("a transform that is not scaled", DECODE, ROTATED, In::Combine, ["v * p.root", "v"]),
    (
        "a transform of one part left out",
        PREFILL,
        ROTATED,
        In::Combine,
        ["held[quad] = within_quad(v * p.root, p.hadamard);", "held[quad] = v * p.root;"],
    ),
    (
        "a transform of parts that are not combined",
        DECODE,
        ROTATED,
        In::Combine,
        ["v = combined(row, head, used, quad);", "v = y_quad(row, head, quad);"],
    ),
];

/// The kernel of a case in which the fault is planted.
fn shader(case: &Case, of: &AttentionOf, place: In, caps: &Caps) -> KernelDesc {
    if place == In::Combine {
        let lanes = if caps.class == AdapterClass::Cpu { 8 } else { 64 };
        return registry::find(&format!("attention_combine_l{lanes}")).unwrap().desc();
    }
    let (heads, kv_heads) = (of.heads.into(), of.kv_heads.into());
    let spec = AttentionSpec::new(case.m as u32, heads, kv_heads, case.k as u32, of.slots)
        .with_cache(of.cache);
    let spec = if of.plain { spec.plain() } else { spec };
    spec.shader(caps, case.m as u32)
}

/// Plants one of each three faults, or all, in the kernels that it belongs to. Each gets a device of its own, because its kernels
/// are cached there.
fn each_is_caught(faults: &[Fault]) {
    let Some(host) = crate::common::host() else { return };
    for &(name, shape, of, place, [from, to]) in crate::common::some_of(faults, 3) {
        let kinds: &[bool] = match place {
            In::Lanes | In::Combine => &[false],
            In::Group => &[true],
            In::Both => &[false, true],
        };
        for &plain in kinds {
            let of = AttentionOf { plain, ..of };
            let f32s = (FloatType::F32, FloatType::F32);
            let op = Op::Attention(of);
            let case = Case::of_x(op, WeightFormat::f32(), f32s, shape, Values::Normal);
            let case = Case { strided: false, ..case };
            let faulty = [Host::new().unwrap()];
            let shader = shader(&case, &of, place, faulty[0].kernels().caps());
            if place == In::Lanes && !shader.id.starts_with("attention_lanes") {
                crate::common::skipped(format_args!("{name}: the adapter takes {}", shader.id));
                continue;
            }
            let sound = &run(std::slice::from_ref(host), std::slice::from_ref(&case), &|_| ())[0];
            assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
            caught(&faulty, &case, &shader, (name, from, to));
        }
    }
}

#[test]
fn each_fault_of_places_in_attention_is_caught() {
    each_is_caught(&PLACES);
}

#[test]
fn each_fault_of_numbers_in_attention_is_caught() {
    each_is_caught(&NUMBERS);
}

/// The cases pass without faults: one of each three quick ones, or all.
#[test]
fn sound_attention_passes() {
    let Some(host) = crate::common::host() else { return };
    let extent = if crate::common::long() { Extent::Full } else { Extent::Quick };
    let ours = |case: &Case| matches!(case.op, Op::Attention(_));
    let cases = crate::common::some_of(table(extent).into_iter().filter(ours), 3);
    let reports = run(std::slice::from_ref(host), &cases, &|_| ());
    let failed = |report: &&lowbit::conformance::CaseReport| report.status != Status::Pass;
    let failed: Vec<_> = reports.iter().filter(failed).map(|r| (&r.id, &r.reason)).collect();
    assert!(failed.is_empty(), "{} of {} cases: {failed:#?}", failed.len(), cases.len());
}
