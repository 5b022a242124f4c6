/// The function that a matmul applies to its sums after it has added the bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActivationFunction {
    /// v.
    #[default]
    Identity,
    /// max(v, 0).
    Relu,
    /// v · Φ(v), where Φ is the cumulative distribution function of the standard normal
    /// distribution: (v/2) · (1 + erf(v/√2)) (Hendrycks and Gimpel, 2016).
    Gelu,
    /// The approximation of [`Gelu`](Self::Gelu) with a tanh: (v/2) · (1 + tanh(√(2/π)·(v +
    /// 0.044715v³))).
    GeluTanh,
    /// v / (1 + exp(−v)), also called swish.
    Silu,
}

impl ActivationFunction {
    /// Every activation function.
    pub const ALL: [Self; 5] = [Self::Identity, Self::Relu, Self::Gelu, Self::GeluTanh, Self::Silu];

    /// Returns the name that kernels and reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Silu => "silu",
        }
    }
}
