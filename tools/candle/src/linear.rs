use candle_core::{CpuStorage, CustomOp1, DType, Error, Layout, Module, Result, Shape, Tensor};
use half::f16;
use lowbit::format::{PackedWeights, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::{DeviceWeights, FloatType, MatmulArgs, MatmulPlan, MatmulSpec, Select};
use lowbit::wgpu;
use std::borrow::Cow;
use std::sync::Arc;

const NAME: &str = "lowbit-linear";

/// `y = x · Wᵀ (+ b)` with compressed W `[N, K]`: x `[…, K]` f32 or f16 of any strides, y `[…, N]`
/// of the same type, both on the CPU. Sums are f32. There is no gradient.
#[derive(Debug)]
pub struct Linear {
    host: Arc<Host>,
    weights: DeviceWeights,
    bias: Option<wgpu::Buffer>,
}

impl Linear {
    /// Takes weights that are compressed, `[N, K]`, and a bias `[N]`.
    ///
    /// # Errors
    /// What the device refuses; a bias of another length.
    pub fn new(host: &Arc<Host>, packed: &PackedWeights, bias: Option<&Tensor>) -> Result<Self> {
        let weights = host.upload(packed).map_err(Error::wrap)?;
        Self::of(host, weights, bias)
    }

    /// Compresses a candle tensor `[N, K]` on the GPU.
    ///
    /// # Errors
    /// What the format or the device refuses; a bias of another length.
    pub fn quantize(
        host: &Arc<Host>,
        w: &Tensor,
        bias: Option<&Tensor>,
        format: &WeightFormat,
    ) -> Result<Self> {
        let (n, k) = w.dims2()?;
        let values: Vec<f32> = w.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let weights = host.compress(&values, n, k, format).map_err(Error::wrap)?;
        Self::of(host, weights, bias)
    }

    fn of(host: &Arc<Host>, weights: DeviceWeights, bias: Option<&Tensor>) -> Result<Self> {
        let bias = match bias {
            None => None,
            Some(bias) if bias.dims() == [weights.n()] => {
                let values: Vec<f32> = bias.to_dtype(DType::F32)?.to_vec1()?;
                Some(host.storage(&f32_words(&values)).map_err(Error::wrap)?)
            }
            Some(bias) => {
                let msg = "the bias of a lowbit-linear layer".to_string();
                let (expected, got) = (weights.n().into(), bias.shape().clone());
                return Err(Error::UnexpectedShape { msg, expected, got }.bt());
            }
        };
        Ok(Self { host: host.clone(), weights, bias })
    }

    /// The compressed weights, on the device.
    pub fn weights(&self) -> &DeviceWeights {
        &self.weights
    }

    /// `m` rows of X, as words, to as many of Y. Kernels are compiled once, at the first call of
    /// each type and number of rows (1, 2–8, 9–64, more).
    fn run(&self, x: &[u32], m: usize, float: FloatType) -> Result<Vec<u32>> {
        let (host, weights) = (&self.host, &self.weights);
        let rows = u32::try_from(m).map_err(Error::wrap)?;
        let spec = MatmulSpec::of(rows, weights).with_activations(float).with_output(float);
        let spec = if self.bias.is_some() { spec.with_bias() } else { spec };
        let plan = MatmulPlan::new(host.kernels(), &spec, Select::Auto);
        let plan = pollster::block_on(plan).map_err(Error::wrap)?;
        let x = host.storage(x).map_err(Error::wrap)?;
        let y = host.zeros(spec.y_bytes(rows)).map_err(Error::wrap)?;
        let bound = plan.bind(MatmulArgs {
            activations: (&x).into(),
            weights,
            bias: self.bias.as_ref().map(Into::into),
            output: (&y).into(),
        });
        let bound = pollster::block_on(bound).map_err(Error::wrap)?;
        let mut recorded = Ok(());
        host.submit(|pass| recorded = bound.record(pass, rows)).map_err(Error::wrap)?;
        recorded.map_err(Error::wrap)?;
        let words = spec.y_bytes(rows).div_ceil(4) as usize;
        host.read(&y, 0, words).map_err(Error::wrap)
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, k) = (self.weights.n(), self.weights.k());
        let mut dims = layout.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == k => *last = n,
            _ => {
                let (lhs, rhs) = (layout.shape().clone(), Shape::from((n, k)));
                return Err(Error::ShapeMismatchBinaryOp { lhs, rhs, op: NAME }.bt());
            }
        }
        let shape = Shape::from(dims);
        let m = shape.elem_count() / n.max(1);
        let storage = match storage {
            CpuStorage::F32(data) => {
                let words = self.run(&f32_words(&in_order(data, layout)), m, FloatType::F32)?;
                CpuStorage::F32(words.into_iter().map(f32::from_bits).collect())
            }
            CpuStorage::F16(data) => {
                let words = self.run(&f16_words(&in_order(data, layout), k), m, FloatType::F16)?;
                CpuStorage::F16(f16_rows(&words, n))
            }
            other => return Err(Error::UnsupportedDTypeForOp(dtype(other), NAME).bt()),
        };
        Ok((storage, shape))
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }
}

fn dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// The elements of a tensor one after the other, whatever its strides.
fn in_order<'a, T: Copy>(data: &'a [T], layout: &Layout) -> Cow<'a, [T]> {
    if let Some((start, end)) = layout.contiguous_offsets() {
        return Cow::Borrowed(&data[start..end]);
    }
    let at = |mut index: usize| {
        let mut offset = layout.start_offset();
        for (&dim, &stride) in layout.dims().iter().zip(layout.stride()).rev() {
            offset += index % dim * stride;
            index /= dim;
        }
        offset
    };
    Cow::Owned((0..layout.shape().elem_count()).map(|index| data[at(index)]).collect())
}

fn f32_words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Rows of f16 start at whole words.
fn f16_words(values: &[f16], k: usize) -> Vec<u32> {
    let word = |pair: &[f16]| {
        let [low, high] = [0, 1].map(|i| pair.get(i).map_or(0, |half| u32::from(half.to_bits())));
        low | high << 16
    };
    values.chunks(k.max(1)).flat_map(|row| row.chunks(2).map(word)).collect()
}

fn f16_rows(words: &[u32], n: usize) -> Vec<f16> {
    let halves = |word: &u32| [*word as u16, (*word >> 16) as u16].map(f16::from_bits);
    let row = |words: &[u32]| words.iter().flat_map(halves).take(n).collect::<Vec<_>>();
    words.chunks(n.div_ceil(2).max(1)).flat_map(row).collect()
}
