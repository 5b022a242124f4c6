use super::{Host, HostError, to_u32, with_blocking};
use crate::format::{
    Geometry, Granularity, Offset, PackedWeights, Parts, ScaleType, Scales, WeightFormat,
    inverse_order, put_bits,
};
use crate::ops::{
    ColumnsArgs, ColumnsPlan, ColumnsSpec, FactorArgs, FactorPlan, FactorSpec, GramSpec, Pattern,
};
use half::f16;

/// How GPTQ and SparseGPT go through the columns of a matrix.
#[derive(Clone, Debug)]
pub struct Gptq<'a> {
    /// The number that is added to the diagonal of the Gram matrix, whose mean is 1 then.
    pub damping: f32,
    /// The order of columns: entry i is the column that is taken i-th. `None` for the order of W.
    pub order: Option<&'a [u32]>,
    /// The pattern by which weights are pruned, if any are.
    pub pattern: Option<Pattern>,
    /// Scales and zero points, `[n, groups]` each, if they are given. Zero points of symmetric formats are
    /// theirs. Groups are those of the columns of W then, whatever their order is.
    pub given: Option<(&'a [f32], &'a [f32])>,
}

impl Default for Gptq<'_> {
    /// A damping of 0.01, in the order of W. Nothing is pruned, and scales are found.
    fn default() -> Self {
        Self { damping: 0.01, order: None, pattern: None, given: None }
    }
}

/// What a run left: words by place and row.
struct Run {
    /// Rows that there is room for.
    rows: usize,
    output: Vec<u32>,
    scales: Vec<f32>,
    /// The place of each column.
    places: Vec<u32>,
}

impl Run {
    /// Returns the code of a row at a place, its lowest eight bits.
    fn code(&self, row: usize, place: usize) -> u32 {
        let word = self.output.get(place / 4 * self.rows + row);
        word.map_or(0, |word| word >> (8 * (place % 4)) & 0xff)
    }
}

impl Host {
    with_blocking!(
        gptq,
        /// Rounds `w`, `[n, k]` row-major f32, to a format of dense integers by GPTQ, on the device. `gram` is
        /// XᵀX of the inputs X of the layer: the upper triangle row by row, in units of 2⁻⁷², as
        /// [`gram_async`](Self::gram_async) returns it.
        ///
        /// Scales are found when their group is reached, or given. If columns are taken in another order and
        /// groups are found on the way, the result has permuted columns; otherwise their order is that of W.
        /// With a pattern, weights are pruned as well, and are the zeros of the format.
        ///
        /// # Errors
        /// Returns [`HostError::WrongLength`] if a slice has the wrong length, [`HostError::Factor`] if the
        /// Gram matrix is not positive definite with this damping, [`HostError::Columns`] if a scale is out
        /// of range or W is not finite, and an error if the device refuses a request or there is no kernel
        /// for the format.
        pub async fn gptq_async(
            &self,
            w: &[f32],
            n: usize,
            k: usize,
            gram: &[i128],
            format: &WeightFormat,
            how: &Gptq<'_>,
        ) -> Result<PackedWeights, HostError> {
            let run = self.columns_of(w, (n, k), gram, Some(*format), how).await?;
            let found =
                how.given.is_none() && matches!(format.granularity(), Granularity::Group(_));
            match how.order {
                Some(order) if found => pack(&run, n, k, format.permuted(), order),
                _ => pack(&run, n, k, *format, &[]),
            }
        }
    );

    with_blocking!(
        sparse_gpt,
        /// Prunes `w`, `[n, k]` row-major f32, by the pattern of `how`, on the device, and moves what is lost
        /// into the weights that are kept (SparseGPT). Returns the matrix with zeros where weights were
        /// pruned.
        ///
        /// # Errors
        /// Returns the errors of [`gptq_async`](Self::gptq_async).
        pub async fn sparse_gpt_async(
            &self,
            w: &[f32],
            n: usize,
            k: usize,
            gram: &[i128],
            how: &Gptq<'_>,
        ) -> Result<Vec<f32>, HostError> {
            let run = self.columns_of(w, (n, k), gram, None, how).await?;
            let mut out = Vec::with_capacity(n * k);
            for row in 0..n {
                out.extend(run.places.iter().map(|&place| {
                    let at = place as usize * run.rows + row;
                    run.output.get(at).map_or(0.0, |&bits| f32::from_bits(bits))
                }));
            }
            Ok(out)
        }
    );

    async fn columns_of(
        &self,
        w: &[f32],
        (n, k): (usize, usize),
        gram: &[i128],
        format: Option<WeightFormat>,
        how: &Gptq<'_>,
    ) -> Result<Run, HostError> {
        let length = |what, need: usize, have: usize| {
            if need == have { Ok(()) } else { Err(HostError::WrongLength { what, need, have }) }
        };
        length("W", n.saturating_mul(k), w.len())?;
        let sides = (to_u32("n", n)?, to_u32("k", k)?);
        let spec = ColumnsSpec {
            pattern: how.pattern,
            given: how.given.is_some(),
            ..ColumnsSpec::new(sides.0, sides.1, format)
        };
        spec.check()?;
        let factor = FactorSpec::new(spec.k).with_damping(how.damping);
        factor.check()?;
        let (rows, groups) = (spec.rows() as usize, spec.groups() as usize);
        let order: Vec<u32> = match how.order {
            Some(order) => order.to_vec(),
            None => (0..spec.k).collect(),
        };
        length("the order of columns", k, order.len())?;
        let places = inverse_order(&order)?;
        let mut scales = vec![0.0f32; (spec.scales_bytes() / 4) as usize];
        if let Some((given, zeros)) = how.given {
            length("the scales", n * groups, given.len())?;
            length("the zero points", n * groups, zeros.len())?;
            let (to_scales, to_zeros) = scales.split_at_mut(groups * rows);
            for (values, to) in [(given, to_scales), (zeros, to_zeros)] {
                for (row, values) in values.chunks(groups.max(1)).enumerate() {
                    let to = to.iter_mut().skip(row).step_by(rows.max(1));
                    to.zip(values).for_each(|(to, value)| *to = *value);
                }
            }
        }
        let sums = self.storage_async(&GramSpec::new(1, spec.k).encode(gram)?).await?;
        let both = [order.as_slice(), &places].concat();
        let order = self.storage_async(&both).await?;
        let scratch = self.zeros_async(factor.matrix_bytes()).await?;
        let upper = self.zeros_async(factor.matrix_bytes()).await?;
        let diagonal = self.zeros_async(4 * (k as u64 + 1)).await?;
        let status = self.zeros_async(FactorSpec::STATUS_BYTES).await?;
        let plan = self.run(FactorPlan::new(&self.kernels, &factor)).await?;
        let factored = self
            .run(plan.bind(FactorArgs {
                sums: (&sums).into(),
                order: (&order).into(),
                scratch: &scratch,
                output: &upper,
                diagonal: &diagonal,
                status: (&status).into(),
            }))
            .await?;
        let mut recorded = Ok(());
        self.submit_async(|pass| recorded = factored.record(pass, spec.k)).await?;
        recorded?;
        factor.decode(&self.read_async(&status, 0, 2).await?)?;
        drop((sums, scratch));
        let weights = self.storage_async(bytemuck::cast_slice(w)).await?;
        let columns = self.zeros_async(spec.columns_bytes()).await?;
        let output = self.zeros_async(spec.output_bytes()).await?;
        let scales = self.storage_async(bytemuck::cast_slice(&scales)).await?;
        let masks = self.zeros_async(spec.masks_bytes()).await?;
        let plan = self.run(ColumnsPlan::new(&self.kernels, &spec)).await?;
        let bound = self
            .run(plan.bind(ColumnsArgs {
                weights: (&weights).into(),
                order: (&order).into(),
                diagonal: &diagonal,
                factor: &upper,
                columns: &columns,
                output: &output,
                scales: &scales,
                masks: &masks,
                status: (&status).into(),
            }))
            .await?;
        let mut recorded = Ok(());
        self.submit_async(|pass| recorded = bound.record(pass, spec.n)).await?;
        recorded?;
        ColumnsPlan::decode(&self.read_async(&status, 0, 2).await?)?;
        let words =
            async |buffer, bytes: u64| self.read_async(buffer, 0, (bytes / 4) as usize).await;
        let scales = words(&scales, spec.scales_bytes()).await?;
        Ok(Run {
            rows,
            output: words(&output, spec.output_bytes()).await?,
            scales: scales.into_iter().map(f32::from_bits).collect(),
            places,
        })
    }
}

/// Packs what a run left. Codes are in the order of places if `order` has one.
fn pack(
    run: &Run,
    n: usize,
    k: usize,
    format: WeightFormat,
    order: &[u32],
) -> Result<PackedWeights, HostError> {
    let geometry: Geometry = format.geometry(n, k)?;
    let bits = format.code_type().bits();
    let mut codes = vec![0u32; n * geometry.code_words];
    for (row, words) in codes.chunks_mut(geometry.code_words.max(1)).enumerate() {
        for at in 0..k {
            let place = if order.is_empty() { run.places.get(at) } else { None };
            let place = place.map_or(at, |&place| place as usize);
            put_bits(words, at * bits as usize, bits, run.code(row, place));
        }
    }
    let (scales, zeros) = run.scales.split_at(run.scales.len() / 2);
    // Both are by group and row.
    let by_row = |values: &[f32]| -> Vec<f32> {
        let of_row = |row| values.iter().skip(row).step_by(run.rows.max(1)).copied();
        (0..n).flat_map(of_row).collect()
    };
    let (scales, zeros) = (by_row(scales), by_row(zeros));
    let bytes: Vec<u8> = zeros.iter().map(|&zero| zero as i32 as u8).collect();
    let zeros = match format.offset() {
        Offset::ZeroPoint => bytes,
        Offset::ZeroPoint4 => bytes
            .chunks(geometry.groups.max(1))
            .flat_map(|row| row.chunks(2))
            .map(|pair| pair.iter().rev().fold(0, |byte, zero| byte << 4 | zero))
            .collect(),
        _ => Vec::new(),
    };
    let scales = match format.scale_type() {
        ScaleType::F16 => Scales::F16(scales.into_iter().map(f16::from_f32).collect()),
        _ => Scales::F32(scales),
    };
    let parts = Parts { codes, scales, zeros, order: order.to_vec(), ..Parts::default() };
    Ok(PackedWeights::new(format, n, k, parts)?)
}
