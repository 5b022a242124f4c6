//! Ranges of activations: JSON that is read, used and written again.

use crate::memory::within;
use lowbit::compress::calibrate::Method;
use lowbit::format::{ActivationFormat, ActivationGranularity};
use lowbit_models::checkpoint::{LayerRanges, Ranges};

pub fn run(data: &[u8]) {
    let Ok(ranges) = within(64, data.len(), || Ranges::from_json(data)) else { return };
    let tensor = ActivationFormat::int8(ActivationGranularity::Tensor);
    let methods = ["minmax", "average", "percentile:99.9", "mse", "entropy"];
    for layer in ranges.layers.values() {
        for method in methods.iter().filter_map(|name| name.parse::<Method>().ok()) {
            for format in [tensor, tensor.asymmetric()] {
                if let Ok(made) = layer.calibrate(method, format) {
                    assert!(made.scheme().check(made.format()).is_ok(), "{made:?}");
                    assert!(made.range().min() <= made.range().max());
                }
            }
        }
        if let LayerRanges::Statistics(statistics) = layer {
            let mut twice = (**statistics).clone();
            if twice.merge(statistics).is_ok() {
                assert_eq!(twice.rows(), 2 * statistics.rows());
            }
            // Files are what more is observed on top of.
            let row: Vec<f32> = (0..statistics.observer().columns().min(64))
                .map(|column| column as f32 - 3.5)
                .collect();
            let _ = twice.observe(&row);
            let _ = statistics.absmax();
        }
    }
    for statistics in ranges.channels.values() {
        let absmax = statistics.absmax();
        assert!(absmax.is_err() || absmax.is_ok_and(|all| all.iter().all(|x| x.is_finite())));
    }
    let text = ranges.to_json().expect("memory for a small text");
    let again = Ranges::from_json(&text);
    assert_eq!(again.as_ref().ok(), Some(&ranges), "{again:?}");
}
