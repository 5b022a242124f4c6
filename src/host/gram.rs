use super::{Host, HostError, to_u32, with_blocking};
use crate::ops::{GramArgs, GramPlan, GramSpec};

impl Host {
    with_blocking!(
        gram,
        /// Returns XᵀX of `x`, `[m, k]` row-major f32: the upper triangle row by row, in units of 2⁻⁷²
        /// ([`GRAM_UNIT`](crate::ops::GRAM_UNIT)). Products of up to 64 rows are added in f32, and such sums
        /// exactly, so the results of several batches may be added in any order.
        ///
        /// # Errors
        /// Returns [`HostError::WrongLength`] if `x` is not whole rows of `k` columns, [`HostError::Gram`]
        /// if a sum is not finite or too large, and an error if the device refuses a request.
        pub async fn gram_async(&self, x: &[f32], k: usize) -> Result<Vec<i128>, HostError> {
            let m = x.len() / k.max(1);
            if m * k != x.len() {
                let (what, have) = ("X", x.len());
                return Err(HostError::WrongLength { what, need: m * k, have });
            }
            let spec = GramSpec::new(to_u32("m", m)?, to_u32("k", k)?);
            let plan = self.run(GramPlan::new(&self.kernels, &spec)).await?;
            let x = self.storage_async(bytemuck::cast_slice(x)).await?;
            let sums = self.zeros_async(spec.sums_bytes()).await?;
            let status = self.zeros_async(GramSpec::STATUS_BYTES).await?;
            let (activations, status_at) = ((&x).into(), (&status).into());
            let args = GramArgs { activations, sums: (&sums).into(), status: status_at };
            let bound = self.run(plan.bind(args)).await?;
            let mut recorded = Ok(());
            self.submit_async(|pass| recorded = bound.record(pass, spec.max_m)).await?;
            recorded?;
            let words = self.read_async(&sums, 0, (spec.sums_bytes() / 4) as usize).await?;
            let status = self.read_async(&status, 0, 2).await?;
            Ok(spec.decode(&words, &status)?)
        }
    );
}
