//! Compares the versions, backends, features and limits that docs/compatibility.md states, and the numbers of
//! cases and kernels that other pages state, with the files and tables that they come from.

use lowbit::conformance::{Extent, table};
use lowbit::gpu::Caps;
use lowbit::ops;
use std::collections::HashMap;

const PAGE: &str = include_str!("../docs/compatibility.md");
const MANIFEST: &str = include_str!("../Cargo.toml");
const CLI: &str = include_str!("../crates/lowbit-cli/Cargo.toml");
const LOCK: &str = include_str!("../Cargo.lock");
const CANDLE: &str = include_str!("../tools/candle/Cargo.toml");
const CANDLE_LOCK: &str = include_str!("../tools/candle/Cargo.lock");
const WORKFLOW: &str = include_str!("../.github/workflows/verify.yml");

/// The cells of the row whose first cell is `name`, without backticks.
fn row(name: &str) -> Vec<String> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_matches('|');
        line.split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let mut rows = PAGE.lines().filter(|line| line.starts_with('|')).map(cells);
    rows.find(|row| row[0] == name).unwrap_or_else(|| panic!("no row {name} in the page"))
}

/// The version of a package in a lock file.
fn locked<'a>(lock: &'a str, package: &str) -> &'a str {
    let head = format!("name = \"{package}\"\nversion = \"");
    let (_, rest) = lock.split_once(&head).unwrap_or_else(|| panic!("{package} is not locked"));
    rest.split_once('"').unwrap().0
}

/// The text between the first quotes of the line that begins with `key =`.
fn stated<'a>(manifest: &'a str, key: &str) -> &'a str {
    let mut lines = manifest.lines();
    let line = lines.find(|line| line.starts_with(&format!("{key} = "))).unwrap();
    line.split('"').nth(1).unwrap()
}

#[test]
fn versions_are_those_of_the_manifest() {
    let rust = stated(MANIFEST, "rust-version");
    assert_eq!(row("Rust")[1], format!("{rust} or later"));
    assert!(PAGE.contains(&format!("became stable up to {rust}")));
    for package in ["wgpu", "naga"] {
        let cells = row(package);
        assert_eq!(cells[1], stated(MANIFEST, package));
        let version = locked(LOCK, package);
        assert!(cells[2].contains(&format!("{version} is what is tested")), "{package} {version}");
        // Both must use the same wgpu, so that a device of one is a device of the other.
        assert_eq!(version, locked(CANDLE_LOCK, package));
    }
    let candle = stated(CANDLE, "candle-core").trim_start_matches('=');
    assert_eq!(row("candle-core")[1], candle);
    assert_eq!(locked(CANDLE_LOCK, "candle-core"), candle);
    assert!(!LOCK.contains("candle"), "candle is a dependency of the crate");
}

#[test]
fn every_backend_has_a_row() {
    let default = MANIFEST.lines().find(|line| line.starts_with("default = [")).unwrap();
    let backends: Vec<&str> = default.split('"').skip(1).step_by(2).collect();
    assert!(backends.len() >= 4, "{backends:?}");
    for backend in backends {
        // Each default feature is one of wgpu's backends.
        assert!(MANIFEST.contains(&format!("\n{backend} = [\"wgpu/{backend}\"]\n")), "{backend}");
        assert!(CLI.contains(&format!("\"{backend}\"")), "the command lacks {backend}");
        assert!(row(backend).len() == 4);
    }
    row("browser");
    assert!(WORKFLOW.contains("NOT YET RUN") == row("metal")[2].contains("never run"));
}

#[test]
fn every_feature_asked_for_has_a_row() {
    for (name, _) in Caps::useful_features().iter_names() {
        assert!(row(name)[1].contains("useful_features"), "{name}");
    }
    let asked =
        PAGE.matches("| useful_features |").count() + PAGE.matches("| `useful_features` |").count();
    assert_eq!(asked, Caps::useful_features().iter_names().count());
    for name in ["TIMESTAMP_QUERY", "PIPELINE_CACHE", "EXPERIMENTAL_COOPERATIVE_MATRIX"] {
        assert!(wgpu::Features::from_name(name).is_some());
        row(name);
    }
}

/// What an engine keeps has no lifetime and can be sent to other threads.
#[test]
fn what_an_engine_keeps_is_owned() {
    fn kept<T: Clone + Send + Sync + 'static>() {}
    kept::<Caps>();
    kept::<lowbit::gpu::Kernels>();
    kept::<ops::DeviceWeights>();
    kept::<(ops::MatmulSpec, ops::MatmulPlan, ops::BoundMatmul, ops::KernelChoice)>();
    kept::<(
        ops::QuantizeActivationsSpec,
        ops::QuantizeActivationsPlan,
        ops::BoundQuantizeActivations,
    )>();
    kept::<(ops::PermuteColumnsSpec, ops::PermuteColumnsPlan, ops::BoundPermuteColumns)>();
    kept::<(ops::GateSpec, ops::GatePlan, ops::BoundGate)>();
    kept::<(ops::SampleSpec, ops::SamplePlan, ops::BoundSample)>();
    kept::<(ops::SoftmaxSpec, ops::SoftmaxPlan, ops::BoundSoftmax)>();
    kept::<(ops::AttentionSpec, ops::AttentionPlan, ops::BoundAttention)>();
    kept::<(ops::RotarySpec, ops::RotaryPlan, ops::BoundRotary)>();
    kept::<(ops::HadamardSpec, ops::HadamardPlan, ops::BoundHadamard)>();
    kept::<(ops::PositionsSpec, ops::PositionsPlan, ops::BoundPositions)>();
    kept::<(ops::RouteSpec, ops::RoutePlan, ops::BoundRoute)>();
    kept::<(ops::CombineSpec, ops::CombinePlan, ops::BoundCombine)>();
    kept::<(ops::NormSpec, ops::NormPlan, ops::BoundNorm)>();
    kept::<(ops::DequantizeSpec, ops::DequantizePlan, ops::BoundDequantize)>();
    kept::<(ops::RepackSpec, ops::RepackPlan, ops::BoundRepack)>();
    kept::<(ops::QuantizeWeightsSpec, ops::QuantizeWeightsPlan, ops::BoundQuantizeWeights)>();
    kept::<(ops::ObserveSpec, ops::ObservePlan, ops::BoundObserve)>();
    kept::<(ops::FakeQuantSpec, ops::FakeQuantPlan, ops::BoundFakeQuant)>();
    kept::<ops::BoundFakeQuantBackward>();
    kept::<(ops::GramSpec, ops::GramPlan, ops::BoundGram)>();
    kept::<(ops::FactorSpec, ops::FactorPlan, ops::BoundFactor)>();
    kept::<(ops::ColumnsSpec, ops::ColumnsPlan, ops::BoundColumns)>();
    kept::<(ops::ProductSpec, ops::ProductPlan, ops::BoundProduct)>();
}

#[test]
fn limits_are_webgpus_and_the_shaders() {
    let limits = wgpu::Limits::defaults();
    let defaults = HashMap::from([
        (
            "max_storage_buffers_per_shader_stage",
            u64::from(limits.max_storage_buffers_per_shader_stage),
        ),
        (
            "max_compute_invocations_per_workgroup",
            limits.max_compute_invocations_per_workgroup.into(),
        ),
        ("max_compute_workgroup_storage_size", limits.max_compute_workgroup_storage_size.into()),
        (
            "max_compute_workgroups_per_dimension",
            limits.max_compute_workgroups_per_dimension.into(),
        ),
        ("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size),
        ("max_buffer_size", limits.max_buffer_size),
        ("min_storage_buffer_offset_alignment", limits.min_storage_buffer_offset_alignment.into()),
        ("min_uniform_buffer_offset_alignment", limits.min_uniform_buffer_offset_alignment.into()),
    ]);
    for (name, value) in defaults {
        assert_eq!(row(name)[1], value.to_string(), "{name}");
    }
    let kernels = crate::common::kernels();
    let most = |any: bool| {
        let some = kernels.iter().filter(|kernel| any || kernel.choice().is_some());
        some.map(|kernel| kernel.desc().storage_buffers()).max()
    };
    let (matmul, any) = (most(false), most(true));
    let said = format!("{} for a matmul, at most {} for any", matmul.unwrap(), any.unwrap());
    let need = &row("max_storage_buffers_per_shader_stage")[2];
    assert!(need.starts_with(&said), "{said} kernel, and the page says: {need}");
}

/// The pages say how many cases there are, in hundreds, and how many kernels, in ten thousands.
#[test]
fn counts_are_those_of_the_tables() {
    let cases = table(Extent::Full).len() / 100;
    let cases = format!("{},{}00 cases", cases / 10, cases % 10);
    for (name, page) in [
        ("docs/testing.md", include_str!("../docs/testing.md")),
        ("docs/testing-a-driver.md", include_str!("../docs/testing-a-driver.md")),
        ("Makefile", include_str!("../Makefile")),
    ] {
        assert_eq!(page.matches(&cases).count(), 1, "{name} must say {cases}");
        assert_eq!(page.matches("00 cases").count(), 1, "{name} says {cases} and another number");
    }
    let kernels = crate::common::kernels().len() / 10_000;
    let kernels = format!("(some {kernels}0,000)");
    assert!(include_str!("../docs/testing-a-driver.md").contains(&kernels), "{kernels}");
}
