use super::kernel::Params;
use super::{
    MaskSource, Pipelines, QuantizeWeightsError, QuantizeWeightsPlan, STATUS_WORDS, WeightsKernel,
    compile,
};
use crate::format::CodeType;
use crate::gpu::BufferFill;
use crate::ops::buffers::{Window, check, window_capacity};
use crate::ops::slots::{Slots, check_grid, part};
use crate::ops::weights::MIN_WEIGHT_BYTES;
use crate::ops::{BindError, DeviceWeights, Role, RowBlock, SubBuffer};
use std::ops::Range;

/// Some consecutive rows of the uncompressed W, f32 row-major.
#[derive(Clone, Copy, Debug)]
pub struct SourceRows<'a> {
    /// Where they start.
    pub at: SubBuffer<'a>,
    /// How many there are.
    pub rows: usize,
}

/// The buffers of one making.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeWeightsArgs<'a> {
    /// The rows of W, in order: several buffers where one cannot hold them.
    pub source: &'a [SourceRows<'a>],
    /// Canonical metadata `[N, ⌈K/32⌉]` words, where the spec says the mask is given.
    pub mask: Option<SubBuffer<'a>>,
    /// Weights of the spec's format and shape, to be written over.
    pub output: &'a DeviceWeights,
}

/// A plan with its buffers. Owns the scratch buffer of ranges and the status.
#[derive(Clone, Debug)]
pub struct BoundQuantizeWeights {
    plan: QuantizeWeightsPlan,
    pipelines: Pipelines,
    chunks: Vec<Chunk>,
    status: wgpu::Buffer,
}

/// Rows that fit all bindings.
#[derive(Clone, Debug)]
struct Chunk {
    group: wgpu::BindGroup,
    first_row: usize,
    params: Params,
}

/// Rows of one chunk: of `W`, and where they are.
struct Segment {
    rows: Range<usize>,
    source: usize,
    /// The first of them among the rows of its source.
    source_row: usize,
    block: usize,
}

impl QuantizeWeightsPlan {
    /// Checks the buffers; makes scratch, status, parameters and bind groups. W that exceeds
    /// a binding is taken in chunks of rows.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(
        &self,
        args: QuantizeWeightsArgs<'_>,
    ) -> Result<BoundQuantizeWeights, BindError> {
        let spec = &self.spec;
        self.check_args(&args)?;
        let caps = self.kernels.caps();
        let segments = self.segments(&args)?;
        let layout = args.output.layout();
        let pairs = |rows: usize| match (layout.geometry.scales, spec.per_tensor()) {
            (0, _) => 0,
            (_, true) => 1,
            (_, false) => rows * layout.geometry.groups,
        };
        let scratch = segments.iter().map(|segment| pairs(segment.rows.len())).max().unwrap_or(0);

        let mut all = Vec::with_capacity(segments.len());
        for (index, segment) in segments.iter().enumerate() {
            let (source, mask) = self.windows(&args, segment);
            let rows = segment.rows.len();
            let block_row = segment.rows.start - args.output.blocks()[segment.block].rows.start;
            let first = index == 0;
            let params = Params {
                rows: rows as u32,
                weight_at: (source.skip / 4) as u32,
                weight_stride: spec.stride,
                given_at: mask.as_ref().map_or(0, |mask| (mask.skip / 4) as u32),
                row0: block_row as u32,
                status_at: (index * STATUS_WORDS) as u32,
                // One range for all chunks is cleared once.
                extreme_words: if spec.per_tensor() && !first { 0 } else { 2 * pairs(rows) as u32 },
                ..Params::of(layout)
            };
            for (kernel, _) in self.pipelines.iter() {
                let groups = kernel.groups(&params);
                check_grid(caps, groups)?;
            }
            all.push((params, source, mask));
        }

        let kernels = &self.kernels;
        let offsets = all.iter().map(|(params, ..)| params.weight_at);
        let pipelines = match spec.access(caps, offsets) {
            access if access == self.access => self.pipelines.clone(),
            narrower => compile(kernels, spec, narrower).await?,
        };
        let buffer = |label, usage, bytes: usize| {
            kernels.buffer(label, usage, BufferFill::Zeros(bytes as u64))
        };
        let storage = wgpu::BufferUsages::STORAGE;
        let scratch = buffer("lowbit make ranges", storage, 8 * scratch).await?;
        let readable = storage | wgpu::BufferUsages::COPY_SRC;
        let status =
            buffer("lowbit make status", readable, 4 * STATUS_WORDS * segments.len()).await?;
        let params: Vec<Params> = all.iter().map(|(params, ..)| *params).collect();
        let slots = Slots::new(kernels, "lowbit make", &params).await?;
        let chunks = kernels.guarded("the bind groups of a make", || {
            let mut chunks = Vec::with_capacity(segments.len());
            for (index, (segment, (params, source, mask))) in segments.iter().zip(all).enumerate() {
                let block = &args.output.blocks()[segment.block];
                let (codes, side) = layout.bytes(block.rows.len());
                let codes = block.codes.binding(codes);
                let bound = [
                    (1, source.binding()),
                    // Without a mask nothing reads it.
                    (2, mask.unwrap_or(source).binding()),
                    (3, scratch.as_entire_binding()),
                    (4, codes.resource()),
                    (5, part(&block.side, 0, side.max(MIN_WEIGHT_BYTES))),
                    (6, status.as_entire_binding()),
                ];
                let group = slots.group(kernels, &self.pipelines[0].1, index, bound);
                chunks.push(Chunk { group, first_row: segment.rows.start, params });
            }
            chunks
        });
        Ok(BoundQuantizeWeights { plan: self.clone(), pipelines, chunks: chunks.await?, status })
    }

    fn check_args(&self, args: &QuantizeWeightsArgs<'_>) -> Result<(), BindError> {
        let spec = &self.spec;
        let (n, k) = (spec.n as usize, spec.k as usize);
        let output = args.output;
        output.check(spec.weights, (spec.n, spec.k), self.kernels.caps().row_order)?;
        let have = args.source.iter().fold(0usize, |sum, s| sum.saturating_add(s.rows));
        if have != n {
            return Err(BindError::Rows { need: n, have });
        }
        for source in args.source {
            let bytes = match source.rows {
                0 => 0,
                rows => ((rows as u64 - 1) * u64::from(spec.stride))
                    .checked_add(k as u64)
                    .and_then(|words| words.checked_mul(4))
                    .ok_or(BindError::Overflow { role: Role::Weights })?,
            };
            check(Role::Weights, source.at, bytes, 4)?;
        }
        if args.mask.is_some() != (spec.mask == MaskSource::Given) {
            return Err(BindError::Mask { planned: spec.mask == MaskSource::Given });
        }
        if let Some(mask) = args.mask {
            check(Role::Mask, mask, (n * output.layout().blocks * 4) as u64, 4)?;
        }
        output.check_written(self.kernels.caps())?;
        let written: Vec<_> = output.blocks().iter().flat_map(RowBlock::buffers).collect();
        let source = args.source.iter().map(|s| (Role::Weights, s.at.buffer));
        let mut inputs = source.chain(args.mask.map(|mask| (Role::Mask, mask.buffer)));
        match inputs.find(|(_, input)| written.contains(input)) {
            Some((role, _)) => Err(BindError::Aliased { role }),
            None => Ok(()),
        }
    }

    /// Chunks: cut where a source or a block of weights ends, and where a binding is full.
    fn segments(&self, args: &QuantizeWeightsArgs<'_>) -> Result<Vec<Segment>, BindError> {
        let spec = &self.spec;
        let mut segments = Vec::new();
        if spec.n == 0 || spec.k == 0 {
            return Ok(segments);
        }
        let layout = args.output.layout();
        // Kernels index words with u32, whatever a device can bind.
        let capacity = window_capacity(self.kernels.caps()).min(1 << 32);
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
        let spec = &self.spec;
        let rows = segment.rows.len() as u64;
        let at = args.source[segment.source].at;
        let start = at.offset + 4 * segment.source_row as u64 * u64::from(spec.stride);
        let len = 4 * ((rows - 1) * u64::from(spec.stride) + u64::from(spec.k));
        let mask_row = 4 * args.output.layout().blocks as u64;
        let mask = args.mask.map(|mask| {
            let start = mask.offset + segment.rows.start as u64 * mask_row;
            Window::new(caps, mask.buffer, start, rows * mask_row)
        });
        (Window::new(caps, at.buffer, start, len), mask)
    }
}

impl BoundQuantizeWeights {
    /// The plan it was bound from.
    pub fn plan(&self) -> &QuantizeWeightsPlan {
        &self.plan
    }

    /// How many chunks of rows W is taken in.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Records the kernels. Sets the pass's pipeline and bind group 0. Allocates nothing,
    /// waits for nothing; may be recorded again, for other values of the same W.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let ranged = |kernel| {
            matches!(
                kernel,
                WeightsKernel::Scales | WeightsKernel::Codes | WeightsKernel::BlockCodes
            )
        };
        if self.plan.spec.per_tensor() {
            // The one range is complete only after every chunk.
            self.record_some(pass, &self.chunks, |kernel| !ranged(kernel));
            self.record_some(pass, &self.chunks, ranged);
        } else {
            for chunk in self.chunks.chunks(1) {
                self.record_some(pass, chunk, |_| true);
            }
        }
    }

    fn record_some(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        chunks: &[Chunk],
        wanted: impl Fn(WeightsKernel) -> bool,
    ) {
        for (kernel, pipeline) in self.pipelines.iter().filter(|(kernel, _)| wanted(*kernel)) {
            pass.set_pipeline(&pipeline.pipeline);
            for chunk in chunks {
                // `bind` has checked that the grid folds.
                let caps = self.plan.kernels.caps();
                let [x, y, z] = caps.fold(kernel.groups(&chunk.params)).unwrap_or_default();
                pass.set_bind_group(0, &chunk.group, &[]);
                pass.dispatch_workgroups(x, y, z);
            }
        }
    }

    /// The status buffer, with `COPY_SRC` usage: [`status_words`](Self::status_words) words
    /// to read back once the pass has run, for [`check`](Self::check).
    pub fn status(&self) -> &wgpu::Buffer {
        &self.status
    }

    /// Words of status; 0 for an empty matrix.
    pub fn status_words(&self) -> usize {
        STATUS_WORDS * self.chunks.len()
    }

    /// Whether the pass that left this status made good weights. Codes and scales of a
    /// refused matrix are well-formed but mean nothing.
    ///
    /// # Errors
    /// [`QuantizeWeightsError`]: what was refused, and where.
    pub fn check(&self, status: &[u32]) -> Result<(), QuantizeWeightsError> {
        let (need, have) = (self.status_words(), status.len());
        if need != have {
            return Err(QuantizeWeightsError::WrongLength { need, have });
        }
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
        let spec = &self.plan.spec;
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

    /// Whether a kernel may leave this in a word of the status: none, or an index into the chunk
    /// of a fault that the format can have.
    fn possible(&self, word: usize, value: u32) -> bool {
        let Some(chunk) = self.chunks.get(word / STATUS_WORDS) else { return false };
        let (spec, params) = (&self.plan.spec, &chunk.params);
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
