use super::Feature;
use std::fmt;

/// What a shader is translated to. [`Target::ALL`] has every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Target {
    /// WGSL as this crate composes it and passes it to wgpu, with its comments.
    Wgsl,
    /// WGSL for browsers: the composed WGSL with the `enable` and `requires` directives that
    /// browsers need and that naga refuses or does not know.
    WgslWeb,
    /// WGSL as naga writes it, without comments and unused items.
    WgslNaga,
    /// SPIR-V.
    Spirv(SpirvVersion),
    /// Metal's shading language.
    Msl(MslVersion),
    /// HLSL, for DXC; shader model 5.1 also for FXC.
    Hlsl(ShaderModel),
    /// GLSL ES 3.10.
    Glsl,
}

/// A version of SPIR-V.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SpirvVersion {
    /// 1.0, of Vulkan 1.0.
    V1_0,
    /// 1.3, of Vulkan 1.1.
    V1_3,
    /// 1.5, of Vulkan 1.2.
    V1_5,
    /// 1.6, of Vulkan 1.3.
    V1_6,
}

/// A version of Metal's shading language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MslVersion {
    /// 2.1, of macOS 10.14 and iOS 12.
    V2_1,
    /// 2.3, of macOS 11 and iOS 14.
    V2_3,
    /// 3.0, of macOS 13 and iOS 16.
    V3_0,
}

/// A shader model of HLSL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ShaderModel {
    /// 5.1.
    V5_1,
    /// 6.0: wave operations and 64-bit integers.
    V6_0,
    /// 6.2: 16-bit floats.
    V6_2,
    /// 6.4: products of packed bytes.
    V6_4,
}

use MslVersion::{V2_1, V2_3, V3_0};
use ShaderModel::{V5_1, V6_0, V6_2, V6_4};
use SpirvVersion::{V1_0, V1_3, V1_5, V1_6};

impl Target {
    /// Every target and version.
    pub const ALL: [Self; 15] = [
        Self::Wgsl,
        Self::WgslWeb,
        Self::WgslNaga,
        Self::Spirv(V1_0),
        Self::Spirv(V1_3),
        Self::Spirv(V1_5),
        Self::Spirv(V1_6),
        Self::Msl(V2_1),
        Self::Msl(V2_3),
        Self::Msl(V3_0),
        Self::Hlsl(V5_1),
        Self::Hlsl(V6_0),
        Self::Hlsl(V6_2),
        Self::Hlsl(V6_4),
        Self::Glsl,
    ];

    /// Returns the language: `wgsl`, `wgsl-web`, `wgsl-naga`, `spirv`, `msl`, `hlsl` or `glsl`.
    pub const fn language(self) -> &'static str {
        match self {
            Self::Wgsl => "wgsl",
            Self::WgslWeb => "wgsl-web",
            Self::WgslNaga => "wgsl-naga",
            Self::Spirv(_) => "spirv",
            Self::Msl(_) => "msl",
            Self::Hlsl(_) => "hlsl",
            Self::Glsl => "glsl",
        }
    }

    /// Returns the version of the language: `1.3` of SPIR-V, `6.4` of HLSL, `310es` of GLSL; none
    /// of WGSL.
    pub const fn version(self) -> Option<&'static str> {
        Some(match self {
            Self::Wgsl | Self::WgslWeb | Self::WgslNaga => return None,
            Self::Spirv(V1_0) => "1.0",
            Self::Spirv(V1_3) => "1.3",
            Self::Spirv(V1_5) => "1.5",
            Self::Spirv(V1_6) => "1.6",
            Self::Msl(V2_1) => "2.1",
            Self::Msl(V2_3) => "2.3",
            Self::Msl(V3_0) => "3.0",
            Self::Hlsl(V5_1) => "5.1",
            Self::Hlsl(V6_0) => "6.0",
            Self::Hlsl(V6_2) => "6.2",
            Self::Hlsl(V6_4) => "6.4",
            Self::Glsl => "310es",
        })
    }

    /// Returns the target of a language and a version. Without a version it is the one that recent
    /// machines support: SPIR-V 1.6, MSL 3.0, shader model 6.4.
    ///
    /// # Errors
    /// Returns [`UnknownTarget`].
    pub fn find(language: &str, version: Option<&str>) -> Result<Self, UnknownTarget> {
        let mut found = Self::ALL.into_iter().filter(|target| target.language() == language);
        let found = match version {
            Some(version) => found.find(|target| target.version() == Some(version)),
            // Versions ascend in the list.
            None => found.next_back(),
        };
        found.ok_or_else(|| UnknownTarget {
            language: language.into(),
            version: version.map(Into::into),
        })
    }

    /// Returns what a target needs to support the feature; `None` if this one does.
    ///
    /// Products of packed bytes are never refused: naga writes multiply-adds with the same results for
    /// targets without such an operation (MSL, GLSL, shader models below 6.4).
    pub const fn lacks(self, feature: Feature) -> Option<&'static str> {
        match (self, feature) {
            (Self::Wgsl | Self::WgslNaga, _) | (_, Feature::PackedDot | Feature::ReadTexture) => {
                None
            }
            (Self::WgslWeb, Feature::F16 | Feature::Subgroups) => None,
            (Self::WgslWeb, Feature::SubgroupId) => None,
            (Self::WgslWeb, Feature::Int64) => Some("64-bit integers, which no browser has"),
            (Self::WgslWeb, Feature::Matrix8 | Feature::Matrix16) => {
                Some("an extension of naga's that no browser has")
            }
            (Self::Spirv(V1_0), Feature::Subgroups | Feature::SubgroupId) => Some("SPIR-V 1.3"),
            (Self::Spirv(V1_0 | V1_3 | V1_5), Feature::Matrix8 | Feature::Matrix16) => {
                Some("SPIR-V 1.6")
            }
            (Self::Spirv(_), _) => None,
            (Self::Msl(V2_1), Feature::Int64 | Feature::Matrix8) => Some("MSL 2.3"),
            (Self::Msl(_), Feature::Matrix16) => Some("matrices of 8 × 8, the only ones of Metal"),
            (Self::Msl(_), _) => None,
            (Self::Hlsl(_), Feature::Matrix8 | Feature::Matrix16) => {
                Some("matrices in naga's HLSL, which has none")
            }
            (Self::Hlsl(V5_1 | V6_0), Feature::F16) => Some("shader model 6.2"),
            (Self::Hlsl(V5_1), Feature::Int64 | Feature::Subgroups | Feature::SubgroupId) => {
                Some("shader model 6.0")
            }
            (Self::Hlsl(_), _) => None,
            (Self::Glsl, _) => Some("a later language, such as SPIR-V 1.6"),
        }
    }

    /// Returns whether the output is text.
    pub const fn is_text(self) -> bool {
        !matches!(self, Self::Spirv(_))
    }
}

/// For example `spirv-1.3`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version() {
            Some(version) => write!(f, "{}-{version}", self.language()),
            None => f.write_str(self.language()),
        }
    }
}

/// A language or a version that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct UnknownTarget {
    /// The language that was asked for.
    pub language: String,
    /// The version that was asked for, if any.
    pub version: Option<String>,
}

impl fmt::Display for UnknownTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions: Vec<_> = Target::ALL
            .iter()
            .filter(|target| target.language() == self.language)
            .map(|target| target.version())
            .collect();
        let Some(version) = self.version.as_ref().filter(|_| !versions.is_empty()) else {
            let mut languages: Vec<_> = Target::ALL.iter().map(|t| t.language()).collect();
            languages.dedup();
            let (language, languages) = (&self.language, languages.join(", "));
            return write!(f, "there is no target `{language}`; targets are {languages}");
        };
        let versions: Vec<_> = versions.into_iter().flatten().collect();
        let language = &self.language;
        match versions.is_empty() {
            true => write!(f, "{language} has no versions, and `{version}` was asked for"),
            false => {
                write!(f, "no version `{version}` of {language}; there are {}", versions.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_found_by_its_name() {
        for target in Target::ALL {
            assert_eq!(Target::find(target.language(), target.version()), Ok(target));
        }
        assert_eq!(Target::find("spirv", None), Ok(Target::Spirv(V1_6)));
        assert_eq!(Target::find("hlsl", None), Ok(Target::Hlsl(V6_4)));
        let message = |language, version| Target::find(language, version).unwrap_err().to_string();
        assert!(message("cuda", None).contains("wgsl-web"));
        assert!(message("cuda", Some("1")).contains("glsl"));
        assert!(message("hlsl", Some("9")).contains("6.4"));
        assert!(message("wgsl", Some("2")).contains("no versions"));
    }

    /// A later version supports everything that an earlier one does.
    #[test]
    fn versions_only_gain() {
        for pair in Target::ALL.windows(2) {
            let [old, new] = pair else { continue };
            if old.language() != new.language() {
                continue;
            }
            for feature in Feature::ALL {
                assert!(old.lacks(feature).is_some() || new.lacks(feature).is_none());
            }
        }
    }
}
