use super::{Access, Caps, Grid, ImportError, KernelDesc, Wgsl};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The number of entries in the table of row counts; see [`Kernels::m_offsets`].
pub(crate) const M_TABLE: u32 = 1024;

/// The largest count that two digits of that table can carry.
pub(crate) const MAX_COUNT: u32 = M_TABLE * M_TABLE - 1;

/// The format of [`Access::Texture`].
pub(crate) const CODE_TEXTURE: wgpu::TextureFormat = wgpu::TextureFormat::Rgba32Uint;

/// What the device refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The device was lost. Create a new device and new [`Kernels`].
    #[error("the device was lost ({0}); create a new device and new kernels")]
    Lost(String),
    /// An allocation failed. The device still works: free something, or ask for less.
    #[error("the device is out of memory for {what}{}: {message}", sized(*.bytes))]
    OutOfMemory {
        /// The object that was being created.
        what: String,
        /// The size in bytes; `None` for bind groups and pipelines, which have no size.
        bytes: Option<u64>,
        /// The message of the device.
        message: String,
    },
    /// A kernel is not a valid shader for this device. This is a defect of this crate, or the kernel
    /// needs more than the device was requested with.
    #[error("kernel {kernel} is not a valid shader for this device{}: {message}", located(.at))]
    Shader {
        /// The kernel's id.
        kernel: String,
        /// The lines that the message names, in the form `decode/int4.wgsl:12`; empty if the message
        /// is about the whole shader.
        at: Vec<String>,
        /// The message of the device, with lines traced to their files.
        message: String,
    },
    /// A kernel needs more than the device was requested with, or than its [`Caps`] state.
    #[error(
        "kernel {kernel} needs {need} of {limit}, but the device has {have}; request the adapter's limits"
    )]
    Limit {
        /// The kernel's id.
        kernel: String,
        /// The field of [`wgpu::Limits`].
        limit: &'static str,
        /// How much the kernel needs.
        need: u32,
        /// How much the device has.
        have: u32,
    },
    /// The driver's compiler refused a valid shader. Another schedule may work
    /// ([`Select::Pinned`](crate::ops::Select::Pinned)); [`Host::tune`](crate::host::Host::tune)
    /// skips such kernels.
    #[error("the driver does not compile kernel {kernel}: {message}; try another schedule")]
    Pipeline {
        /// The kernel's id.
        kernel: String,
        /// The message of the driver.
        message: String,
    },
    /// The device refused something that this crate had checked. This is a defect of this crate or of
    /// the driver.
    #[error("the device refused {what}: {message}")]
    Refused {
        /// The object that was being created.
        what: String,
        /// The message of the device.
        message: String,
    },
}

fn sized(bytes: Option<u64>) -> String {
    bytes.map_or(String::new(), |bytes| format!(" ({bytes} bytes)"))
}

fn located(at: &[String]) -> String {
    if at.is_empty() { String::new() } else { format!(" (at {})", at.join(", ")) }
}

impl DeviceError {
    /// A kernel whose fragments do not compose: a defect of this crate.
    pub(crate) fn from_import(kernel: String, error: &ImportError) -> Self {
        Self::Shader { kernel, at: Vec::new(), message: error.to_string() }
    }

    /// Adds the size of the allocation that failed.
    pub(crate) fn of_bytes(self, bytes: u64) -> Self {
        match self {
            Self::OutOfMemory { what, message, .. } => {
                Self::OutOfMemory { what, bytes: Some(bytes), message }
            }
            other => other,
        }
    }
}

/// Tells [`Kernels`] that their device was lost. wgpu has one lost callback for each device, which
/// belongs to the engine; call [`set`](Self::set) in it. wgpu calls it when the device is polled:
/// between the loss and that poll, errors may be [`DeviceError::Refused`].
#[derive(Clone, Debug, Default)]
pub struct LostFlag(Arc<OnceLock<String>>);

impl LostFlag {
    /// Marks the device as lost. The first reason is kept.
    pub fn set(&self, reason: impl Into<String>) {
        let _ = self.0.set(reason.into());
    }

    /// Returns the reason, if the device was lost.
    pub fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// A compiled kernel, the layout of its bind group, and the grid of its description.
#[derive(Debug)]
pub struct Pipeline {
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) grid: Grid,
    /// Bind group 1, of a kernel that [`Instrument`] replaced.
    pub(crate) extra: Option<wgpu::BindGroup>,
}

/// Replaces shaders before they are compiled, for tools that observe kernels while ops run as
/// always. Bind group 1 is the tool's.
#[doc(hidden)]
pub trait Instrument: std::fmt::Debug + Send + Sync {
    /// Returns what is compiled in place of the composed text of a kernel, or `None` to leave the
    /// kernel as it is.
    ///
    /// # Errors
    /// Returns a message, with which planning then fails.
    fn instrument(&self, kernel: &KernelDesc, wgsl: &str) -> Result<Option<Instrumented>, String>;
}

/// A shader that replaces a kernel, and its bind group 1. Bind group 0 stays as it was.
#[doc(hidden)]
#[derive(Debug)]
pub struct Instrumented {
    /// The shader.
    pub source: wgpu::ShaderSource<'static>,
    /// The layout of bind group 1.
    pub layout: wgpu::BindGroupLayout,
    /// Bind group 1 of every dispatch.
    pub group: wgpu::BindGroup,
}

/// The contents of a new buffer.
pub(crate) enum BufferFill<'a> {
    /// Zeros, of this number of bytes.
    Zeros(u64),
    /// These words.
    Words(&'a [u32]),
}

impl BufferFill<'_> {
    /// Returns the size of the buffer in bytes. It is at least 32, because wgpu refuses empty
    /// bindings and 32 bytes hold any element that a shader declares.
    fn size(&self) -> u64 {
        match self {
            Self::Zeros(bytes) => (*bytes).max(32),
            Self::Words(words) => (4 * words.len() as u64).max(32),
        }
    }
}

/// The compiled kernels of one device, and what they share. Cheap to clone; `Send + Sync`.
///
/// It never submits, polls or waits. Methods that create device objects are `async` only because a
/// browser answers error scopes later; native futures are ready at once.
#[derive(Clone, Debug)]
pub struct Kernels {
    device: wgpu::Device,
    caps: Caps,
    lost: LostFlag,
    cache: Arc<Mutex<HashMap<KernelDesc, Arc<Pipeline>>>>,
    m_table: wgpu::Buffer,
    /// The driver's cache of compiled code, if the device has the feature.
    driver_cache: Option<wgpu::PipelineCache>,
    instrument: Option<Arc<dyn Instrument>>,
}

impl Kernels {
    /// Kernels for a device. `caps` may state lower limits than the device has; higher limits are
    /// clamped.
    ///
    /// # Errors
    /// Returns [`DeviceError`] if the table of row counts, 1024 times the alignment of uniforms,
    /// cannot be allocated.
    pub async fn new(device: &wgpu::Device, caps: &Caps) -> Result<Self, DeviceError> {
        let caps = caps.within(&device.limits(), device.features());
        let lost = LostFlag::default();
        let stride = (caps.uniform_align / 4) as usize;
        let mut words = vec![0; M_TABLE as usize * stride];
        for (entry, m) in words.chunks_mut(stride).zip(0..) {
            entry[0] = m;
        }
        let usage = wgpu::BufferUsages::UNIFORM;
        let table = create_buffer(device, "lowbit m table", usage, BufferFill::Words(&words));
        let m_table = guard(device, &lost, "the table of row counts", table).await;
        let m_table = m_table.map_err(|error| error.of_bytes(4 * words.len() as u64))?;
        let device = device.clone();
        let (cache, driver_cache, instrument) = (Arc::default(), None, None);
        Ok(Self { device, caps, lost, cache, m_table, driver_cache, instrument })
    }

    /// Like [`new`](Self::new), with the driver's cache of compiled code, which starts with `data` of
    /// an earlier run; [`pipeline_cache_data`](Self::pipeline_cache_data) then returns the data of
    /// this run. Without [`wgpu::Features::PIPELINE_CACHE`] there is no cache. Data of another driver
    /// or version is ignored.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Safety
    /// `data` must come from `pipeline_cache_data`, of any adapter, because drivers trust everything
    /// after a matching header.
    pub async unsafe fn with_pipeline_cache(
        device: &wgpu::Device,
        caps: &Caps,
        data: Option<&[u8]>,
    ) -> Result<Self, DeviceError> {
        let mut kernels = Self::new(device, caps).await?;
        if device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            let label = Some("lowbit pipelines");
            let create = || {
                let descriptor = wgpu::PipelineCacheDescriptor { label, data, fallback: true };
                // SAFETY: the caller vouches for the data.
                unsafe { device.create_pipeline_cache(&descriptor) }
            };
            kernels.driver_cache = Some(kernels.guarded("the pipeline cache", create).await?);
        }
        Ok(kernels)
    }

    /// Uses a flag for lost devices that is set elsewhere already.
    pub(crate) fn with_lost_flag(self, lost: LostFlag) -> Self {
        Self { lost, ..self }
    }

    /// Compiles what `instrument` makes of each kernel. Kernels that are compiled already stay as
    /// they are, in a cache that these kernels no longer share.
    #[doc(hidden)]
    #[must_use]
    pub fn instrumented(self, instrument: Arc<dyn Instrument>) -> Self {
        Self { instrument: Some(instrument), cache: Arc::default(), ..self }
    }

    /// Returns the data for [`with_pipeline_cache`](Self::with_pipeline_cache) in a later run. Name
    /// the file after [`wgpu::util::pipeline_cache_key`]. `None` without the feature.
    pub fn pipeline_cache_data(&self) -> Option<Vec<u8>> {
        self.driver_cache.as_ref().and_then(wgpu::PipelineCache::get_data)
    }

    /// Returns the device.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Returns the facts that the choice of kernels depends on.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Returns the flag that the device's lost callback should set.
    pub fn lost_flag(&self) -> &LostFlag {
        &self.lost
    }

    /// Returns the number of cached pipelines.
    pub fn cached_pipelines(&self) -> usize {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A shared table of uniforms: entry `i`, at `i · align` bytes, holds `i`. Two dynamic offsets
    /// into it carry the m of a dispatch, `high · 1024 + low`, so that recording writes nothing and
    /// no m up to 2²⁰ − 1 needs a new bind group.
    pub(crate) fn m_table(&self) -> &wgpu::Buffer {
        &self.m_table
    }

    /// Returns the dynamic offsets (low, high) that carry `m`.
    pub(crate) fn m_offsets(&self, m: u32) -> [u32; 2] {
        let align = self.caps.uniform_align;
        [m % M_TABLE * align, m / M_TABLE * align]
    }

    /// Returns the compiled kernel, from the cache if it was compiled before.
    ///
    /// # Errors
    /// Returns [`DeviceError`]. If the shader does not compile, the error names the file and line.
    pub async fn pipeline(&self, shader: &KernelDesc) -> Result<Arc<Pipeline>, DeviceError> {
        if let Some(reason) = self.lost.reason() {
            return Err(DeviceError::Lost(reason.into()));
        }
        if let Some(pipeline) = self.cached(shader) {
            return Ok(pipeline);
        }
        self.within(shader)?;
        // A lock is never held over an await; two callers may compile the same twice.
        self.finish(shader, self.start(shader)?).await
    }

    /// Compiles the kernels that are not cached, on as many threads as there are processors. In a
    /// browser, which has threads of its own, it compiles one after the other.
    ///
    /// # Errors
    /// The error of [`pipeline`](Self::pipeline) for the first kernel that fails.
    pub async fn prepare(&self, shaders: &[KernelDesc]) -> Result<(), DeviceError> {
        let mut wanted: Vec<&KernelDesc> = Vec::new();
        for shader in shaders {
            if !wanted.contains(&shader) && self.cached(shader).is_none() {
                self.within(shader)?;
                wanted.push(shader);
            }
        }
        #[cfg(not(target_arch = "wasm32"))]
        if wanted.len() > 1 && self.lost.reason().is_none() {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let next = std::sync::atomic::AtomicUsize::new(0);
            let started = Mutex::new(Vec::with_capacity(wanted.len()));
            let work = || {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(&shader) = wanted.get(at) else { return };
                    let one = self.start(shader);
                    started.lock().unwrap_or_else(PoisonError::into_inner).push((at, one));
                }
            };
            std::thread::scope(|scope| {
                for _ in 1..threads.min(wanted.len()) {
                    // If a thread cannot be started, the others do its work.
                    let _ = std::thread::Builder::new().spawn_scoped(scope, work);
                }
                work();
            });
            let mut started = started.into_inner().unwrap_or_else(PoisonError::into_inner);
            started.sort_by_key(|(at, _)| *at);
            for (at, one) in started {
                self.finish(wanted[at], one?).await?;
            }
            return Ok(());
        }
        for shader in wanted {
            self.pipeline(shader).await?;
        }
        Ok(())
    }

    /// Returns an error if the kernel binds more storage buffers than the device allows. Schedules
    /// check the size and memory of workgroups, or else the device does ([`DeviceError::Shader`]).
    fn within(&self, shader: &KernelDesc) -> Result<(), DeviceError> {
        let (need, have) = (shader.storage_buffers(), self.caps.max_storage_buffers);
        if need <= have {
            return Ok(());
        }
        let limit = "max_storage_buffers_per_shader_stage";
        Err(DeviceError::Limit { kernel: shader.id.clone(), limit, need, have })
    }

    fn cached(&self, shader: &KernelDesc) -> Option<Arc<Pipeline>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(shader).cloned()
    }

    /// Compiles on this thread. The device's answer is still to be awaited.
    fn start(&self, shader: &KernelDesc) -> Result<Started, DeviceError> {
        let wgsl = composed(shader)?;
        let replaced = match &self.instrument {
            Some(instrument) => instrument.instrument(shader, &wgsl.source),
            None => Ok(None),
        };
        let replaced = replaced.map_err(|message| {
            let (kernel, at) = (shader.id.clone(), wgsl.places(&message));
            DeviceError::Shader { kernel, at, message: wgsl.explain(&message) }
        })?;
        let (source, extra) = match replaced {
            Some(Instrumented { source, layout, group }) => (source, Some((layout, group))),
            None => (wgpu::ShaderSource::Wgsl(wgsl.source.as_str().into()), None),
        };
        let (pipeline, error) = scoped(&self.device, || {
            build(&self.device, shader, source, extra, self.driver_cache.as_ref())
        });
        Ok(Started { wgsl, pipeline, error })
    }

    async fn finish(
        &self,
        shader: &KernelDesc,
        started: Started,
    ) -> Result<Arc<Pipeline>, DeviceError> {
        compiled(&self.lost, shader, &started.wgsl, started.error.await)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(cache.entry(shader.clone()).or_insert(Arc::new(started.pipeline)).clone())
    }

    /// Compiles `text` in place of a kernel, for tests that plant a fault: whoever asks for the kernel
    /// then gets the faulty one.
    ///
    /// # Errors
    /// Returns the errors of [`pipeline`](Self::pipeline).
    #[doc(hidden)]
    pub async fn plant(&self, shader: &KernelDesc, text: &str) -> Result<(), DeviceError> {
        if let Some(reason) = self.lost.reason() {
            return Err(DeviceError::Lost(reason.into()));
        }
        let source = wgpu::ShaderSource::Wgsl(text.into());
        let (planted, error) =
            scoped(&self.device, || build(&self.device, shader, source, None, None));
        compiled(&self.lost, shader, &composed(shader)?, error.await)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(shader.clone(), Arc::new(planted));
        Ok(())
    }

    /// Creates a buffer of at least 32 bytes in an error scope.
    pub(crate) async fn buffer(
        &self,
        label: &str,
        usage: wgpu::BufferUsages,
        fill: BufferFill<'_>,
    ) -> Result<wgpu::Buffer, DeviceError> {
        let bytes = fill.size();
        let make = create_buffer(&self.device, label, usage, fill);
        let made = guard(&self.device, &self.lost, label, make).await;
        made.map_err(|error| error.of_bytes(bytes))
    }

    /// Runs `make` in error scopes, so that no error reaches the device's uncaptured handler.
    pub(crate) async fn guarded<T>(
        &self,
        what: &str,
        make: impl FnOnce() -> T,
    ) -> Result<T, DeviceError> {
        guard(&self.device, &self.lost, what, make).await
    }
}

fn create_buffer(
    device: &wgpu::Device,
    label: &str,
    usage: wgpu::BufferUsages,
    fill: BufferFill<'_>,
) -> impl FnOnce() -> wgpu::Buffer {
    let (device, label) = (device.clone(), label.to_string());
    move || {
        let size = fill.size();
        let bytes: &[u8] = match fill {
            BufferFill::Zeros(_) => &[],
            BufferFill::Words(words) => bytemuck::cast_slice(words),
        };
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(&label),
            size,
            usage,
            mapped_at_creation: !bytes.is_empty(),
        });
        if !bytes.is_empty() {
            // Mapping fails only where the allocation did, which the scope reports.
            if let Ok(mut view) = buffer.get_mapped_range_mut(..bytes.len() as u64) {
                view.copy_from_slice(bytes);
            }
            buffer.unmap();
        }
        buffer
    }
}

async fn guard<T>(
    device: &wgpu::Device,
    lost: &LostFlag,
    what: &str,
    make: impl FnOnce() -> T,
) -> Result<T, DeviceError> {
    if let Some(reason) = lost.reason() {
        return Err(DeviceError::Lost(reason.into()));
    }
    let (made, error) = scoped(device, make);
    verdict(lost, what, error.await)?;
    Ok(made)
}

fn composed(shader: &KernelDesc) -> Result<Wgsl, DeviceError> {
    shader.compose().map_err(|error| DeviceError::from_import(shader.id.clone(), &error))
}

/// A pipeline, and the device's answer, which is still to be awaited.
struct Started {
    wgsl: Wgsl,
    pipeline: Pipeline,
    error: Scopes,
}

/// The answer of closed error scopes. In a browser it stays on its thread.
#[cfg(not(target_arch = "wasm32"))]
type Scopes = Pin<Box<dyn Future<Output = Option<wgpu::Error>> + Send>>;
#[cfg(target_arch = "wasm32")]
type Scopes = Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>;

/// Runs `make` in error scopes of this thread. Returns its result, and a future of the error.
fn scoped<T>(device: &wgpu::Device, make: impl FnOnce() -> T) -> (T, Scopes) {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let made = make();
    // All three are popped before the first await: scopes are a stack of this thread.
    let (validation, internal, memory) = (validation.pop(), internal.pop(), memory.pop());
    // Out of memory first: an object that could not be allocated is often invalid afterwards.
    let error: Scopes = Box::pin(async move {
        let (memory, internal, validation) = (memory.await, internal.await, validation.await);
        memory.or(internal).or(validation)
    });
    (made, error)
}

fn verdict(lost: &LostFlag, what: &str, error: Option<wgpu::Error>) -> Result<(), DeviceError> {
    if let Some(reason) = lost.reason() {
        return Err(DeviceError::Lost(reason.into()));
    }
    let what = what.to_string();
    match error {
        None => Ok(()),
        Some(wgpu::Error::OutOfMemory { source }) => {
            Err(DeviceError::OutOfMemory { what, bytes: None, message: source.to_string() })
        }
        Some(error) => Err(DeviceError::Refused { what, message: error.to_string() }),
    }
}

/// Returns an error if a kernel did not compile. An internal error comes from the driver, a validation error
/// from the shader.
fn compiled(
    lost: &LostFlag,
    shader: &KernelDesc,
    wgsl: &Wgsl,
    error: Option<wgpu::Error>,
) -> Result<(), DeviceError> {
    let driver = matches!(error, Some(wgpu::Error::Internal { .. }));
    verdict(lost, &shader.id, error).map_err(|error| match error {
        DeviceError::Refused { what: kernel, message } if driver => {
            DeviceError::Pipeline { kernel, message }
        }
        DeviceError::Refused { what: kernel, message } => {
            let (at, message) = (wgsl.places(&message), wgsl.explain(&message));
            DeviceError::Shader { kernel, at, message }
        }
        other => other,
    })
}

fn build(
    device: &wgpu::Device,
    shader: &KernelDesc,
    source: wgpu::ShaderSource<'_>,
    extra: Option<(wgpu::BindGroupLayout, wgpu::BindGroup)>,
    cache: Option<&wgpu::PipelineCache>,
) -> Pipeline {
    let label = Some(shader.id.as_str());
    let entries: Vec<_> = shader
        .bindings
        .iter()
        .map(|binding| {
            let buffer = |ty, has_dynamic_offset| wgpu::BindingType::Buffer {
                ty,
                has_dynamic_offset,
                min_binding_size: wgpu::BufferSize::new(binding.uniform_bytes().into()),
            };
            let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
            let ty = match binding.access {
                Access::Uniform => buffer(wgpu::BufferBindingType::Uniform, false),
                Access::DynamicUniform => buffer(wgpu::BufferBindingType::Uniform, true),
                Access::Read => buffer(storage(true), false),
                Access::Write => buffer(storage(false), false),
                Access::Texture => wgpu::BindingType::StorageTexture {
                    access: wgpu::StorageTextureAccess::ReadOnly,
                    format: CODE_TEXTURE,
                    view_dimension: wgpu::TextureViewDimension::D2,
                },
            };
            let (binding, visibility) = (binding.number, wgpu::ShaderStages::COMPUTE);
            wgpu::BindGroupLayoutEntry { binding, visibility, ty, count: None }
        })
        .collect();
    let layout = device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
    let layouts = [Some(&layout), extra.as_ref().map(|(layout, _)| layout)];
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &layouts[..1 + usize::from(extra.is_some())],
        immediate_size: 0,
    });
    let descriptor = wgpu::ShaderModuleDescriptor { label, source };
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: every check stays on but the one against endless loops. Each loop in
    // `shaders/` moves a u32 towards a constant or a uniform that it never writes, by a
    // constant step or by halving, with bounds that the host keeps below 2³¹, so it ends and
    // its counter cannot wrap. The bounding costs a counter an iteration and hides constant trip counts
    // from the driver's unroller.
    let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            // Every kernel writes its workgroup memory before it reads it.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache,
    });
    let extra = extra.map(|(_, group)| group);
    Pipeline { layout, pipeline, grid: shader.grid.clone(), extra }
}
