//! Uploads, downloads and compresses weights, and multiplies slices by them.

use super::{Host, HostError, to_u32, with_blocking};
use crate::format::{DeviceImage, PackedWeights, Scales, WeightFormat, inverse_order};
use crate::gpu::DeviceError;
use crate::ops::matmul::code_textures_pay;
use crate::ops::{
    Codes, DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights, FormatUse, MatmulArgs,
    MatmulPlan, MatmulSpec, PermuteColumnsArgs, PermuteColumnsPlan, PermuteColumnsSpec,
    QuantizeWeightsArgs, QuantizeWeightsPlan, QuantizeWeightsSpec, RepackArgs, RepackPlan,
    RepackSpec, Select, SourceRows, SubBuffer, WeightsError,
};

impl Host {
    with_blocking!(
        upload,
        /// Copies packed weights to the device. Their codes go to textures if
        /// [these are faster](code_textures_pay) on this device.
        ///
        /// # Errors
        /// Returns [`HostError::Weights`] if the weights cannot be placed on the device.
        pub async fn upload_async(
            &self,
            packed: &PackedWeights,
        ) -> Result<DeviceWeights, HostError> {
            self.settled(self.run(DeviceWeights::upload(&self.kernels, packed)).await?).await
        }
    );

    /// Moves the codes into textures if these are faster. The weights stay in buffers if no
    /// texture can hold the codes or there is not enough memory: while they are copied, the codes
    /// exist twice.
    pub(super) async fn settled(&self, weights: DeviceWeights) -> Result<DeviceWeights, HostError> {
        let k = to_u32("k", weights.k())?;
        if !code_textures_pay(&weights.format(), k, self.kernels.caps()) {
            return Ok(weights);
        }
        self.textured_async(&weights).await.or_else(|error| match error {
            HostError::Weights(
                WeightsError::Texture { .. }
                | WeightsError::Device(DeviceError::OutOfMemory { .. }),
            ) => Ok(weights),
            error => Err(error),
        })
    }

    with_blocking!(
        textured,
        /// Copies the codes of weights into textures; see [`DeviceWeights::with_textures`].
        ///
        /// # Errors
        /// Returns [`HostError::Weights`] if no texture can hold the codes, and an error if the
        /// device refuses a request.
        pub async fn textured_async(
            &self,
            weights: &DeviceWeights,
        ) -> Result<DeviceWeights, HostError> {
            let mut encoder = self.device().create_command_encoder(&Default::default());
            let weights = self.run(weights.with_textures(&self.kernels, &mut encoder)).await?;
            let submit = || self.queue.submit([encoder.finish()]);
            let what = "a copy into textures";
            let index = self.run(self.kernels.guarded(what, submit)).await?;
            self.wait(what, index).await?;
            Ok(weights)
        }
    );

    with_blocking!(
        repack,
        /// Copies packed weights to the device as [`upload_async`](Self::upload_async) does, but
        /// converts them to the kernels' layout on the device instead of the host. Formats that
        /// [`FormatUse::Repack`] does not take are converted on the host.
        ///
        /// # Errors
        /// Returns an error if the device refuses a request, for example because a part of the
        /// weights is larger than a buffer may be.
        pub async fn repack_async(
            &self,
            packed: &PackedWeights,
        ) -> Result<DeviceWeights, HostError> {
            let (n, k, format) = (packed.n(), packed.k(), packed.format());
            if FormatUse::Repack.check(&format).is_err() {
                return self.upload_async(packed).await;
            }
            let spec = RepackSpec::new(to_u32("n", n)?, to_u32("k", k)?, format);
            let plan = self.run(RepackPlan::new(&self.kernels, &spec)).await?;
            let mut output = self.run(DeviceWeights::allocate(&self.kernels, format, n, k)).await?;
            if format.is_permuted() {
                let order = packed.order();
                output = self.run(output.with_column_order(&self.kernels, order)).await?;
            }
            let part = async |bytes: &[u8]| {
                // The last word is padded with zeros.
                let mut words = vec![0u32; bytes.len().div_ceil(4)];
                bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
                self.storage_async(&words).await
            };
            let there = async |wanted: bool, bytes: &[u8]| match wanted {
                true => part(bytes).await.map(Some),
                false => Ok(None),
            };
            let codes = self.storage_async(packed.codes()).await?;
            let metadata =
                there(format.is_sparse(), bytemuck::cast_slice(packed.metadata())).await?;
            let scales: &[u8] = match packed.scales() {
                Scales::F32(scales) => bytemuck::cast_slice(scales),
                Scales::F16(scales) => bytemuck::cast_slice(scales),
                Scales::E8m0(scales) => scales,
                // They were uploaded.
                _ => &[],
            };
            let scales = there(format.code_type().has_scales(), scales).await?;
            let zeros = there(format.has_zeros(), packed.zeros()).await?;
            let bound = self
                .run(plan.bind(RepackArgs {
                    codes: (&codes).into(),
                    metadata: metadata.as_ref().map(Into::into),
                    scales: scales.as_ref().map(Into::into),
                    zeros: zeros.as_ref().map(Into::into),
                    output: &output,
                }))
                .await?;
            let mut recorded = Ok(());
            self.submit_async(|pass| recorded = bound.record(pass, spec.n)).await?;
            recorded?;
            self.settled(output).await
        }
    );

    with_blocking!(
        download,
        /// Copies weights back from the device and checks them.
        ///
        /// # Errors
        /// Returns [`HostError::ReadBack`] or [`HostError::Timeout`] if the copy fails, and
        /// [`HostError::Format`] if the device returned data that the format does not allow.
        pub async fn download_async(
            &self,
            weights: &DeviceWeights,
        ) -> Result<PackedWeights, HostError> {
            let layout = weights.layout();
            let image = self.download_rows_async(weights).await?;
            let order = match weights.column_order() {
                Some(order) => self.read_async(order, 0, weights.k()).await?,
                None => Vec::new(),
            };
            Ok(layout.unpack(&image, &order)?)
        }
    );

    with_blocking!(
        download_rows,
        /// Copies weights back in the kernels' layout. The rows are consecutive, whatever their
        /// order on the device.
        ///
        /// # Errors
        /// Returns [`HostError::ReadBack`] or [`HostError::Timeout`] if the copy fails.
        pub async fn download_rows_async(
            &self,
            weights: &DeviceWeights,
        ) -> Result<DeviceImage, HostError> {
            let layout = weights.layout();
            let mut image = DeviceImage { codes: Vec::new(), side: Vec::new() };
            for block in weights.blocks() {
                let (codes, side) = layout.words(block.rows.len());
                let codes = match &block.codes {
                    Codes::Buffer(buffer) => self.read_async(buffer, 0, codes).await?,
                    Codes::Texture(texture) => self.read_texture(texture, codes).await?,
                };
                let side = self.read_async(&block.side, 0, side).await?;
                let rows = layout.by_rows(&DeviceImage { codes, side }, block.rows.len())?;
                image.codes.extend(rows.codes);
                image.side.extend(rows.side);
            }
            Ok(image)
        }
    );

    with_blocking!(
        compress,
        /// Uploads `w`, `[n, k]` row-major f32, and quantizes and packs it on the device. If the
        /// format is 2:4, it first prunes by magnitude. The result has the same bits as that of
        /// [`compress::quantize`](crate::compress::quantize).
        ///
        /// # Errors
        /// Returns [`HostError::QuantizeWeights`] if the format cannot hold a weight (for example a NaN), and
        /// an error if the device refuses a request.
        pub async fn compress_async(
            &self,
            w: &[f32],
            n: usize,
            k: usize,
            format: &WeightFormat,
        ) -> Result<DeviceWeights, HostError> {
            let need = n.saturating_mul(k);
            if w.len() != need {
                return Err(HostError::WrongLength { what: "W", need, have: w.len() });
            }
            let spec = QuantizeWeightsSpec::new(to_u32("n", n)?, to_u32("k", k)?, *format);
            let plan = self.run(QuantizeWeightsPlan::new(&self.kernels, &spec)).await?;
            let output = self.run(DeviceWeights::allocate(&self.kernels, *format, n, k)).await?;
            // f32 rows may need more buffers than the compressed ones.
            let caps = self.kernels.caps();
            let fit = caps.max_binding.min(caps.max_buffer) / (4 * k.max(1)) as u64;
            let rows = usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, n.max(1));
            let mut buffers = Vec::new();
            for chunk in w.chunks(rows.saturating_mul(k).max(1)) {
                buffers.push((
                    self.storage_async(bytemuck::cast_slice(chunk)).await?,
                    chunk.len() / k,
                ));
            }
            if buffers.is_empty() {
                buffers.push((self.zeros_async(0).await?, n));
            }
            let source: Vec<_> = buffers
                .iter()
                .map(|(buffer, rows)| SourceRows { at: buffer.into(), rows: *rows })
                .collect();
            let args = QuantizeWeightsArgs { source: &source, mask: None, output: &output };
            let bound = self.run(plan.bind(args)).await?;
            let mut recorded = Ok(());
            self.submit_async(|pass| recorded = bound.record(pass, spec.n)).await?;
            recorded?;
            bound.check(&self.read_async(bound.status(), 0, bound.status_words()).await?)?;
            self.settled(output).await
        }
    );

    with_blocking!(
        dequantize,
        /// Returns all weights as f32, `[N, K]`. Pruned weights are 0.
        ///
        /// # Errors
        /// Returns an error if the device refuses a request.
        pub async fn dequantize_async(
            &self,
            weights: &DeviceWeights,
        ) -> Result<Vec<f32>, HostError> {
            self.rows(&DequantizeSpec::of(weights), weights, None).await
        }
    );

    with_blocking!(
        gather,
        /// Returns rows of the weights as f32, `[rows.len(), K]`, as a lookup in an embedding table
        /// does.
        ///
        /// # Errors
        /// Returns [`HostError::TooLarge`] if a row is not below N, and an error if the device
        /// refuses a request.
        pub async fn gather_async(
            &self,
            weights: &DeviceWeights,
            rows: &[u32],
        ) -> Result<Vec<f32>, HostError> {
            let n = to_u32("n", weights.n())?;
            if let Some(&row) = rows.iter().find(|&&row| row >= n) {
                let limit = weights.n().saturating_sub(1);
                return Err(HostError::TooLarge { what: "row", value: row as usize, limit });
            }
            let spec = DequantizeSpec::of(weights).with_gather(to_u32("rows", rows.len())?);
            let indices = self.storage_async(rows).await?;
            self.rows(&spec, weights, Some((&indices).into())).await
        }
    );

    pub(super) async fn rows(
        &self,
        spec: &DequantizeSpec,
        weights: &DeviceWeights,
        indices: Option<SubBuffer<'_>>,
    ) -> Result<Vec<f32>, HostError> {
        let plan = self.run(DequantizePlan::new(&self.kernels, spec)).await?;
        let bytes = spec.output_bytes(spec.rows());
        let output = self.zeros_async(bytes).await?;
        let args = DequantizeArgs { weights, indices, output: (&output).into() };
        let bound = self.run(plan.bind(args)).await?;
        let mut recorded = Ok(());
        self.submit_async(|pass| recorded = bound.record(pass, spec.rows())).await?;
        recorded?;
        let words = self.read_async(&output, 0, (bytes / 4) as usize).await?;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }

    with_blocking!(
        permute_columns,
        /// Returns the rows of X, `[m, K]` row-major f32, with their columns in another order: column j
        /// of the result is column `order[j]` of X.
        ///
        /// # Errors
        /// Returns [`HostError::WrongLength`] if X does not have m rows of `order.len()` columns,
        /// [`HostError::Format`] if the order does not name each column once, and an error if the
        /// device refuses a request.
        pub async fn permute_columns_async(
            &self,
            x: &[f32],
            m: usize,
            order: &[u32],
        ) -> Result<Vec<f32>, HostError> {
            let need = m.saturating_mul(order.len());
            if x.len() != need {
                return Err(HostError::WrongLength { what: "X", need, have: x.len() });
            }
            inverse_order(order)?;
            let spec = PermuteColumnsSpec::new(to_u32("m", m)?, to_u32("k", order.len())?);
            let plan = self.run(PermuteColumnsPlan::new(&self.kernels, &spec)).await?;
            let source = self.storage_async(bytemuck::cast_slice(x)).await?;
            let order = self.storage_async(order).await?;
            let output = self.zeros_async(spec.y_bytes(spec.max_m)).await?;
            let (activations, order) = ((&source).into(), (&order).into());
            let args = PermuteColumnsArgs { activations, order, output: (&output).into() };
            let bound = self.run(plan.bind(args)).await?;
            let mut recorded = Ok(());
            self.submit_async(|pass| recorded = bound.record(pass, spec.max_m)).await?;
            recorded?;
            let words = self.read_async(&output, 0, x.len()).await?;
            Ok(words.into_iter().map(f32::from_bits).collect())
        }
    );

    with_blocking!(
        matmul,
        /// Computes `Y = X · Wᵀ (+ bias)`. X is `[m, K]` and Y `[m, N]`, row-major f32.
        ///
        /// # Errors
        /// Returns [`HostError::WrongLength`] if a slice has the wrong length, and an error if the
        /// device refuses a request.
        pub async fn matmul_async(
            &self,
            x: &[f32],
            m: usize,
            weights: &DeviceWeights,
            bias: Option<&[f32]>,
        ) -> Result<Vec<f32>, HostError> {
            self.check_lengths(x, m, weights, bias)?;
            let n = weights.n();
            let mut spec = MatmulSpec::of(to_u32("m", m)?, weights);
            if bias.is_some() {
                spec = spec.with_bias();
            }
            let plan = self.run(MatmulPlan::new(&self.kernels, &spec, Select::Auto)).await?;
            let activations = self.storage_async(bytemuck::cast_slice(x)).await?;
            let bias = self.optional(bias).await?;
            let output = self.zeros_async(spec.y_bytes(spec.max_m)).await?;
            let bound = self
                .run(plan.bind(MatmulArgs {
                    activations: (&activations).into(),
                    weights,
                    bias: bias.as_ref().map(Into::into),
                    output: (&output).into(),
                }))
                .await?;
            let mut recorded = Ok(());
            self.submit_async(|pass| recorded = bound.record(pass, spec.max_m)).await?;
            recorded?;
            let words = self.read_async(&output, 0, m * n).await?;
            Ok(words.into_iter().map(f32::from_bits).collect())
        }
    );

    pub(super) fn check_lengths(
        &self,
        x: &[f32],
        m: usize,
        weights: &DeviceWeights,
        bias: Option<&[f32]>,
    ) -> Result<(), HostError> {
        let (n, k) = (weights.n(), weights.k());
        let need = m.saturating_mul(k);
        if x.len() != need {
            return Err(HostError::WrongLength { what: "X", need, have: x.len() });
        }
        if let Some(bias) = bias
            && bias.len() != n
        {
            return Err(HostError::WrongLength { what: "the bias", need: n, have: bias.len() });
        }
        Ok(())
    }
}
