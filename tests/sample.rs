//! Tests of choosing tokens: what the case table does not vary, and faults that it catches.

use crate::common::{Noop, floats, host, large_and_small};
use lowbit::conformance::{Case, Op, Sampled, Status, Values, run};
use lowbit::format::WeightFormat;
use lowbit::host::Host;
use lowbit::ops::{
    BindError, FloatType, PlanError, RecordError, Role, SampleArgs, SamplePlan, SampleSettings,
    SampleSpec, SubBuffer,
};
use lowbit::reference;
use pollster::block_on;

const PLAIN: SampleSettings =
    SampleSettings { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 7, step: 0 };

/// Chooses tokens of packed rows of `n` logits by each of the settings, with one bound op.
fn tokens(host: &Host, x: &[f32], n: usize, all: &[SampleSettings]) -> Vec<Vec<u32>> {
    let m = (x.len() / n) as u32;
    let spec = SampleSpec::new(m, n as u32).with_random();
    let plan = block_on(SamplePlan::new(host.kernels(), &spec)).unwrap();
    let source = host.storage(bytemuck::cast_slice(x)).unwrap();
    let settings = host.zeros(SampleSettings::BYTES).unwrap();
    let output = host.zeros(spec.token_bytes(m)).unwrap();
    let (activations, at) = ((&source).into(), Some((&settings).into()));
    let args = SampleArgs { activations, settings: at, output: (&output).into() };
    let bound = block_on(plan.bind(args)).unwrap();
    let each = |values: &SampleSettings| {
        values.check().unwrap();
        host.queue().write_buffer(&settings, 0, bytemuck::cast_slice(&values.words()));
        host.submit(|pass| bound.record(pass, m).unwrap()).unwrap();
        host.read(&output, 0, m as usize).unwrap()
    };
    all.iter().map(each).collect()
}

/// How often tokens are drawn is as likely as they are, and depends on seed, step and row.
#[test]
fn frequencies_are_probabilities() {
    let Some(host) = host() else { return };
    let shares = [0.5f64, 0.25, 0.15, 0.1];
    let m = 4000;
    let row = shares.map(|share| (share.ln() * 2.0 + 3.0) as f32);
    let x = row.repeat(m);
    let hot = SampleSettings { temperature: 2.0, ..PLAIN };
    let next = SampleSettings { step: 1, ..hot };
    let other = SampleSettings { seed: 7 << 40, ..hot };
    let drawn = tokens(host, &x, 4, &[hot, next, other, hot]);
    assert_eq!(drawn[0], drawn[3]);
    for (i, all) in drawn[..3].iter().enumerate() {
        for (token, share) in shares.iter().enumerate() {
            let count = all.iter().filter(|&&drawn| drawn as usize == token).count() as f64;
            let (mean, deviation) = (share * m as f64, (share * (1.0 - share) * m as f64).sqrt());
            // Six deviations: once in 500 million, and the seeds are fixed.
            assert!((count - mean).abs() < 6.0 * deviation, "{i}: {token} {count} times");
        }
        for later in &drawn[i + 1..3] {
            let same = all.iter().zip(later).filter(|(a, b)| a == b).count();
            assert!(same < m / 2, "{same} of {m} tokens are the same");
        }
    }
    // Only two are as likely as the second, and together they have 0.7 of the probability.
    let some = SampleSettings { top_k: 2, ..hot };
    let share = SampleSettings { top_p: 0.7, ..hot };
    for all in tokens(host, &x, 4, &[some, share]) {
        assert!(all.iter().all(|&token| token < 2) && all.contains(&0) && all.contains(&1));
    }
}

/// Rows that exceed a binding are split, and rows keep their numbers: the tokens are the same.
#[test]
fn rows_are_split() {
    let (m, n) = (60, 301);
    let x: Vec<f32> = floats(m * n, 9).iter().map(|v| 4.0 * v).collect();
    let some = SampleSettings { top_k: 100, top_p: 0.8, ..PLAIN };
    let all: Vec<_> = large_and_small(16384, 4)
        .into_iter()
        .map(|host| tokens(host, &x, n, &[PLAIN, some]))
        .collect();
    if let [large, small] = &all[..] {
        assert_eq!(large, small);
    }
}

/// Rows of nothing but infinities have a token too, and those of nothing but NaN have none.
#[test]
fn odd_rows_have_tokens() {
    let Some(host) = host() else { return };
    let (none, low, high) = (f32::NAN, f32::NEG_INFINITY, f32::INFINITY);
    let x = [
        [none; 6],
        [none, none, none, none, none, low],
        [low; 6],
        [none, low, 3.0, low, none, low],
        [none, 1.0, high, low, 2.0, none],
        [0.0, -0.0, f32::MAX, -f32::MAX, 1.0, none],
    ];
    let cold = SampleSettings { temperature: 0.0, ..PLAIN };
    let narrow = SampleSettings { top_p: 0.0, ..PLAIN };
    let steps: Vec<_> = (0..20).map(|step| SampleSettings { step, ..PLAIN }).collect();
    let all = tokens(host, x.as_flattened(), 6, &[&[cold, narrow][..], &steps].concat());
    let [cold, narrow, steps @ ..] = &all[..] else { panic!("{all:?}") };
    assert_eq!(cold, &[u32::MAX, 5, 0, 2, 2, 2]);
    let greedy: Vec<_> = x.iter().map(|row| reference::largest(row)).collect();
    assert_eq!(cold, &greedy);
    // All that are as likely as the largest are kept.
    assert_eq!([narrow[0], narrow[1], narrow[3], narrow[4], narrow[5]], [u32::MAX, 5, 2, 2, 2]);
    for tokens in steps {
        assert_eq!([tokens[0], tokens[1], tokens[3], tokens[4], tokens[5]], [u32::MAX, 5, 2, 2, 2]);
    }
    // Equal infinities are equally likely.
    assert!((0..6).all(|token| steps.iter().any(|tokens| tokens[2] == token)), "{steps:?}");
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = SampleSpec::new(4, 8).with_random();
    assert_eq!(spec.check(), Ok(()));
    let (role, stride, need) = (Role::Activations, 7, 8);
    assert_eq!(spec.clone().with_stride(7).check(), Err(PlanError::Stride { role, stride, need }));
    let empty = SampleSpec::new(4, 0).check();
    assert!(matches!(empty, Err(PlanError::Number { name: "n", .. })));
    for (max_m, n) in [(1 << 20, 8), (4, (1 << 24) + 1)] {
        let refused = SampleSpec::new(max_m, n).check();
        assert!(matches!(refused, Err(PlanError::TooLarge { .. })));
    }
    for temperature in [-1.0, f32::NAN, f32::INFINITY, 1e-40, 2e38] {
        let refused = SampleSettings { temperature, ..PLAIN }.check();
        assert!(matches!(refused, Err(PlanError::Number { name: "temperature", .. })));
    }
    for top_p in [-0.1, 1.1, f32::NAN] {
        let refused = SampleSettings { top_p, ..PLAIN }.check();
        assert!(matches!(refused, Err(PlanError::Number { name: "top_p", .. })));
    }

    let plan = block_on(SamplePlan::new(&kernels, &spec)).unwrap();
    let [x, settings, tokens, small] = [128, 32, 16, 8].map(|bytes| noop.buffer(bytes));
    let plain = noop.buffer_for(128, wgpu::BufferUsages::UNIFORM);
    let good = SampleArgs {
        activations: (&x).into(),
        settings: Some((&settings).into()),
        output: (&tokens).into(),
    };
    let bound = block_on(plan.bind(good)).unwrap();
    noop.submit(|pass| {
        assert_eq!(bound.record(pass, 5), Err(RecordError::MTooLarge { m: 5, max_m: 4 }));
        assert_eq!(bound.record(pass, 4), Ok(()));
        assert_eq!(bound.record(pass, 0), Ok(()));
    });
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let role = Role::Settings;
    let missing = BindError::Argument { role, planned: true };
    assert_eq!(refuse(SampleArgs { settings: None, ..good }), missing);
    let too_small = |role, need| BindError::TooSmall { role, need, have: 8 };
    let tiny = SubBuffer::from(&small);
    assert_eq!(refuse(SampleArgs { settings: Some(tiny), ..good }), too_small(role, 32));
    assert_eq!(refuse(SampleArgs { output: tiny, ..good }), too_small(Role::Output, 16));
    let late = SubBuffer { buffer: &settings, offset: 4 };
    let late = refuse(SampleArgs { settings: Some(late), ..good });
    assert_eq!(late, BindError::TooSmall { role, need: 36, have: 32 });
    let usage = BindError::Usage { role: Role::Activations };
    assert_eq!(refuse(SampleArgs { activations: (&plain).into(), ..good }), usage);
    let aliased = |role| BindError::Aliased { role };
    let long = noop.buffer(64);
    let same = SampleArgs { settings: Some((&long).into()), output: (&long).into(), ..good };
    assert_eq!(refuse(same), aliased(role));
    let same = SampleArgs { output: (&x).into(), ..good };
    assert_eq!(refuse(same), aliased(Role::Activations));

    let greedy = SampleSpec::new(4, 8);
    let plan = block_on(SamplePlan::new(&kernels, &greedy)).unwrap();
    let unplanned = BindError::Argument { role, planned: false };
    assert_eq!(block_on(plan.bind(good)).map(drop), Err(unplanned));
    assert_eq!(block_on(plan.bind(SampleArgs { settings: None, ..good })).map(drop), Ok(()));
    noop.assert_quiet();
}

/// A fault: its name, how tokens are chosen, the shape, the values, and the text that is replaced in the
/// shader.
type Fault = (&'static str, Sampled, (usize, usize), Values, [&'static str; 2]);

const FAULTS: [Fault; 13] = [
    (
        "the last of equal logits",
        Sampled::Largest,
        (90, 66),
        Values::Ties,
        ["b.y < a.y", "b.y > a.y"],
    ),
    (
        "the last of equal logits of a lane",
        Sampled::Largest,
        (90, 66),
        Values::Extreme,
        ["found > keys", "found >= keys"],
    ),
    (
        "a NaN that wins",
        Sampled::Largest,
        (4, 100),
        Values::NotFinite,
        ["<= vec4<u32>(0x7f800000u)", "<= vec4<u32>(0x7fffffffu)"],
    ),
    (
        "a skipped last quad",
        Sampled::Largest,
        (90, 66),
        Values::Normal,
        [
            "column < p.k; column += 4u * WORKGROUP) {\n        let found",
            "column + 4u < p.k; column += 4u * WORKGROUP) {\n        let found",
        ],
    ),
    (
        "no temperature",
        Sampled::All,
        (90, 66),
        Values::Normal,
        ["(x - how.top) * how.inverse_temperature", "(x - how.top)"],
    ),
    (
        "one more of the most likely",
        Sampled::TopK,
        (90, 66),
        Values::Normal,
        ["f32(top_k)", "f32(top_k + 1u)"],
    ),
    (
        "a share of something else",
        Sampled::TopP,
        (90, 66),
        Values::Normal,
        ["wanted = goal * s0.x;", "wanted = goal;"],
    ),
    (
        "a threshold that misses its last bits",
        Sampled::TopK,
        (90, 66),
        Values::Normal,
        ["digit < 8u", "digit < 3u"],
    ),
    (
        "a share of what top-k left out",
        Sampled::Both,
        (90, 66),
        Values::Normal,
        ["how.least = clamp(of_counts, 1u, best.x);", "how.least = 1u;"],
    ),
    (
        "the random number of another row",
        Sampled::All,
        (90, 66),
        Values::Normal,
        ["vec4<u32>(p.m0 + row, 0u", "vec4<u32>(p.m0, 0u"],
    ),
    (
        "a carry that is lost",
        Sampled::All,
        (90, 66),
        Values::Normal,
        ["a.y + b.y + select(0u, 1u, low < a.x)", "a.y + b.y"],
    ),
    ("one round too few", Sampled::All, (90, 66), Values::Normal, ["round < 10u", "round < 9u"]),
    (
        "a segment that begins one quad late",
        Sampled::All,
        (90, 66),
        Values::Normal,
        [
            "place[0] = first + skipped;",
            "place[0] = first + skipped + select(0u, 1u, level == 1u);",
        ],
    ),
];

#[test]
fn each_fault_is_caught() {
    let Some(host) = host() else { return };
    let hosts = std::slice::from_ref(host);
    for (name, how, (m, n), values, [from, to]) in FAULTS {
        let types = (FloatType::F32, FloatType::F32);
        let case = Case::of_x(Op::Sample(how), WeightFormat::f32(), types, (m, n), values);
        let case = Case { strided: false, ..case };
        let sound = &run(hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
        // Each fault gets a device of its own, because its kernels are cached there.
        let faulty = [Host::new().unwrap()];
        let spec = SampleSpec::new(m as u32, n as u32);
        let spec = if how == Sampled::Largest { spec } else { spec.with_random() };
        let shader = spec.shader(faulty[0].kernels().caps());
        let text = shader.compose().unwrap().source;
        assert_eq!(text.matches(from).count(), 1, "{name}: the shader has changed");
        block_on(faulty[0].kernels().plant(&shader, &text.replace(from, to))).unwrap();
        let report = &run(&faulty, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(report.status, Status::Fail, "{name} was not caught");
        eprintln!("caught: {name:45} {}", report.reason.as_deref().unwrap_or(""));
    }
}
