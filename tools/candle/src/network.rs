use candle_core::{Module, Result, Tensor};

/// candle's own layer, `y = x · Wᵀ + b`, for any leading dimensions of x.
#[derive(Clone, Debug)]
pub struct Dense {
    /// W, `[N, K]`.
    pub w: Tensor,
    /// b, `[N]`.
    pub b: Tensor,
}

impl Module for Dense {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, k) = self.w.dims2()?;
        let mut dims = x.dims().to_vec();
        let rows = x.contiguous()?.reshape(((), k))?;
        if let Some(last) = dims.last_mut() {
            *last = n;
        }
        rows.matmul(&self.w.t()?)?.broadcast_add(&self.b)?.reshape(dims)
    }
}

/// What stands between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// max(v, 0).
    Relu,
    /// v · Φ(v).
    Gelu,
}

impl Function {
    /// The function, by candle.
    ///
    /// # Errors
    /// candle's.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Relu => x.relu(),
            Self::Gelu => x.gelu_erf(),
        }
    }
}

/// `down(f(up(x)))`: the feed-forward part of a transformer, of any two layers.
#[derive(Clone, Copy, Debug)]
pub struct FeedForward<L> {
    /// `[inner, K]`.
    pub up: L,
    /// What stands between.
    pub function: Function,
    /// `[K, inner]`.
    pub down: L,
}

impl<L: Module> Module for FeedForward<L> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&self.function.apply(&self.up.forward(x)?)?)
    }
}
