use super::kernel::Params;
use super::{
    MaskSource, Pipelines, QuantizeWeightsError, QuantizeWeightsPlan, QuantizeWeightsSpec,
    STATUS_WORDS, WeightsKernel, compile,
};
use crate::format::CodeType;
use crate::gpu::{BufferFill, Kernels};
use crate::ops::buffers::{Window, check, check_aliases, window_capacity};
use crate::ops::recording::{ALL_COUNTS, Count, Draft, Head, Recording};
use crate::ops::rows::{Rows, RowsSpec, Span};
use crate::ops::{BindError, DeviceWeights, RecordError, Role, RowBlock, SubBuffer};
use std::ops::Range;

/// Consecutive rows of the uncompressed W, f32, row-major.
#[derive(Clone, Copy, Debug)]
pub struct SourceRows<'a> {
    /// Where they start.
    pub at: SubBuffer<'a>,
    /// The number of rows.
    pub rows: usize,
}

/// The buffers of one matrix.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeWeightsArgs<'a> {
    /// The rows of W, in order. Several buffers may hold them if one is too small.
    pub source: &'a [SourceRows<'a>],
    /// Canonical metadata, `[N, ⌈K/32⌉]` words, if the spec has a given mask.
    pub mask: Option<SubBuffer<'a>>,
    /// Weights of the spec's format and shape. They are overwritten.
    pub output: &'a DeviceWeights,
}

/// One of several matrices that are quantized together; see [`QuantizeWeightsPlan::bind_many`].
#[derive(Clone, Copy, Debug)]
pub struct QuantizeWeightsJob<'a> {
    /// The name of the matrix, for error messages.
    pub name: &'a str,
    /// The plan for its shape and format.
    pub plan: &'a QuantizeWeightsPlan,
    /// Its buffers.
    pub args: QuantizeWeightsArgs<'a>,
}

/// One or several matrices with their buffers, to be quantized in one pass. They share a scratch
/// buffer and a status buffer, so a single read shows whether all of them are good.
#[derive(Clone, Debug)]
pub struct BoundQuantizeWeights {
    recording: Recording,
    matrices: Vec<Matrix>,
    status: wgpu::Buffer,
}

/// What reading the status of a matrix needs.
#[derive(Clone, Debug)]
struct Matrix {
    /// The name, if there may be several matrices.
    name: Option<String>,
    spec: QuantizeWeightsSpec,
    chunks: Vec<Chunk>,
}

/// Rows that fit all bindings.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    first_row: usize,
    params: Params,
}

/// The rows of `W` in one chunk, and their places in the source and in the output.
struct Segment {
    rows: Range<usize>,
    source: usize,
    /// The first of them among the rows of its source.
    source_row: usize,
    block: usize,
}

/// A matrix whose arguments have been checked.
struct Prepared<'a> {
    matrix: Matrix,
    pipelines: Pipelines,
    output: &'a DeviceWeights,
    /// Source, mask and output of each chunk.
    buffers: Vec<(Window<'a>, Option<Window<'a>>, &'a RowBlock)>,
    /// The largest number of ranges of a chunk.
    ranges: usize,
}

impl QuantizeWeightsPlan {
    /// Checks the buffers; makes scratch, status, parameters and bind groups. W is taken in
    /// chunks of rows if it exceeds a binding.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(
        &self,
        args: QuantizeWeightsArgs<'_>,
    ) -> Result<BoundQuantizeWeights, BindError> {
        let prepared = self.prepare(None, args).await?;
        BoundQuantizeWeights::new(&self.kernels, vec![prepared]).await
    }

    /// Binds several matrices, of any shapes and formats, to be recorded and checked together.
    ///
    /// ```no_run
    /// # use lowbit::ops::{QuantizeWeightsArgs, QuantizeWeightsJob, QuantizeWeightsPlan};
    /// # async fn example(
    /// #     kernels: &lowbit::gpu::Kernels,
    /// #     (plan, other_plan): (&QuantizeWeightsPlan, &QuantizeWeightsPlan),
    /// #     (up, down): (QuantizeWeightsArgs<'_>, QuantizeWeightsArgs<'_>),
    /// #     encoder: &mut wgpu::CommandEncoder,
    /// #     read_back: impl Fn(&wgpu::Buffer, usize) -> Vec<u32>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = [
    ///     QuantizeWeightsJob { name: "mlp.up", plan, args: up },
    ///     QuantizeWeightsJob { name: "mlp.down", plan: other_plan, args: down },
    /// ];
    /// let bound = QuantizeWeightsPlan::bind_many(kernels, &jobs).await?;
    /// bound.record(&mut encoder.begin_compute_pass(&Default::default()), bound.rows())?;
    /// // Submit the encoder, then read the status once for all matrices.
    /// bound.check(&read_back(bound.status(), bound.status_words()))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`BindError::Matrix`], which names the matrix that cannot be bound; [`BindError`] if
    /// they cannot be bound together.
    pub async fn bind_many(
        kernels: &Kernels,
        jobs: &[QuantizeWeightsJob<'_>],
    ) -> Result<BoundQuantizeWeights, BindError> {
        let mut all = Vec::with_capacity(jobs.len());
        for QuantizeWeightsJob { name, plan, args } in jobs {
            let name = name.to_string();
            let prepared = plan.prepare(Some(name.clone()), *args).await;
            all.push(prepared.map_err(|error| BindError::Matrix { name, error: error.into() })?);
        }
        BoundQuantizeWeights::new(kernels, all).await
    }

    /// Checks the buffers and splits the rows into chunks.
    async fn prepare<'a>(
        &'a self,
        name: Option<String>,
        args: QuantizeWeightsArgs<'a>,
    ) -> Result<Prepared<'a>, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        self.check_args(&args)?;
        let layout = args.output.layout();
        let ranges = |rows: usize| match (layout.geometry.scales, spec.per_tensor()) {
            (0, _) => 0,
            (_, true) => 1,
            (_, false) => rows * layout.geometry.groups,
        };
        let (mut chunks, mut buffers, mut most) = (Vec::new(), Vec::new(), 0);
        for (index, segment) in self.segments(&args)?.into_iter().enumerate() {
            let (source, mask) = self.windows(&args, &segment);
            let block = &args.output.blocks()[segment.block];
            let ranges = ranges(segment.rows.len());
            let params = Params {
                rows: segment.rows.len() as u32,
                weight_at: source.at(4),
                weight_stride: spec.stride,
                given_at: mask.map_or(0, |mask| mask.at(4)),
                row0: (segment.rows.start - block.rows.start) as u32,
                // One range for all chunks is cleared once.
                extreme_words: if spec.per_tensor() && index > 0 { 0 } else { 2 * ranges as u32 },
                ..Params::of(layout)
            };
            chunks.push(Chunk { first_row: segment.rows.start, params });
            buffers.push((source, mask, block));
            most = most.max(ranges);
        }
        let offsets = chunks.iter().map(|chunk| chunk.params.weight_at);
        let pipelines = match spec.access(caps, offsets) {
            access if access == self.access => self.pipelines.clone(),
            narrower => compile(&self.kernels, spec, narrower).await?,
        };
        let matrix = Matrix { name, spec: spec.clone(), chunks };
        Ok(Prepared { matrix, pipelines, output: args.output, buffers, ranges: most })
    }

    fn check_args(&self, args: &QuantizeWeightsArgs<'_>) -> Result<(), BindError> {
        let (spec, caps, output) = (&self.spec, self.kernels.caps(), args.output);
        let n = spec.n as usize;
        output.check(spec.weights, (spec.n, spec.k), caps.row_order)?;
        let have = args.source.iter().fold(0usize, |sum, s| sum.saturating_add(s.rows));
        if have != n {
            return Err(BindError::Rows { need: n, have });
        }
        for source in args.source {
            // Not more than n.
            check(Role::Weights, source.at, self.source_rows().bytes(source.rows as u32), 4)?;
        }
        if args.mask.is_some() != (spec.mask == MaskSource::Given) {
            return Err(BindError::Mask { planned: spec.mask == MaskSource::Given });
        }
        if let Some(mask) = args.mask {
            check(Role::Mask, mask, (n * output.layout().blocks * 4) as u64, 4)?;
        }
        output.check_written(caps)?;
        let written: Vec<_> = output.blocks().iter().flat_map(RowBlock::buffers).collect();
        let source = args.source.iter().map(|source| (Role::Weights, source.at.buffer));
        let mask = args.mask.map(|mask| (Role::Mask, mask.buffer));
        check_aliases(source.chain(mask), &written)
    }

    fn source_rows(&self) -> RowsSpec {
        RowsSpec::words(Role::Weights, self.spec.k, self.spec.stride)
    }

    /// Chunks of rows: they end where a source or a block of weights ends, or a binding is full.
    fn segments(&self, args: &QuantizeWeightsArgs<'_>) -> Result<Vec<Segment>, BindError> {
        let spec = &self.spec;
        let mut segments = Vec::new();
        if spec.n == 0 || spec.k == 0 {
            return Ok(segments);
        }
        let layout = args.output.layout();
        let capacity = window_capacity(self.kernels.caps());
        let fit = |role, row: u64, step: u64| match capacity.checked_sub(row) {
            None => Err(BindError::RowTooLarge { role, need: row, limit: capacity }),
            Some(rest) => Ok(usize::try_from(rest / step.max(1) + 1).unwrap_or(usize::MAX)),
        };
        let source = fit(Role::Weights, 4 * u64::from(spec.k), 4 * u64::from(spec.stride))?;
        let mask = 4 * layout.blocks as u64;
        let mask = fit(Role::Mask, mask, mask)?;
        let ranges = match (layout.geometry.scales, spec.per_tensor()) {
            (0, _) | (_, true) => usize::MAX,
            _ => {
                let row = 8 * layout.geometry.groups as u64;
                fit(Role::Scratch, row, row)?
            }
        };
        let fit = source.min(mask).min(ranges);

        let mut starts = Vec::with_capacity(args.source.len());
        let mut start = 0;
        for source in args.source {
            starts.push(start);
            start += source.rows;
        }
        let (mut row, mut source, mut block) = (0, 0, 0);
        let blocks: &[RowBlock] = args.output.blocks();
        while row < spec.n as usize {
            // Rows are left, and sources and blocks cover all of them.
            while row >= starts[source] + args.source[source].rows {
                source += 1;
            }
            while row >= blocks[block].rows.end {
                block += 1;
            }
            let source_end = starts[source] + args.source[source].rows;
            let end = source_end.min(blocks[block].rows.end).min(row.saturating_add(fit));
            segments.push(Segment {
                rows: row..end,
                source,
                source_row: row - starts[source],
                block,
            });
            row = end;
        }
        Ok(segments)
    }

    fn windows<'a>(
        &self,
        args: &QuantizeWeightsArgs<'a>,
        segment: &Segment,
    ) -> (Window<'a>, Option<Window<'a>>) {
        let caps = self.kernels.caps();
        let words = args.output.layout().blocks as u32;
        let window = |spec: RowsSpec, at, first: usize| {
            let span = Span { m0: first as u32, ..Span::all(segment.rows.len() as u32) };
            Rows::read(spec, at).window(caps, &span)
        };
        let mask = RowsSpec::words(Role::Mask, words, words);
        let mask = args.mask.map(|at| window(mask, at, segment.rows.start));
        let source = args.source[segment.source].at;
        (window(self.source_rows(), source, segment.source_row), mask)
    }
}

impl BoundQuantizeWeights {
    async fn new(kernels: &Kernels, mut all: Vec<Prepared<'_>>) -> Result<Self, BindError> {
        let rows = all.iter().map(|one| u64::from(one.matrix.spec.n)).sum::<u64>();
        let rows = u32::try_from(rows).map_err(|_| BindError::Overflow { role: Role::Weights })?;
        let slots = all.iter().map(|one| one.matrix.chunks.len()).sum::<usize>();
        let (label, count) = ("lowbit quantize weights", Count::Whole(rows));
        let mut draft = Draft::new(kernels, label, count, slots as u64)?;
        let zeros = |words: usize| BufferFill::Zeros(4 * words as u64);
        let ranges = all.iter().map(|one| one.ranges).max().unwrap_or(0);
        let storage = wgpu::BufferUsages::STORAGE;
        let scratch = kernels.buffer("lowbit weight ranges", storage, zeros(2 * ranges)).await?;
        let (readable, words) = (storage | wgpu::BufferUsages::COPY_SRC, STATUS_WORDS * slots);
        let status = kernels.buffer("lowbit weight status", readable, zeros(words)).await?;
        let chunks = all.iter_mut().flat_map(|one| &mut one.matrix.chunks);
        for (index, chunk) in chunks.enumerate() {
            chunk.params.status_at = (index * STATUS_WORDS) as u32;
        }
        for Prepared { matrix, pipelines, output, buffers, .. } in &all {
            let mut chunks = Vec::with_capacity(buffers.len());
            for (chunk, (source, mask, block)) in matrix.chunks.iter().zip(buffers) {
                let [codes, side] = block.resources(output.layout());
                let slot = draft.slot(chunk.params);
                let bound = [
                    (1, (*source).into()),
                    // Without a mask nothing reads it.
                    (2, mask.unwrap_or(*source).into()),
                    (3, (&scratch).into()),
                    (4, codes),
                    (5, side),
                    (6, (&status).into()),
                ];
                // All kernels have the same bindings.
                let group = draft.group(&pipelines[0].1, Head::Params(slot), bound);
                chunks.push((group, &chunk.params));
            }
            stages(&mut draft, pipelines, &chunks, matrix.spec.per_tensor());
        }
        let recording = draft.finish().await?;
        let matrices = all.into_iter().map(|one| one.matrix).collect();
        Ok(Self { recording, matrices, status })
    }

    /// Returns the number of rows of all matrices together.
    pub fn rows(&self) -> u32 {
        self.matrices.iter().map(|matrix| matrix.spec.n).sum()
    }

    /// Returns the number of chunks of rows that the matrices are taken in.
    pub fn chunks(&self) -> usize {
        self.matrices.iter().map(|matrix| matrix.chunks.len()).sum()
    }

    /// The number of dispatches of a recording.
    pub fn dispatches(&self) -> usize {
        self.recording.dispatches()
    }

    /// The number of workgroups of each dispatch of a recording, for tests.
    #[doc(hidden)]
    pub fn workgroups(&self) -> Vec<u64> {
        self.recording.workgroups(self.rows()).collect()
    }

    /// Records the quantization of all `rows` rows, of all matrices. Sets the pass's pipeline and
    /// bind group 0. Neither allocates nor waits. It may be recorded again for other values.
    ///
    /// # Errors
    /// Returns [`RecordError::NotWhole`] if `rows` is not [`rows`](Self::rows); nothing is recorded
    /// then.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) -> Result<(), RecordError> {
        self.recording.record(pass, rows)
    }

    /// Returns the status buffer, with `COPY_SRC` usage: [`status_words`](Self::status_words) words
    /// to read back once the pass has run, for [`check`](Self::check).
    pub fn status(&self) -> &wgpu::Buffer {
        &self.status
    }

    /// Returns the number of words of status; 0 if there are no weights.
    pub fn status_words(&self) -> usize {
        STATUS_WORDS * self.chunks()
    }

    /// Checks the status that the pass left. Codes and scales of a refused matrix are
    /// well-formed but meaningless; the other matrices are good.
    ///
    /// # Errors
    /// Returns [`QuantizeWeightsError`], which says what was refused and where. After
    /// [`bind_many`](QuantizeWeightsPlan::bind_many) it is [`QuantizeWeightsError::Matrix`], which
    /// names the first matrix that was refused.
    pub fn check(&self, status: &[u32]) -> Result<(), QuantizeWeightsError> {
        let (need, have) = (self.status_words(), status.len());
        if need != have {
            return Err(QuantizeWeightsError::WrongLength { need, have });
        }
        let mut rest = status;
        for matrix in &self.matrices {
            let (own, others) = rest.split_at(STATUS_WORDS * matrix.chunks.len());
            rest = others;
            matrix.check(own).map_err(|error| match matrix.name.clone() {
                Some(name) => QuantizeWeightsError::Matrix { name, error: error.into() },
                None => error,
            })?;
        }
        Ok(())
    }
}

/// Adds the kernels of a matrix in the order that they run.
fn stages(
    draft: &mut Draft<'_, Params>,
    pipelines: &Pipelines,
    chunks: &[(usize, &Params)],
    per_tensor: bool,
) {
    let ranged = |kernel| {
        matches!(kernel, WeightsKernel::Scales | WeightsKernel::Codes | WeightsKernel::BlockCodes)
    };
    let mut add = |chunks: &[(usize, &Params)], wanted: &dyn Fn(WeightsKernel) -> bool| {
        for (_, pipeline) in pipelines.iter().filter(|(kernel, _)| wanted(*kernel)) {
            draft.stage(pipeline, ALL_COUNTS);
            for (group, params) in chunks {
                draft.dispatch(*group, Span::all(params.rows), &params.sizes());
            }
        }
    };
    if per_tensor {
        // The one range is complete only after every chunk.
        add(chunks, &|kernel| !ranged(kernel));
        add(chunks, &ranged);
    } else {
        chunks.chunks(1).for_each(|chunk| add(chunk, &|_| true));
    }
}

impl Matrix {
    /// Checks the status words of this matrix.
    fn check(&self, status: &[u32]) -> Result<(), QuantizeWeightsError> {
        // The first index of a kind of fault, as (row of W, place in that row).
        let first = |kind: usize, row_length: usize| {
            let found = self.chunks.iter().zip(status.chunks(STATUS_WORDS));
            let mut found = found.filter(|(_, words)| words[kind] != u32::MAX);
            found.next().map(|(chunk, words)| {
                let (at, row_length) = (words[kind] as usize, row_length.max(1));
                (chunk.first_row + at / row_length, at % row_length)
            })
        };
        // A buffer starts as zeros, and no chunk has every fault at its first weight: a
        // scale is an integer's, an overflow f16's.
        if status.chunks(STATUS_WORDS).any(|words| words.iter().all(|&word| word == 0)) {
            return Err(QuantizeWeightsError::NotRun);
        }
        if let Some((word, &value)) =
            status.iter().enumerate().find(|&(word, &value)| !self.possible(word, value))
        {
            return Err(QuantizeWeightsError::Garbage { word, value });
        }
        let spec = &self.spec;
        let (k, scale_type) = (spec.k as usize, spec.weights.scale_type());
        let Some(chunk) = self.chunks.first() else { return Ok(()) };
        if let Some((row, quad)) = first(3, 8 * chunk.params.blocks as usize) {
            return Err(QuantizeWeightsError::BadMask { row, quad });
        }
        if let Some((row, col)) = first(0, k) {
            return Err(QuantizeWeightsError::NonFinite { row, col });
        }
        if let Some((row, group)) = first(1, chunk.params.groups as usize) {
            return Err(QuantizeWeightsError::ScaleRange { row, group, scale_type });
        }
        match first(2, k) {
            Some((row, col)) => Err(QuantizeWeightsError::F16Overflow { row, col }),
            None => Ok(()),
        }
    }

    /// Returns whether a kernel may leave this in a word of the status: `u32::MAX` for no fault, or
    /// the index in the chunk of a fault that the format can have.
    fn possible(&self, word: usize, value: u32) -> bool {
        let Some(chunk) = self.chunks.get(word / STATUS_WORDS) else { return false };
        let (spec, params) = (&self.spec, &chunk.params);
        let (rows, element) = (u64::from(params.rows), spec.weights.code_type());
        let (scaled, given) = (element.is_integer(), spec.mask == MaskSource::Given);
        let places = match word % STATUS_WORDS {
            0 => rows * u64::from(spec.k),
            1 if scaled => rows * u64::from(params.groups),
            2 if element == CodeType::F16 => rows * u64::from(spec.k),
            3 if given => rows * 8 * u64::from(params.blocks),
            _ => 0,
        };
        value == u32::MAX || u64::from(value) < places
    }
}
