//! One text of a language model: its caches, and everything that a step needs.

use super::layers::{Built, Size, build};
use super::runner::{Draw, Runner};
use super::{Model, RunError, Sampling, SessionOptions};
use lowbit::host::ReadBack;
use lowbit::wgpu;
use std::ops::Range;

/// The caches of one text, and all buffers and bound ops of a step.
///
/// Tokens are read by [`extend`](Self::extend), in chunks, or one after the other. Nothing is allocated or
/// compiled then.
#[derive(Debug)]
pub struct Session<'m> {
    pub(super) model: &'m Model,
    size: Size,
    /// The tokens that are in the caches.
    tokens: Vec<u32>,
    /// The token that was drawn last, if it is the first token of the next step on the device.
    drawn: Option<u32>,
    pub(super) runner: Runner,
    read_back: ReadBack,
    submissions: usize,
}

impl Model {
    /// Makes a session: allocates caches and activations, compiles every kernel and binds all ops.
    ///
    /// # Errors
    /// Returns [`RunError`] if the model is an encoder, an option is out of range, or the device fails.
    pub async fn session(&self, options: &SessionOptions) -> Result<Session<'_>, RunError> {
        if self.blueprint.head.is_none() {
            let family = self.blueprint.family;
            return Err(RunError::Options(format!("{family} is an encoder and makes no tokens")));
        }
        // Beyond the table a text would read rows that are not there.
        let slots = self.positions().map_or(options.slots, |have| options.slots.min(have));
        let count = |what: &str, number: usize| match u32::try_from(number) {
            Ok(count) if (1..1 << 20).contains(&count) => Ok(count),
            _ => Err(RunError::Options(format!("{what} = {number} is outside of 1…1048575"))),
        };
        let size = |rows: u32| {
            Ok::<_, RunError>(Size {
                rows,
                slots: count("slots", slots)?,
                cache: options.cache,
                logit_rows: count("logit_rows", options.logit_rows)?,
                counted: true,
            })
        };
        let build = |rows| build(&self.blueprint, &self.weights, &self.options, size(rows)?);
        let built = match options.chunk {
            Some(chunk) => build(count("chunk", chunk)?)?,
            None => {
                let limit = self.weight_bytes() / 20;
                let mut rows = 512.min(count("slots", slots)?.next_multiple_of(32));
                let mut built = build(rows)?;
                while rows > 32 && built.activation_bytes() > limit {
                    rows = (rows / 2).max(32);
                    built = build(rows)?;
                }
                built
            }
        };
        let rows = built.body.shapes[built.ids.0].rows;
        Session::new(self, built, size(rows)?).await
    }

    /// Returns the number of tokens that a model with a table of positions has positions for.
    fn positions(&self) -> Option<usize> {
        self.blueprint.embedding.positions.as_ref().map(|_| self.blueprint.context)
    }
}

impl<'m> Session<'m> {
    async fn new(model: &'m Model, built: Built, size: Size) -> Result<Self, RunError> {
        let runner = Runner::new(model, built, size).await?;
        let words = size.logit_rows as usize * model.blueprint.vocab;
        let read_back = model.host.read_back_async(words).await?;
        let (tokens, drawn, submissions) = (Vec::new(), None, 0);
        Ok(Self { model, size, tokens, drawn, runner, read_back, submissions })
    }

    /// Returns the number of tokens that were read.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the tokens that were read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns whether no token was read yet.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Returns the number of tokens that there is room for.
    pub fn slots(&self) -> usize {
        self.size.slots as usize
    }

    /// Returns the largest number of tokens that are read at once.
    pub fn chunk(&self) -> usize {
        self.size.rows as usize
    }

    /// Returns the bytes of device memory that the caches take.
    pub fn cache_bytes(&self) -> u64 {
        self.runner.cache_bytes
    }

    /// Returns the bytes of device memory that everything else takes: activations, tables, memory for
    /// reading back.
    pub fn activation_bytes(&self) -> u64 {
        self.runner.activation_bytes + 4 * self.read_back.words() as u64
    }

    /// Returns the bytes of device memory that model and session take.
    pub fn device_bytes(&self) -> u64 {
        self.model.weight_bytes() + self.cache_bytes() + self.activation_bytes()
    }

    /// Returns the number of submissions so far.
    pub fn submissions(&self) -> usize {
        self.submissions
    }

    /// Returns the number of dispatches of a step of `rows` rows, of the logits of the last one, and of the choice of
    /// the largest.
    pub fn dispatches(&self, rows: u32) -> usize {
        let body = self.runner.body.iter().map(|step| step.dispatches(rows)).sum::<usize>();
        let sampler = self.runner.sampler(Draw::Largest);
        let head = self.runner.head.iter().chain(sampler);
        body + head.map(|step| step.dispatches(1)).sum::<usize>()
    }

    /// Forgets all tokens from `len` on, so that another text may follow.
    ///
    /// # Errors
    /// Returns [`RunError::Options`] if fewer tokens were read.
    pub fn rewind(&mut self, len: usize) -> Result<(), RunError> {
        let have = self.tokens.len();
        if len > have {
            return Err(RunError::Options(format!("{len} tokens cannot be kept of {have}")));
        }
        self.tokens.truncate(len);
        self.drawn = None;
        let words = [len as u32];
        self.runner.write(self.model, self.runner.built.state, &words)
    }

    fn check(&self, tokens: &[u32]) -> Result<(), RunError> {
        let vocab = self.model.blueprint.vocab;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(RunError::Token { token, vocab });
        }
        let (need, slots) = (self.len().saturating_add(tokens.len()), self.slots());
        match self.model.positions() {
            Some(have) if need > have => Err(RunError::Positions { need, have }),
            _ if need > slots => Err(RunError::Full { need, slots }),
            _ => Ok(()),
        }
    }

    /// Reads tokens, and returns the logits of the last one: what may follow.
    ///
    /// # Errors
    /// Returns [`RunError`] if there are no tokens or too many, or the device fails.
    pub async fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>, RunError> {
        let last = self.extend_but_last(tokens).await?;
        self.upload(last)?;
        let rows = last.len() as u32;
        let words = self.step(last, Want::Logits(rows - 1..rows)).await?;
        Ok(self.capped(words))
    }

    /// Reads a prompt, and returns the first token that follows.
    ///
    /// # Errors
    /// Returns the errors of [`extend`](Self::extend).
    pub async fn prompt(&mut self, tokens: &[u32], sampling: &Sampling) -> Result<u32, RunError> {
        let last = self.extend_but_last(tokens).await?;
        self.upload(last)?;
        self.draw(last, sampling).await
    }

    /// Reads the token that was drawn last, and returns the one that follows. The token is on the device
    /// already: nothing is uploaded, unless tokens are drawn at random.
    ///
    /// # Errors
    /// Returns [`RunError`] if no token was drawn since the last prompt, there is no more room, or the device
    /// fails.
    pub async fn next(&mut self, sampling: &Sampling) -> Result<u32, RunError> {
        let drawn = [self.drawn.take().ok_or(RunError::Empty)?];
        self.check(&drawn)?;
        self.draw(&drawn, sampling).await
    }

    /// Reads all chunks of tokens but the last one, which is returned.
    async fn extend_but_last<'t>(&mut self, tokens: &'t [u32]) -> Result<&'t [u32], RunError> {
        self.check(tokens)?;
        if tokens.is_empty() {
            return Err(RunError::Empty);
        }
        let (before, last) = tokens.split_at((tokens.len() - 1) / self.chunk() * self.chunk());
        for tokens in before.chunks(self.chunk()) {
            self.upload(tokens)?;
            self.step(tokens, Want::Nothing).await?;
        }
        Ok(last)
    }

    async fn draw(&mut self, tokens: &[u32], sampling: &Sampling) -> Result<u32, RunError> {
        let random = sampling.temperature > 0.0;
        if let (true, Some(head)) = (random, &self.model.blueprint.head)
            && (head.soft_cap.is_some() || head.scale != 1.0)
        {
            let what = "drawing from logits with a soft cap or a scale".into();
            return Err(RunError::Unsupported { what, next: "; a temperature of 0 is" });
        }
        if let (true, Some(settings)) = (random, self.runner.built.settings) {
            let words = sampling.settings(self.len()).words();
            self.runner.write(self.model, settings, &words)?;
        }
        let draw = if random { Draw::Random } else { Draw::Largest };
        let token = self.step(tokens, Want::Token(draw)).await?;
        let token = token.first().copied().ok_or(RunError::Empty)?;
        if token == u32::MAX {
            return Err(RunError::NotFinite { tokens: self.len() });
        }
        self.drawn = Some(token);
        Ok(token)
    }

    fn upload(&self, tokens: &[u32]) -> Result<(), RunError> {
        self.runner.write(self.model, self.runner.built.ids, tokens)
    }

    /// Runs every kernel once, for one row and for a whole chunk, so that drivers that compile late have
    /// compiled them before the first token. The caches must be empty.
    ///
    /// # Errors
    /// Returns [`RunError`] if tokens were read already, or the device fails.
    pub async fn warm_up(&mut self) -> Result<(), RunError> {
        if !self.is_empty() {
            return Err(RunError::Options("a session warms up before its first token".into()));
        }
        let rows = self.chunk().min(self.slots());
        for rows in [rows, 1] {
            let tokens = vec![0; rows];
            self.extend(&tokens).await?;
            for temperature in [0.0, 1.0] {
                self.rewind(0)?;
                let sampling = Sampling { temperature, ..Sampling::GREEDY };
                match self.prompt(&tokens, &sampling).await {
                    Ok(_) | Err(RunError::Unsupported { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            self.rewind(0)?;
        }
        Ok(())
    }

    /// Reads tokens, and calls `each` with the logits of all of them, in order: the number of the first
    /// token of `tokens` that they belong to, and `[rows, vocab]` logits.
    ///
    /// # Errors
    /// Returns [`RunError`] if there are too many tokens, or the device fails.
    pub async fn extend_with(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<(), RunError> {
        self.check(tokens)?;
        let chunk = self.chunk();
        for (index, tokens) in tokens.chunks(chunk).enumerate() {
            self.upload(tokens)?;
            self.step(tokens, Want::Nothing).await?;
            let rows = tokens.len() as u32;
            let mut at = 0;
            while at < rows {
                let end = rows.min(at + self.size.logit_rows);
                let logits = self.logits(at..end).await?;
                each(index * chunk + at as usize, &logits);
                at = end;
            }
        }
        Ok(())
    }

    /// Reads tokens, which are on the device, in one step. Returns the words that are wanted.
    async fn step(&mut self, tokens: &[u32], want: Want) -> Result<Vec<u32>, RunError> {
        let rows = tokens.len() as u32;
        let (wanted, draw) = match &want {
            Want::Nothing => (0..0, Draw::Nothing),
            Want::Logits(rows) => (rows.clone(), Draw::Nothing),
            Want::Token(draw) => (rows.saturating_sub(1)..rows, *draw),
        };
        let words = match self.run(Some(rows), wanted, draw).await {
            Ok(words) => words,
            Err(error) => {
                // The device may have counted the tokens all the same, if only the answer was late.
                self.drawn = None;
                let words = [self.tokens.len() as u32];
                self.runner.write(self.model, self.runner.built.state, &words)?;
                return Err(error);
            }
        };
        self.drawn = None;
        self.tokens.extend(tokens);
        Ok(words)
    }

    /// Computes the logits of rows of the last step.
    async fn logits(&mut self, wanted: Range<u32>) -> Result<Vec<f32>, RunError> {
        let words = self.run(None, wanted, Draw::Nothing).await?;
        Ok(self.capped(words))
    }

    /// Returns the logits of a model from what its head gives: multiplied with a scale and soft-capped, if the
    /// model does so. Both leave the order as it is, so that the largest is found without them.
    fn capped(&self, words: Vec<u32>) -> Vec<f32> {
        let logits = words.into_iter().map(f32::from_bits);
        let Some(head) = &self.model.blueprint.head else { return logits.collect() };
        let scaled = logits.map(|logit| logit * head.scale);
        match head.soft_cap {
            Some(cap) => scaled.map(|logit| cap * (logit / cap).tanh()).collect(),
            None => scaled.collect(),
        }
    }

    /// Submits a step of some rows, if there are any, and what is wanted of it: one submission, and one
    /// read-back of tokens or logits.
    async fn run(
        &mut self,
        rows: Option<u32>,
        wanted: Range<u32>,
        draw: Draw,
    ) -> Result<Vec<u32>, RunError> {
        let runner = &self.runner;
        let mut recorded = Ok(());
        let record = |encoder: &mut wgpu::CommandEncoder| {
            recorded = rows
                .map_or(Ok(()), |rows| runner.record(encoder, rows))
                .and_then(|()| runner.record_head(encoder, &wanted, draw));
        };
        let logits = runner.built.logits.unwrap_or(runner.built.ids);
        let (from, words) = match draw {
            Draw::Nothing => (logits, wanted.len() * self.model.blueprint.vocab),
            Draw::Largest | Draw::Random => (runner.built.ids, 1),
        };
        let (host, from) = (&self.model.host, runner.buffer(from)?);
        let words = host.submit_and_read_async(record, from, words, &self.read_back).await?;
        recorded?;
        self.submissions += 1;
        Ok(words)
    }
}

/// The result that is wanted of a step.
enum Want {
    /// Nothing but that its tokens are in the caches.
    Nothing,
    /// The logits of some rows.
    Logits(Range<u32>),
    /// A token that follows the last row.
    Token(Draw),
}
