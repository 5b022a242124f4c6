use std::fmt;

/// A feature beyond the core of WGSL that a kernel can use. The headers of shader fragments declare
/// them (`// Features: int64.`), and `translate` compares that with what naga finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(any(feature = "serde", feature = "translate"), derive(serde::Serialize))]
#[cfg_attr(any(feature = "serde", feature = "translate"), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Feature {
    /// 16-bit floats as a type. Most kernels read f16 values out of 32-bit words, which does not
    /// need this feature.
    F16,
    /// 64-bit integers.
    Int64,
    /// Sums and shuffles within a subgroup, or the number of a lane in its subgroup.
    Subgroups,
    /// The number of a subgroup in its workgroup, and the number of subgroups.
    SubgroupId,
    /// Dot products of four packed bytes.
    PackedDot,
    /// Textures of u32 that are read without a sampler.
    ReadTexture,
    /// Cooperative matrices of 8 × 8.
    Matrix8,
    /// Cooperative matrices of 16 × 16.
    Matrix16,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 8] = [
        Self::F16,
        Self::Int64,
        Self::Subgroups,
        Self::SubgroupId,
        Self::PackedDot,
        Self::ReadTexture,
        Self::Matrix8,
        Self::Matrix16,
    ];

    /// Returns the name that headers, errors and JSON use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Int64 => "int64",
            Self::Subgroups => "subgroups",
            Self::SubgroupId => "subgroup-id",
            Self::PackedDot => "packed-dot",
            Self::ReadTexture => "read-texture",
            Self::Matrix8 => "matrix8",
            Self::Matrix16 => "matrix16",
        }
    }

    /// Returns the feature of a name, if there is one.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|feature| feature.name() == name)
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
