/// What a matmul applies to its sums, after the bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActivationFunction {
    /// v.
    #[default]
    Identity,
    /// max(v, 0).
    Relu,
    /// v · Φ(v), Φ the normal distribution: (v/2) · (1 + erf(v/√2)) (Hendrycks and Gimpel, 2016).
    Gelu,
    /// The same with √(2/π)·(v + 0.044715v³) for the argument of a tanh instead of the erf.
    GeluTanh,
    /// v / (1 + exp(−v)), also called swish.
    Silu,
}

impl ActivationFunction {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Identity, Self::Relu, Self::Gelu, Self::GeluTanh, Self::Silu];

    /// As it is called in kernels and reports.
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
