//! The calls that wait where they are made: each runs its `_async` namesake to its end. A browser's
//! page cannot wait, so there only the others exist.

use super::{FakeQuantGradients, FakeQuantized, Host, HostError};
use crate::compress::calibrate::Statistics;
use crate::format::{ActivationFunction, DeviceImage, PackedWeights, Quantization, WeightFormat};
use crate::gpu::Caps;
use crate::ops::matmul::{Measured, Tuning};
use crate::ops::{DeviceWeights, MatmulSpec, ObserveSpec, SubBuffer};
use pollster::block_on;
use std::time::Duration;

impl Host {
    /// The best adapter there is, software included.
    ///
    /// # Errors
    /// As [`new_async`](Self::new_async).
    pub fn new() -> Result<Self, HostError> {
        block_on(Self::new_async())
    }

    /// A device of this adapter, with all limits it has and timestamps where it has them. On a GPU
    /// [`exact_f16_unpack`](Self::exact_f16_unpack) is asked once.
    ///
    /// # Errors
    /// As [`with_adapter_async`](Self::with_adapter_async).
    pub fn with_adapter(adapter: &wgpu::Adapter) -> Result<Self, HostError> {
        block_on(Self::with_adapter_async(adapter))
    }

    /// The same with lower limits.
    ///
    /// # Errors
    /// As [`with_limits_async`](Self::with_limits_async).
    pub fn with_limits(adapter: &wgpu::Adapter, limits: wgpu::Limits) -> Result<Self, HostError> {
        block_on(Self::with_limits_async(adapter, limits))
    }

    /// The same with fewer features: of those that kernels and measurements use, the adapter's that
    /// are among `features`.
    ///
    /// # Errors
    /// As [`with_features_async`](Self::with_features_async).
    pub fn with_features(
        adapter: &wgpu::Adapter,
        features: wgpu::Features,
        limits: wgpu::Limits,
    ) -> Result<Self, HostError> {
        block_on(Self::with_features_async(adapter, features, limits))
    }

    /// Takes a device that exists, with the limits it was requested with. Takes over its
    /// lost callback.
    ///
    /// # Errors
    /// As [`with_device_async`](Self::with_device_async).
    pub fn with_device(
        info: wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        limits: &wgpu::Limits,
    ) -> Result<Self, HostError> {
        block_on(Self::with_device_async(info, device, queue, limits))
    }

    /// The same with the facts that kernels are to go by, which may state lower limits.
    ///
    /// # Errors
    /// As [`with_caps_async`](Self::with_caps_async).
    pub fn with_caps(
        info: wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        caps: &Caps,
    ) -> Result<Self, HostError> {
        block_on(Self::with_caps_async(info, device, queue, caps))
    }

    /// Copies packed weights to the device, their codes into textures where those
    /// [pay](crate::ops::matmul::code_textures_pay).
    ///
    /// # Errors
    /// As [`upload_async`](Self::upload_async).
    pub fn upload(&self, packed: &PackedWeights) -> Result<DeviceWeights, HostError> {
        block_on(self.upload_async(packed))
    }

    /// The same weights with their codes in textures: see [`DeviceWeights::with_textures`].
    ///
    /// # Errors
    /// As [`textured_async`](Self::textured_async).
    pub fn textured(&self, weights: &DeviceWeights) -> Result<DeviceWeights, HostError> {
        block_on(self.textured_async(weights))
    }

    /// The same, converted to the layout of kernels on the device and not here.
    ///
    /// # Errors
    /// As [`repack_async`](Self::repack_async).
    pub fn repack(&self, packed: &PackedWeights) -> Result<DeviceWeights, HostError> {
        block_on(self.repack_async(packed))
    }

    /// Copies weights back and checks them.
    ///
    /// # Errors
    /// As [`download_async`](Self::download_async).
    pub fn download(&self, weights: &DeviceWeights) -> Result<PackedWeights, HostError> {
        block_on(self.download_async(weights))
    }

    /// Copies the kernel layout back, one row after the other whatever their order.
    ///
    /// # Errors
    /// As [`download_rows_async`](Self::download_rows_async).
    pub fn download_rows(&self, weights: &DeviceWeights) -> Result<DeviceImage, HostError> {
        block_on(self.download_rows_async(weights))
    }

    /// Uploads `w`, `[n, k]` f32 row-major, and prunes (by magnitude, where the format is
    /// 2:4), quantizes and packs it on the device: what
    /// [`compress::quantize`](crate::compress::quantize) makes, bit for bit.
    ///
    /// # Errors
    /// As [`compress_async`](Self::compress_async).
    pub fn compress(
        &self,
        w: &[f32],
        n: usize,
        k: usize,
        format: &WeightFormat,
    ) -> Result<DeviceWeights, HostError> {
        block_on(self.compress_async(w, n, k, format))
    }

    /// All weights as f32, `[N, K]`; pruned ones are 0.
    ///
    /// # Errors
    /// As [`dequantize_async`](Self::dequantize_async).
    pub fn dequantize(&self, weights: &DeviceWeights) -> Result<Vec<f32>, HostError> {
        block_on(self.dequantize_async(weights))
    }

    /// Rows of the weights as f32, `[rows.len(), K]`: a lookup in an embedding table.
    ///
    /// # Errors
    /// As [`gather_async`](Self::gather_async).
    pub fn gather(&self, weights: &DeviceWeights, rows: &[u32]) -> Result<Vec<f32>, HostError> {
        block_on(self.gather_async(weights, rows))
    }

    /// `Y = X · Wᵀ (+ bias)`: X `[m, K]` and Y `[m, N]` row-major f32.
    ///
    /// # Errors
    /// As [`matmul_async`](Self::matmul_async).
    pub fn matmul(
        &self,
        x: &[f32],
        m: usize,
        weights: &DeviceWeights,
        bias: Option<&[f32]>,
    ) -> Result<Vec<f32>, HostError> {
        block_on(self.matmul_async(x, m, weights, bias))
    }

    /// A storage buffer that holds these words.
    ///
    /// # Errors
    /// As [`storage_async`](Self::storage_async).
    pub fn storage(&self, words: &[u32]) -> Result<wgpu::Buffer, HostError> {
        block_on(self.storage_async(words))
    }

    /// A storage buffer of zeros.
    ///
    /// # Errors
    /// As [`zeros_async`](Self::zeros_async).
    pub fn zeros(&self, bytes: u64) -> Result<wgpu::Buffer, HostError> {
        block_on(self.zeros_async(bytes))
    }

    /// Records one compute pass, submits it and waits for it.
    ///
    /// # Errors
    /// As [`submit_async`](Self::submit_async).
    pub fn submit(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<(), HostError> {
        block_on(self.submit_async(record))
    }

    /// As [`submit`](Self::submit), and the milliseconds that the device says the pass took;
    /// `None` where it keeps no time.
    ///
    /// # Errors
    /// As [`submit_timed_async`](Self::submit_timed_async).
    pub fn submit_timed(
        &self,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>),
    ) -> Result<Option<f64>, HostError> {
        block_on(self.submit_timed_async(record))
    }

    /// Copies words back from a buffer with `COPY_SRC` usage.
    ///
    /// # Errors
    /// As [`read_async`](Self::read_async).
    pub fn read(
        &self,
        buffer: &wgpu::Buffer,
        first: usize,
        words: usize,
    ) -> Result<Vec<u32>, HostError> {
        block_on(self.read_async(buffer, first, words))
    }

    /// `y = (clamp(rne(x/s) + z, qmin, qmax) − z) · s` of `x`, `[m, k]` row-major, by ranges of its
    /// own: see [`ops::fake_quant`](crate::ops::fake_quant).
    ///
    /// # Errors
    /// As [`fake_quantize_async`](Self::fake_quantize_async).
    pub fn fake_quantize(
        &self,
        x: &[f32],
        m: usize,
        k: usize,
        format: &WeightFormat,
    ) -> Result<FakeQuantized, HostError> {
        block_on(self.fake_quantize_async(x, m, k, format))
    }

    /// The same by scales and zero points that are given: `[m, ⌈k/g⌉]` or one of each, and no zero
    /// points where the format is symmetric.
    ///
    /// # Errors
    /// As [`fake_quantize_with_async`](Self::fake_quantize_with_async).
    pub fn fake_quantize_with(
        &self,
        x: &[f32],
        m: usize,
        k: usize,
        format: &WeightFormat,
        (scales, zeros): (&[f32], &[f32]),
    ) -> Result<Vec<f32>, HostError> {
        block_on(self.fake_quantize_with_async(x, m, k, format, (scales, zeros)))
    }

    /// The gradients of [`fake_quantize_with`](Self::fake_quantize_with): straight-through, LSQ and
    /// LSQ+, from that of Y, `[m, k]`. With `gradient_scale` those of scales and zero points are
    /// multiplied by LSQ's 1/√(N·Q).
    ///
    /// # Errors
    /// As [`fake_quantize_backward_async`](Self::fake_quantize_backward_async).
    pub fn fake_quantize_backward(
        &self,
        (x, dy): (&[f32], &[f32]),
        m: usize,
        k: usize,
        format: &WeightFormat,
        (scales, zeros): (&[f32], &[f32]),
        gradient_scale: bool,
    ) -> Result<FakeQuantGradients, HostError> {
        block_on(self.fake_quantize_backward_async(
            (x, dy),
            m,
            k,
            format,
            (scales, zeros),
            gradient_scale,
        ))
    }

    /// Observes a batch of rows of X, `[rows, columns]` row-major f32, on the device: what
    /// [`Statistics::observe`] does here, to the same bits.
    ///
    /// # Errors
    /// As [`observe_async`](Self::observe_async).
    pub fn observe(&self, statistics: &mut Statistics, x: &[f32]) -> Result<(), HostError> {
        block_on(self.observe_async(statistics, x))
    }

    /// The same of `m` rows that are on the device, f32 or f16 as the spec says.
    ///
    /// # Errors
    /// As [`observe_buffer_async`](Self::observe_buffer_async).
    pub fn observe_buffer(
        &self,
        statistics: &mut Statistics,
        spec: &ObserveSpec,
        x: SubBuffer<'_>,
        m: u32,
    ) -> Result<(), HostError> {
        block_on(self.observe_buffer_async(statistics, spec, x, m))
    }

    /// `Y = f(X · Wᵀ (+ bias))` with X quantized to 8 bits first, so that products are integers: X
    /// `[m, K]` and Y `[m, N]` row-major f32. W is int8 or int4, 2:4 or not, its groups multiples
    /// of 32.
    ///
    /// # Errors
    /// As [`quantized_matmul_async`](Self::quantized_matmul_async).
    pub fn quantized_matmul(
        &self,
        x: &[f32],
        m: usize,
        weights: &DeviceWeights,
        bias: Option<&[f32]>,
        quantization: Quantization,
        function: ActivationFunction,
    ) -> Result<Vec<f32>, HostError> {
        block_on(self.quantized_matmul_async(x, m, weights, bias, quantization, function))
    }

    /// Whether the device converts all 65,536 halves exactly, as one small dispatch finds out:
    /// then kernels may use its conversion, which on GPUs takes a tenth of the operations that
    /// integer arithmetic does ([`Caps::exact_f16_unpack`]). An engine that makes its own [`Caps`]
    /// can ask once and keep the answer for the adapter and driver.
    ///
    /// # Errors
    /// As [`exact_halves_async`](Self::exact_halves_async).
    pub fn exact_f16_unpack(&self) -> Result<bool, HostError> {
        block_on(self.exact_halves_async())
    }

    /// Measures the schedules that apply to each spec, in each regime of m that a plan of it
    /// has, and keeps the fastest: for [`Select::Tuned`](crate::ops::Select::Tuned). To be stored with the feature `io`.
    ///
    /// # Errors
    /// As [`tune_async`](Self::tune_async).
    pub fn tune(&self, specs: &[MatmulSpec], budget: Duration) -> Result<Tuning, HostError> {
        block_on(self.tune_async(specs, budget))
    }

    /// What [`tune`](Self::tune) goes by. `next` is told each problem before it
    /// is measured, and how many there are.
    /// Specs that kernels do not distinguish (see [`Problem`](crate::ops::matmul::Problem)) are measured once, and empty
    /// ones not at all.
    ///
    /// # Errors
    /// As [`measure_async`](Self::measure_async).
    pub fn measure(
        &self,
        specs: &[MatmulSpec],
        budget: Duration,
        next: impl FnMut(&Measured, usize),
    ) -> Result<Vec<Measured>, HostError> {
        block_on(self.measure_async(specs, budget, next))
    }
}
