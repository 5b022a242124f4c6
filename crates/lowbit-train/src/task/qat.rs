//! Quantization after training, and quantization-aware training.

use super::context::{Changes, Context, Run};
use super::{Task, section};
use crate::fake::{FakeFormat, Ranges};
use crate::model::{
    Mlp, Network, QuantizeSettings, average_bits, fold_layers, quantize_for_training, round_weights,
};
use crate::recipe::{QatFormat, QatRecipe};
use crate::report::Row;
use crate::train::TrainError;
use burn::tensor::Tensor;
use lowbit::compress::dequantize;
use lowbit::format::{Granularity, WeightFormat};

pub fn run(context: &Context, seed: u64, each: &mut dyn FnMut(Row)) -> Result<(), TrainError> {
    let recipe = section(&context.recipe().qat, Task::Qat)?;
    let base = Run::new("qat", "dense", seed, "");
    let train = &context.recipe().train;
    let (dense, _) = context.train(base, context.network(seed), train, Changes::default())?;
    each(context.row(base, &dense, 32.0));
    let history = format!("{train:?}");
    if recipe.dense_control {
        let longer = Run::new("qat", "dense-longer", seed, &history);
        let (model, _) = context.train(longer, dense.clone(), &recipe.train, Changes::default())?;
        each(context.row(longer, &model, 32.0));
    }
    let calibration = calibration(context, recipe);
    for format in &recipe.formats {
        let formats = Formats::parse(format)?;
        let name = format!("ptq-{}", format.name);
        each(ptq(
            context,
            Run::new("qat", &name, seed, &history),
            dense.clone(),
            &formats,
            calibration.clone(),
        )?);
        let (name, history) = (format!("qat-{}", format.name), format!("{history} {format:?}"));
        let run = Run::new("qat", &name, seed, &history);
        let settings = formats.settings(format.ranges);
        let model = quantize_for_training(dense.clone(), calibration.clone(), settings);
        let (model, _) = context.train(run, model, &recipe.train, Changes::default())?;
        each(packed(context, run, model)?);
    }
    Ok(())
}

/// Formats of weights and inputs.
struct Formats {
    weights: WeightFormat,
    fake_weights: FakeFormat,
    inputs: Option<FakeFormat>,
}

impl Formats {
    fn parse(format: &QatFormat) -> Result<Self, TrainError> {
        let weights: WeightFormat = format.weights.parse()?;
        let inputs = match &format.inputs {
            None => None,
            Some(name) => {
                let inputs: WeightFormat = name.parse()?;
                if inputs.granularity() != Granularity::Tensor {
                    return Err(TrainError::Recipe(format!(
                        "inputs cannot be quantized to {name}: batches differ in their rows, so that \
                         inputs need one scale for all, for example int4-tensor-asym"
                    )));
                }
                Some(FakeFormat::new(inputs)?)
            }
        };
        Ok(Self { weights, fake_weights: FakeFormat::new(weights)?, inputs })
    }

    fn settings(&self, ranges: Ranges) -> QuantizeSettings {
        QuantizeSettings {
            weights: Some(self.fake_weights),
            inputs: self.inputs,
            weight_ranges: ranges,
            input_ranges: ranges,
        }
    }
}

/// Returns the first training examples, which ranges are fitted to.
fn calibration(context: &Context, recipe: &QatRecipe) -> Tensor<2> {
    let train = &context.data().train;
    let indices: Vec<usize> = (0..train.len().min(recipe.calibration)).collect();
    train.batch(&indices, context.device()).0
}

/// Rounds weights by lowbit's rule, and inputs by ranges fitted to examples.
fn ptq(
    context: &Context,
    run: Run<'_>,
    mut model: Mlp,
    formats: &Formats,
    calibration: Tensor<2>,
) -> Result<Row, TrainError> {
    let packed = round_weights(&mut model, &formats.weights)?;
    let settings = QuantizeSettings { weights: None, ..formats.settings(Ranges::Observed) };
    let model = quantize_for_training(model, calibration, settings);
    Ok(context.row(run, &model, average_bits(packed.iter())))
}

/// Packs the weights, and measures the network with what is packed.
fn packed(context: &Context, run: Run<'_>, mut model: Mlp) -> Result<Row, TrainError> {
    let folded = fold_layers(&model, false)?;
    for (layer, folded) in model.layers_mut().into_iter().zip(&folded) {
        layer.weight_quantizer = None;
        layer.set_weights(dequantize(&folded.weights));
    }
    let bits = average_bits(folded.iter().map(|layer| &layer.weights));
    Ok(context.row(run, &model, bits))
}
