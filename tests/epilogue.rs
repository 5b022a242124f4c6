//! Tests of the epilogues of matmuls: the cases of the table with one, and what the table does not vary.

use crate::common::{floats, host, large_and_small, random_weights};
use crate::planted_faults::{Replace, case, caught};
use lowbit::conformance::{Case, Extent, Status, run, table};
use lowbit::format::{ActivationFormat, ActivationFunction, ActivationGranularity, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::{
    Activations, DeviceWeights, Epilogue, FloatType, KernelChoice, MatmulArgs, MatmulPlan,
    MatmulSpec, Output, PlanError, Schedule, Select,
};
use pollster::block_on;

/// The quick cases; a long run takes all of them.
#[test]
fn the_cases_pass() {
    let Some(host) = host() else { return };
    let extent = if crate::common::long() { Extent::Full } else { Extent::Quick };
    let cases = table(extent).into_iter().filter(|case| case.epilogue != Epilogue::None);
    let cases: Vec<Case> = cases.collect();
    assert!(cases.len() > 15, "{}", cases.len());
    let reports = run(std::slice::from_ref(host), &cases, &|_| ());
    for (case, report) in cases.iter().zip(&reports) {
        assert_eq!(report.status, Status::Pass, "{}: {:?}", case.id(), report.reason);
    }
    eprintln!("{} cases", cases.len());
}

#[test]
fn specs_that_no_kernel_serves_are_refused() {
    let format: WeightFormat = "int8-channel".parse().unwrap();
    let spec = MatmulSpec::new(4, 7, 64, format);
    assert_eq!(
        spec.clone().with_epilogue(Epilogue::Gated).check(),
        Err(PlanError::OddGates { n: 7 })
    );
    assert_eq!(spec.clone().with_epilogue(Epilogue::Accumulate).check(), Ok(()));
    let token = ActivationFormat::int8(ActivationGranularity::Token);
    let tensor = ActivationFormat::int8(ActivationGranularity::Tensor);
    let integers = MatmulSpec::new(4, 8, 64, format).with_activations(Activations::Int8(token));
    for output in [Output::Int8(tensor), Output::Accumulators] {
        for epilogue in [Epilogue::Accumulate, Epilogue::Gated] {
            let spec = integers.clone().with_output(output).with_epilogue(epilogue);
            let error = PlanError::EpilogueOutput { epilogue, output };
            assert_eq!(spec.check(), Err(error.clone()));
            assert!(error.to_string().contains(epilogue.name()), "{error}");
        }
    }
    // Strides are those of half the columns.
    let gated = MatmulSpec::new(4, 6, 64, format).with_output(FloatType::F16);
    let gated = gated.with_epilogue(Epilogue::Gated);
    assert_eq!((gated.y_columns(), gated.y_stride, gated.y_batch_stride), (3, 4, 16));
    let short = gated.with_y_strides(2, 16).check();
    assert!(matches!(short, Err(PlanError::Stride { need: 3, .. })), "{short:?}");
}

/// Runs a matmul on Y that holds `old`, and returns Y.
fn multiply(
    host: &Host,
    spec: &MatmulSpec,
    weights: &DeviceWeights,
    x: &[f32],
    old: &[u32],
) -> Vec<u32> {
    let plan = block_on(MatmulPlan::new(host.kernels(), spec, Select::Auto)).unwrap();
    let source = host.storage(bytemuck::cast_slice(x)).unwrap();
    let y = host.storage(old).unwrap();
    let args =
        MatmulArgs { activations: (&source).into(), weights, bias: None, output: (&y).into() };
    let bound = block_on(plan.bind(args)).unwrap();
    host.submit(|pass| bound.record(pass, spec.max_m).unwrap()).unwrap();
    host.read(&y, 0, old.len()).unwrap()
}

/// Rows of W that are split over bindings give what they give in one: pairs stay together, and words of
/// f16 that two parts share get both halves.
#[test]
fn parts_of_w_give_the_same() {
    let hosts = large_and_small(16384, 65535);
    let (m, n, k) = (9u32, 402u32, 200u32);
    let packed = random_weights("int8-g64".parse().unwrap(), n as usize, k as usize, 3);
    let x = floats((m * k) as usize, 5);
    for epilogue in [Epilogue::Accumulate, Epilogue::Gated] {
        for output in [FloatType::F32, FloatType::F16] {
            let results: Vec<_> = hosts
                .iter()
                .map(|host| {
                    let weights = host.upload(&packed).unwrap();
                    let spec = MatmulSpec::of(m, &weights)
                        .with_output(output)
                        .with_function(ActivationFunction::Silu)
                        .with_epilogue(epilogue);
                    let old = vec![0x3c00_3c00; spec.y_bytes(m).div_ceil(4) as usize];
                    (weights.blocks().len(), multiply(host, &spec, &weights, &x, &old))
                })
                .collect();
            if let [(_, whole), (parts, split)] = &results[..] {
                assert!(*parts > 3, "{parts}");
                assert_eq!(whole, split, "{epilogue:?} {output:?}");
            }
        }
    }
}

/// A residual is added once for each recording, and columns past an odd end keep what they hold.
#[test]
fn each_recording_adds_once() {
    let Some(host) = host() else { return };
    let packed = random_weights("f32".parse().unwrap(), 3, 1, 4);
    let weights = host.upload(&packed).unwrap();
    let w: Vec<f32> = packed.codes().iter().map(|&bits| f32::from_bits(bits)).collect();
    let spec = MatmulSpec::of(1, &weights).with_epilogue(Epilogue::Accumulate);
    let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).unwrap();
    let x = host.storage(&[2f32.to_bits(), 0, 0, 0]).unwrap();
    let y = host.storage(&[1f32.to_bits(), 0, 0, 7]).unwrap();
    let args =
        MatmulArgs { activations: (&x).into(), weights: &weights, bias: None, output: (&y).into() };
    let bound = block_on(plan.bind(args)).unwrap();
    host.submit(|pass| bound.record(pass, 1).and(bound.record(pass, 1)).unwrap()).unwrap();
    let got: Vec<f32> = host.read(&y, 0, 3).unwrap().into_iter().map(f32::from_bits).collect();
    for (at, (got, w)) in got.into_iter().zip(w).enumerate() {
        let old = if at == 0 { 1.0 } else { 0.0 };
        assert!((got - (old + 4.0 * w)).abs() <= 1e-6 * (1.0 + w.abs()), "{at}: {got} {w}");
    }
    assert_eq!(host.read(&y, 3, 1).unwrap(), [7]);
}

/// An epilogue, columns that a lane has, the type of Y, a name, and the replacement.
type Fault = (Epilogue, u32, FloatType, &'static str, Replace);

const FAULTS: [Fault; 8] = [
    (
        Epilogue::Gated,
        4,
        FloatType::F32,
        "gate and up swapped",
        ("activate(v.xz) * v.yw", "activate(v.yw) * v.xz"),
    ),
    (
        Epilogue::Gated,
        2,
        FloatType::F32,
        "gate and up swapped, in pairs",
        ("activate(v).x * v.y", "activate(v).y * v.x"),
    ),
    (
        Epilogue::Gated,
        4,
        FloatType::F16,
        "the function applied to both",
        ("activate(v.xz) * v.yw", "activate(v.xz) * activate(v.yw)"),
    ),
    (
        Epilogue::Gated,
        2,
        FloatType::F16,
        "halves of a word swapped",
        ("let shift = (at & 1u) * 16u;", "let shift = (~at & 1u) * 16u;"),
    ),
    (
        Epilogue::Gated,
        4,
        FloatType::F32,
        "columns that are not halved",
        ("store_y1_pair(row_at + n / 2u, out);", "store_y1_pair(row_at + n / 4u, out);"),
    ),
    (
        Epilogue::Accumulate,
        4,
        FloatType::F32,
        "what Y holds dropped",
        ("activate(v) + load_y2(row_at, n, end)", "activate(v)"),
    ),
    (
        Epilogue::Accumulate,
        2,
        FloatType::F16,
        "what the neighbours hold added",
        ("load_y2(row_at, n, end)", "load_y2(row_at, n ^ 2u, end)"),
    ),
    (
        Epilogue::Accumulate,
        2,
        FloatType::F32,
        "the function applied after the sum",
        ("activate(v) + load_y2(row_at, n, end)", "activate(v + load_y2(row_at, n, end))"),
    ),
];

#[test]
fn each_fault_is_caught() {
    let Some(host) = host() else { return };
    for (epilogue, n_tile, output, name, (from, to)) in FAULTS {
        let format: WeightFormat = "int8-channel".parse().unwrap();
        let schedule = Schedule::Rows { m_tile: 1, n_tile };
        let mut case = case(format);
        (case.epilogue, case.output, case.schedule) = (epilogue, output, Some(schedule));
        case.function = ActivationFunction::Silu;
        let sound = &run(std::slice::from_ref(host), std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
        // Each fault gets a device of its own, because its kernels are cached there.
        let faulty = [Host::new().unwrap()];
        let spec = MatmulSpec::new(1, 8, 4096, format)
            .with_output(output)
            .with_function(case.function)
            .with_epilogue(epilogue);
        let shader = KernelChoice::new(&spec, schedule, faulty[0].kernels().caps()).shader();
        caught(&faulty, &case, &shader, (name, from, to));
    }
}
