use super::{Host, HostError, to_u32, with_blocking};
use crate::compress::calibrate::{CalibrateError, Statistics};
use crate::ops::{ObserveArgs, ObservePlan, ObserveSpec, SubBuffer};

impl Host {
    with_blocking!(
        observe,
        /// Observes a batch of rows of X, `[rows, columns]` row-major f32, on the device. The
        /// result has the same bits as that of [`Statistics::observe`] on the host.
        ///
        /// # Errors
        /// Returns [`HostError::Calibrate`] or [`HostError::Observe`] if the rows cannot be
        /// observed, and an error if the device refuses a request. The statistics then stay as they
        /// were.
        pub async fn observe_async(
            &self,
            statistics: &mut Statistics,
            x: &[f32],
        ) -> Result<(), HostError> {
            let observer = statistics.observer();
            let columns = observer.columns();
            if (columns == 0 && !x.is_empty()) || !x.len().is_multiple_of(columns.max(1)) {
                let (layer, have) = (observer.layer().into(), x.len());
                return Err(CalibrateError::Length { layer, have, columns }.into());
            }
            let m = to_u32("m", x.len() / columns.max(1))?;
            let spec = ObserveSpec::of(observer, m)?;
            let x = self.storage_async(bytemuck::cast_slice(x)).await?;
            self.observe_buffer_async(statistics, &spec, (&x).into(), m).await
        }
    );

    with_blocking!(
        observe_buffer,
        /// Observes `m` rows of X that are in a buffer on the device, as f32 or f16 according to
        /// `spec`.
        ///
        /// # Errors
        /// Returns the errors of [`observe_async`](Self::observe_async), and
        /// [`CalibrateError::Mismatch`] if `spec` and the statistics have different columns, axes
        /// or bins.
        pub async fn observe_buffer_async(
            &self,
            statistics: &mut Statistics,
            spec: &ObserveSpec,
            x: SubBuffer<'_>,
            m: u32,
        ) -> Result<(), HostError> {
            let own = ObserveSpec::of(statistics.observer(), spec.max_m)?;
            if (own.k, own.axis, own.bins) != (spec.k, spec.axis, spec.bins) {
                let layer = statistics.layer().into();
                let what = "number of columns, axis or bins";
                return Err(CalibrateError::Mismatch { layer, what }.into());
            }
            let plan = self.run(ObservePlan::new(&self.kernels, spec)).await?;
            let output = self.zeros_async(4 * spec.words()).await?;
            let args = ObserveArgs { activations: x, output: (&output).into() };
            let bound = self.run(plan.bind(args)).await?;
            let mut recorded = Ok(());
            self.submit_async(|pass| recorded = bound.record(pass, m)).await?;
            recorded?;
            let words = self.read_async(&output, 0, spec.words() as usize).await?;
            Ok(statistics.fold(&plan.batch(m, &words)?)?)
        }
    );
}
