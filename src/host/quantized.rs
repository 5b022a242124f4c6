use super::{Host, HostError, to_u32, with_blocking};
use crate::format::{ActivationFunction, Quantization};
use crate::ops::{
    Activations, DeviceWeights, MatmulArgs, MatmulPlan, MatmulSpec, QuantizeActivationsArgs,
    QuantizeActivationsPlan, QuantizeActivationsSpec, Select,
};

impl Host {
    with_blocking!(
        quantized_matmul,
        /// Computes `Y = f(X · Wᵀ (+ bias))` with integer products: X is quantized to 8 bits first.
        /// X is `[m, K]` and Y `[m, N]`, row-major f32. Codes of W are
        /// integers of at most 8 bits, in groups that [`FormatUse`](crate::ops::FormatUse) allows.
        ///
        /// With [`Quantization::Dynamic`], a row of X with a NaN or an infinity becomes NaN. With
        /// [`Quantization::Static`] it does not, and infinities saturate.
        ///
        /// # Errors
        /// Returns an error if a slice has the wrong length, if integer products do not support the
        /// format of W, or if the device refuses a request.
        pub async fn quantized_matmul_async(
            &self,
            x: &[f32],
            m: usize,
            weights: &DeviceWeights,
            bias: Option<&[f32]>,
            quantization: Quantization,
            function: ActivationFunction,
        ) -> Result<Vec<f32>, HostError> {
            let (n, k) = (weights.n(), weights.k());
            self.check_lengths(x, m, weights, bias)?;
            let format = quantization.format();
            let rows = to_u32("m", m)?;
            let mut spec = MatmulSpec::of(rows, weights)
                .with_activations(Activations::Int8(format))
                .with_function(function);
            spec.bias = bias.is_some();
            let mut quantize = QuantizeActivationsSpec::new(rows, to_u32("k", k)?, format);
            let given = match quantization {
                Quantization::Dynamic(_) => None,
                Quantization::Static(scale) => {
                    scale.check(format).map_err(crate::ops::PlanError::from)?;
                    quantize = quantize.with_given_scale();
                    Some(
                        self.storage_async(&[scale.scale.to_bits(), scale.zero_point as u32])
                            .await?,
                    )
                }
            };
            let plan = self.run(MatmulPlan::new(&self.kernels, &spec, Select::Auto)).await?;
            let quantize = self.run(QuantizeActivationsPlan::new(&self.kernels, &quantize)).await?;
            let source = self.storage_async(bytemuck::cast_slice(x)).await?;
            let codes = self.zeros_async(quantize.output_bytes(rows)).await?;
            let bias = self.optional(bias).await?;
            let output = self.zeros_async(spec.y_bytes(rows)).await?;
            let quantize = self
                .run(quantize.bind(QuantizeActivationsArgs {
                    activations: (&source).into(),
                    given: given.as_ref().map(Into::into),
                    output: (&codes).into(),
                }))
                .await?;
            let bound = self
                .run(plan.bind(MatmulArgs {
                    activations: (&codes).into(),
                    weights,
                    bias: bias.as_ref().map(Into::into),
                    output: (&output).into(),
                }))
                .await?;
            let mut recorded = Ok(());
            self.submit_async(|pass| {
                recorded = quantize.record(pass, rows).and(bound.record(pass, rows))
            })
            .await?;
            recorded?;
            let words = self.read_async(&output, 0, m * n).await?;
            Ok(words.into_iter().map(f32::from_bits).collect())
        }
    );
}
