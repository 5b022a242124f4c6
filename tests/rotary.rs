//! Tests of preparing queries, keys and values for attention: what the case table does not vary.

use crate::common::{Noop, floats, host, large_and_small};
use lowbit::format::{CacheFormat, RotaryTable};
use lowbit::host::Host;
use lowbit::ops::rotary::MAX_HEAD_DIM;
use lowbit::ops::{
    BindError, FloatType, HeadNorm, PlanError, RecordError, Role, RotaryArgs, RotaryPairs,
    RotaryPlan, RotarySpec, SubBuffer,
};
use pollster::block_on;

/// What a run leaves: queries, the cache of keys, and that of values.
type Written = [Vec<u32>; 3];

/// Runs a spec with weights of 1 and a plain table, once for all rows.
fn run(host: &Host, spec: &RotarySpec, x: &[f32], rows: &[[u32; 4]]) -> Written {
    let plan = block_on(RotaryPlan::new(host.kernels(), spec)).unwrap();
    let table = RotaryTable::new(1e4, spec.rotary_dim as usize);
    let table = table.pairs(spec.positions as usize).unwrap();
    let bytes = plan.cache_layout().bytes();
    let x = host.storage(bytemuck::cast_slice(x)).unwrap();
    let rows = host.storage(rows.as_flattened()).unwrap();
    let table = host.storage(bytemuck::cast_slice(&table)).unwrap();
    let weights = host.storage(&vec![1f32.to_bits(); spec.head_dim as usize]).unwrap();
    let sizes = [spec.q_bytes(spec.max_m), bytes, bytes];
    let written = sizes.map(|bytes| host.zeros(bytes).unwrap());
    let (queries, keys) = (spec.heads > 0, spec.kv_heads > 0);
    let norm = |planned: bool| (spec.norm.is_some() && planned).then(|| (&weights).into());
    let bound = block_on(plan.bind(RotaryArgs {
        activations: (&x).into(),
        rows: (&rows).into(),
        angles: (spec.rotary_dim > 0).then(|| (&table).into()),
        query_norm: norm(queries),
        key_norm: norm(keys),
        queries: queries.then(|| (&written[0]).into()),
        keys: keys.then(|| (&written[1]).into()),
        values: keys.then(|| (&written[2]).into()),
    }));
    let bound = bound.unwrap();
    host.submit(|pass| bound.record(pass, spec.max_m).unwrap()).unwrap();
    [0, 1, 2].map(|i| host.read(&written[i], 0, (sizes[i] / 4) as usize).unwrap())
}

fn floats_of(words: &[u32]) -> Vec<f32> {
    words.iter().map(|&word| f32::from_bits(word)).collect()
}

/// Two columns at position 1, by hand: (1, 0) becomes (cos 1, sin 1), and (0, 1) becomes (−sin 1, cos 1).
#[test]
fn pairs_turn_by_hand() {
    let Some(host) = host() else { return };
    let (c, s) = (1f64.cos() as f32, 1f64.sin() as f32);
    for (pairs, other) in [(RotaryPairs::Adjacent, 1), (RotaryPairs::HalfSplit, 2)] {
        // One head each; the value is not rotated.
        let spec = RotarySpec::new(1, 1, 1, 4).with_rotation(pairs, 4, 2);
        let spec = spec.with_cache(CacheFormat::F32, 3);
        let mut x = vec![0.0; 12];
        (x[0], x[4 + other], x[8]) = (1.0, 1.0, 1.0);
        let [q, keys, values] =
            run(host, &spec, &x, &[[1, 2, 0, 0]]).map(|words| floats_of(&words));
        let mut want = [[0.0; 4]; 3];
        (want[0][0], want[0][other]) = (c, s);
        (want[1][0], want[1][other], want[2][0]) = (-s, c, 1.0);
        assert_eq!(q, want[0]);
        assert_eq!(keys, [[0.0; 8].as_slice(), &want[1]].concat());
        assert_eq!(values, [[0.0; 8].as_slice(), &want[2]].concat());
    }
}

/// Products of queries and keys depend on the distance of their positions alone, and a Hadamard transform
/// leaves them as they are.
#[test]
fn products_depend_on_distances() {
    let Some(host) = host() else { return };
    let x = floats(3 * 64, 4);
    let product = |hadamard, position: u32| {
        let spec = RotarySpec::new(2, 1, 1, 64)
            .with_rotation(RotaryPairs::HalfSplit, 64, 4096)
            .with_cache(CacheFormat::F32, 2)
            .with_hadamard(hadamard, hadamard)
            .with_norm(HeadNorm { epsilon: 1e-6, offset: 0.0 });
        // The query of the first row, and the key of the second, which is seven positions before.
        let x = [&x[..], &x[..]].concat();
        let rows = [[position, 0, 0, 0], [position - 7, 1, 0, 0]];
        let [q, keys, _] = run(host, &spec, &x, &rows).map(|words| floats_of(&words));
        q[..64].iter().zip(&keys[64..]).map(|(q, k)| f64::from(q * k)).sum::<f64>()
    };
    let want = product(false, 7);
    assert!(want.abs() > 0.5, "{want}");
    for (hadamard, position) in [(false, 8), (false, 4000), (true, 7), (true, 1000)] {
        let got = product(hadamard, position);
        // Both have a length of 8, each is off by less than γ₁₀₀ of it, and the table by an ulp.
        assert!((got - want).abs() < 128.0 * lowbit::reference::gamma(100), "{got} {want}");
    }
}

/// A position past the table shows as NaN; nothing is read past it, and values do not depend on it.
#[test]
fn positions_past_the_table_show() {
    let Some(host) = host() else { return };
    for cache in CacheFormat::ALL {
        let spec = RotarySpec::new(2, 1, 1, 32)
            .with_rotation(RotaryPairs::HalfSplit, 32, 5)
            .with_cache(cache, 2);
        let x = floats(2 * 96, 5);
        for position in [5, u32::MAX] {
            let [q, keys, values] = run(host, &spec, &x, &[[4, 0, 0, 0], [position, 1, 0, 0]]);
            let q = floats_of(&q);
            assert!(q[..32].iter().all(|q| q.is_finite()) && q[32..].iter().all(|q| q.is_nan()));
            let layout = spec.cache_layout().unwrap();
            let number = |words: &[u32], slot| match cache {
                CacheFormat::F16 => {
                    half::f16::from_bits(words[layout.row_at(0, slot)] as u16).to_f32()
                }
                CacheFormat::F32 => f32::from_bits(words[layout.row_at(0, slot)]),
                _ => f32::from_bits(words[layout.scale_at(0, slot)]),
            };
            assert!(number(&keys, 0).is_finite() && number(&keys, 1).is_nan(), "{cache}");
            assert!(number(&values, 0).is_finite() && number(&values, 1).is_finite(), "{cache}");
        }
    }
}

/// A norm whose sum of squares is past f32 makes NaN, not zeros.
#[test]
fn norms_do_not_overflow_silently() {
    let Some(host) = host() else { return };
    let norm = HeadNorm { epsilon: 1e-6, offset: 0.0 };
    let spec = RotarySpec::new(1, 2, 0, 32).with_norm(norm);
    let x: Vec<f32> = (0..64).map(|i| if i == 40 { 3e19 } else { 1.0 }).collect();
    let [q, ..] = run(host, &spec, &x, &[[0; 4]]);
    let q = floats_of(&q);
    assert!(q[..32].iter().all(|q| (q - 1.0).abs() < 1e-5) && q[32..].iter().all(|q| q.is_nan()));
}

/// Rows that exceed a binding are split, and the results are the same bits.
#[test]
fn rows_are_split() {
    let m = 300;
    let x = floats(m * 5 * 32, 8);
    let rows: Vec<[u32; 4]> = (0..m as u32).map(|row| [row, (row * 5) % 301, 0, 0]).collect();
    let spec = |cache| {
        RotarySpec::new(m as u32, 3, 1, 32)
            .with_rotation(RotaryPairs::Adjacent, 32, 300)
            .with_cache(cache, 301)
            .with_norm(HeadNorm { epsilon: 1e-5, offset: 1.0 })
    };
    for cache in [CacheFormat::F32, CacheFormat::Int4] {
        let all: Vec<_> = large_and_small(65536, 64)
            .into_iter()
            .map(|host| run(host, &spec(cache), &x, &rows))
            .collect();
        if let [large, small] = &all[..] {
            assert_eq!(large, small);
        }
    }
    // A cache or a table that exceeds a binding is refused.
    if let [_, small] = large_and_small(65536, 64)[..] {
        let spec = spec(CacheFormat::F32).with_cache(CacheFormat::F32, 1000);
        let plan = block_on(RotaryPlan::new(small.kernels(), &spec)).unwrap();
        let buffers = [(); 7].map(|()| small.zeros(1 << 20).unwrap());
        let [x, rows, angles, weights, q, keys, values] = &buffers;
        let error = block_on(plan.bind(RotaryArgs {
            activations: x.into(),
            rows: rows.into(),
            angles: Some(angles.into()),
            query_norm: Some(weights.into()),
            key_norm: Some(weights.into()),
            queries: Some(q.into()),
            keys: Some(keys.into()),
            values: Some(values.into()),
        }));
        let error = error.map(drop).unwrap_err();
        let need = 4 * 1000 * 32;
        assert!(
            matches!(error, BindError::BindingTooLarge { role: Role::Keys, need: n, .. } if n == need),
            "{error:?}"
        );
    }
}

#[test]
fn specs_that_make_no_sense_are_refused() {
    let spec = RotarySpec::new(4, 3, 1, 64).with_rotation(RotaryPairs::HalfSplit, 64, 100);
    assert_eq!(spec.check(), Ok(()));
    let multiple = |name, value| Err(PlanError::NotMultiple { name, value, multiple: 4 });
    assert_eq!(RotarySpec::new(4, 3, 1, 62).check(), multiple("head_dim", 62));
    let rotation = |dim| spec.clone().with_rotation(RotaryPairs::HalfSplit, dim, 100).check();
    assert_eq!(rotation(30), multiple("rotary_dim", 30));
    let too_large = |name, value, limit| Err(PlanError::TooLarge { name, value, limit });
    assert_eq!(rotation(68), too_large("rotary_dim", 68, 64));
    let (value, limit) = (MAX_HEAD_DIM + 4, MAX_HEAD_DIM);
    assert_eq!(RotarySpec::new(4, 3, 1, value).check(), too_large("head_dim", value, limit));
    let rows = 1 << 20;
    assert_eq!(RotarySpec::new(rows, 3, 1, 64).check(), too_large("max_m", rows, rows - 1));
    for epsilon in [0.0, -1e-6, f32::NAN, f32::INFINITY, 1e-40] {
        let norm = spec.clone().with_norm(HeadNorm { epsilon, offset: 0.0 });
        assert!(matches!(norm.check(), Err(PlanError::Number { name: "epsilon", .. })));
    }
    let norm = spec.clone().with_norm(HeadNorm { epsilon: 1e-6, offset: f32::NAN });
    assert!(matches!(norm.check(), Err(PlanError::Number { name: "offset", .. })));
    let stride = |role, stride, need| Err(PlanError::Stride { role, stride, need });
    assert_eq!(spec.clone().with_x_stride(319).check(), stride(Role::Activations, 319, 320));
    assert_eq!(spec.clone().with_q_stride(191).check(), stride(Role::Output, 191, 192));
    let odd = spec.clone().with_output(FloatType::F16).with_q_stride(193).check();
    let (role, multiple) = (Role::Output, 2);
    assert_eq!(odd, Err(PlanError::OddStride { role, stride: 193, multiple }));
    let huge = RotarySpec::new(4, 3, 65535, 256).with_cache(CacheFormat::F32, 1 << 20).check();
    assert!(matches!(huge, Err(PlanError::Format(_))), "{huge:?}");
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = RotarySpec::new(4, 3, 1, 64)
        .with_rotation(RotaryPairs::HalfSplit, 64, 100)
        .with_cache(CacheFormat::F16, 10)
        .with_norm(HeadNorm { epsilon: 1e-6, offset: 0.0 });
    let plan = block_on(RotaryPlan::new(&kernels, &spec)).unwrap();
    let sizes = [4 * 4 * 320, 64, 4 * 6400, 256, 256, 4 * 4 * 192, 1280, 1280, 16];
    let buffers = sizes.map(|bytes| noop.buffer(bytes));
    let [x, rows, angles, q_norm, k_norm, q, keys, values, small] = &buffers;
    let plain = noop.buffer_for(1 << 16, wgpu::BufferUsages::UNIFORM);
    let good = RotaryArgs {
        activations: x.into(),
        rows: rows.into(),
        angles: Some(angles.into()),
        query_norm: Some(q_norm.into()),
        key_norm: Some(k_norm.into()),
        queries: Some(q.into()),
        keys: Some(keys.into()),
        values: Some(values.into()),
    };
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let bound = block_on(plan.bind(good)).unwrap();
    assert_eq!(bound.dispatches(), 1);
    noop.submit(|pass| {
        assert_eq!(bound.record(pass, 5), Err(RecordError::MTooLarge { m: 5, max_m: 4 }));
        assert_eq!(bound.record(pass, 4), Ok(()));
    });
    let too_small = |role, need| BindError::TooSmall { role, need, have: 16 };
    let short = Some(SubBuffer::from(small));
    for (args, role, need) in [
        (RotaryArgs { activations: small.into(), ..good }, Role::Activations, 5120),
        (RotaryArgs { rows: small.into(), ..good }, Role::Positions, 64),
        (RotaryArgs { angles: short, ..good }, Role::Angles, 25600),
        (RotaryArgs { query_norm: short, ..good }, Role::NormWeights, 256),
        (RotaryArgs { key_norm: short, ..good }, Role::NormWeights, 256),
        (RotaryArgs { queries: short, ..good }, Role::Output, 3072),
        (RotaryArgs { keys: short, ..good }, Role::Keys, 1280),
        (RotaryArgs { values: short, ..good }, Role::Values, 1280),
    ] {
        assert_eq!(refuse(args), too_small(role, need));
    }
    for (args, role) in [
        (RotaryArgs { angles: None, ..good }, Role::Angles),
        (RotaryArgs { query_norm: None, ..good }, Role::NormWeights),
        (RotaryArgs { key_norm: None, ..good }, Role::NormWeights),
        (RotaryArgs { queries: None, ..good }, Role::Output),
        (RotaryArgs { keys: None, ..good }, Role::Keys),
        (RotaryArgs { values: None, ..good }, Role::Values),
    ] {
        assert_eq!(refuse(args), BindError::Argument { role, planned: true });
    }
    let late = SubBuffer { buffer: keys, offset: 4 };
    let (role, offset, align) = (Role::Keys, 4, 16);
    let misaligned = BindError::Misaligned { role, offset, align };
    assert_eq!(refuse(RotaryArgs { keys: Some(late), ..good }), misaligned);
    let usage = RotaryArgs { angles: Some((&plain).into()), ..good };
    assert_eq!(refuse(usage), BindError::Usage { role: Role::Angles });
    for (args, role) in [
        (RotaryArgs { queries: Some(x.into()), ..good }, Role::Activations),
        (RotaryArgs { keys: Some(values.into()), ..good }, Role::Values),
        (RotaryArgs { rows: values.into(), ..good }, Role::Values),
        (RotaryArgs { angles: Some(q.into()), ..good }, Role::Output),
    ] {
        let error = refuse(args);
        let small = matches!(error, BindError::TooSmall { .. });
        assert!(small || error == BindError::Aliased { role }, "{error:?}");
    }

    // Without queries, or without keys and values: what belongs to them is refused.
    for (heads, kv_heads) in [(3, 0), (0, 2)] {
        let spec = RotarySpec::new(4, heads, kv_heads, 64).with_cache(CacheFormat::F16, 5);
        let plan = block_on(RotaryPlan::new(&kernels, &spec)).unwrap();
        let refused = block_on(plan.bind(good)).map(drop);
        assert!(matches!(refused, Err(BindError::Argument { planned: false, .. })), "{refused:?}");
        let args = RotaryArgs { angles: None, query_norm: None, key_norm: None, ..good };
        let args = if heads > 0 {
            RotaryArgs { keys: None, values: None, ..args }
        } else {
            RotaryArgs { queries: None, ..args }
        };
        assert_eq!(block_on(plan.bind(args)).unwrap().dispatches(), 1);
    }
    noop.assert_quiet();
}
