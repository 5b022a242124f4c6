//! Training with ranks that exchange compressed gradients.

use super::context::{Changes, Context, Run};
use super::{Task, section};
use crate::gradients::{Method, Qsgd, Workers};
use crate::recipe::GradientsRecipe;
use crate::report::Row;
use crate::train::TrainError;

pub fn run(context: &Context, seed: u64, each: &mut dyn FnMut(Row)) -> Result<(), TrainError> {
    let recipe = section(&context.recipe().gradients, Task::Gradients)?;
    for name in &recipe.methods {
        let (method, feedback) = method(name, recipe)?;
        let run = Run::new("gradients", name, seed, "");
        let workers = Some(Workers::new(method, feedback, seed, recipe.ranks)?);
        let changes = Changes { workers, ..Changes::default() };
        let (model, progress) =
            context.train(run, context.network(seed), &recipe.train, changes)?;
        each(Row { bytes_sent: progress.bytes_sent, ..context.row(run, &model, 32.0) });
    }
    Ok(())
}

/// Returns the method of a name, and whether it has error feedback.
fn method(name: &str, recipe: &GradientsRecipe) -> Result<(Method, bool), TrainError> {
    let (base, feedback) = match name.strip_suffix("-ef") {
        Some(base) => (base, true),
        None => (name, false),
    };
    let qsgd = |bits| Method::Qsgd(Qsgd { bits, bucket: recipe.bucket });
    let method = match base {
        "f32" => Method::Plain,
        "qsgd8" => qsgd(8),
        "qsgd4" => qsgd(4),
        "qsgd2" => qsgd(2),
        "sign" => Method::Sign,
        "top" => Method::TopK { fraction: recipe.top },
        "power" => Method::PowerSgd { rank: recipe.power },
        _ => {
            return Err(TrainError::Recipe(format!(
                "{name:?} is no method to compress gradients by: there are f32, qsgd8, qsgd4, qsgd2, sign, \
                 top and power, with -ef for error feedback"
            )));
        }
    };
    Ok((method, feedback))
}
