use crate::format::{FormatError, WeightFormat};

/// The rule by which weights become codes and scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The scale of a group follows from its range, and each weight takes the nearest code: the rules
    /// of [`compress`](crate::compress).
    Nearest,
    /// The reference quantizers of ggml, which write GGUF files.
    Ggml,
}

/// A weight format and the rule that makes it. `q4_0`, for example, is ggml's rule in the format
/// `int4-g32-f16s`, which this crate's own rule makes differently.
///
/// [`FromStr`](std::str::FromStr) reads the name of a format, which stands for this crate's rule, or
/// one of ggml's names; [`Display`](std::fmt::Display) writes it.
///
/// ```
/// use lowbit::compress::{Rule, Scheme};
/// let ggml: Scheme = "q4_0".parse()?;
/// let own: Scheme = "int4-g32-f16s".parse()?;
/// assert_eq!((ggml.format(), ggml.rule()), (own.format(), Rule::Ggml));
/// assert_eq!((own.rule(), "nf4".parse::<Scheme>()?.rule()), (Rule::Nearest, Rule::Nearest));
/// # Ok::<(), lowbit::format::FormatError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    format: WeightFormat,
    rule: Rule,
}

impl Scheme {
    /// Returns the scheme that makes a format by this crate's own rule.
    pub const fn nearest(format: WeightFormat) -> Self {
        Self { format, rule: Rule::Nearest }
    }

    /// Returns the scheme that makes a format by ggml's rule, or `None` if ggml has no such format.
    pub fn ggml(format: WeightFormat) -> Option<Self> {
        let name = format.other_name()?;
        is_ggml(name).then_some(Self { format, rule: Rule::Ggml })
    }

    /// Returns the format.
    pub const fn format(&self) -> WeightFormat {
        self.format
    }

    /// Returns the rule.
    pub const fn rule(&self) -> Rule {
        self.rule
    }
}

/// ggml's names are those of its block types: q4_0, q6_k, iq4_nl.
fn is_ggml(name: &str) -> bool {
    name.starts_with('q') || name.starts_with("iq")
}

impl From<WeightFormat> for Scheme {
    fn from(format: WeightFormat) -> Self {
        Self::nearest(format)
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.rule, self.format.other_name()) {
            (Rule::Ggml, Some(name)) => f.write_str(name),
            _ => self.format.fmt(f),
        }
    }
}

impl std::str::FromStr for Scheme {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let format: WeightFormat = text.parse()?;
        let ggml = Self::ggml(format).filter(|_| format.other_name() == Some(text));
        Ok(ggml.unwrap_or(Self::nearest(format)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let mut ggml = 0;
        for (name, format) in WeightFormat::named() {
            let scheme: Scheme = name.parse().unwrap();
            assert_eq!(scheme.format(), format);
            if scheme.rule() == Rule::Ggml {
                ggml += 1;
                assert_eq!(
                    (scheme.to_string().as_str(), Scheme::ggml(format)),
                    (name, Some(scheme))
                );
            } else {
                assert_eq!((scheme, Scheme::ggml(format)), (format.into(), None));
            }
            let own = Scheme::nearest(format);
            assert_eq!(own.to_string().parse(), Ok(own));
        }
        assert_eq!(ggml, 12);
        assert!(Scheme::ggml(WeightFormat::f32()).is_none());
        assert!("q9_0".parse::<Scheme>().is_err());
    }
}
