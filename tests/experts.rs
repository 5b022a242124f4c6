//! Tests of mixtures of experts: the cases of the table, planted faults, misuse, and the ops together.

use crate::common::{Noop, floats, host, large_and_small, random_weights};
use crate::planted_faults::{Replace, caught};
use lowbit::conformance::{Case, Extent, Op, Status, Values, run, table};
use lowbit::format::{ActivationFormat, ActivationGranularity, PackedWeights, WeightFormat};
use lowbit::gpu::KernelDesc;
use lowbit::host::Host;
use lowbit::ops::{
    Activations, BindError, CombineArgs, CombinePlan, CombineSpec, Experts, FloatType,
    KernelChoice, MatmulArgs, MatmulPlan, MatmulSpec, PlanError, Role, RouteArgs, RoutePlan,
    RouteSpec, Schedule, Select,
};
use pollster::block_on;

/// The quick cases; a long run takes all of them.
#[test]
fn the_cases_pass() {
    let Some(host) = host() else { return };
    let extent = if crate::common::long() { Extent::Full } else { Extent::Quick };
    let experts = |case: &Case| {
        matches!(case.op, Op::Route { .. } | Op::Combine { .. } | Op::ExpertMatmul { .. })
    };
    let cases: Vec<Case> = table(extent).into_iter().filter(experts).collect();
    assert!(cases.len() > 30, "{}", cases.len());
    let reports = run(std::slice::from_ref(host), &cases, &|_| ());
    for (case, report) in cases.iter().zip(&reports) {
        assert_eq!(report.status, Status::Pass, "{}: {:?}", case.id(), report.reason);
    }
    eprintln!("{} cases", cases.len());
}

const HIDDEN: usize = 128;
const N: usize = 40;
const EXPERTS: usize = 6;

fn matrices(format: &str) -> Vec<PackedWeights> {
    let format: WeightFormat = format.parse().unwrap();
    (0..EXPERTS).map(|seed| random_weights(format, N, HIDDEN, seed as u64 + 1)).collect()
}

/// Every row of the list is bit for bit what a matmul with the matrix of its expert alone gives, and the
/// sums are those of the rows; with W in one binding and in parts.
#[test]
fn experts_multiply_as_if_alone() {
    for (turn, host) in large_and_small(16384, 65535).into_iter().enumerate() {
        let (m, top, unit) = (23usize, 3usize, 4u32);
        let schedule = Select::Pinned(Schedule::Rows { m_tile: 1, n_tile: 2 });
        let packed = matrices("int8-g32");
        let stacked = PackedWeights::stack(&packed.iter().collect::<Vec<_>>()).unwrap();
        let weights = host.upload(&stacked).unwrap();
        assert_eq!(weights.blocks().len() > 1, turn == 1);
        let (x, logits) = (floats(m * HIDDEN, 3), floats(m * EXPERTS, 4));
        let route = RouteSpec::new(m as u32, EXPERTS as u32, top as u32).with_unit(unit);
        let rows = route.list_rows(m as u32);
        let experts = Experts { count: EXPERTS as u32, x_rows: m as u32, unit };
        let spec = MatmulSpec::of_experts(rows, &weights, experts);
        assert_eq!((spec.n, spec.k), (N as u32, HIDDEN as u32));
        let combine = CombineSpec::new(m as u32, N as u32, top as u32, rows);
        let words = |floats: &[f32]| host.storage(bytemuck::cast_slice(floats)).unwrap();
        let (x_buffer, logits) = (words(&x), words(&logits));
        let list = host.zeros(route.list_bytes()).unwrap();
        let choices = host.zeros(route.choices_bytes()).unwrap();
        let (y, sums) = (host.zeros(spec.y_bytes(rows)).unwrap(), words(&vec![0.0; m * N]));
        let kernels = host.kernels();
        let route = block_on(RoutePlan::new(kernels, &route)).unwrap();
        let plan = block_on(MatmulPlan::new(kernels, &spec, schedule.clone())).unwrap();
        let combine = block_on(CombinePlan::new(kernels, &combine)).unwrap();
        let route = block_on(route.bind(RouteArgs {
            logits: (&logits).into(),
            list: (&list).into(),
            choices: (&choices).into(),
        }))
        .unwrap();
        let args = MatmulArgs {
            activations: (&x_buffer).into(),
            weights: &weights,
            bias: None,
            output: (&y).into(),
        };
        let matmul = block_on(plan.bind_experts(args, (&list).into())).unwrap();
        let combine = block_on(combine.bind(CombineArgs {
            activations: (&y).into(),
            choices: (&choices).into(),
            output: (&sums).into(),
        }))
        .unwrap();
        // One pass: the list that a kernel writes is what the next one reads.
        host.submit(|pass| {
            route.record(pass, m as u32).unwrap();
            matmul.record(pass, rows).unwrap();
            combine.record(pass, m as u32).unwrap();
        })
        .unwrap();
        let choices = host.read(&choices, 0, 3 * m * top).unwrap();
        let got = host.read(&y, 0, rows as usize * N).unwrap();
        for (expert, packed) in packed.iter().enumerate() {
            let alone = host.upload(packed).unwrap();
            let spec = MatmulSpec::of(m as u32, &alone);
            let plan = block_on(MatmulPlan::new(kernels, &spec, schedule.clone())).unwrap();
            let y = host.zeros(spec.y_bytes(m as u32)).unwrap();
            let args = MatmulArgs {
                activations: (&x_buffer).into(),
                weights: &alone,
                bias: None,
                output: (&y).into(),
            };
            let bound = block_on(plan.bind(args)).unwrap();
            host.submit(|pass| bound.record(pass, m as u32).unwrap()).unwrap();
            let want = host.read(&y, 0, m * N).unwrap();
            for (index, choice) in choices.chunks(3).enumerate() {
                if choice[0] == expert as u32 {
                    let row = index / top;
                    let place = choice[1] as usize;
                    assert_eq!(got[place * N..][..N], want[row * N..][..N], "{row} {expert}");
                }
            }
        }
        // All of X has to fit a binding.
        if turn == 0 {
            // The rows of the list, which are in its order: the same rows of Y.
            let listed: Vec<u32> = host.read(&list, 0, 2 * rows as usize).unwrap();
            let mut in_order = vec![0.0; rows as usize * HIDDEN];
            for (place, row) in listed.chunks(2).enumerate() {
                let from = &x[row[0] as usize * HIDDEN..][..HIDDEN];
                in_order[place * HIDDEN..][..HIDDEN].copy_from_slice(from);
            }
            let x_buffer = words(&in_order);
            let own = MatmulSpec::of_experts(rows, &weights, Experts { x_rows: 0, ..experts });
            let plan =
                block_on(MatmulPlan::new(kernels, &own.with_own_rows(), schedule.clone())).unwrap();
            let y = host.zeros(spec.y_bytes(rows)).unwrap();
            let (activations, output) = ((&x_buffer).into(), (&y).into());
            let args = MatmulArgs { activations, weights: &weights, bias: None, output };
            let matmul = block_on(plan.bind_experts(args, (&list).into())).unwrap();
            host.submit(|pass| matmul.record(pass, rows).unwrap()).unwrap();
            assert_eq!(host.read(&y, 0, rows as usize * N).unwrap(), got);
        }
        let sums = host.read(&sums, 0, m * N).unwrap();
        for (at, sum) in sums.into_iter().enumerate() {
            let terms: Vec<_> = (0..top)
                .map(|choice| {
                    let choice = &choices[3 * (at / N * top + choice)..][..3];
                    let x = got[choice[1] as usize * N + at % N];
                    (f32::from_bits(choice[2]), f32::from_bits(x))
                })
                .collect();
            let output = lowbit::reference::OutputType::F32;
            let want = lowbit::reference::combine(&terms, None, output);
            assert!(lowbit::reference::check(&want, f32::from_bits(sum)).passes(), "{at}");
        }
    }
}

#[test]
fn what_no_kernel_does_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let format: WeightFormat = "int8-g32".parse().unwrap();
    let experts = Experts { count: 4, x_rows: 8, unit: 1 };
    let spec = MatmulSpec::new(16, 12, 64, format).with_experts(experts);
    assert_eq!(spec.check(), Ok(()));
    assert_eq!((spec.w_rows(), spec.x_bytes(1), spec.y_bytes(2)), (48, 8 * 64 * 4, 2 * 12 * 4));
    let token = ActivationFormat::int8(ActivationGranularity::Token);
    let permuted: WeightFormat = "int4-g32-perm".parse().unwrap();
    let runs_of = |unit| spec.clone().with_experts(Experts { unit, ..experts });
    for (refused, what) in [
        (spec.clone().with_bias(), "bias"),
        (spec.clone().with_activations(Activations::Int8(token)), "quantized"),
        (spec.clone().with_batch(2), "batch"),
        (MatmulSpec::new(16, 12, 64, permuted).with_experts(experts), "permuted"),
        (MatmulSpec::new(16, 11, 64, format).with_experts(experts), "odd"),
        (runs_of(0), "0 rows"),
    ] {
        let error = refused.check().unwrap_err();
        assert!(
            matches!(&error, PlanError::Experts { what: why } if why.contains(what)),
            "{error}"
        );
    }
    assert!(matches!(runs_of(65).check(), Err(PlanError::TooLarge { name: "unit", .. })));
    for (schedule, unit) in [
        (Schedule::Tiled { m_tile: 32 }, 32),
        (Schedule::Gemv { lanes: 2, m_tile: 4 }, 2),
        (Schedule::Gemv { lanes: 2, m_tile: 4 }, 1),
    ] {
        let spec = runs_of(unit);
        let plan = MatmulPlan::new(&kernels, &spec, Select::Pinned(schedule));
        let error = block_on(plan).unwrap_err();
        let named = error.to_string().contains(&schedule.to_string());
        assert!(matches!(error, PlanError::Experts { .. }) && named, "{error}");
    }
    assert!(matches!(
        RouteSpec::new(4, 4, 5).check(),
        Err(PlanError::TooLarge { name: "top", value: 5, limit: 4 })
    ));
    assert!(matches!(
        RouteSpec::new(4, 2000, 5).check(),
        Err(PlanError::TooLarge { name: "experts", .. })
    ));
    let odd = RouteSpec::new(4, 5, 2).with_logits(FloatType::F16).with_stride(7).check();
    assert!(matches!(odd, Err(PlanError::OddStride { role: Role::Logits, .. })), "{odd:?}");
    assert!(matches!(
        CombineSpec::new(4, 8, 2, 8).with_strides(7, 8).check(),
        Err(PlanError::Stride { .. })
    ));

    // Buffers: no list, a list where none is needed, one that is too small, one that is written.
    let packed = random_weights(format, 48, 64, 1);
    let weights = block_on(lowbit::ops::DeviceWeights::upload(&kernels, &packed)).unwrap();
    let [x, y, list] = [4 * 8 * 64, 4 * 16 * 12, 8 * 16].map(|bytes| noop.buffer(bytes));
    let plan = block_on(MatmulPlan::new(&kernels, &spec, Select::Auto)).unwrap();
    let args =
        |output| MatmulArgs { activations: (&x).into(), weights: &weights, bias: None, output };
    let bind = |list| block_on(plan.bind_experts(args((&y).into()), list)).err();
    assert_eq!(bind((&list).into()), None);
    assert_eq!(
        block_on(plan.bind(args((&y).into()))).err(),
        Some(BindError::Indices { planned: true })
    );
    let short = noop.buffer(8 * 15);
    let (role, need, have) = (Role::Indices, 8 * 16, 8 * 15);
    assert_eq!(bind((&short).into()), Some(BindError::TooSmall { role, need, have }));
    assert_eq!(bind((&y).into()), Some(BindError::Aliased { role }));
    let dense = MatmulSpec::new(16, 48, 64, format);
    let dense = block_on(MatmulPlan::new(&kernels, &dense, Select::Auto)).unwrap();
    let [wide, output] = [4 * 16 * 64, 4 * 16 * 48].map(|bytes| noop.buffer(bytes));
    let args = MatmulArgs {
        activations: (&wide).into(),
        weights: &weights,
        bias: None,
        output: (&output).into(),
    };
    assert_eq!(
        block_on(dense.bind_experts(args, (&list).into())).err(),
        Some(BindError::Indices { planned: false })
    );
}

fn f32s(op: Op, shape: (usize, usize), values: Values) -> Case {
    let types = (FloatType::F32, FloatType::F32);
    let case = Case::of_x(op, WeightFormat::f32(), types, shape, values);
    Case { strided: false, ..case }
}

/// A case, the number of its kernel among those of the op, a name, and the replacement.
fn faults() -> Vec<(Case, usize, &'static str, Replace)> {
    let format: WeightFormat = "int4-g32".parse().unwrap();
    let types = (FloatType::F32, FloatType::F32);
    let mut matmul = Case::matmul(format, types, (40, 8, 512), Values::Normal);
    (matmul.bias, matmul.strided) = (false, false);
    matmul.op = Op::ExpertMatmul { count: 4, unit: 4 };
    matmul.schedule = Some(Schedule::Rows { m_tile: 4, n_tile: 2 });
    let route = |values| f32s(Op::Route { top: 3, unit: 4, of_all: false }, (20, 40), values);
    let combine = f32s(Op::Combine { top: 3, add: true }, (5, 33), Values::Normal);
    vec![
        (
            matmul.clone(),
            0,
            "a row of X that is not looked up",
            ("select(list[p.list_at + row].x, row, p.own_rows == 1u)", "row"),
        ),
        (
            matmul.clone(),
            0,
            "the expert of the neighbour",
            (
                "let expert = list[p.list_at + row0].y;",
                "let expert = list[p.list_at + row0].y ^ 1u;",
            ),
        ),
        (
            matmul,
            0,
            "rows of no expert that are stored",
            (
                "if (row0 + i < m && list[p.list_at + row0 + i].y == expert) {",
                "if (row0 + i < m) {",
            ),
        ),
        (
            route(Values::Extreme),
            0,
            "the highest of equal logits",
            ("expert == p.experts || of_e > best", "expert == p.experts || of_e >= best"),
        ),
        (
            route(Values::Normal),
            0,
            "a weight that its sum lacks",
            ("sum += weight;", "if (i > 0u) { sum += weight; }"),
        ),
        (
            route(Values::Normal),
            1,
            "runs that start anywhere",
            ("runs[e] = (count + p.unit - 1u) / p.unit * p.unit;", "runs[e] = count;"),
        ),
        (
            route(Values::Normal),
            1,
            "a place that is one further",
            (
                "choices[p.choices_at + 3u * i + 1u] = at;",
                "choices[p.choices_at + 3u * i + 1u] = at + 1u;",
            ),
        ),
        (
            combine.clone(),
            0,
            "the weight of the first choice",
            ("choices[at + 2u]", "choices[p.choices_at + 3u * row * p.top + 2u]"),
        ),
        (combine, 0, "what Y holds dropped", ("sum += load_y2(row_at, n, p.n);", "")),
    ]
}

#[test]
fn each_fault_is_caught() {
    let Some(host) = host() else { return };
    for (case, number, name, (from, to)) in faults() {
        let sound = &run(std::slice::from_ref(host), std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
        // Each fault gets a device of its own, because its kernels are cached there.
        let faulty = [Host::new().unwrap()];
        let (m, k) = (case.m as u32, case.k as u32);
        let shaders: Vec<KernelDesc> = match case.op {
            Op::ExpertMatmul { count, unit } => {
                let experts = Experts { count, x_rows: m / 2 + 3, unit };
                let spec = MatmulSpec::new(m, case.n as u32, k, case.format).with_experts(experts);
                let schedule = case.schedule.unwrap();
                vec![KernelChoice::new(&spec, schedule, faulty[0].kernels().caps()).shader()]
            }
            Op::Route { top, .. } => RouteSpec::new(m, k, top).shaders().into(),
            _ => vec![CombineSpec::new(m, k, 3, 1).shader()],
        };
        caught(&faulty, &case, &shaders[number], (name, from, to));
    }
}
