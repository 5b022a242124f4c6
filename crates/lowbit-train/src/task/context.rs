use crate::data::{DataSet, clusters, read_mnist};
use crate::gradients::Workers;
use crate::model::{Mlp, Network};
use crate::prune::{Mask, Pruner, masks};
use crate::recipe::{DataRecipe, Recipe};
use crate::report::Row;
use crate::train::{
    Event, Part, Point, Progress, TrainError, TrainSettings, Trainer, evaluate, peak_bytes,
    reset_peak,
};
use burn::tensor::Device;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::path::PathBuf;

/// Everything that runs of a recipe share.
pub struct Context {
    recipe: Recipe,
    data: DataSet,
    device: Device,
    /// Where checkpoints go.
    work: Option<PathBuf>,
    show_progress: bool,
    curves: RefCell<Vec<Curve>>,
}

/// The evaluations of a run, for plots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The task.
    pub task: String,
    /// The run.
    pub recipe: String,
    /// The seed.
    pub seed: u64,
    /// The fraction of weights that is not pruned.
    pub weights_left: f64,
    /// The evaluations.
    pub points: Vec<Point>,
}

/// A run of a task.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The task.
    pub task: &'static str,
    /// The name in results.
    pub recipe: &'a str,
    /// The seed.
    pub seed: u64,
    /// Everything that the network has gone through before, so that no wrong checkpoint is taken.
    pub history: &'a str,
}

impl<'a> Run<'a> {
    /// Names a run.
    pub fn new(task: &'static str, recipe: &'a str, seed: u64, history: &'a str) -> Self {
        Self { task, recipe, seed, history }
    }
}

/// What changes the training of a run.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Prunes.
    pub pruner: Option<Pruner>,
    /// Compresses gradients.
    pub workers: Option<Workers>,
    /// Ends after this many steps.
    pub limit: Option<u32>,
}

impl Context {
    /// Reads the examples of a recipe. Checkpoints go to the folder `work`, if there is one; runs that were
    /// interrupted go on from there.
    ///
    /// # Errors
    /// Returns [`TrainError::Data`].
    pub fn new(
        recipe: Recipe,
        work: Option<PathBuf>,
        show_progress: bool,
    ) -> Result<Self, TrainError> {
        let data = read(&recipe.data)?;
        let device = Device::flex().autodiff();
        let curves = RefCell::new(Vec::new());
        Ok(Self { recipe, data, device, work, show_progress, curves })
    }

    /// Returns the recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Returns the examples.
    pub fn data(&self) -> &DataSet {
        &self.data
    }

    /// Returns the device, with gradients.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the evaluations of all runs so far.
    pub fn into_curves(self) -> Vec<Curve> {
        self.curves.into_inner()
    }

    /// Creates the network of a seed, before training.
    pub fn network(&self, seed: u64) -> Mlp {
        let mut widths = vec![self.data.train.columns()];
        widths.extend(&self.recipe.hidden);
        widths.push(self.data.classes);
        Mlp::new(seed, &widths, &self.device)
    }

    /// Trains a network, or goes on with it, and returns it with its evaluations.
    ///
    /// # Errors
    /// Returns [`TrainError`].
    pub fn train(
        &self,
        run: Run<'_>,
        model: Mlp,
        settings: &TrainSettings,
        changes: Changes,
    ) -> Result<(Mlp, Progress), TrainError> {
        reset_peak();
        let bar = self.bar(run);
        let mut trainer =
            Trainer::new(model, &self.data, settings.clone(), run.seed, &self.device)?
                .with_observer(|event| show(&bar, event));
        let identity = format!(
            "{run:?} {settings:?} {changes:?} {:?} {:?} lowbit-train {}",
            self.recipe.data,
            self.recipe.hidden,
            env!("CARGO_PKG_VERSION")
        );
        if let Some(pruner) = changes.pruner {
            trainer = trainer.with_pruner(pruner);
        }
        if let Some(workers) = changes.workers {
            trainer = trainer.with_workers(workers);
        }
        if let Some(path) = self.checkpoint(run, changes.limit) {
            trainer = trainer.with_checkpoint(&path, &identity)?;
        }
        trainer.run(changes.limit)?;
        let (model, progress) = trainer.into_parts();
        bar.finish_and_clear();
        // A network that tickets are rewound to is not evaluated.
        if !progress.points.is_empty() {
            self.curves.borrow_mut().push(Curve {
                task: run.task.to_owned(),
                recipe: run.recipe.to_owned(),
                seed: run.seed,
                weights_left: Mask::left(&masks(&model)),
                points: progress.points.clone(),
            });
        }
        Ok((model, progress))
    }

    fn checkpoint(&self, run: Run<'_>, limit: Option<u32>) -> Option<PathBuf> {
        let limit = limit.map_or(String::new(), |limit| format!(".{limit}"));
        let name = format!("{}.{}.{}{limit}.safetensors", run.task, run.recipe, run.seed);
        self.work.as_ref().map(|work| work.join(name.replace(['/', ':'], "_")))
    }

    /// Returns the row of a run whose network is `model`, measured on the test examples.
    pub fn row(&self, run: Run<'_>, model: &Mlp, bits_per_weight: f64) -> Row {
        let accuracy = evaluate(model, &self.data, Part::Test).accuracy;
        self.row_with(run, model, bits_per_weight, accuracy)
    }

    /// Returns the row of a run with an accuracy that was measured before.
    pub fn row_with<N: Network>(
        &self,
        run: Run<'_>,
        model: &N,
        bits_per_weight: f64,
        accuracy: f64,
    ) -> Row {
        Row {
            task: run.task.to_owned(),
            data: self.data.name.clone(),
            recipe: run.recipe.to_owned(),
            seed: run.seed,
            accuracy,
            bits_per_weight,
            weights_left: Mask::left(&masks(model)),
            bytes_sent: 0,
            peak_bytes: peak_bytes().unwrap_or(0),
        }
    }

    fn bar(&self, run: Run<'_>) -> ProgressBar {
        let target = if self.show_progress {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = "{prefix} {wide_bar} {pos}/{len} {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()));
        bar.set_prefix(format!("{} {} seed {}", run.task, run.recipe, run.seed));
        bar
    }
}

fn show(bar: &ProgressBar, event: Event<'_>) {
    match event {
        Event::Step { step, steps, loss } => {
            bar.set_length(u64::from(steps));
            bar.set_position(u64::from(step));
            if step % 50 == 0 {
                bar.set_message(format!("loss {loss:.3}"));
            }
        }
        Event::Evaluated(point) => {
            bar.set_message(format!("accuracy {:.2} %", 100.0 * point.test.accuracy));
        }
    }
}

fn read(recipe: &DataRecipe) -> Result<DataSet, TrainError> {
    let data = match &recipe.folder {
        Some(folder) => read_mnist(folder, &recipe.name)?,
        None => clusters(1, 5, 24, recipe.train.min(2000), recipe.test.min(1000)),
    };
    if recipe.folder.is_none() && recipe.name != data.name {
        return Err(TrainError::Recipe(format!(
            "[data] has the name {:?} and no folder; only `{}` are made up, others need the folder of their files",
            recipe.name, data.name
        )));
    }
    let mut data = data.limited(recipe.train, recipe.test);
    data.name.clone_from(&recipe.name);
    Ok(data.with_validation(recipe.validation))
}
