use super::{Host, HostError, with_blocking};
use crate::gpu::{AdapterClass, Caps, KernelDesc, Kernels};
use crate::ops::probe::{PAIRS, halves};

/// Returns the kernel of [`Host::exact_f16_unpack`].
#[doc(hidden)]
pub fn probe_shader() -> KernelDesc {
    halves()
}

impl Host {
    with_blocking!(
        exact_f16_unpack,
        /// Measures whether the device converts all 65,536 f16 values to f32 exactly. It takes one
        /// small dispatch. If so, kernels may use the device's conversion, which on GPUs takes a
        /// tenth of the operations of integer arithmetic ([`Caps::exact_f16_unpack`]).
        ///
        /// # Errors
        /// Returns [`HostError::Device`], [`HostError::Timeout`] or [`HostError::ReadBack`] if the
        /// dispatch fails.
        pub async fn exact_f16_unpack_async(&self) -> Result<bool, HostError> {
            let shader = halves();
            let pipeline = self.run(self.kernels.pipeline(&shader)).await?;
            let pairs: Vec<u32> = (0..PAIRS).map(|i| (2 * i) | ((2 * i + 1) << 16)).collect();
            let (halves, wrong) = (self.storage_async(&pairs).await?, self.zeros_async(4).await?);
            let group = self
                .run(self.kernels.guarded("a probe's bind group", || {
                    self.device().create_bind_group(&wgpu::BindGroupDescriptor {
                        label: Some("lowbit probe"),
                        layout: &pipeline.layout,
                        entries: &[
                            wgpu::BindGroupEntry {
                                binding: 0,
                                resource: halves.as_entire_binding(),
                            },
                            wgpu::BindGroupEntry {
                                binding: 1,
                                resource: wrong.as_entire_binding(),
                            },
                        ],
                    })
                }))
                .await?;
            self.submit_async(|pass| {
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(shader.grid.groups(|_| PAIRS.into()) as u32, 1, 1);
            })
            .await?;
            Ok(self.read_async(&wrong, 0, 1).await? == [0])
        }
    );

    /// Runs the probe if its result is unknown and matters to kernels, and returns a host whose
    /// kernels use it.
    pub(super) async fn probed(self) -> Result<Self, HostError> {
        let caps = self.kernels.caps();
        let unknown = caps.class == AdapterClass::Gpu && !caps.exact_f16_unpack;
        // A device that cannot run the probe works without the conversion.
        if !unknown || !matches!(self.exact_f16_unpack_async().await, Ok(true)) {
            return Ok(self);
        }
        let caps = Caps { exact_f16_unpack: true, ..caps.clone() };
        let (device, lost) = (self.device().clone(), self.kernels.lost_flag().clone());
        let kernels = Kernels::new(&device, &caps).await?.with_lost_flag(lost);
        Ok(Self { kernels, ..self })
    }
}

impl Kernels {
    /// Creates kernels for an engine's own device. They choose by the same [`Caps`] as those of
    /// [`Host::with_device`]: the facts that [`Caps::new`] reads from `info` and from the device's
    /// limits and features, and the result of [`Host::exact_f16_unpack`].
    ///
    /// On a GPU this runs that probe, so it submits one small dispatch to `queue` and waits for it.
    /// To start without the probe next time, keep [`caps`](Self::caps) for this adapter and driver
    /// and call [`Kernels::new`]. Request the device with [`Caps::useful_features`] as far as the
    /// adapter has them. The device keeps its lost callback, which must set
    /// [`lost_flag`](Self::lost_flag).
    ///
    /// ```no_run
    /// use lowbit::gpu::{Caps, Kernels};
    ///
    /// # async fn run(adapter: wgpu::Adapter) -> Result<(), Box<dyn std::error::Error>> {
    /// let (device, queue) = adapter
    ///     .request_device(&wgpu::DeviceDescriptor {
    ///         required_features: adapter.features() & Caps::useful_features(),
    ///         required_limits: adapter.limits(),
    ///         ..Default::default()
    ///     })
    ///     .await?;
    /// let kernels = Kernels::for_adapter(&adapter.get_info(), &device, &queue).await?;
    /// let lost = kernels.lost_flag().clone();
    /// device.set_device_lost_callback(move |_, message| lost.set(message));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`HostError::Device`] if the device refuses the kernels' buffers.
    pub async fn for_adapter(
        info: &wgpu::AdapterInfo,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
    ) -> Result<Self, HostError> {
        let caps = Caps::new(info, &device.limits(), device.features());
        let kernels = Self::new(device, &caps).await?;
        Ok(Host::with_kernels(info.clone(), queue.clone(), kernels).probed().await?.kernels)
    }
}
