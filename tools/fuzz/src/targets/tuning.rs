//! Tunings: JSON in a file that is read, consulted, and written again.

use crate::memory::within;
use lowbit::gpu::{AdapterClass, Caps};
use lowbit::ops::MatmulSpec;
use lowbit::ops::matmul::{TuningKey, applies};
use lowbit_models::checkpoint::{load_tuning, save_tuning};
use wgpu::Limits;

/// The key that seeds have; what is measured elsewhere is refused before it is looked at.
pub fn key() -> TuningKey {
    let of = |name: &str| name.to_owned();
    let version = of("0.1.0");
    TuningKey { adapter: of("A [1:2]"), backend: of("Vulkan"), driver: of("1"), version }
}

pub fn caps() -> Caps {
    Caps::from_limits(AdapterClass::Cpu, &Limits::defaults())
}

pub fn run(data: &[u8]) {
    let path = super::pipelines::scratch("tuning", data);
    let (key, caps) = (key(), caps());
    let Ok(tuning) = within(64, data.len(), || load_tuning(&path, &key, &caps)) else { return };
    assert_eq!(tuning.key, key);
    for (problem, schedule) in &tuning.entries {
        assert!(applies(*schedule, problem.activations, problem.k, &caps));
        for weights in ["int8-channel", "2:4+int4-g64-asym"] {
            let Ok(weights) = weights.parse() else { continue };
            let spec = MatmulSpec::new(problem.m, problem.n, problem.k, weights)
                .with_activations(problem.activations);
            let chosen = tuning.select(&spec, &caps, problem.m);
            assert!(chosen.check(&caps).is_ok(), "{chosen}");
        }
    }
    save_tuning(&path, &tuning).expect("a small file");
    let again = load_tuning(&path, &key, &caps);
    assert_eq!(again.as_ref().ok(), Some(&tuning), "{again:?}");
}
