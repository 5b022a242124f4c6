//! Tests of attention: what the case table does not vary.

use crate::common::{Noop, Random, floats, host, large_and_small};
use lowbit::format::{CacheFormat, CacheLayout};
use lowbit::gpu::{AdapterClass, Caps};
use lowbit::host::Host;
use lowbit::ops::{
    AttentionArgs, AttentionPlan, AttentionSpec, BindError, FloatType, PlanError, RecordError,
    Role, SubBuffer,
};
use lowbit::reference::{self, AttentionCase, Expected, OutputType, check, gamma};
use pollster::block_on;

/// What attention reads. Slots that nothing was stored to, and padding, are NaN.
#[derive(Clone)]
struct Input {
    q: Vec<f32>,
    keys: Vec<u32>,
    values: Vec<u32>,
    rows: Vec<[u32; 4]>,
    bias: Option<Vec<f32>>,
}

/// Stores a head of a slot: numbers for floats, codes of up to ±7 and their scale for the others.
fn store(layout: &CacheLayout, words: &mut [u32], at: (usize, usize), numbers: &[f32], scale: f32) {
    let row = &mut words[layout.row_at(at.0, at.1)..][..layout.row_words];
    let mut put = |word: usize, shift: usize, bits: usize, value: u32| {
        let mask = ((1u64 << bits) - 1) as u32;
        row[word] = row[word] & !(mask << shift) | (value & mask) << shift;
    };
    for (column, &number) in numbers.iter().enumerate() {
        match layout.format {
            CacheFormat::F32 => put(column, 0, 32, number.to_bits()),
            CacheFormat::F16 => {
                let bits = half::f16::from_f32(number).to_bits();
                put(column / 2, 16 * (column % 2), 16, bits.into());
            }
            CacheFormat::Int8 => put(column / 4, 8 * (column % 4), 8, number as i32 as u32),
            _ => {
                let shift = 8 * (column % 4) + 4 * (column / 4 % 2);
                put(column / 8, shift, 4, (number as i32 + 8) as u32);
            }
        }
    }
    if layout.format.has_scales() {
        words[layout.scale_at(at.0, at.1)] = scale.to_bits();
    }
}

/// Makes a cache of what `held` gives for a slot.
fn cache(spec: &AttentionSpec, mut held: impl FnMut(usize) -> Option<(Vec<f32>, f32)>) -> Vec<u32> {
    let layout = spec.layout().unwrap();
    let mut words = vec![u32::MAX; layout.words];
    for slot in 0..layout.slots {
        for head in 0..layout.heads {
            if let Some((numbers, scale)) = held(slot) {
                store(&layout, &mut words, (head, slot), &numbers, scale);
            }
        }
    }
    words
}

/// Random keys or values, which are small integers times a scale where the cache holds codes.
fn random(spec: &AttentionSpec, random: &mut Random) -> (Vec<f32>, f32) {
    let scale = 0.05 + random.float().abs() / 4.0;
    let codes = spec.cache.has_scales();
    let number = |v: f32| if codes { (7.0 * v).round() } else { v };
    ((0..spec.head_dim).map(|_| number(random.float())).collect(), scale)
}

/// Random input for rows that see these slots.
fn input(spec: &AttentionSpec, rows: Vec<[u32; 4]>, seed: u64) -> Input {
    let mut numbers = Random(seed);
    let keys = cache(spec, |_| Some(random(spec, &mut numbers)));
    let values = cache(spec, |_| Some(random(spec, &mut numbers)));
    let q = floats(rows.len() * (spec.heads * spec.head_dim) as usize, seed + 1);
    let q = q.into_iter().map(|v| 4.0 * v).collect();
    let bias = spec.bias_reach.map(|_| floats((spec.bias_bytes() / 4) as usize, seed + 2));
    Input { q, keys, values, rows, bias }
}

/// Binds a spec and records `calls` rows one call after the other, each with its own buffers, and returns all
/// results. They were NaN before.
fn attend_in(host: &Host, spec: &AttentionSpec, input: &Input, calls: &[usize]) -> Vec<f32> {
    let plan = block_on(AttentionPlan::new(host.kernels(), spec)).unwrap();
    let keys = host.storage(&input.keys).unwrap();
    let values = host.storage(&input.values).unwrap();
    let bias = input.bias.as_ref().map(|bias| host.storage(bytemuck::cast_slice(bias)).unwrap());
    let columns = (spec.heads * spec.head_dim) as usize;
    let (mut first, mut all) = (0, Vec::new());
    for &m in calls {
        let q = &input.q[first * columns..][..m * columns];
        let q = host.storage(bytemuck::cast_slice(q)).unwrap();
        let rows = host.storage(input.rows[first..][..m].as_flattened()).unwrap();
        let words = m * columns * spec.output.bytes() as usize / 4;
        let y = host.storage(&vec![u32::MAX; words]).unwrap();
        let mut spec = spec.clone();
        spec.max_m = m as u32;
        let plan = if spec == *plan.spec() {
            plan.clone()
        } else {
            block_on(AttentionPlan::new(host.kernels(), &spec)).unwrap()
        };
        let bound = block_on(plan.bind(AttentionArgs {
            queries: (&q).into(),
            keys: (&keys).into(),
            values: (&values).into(),
            rows: (&rows).into(),
            bias: bias.as_ref().map(SubBuffer::from),
            output: (&y).into(),
            scratch: None,
        }));
        let bound = bound.unwrap();
        host.submit(|pass| bound.record(pass, m as u32).unwrap()).unwrap();
        let words = host.read(&y, 0, words).unwrap();
        match spec.output {
            FloatType::F16 => all.extend(words.iter().flat_map(|word| {
                [*word as u16, (word >> 16) as u16].map(|bits| half::f16::from_bits(bits).to_f32())
            })),
            _ => all.extend(words.into_iter().map(f32::from_bits)),
        }
        first += m;
    }
    all
}

fn attend(host: &Host, spec: &AttentionSpec, input: &Input) -> Vec<f32> {
    attend_in(host, spec, input, &[input.rows.len()])
}

/// What the oracle expects.
fn expected(spec: &AttentionSpec, input: &Input) -> Vec<Expected> {
    let size = |size: u32| size as usize;
    let bias = input.bias.as_deref().zip(spec.bias_reach);
    reference::attention(&AttentionCase {
        q: &input.q,
        heads: size(spec.heads),
        kv_heads: size(spec.kv_heads),
        head_dim: size(spec.head_dim),
        slots: size(spec.slots),
        format: spec.cache,
        keys: &input.keys,
        values: &input.values,
        rows: &input.rows,
        scale: spec.scale,
        soft_cap: spec.soft_cap,
        bias: bias.map(|(bias, reach)| (bias, size(reach))),
        hadamard: spec.hadamard,
        output: if spec.output == FloatType::F16 { OutputType::F16 } else { OutputType::F32 },
    })
    .unwrap()
}

#[track_caller]
fn assert_within(expected: &[Expected], got: &[f32], what: &str) {
    assert_eq!(expected.len(), got.len());
    for (at, (want, &got)) in expected.iter().zip(got).enumerate() {
        assert!(check(want, got).passes(), "{what}: {at} is {got}, must be {}", want.value);
    }
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Rows that see all slots up to their own, the last one all.
fn causal(rows: u32, slots: u32) -> Vec<[u32; 4]> {
    (0..rows).map(|row| [row, slots - rows + row, 0, slots - rows + row + 1]).collect()
}

/// A spec of each kind of kernel, and of each format of caches.
fn specs(max_m: u32, slots: u32) -> Vec<AttentionSpec> {
    let spec = |cache| AttentionSpec::new(max_m, 6, 2, 48, slots).with_cache(cache);
    CacheFormat::ALL.into_iter().flat_map(|cache| [spec(cache), spec(cache).plain()]).collect()
}

/// Two slots by hand: queries of zeros give the mean, and a score that is larger by ln 3 gives weights of 1/4
/// and 3/4.
#[test]
fn two_slots_by_hand() {
    let Some(host) = host() else { return };
    let spec = AttentionSpec::new(2, 1, 1, 4, 2).with_scale(0.5);
    let keys = cache(&spec, |slot| Some((vec![slot as f32, 0.0, 0.0, 0.0], 1.0)));
    let values = cache(&spec, |slot| Some((vec![8.0 * slot as f32, 4.0, 0.0, -8.0], 1.0)));
    let q = vec![0.0, 5.0, 6.0, 7.0, 2.0 * 3f32.ln(), 0.0, 0.0, 0.0];
    let input = Input { q, keys, values, rows: vec![[0, 0, 0, 2]; 2], bias: None };
    for spec in [spec.clone(), spec.plain()] {
        let y = attend(host, &spec, &input);
        for (y, want) in y.iter().zip([4.0, 4.0, 0.0, -8.0, 6.0, 4.0, 0.0, -8.0]) {
            assert!((y - want).abs() <= 1e-5, "{y} {want}");
        }
    }
}

/// Rows of two calls have the bits that they have in one, as long as both decode; and all are within the
/// bound, however many rows a call has.
#[test]
fn calls_may_be_split() {
    let Some(host) = host() else { return };
    for spec in specs(8, 300) {
        let input = input(&spec, causal(8, 300), 1);
        let expected = expected(&spec, &input);
        let together = attend_in(host, &spec, &input, &[8]);
        assert_within(&expected, &together, "8");
        assert_eq!(bits(&attend_in(host, &spec, &input, &[3, 5])), bits(&together));
        let alone = attend_in(host, &spec, &input, &[1; 8]);
        assert_eq!(bits(&alone), bits(&together));
    }
    for spec in specs(21, 150) {
        let spec = spec.with_soft_cap(5.0).with_bias(9);
        let input = input(&spec, causal(21, 150), 2);
        let expected = expected(&spec, &input);
        for calls in [&[21][..], &[9, 12], &[20, 1], &[7, 7, 7]] {
            let y = attend_in(host, &spec, &input, calls);
            assert_within(&expected, &y, &format!("{calls:?}"));
        }
    }
}

/// The kernels for few rows and those for many agree, within the bound of both.
#[test]
fn decoding_is_as_reading_a_prompt() {
    let Some(host) = host() else { return };
    for spec in specs(24, 200) {
        let input = input(&spec, causal(24, 200), 3);
        let prompt = attend(host, &spec, &input);
        let decoded = attend_in(host, &spec, &input, &[1; 24]);
        let caps = host.kernels().caps();
        assert_ne!(spec.shader(caps, 24).id, spec.shader(caps, 1).id);
        let expected = expected(&spec, &input);
        let pairs = prompt.iter().zip(&decoded).zip(&expected);
        for ((prompt, decoded), want) in pairs {
            assert!(f64::from((prompt - decoded).abs()) <= 2.0 * want.bound, "{prompt} {decoded}");
        }
        assert_within(&expected, &decoded, "decoded");
    }
}

/// Rows that see nothing are zeros, whatever Y held: as decoded rows, as rows of a prompt, in one or several
/// parts, as f16, and after a transform.
#[test]
fn nothing_seen_is_zeros() {
    let Some(host) = host() else { return };
    let nothing = [[0, 0, 0, 0], [0, 5, 5, 5], [0, 5, 7, 3], [0, 0, 400, 500], [0, 0, 299, 0]];
    for m in [5, 12] {
        for spec in specs(m, 300) {
            let rows: Vec<[u32; 4]> = (0..m as usize).map(|row| nothing[row % 5]).collect();
            for spec in [spec.clone(), spec.with_inverse_hadamard()] {
                let spec = spec.with_types(FloatType::F32, FloatType::F16);
                let none = cache(&spec, |_| None);
                let q = floats((m * spec.heads * spec.head_dim) as usize, 4);
                let (keys, values) = (none.clone(), none);
                let input = Input { q, keys, values, rows: rows.clone(), bias: None };
                assert!(
                    attend(host, &spec, &input).iter().all(|y| *y == 0.0),
                    "{m} rows, {spec:?}"
                );
            }
        }
    }
}

/// What is in slots that a row does not see changes no bit: NaN, infinities, or other numbers; and no NaN
/// shows, although all of its neighbors see the slot.
#[test]
fn unseen_slots_do_not_matter() {
    let Some(host) = host() else { return };
    for m in [3, 10] {
        for spec in specs(m, 200) {
            // Windows that begin and end inside of steps.
            let rows = (0..m).map(|row| [0, 0, 30 + 3 * row, 160 + 2 * row]).collect();
            let mut input = input(&spec, rows, 5);
            let before = attend(host, &spec, &input);
            assert!(before.iter().all(|y| y.is_finite()));
            let layout = spec.layout().unwrap();
            let (first, end) = (30, 160 + 2 * (m as usize - 1));
            let unseen: Vec<usize> = (0..first).chain(end..200).collect();
            let large = spec.cache.has_scales();
            let number = |slot: usize| if large { 1.0 } else { [f32::INFINITY, 1e30][slot % 2] };
            for words in [&mut input.keys, &mut input.values] {
                for (&slot, &other) in unseen.iter().zip(unseen.iter().rev()) {
                    for head in 0..2 {
                        let numbers = vec![number(other); 48];
                        store(&layout, words, (head, slot), &numbers, f32::NEG_INFINITY);
                    }
                }
            }
            assert_eq!(bits(&attend(host, &spec, &input)), bits(&before));
            // A slot that only the last row sees, and one that only the first row sees.
            let last = m as usize - 1;
            for (slot, blind) in [(159 + 2 * last, 0..last), (30, 1..last + 1)] {
                let mut hurt = input.clone();
                for words in [&mut hurt.keys, &mut hurt.values] {
                    for head in 0..2 {
                        store(&layout, words, (head, slot), &[f32::NAN; 48], f32::NAN);
                    }
                }
                let y = attend(host, &spec, &hurt);
                let row = (spec.heads * spec.head_dim) as usize;
                let same = blind.start * row..blind.end * row;
                let (y, before) = (&y[same.clone()], &before[same]);
                assert_eq!(bits(y), bits(before), "{m} rows, slot {slot}, {spec:?}");
            }
        }
    }
}

/// Equal values come out as they are, whatever their weights: numerator and denominator have the same weights,
/// and differ by the roundings of n products, and of as many additions and scalings in each.
#[test]
fn equal_values_are_kept() {
    let Some(host) = host() else { return };
    for m in [2, 9] {
        for spec in specs(m, 300) {
            let mut input = input(&spec, causal(m, 300), 6);
            input.q.iter_mut().for_each(|q| *q *= 30.0);
            let c = if spec.cache.has_scales() { 3.0 } else { 0.75 };
            input.values = cache(&spec, |_| Some((vec![c; 48], 0.25)));
            let want = if spec.cache.has_scales() { c * 0.25 } else { c };
            let bound = gamma(4 * 300 + 20) as f32 * want;
            for y in attend(host, &spec, &input) {
                assert!((y - want).abs() <= bound, "{y}, must be {want} within {bound}");
            }
        }
    }
}

/// Queries of a row lie beside its keys and values, the output has gaps, and scratch that two ops share is
/// theirs one after the other.
#[test]
fn strides_and_shared_scratch() {
    let Some(host) = host() else { return };
    let spec = AttentionSpec::new(4, 4, 2, 32, 300).with_strides(256, 140);
    let input = input(&spec, causal(4, 300), 7);
    let want = attend(host, &AttentionSpec::new(4, 4, 2, 32, 300), &input);
    let plan = block_on(AttentionPlan::new(host.kernels(), &spec)).unwrap();
    let mut q = vec![f32::NAN; 4 * 256];
    for row in 0..4 {
        q[256 * row..][..128].copy_from_slice(&input.q[128 * row..][..128]);
    }
    let q = host.storage(bytemuck::cast_slice(&q)).unwrap();
    let [keys, values] = [&input.keys, &input.values].map(|words| host.storage(words).unwrap());
    let rows = host.storage(input.rows.as_flattened()).unwrap();
    let outputs = [(); 2].map(|()| host.storage(&[7; 4 * 140]).unwrap());
    assert!(plan.scratch_bytes() > 0);
    let scratch = host.storage(&vec![u32::MAX; (plan.scratch_bytes() / 4) as usize]).unwrap();
    let bound = outputs.each_ref().map(|output| {
        block_on(plan.bind(AttentionArgs {
            queries: (&q).into(),
            keys: (&keys).into(),
            values: (&values).into(),
            rows: (&rows).into(),
            bias: None,
            output: output.into(),
            scratch: Some((&scratch).into()),
        }))
        .unwrap()
    });
    host.submit(|pass| bound.iter().for_each(|bound| bound.record(pass, 4).unwrap())).unwrap();
    for output in &outputs {
        let y = host.read(output, 0, 4 * 140).unwrap();
        for (row, want) in y.chunks(140).zip(want.chunks(128)) {
            assert_eq!(row[..128], bits(want));
            assert!(row[128..].iter().all(|gap| *gap == 7));
        }
    }
}

/// Rows that exceed a binding are split; a cache, a bias or scratch that does is refused.
#[test]
fn rows_are_split() {
    let hosts = large_and_small(65536, 64);
    for m in [8, 60] {
        let spec = AttentionSpec::new(m, 40, 1, 64, 70).with_cache(CacheFormat::Int4);
        let spec = spec.with_inverse_hadamard();
        let input = input(&spec, causal(m, 70), 8);
        let expected = expected(&spec, &input);
        for host in &hosts {
            assert_within(&expected, &attend(host, &spec, &input), &format!("{m} rows"));
        }
    }
    let [_, small] = hosts[..] else { return };
    let refused = |spec: &AttentionSpec| {
        let plan = block_on(AttentionPlan::new(small.kernels(), spec)).unwrap();
        let buffers = [(); 6].map(|()| small.zeros(1 << 20).unwrap());
        let [q, keys, values, rows, bias, y] = &buffers;
        let error = block_on(plan.bind(AttentionArgs {
            queries: q.into(),
            keys: keys.into(),
            values: values.into(),
            rows: rows.into(),
            bias: spec.bias_reach.map(|_| bias.into()),
            output: y.into(),
            scratch: None,
        }));
        error.map(drop).unwrap_err()
    };
    let (heads, spec) = (8, AttentionSpec::new(1, 8, 1, 64, 300));
    for (spec, role, need) in [
        (spec.clone(), Role::Keys, 4 * 64 * 300),
        (spec.clone().with_cache(CacheFormat::Int4).with_bias(1100), Role::Bias, 4 * heads * 2201),
        (AttentionSpec::new(8, 8, 1, 4, 5000).with_cache(CacheFormat::F16), Role::Keys, 16 * 5000),
    ] {
        let error = refused(&spec);
        let BindError::BindingTooLarge { role: of, need: bytes, limit } = error else {
            panic!("{error}")
        };
        assert_eq!((of, bytes), (role, need), "{error}");
        assert!(limit < need);
    }
    // 8 rows of 16 heads have 16 parts of 12 floats.
    let spec = AttentionSpec::new(8, 16, 1, 8, 2000).with_cache(CacheFormat::Int8);
    let need = spec.scratch_bytes();
    assert_eq!(need, 8 * 16 * 16 * 4 * 12);
    let error = refused(&spec);
    assert!(
        matches!(error, BindError::BindingTooLarge { role: Role::Scratch, need: n, .. } if n == need),
        "{error}"
    );
}

#[test]
fn specs_that_make_no_sense_are_refused() {
    let spec = AttentionSpec::new(4, 6, 2, 64, 100);
    assert_eq!(spec.check(), Ok(()));
    for (heads, kv_heads) in [(6, 4), (6, 0), (0, 2), (2, 6)] {
        let error = AttentionSpec::new(4, heads, kv_heads, 64, 100).check();
        assert_eq!(error, Err(PlanError::Heads { heads, kv_heads }));
    }
    for head_dim in [0, 2, 62, 258, 260, 1024] {
        let error = AttentionSpec::new(4, 6, 2, head_dim, 100).check().unwrap_err();
        assert_eq!(error, PlanError::HeadDim { head_dim });
        let text =
            format!("heads of {head_dim} columns are not supported; multiples of 4 up to 256 are");
        assert_eq!(error.to_string(), text);
    }
    for head_dim in [4, 36, 256] {
        assert_eq!(AttentionSpec::new(4, 6, 2, head_dim, 100).check(), Ok(()));
    }
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = spec.clone().with_scale(scale).check();
        assert!(matches!(error, Err(PlanError::Number { name: "scale", .. })), "{error:?}");
    }
    for cap in [-1.0, f32::NAN, f32::INFINITY] {
        let error = spec.clone().with_soft_cap(cap).check();
        assert!(matches!(error, Err(PlanError::Number { name: "soft_cap", .. })), "{error:?}");
    }
    let stride = |role, stride| Err(PlanError::Stride { role, stride, need: 384 });
    let strides = |q, y| spec.clone().with_strides(q, y);
    assert_eq!(strides(383, 384).check(), stride(Role::Queries, 383));
    assert_eq!(strides(384, 380).check(), stride(Role::Output, 380));
    let halves = strides(385, 384).with_types(FloatType::F16, FloatType::F32).check();
    let odd = |role| Err(PlanError::OddStride { role, stride: 385, multiple: 2 });
    assert_eq!(halves, odd(Role::Queries));
    let halves = strides(384, 385).with_types(FloatType::F32, FloatType::F16).check();
    assert_eq!(halves, odd(Role::Output));
    let too_large = |spec: AttentionSpec, name: &str| {
        let error = spec.check();
        let fits = matches!(error, Err(PlanError::TooLarge { name: of, .. }) if of == name);
        assert!(fits, "{error:?}");
    };
    too_large(AttentionSpec::new(1 << 20, 6, 2, 64, 100), "max_m");
    too_large(AttentionSpec::new(1, 1 << 16, 1, 64, 100), "heads");
    too_large(AttentionSpec::new(1, 6, 2, 64, 1 << 31), "slots");
    too_large(spec.clone().with_bias(1 << 30), "bias_reach");
    too_large(spec.clone().with_bias((1 << 30) - 1), "the size of the bias");
    let huge = AttentionSpec::new(1, 512, 512, 256, 1 << 20).check();
    assert!(matches!(huge, Err(PlanError::Format(_))), "{huge:?}");
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = AttentionSpec::new(4, 6, 2, 64, 300).with_cache(CacheFormat::F16).with_bias(10);
    let plan = block_on(AttentionPlan::new(&kernels, &spec)).unwrap();
    assert_eq!(plan.layout().bytes(), 2 * 300 * 128);
    assert_eq!(plan.scratch_bytes(), 4 * 6 * 3 * 4 * 68);
    let sizes = [4 * 4 * 384, 76800, 76800, 64, 6 * 21 * 4, 4 * 4 * 384, 19584, 16];
    let buffers = sizes.map(|bytes| noop.buffer(bytes));
    let [q, keys, values, rows, bias, y, scratch, small] = &buffers;
    let plain = noop.buffer_for(1 << 17, wgpu::BufferUsages::UNIFORM);
    let large = noop.buffer(1 << 17);
    let good = AttentionArgs {
        queries: q.into(),
        keys: keys.into(),
        values: values.into(),
        rows: rows.into(),
        bias: Some(bias.into()),
        output: y.into(),
        scratch: Some(scratch.into()),
    };
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let bound = block_on(plan.bind(good)).unwrap();
    assert_eq!(bound.dispatches(), 2);
    // One row: two heads of the cache in three parts, and six heads to combine.
    assert_eq!(bound.workgroups(1), [6, 6]);
    assert!(bound.workgroups(0).is_empty());
    noop.submit(|pass| {
        assert_eq!(bound.record(pass, 5), Err(RecordError::MTooLarge { m: 5, max_m: 4 }));
        assert_eq!(bound.record(pass, 4), Ok(()));
        assert_eq!(bound.record(pass, 0), Ok(()));
    });
    assert!(block_on(plan.bind(AttentionArgs { scratch: None, ..good })).is_ok());
    let late = |buffer, offset| SubBuffer { buffer, offset };
    type Change<'a> = fn(AttentionArgs<'a>, SubBuffer<'a>) -> AttentionArgs<'a>;
    let parts: [(Change<'_>, Role, u64, u64); 7] = [
        (|args, queries| AttentionArgs { queries, ..args }, Role::Queries, 6144, 4),
        (|args, keys| AttentionArgs { keys, ..args }, Role::Keys, 76800, 16),
        (|args, values| AttentionArgs { values, ..args }, Role::Values, 76800, 16),
        (|args, rows| AttentionArgs { rows, ..args }, Role::Rows, 64, 16),
        (|args, bias| AttentionArgs { bias: Some(bias), ..args }, Role::Bias, 504, 4),
        (|args, output| AttentionArgs { output, ..args }, Role::Output, 6144, 4),
        (
            |args, scratch| AttentionArgs { scratch: Some(scratch), ..args },
            Role::Scratch,
            19584,
            16,
        ),
    ];
    for (change, role, need, align) in parts {
        assert_eq!(
            refuse(change(good, small.into())),
            BindError::TooSmall { role, need, have: 16 }
        );
        let misaligned = BindError::Misaligned { role, offset: align / 2, align };
        assert_eq!(refuse(change(good, late(&large, align / 2))), misaligned);
        assert_eq!(refuse(change(good, (&plain).into())), BindError::Usage { role });
    }
    // A cache of another format: what was made for four bits is too small for sixteen.
    let int4 = spec.clone().with_cache(CacheFormat::Int4).layout().unwrap().bytes();
    let narrow = noop.buffer(int4);
    let error = refuse(AttentionArgs { values: (&narrow).into(), ..good });
    assert_eq!(error, BindError::TooSmall { role: Role::Values, need: 76800, have: int4 });
    let text = "the cache of values buffer is too small: 76800 bytes from its start are needed, it has 21600";
    assert_eq!(error.to_string(), text);
    assert_eq!(refuse(AttentionArgs { bias: None, ..good }), BindError::Bias { planned: true });
    // Large enough for everything: one buffer twice, of which one is written.
    let [one, two] = [(); 2].map(|()| noop.buffer(1 << 17));
    let all = AttentionArgs {
        queries: (&one).into(),
        keys: (&one).into(),
        values: (&one).into(),
        rows: (&one).into(),
        bias: Some((&one).into()),
        output: (&two).into(),
        scratch: Some(scratch.into()),
    };
    assert!(block_on(plan.bind(all)).is_ok());
    for (change, role, ..) in &parts[..5] {
        assert_eq!(refuse(change(all, (&two).into())), BindError::Aliased { role: *role });
    }
    for shared in [&one, &two] {
        let args = AttentionArgs { scratch: Some(shared.into()), ..all };
        assert!(matches!(refuse(args), BindError::Aliased { .. }));
    }

    // Without a bias, one is refused.
    let mut unbiased = spec.clone();
    unbiased.bias_reach = None;
    let unbiased = block_on(AttentionPlan::new(&kernels, &unbiased)).unwrap();
    let error = block_on(unbiased.bind(good)).map(drop).unwrap_err();
    assert_eq!(error, BindError::Bias { planned: false });
    // A plan for no rows binds and records nothing.
    let mut none = spec.clone();
    none.max_m = 0;
    let none = block_on(AttentionPlan::new(&kernels, &none)).unwrap();
    let bound = block_on(none.bind(AttentionArgs { scratch: None, ..good })).unwrap();
    noop.submit(|pass| {
        assert_eq!(bound.record(pass, 0), Ok(()));
        assert_eq!(bound.record(pass, 1), Err(RecordError::MTooLarge { m: 1, max_m: 0 }));
    });
    assert_eq!(bound.dispatches(), 0);
    noop.assert_quiet();
}

/// On a GPU all query heads of a head of the cache are in one workgroup if there are at most eight, so that
/// each byte of keys and values is read once a row.
#[test]
fn a_group_shares_a_workgroup() {
    let caps = Caps::from_limits(AdapterClass::Gpu, &wgpu::Limits::defaults());
    let noop = Noop::new(wgpu::Limits::defaults());
    for (heads, kv_heads) in [(9, 3), (14, 2), (8, 1), (32, 8), (12, 12)] {
        let spec = AttentionSpec::new(1, heads, kv_heads, 64, 128);
        let kernels = noop.kernels_with(|caps| caps.class = AdapterClass::Gpu);
        let plan = block_on(AttentionPlan::new(&kernels, &spec)).unwrap();
        let buffers = [1 << 16, 1 << 20, 1 << 20, 64, 1 << 16].map(|bytes| noop.buffer(bytes));
        let [q, keys, values, rows, y] = buffers.each_ref().map(SubBuffer::from);
        let (queries, bias, output, scratch) = (q, None, y, None);
        let args = AttentionArgs { queries, keys, values, rows, bias, output, scratch };
        let bound = block_on(plan.bind(args)).unwrap();
        assert_eq!(bound.workgroups(1), [u64::from(kv_heads)], "{}", spec.shader(&caps, 1).id);
    }
}
