//! A driver that fails when it is told to: wgpu's own device behind its interface for other
//! implementations. lowbit takes it as it takes any device, so that nothing of lowbit knows of
//! faults, and what is tested is what runs elsewhere. It has what lowbit uses of wgpu, without
//! textures and timestamps.
#![allow(dead_code)]

mod record;

use lowbit::host::{Host, HostError};
use std::cell::RefCell;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use wgpu::custom::*;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A buffer finds no memory.
    OutOfMemory,
    /// The driver does not compile a valid pipeline.
    Pipeline,
    /// The driver loses the device at a submission.
    Lost,
    /// A submission never ends.
    Hang,
}

/// What the driver's words are.
pub const PIPELINE_MESSAGE: &str = "the shim's compiler gave up";
pub const LOST_MESSAGE: &str = "the shim's device fell off the bus";

type Corrupt = Box<dyn FnMut(&mut [u8]) + Send>;

#[derive(Default)]
struct State {
    /// What is to go wrong, and after how many more calls of its kind.
    planted: Option<(Fault, usize)>,
    struck: bool,
    lost: bool,
    hung: bool,
    on_lost: Option<BoxDeviceLostCallback>,
    submissions: Vec<wgpu::SubmissionIndex>,
    corrupt: Option<Corrupt>,
    readbacks: usize,
}

/// A host whose driver fails on demand.
pub struct Shim {
    pub host: Host,
    pub state: Shared,
}

impl Shim {
    /// The driver of another host. That host's device is the shim's from now on.
    pub fn new(real: &Host) -> Result<Self, HostError> {
        let state = Shared::default();
        let mut info = real.adapter_info().clone();
        // Nothing is known of a driver of this name: no textures, no conversions of its own.
        info.driver = "shim".into();
        let limits = real.device().limits();
        let device = wgpu::Device::from_custom(ShimDevice {
            inner: real.device().clone(),
            info: info.clone(),
            state: state.clone(),
        });
        let queue = ShimQueue { inner: real.queue().clone(), state: state.clone() };
        let queue = wgpu::Queue::from_custom(queue);
        Ok(Self { host: Host::with_device(info, device, queue, &limits)?, state })
    }

    /// Plants a fault in the call of its kind that comes after `after` others; later ones are well.
    pub fn plant(&self, fault: Fault, after: usize) {
        let mut state = self.state.lock();
        (state.planted, state.struck) = (Some((fault, after)), false);
    }

    /// Takes the fault away: whether it had struck.
    pub fn clear(&self) -> bool {
        let mut state = self.state.lock();
        state.planted = None;
        state.struck
    }

    /// What is read back goes through this from now on.
    pub fn corrupt(&self, corrupt: impl FnMut(&mut [u8]) + Send + 'static) {
        self.state.lock().corrupt = Some(Box::new(corrupt));
    }

    /// How many mapped ranges were read.
    pub fn readbacks(&self) -> usize {
        self.state.lock().readbacks
    }
}

/// What the device, its queue and its buffers share.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<State>>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether this call of a kind is the one that fails.
    fn strikes(&self, kind: Fault) -> bool {
        let mut state = self.lock();
        match &mut state.planted {
            Some((fault, after)) if *fault == kind => {
                if *after > 0 {
                    *after -= 1;
                    return false;
                }
                (state.planted, state.struck) = (None, true);
                true
            }
            _ => false,
        }
    }
}

struct Scope {
    filter: wgpu::ErrorFilter,
    inner: wgpu::ErrorScopeGuard,
    planted: Option<wgpu::Error>,
}

thread_local! {
    /// Error scopes are a stack of their thread; lowbit never opens those of two devices at once.
    static SCOPES: RefCell<Vec<Scope>> = const { RefCell::new(Vec::new()) };
}

/// An error of the driver, for the innermost scope that takes it.
fn raise(filter: wgpu::ErrorFilter, error: wgpu::Error) {
    SCOPES.with_borrow_mut(|scopes| {
        let scope = scopes.iter_mut().rev().find(|scope| scope.filter == filter);
        let scope = scope.unwrap_or_else(|| panic!("an error outside of all scopes: {error}"));
        scope.planted.get_or_insert(error);
    });
}

/// What lowbit does not use.
fn absent<T>(what: &str) -> T {
    panic!("the shim has no {what}")
}

#[derive(Debug)]
struct ShimDevice {
    inner: wgpu::Device,
    info: wgpu::AdapterInfo,
    state: Shared,
}

#[derive(Debug)]
struct ShimQueue {
    inner: wgpu::Queue,
    state: Shared,
}

#[derive(Debug)]
struct ShimBuffer {
    /// None where there was no memory.
    inner: Option<wgpu::Buffer>,
    /// Mapped at creation, or for reading.
    written: bool,
    state: Shared,
}

impl ShimBuffer {
    fn real(&self) -> &wgpu::Buffer {
        self.inner.as_ref().expect("lowbit uses a buffer that there is no memory for")
    }
}

fn real(buffer: &wgpu::Buffer) -> &wgpu::Buffer {
    buffer.as_custom::<ShimBuffer>().expect("a buffer of this device").real()
}

#[derive(Debug)]
struct Module(wgpu::ShaderModule);
#[derive(Debug)]
struct GroupLayout(wgpu::BindGroupLayout);
#[derive(Debug)]
struct Group(wgpu::BindGroup);
#[derive(Debug)]
struct Layout(wgpu::PipelineLayout);
#[derive(Debug)]
struct Pipeline(wgpu::ComputePipeline);
#[derive(Debug)]
struct Encoder(Mutex<Option<wgpu::CommandEncoder>>);
#[derive(Debug)]
struct Pass(wgpu::ComputePass<'static>);
#[derive(Debug)]
struct Commands(Mutex<Option<wgpu::CommandBuffer>>);

#[derive(Debug)]
enum Mapped {
    Read(Vec<u8>),
    Write(wgpu::BufferViewMut),
}

impl DeviceInterface for ShimDevice {
    fn features(&self) -> wgpu::Features {
        self.inner.features() & lowbit::gpu::Caps::useful_features()
    }

    fn limits(&self) -> wgpu::Limits {
        self.inner.limits()
    }

    fn adapter_info(&self) -> wgpu::AdapterInfo {
        self.info.clone()
    }

    fn create_shader_module(
        &self,
        desc: wgpu::ShaderModuleDescriptor<'_>,
        checks: wgpu::ShaderRuntimeChecks,
    ) -> DispatchShaderModule {
        // SAFETY: the checks are what the caller asked for, who argues for them.
        let module = unsafe { self.inner.create_shader_module_trusted(desc, checks) };
        DispatchShaderModule::custom(Module(module))
    }

    unsafe fn create_shader_module_passthrough(
        &self,
        _: &wgpu::ShaderModuleDescriptorPassthrough<'_>,
    ) -> DispatchShaderModule {
        absent("passthrough shaders")
    }

    fn create_bind_group_layout(
        &self,
        desc: &wgpu::BindGroupLayoutDescriptor<'_>,
    ) -> DispatchBindGroupLayout {
        DispatchBindGroupLayout::custom(GroupLayout(self.inner.create_bind_group_layout(desc)))
    }

    fn create_bind_group(&self, desc: &wgpu::BindGroupDescriptor<'_>) -> DispatchBindGroup {
        let entries = desc.entries.iter().map(|entry| match &entry.resource {
            wgpu::BindingResource::Buffer(binding) => wgpu::BindGroupEntry {
                binding: entry.binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: real(binding.buffer),
                    offset: binding.offset,
                    size: binding.size,
                }),
            },
            _ => absent("bindings but buffers"),
        });
        let layout = &desc.layout.as_custom::<GroupLayout>().expect("a layout of this device").0;
        DispatchBindGroup::custom(Group(self.inner.create_bind_group(&wgpu::BindGroupDescriptor {
            label: desc.label,
            layout,
            entries: &entries.collect::<Vec<_>>(),
        })))
    }

    fn create_pipeline_layout(
        &self,
        desc: &wgpu::PipelineLayoutDescriptor<'_>,
    ) -> DispatchPipelineLayout {
        let layouts = desc.bind_group_layouts.iter().map(|layout| {
            layout.map(|layout| &layout.as_custom::<GroupLayout>().expect("of this device").0)
        });
        let layouts: Vec<_> = layouts.collect();
        let desc = wgpu::PipelineLayoutDescriptor {
            label: desc.label,
            bind_group_layouts: &layouts,
            immediate_size: desc.immediate_size,
        };
        DispatchPipelineLayout::custom(Layout(self.inner.create_pipeline_layout(&desc)))
    }

    fn create_render_pipeline(
        &self,
        _: &wgpu::RenderPipelineDescriptor<'_>,
    ) -> DispatchRenderPipeline {
        absent("rendering")
    }

    fn create_mesh_pipeline(&self, _: &wgpu::MeshPipelineDescriptor<'_>) -> DispatchRenderPipeline {
        absent("rendering")
    }

    fn create_compute_pipeline(
        &self,
        desc: &wgpu::ComputePipelineDescriptor<'_>,
    ) -> DispatchComputePipeline {
        if self.state.strikes(Fault::Pipeline) {
            raise(
                wgpu::ErrorFilter::Internal,
                wgpu::Error::Internal {
                    source: PIPELINE_MESSAGE.into(),
                    description: PIPELINE_MESSAGE.into(),
                },
            );
        }
        let layout = desc.layout.map(|l| &l.as_custom::<Layout>().expect("of this device").0);
        let pipeline = self.inner.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: desc.label,
            layout,
            module: &desc.module.as_custom::<Module>().expect("of this device").0,
            entry_point: desc.entry_point,
            compilation_options: desc.compilation_options.clone(),
            cache: None,
        });
        DispatchComputePipeline::custom(Pipeline(pipeline))
    }

    unsafe fn create_pipeline_cache(
        &self,
        _: &wgpu::PipelineCacheDescriptor<'_>,
    ) -> DispatchPipelineCache {
        absent("pipeline cache")
    }

    fn create_buffer(&self, desc: &wgpu::BufferDescriptor<'_>) -> DispatchBuffer {
        let starved = self.state.strikes(Fault::OutOfMemory);
        if starved {
            let source = "the shim has no memory left".into();
            raise(wgpu::ErrorFilter::OutOfMemory, wgpu::Error::OutOfMemory { source });
        }
        DispatchBuffer::custom(ShimBuffer {
            inner: (!starved).then(|| self.inner.create_buffer(desc)),
            written: desc.mapped_at_creation,
            state: self.state.clone(),
        })
    }

    fn create_texture(&self, _: &wgpu::TextureDescriptor<'_>) -> DispatchTexture {
        absent("textures")
    }

    fn create_external_texture(
        &self,
        _: &wgpu::ExternalTextureDescriptor<'_>,
        _: &[&wgpu::TextureView],
    ) -> DispatchExternalTexture {
        absent("textures")
    }

    fn create_blas(
        &self,
        _: &wgpu::CreateBlasDescriptor<'_>,
        _: wgpu::BlasGeometrySizeDescriptors,
    ) -> (Option<u64>, DispatchBlas) {
        absent("rays")
    }

    fn create_tlas(&self, _: &wgpu::CreateTlasDescriptor<'_>) -> DispatchTlas {
        absent("rays")
    }

    fn create_sampler(&self, _: &wgpu::SamplerDescriptor<'_>) -> DispatchSampler {
        absent("samplers")
    }

    fn create_query_set(&self, _: &wgpu::QuerySetDescriptor<'_>) -> DispatchQuerySet {
        absent("queries")
    }

    fn create_command_encoder(
        &self,
        desc: &wgpu::CommandEncoderDescriptor<'_>,
    ) -> DispatchCommandEncoder {
        let encoder = self.inner.create_command_encoder(desc);
        DispatchCommandEncoder::custom(Encoder(Mutex::new(Some(encoder))))
    }

    fn create_render_bundle_encoder(
        &self,
        _: &wgpu::RenderBundleEncoderDescriptor<'_>,
    ) -> DispatchRenderBundleEncoder {
        absent("rendering")
    }

    fn set_device_lost_callback(&self, callback: BoxDeviceLostCallback) {
        self.state.lock().on_lost = Some(callback);
    }

    fn on_uncaptured_error(&self, handler: Arc<dyn wgpu::UncapturedErrorHandler>) {
        self.inner.on_uncaptured_error(handler);
    }

    fn push_error_scope(&self, filter: wgpu::ErrorFilter) -> u32 {
        let inner = self.inner.push_error_scope(filter);
        SCOPES.with_borrow_mut(|scopes| {
            scopes.push(Scope { filter, inner, planted: None });
            scopes.len() as u32 - 1
        })
    }

    fn pop_error_scope(&self, index: u32) -> Pin<Box<dyn PopErrorScopeFuture>> {
        let scope = SCOPES.with_borrow_mut(|scopes| {
            assert_eq!(scopes.len() as u32, index + 1, "scopes are popped last one first");
            scopes.pop().unwrap()
        });
        let inner = scope.inner.pop();
        Box::pin(async move { scope.planted.or(inner.await) })
    }

    unsafe fn start_graphics_debugger_capture(&self) {}

    unsafe fn stop_graphics_debugger_capture(&self) {}

    fn poll(
        &self,
        poll_type: wgpu::wgt::PollType<u64>,
    ) -> Result<wgpu::PollStatus, wgpu::PollError> {
        let mut state = self.state.lock();
        if state.lost
            && let Some(tell) = state.on_lost.take()
        {
            drop(state);
            tell(wgpu::DeviceLostReason::Unknown, LOST_MESSAGE.into());
            return Ok(wgpu::PollStatus::Poll);
        }
        if state.hung {
            drop(state);
            let wgpu::wgt::PollType::Wait { timeout, .. } = poll_type else {
                return Ok(wgpu::PollStatus::Poll);
            };
            let timeout = timeout.expect("lowbit waits for ever");
            // Not all of what a careless caller asks for.
            std::thread::sleep(timeout.min(Duration::from_secs(5)));
            return Err(wgpu::PollError::Timeout);
        }
        let indices = &state.submissions;
        let poll_type = poll_type.map_index(|index| indices[index as usize].clone());
        drop(state);
        self.inner.poll(poll_type)
    }

    fn get_internal_counters(&self) -> wgpu::InternalCounters {
        self.inner.get_internal_counters()
    }

    fn generate_allocator_report(&self) -> Option<wgpu::AllocatorReport> {
        self.inner.generate_allocator_report()
    }

    fn destroy(&self) {
        self.state.lock().lost = true;
        self.inner.destroy();
    }
}

impl QueueInterface for ShimQueue {
    fn write_buffer(&self, buffer: &DispatchBuffer, offset: u64, data: &[u8]) {
        let buffer = buffer.as_custom::<ShimBuffer>().expect("of this device");
        self.inner.write_buffer(buffer.real(), offset, data);
    }

    fn create_staging_buffer(&self, _: wgpu::BufferSize) -> Option<DispatchQueueWriteBuffer> {
        absent("staging buffers")
    }

    fn validate_write_buffer(&self, _: &DispatchBuffer, _: u64, _: wgpu::BufferSize) -> Option<()> {
        absent("staging buffers")
    }

    fn write_staging_buffer(&self, _: &DispatchBuffer, _: u64, _: &DispatchQueueWriteBuffer) {
        absent("staging buffers")
    }

    fn write_texture(
        &self,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: &[u8],
        _: wgpu::TexelCopyBufferLayout,
        _: wgpu::Extent3d,
    ) {
        absent("textures")
    }

    fn submit(&self, commands: &mut dyn Iterator<Item = DispatchCommandBuffer>) -> u64 {
        let commands: Vec<_> = commands
            .filter_map(|commands| {
                let commands = commands.as_custom::<Commands>().expect("of this device");
                commands.0.lock().unwrap().take()
            })
            .collect();
        if self.state.strikes(Fault::Lost) {
            self.state.lock().lost = true;
        }
        if self.state.strikes(Fault::Hang) {
            self.state.lock().hung = true;
        }
        let gone = {
            let state = self.state.lock();
            state.lost || state.hung
        };
        let index = self.inner.submit(if gone { Vec::new() } else { commands });
        let mut state = self.state.lock();
        state.submissions.push(index);
        state.submissions.len() as u64 - 1
    }

    fn get_timestamp_period(&self) -> f32 {
        self.inner.get_timestamp_period()
    }

    fn on_submitted_work_done(&self, callback: BoxSubmittedWorkDoneCallback) {
        self.inner.on_submitted_work_done(callback);
    }

    fn compact_blas(&self, _: &DispatchBlas) -> (Option<u64>, DispatchBlas) {
        absent("rays")
    }

    fn present(&self, _: &DispatchSurfaceOutputDetail) {
        absent("surfaces")
    }
}

impl BufferInterface for ShimBuffer {
    fn map_async(&self, mode: wgpu::MapMode, range: Range<u64>, callback: BufferMapCallback) {
        let (lost, hung) = {
            let state = self.state.lock();
            (state.lost, state.hung)
        };
        if lost {
            callback(Err(wgpu::BufferAsyncError));
        } else if hung {
            // Kept for ever, as what waits for it is.
            std::mem::forget(callback);
        } else {
            self.real().map_async(mode, range, callback);
        }
    }

    fn get_mapped_range(
        &self,
        range: Range<u64>,
    ) -> Result<DispatchBufferMappedRange, wgpu::MapRangeError> {
        let mapped = match &self.inner {
            // What is written there goes nowhere.
            None => Mapped::Read(vec![0; (range.end - range.start) as usize]),
            Some(inner) if self.written => Mapped::Write(inner.get_mapped_range_mut(range)?),
            Some(inner) => {
                let mut bytes = inner.get_mapped_range(range)?.to_vec();
                let mut state = self.state.lock();
                state.readbacks += 1;
                if let Some(corrupt) = &mut state.corrupt {
                    corrupt(&mut bytes);
                }
                Mapped::Read(bytes)
            }
        };
        Ok(DispatchBufferMappedRange::custom(mapped))
    }

    fn unmap(&self) {
        if let Some(inner) = &self.inner {
            inner.unmap();
        }
    }

    fn destroy(&self) {
        if let Some(inner) = &self.inner {
            inner.destroy();
        }
    }
}

impl BufferMappedRangeInterface for Mapped {
    fn len(&self) -> usize {
        match self {
            Self::Read(bytes) => bytes.len(),
            Self::Write(view) => view.len(),
        }
    }

    unsafe fn read_slice(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Write(_) => panic!("read from a mapping for writing"),
        }
    }

    unsafe fn write_slice(&mut self) -> wgpu::WriteOnly<'_, [u8]> {
        match self {
            Self::Read(bytes) => bytes.as_mut_slice().into(),
            Self::Write(view) => view.slice(..),
        }
    }
}

impl ShaderModuleInterface for Module {
    fn get_compilation_info(&self) -> Pin<Box<dyn ShaderCompilationInfoFuture>> {
        Box::pin(self.0.get_compilation_info())
    }
}

impl BindGroupLayoutInterface for GroupLayout {}
impl BindGroupInterface for Group {}
impl PipelineLayoutInterface for Layout {}
impl CommandBufferInterface for Commands {}

impl ComputePipelineInterface for Pipeline {
    fn get_bind_group_layout(&self, _: u32) -> DispatchBindGroupLayout {
        absent("layouts of pipelines")
    }
}
