//! What may become of a weight.

use crate::compress::Rule;
use crate::layerwise::{Fold, Method, Treatment};
use lowbit::compress::Scheme;
use lowbit::format::{ActivationError, ActivationFormat};

/// The candidates if none are given: from f16 over 8 bits a weight to 2, and 2:4 sparse weights of 4 bits.
pub const DEFAULT: [&str; 10] = [
    "keep",
    "rtn:f16",
    "gptq:int8-g64-asym",
    "rtn:int8-channel",
    "gptq:int6-g64-asym",
    "gptq:int5-g64-asym",
    "gptq:int4-g64-asym",
    "gptq:int3-g64-asym",
    "gptq:int2-g32-asym",
    "sparsegpt:int4-g64-asym:2:4",
];

/// The name of the candidate that leaves a weight as it is.
const KEEP: &str = "keep";

/// What may become of a weight: `keep`, or a method, a format and a sparsity, as in `gptq:int4-g64-asym` and
/// `sparsegpt:int4-g64-asym:2:4`. `@` and a format of activations behind them says what the weight's input becomes, as in
/// `gptq:int4-g64-asym@int8-token`; without it, the input stays floats.
///
/// ```
/// use lowbit_models::explore::Candidate;
/// let candidate: Candidate = "sparsegpt:int4-g64-asym:2:4".parse()?;
/// assert_eq!(candidate.scheme().map(|scheme| scheme.to_string()).as_deref(), Some("2:4+int4-g64-asym"));
/// assert!("keep".parse::<Candidate>()?.scheme().is_none());
/// assert!("gptq".parse::<Candidate>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug)]
pub struct Candidate {
    name: String,
    scheme: Option<Scheme>,
    treatment: Treatment,
}

impl Candidate {
    /// Returns the name, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the format and how it is made, or `None` if the weight stays as it is.
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// Returns how weights are compressed.
    pub fn treatment(&self) -> &Treatment {
        &self.treatment
    }

    /// Returns the format of the codes that the weight's input becomes, or `None` if it stays floats.
    pub fn activations(&self) -> Option<ActivationFormat> {
        self.treatment.activations
    }

    /// Returns why a matrix `[n, k]` cannot be this candidate, or `None` if it can: it has no such format, or no kernel
    /// multiplies it with the activations.
    pub fn misfit(&self, n: usize, k: usize) -> Option<String> {
        let format = self.scheme?.format();
        self.no_format(n, k).or_else(|| self.treatment.refused_activations(format, n, k))
    }

    /// Returns why a matrix `[n, k]` cannot have this format, or `None` if it can.
    pub(super) fn no_format(&self, n: usize, k: usize) -> Option<String> {
        self.scheme?.format().geometry(n, k).err().map(|error| error.to_string())
    }

    /// Returns whether another candidate has the same weights, whatever becomes of their inputs.
    pub(super) fn has_weights_of(&self, other: &Self) -> bool {
        let weights = |treatment: &Treatment| Treatment { activations: None, ..treatment.clone() };
        self.scheme == other.scheme && weights(&self.treatment) == weights(&other.treatment)
    }

    /// Returns whether a weight may be this candidate while another one that takes the same input is the other: their input
    /// becomes the same, and neither or both are made by AWQ, whose factors the weights of an input have in common.
    pub(super) fn goes_with(&self, other: &Self) -> bool {
        let awq = |candidate: &Self| candidate.treatment.method == Method::Awq;
        let together = match (awq(self), awq(other)) {
            (true, true) => self.has_weights_of(other),
            (false, false) => true,
            _ => false,
        };
        together && self.activations() == other.activations()
    }
}

impl std::fmt::Display for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl std::str::FromStr for Candidate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_owned();
        if text == KEEP {
            return Ok(Self { name, scheme: None, treatment: Treatment::default() });
        }
        let (weights, activations) = match text.split_once('@') {
            Some((weights, activations)) => (weights, Some(activations)),
            None => (text, None),
        };
        let Some((method, rest)) = weights.split_once(':') else {
            return Err(format!(
                "`{text}` is no candidate; it is keep, or METHOD:FORMAT[:SPARSITY][@ACTIVATIONS]"
            ));
        };
        let method: Method = method.parse()?;
        // Names of formats may have a colon, as in 2:4+int8-channel; so the longest that is a format is taken.
        let ends = rest.rmatch_indices(':').map(|(at, _)| at);
        let mut found = None;
        for end in std::iter::once(rest.len()).chain(ends) {
            let (format, sparsity) = rest.split_at_checked(end).unwrap_or((rest, ""));
            if let Ok(scheme) = format.parse::<Scheme>() {
                found = Some((scheme, sparsity.strip_prefix(':')));
                break;
            }
        }
        let Some((scheme, sparsity)) = found else {
            return Err(format!("`{rest}` does not begin with the name of a format"));
        };
        let mut treatment = Treatment::of(method);
        if let Some(sparsity) = sparsity {
            treatment.sparsity = sparsity
                .parse()
                .map_err(|error: lowbit::compress::layerwise::LayerwiseError| error.to_string())?;
        }
        if let Some(activations) = activations {
            let parsed: Result<ActivationFormat, ActivationError> = activations.parse();
            treatment.activations = Some(parsed.map_err(|error| error.to_string())?);
        }
        if method == Method::Awq {
            // A weight must not change because of what becomes of another one.
            treatment.fold = Fold::Norms;
        }
        let Rule { scheme, treatment, .. } = Rule::new(None, Some(scheme), treatment)?;
        Ok(Self { name, scheme, treatment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_candidates_by_their_names() {
        for name in DEFAULT {
            let candidate: Candidate = name.parse().unwrap();
            assert_eq!(candidate.name(), name);
        }
    }
}
