use super::{
    Checkpoint, OptimizerKind, Part, Progress, TrainError, TrainSettings, Trainer, evaluate,
};
use crate::data::{DataSet, clusters};
use crate::fake::{FakeFormat, Ranges};
use crate::gradients::{Method, Qsgd, Workers};
use crate::model::{Mlp, Network, QuantizeSettings, numbers, quantize_for_training};
use crate::prune::{Criterion, Mask, Pattern, PruneSettings, Pruner, Schedule, Scope, masks};
use burn::tensor::Device;
use std::path::Path;

fn device() -> Device {
    Device::flex().autodiff()
}

fn data() -> DataSet {
    clusters(3, 4, 10, 240, 100).with_validation(40)
}

fn settings() -> TrainSettings {
    TrainSettings {
        batch: 20,
        epochs: 3,
        rate: 5e-3,
        evaluate_every: 7,
        checkpoint_every: 4,
        ..TrainSettings::default()
    }
}

fn network() -> Mlp {
    Mlp::new(1, &[10, 16, 4], &device())
}

fn pruning(dynamic: bool) -> PruneSettings {
    PruneSettings {
        pattern: Pattern::Unstructured,
        scope: Scope::Global,
        criterion: Criterion::Magnitude,
        sparsity: 0.75,
        schedule: Schedule::Gradual { from: 5, to: 20, every: 5 },
        dynamic,
        decay: 0.0,
    }
}

/// All numbers that training changes.
fn weights(model: &Mlp) -> Vec<f32> {
    let layers = model.layers();
    layers
        .into_iter()
        .flat_map(|layer| {
            let quantizer = layer.weight_quantizer.iter().chain(&layer.input_quantizer);
            let scales = quantizer.flat_map(|quantizer| numbers(quantizer.scales.val()));
            let scales: Vec<f32> = scales.collect();
            [layer.raw_weights(), numbers(layer.bias.val()), layer.mask().to_floats(), scales]
        })
        .flatten()
        .collect()
}

type Build<'a> = &'a dyn Fn(Option<&Path>) -> Trainer<'a, Mlp, DataSet>;

/// Trains without a stop, and with one after `stop` steps.
fn stopped_and_not(build: Build<'_>, stop: u32) -> [(Vec<f32>, Progress); 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let end = |mut trainer: Trainer<'_, Mlp, DataSet>| {
        trainer.run(None).unwrap();
        let (model, progress) = trainer.into_parts();
        (weights(&model), progress)
    };
    build(Some(&path)).run(Some(stop)).unwrap();
    let resumed = build(Some(&path));
    let last = stop / 4 * 4;
    assert_eq!(resumed.progress().step, last);
    let mut whole = end(build(None));
    let resumed = end(resumed);
    whole.1.identity.clone_from(&resumed.1.identity);
    [whole, resumed]
}

fn check_resumption(
    data: &DataSet,
    change: impl Fn(Trainer<'_, Mlp, DataSet>) -> Trainer<'_, Mlp, DataSet>,
) {
    // After a checkpoint, between two, and in another epoch.
    for stop in [8, 11, 17] {
        let build = |path: Option<&Path>| {
            let trainer = Trainer::new(network(), data, settings(), 7, &device()).unwrap();
            let trainer = change(trainer);
            match path {
                None => trainer,
                Some(path) => trainer.with_checkpoint(path, "a test").unwrap(),
            }
        };
        let [whole, resumed] = stopped_and_not(&build, stop);
        assert!(whole == resumed, "training that stopped after {stop} steps ended differently");
        assert_eq!(whole.1.step, 30);
    }
}

#[test]
fn training_goes_on_to_the_same_result() {
    check_resumption(&data(), |trainer| trainer);
}

#[test]
fn pruning_goes_on_to_the_same_result() {
    for dynamic in [false, true] {
        for criterion in [Criterion::Magnitude, Criterion::Movement] {
            check_resumption(&data(), |trainer| {
                let settings = PruneSettings { criterion, decay: 1e-3, ..pruning(dynamic) };
                trainer.with_pruner(Pruner::new(settings).unwrap())
            });
        }
    }
}

#[test]
fn compressed_gradients_go_on_to_the_same_result() {
    for method in [Method::Sign, Method::Qsgd(Qsgd::new(4)), Method::PowerSgd { rank: 1 }] {
        check_resumption(&data(), |trainer| {
            trainer.with_workers(Workers::new(method, true, 5, 2).unwrap())
        });
    }
}

/// The first layer has enough weights for moments of 8 bits, the second has not.
#[test]
fn eight_bit_moments_learn_and_go_on_to_the_same_result() {
    let data = data();
    let settings = TrainSettings { optimizer: OptimizerKind::Adam8, ..settings() };
    let build = |path: Option<&Path>| {
        let model = Mlp::new(1, &[10, 410, 4], &device());
        let trainer = Trainer::new(model, &data, settings.clone(), 7, &device()).unwrap();
        match path {
            None => trainer,
            Some(path) => trainer.with_checkpoint(path, "a test").unwrap(),
        }
    };
    let [whole, resumed] = stopped_and_not(&build, 11);
    assert!(whole == resumed);
    let last = whole.1.points.last().unwrap();
    assert!(last.test.accuracy > 0.8, "{last:?}");
}

#[test]
fn networks_learn() {
    let data = data();
    let before = evaluate(&network(), &data, Part::Test);
    let settings = TrainSettings { epochs: 20, evaluate_every: 60, ..settings() };
    let mut trainer = Trainer::new(network(), &data, settings, 7, &device()).unwrap();
    trainer.run(None).unwrap();
    let after = evaluate(trainer.model(), &data, Part::Test);
    assert!(after.loss < before.loss / 2.0 && after.accuracy > 0.9, "{before:?} {after:?}");
    let points = &trainer.progress().points;
    let steps: Vec<_> = points.iter().map(|point| point.step).collect();
    assert_eq!(steps, [60, 120, 180, 200]);
    assert_eq!(points[3].test, after);
}

/// Seeds decide everything: the same ones repeat, others differ.
#[test]
fn seeds_repeat() {
    let data = data();
    let run = |seed| {
        let mut trainer = Trainer::new(network(), &data, settings(), seed, &device()).unwrap();
        trainer.run(Some(5)).unwrap();
        weights(trainer.model())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn training_stops_early() {
    let data = data();
    // Validation losses of nonsense labels rise soon.
    let mut hard = data.clone();
    let labels: Vec<u8> = (0..40).map(|at| (at * 7 % 4) as u8).collect();
    let rows = (0..40).flat_map(|at| data.validation.row(at).to_vec()).collect();
    hard.validation = crate::data::Examples::new(rows, 10, labels).unwrap();
    let settings = TrainSettings { epochs: 50, patience: 2, ..settings() };
    let mut trainer = Trainer::new(network(), &hard, settings, 7, &device()).unwrap();
    trainer.run(None).unwrap();
    let progress = trainer.progress();
    assert!(progress.stopped && progress.step < 500, "{}", progress.step);
    let best = progress.best().unwrap();
    let later = progress.points.iter().filter(|point| point.step > best.step);
    assert_eq!(later.count(), 2);
}

/// With plain messages, the mean of four ranks' gradients is that of the whole batch up to rounding: sums of
/// at most 20 products, each off by 2⁻²⁴ of magnitudes that are below 10 here.
#[test]
fn plain_ranks_are_one() {
    let data = data();
    let settings = TrainSettings { optimizer: OptimizerKind::Sgd, rate: 1.0, ..settings() };
    let run = |ranks: Option<u32>| {
        let trainer = Trainer::new(network(), &data, settings.clone(), 7, &device()).unwrap();
        let mut trainer = match ranks {
            None => trainer,
            Some(ranks) => {
                trainer.with_workers(Workers::new(Method::Plain, false, 5, ranks).unwrap())
            }
        };
        trainer.run(Some(1)).unwrap();
        (weights(trainer.model()), trainer.progress().bytes_sent)
    };
    let ((one, none), (four, sent)) = (run(None), run(Some(4)));
    let off = one.iter().zip(&four).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 20.0 * 10.0 * f32::EPSILON, "{off}");
    // Weights and biases, and no masks.
    assert_eq!((none, sent), (0, 4 * (10 * 16 + 16 + 16 * 4 + 4)));
    let mut trainer = Trainer::new(network(), &data, settings, 7, &device()).unwrap();
    trainer = trainer.with_workers(Workers::new(Method::Plain, false, 5, 21).unwrap());
    let error = trainer.run(Some(1)).unwrap_err().to_string();
    assert!(error.contains("20 examples") && error.contains("21 ranks"), "{error}");
}

#[test]
fn static_masks_stay_and_dynamic_ones_move() {
    let data = data();
    for dynamic in [false, true] {
        let settings = settings();
        let mut trainer = Trainer::new(network(), &data, settings, 7, &device()).unwrap();
        trainer = trainer.with_pruner(Pruner::new(pruning(dynamic)).unwrap());
        trainer.run(Some(15)).unwrap();
        let early = masks(trainer.model());
        trainer.run(None).unwrap();
        let late = masks(trainer.model());
        assert!((Mask::left(&late) - 0.25).abs() < 1.0 / 224.0, "{}", Mask::left(&late));
        let both: Vec<Mask> = early.iter().zip(&late).map(|(a, b)| a.and(b)).collect();
        let came_back = both != late;
        for (layer, mask) in trainer.model().layers().into_iter().zip(&late) {
            let masked = layer.masked_weights();
            assert!((0..mask.len()).all(|at| mask.keeps(at) || masked[at] == 0.0));
            let alive = layer.raw_weights().iter().zip(&masked).any(|(raw, masked)| raw != masked);
            assert!(alive || !dynamic);
        }
        assert!(!came_back || dynamic, "a pruned weight came back");
    }
}

/// SR-STE adds λ times the pruned weights to the gradient, and nothing for kept ones.
#[test]
fn pruned_weights_decay() {
    use burn::optim::GradientsParams;
    use burn::tensor::Tensor;
    let mut model = network();
    let mask = Mask::new(16, 10, |at| at % 4 != 0);
    model.layers_mut()[0].set_mask(&mask, crate::model::Masking::Through);
    let layer = model.layers()[0].clone();
    let mut gradients = GradientsParams::new();
    gradients.register(layer.weight.id, Tensor::<2>::ones([16, 10], &Device::flex()));
    let settings = PruneSettings { decay: 0.5, ..pruning(true) };
    Pruner::new(settings).unwrap().see_gradients(&model, &mut gradients);
    let got = numbers(gradients.get::<2>(layer.weight.id).unwrap());
    for (at, (got, w)) in got.into_iter().zip(layer.raw_weights()).enumerate() {
        let want = if mask.keeps(at) { 1.0 } else { 1.0 + 0.5 * w };
        assert_eq!(got, want);
    }
}

#[test]
fn learned_scales_learn_and_checkpoints_keep_them() {
    let data = data();
    let format = |name: &str| Some(FakeFormat::new(name.parse().unwrap()).unwrap());
    let quantize = QuantizeSettings {
        weights: format("int2-channel"),
        inputs: format("int4-tensor-asym"),
        weight_ranges: Ranges::Learned,
        input_ranges: Ranges::Learned,
    };
    let (input, _) = data.train.batch(&[0, 1, 2, 3, 4, 5, 6, 7], &device());
    let model = quantize_for_training(network(), input, quantize);
    let before = weights(&model);
    let build = |path: Option<&Path>| {
        let trainer = Trainer::new(model.clone(), &data, settings(), 7, &device()).unwrap();
        match path {
            None => trainer,
            Some(path) => trainer.with_checkpoint(path, "a test").unwrap(),
        }
    };
    let [whole, resumed] = stopped_and_not(&build, 11);
    assert!(whole == resumed);
    // 16 + 1 scales come after the weights, the bias and the mask of the first layer.
    let scales = 160 + 16 + 160..160 + 16 + 160 + 17;
    assert!(scales.clone().all(|at| whole.0[at] != before[at]), "some scales did not learn");
    // Fixed scales do not change.
    let fixed = QuantizeSettings {
        weight_ranges: Ranges::Observed,
        input_ranges: Ranges::Observed,
        ..quantize
    };
    let (input, _) = data.train.batch(&[0, 1, 2, 3, 4, 5, 6, 7], &device());
    let model = quantize_for_training(network(), input, fixed);
    let before = weights(&model);
    let mut trainer = Trainer::new(model, &data, settings(), 7, &device()).unwrap();
    trainer.run(Some(3)).unwrap();
    let after = weights(trainer.model());
    assert!(scales.clone().all(|at| after[at] == before[at]));
    assert_ne!(after[..160], before[..160]);
}

#[test]
fn wrong_checkpoints_are_refused() {
    let (data, folder) = (data(), tempfile::tempdir().unwrap());
    let path = folder.path().join("checkpoint.safetensors");
    let build = |identity: &str| {
        let trainer = Trainer::new(network(), &data, settings(), 7, &device()).unwrap();
        trainer.with_checkpoint(&path, identity)
    };
    build("first").unwrap().run(Some(4)).unwrap();
    let error = build("second").map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("other training") && error.contains("delete it"), "{error}");
    let whole = std::fs::read(&path).unwrap();
    for bytes in [&[][..], &whole[..whole.len() / 2], &whole[1..]] {
        std::fs::write(&path, bytes).unwrap();
        let error = build("first").map(|_| ()).unwrap_err();
        assert!(matches!(error, TrainError::Checkpoint { .. }), "{error}");
    }
    let mut checkpoint = Checkpoint { progress: "{}".into(), ..Checkpoint::default() };
    checkpoint.write(&path).unwrap();
    assert!(build("first").is_err());
    checkpoint.floats = vec![("a".into(), vec![1.5, -2.0])];
    checkpoint.write(&path).unwrap();
    let read = Checkpoint::read(&path).unwrap().unwrap();
    assert_eq!(read.floats_of("a"), Some(&[1.5, -2.0][..]));
    assert!(Checkpoint::read(Path::new("/nowhere/at/all")).unwrap().is_none());
}

#[test]
fn diverged_training_is_an_error() {
    let data = data();
    let settings = TrainSettings { optimizer: OptimizerKind::Sgd, rate: 1e30, ..settings() };
    let mut trainer = Trainer::new(network(), &data, settings, 7, &device()).unwrap();
    let error = trainer.run(None).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
}
