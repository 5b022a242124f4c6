//! How formats are named.

use super::{CodeType, FormatError, Granularity, Offset, ScaleType, WeightFormat};

/// The names of formats that other projects defined, for which [`FromStr`](std::str::FromStr) has
/// these names too.
const NAMED: [(&str, CodeType, u32, Offset, ScaleType); 16] = {
    use CodeType::{E2m1, Fp4, Int2, Int3, Int4, Int5, Int6, Int8, Iq4Nl, Nf4};
    use Offset::{Fixed, Minimum};
    use ScaleType::{E4m3Tensor, E8m0, F16, F32, Int8Super};
    [
        ("q4_0", Int4, 32, Fixed, F16),
        ("q4_1", Int4, 32, Minimum, F16),
        ("q5_0", Int5, 32, Fixed, F16),
        ("q5_1", Int5, 32, Minimum, F16),
        ("q8_0", Int8, 32, Fixed, F16),
        ("q2_k", Int2, 16, Minimum, Int8Super),
        ("q3_k", Int3, 16, Fixed, Int8Super),
        ("q4_k", Int4, 32, Minimum, Int8Super),
        ("q5_k", Int5, 32, Minimum, Int8Super),
        ("q6_k", Int6, 16, Fixed, Int8Super),
        ("iq4_nl", Iq4Nl, 32, Fixed, F16),
        ("iq4_xs", Iq4Nl, 32, Fixed, Int8Super),
        ("nf4", Nf4, 64, Fixed, F32),
        ("fp4", Fp4, 64, Fixed, F32),
        ("mxfp4", E2m1, 32, Fixed, E8m0),
        ("nvfp4", E2m1, 16, Fixed, E4m3Tensor),
    ]
};

impl Offset {
    /// Returns the part of a format's name, which is empty for a fixed zero point.
    pub const fn part(self) -> &'static str {
        match self {
            Self::Fixed => "",
            Self::ZeroPoint => "asym",
            Self::ZeroPoint4 => "asym4",
            Self::FloatZeroPoint => "fzero",
            Self::Minimum => "min",
        }
    }

    /// Every offset.
    pub const ALL: [Offset; 5] =
        [Self::Fixed, Self::ZeroPoint, Self::ZeroPoint4, Self::FloatZeroPoint, Self::Minimum];
}

impl WeightFormat {
    /// Returns the formats that other projects defined, with their names: those of GGUF, nf4, fp4, MXFP4
    /// and NVFP4.
    pub fn named() -> impl Iterator<Item = (&'static str, Self)> {
        NAMED.into_iter().filter_map(|(name, code_type, group, offset, scales)| {
            let group = Granularity::group(group).ok()?;
            Some((name, Self::new(code_type, group).with_offset(offset).with_scales(scales)))
        })
    }

    /// Returns the name that another project gave this format, for example `q4_k`.
    pub fn other_name(&self) -> Option<&'static str> {
        Self::named().find(|(_, format)| format == self).map(|(name, _)| name)
    }
}

/// Writes names such as `int4-g64-asym`, `2:4+int8-channel` and `f16`: the code type, the granularity,
/// the offset (`asym`, `asym4`, `fzero` or `min`), the type of scales ([`ScaleType::suffix`]), and
/// `perm` if columns are permuted.
impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_sparse() {
            f.write_str("2:4+")?;
        }
        f.write_str(self.code_type.name())?;
        if self.code_type.has_scales() {
            match self.granularity {
                Granularity::Group(g) => write!(f, "-g{g}")?,
                other => write!(f, "-{other}")?,
            }
        }
        let scales = if self.code_type.has_scales() { self.scale_type.suffix() } else { "" };
        for part in [self.offset.part(), scales, if self.permuted { "perm" } else { "" }] {
            if !part.is_empty() {
                write!(f, "-{part}")?;
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for WeightFormat {
    type Err = FormatError;

    /// Reads a name that [`Display`](std::fmt::Display) writes, or one of [`WeightFormat::named`].
    fn from_str(text: &str) -> Result<Self, FormatError> {
        if let Some((_, format)) = Self::named().find(|(name, _)| *name == text) {
            return Ok(format);
        }
        let unknown = || FormatError::Unknown(text.chars().take(64).collect());
        let (sparse, rest) = match text.strip_prefix("2:4+") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut parts = rest.split('-').peekable();
        let name = parts.next().ok_or_else(unknown)?;
        let code_type = CodeType::ALL.into_iter().find(|e| e.name() == name).ok_or_else(unknown)?;
        let mut format = Self::new(code_type, Granularity::Channel);
        if code_type.has_scales() {
            format.granularity = match parts.next().ok_or_else(unknown)? {
                "tensor" => Granularity::Tensor,
                "channel" => Granularity::Channel,
                group => {
                    let g = group.strip_prefix('g').and_then(|g| g.parse().ok());
                    Granularity::group(g.ok_or_else(unknown)?)?
                }
            };
        }
        let named = |part: &str, name: &str| !name.is_empty() && part == name;
        for offset in Offset::ALL {
            if parts.next_if(|part| named(part, offset.part())).is_some() {
                format.offset = offset;
                break;
            }
        }
        for scale_type in ScaleType::ALL {
            if parts.next_if(|part| named(part, scale_type.suffix())).is_some() {
                format.scale_type = scale_type;
                break;
            }
        }
        if parts.next_if_eq(&"perm").is_some() {
            format.permuted = true;
        }
        if parts.next().is_some() {
            return Err(unknown());
        }
        if sparse {
            format = format.two_four();
        }
        format.check()?;
        Ok(format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Sparsity;

    /// Every combination that exists has a name, and its name reads back as the combination.
    #[test]
    fn names_round_trip() {
        let g = |g| Granularity::group(g).unwrap();
        let mut names = std::collections::HashSet::new();
        for code_type in CodeType::ALL {
            for granularity in [Granularity::Tensor, Granularity::Channel, g(1), g(7), g(128)] {
                for offset in Offset::ALL {
                    for scale_type in ScaleType::ALL {
                        for sparsity in [Sparsity::Dense, Sparsity::TwoFour] {
                            for permuted in [false, true] {
                                let mut format = WeightFormat::new(code_type, granularity)
                                    .with_offset(offset)
                                    .with_scales(scale_type);
                                (format.sparsity, format.permuted) = (sparsity, permuted);
                                let parsed = format.to_string().parse::<WeightFormat>();
                                if format.check().is_ok() {
                                    assert_eq!(parsed, Ok(format));
                                    names.insert(format);
                                } else if code_type.has_scales() {
                                    assert!(parsed.is_err(), "{format}");
                                }
                            }
                        }
                    }
                }
            }
        }
        let distinct: std::collections::HashSet<_> = names.iter().map(|f| f.to_string()).collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names.len() > 500, "{}", names.len());
    }

    #[test]
    fn names_of_other_projects() {
        for (name, format) in WeightFormat::named() {
            assert_eq!(format.check(), Ok(()), "{name}");
            assert_eq!(name.parse::<WeightFormat>(), Ok(format));
            assert_eq!(format.other_name(), Some(name));
        }
        assert_eq!("q4_k".parse::<WeightFormat>().unwrap().to_string(), "int4-g32-min-i8s");
        assert_eq!("nvfp4".parse::<WeightFormat>().unwrap().to_string(), "e2m1-g16-e4m3s");
    }

    #[test]
    fn nonsense_names_are_refused() {
        for name in [
            "",
            "int8",
            "int8-",
            "int8-g0",
            "int8-gx",
            "int4-g64-sym",
            "f16-asym",
            "2:4+",
            "int8-channel-f16s-asym",
            "int8-channel-perm-f16s",
            "int4-channel-i8s",
            "int4-g24-i8s",
            "nf4-g64-asym",
            "2:4+nf4-g64",
            "2:4+q4_k",
            "int8-g32-asym4",
            "e4m3-g32-min",
        ] {
            assert!(name.parse::<WeightFormat>().is_err(), "{name}");
        }
    }
}
