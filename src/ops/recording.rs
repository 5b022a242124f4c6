//! The one way in which ops bind and record.
//!
//! An op fills a [`Draft`]: parameters, bind groups, and stages of dispatches. The draft computes
//! workgroups by the grids that kernels declare, checks them, puts all parameters into one uniform buffer with a slot each, and makes the bind
//! groups. The [`Recording`] that results sets pipelines and bind groups and dispatches; the
//! number of rows reaches kernels through two dynamic offsets (`Kernels::m_offsets`), so
//! recording neither allocates, compiles nor waits.

use super::buffers::Resource;
use super::rows::Span;
use super::{BindError, RecordError};
use crate::gpu::{
    BufferFill, DeviceError, KernelDesc, Kernels, Pipeline, Size, Variable, Workgroups,
};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use wgpu::{BindGroupEntry, BindingResource};

/// The largest number of parameter slots of a recording. They fill WebGPU's largest buffer.
const MAX_SLOTS: u64 = 1 << 20;

/// Every count of rows, for [`Draft::stage`].
pub(crate) const ALL_COUNTS: RangeInclusive<u32> = 0..=u32::MAX;

/// The rows that a recording accepts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    /// Up to this many.
    UpTo(u32),
    /// Exactly this many.
    Whole(u32),
}

/// What the variables of a grid are in a dispatch. [`Variable::M`] need not be named.
pub(crate) type Sizes<'s> = &'s [(Variable, Size)];

/// What a bind group starts with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Head {
    /// Nothing: the kernel takes no parameters.
    None,
    /// A slot of parameters at binding 0.
    Params(usize),
    /// A slot of parameters at binding 0, and the recorded number of rows at bindings 1 and 2.
    Counted(usize),
}

#[derive(Debug)]
struct GroupDraft {
    pipeline: Arc<Pipeline>,
    head: Head,
    entries: Range<usize>,
}

#[derive(Clone, Debug)]
struct Stage {
    pipeline: Arc<Pipeline>,
    counts: RangeInclusive<u32>,
    dispatches: Range<usize>,
}

#[derive(Clone, Debug)]
struct Dispatch {
    group: usize,
    span: Span,
    workgroups: Workgroups,
}

impl Dispatch {
    /// The number of workgroups if `rows` rows are recorded.
    fn groups(&self, rows: u32) -> u64 {
        self.workgroups.of(self.span.rows(rows))
    }
}

#[derive(Clone, Debug)]
struct Group {
    group: wgpu::BindGroup,
    counted: bool,
}

/// A recording before its device objects exist. `P` are the parameters of its kernels.
pub(crate) struct Draft<'a, P> {
    kernels: &'a Kernels,
    label: &'static str,
    count: Count,
    params: Vec<P>,
    entries: Vec<(u32, Resource<'a>)>,
    groups: Vec<GroupDraft>,
    stages: Vec<Stage>,
    dispatches: Vec<Dispatch>,
}

impl<'a, P: bytemuck::Pod> Draft<'a, P> {
    /// Creates a draft with room for `slots` slots of parameters.
    pub fn new(
        kernels: &'a Kernels,
        label: &'static str,
        count: Count,
        slots: u64,
    ) -> Result<Self, BindError> {
        let stride = Self::stride(kernels);
        let limit = (kernels.caps().max_buffer / stride as u64).min(MAX_SLOTS);
        if slots > limit {
            return Err(BindError::TooManyDispatches { dispatches: slots, limit });
        }
        let params = Vec::with_capacity(slots as usize);
        let (entries, groups) = (Vec::new(), Vec::new());
        let (stages, dispatches) = (Vec::new(), Vec::new());
        Ok(Self { kernels, label, count, params, entries, groups, stages, dispatches })
    }

    /// Returns the number of bytes from one slot to the next.
    fn stride(kernels: &Kernels) -> usize {
        size_of::<P>().next_multiple_of(kernels.caps().uniform_align.max(4) as usize)
    }

    /// Adds parameters; the result is the number of their slot.
    pub fn slot(&mut self, params: P) -> usize {
        self.params.push(params);
        self.params.len() - 1
    }

    /// Adds a bind group in the layout of a pipeline; the result is its number. Pipelines whose
    /// bindings are the same may share it.
    pub fn group(
        &mut self,
        pipeline: &Arc<Pipeline>,
        head: Head,
        bound: impl IntoIterator<Item = (u32, Resource<'a>)>,
    ) -> usize {
        let start = self.entries.len();
        self.entries.extend(bound);
        let (pipeline, entries) = (pipeline.clone(), start..self.entries.len());
        self.groups.push(GroupDraft { pipeline, head, entries });
        self.groups.len() - 1
    }

    /// Begins a stage: dispatches of one pipeline, recorded if the number of rows is in `counts`.
    pub fn stage(&mut self, pipeline: &Arc<Pipeline>, counts: RangeInclusive<u32>) {
        let at = self.dispatches.len();
        self.stages.push(Stage { pipeline: pipeline.clone(), counts, dispatches: at..at });
    }

    /// Adds a dispatch to the last stage. It takes the rows of a span, and its workgroups are those
    /// that the grid of the kernel declares.
    pub fn dispatch(&mut self, group: usize, span: Span, sizes: Sizes<'_>) {
        let Some(stage) = self.stages.last_mut() else { return };
        let size = |variable| match sizes.iter().find(|(known, _)| *known == variable) {
            Some((_, size)) => *size,
            None if variable == Variable::M => Size::PerRow(1),
            // No device has so many workgroups, so binding refuses a grid that no op fills.
            None => Size::Fixed(u64::MAX),
        };
        let workgroups = stage.pipeline.grid.workgroups(size);
        self.dispatches.push(Dispatch { group, span, workgroups });
        stage.dispatches.end = self.dispatches.len();
    }

    /// Adds a dispatch of a pipeline with a bind group of its own.
    pub fn step(
        &mut self,
        pipeline: &Arc<Pipeline>,
        head: Head,
        bound: impl IntoIterator<Item = (u32, Resource<'a>)>,
        span: Span,
        sizes: Sizes<'_>,
    ) {
        let last = self.stages.last().map(|stage| &stage.pipeline);
        if !last.is_some_and(|last| Arc::ptr_eq(last, pipeline)) {
            self.stage(pipeline, ALL_COUNTS);
        }
        let group = self.group(pipeline, head, bound);
        self.dispatch(group, span, sizes);
    }

    /// Finishes the draft as the recording of a plan.
    pub async fn bind<Plan>(self, plan: Plan) -> Result<Bound<Plan>, BindError> {
        Ok(Bound { plan, recording: self.finish().await? })
    }

    /// Checks the largest grid of each dispatch, uploads parameters and makes bind groups.
    pub async fn finish(self) -> Result<Recording, BindError> {
        let caps = self.kernels.caps();
        let (Count::UpTo(most) | Count::Whole(most)) = self.count;
        for stage in &self.stages {
            let rows = most.min(*stage.counts.end());
            for dispatch in &self.dispatches[stage.dispatches.clone()] {
                let groups = dispatch.groups(rows);
                if caps.fold(groups).is_none() {
                    return Err(BindError::GridTooLarge { groups, limit: caps.max_groups });
                }
            }
        }
        let stride = Self::stride(self.kernels);
        let mut words = vec![0u32; self.params.len() * stride / 4];
        for (params, slot) in self.params.iter().zip(words.chunks_mut(stride / 4)) {
            let params: &[u32] = bytemuck::cast_slice(std::slice::from_ref(params));
            slot[..params.len()].copy_from_slice(params);
        }
        let (usage, fill) = (wgpu::BufferUsages::UNIFORM, BufferFill::Words(&words));
        let slots = self.kernels.buffer(self.label, usage, fill).await?;
        let make = || self.groups.iter().map(|group| self.bind_group(group, &slots)).collect();
        let groups = self.kernels.guarded(self.label, make).await?;
        let Self { kernels, count, stages, dispatches, .. } = self;
        Ok(Recording { kernels: kernels.clone(), count, groups, stages, dispatches })
    }

    fn bind_group(&self, draft: &GroupDraft, slots: &wgpu::Buffer) -> Group {
        let bound = &self.entries[draft.entries.clone()];
        let views: Vec<_> = bound
            .iter()
            .filter_map(|(_, resource)| match resource {
                Resource::Buffer(_) => None,
                Resource::Texture(texture) => Some(texture.create_view(&Default::default())),
            })
            .collect();
        let part = |binding, buffer, offset, bytes| {
            let size = wgpu::BufferSize::new(bytes);
            let resource = BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size });
            BindGroupEntry { binding, resource }
        };
        let mut entries = Vec::with_capacity(3 + bound.len());
        if let Head::Params(slot) | Head::Counted(slot) = draft.head {
            let offset = (slot * Self::stride(self.kernels)) as u64;
            entries.push(part(0, slots, offset, size_of::<P>() as u64));
        }
        let counted = matches!(draft.head, Head::Counted(_));
        if counted {
            entries.extend([1, 2].map(|binding| part(binding, self.kernels.m_table(), 0, 16)));
        }
        let mut view = views.iter();
        entries.extend(bound.iter().filter_map(|(binding, resource)| {
            let resource = match resource {
                Resource::Buffer(part) => BindingResource::Buffer(part.clone()),
                Resource::Texture(_) => BindingResource::TextureView(view.next()?),
            };
            Some(BindGroupEntry { binding: *binding, resource })
        }));
        let group = self.kernels.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(self.label),
            layout: &draft.pipeline.layout,
            entries: &entries,
        });
        Group { group, counted }
    }
}

/// A plan with its buffers. It can be recorded any number of times, for any number of rows up to
/// the plan's maximum.
#[derive(Clone, Debug)]
pub struct Bound<P> {
    plan: P,
    recording: Recording,
}

impl<P> Bound<P> {
    /// Returns the plan it was bound from.
    pub fn plan(&self) -> &P {
        &self.plan
    }

    /// Returns the same with another op recorded before it, for the same numbers of rows.
    pub(super) fn after<Q>(self, first: Bound<Q>) -> Self {
        Self { plan: self.plan, recording: first.recording.then(self.recording) }
    }

    /// Returns the number of dispatches of the largest recording.
    pub fn dispatches(&self) -> usize {
        self.recording.dispatches()
    }

    /// The number of workgroups of each dispatch of a recording of `rows` rows, for tests.
    #[doc(hidden)]
    pub fn workgroups(&self, rows: u32) -> Vec<u64> {
        self.recording.workgroups(rows).collect()
    }

    /// Records the op for the first `rows` rows. Ops on a whole matrix (repacking, dequantizing
    /// all rows) take exactly its number of rows. Sets the pass's pipeline and bind group 0.
    /// Neither allocates nor waits.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the plan was not made for that many rows; nothing is recorded
    /// then.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) -> Result<(), RecordError> {
        self.recording.record(pass, rows)
    }
}

/// Dispatches with all that they bind. Cheap to record any number of times.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    kernels: Kernels,
    count: Count,
    groups: Vec<Group>,
    stages: Vec<Stage>,
    dispatches: Vec<Dispatch>,
}

impl Recording {
    /// Records the dispatches that `rows` rows need. Sets the pass's pipelines and bind group 0.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) -> Result<(), RecordError> {
        // The number of rows of a whole matrix may exceed what offsets carry; no kernel reads it.
        let offsets = match self.count {
            Count::UpTo(max_m) if rows > max_m => {
                return Err(RecordError::MTooLarge { m: rows, max_m });
            }
            Count::Whole(need) if rows != need => {
                return Err(RecordError::NotWhole { need, have: rows });
            }
            Count::UpTo(_) => self.kernels.m_offsets(rows),
            Count::Whole(_) => self.kernels.m_offsets(0),
        };
        for stage in self.stages_of(rows) {
            let mut pipeline = Some(&stage.pipeline.pipeline);
            for dispatch in &self.dispatches[stage.dispatches.clone()] {
                // `finish` has checked the largest grid, and smaller ones fold as well.
                let [x, y, z] = self.kernels.caps().fold(dispatch.groups(rows)).unwrap_or_default();
                if x == 0 {
                    continue;
                }
                if let Some(pipeline) = pipeline.take() {
                    pass.set_pipeline(pipeline);
                    if let Some(extra) = &stage.pipeline.extra {
                        pass.set_bind_group(1, extra, &[]);
                    }
                }
                let Group { group, counted } = &self.groups[dispatch.group];
                pass.set_bind_group(0, group, if *counted { &offsets } else { &[] });
                pass.dispatch_workgroups(x, y, z);
            }
        }
        Ok(())
    }

    /// Returns the dispatches of both recordings, which are made for the same numbers of rows.
    fn then(mut self, next: Self) -> Self {
        let (groups, dispatches) = (self.groups.len(), self.dispatches.len());
        self.groups.extend(next.groups);
        self.dispatches.extend(
            next.dispatches
                .into_iter()
                .map(|dispatch| Dispatch { group: dispatch.group + groups, ..dispatch }),
        );
        self.stages.extend(next.stages.into_iter().map(|stage| {
            let Range { start, end } = stage.dispatches;
            Stage { dispatches: start + dispatches..end + dispatches, ..stage }
        }));
        self
    }

    fn stages_of(&self, rows: u32) -> impl Iterator<Item = &Stage> {
        self.stages.iter().filter(move |stage| stage.counts.contains(&rows))
    }

    /// Returns the number of workgroups of each dispatch that `rows` rows need.
    pub fn workgroups(&self, rows: u32) -> impl Iterator<Item = u64> {
        let dispatches = |stage: &Stage| &self.dispatches[stage.dispatches.clone()];
        let groups = move |dispatch: &Dispatch| dispatch.groups(rows);
        self.stages_of(rows).flat_map(dispatches).map(groups).filter(|groups| *groups > 0)
    }

    /// Returns the number of dispatches of the largest recording.
    pub fn dispatches(&self) -> usize {
        let (Count::UpTo(most) | Count::Whole(most)) = self.count;
        self.workgroups(most).count()
    }
}

/// Returns the pipelines of shaders, in order. Those that are not cached are compiled concurrently.
pub(crate) async fn pipelines(
    kernels: &Kernels,
    shaders: &[KernelDesc],
) -> Result<Vec<Arc<Pipeline>>, DeviceError> {
    kernels.prepare(shaders).await?;
    let mut pipelines = Vec::with_capacity(shaders.len());
    for shader in shaders {
        pipelines.push(kernels.pipeline(shader).await?);
    }
    Ok(pipelines)
}
