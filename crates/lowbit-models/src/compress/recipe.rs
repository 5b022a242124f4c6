//! Recipes: which tensors of a file get which format.

use crate::layerwise::{ColumnOrder, Fold, Treatment};
use globset::{Glob, GlobBuilder, GlobMatcher};
use lowbit::compress::Scheme;
use lowbit::compress::layerwise::Pattern as Sparsity;
use lowbit::format::Sparsity::TwoFour;
use lowbit::format::{ActivationError, ActivationFormat, Granularity, WeightFormat};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A pattern for names of tensors. `*` matches any characters, dots among them; `?`, `[ab]` and
/// `{a,b}` are as in a shell, and a backslash takes a character as it is.
#[derive(Clone, Debug)]
pub struct Pattern(GlobMatcher);

impl Pattern {
    /// Returns whether a name matches.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl std::str::FromStr for Pattern {
    type Err = globset::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Names of tensors are not paths: a backslash only escapes.
        let glob: Glob = GlobBuilder::new(text).backslash_escape(true).build()?;
        Ok(Self(glob.compile_matcher()))
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.glob().glob())
    }
}

/// One rule of a [`Recipe`].
#[derive(Clone, Debug)]
pub struct Rule {
    /// The tensors that it is about: float tensors of two or more axes of which one pattern matches.
    /// `None` stands for the weights of linear layers.
    pub tensors: Option<Vec<Pattern>>,
    /// The format that they get, and the rule that makes it; `None` if they stay as they are.
    pub scheme: Option<Scheme>,
    /// How they are compressed.
    pub treatment: Treatment,
}

impl Rule {
    /// Makes a rule of a format and a treatment that fit each other: a sparsity of 2:4 makes the format a 2:4 one,
    /// and the other way round.
    ///
    /// # Errors
    /// Returns a sentence that says what does not fit.
    pub fn new(
        tensors: Option<Vec<Pattern>>,
        scheme: Option<Scheme>,
        mut treatment: Treatment,
    ) -> Result<Self, String> {
        let Some(mut made) = scheme else {
            if let Some(activations) = treatment.activations {
                return Err(format!(
                    "the weights stay as they are, and their inputs are to be {activations}; codes go with formats of \
                     integers"
                ));
            }
            return Ok(Self { tensors, scheme, treatment: Treatment::default() });
        };
        let format = made.format();
        match (format.sparsity() == TwoFour, treatment.sparsity) {
            (true, Sparsity::Dense) => treatment.sparsity = Sparsity::TWO_FOUR,
            (true, other) if other != Sparsity::TWO_FOUR => {
                return Err(format!("{made} is a 2:4 format, and the sparsity is {other}"));
            }
            (false, Sparsity::TWO_FOUR) => {
                let sparse = format.two_four();
                sparse.check().map_err(|error| error.to_string())?;
                made = sparse.into();
            }
            _ => {}
        }
        treatment.check()?;
        Ok(Self { tensors, scheme: Some(made), treatment })
    }
}

/// Which tensors get which format: rules in order. The first rule that is about a tensor decides; a
/// tensor that none is about stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// The rules.
    pub rules: Vec<Rule>,
}

/// The reason why a recipe cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason of the operating system.
        source: std::io::Error,
    },
    /// The text is not TOML, or has other keys than `rule` with `tensors` and `format`.
    #[error("the recipe is not valid")]
    Toml(#[from] Box<toml::de::Error>),
    /// A pattern is not valid.
    #[error("rule {rule}: the pattern `{pattern}` cannot be read")]
    Pattern {
        /// The number of the rule, from 1.
        rule: usize,
        /// The pattern.
        pattern: String,
        /// The reason.
        source: globset::Error,
    },
    /// A format is not valid.
    #[error("rule {rule}: `{format}` is no format: {why}")]
    Format {
        /// The number of the rule, from 1.
        rule: usize,
        /// What the rule says.
        format: String,
        /// The reason.
        why: String,
    },
    /// What a rule says does not fit together, or cannot be read.
    #[error("rule {rule}: {why}")]
    Treatment {
        /// The number of the rule, from 1.
        rule: usize,
        /// The reason.
        why: String,
    },
    /// There are no rules.
    #[error("the recipe has no rules; each is a table `[[rule]]` with `tensors` and `format`")]
    Empty,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecipe {
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    tensors: Option<OneOrMore>,
    format: String,
    method: Option<String>,
    sparsity: Option<String>,
    order: Option<String>,
    damping: Option<f64>,
    clip: Option<bool>,
    permute: Option<bool>,
    global: Option<bool>,
    fold: Option<String>,
    activations: Option<String>,
}

impl RawRule {
    /// Reads how the rule compresses.
    fn treatment(&self) -> Result<Treatment, String> {
        let mut treatment = Treatment::default();
        if let Some(method) = &self.method {
            treatment.method = method.parse()?;
        }
        if let Some(sparsity) = &self.sparsity {
            let parsed: Result<Sparsity, _> = sparsity.parse();
            treatment.sparsity = parsed.map_err(|error| error.to_string())?;
        }
        if let Some(order) = &self.order {
            treatment.order = order.parse::<ColumnOrder>()?;
        }
        treatment.damping = self.damping.unwrap_or(treatment.damping);
        treatment.clip = self.clip.unwrap_or(treatment.clip);
        treatment.permute = self.permute.unwrap_or(treatment.permute);
        treatment.global = self.global.unwrap_or(treatment.global);
        if let Some(fold) = &self.fold {
            treatment.fold = fold.parse::<Fold>()?;
        }
        treatment.activations = self.activations.as_deref().map(activations).transpose()?;
        Ok(treatment)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Parses the format of the codes that inputs become.
fn activations(text: &str) -> Result<ActivationFormat, String> {
    if text.contains("static") {
        return Err(format!(
            "`{text}`: static scales follow from ranges, which a recipe does not have; give a format whose scales are \
             taken from the input, as in int8-token"
        ));
    }
    text.parse().map_err(|error: ActivationError| error.to_string())
}

/// Parses a format of a rule: the name of a scheme, or `int16`, `int8` and `int4` for the usual ones, or
/// `keep`.
fn scheme(text: &str) -> Result<Option<Scheme>, String> {
    let format = match text {
        "keep" => return Ok(None),
        "int16" => WeightFormat::int16(Granularity::Channel),
        "int8" => WeightFormat::int8(Granularity::Channel),
        "int4" => WeightFormat::int4(Granularity::group(128).map_err(|error| error.to_string())?),
        name => {
            let scheme = name.parse();
            return scheme
                .map(Some)
                .map_err(|error: lowbit::format::FormatError| error.to_string());
        }
    };
    Ok(Some(format.into()))
}

impl Recipe {
    /// Reads a recipe from a TOML file.
    ///
    /// # Errors
    /// Returns [`RecipeError`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, RecipeError> {
        let path = path.as_ref();
        let failed = |source| RecipeError::Read { path: path.to_owned(), source };
        Self::from_toml(&std::fs::read_to_string(path).map_err(failed)?)
    }

    /// Reads a recipe from the text of a TOML file: tables `[[rule]]`, each with a `format` and, unless
    /// the rule is about all linear layers, with a pattern or a list of patterns as `tensors`. A rule may also
    /// have what a [`Treatment`] has: `method`, `sparsity`, `order`, `damping`, `clip`, `permute`,
    /// `global`, `fold` and `activations`.
    ///
    /// ```
    /// use lowbit_models::compress::Recipe;
    /// let recipe = Recipe::from_toml(
    ///     r#"
    ///     [[rule]]
    ///     tensors = "lm_head.*"
    ///     format = "keep"
    ///
    ///     [[rule]]
    ///     format = "int4-g64-asym"
    ///     "#,
    /// )?;
    /// assert_eq!(recipe.rules.len(), 2);
    /// assert!(recipe.rules[0].scheme.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`RecipeError`].
    pub fn from_toml(text: &str) -> Result<Self, RecipeError> {
        let raw: RawRecipe = toml::from_str(text).map_err(Box::new)?;
        if raw.rule.is_empty() {
            return Err(RecipeError::Empty);
        }
        let rules = (1..).zip(raw.rule).map(|(rule, raw)| {
            let other = |why| RecipeError::Treatment { rule, why };
            let treatment = raw.treatment().map_err(other)?;
            let RawRule { tensors, format: name, .. } = raw;
            let patterns = match tensors {
                None => None,
                Some(OneOrMore::One(pattern)) => Some(vec![pattern]),
                Some(OneOrMore::More(patterns)) => Some(patterns),
            };
            let parse = |pattern: String| {
                pattern.parse().map_err(|source| RecipeError::Pattern { rule, pattern, source })
            };
            let tensors = patterns
                .map(|patterns| patterns.into_iter().map(parse).collect::<Result<Vec<_>, _>>())
                .transpose()?;
            let scheme = scheme(&name).map_err(|why| RecipeError::Format {
                rule,
                format: name.clone(),
                why,
            })?;
            Rule::new(tensors, scheme, treatment).map_err(other)
        });
        Ok(Self { rules: rules.collect::<Result<_, RecipeError>>()? })
    }
}

impl std::fmt::Display for Recipe {
    /// Writes the recipe as TOML, which [`Recipe::from_toml`] reads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, Rule { tensors, scheme, treatment }) in self.rules.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "[[rule]]")?;
            // Strings of TOML may hold a backslash only if it is escaped, as in JSON.
            let text = |text: &str| serde_json::Value::from(text).to_string();
            if let Some(patterns) = tensors {
                let patterns: Vec<String> =
                    patterns.iter().map(|pattern| text(&pattern.to_string())).collect();
                writeln!(f, "tensors = [{}]", patterns.join(", "))?;
            }
            let format = scheme.map_or("keep".to_owned(), |scheme| scheme.to_string());
            writeln!(f, "format = {}", text(&format))?;
            let usual = Treatment::default();
            let Treatment {
                method,
                sparsity,
                order,
                damping,
                clip,
                permute,
                global,
                fold,
                activations,
            } = treatment;
            if *method != usual.method {
                writeln!(f, "method = {}", text(method.name()))?;
            }
            if *sparsity != usual.sparsity {
                writeln!(f, "sparsity = {}", text(&sparsity.to_string()))?;
            }
            if *order != usual.order {
                writeln!(f, "order = {}", text(order.name()))?;
            }
            if *damping != usual.damping {
                writeln!(f, "damping = {damping:?}")?;
            }
            if *clip {
                writeln!(f, "clip = true")?;
            }
            if *permute {
                writeln!(f, "permute = true")?;
            }
            if *global {
                writeln!(f, "global = true")?;
            }
            if *fold != usual.fold {
                writeln!(f, "fold = {}", text(fold.name()))?;
            }
            if let Some(activations) = activations {
                writeln!(f, "activations = {}", text(&activations.to_string()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_in_order() {
        let text = r#"
            [[rule]]
            tensors = ["a.*", "b?.weight"]
            format = "int8-g32-asym-f16s"
            [[rule]]
            tensors = "*"
            format = "keep"
            [[rule]]
            format = "int4"
        "#;
        let recipe = Recipe::from_toml(text).unwrap();
        let formats: Vec<_> =
            recipe.rules.iter().map(|rule| rule.scheme.map(|scheme| scheme.to_string())).collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(formats, [some("int8-g32-asym-f16s"), None, some("int4-g128")]);
        let patterns = recipe.rules[0].tensors.as_ref().unwrap();
        assert!(patterns[0].matches("a.b.c") && !patterns[0].matches("b1.weight"));
        assert!(patterns[1].matches("b1.weight") && !patterns[1].matches("b12.weight"));
        assert!(recipe.rules[2].tensors.is_none());
    }

    #[test]
    fn one_threshold_is_read_and_written() {
        let text = "[[rule]]\nformat = \"f16\"\nmethod = \"magnitude\"\nsparsity = \"0.5\"\nglobal = true\n";
        let recipe = Recipe::from_toml(text).unwrap();
        assert!(recipe.rules[0].treatment.global);
        assert_eq!(recipe.to_string(), text);
    }

    #[test]
    fn what_is_written_is_read() {
        let text = r#"
            [[rule]]
            tensors = "a\\*"
            format = "int4-g64-asym"
            method = "awq"
            fold = "norms"
            activations = "int8-g64-asym"
            [[rule]]
            format = "int8"
            method = "gptq"
            order = "activations-static"
            damping = 0.5
            clip = true
        "#;
        let recipe = Recipe::from_toml(text).unwrap();
        let again = Recipe::from_toml(&recipe.to_string()).unwrap();
        assert_eq!(again.to_string(), recipe.to_string());
        for (first, second) in recipe.rules.iter().zip(&again.rules) {
            assert_eq!(first.treatment, second.treatment);
        }
        let activations = recipe.rules[0].treatment.activations.map(|format| format.to_string());
        assert_eq!(activations.as_deref(), Some("int8-g64-asym"));
        assert_eq!(recipe.rules[0].treatment.fold, Fold::Norms);
    }

    #[test]
    fn what_is_no_recipe_is_refused() {
        for (text, why) in [
            ("", "has no rules"),
            ("rule = 1", "not valid"),
            ("[[rule]]\ntensors = \"*\"", "not valid"),
            ("[[rule]]\nformat = \"int4\"\nmore = 1", "not valid"),
            (
                "[[rule]]\nformat = \"f16\"\nmethod = \"magnitude\"\nsparsity = \"6:8\"\nglobal = true",
                "the sparsity is 6:8",
            ),
            (
                "[[rule]]\nformat = \"f16\"\nmethod = \"wanda\"\nsparsity = \"0.5\"\nglobal = true",
                "wanda has no threshold",
            ),
            ("[[rules]]\nformat = \"int4\"", "not valid"),
            ("[[rule]]\nformat = \"int3-x\"", "rule 1: `int3-x` is no format"),
            (
                "[[rule]]\nformat = \"int4\"\nactivations = \"int4\"",
                "unknown activation format `int4`",
            ),
            (
                "[[rule]]\nformat = \"int4\"\nactivations = \"int8:static=a.json\"",
                "static scales follow from ranges",
            ),
            ("[[rule]]\nformat = \"keep\"\nactivations = \"int8-token\"", "stay as they are"),
            ("[[rule]]\nformat = \"int4\"\nfold = \"norms\"", "`fold` goes with awq"),
            ("[[rule]]\nformat = \"int4\"\ndamping = 0.1", "rtn has no damping"),
            (
                "[[rule]]\nformat = \"2:4+int4-g64\"\nclip = true",
                "clips only what it does not prune",
            ),
            (
                "[[rule]]\nformat = \"f16\"\nmethod = \"sparsegpt\"\nsparsity = \"6:8\"\norder = \"activations\"",
                "6:8 is a pattern of neighboring columns",
            ),
            (
                "[[rule]]\nformat = \"int4\"\n[[rule]]\ntensors = \"[a\"\nformat = \"int8\"",
                "rule 2: the pattern `[a`",
            ),
        ] {
            let error = Recipe::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
