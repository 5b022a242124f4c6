//! Faults in the kernels that prepare queries, keys and values, and in the Hadamard transform: each must
//! be caught, as those of `planted_faults.rs`.

use crate::planted_faults::caught;
use lowbit::conformance::{Case, Extent, Op, Rotary, Status, Values, run, table};
use lowbit::format::{CacheFormat, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::{FloatType, HadamardSpec, RotaryPairs, RotarySpec};

/// A name, the op, the pattern, and the replacement.
type Fault = (&'static str, Rotary, Values, (&'static str, &'static str));

fn faults() -> Vec<Fault> {
    let int8 = Rotary {
        heads: 3,
        kv_heads: 2,
        head_dim: 80,
        rotary_dim: 80,
        pairs: RotaryPairs::HalfSplit,
        cache: CacheFormat::Int8,
        norm: false,
        hadamard: false,
    };
    let int4 = Rotary { cache: CacheFormat::Int4, ..int8 };
    let f16 = Rotary { cache: CacheFormat::F16, ..int8 };
    let f32 = Rotary { cache: CacheFormat::F32, ..int8 };
    let normed = Rotary { norm: true, ..f16 };
    let transformed = Rotary { hadamard: true, ..int4 };
    // As long as the runs of zeros.
    let short = Rotary { head_dim: 48, rotary_dim: 48, ..int4 };
    let partial = Rotary { rotary_dim: 20, ..f32 };
    let adjacent = Rotary { pairs: RotaryPairs::Adjacent, ..f32 };
    let (normal, dead, not_finite) = (Values::Normal, Values::DeadGroups, Values::NotFinite);
    vec![
        ("other columns as pairs", f32, normal, ("columns(h, c + half)", "columns(h, c ^ 4u)")),
        (
            "halves as pairs",
            adjacent,
            normal,
            ("vec4<f32>(-v.y, v.x, -v.w, v.z)", "vec4<f32>(-v.z, -v.w, v.x, v.y)"),
        ),
        (
            "a position that is one off",
            f16,
            normal,
            ("min(position, max(p.positions, 1u) - 1u)", "min(position + 1u, p.positions - 1u)"),
        ),
        (
            "sines and cosines swapped",
            f16,
            normal,
            (
                "let cosines = vec4<f32>(a.x, b.x, d.x, e.x);",
                "let cosines = vec4<f32>(a.y, b.y, d.y, e.y);",
            ),
        ),
        ("the other direction", f32, normal, ("turn(h, v, -w,", "turn(h, v, w,")),
        (
            "the angle of the neighboring pair",
            adjacent,
            normal,
            ("angles[h.angles_at + c / 2u + 1u]", "angles[h.angles_at + c / 2u]"),
        ),
        (
            "a second column as a first one",
            partial,
            normal,
            ("let second = c + i >= half;", "let second = c + i > half;"),
        ),
        (
            "a quad that is left out",
            partial,
            normal,
            ("var c = h.rotated + 4u * local;", "var c = h.rotated + 4u + 4u * local;"),
        ),
        (
            "values that are rotated",
            f32,
            normal,
            ("select(p.rotary_dim, 0u, kind == VALUES)", "p.rotary_dim"),
        ),
        (
            "the scale of the neighboring head",
            int8,
            normal,
            (
                "h.scale_at = start + p.scales_at + at;",
                "h.scale_at = start + p.scales_at + (at + p.slots) % (p.kv_heads * p.slots);",
            ),
        ),
        ("codes that are cut off", int8, normal, ("round(v / divisor)", "trunc(v / divisor)")),
        (
            "the first lane's largest value",
            int4,
            normal,
            ("bits = max(bits, largest[i]);", "bits = largest[0];"),
        ),
        (
            "halves of bytes swapped",
            int4,
            normal,
            (
                "pack4xI8(low + vec4<i32>(8)) | (pack4xI8(high + vec4<i32>(8)) << 4u)",
                "pack4xI8(high + vec4<i32>(8)) | (pack4xI8(low + vec4<i32>(8)) << 4u)",
            ),
        ),
        ("a NaN that does not show", int8, not_finite, ("if (bits >= 0x7f800000u)", "if (false)")),
        ("a head of zeros with a scale of 0", short, dead, ("divisor < 1.1754944e-38", "false")),
        (
            "a slot past the cache that is written",
            int8,
            normal,
            ("if (slot >= p.slots)", "if (false)"),
        ),
        ("a transform that is not scaled", transformed, normal, ("v * p.gain", "v")),
        (
            "values that are not transformed",
            transformed,
            normal,
            ("p.transform_v, kind", "0u, kind"),
        ),
        ("a mean over other columns", normed, normal, ("sum / f32(p.head_dim)", "sum / 64.0")),
        (
            "weights without their offset",
            normed,
            normal,
            ("q_weights[at + 3u])\n            + p.weight_offset", "q_weights[at + 3u])"),
        ),
        (
            "weights of queries for keys",
            normed,
            normal,
            ("vec4<f32>(k_weights[at],", "vec4<f32>(q_weights[at],"),
        ),
        (
            "a column of a pair that is not normalized",
            normed,
            normal,
            ("columns(h, c + half)", "elements(h.x_at + c + half)"),
        ),
        (
            "an epsilon that is lost",
            normed,
            Values::Tiny,
            ("sum / f32(p.head_dim) + p.epsilon", "sum / f32(p.head_dim) + 0.01 * p.epsilon"),
        ),
    ]
}

/// The cases of both ops pass without faults: the quick ones, or all.
#[test]
fn sound_kernels_pass() {
    let Some(host) = crate::common::host() else { return };
    let extent = if crate::common::long() { Extent::Full } else { Extent::Quick };
    let ours = |case: &Case| matches!(case.op, Op::Rotary(_) | Op::Hadamard { .. });
    let cases: Vec<_> = table(extent).into_iter().filter(ours).collect();
    let reports = run(std::slice::from_ref(host), &cases, &|_| ());
    let failed = |report: &&lowbit::conformance::CaseReport| report.status != Status::Pass;
    let failed: Vec<_> = reports.iter().filter(failed).map(|r| (&r.id, &r.reason)).collect();
    assert!(failed.is_empty(), "{} of {} cases: {failed:#?}", failed.len(), cases.len());
}

#[test]
fn each_fault_of_heads_is_caught() {
    let Some(host) = crate::common::host() else { return };
    for (name, op, values, replace) in faults() {
        let f32s = (FloatType::F32, FloatType::F32);
        let shape = (5, (op.heads + 2 * op.kv_heads) * op.head_dim);
        let mut case = Case::of_x(Op::Rotary(op), WeightFormat::f32(), f32s, shape, values);
        // The last row has a slot that is not there.
        case.strided = true;
        let sound = &run(std::slice::from_ref(host), std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
        // Each fault gets a device of its own, because its kernels are cached there.
        let faulty = [Host::new().unwrap()];
        let number = |number: usize| number as u32;
        let mut spec =
            RotarySpec::new(5, number(op.heads), number(op.kv_heads), number(op.head_dim))
                .with_rotation(op.pairs, number(op.rotary_dim), 19)
                .with_cache(op.cache, 8)
                .with_hadamard(op.hadamard, op.hadamard);
        spec.norm = op.norm.then_some(lowbit::ops::HeadNorm { epsilon: 1e-6, offset: 1.0 });
        let shader = spec.shader(faulty[0].kernels().caps());
        caught(&faulty, &case, &shader, (name, replace.0, replace.1));
    }
}

#[test]
fn each_fault_of_transforms_is_caught() {
    let Some(host) = crate::common::host() else { return };
    let f32s = (FloatType::F32, FloatType::F32);
    for (name, k, from, to) in [
        ("a transform that is not scaled", 768, "* p.gain", ""),
        (
            "a wrong sign",
            768,
            "held[at + 3u * step] = (a - b) - (c - d);",
            "held[at + 3u * step] = (a - b) + (c - d);",
        ),
        (
            "a last step that is left out",
            768,
            "while (step < end)",
            "while (2u * step < end && 4u * step < end)",
        ),
        ("a step of two that is left out", 384, "held[at + step] = a - b;", "held[at + step] = b;"),
        ("quads that are not mixed", 48, "pairs.xy - pairs.zw", "pairs.zw - pairs.xy"),
        ("one pair too few", 66, "v.z + v.w, v.z - v.w", "v.z, v.w"),
        (
            "a tile in the place of another",
            11008,
            "load_x4(x_row, first + 4u * i)",
            "load_x4(x_row, 4u * i)",
        ),
    ] {
        let op = Op::Hadamard { block: 1 << usize::trailing_zeros(k) };
        let case = Case::of_x(op, WeightFormat::f32(), f32s, (2, k), Values::Normal);
        let case = Case { strided: false, ..case };
        let sound = &run(std::slice::from_ref(host), std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
        let faulty = [Host::new().unwrap()];
        let shader = HadamardSpec::new(2, k as u32).shader(faulty[0].kernels().caps());
        caught(&faulty, &case, &shader, (name, from, to));
    }
}
