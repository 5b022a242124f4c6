use super::{Host, HostError};
use crate::gpu::{AdapterClass, Caps, KernelDesc};
use crate::ops::probe::{PAIRS, WORKGROUP, halves};

/// The kernel of [`Host::exact_f16_unpack`].
#[doc(hidden)]
pub fn probe_shader() -> KernelDesc {
    halves()
}

impl Host {
    /// Whether the device converts all 65,536 halves exactly, as one small dispatch finds out:
    /// then kernels may use its conversion, which on GPUs takes a tenth of the operations that
    /// integer arithmetic does ([`Caps::exact_f16_unpack`]). An engine that makes its own [`Caps`]
    /// can ask once and keep the answer for the adapter and driver.
    ///
    /// # Errors
    /// [`HostError::Device`], [`HostError::Timeout`], [`HostError::ReadBack`].
    pub async fn exact_halves_async(&self) -> Result<bool, HostError> {
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
                        wgpu::BindGroupEntry { binding: 0, resource: halves.as_entire_binding() },
                        wgpu::BindGroupEntry { binding: 1, resource: wrong.as_entire_binding() },
                    ],
                })
            }))
            .await?;
        self.submit_async(|pass| {
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(PAIRS / WORKGROUP, 1, 1);
        })
        .await?;
        Ok(self.read_async(&wrong, 0, 1).await? == [0])
    }

    /// The same device with what a probe shows of it, where that is not known and matters.
    pub(super) async fn probed(self) -> Result<Self, HostError> {
        let caps = self.kernels.caps();
        // A device too small for the probe works without what it would show.
        let asked = caps.class == AdapterClass::Gpu && !caps.exact_f16_unpack;
        if !asked || !matches!(self.exact_halves_async().await, Ok(true)) {
            return Ok(self);
        }
        let caps = Caps { exact_f16_unpack: true, ..caps.clone() };
        let (device, lost) = (self.device().clone(), self.kernels.lost_flag().clone());
        let kernels = crate::gpu::Kernels::new(&device, &caps).await?.with_lost_flag(lost);
        Ok(Self { kernels, ..self })
    }
}
