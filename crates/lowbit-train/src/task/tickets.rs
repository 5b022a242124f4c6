//! Lottery tickets (Frankle and Carbin 2018, arXiv 1803.03635; with rewinding to an early step, 1912.05671).

use super::context::{Changes, Context, Run};
use super::{Task, section};
use crate::model::{Masking, Mlp, Network, numbers};
use crate::prune::{Mask, Pattern, Scope, Scores, masks, select, select_random};
use crate::recipe::TicketsRecipe;
use crate::report::Row;
use crate::train::{Progress, TrainError};

/// What seeds of reinitialized networks differ by from those of tickets.
const OTHER_SEED: u64 = 1 << 32;

pub fn run(context: &Context, seed: u64, each: &mut dyn FnMut(Row)) -> Result<(), TrainError> {
    let recipe = section(&context.recipe().tickets, Task::Tickets)?;
    let train = &context.recipe().train;
    let start = rewound(context, recipe, seed)?;
    let base = Run::new("tickets", "dense", seed, "");
    let (mut trained, progress) = context.train(base, start.clone(), train, Changes::default())?;
    each(row(context, base, &trained, &progress));
    for round in 1..=recipe.rounds {
        let masks = next_masks(&trained, recipe)?;
        let history = format!("{recipe:?} round {round}");
        let train_with = |name: &str, network: &Mlp, masks: &[Mask]| {
            let file = format!("{name}-{round}");
            let stage = Run::new("tickets", &file, seed, &history);
            let (model, progress) =
                context.train(stage, masked(network.clone(), masks), train, Changes::default())?;
            let row = row(context, Run::new("tickets", name, seed, &history), &model, &progress);
            Ok::<_, TrainError>((model, row))
        };
        let (model, ticket) = train_with("ticket", &start, &masks)?;
        each(ticket);
        trained = model;
        if recipe.controls.contains(&round) {
            let random = select_random(&masks, seed);
            each(train_with("random-mask", &start, &random)?.1);
            let other = context.network(seed ^ OTHER_SEED);
            each(train_with("reinit", &other, &masks)?.1);
        }
    }
    Ok(())
}

/// Returns the network that tickets are rewound to.
fn rewound(context: &Context, recipe: &TicketsRecipe, seed: u64) -> Result<Mlp, TrainError> {
    let network = context.network(seed);
    if recipe.rewind_step == 0 {
        return Ok(network);
    }
    let run = Run::new("tickets", "rewind", seed, "");
    let changes = Changes { limit: Some(recipe.rewind_step), ..Changes::default() };
    Ok(context.train(run, network, &context.recipe().train, changes)?.0)
}

fn masked(mut model: Mlp, masks: &[Mask]) -> Mlp {
    for (layer, mask) in model.layers_mut().into_iter().zip(masks) {
        layer.set_mask(mask, Masking::Fixed);
    }
    model
}

/// Prunes a fraction of the weights that are left in each layer, those of least magnitude after training.
fn next_masks(trained: &Mlp, recipe: &TicketsRecipe) -> Result<Vec<Mask>, TrainError> {
    let layers = trained.layers();
    let last = layers.len().saturating_sub(1);
    let scores: Vec<Scores> = layers
        .iter()
        .zip(masks(trained))
        .enumerate()
        .map(|(at, (layer, mask))| {
            let fraction = if at == last { recipe.output_fraction } else { recipe.fraction };
            let left = mask.kept() as f64 * (1.0 - fraction);
            let raw = numbers(layer.weight.val());
            let score =
                |(at, w): (usize, f32)| if mask.keeps(at) { w.abs() } else { f32::NEG_INFINITY };
            let values: Vec<f32> = raw.into_iter().enumerate().map(score).collect();
            let sparsity = (1.0 - left / mask.len().max(1) as f64).clamp(0.0, 1.0);
            Scores { rows: mask.rows(), columns: mask.columns(), values, sparsity }
        })
        .collect();
    Ok(select(&scores, Pattern::Unstructured, Scope::Layer)?)
}

/// Returns a row with the accuracy at the evaluation with the least validation loss, where training would
/// have stopped early, or at the end if there is no validation.
fn row(context: &Context, run: Run<'_>, model: &Mlp, progress: &Progress) -> Row {
    let left = Mask::left(&masks(model));
    let bits = if left < 1.0 { 1.0 + 32.0 * left } else { 32.0 };
    let early =
        if context.data().validation.is_empty() { progress.points.last() } else { progress.best() };
    match early {
        Some(point) => context.row_with(run, model, bits, point.test.accuracy),
        None => context.row(run, model, bits),
    }
}
