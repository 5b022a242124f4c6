use super::checkpoint::damaged;
use super::reduce::{reduce, tensors};
use super::{Checkpoint, Part, Score, Source, TrainError, TrainSettings, evaluate};
use crate::data::Batches;
use crate::gradients::Workers;
use crate::model::{CompressedLinear, Masking, Network, numbers};
use crate::prune::Pruner;
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// An evaluation while training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps so far.
    pub step: u32,
    /// The mean loss of the steps since the last evaluation.
    pub train_loss: f64,
    /// On the validation examples.
    pub validation: Score,
    /// On the test examples. Nothing is decided by it.
    pub test: Score,
}

/// Where training is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The thing that is trained, so that a checkpoint of something else is not taken.
    pub identity: String,
    /// Steps so far.
    pub step: u32,
    /// Evaluations so far.
    pub points: Vec<Point>,
    /// The sum of losses since the last evaluation, and their number.
    pub losses: (f64, u32),
    /// Whether early stopping has ended training.
    pub stopped: bool,
    /// Bytes that a rank has sent so far.
    pub bytes_sent: u64,
    /// How each layer is masked, which burn's records do not hold. It is filled in for checkpoints.
    masking: Vec<Masking>,
}

impl Progress {
    /// Returns the evaluation with the least validation loss, which early stopping would choose.
    pub fn best(&self) -> Option<&Point> {
        self.points.iter().min_by(|a, b| a.validation.loss.total_cmp(&b.validation.loss))
    }

    fn should_stop(&self, patience: u32) -> bool {
        let best = self.best().map_or(0, |best| best.step);
        let since = self.points.iter().filter(|point| point.step > best).count();
        patience > 0 && since >= patience as usize
    }
}

/// A report while training.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step {
        /// Steps so far.
        step: u32,
        /// Steps in all.
        steps: u32,
        /// The loss.
        loss: f32,
    },
    /// An evaluation is done.
    Evaluated(&'a Point),
}

/// Trains a network.
pub struct Trainer<'a, N: Network, S> {
    settings: TrainSettings,
    seed: u64,
    source: &'a S,
    device: Device,
    criterion: CrossEntropyLoss,
    model: N,
    optimizer: ModuleOptimizer,
    pruner: Option<Pruner>,
    workers: Option<Workers>,
    progress: Progress,
    checkpoint: Option<PathBuf>,
    observer: Box<dyn FnMut(Event<'_>) + 'a>,
}

impl<'a, N, S> Trainer<'a, N, S>
where
    N: Network,
    S: Source<Input = N::Input>,
{
    /// Creates a trainer of a network whose parameters are on an autodiff device. `seed` selects the
    /// order of examples.
    ///
    /// # Errors
    /// Returns [`TrainError::Recipe`] if settings are out of range.
    pub fn new(
        model: N,
        source: &'a S,
        settings: TrainSettings,
        seed: u64,
        device: &Device,
    ) -> Result<Self, TrainError> {
        settings.check()?;
        Ok(Self {
            optimizer: settings.optimizer(),
            criterion: CrossEntropyLossConfig::new().init(device),
            settings,
            seed,
            source,
            device: device.clone(),
            model,
            pruner: None,
            workers: None,
            progress: Progress::default(),
            checkpoint: None,
            observer: Box::new(|_| {}),
        })
    }

    /// Prunes while training.
    #[must_use]
    pub fn with_pruner(mut self, pruner: Pruner) -> Self {
        self.pruner = Some(pruner);
        self
    }

    /// Cuts every batch into one part for each rank, and averages their compressed gradients.
    #[must_use]
    pub fn with_workers(mut self, workers: Workers) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Reports what happens.
    #[must_use]
    pub fn with_observer(mut self, observer: impl FnMut(Event<'_>) + 'a) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// Writes checkpoints to a file, and goes on from there if it exists. `identity` must say everything
    /// that the result depends on.
    ///
    /// # Errors
    /// Returns [`TrainError::Checkpoint`] if the file is damaged or of other training, and
    /// [`TrainError::File`].
    pub fn with_checkpoint(mut self, path: &Path, identity: &str) -> Result<Self, TrainError> {
        self.progress.identity = identity.to_owned();
        if let Some(checkpoint) = Checkpoint::read(path)? {
            self.restore(&checkpoint, path)?;
        }
        self.checkpoint = Some(path.to_owned());
        Ok(self)
    }

    /// Returns the network.
    pub fn model(&self) -> &N {
        &self.model
    }

    /// Returns where training is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Returns the network and where training is.
    pub fn into_parts(self) -> (N, Progress) {
        (self.model, self.progress)
    }

    /// Returns the number of steps in all.
    pub fn steps(&self) -> u32 {
        self.settings.steps(self.source.len(Part::Train))
    }

    /// Trains to the end, or until `limit` steps are done in all, or until early stopping ends it.
    ///
    /// # Errors
    /// Returns [`TrainError`].
    pub fn run(&mut self, limit: Option<u32>) -> Result<(), TrainError> {
        let per_epoch = self.settings.steps_per_epoch(self.source.len(Part::Train));
        let steps = self.steps();
        let last = limit.map_or(steps, |limit| limit.min(steps));
        if let (0, Some(pruner)) = (self.progress.step, &self.pruner) {
            pruner.after_step(&mut self.model, 0)?;
        }
        let mut batches: Option<(u32, Batches)> = None;
        while self.progress.step < last && !self.progress.stopped {
            let (epoch, at) =
                (self.progress.step / per_epoch, (self.progress.step % per_epoch) as usize);
            if batches.as_ref().is_none_or(|(known, _)| *known != epoch) {
                let examples = self.source.len(Part::Train);
                let next = Batches::new(self.seed, epoch, examples, self.settings.batch);
                batches = Some((epoch, next));
            }
            let indices = batches.as_ref().map_or(&[][..], |(_, batches)| batches.get(at));
            self.step(indices, steps)?;
            self.after_step(steps, per_epoch)?;
        }
        Ok(())
    }

    fn step(&mut self, indices: &[usize], steps: u32) -> Result<(), TrainError> {
        let step = self.progress.step;
        let (loss, mut gradients) = self.gradients(indices)?;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step, loss });
        }
        if let Some(pruner) = &mut self.pruner {
            pruner.see_gradients(&self.model, &mut gradients);
        }
        let rate = self.settings.rate_at(step, steps);
        self.model = self.optimizer.step(rate, self.model.clone(), gradients);
        self.progress.step = step + 1;
        self.progress.losses.0 += f64::from(loss);
        self.progress.losses.1 += 1;
        if let Some(pruner) = &self.pruner {
            pruner.after_step(&mut self.model, step + 1)?;
        }
        (self.observer)(Event::Step { step: step + 1, steps, loss });
        Ok(())
    }

    /// Returns the loss and the gradients of a batch.
    fn gradients(&mut self, indices: &[usize]) -> Result<(f32, GradientsParams), TrainError> {
        let Some(workers) = &mut self.workers else {
            return Ok(gradients(&self.model, self.source, &self.criterion, indices, &self.device));
        };
        // Means over ranks are means over examples only if all ranks have as many.
        let ranks = workers.ranks().len();
        let each = indices.len() / ranks.max(1);
        if each == 0 {
            return Err(TrainError::Recipe(format!(
                "a batch of {} examples cannot be cut into parts for {ranks} ranks: use a larger batch",
                indices.len()
            )));
        }
        let (losses, parts): (Vec<f32>, Vec<GradientsParams>) = indices
            .chunks_exact(each)
            .take(ranks)
            .map(|part| gradients(&self.model, self.source, &self.criterion, part, &self.device))
            .unzip();
        let step = self.progress.step;
        let means = reduce(&self.model, parts, workers, step)?;
        self.progress.bytes_sent = workers.bytes_sent();
        Ok((losses.iter().sum::<f32>() / ranks as f32, means))
    }

    fn after_step(&mut self, steps: u32, per_epoch: u32) -> Result<(), TrainError> {
        let step = self.progress.step;
        let due = |every: u32| {
            step == steps || step.is_multiple_of(if every == 0 { per_epoch } else { every })
        };
        if due(self.settings.evaluate_every) {
            self.evaluate();
            self.progress.stopped = self.progress.should_stop(self.settings.patience);
        }
        match self.checkpoint.clone() {
            Some(path) if due(self.settings.checkpoint_every) || self.progress.stopped => {
                self.save()?.write(&path)
            }
            _ => Ok(()),
        }
    }

    fn evaluate(&mut self) {
        let (sum, count) = std::mem::take(&mut self.progress.losses);
        let point = Point {
            step: self.progress.step,
            train_loss: sum / f64::from(count.max(1)),
            validation: evaluate(&self.model, self.source, Part::Validation),
            test: evaluate(&self.model, self.source, Part::Test),
        };
        self.progress.points.push(point);
        (self.observer)(Event::Evaluated(&point));
    }

    fn save(&self) -> Result<Checkpoint, TrainError> {
        let failed = |error: burn::store::RecordError| TrainError::Recipe(error.to_string());
        let model = self.model.clone().into_record().into_bytes().map_err(failed)?;
        let optimizer = self.optimizer.into_bytes().map_err(failed)?;
        let masking = self.model.layers().into_iter().map(CompressedLinear::masking).collect();
        let progress = Progress { masking, ..self.progress.clone() };
        let progress = serde_json::to_string(&progress)
            .map_err(|error| TrainError::Recipe(error.to_string()))?;
        let bytes = vec![
            ("model".to_owned(), model.to_vec()),
            ("optimizer".to_owned(), optimizer.to_vec()),
        ];
        let mut floats = Vec::new();
        if let Some(pruner) = &self.pruner {
            floats.extend(named("pruner", pruner.export()));
        }
        for (rank, worker) in self.workers.iter().flat_map(Workers::ranks).enumerate() {
            floats.extend(named(&format!("rank.{rank}"), worker.export()));
        }
        Ok(Checkpoint { progress, bytes, floats })
    }

    fn restore(&mut self, checkpoint: &Checkpoint, path: &Path) -> Result<(), TrainError> {
        let progress: Progress = serde_json::from_str(&checkpoint.progress)
            .map_err(|error| damaged(path, format!("is no checkpoint: {error}")))?;
        if progress.identity != self.progress.identity {
            return Err(damaged(path, "is a checkpoint of other training"));
        }
        let bytes = |name: &str| {
            let bytes = checkpoint.bytes_of(name);
            let bytes = bytes.ok_or_else(|| damaged(path, format!("has no {name}")))?;
            Ok::<_, TrainError>(Bytes::from_bytes_vec(bytes.to_vec()))
        };
        let failed = |error: burn::store::RecordError| damaged(path, error.to_string());
        let record = ModuleRecord::from_bytes(bytes("model")?).map_err(failed)?;
        self.model = self.model.clone().try_load_record(record).map_err(failed)?;
        self.optimizer = self.optimizer.clone().from_bytes(bytes("optimizer")?).map_err(failed)?;
        let part =
            |prefix: String| move |name: &str| checkpoint.floats_of(&format!("{prefix}.{name}"));
        if let Some(pruner) = &mut self.pruner {
            pruner.import(self.model.layers().len(), part("pruner".into()));
        }
        if let Some(workers) = &mut self.workers {
            workers.set_bytes_sent(progress.bytes_sent);
            let tensors = tensors(&self.model);
            for (rank, worker) in workers.ranks_mut().iter_mut().enumerate() {
                worker.import(&tensors, part(format!("rank.{rank}")))?;
            }
        }
        for (layer, &masking) in self.model.layers_mut().into_iter().zip(&progress.masking) {
            layer.set_masking(masking);
        }
        self.progress = Progress { masking: Vec::new(), ..progress };
        Ok(())
    }
}

fn named<'a>(
    prefix: &'a str,
    parts: Vec<(String, Vec<f32>)>,
) -> impl Iterator<Item = (String, Vec<f32>)> + use<'a> {
    parts.into_iter().map(move |(name, values)| (format!("{prefix}.{name}"), values))
}

fn gradients<N, S>(
    model: &N,
    source: &S,
    criterion: &CrossEntropyLoss,
    indices: &[usize],
    device: &Device,
) -> (f32, GradientsParams)
where
    N: Network,
    S: Source<Input = N::Input>,
{
    let (input, labels) = source.batch(Part::Train, indices, device);
    let loss = criterion.forward(model.logits(input), labels);
    let value = numbers(loss.clone()).first().copied().unwrap_or(f32::NAN);
    (value, GradientsParams::from_grads(loss.backward(), model))
}
