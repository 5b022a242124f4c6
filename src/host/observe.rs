use super::{Host, HostError, to_u32};
use crate::compress::calibrate::{CalibrateError, Statistics};
use crate::ops::{ObserveArgs, ObservePlan, ObserveSpec, SubBuffer};

impl Host {
    /// Observes a batch of rows of X, `[rows, columns]` row-major f32, on the device: what
    /// [`Statistics::observe`] does here, to the same bits.
    ///
    /// # Errors
    /// [`HostError::Calibrate`], [`HostError::Observe`], and what the device refuses; the statistics
    /// are as they were then.
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

    /// The same of `m` rows that are on the device, f32 or f16 as the spec says.
    ///
    /// # Errors
    /// As [`observe`](Self::observe); [`CalibrateError::Mismatch`] where the spec is not of what the
    /// statistics observe.
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
}
