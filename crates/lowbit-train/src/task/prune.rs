//! Pruning while training.

use super::context::{Changes, Context, Run};
use super::{Task, section};
use crate::model::{Mlp, Network};
use crate::prune::{Mask, Pattern, PruneSettings, Pruner, Schedule, masks};
use crate::recipe::{PruneMethod, ScheduleKind};
use crate::report::Row;
use crate::train::{Part, Source, TrainError};
use lowbit::format::WeightFormat;

pub fn run(context: &Context, seed: u64, each: &mut dyn FnMut(Row)) -> Result<(), TrainError> {
    let recipe = section(&context.recipe().prune, Task::Prune)?;
    let train = &context.recipe().train;
    let base = Run::new("prune", "before", seed, "");
    let (dense, _) = context.train(base, context.network(seed), train, Changes::default())?;
    let history = format!("{train:?}");
    let control = Run::new("prune", "dense", seed, &history);
    let (longer, _) = context.train(control, dense.clone(), &recipe.train, Changes::default())?;
    each(context.row(control, &longer, 32.0));
    let steps = recipe.train.steps(context.data().len(Part::Train));
    for method in &recipe.methods {
        let run = Run::new("prune", &method.name, seed, &history);
        let pruner = Some(Pruner::new(settings(method, steps))?);
        let changes = Changes { pruner, ..Changes::default() };
        let (model, _) = context.train(run, dense.clone(), &recipe.train, changes)?;
        each(context.row(run, &model, bits(&model, method.pattern)?));
    }
    Ok(())
}

fn settings(method: &PruneMethod, steps: u32) -> PruneSettings {
    let every = method.every;
    let schedule = match method.schedule {
        ScheduleKind::OneShot => Schedule::OneShot { at: 0 },
        ScheduleKind::Gradual => {
            let to = (f64::from(steps) * method.until.clamp(0.0, 1.0)) as u32;
            Schedule::Gradual { from: 0, to: to.max(1), every }
        }
        ScheduleKind::Constant => Schedule::Constant { from: 0, every },
    };
    PruneSettings {
        pattern: method.pattern,
        scope: method.scope,
        criterion: method.criterion,
        sparsity: method.sparsity,
        schedule,
        dynamic: method.dynamic,
        decay: method.decay,
    }
}

/// Returns the bits that a weight takes: in lowbit's 2:4 layout, or as a mask of one bit a weight and the
/// kept weights as f32.
fn bits(model: &Mlp, pattern: Pattern) -> Result<f64, TrainError> {
    if pattern != (Pattern::NofM { n: 2, m: 4 }) {
        return Ok(1.0 + 32.0 * Mask::left(&masks(model)));
    }
    let (mut bytes, mut weights) = (0, 0);
    for layer in model.layers() {
        let [n, k] = layer.shape();
        bytes += WeightFormat::f32().two_four().geometry(n, k)?.sizes().total();
        weights += n * k;
    }
    Ok(8.0 * bytes as f64 / weights.max(1) as f64)
}
