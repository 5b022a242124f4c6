//! How compressed-tensors says that the input X of a module becomes 8-bit codes: with the `input_activations` of
//! the module's group in `config_groups`, and, where the scale is fixed, with tensors of one element.
//!
//! | tensor | type | |
//! |---|---|---|
//! | `M.input_scale` | F16, BF16, F32 | if X is not `dynamic` |
//! | `M.input_zero_point` | I8 | not needed if symmetric |

use super::config::{Config, Method};
use super::tensors::{Context, elements, floats};
use lowbit::format::{ActivationFormat, Geometry, Quantization, StaticScale};
use lowbit::ops::{FormatUse, PlanError};
use regex::Regex;
use safetensors::Dtype;
use serde_json::Value;

/// What the config groups say about the inputs of modules.
pub(super) struct Groups {
    rule: Rule,
    /// What lowbit does not do for any module, as sentences without a full stop.
    pub warnings: Vec<String>,
}

enum Rule {
    /// All groups say this; floats if it is null.
    Same(Value),
    /// Targets, in the order in which they are tried, and what their groups say.
    Targets(Vec<(Target, Value)>),
}

/// What a target of a group stands for. They are tried in this order, as compressed-tensors does.
enum Target {
    /// A module.
    Name(String),
    /// `re:` and a regular expression, which the name of a module starts with. `None` if it is not understood.
    Pattern(String, Option<Regex>),
    /// A class of modules. Tensors do not say which class their module has; it is a linear layer.
    Class,
}

impl Target {
    fn of(target: &str) -> Self {
        match target.strip_prefix("re:") {
            Some(pattern) => {
                let regex = Regex::new(&format!("^(?:{pattern})")).ok();
                Self::Pattern(target.to_owned(), regex)
            }
            None if target == "Linear" => Self::Class,
            None => Self::Name(target.to_owned()),
        }
    }

    fn rank(&self) -> (u8, &str) {
        match self {
            Self::Name(name) => (0, name),
            Self::Pattern(pattern, _) => (1, pattern),
            Self::Class => (2, ""),
        }
    }
}

impl Groups {
    /// Reads the configuration. One of another method says nothing.
    pub fn new(config: &Config) -> Self {
        let mut warnings = Vec::new();
        if config.method() != Some(Method::CompressedTensors) {
            return Self { rule: Rule::Same(Value::Null), warnings };
        }
        let object = |group: &Value, key: &str| group.get(key).filter(|x| x.is_object()).cloned();
        let inputs = |group: &Value| object(group, "input_activations").unwrap_or_default();
        let groups: Vec<&Value> = config.ct_groups().collect();
        if groups.iter().any(|group| object(group, "output_activations").is_some()) {
            warnings.push("the outputs of layers stay floats: lowbit quantizes inputs".to_owned());
        }
        if config.has_object("kv_cache_scheme") {
            warnings.push(
                "the configuration quantizes keys and values, which lowbit does with --kv only"
                    .to_owned(),
            );
        }
        let first = groups.first().map(|group| inputs(group)).unwrap_or_default();
        if groups.iter().all(|group| inputs(group) == first) {
            return Self { rule: Rule::Same(first), warnings };
        }
        let mut targets = Vec::new();
        for group in groups {
            let named = group.get("targets").and_then(Value::as_array).into_iter().flatten();
            let named = named.filter_map(Value::as_str);
            targets.extend(named.map(|target| (Target::of(target), inputs(group))));
        }
        targets.sort_by(|(a, _), (b, _)| a.rank().cmp(&b.rank()));
        Self { rule: Rule::Targets(targets), warnings }
    }

    /// Returns the `input_activations` of a module, which are null if its inputs stay floats.
    ///
    /// # Errors
    /// Returns the reason, as the end of a sentence, if it cannot be told which group is the module's.
    fn inputs(&self, module: &str) -> Result<&Value, String> {
        let targets = match &self.rule {
            Rule::Same(inputs) => return Ok(inputs),
            Rule::Targets(targets) => targets,
        };
        for (target, inputs) in targets {
            let found = match target {
                Target::Name(name) => name == module,
                Target::Pattern(_, Some(regex)) => regex.is_match(module),
                Target::Pattern(pattern, None) => {
                    return Err(format!(
                        "the pattern `{pattern}` of the configuration is not understood, for example because \
                         it looks around"
                    ));
                }
                Target::Class => true,
            };
            if found {
                return Ok(inputs);
            }
        }
        Err("no group of the configuration names them".to_owned())
    }
}

/// Returns how X of a module becomes codes, or `None` if it stays floats.
///
/// # Errors
/// Returns the reason, as the end of a sentence, if the configuration says something else than kernels do.
pub(super) fn inputs(
    groups: &Groups,
    context: &Context<'_>,
    weights: &Geometry,
) -> Result<Option<Quantization>, String> {
    let stated = groups.inputs(context.module)?;
    if stated.is_null() {
        return Ok(None);
    }
    // They belong to the weight, whether or not they are needed.
    let (scale, zero) = (context.find("input_scale"), context.find("input_zero_point"));
    let text = |key: &str| stated.get(key).and_then(Value::as_str);
    let number = |key: &str| stated.get(key).and_then(Value::as_u64);
    let flag = |key: &str| stated.get(key).and_then(Value::as_bool);
    let (bits, kind) = (number("num_bits").unwrap_or(8), text("type").unwrap_or("int"));
    if (bits, kind) != (8, "int") {
        let kind = if kind == "int" { "integers" } else { "floats" };
        return Err(format!(
            "the configuration asks for {bits}-bit {kind}, and lowbit makes 8-bit integers"
        ));
    }
    if let Err(PlanError::Unsupported { why, .. }) = FormatUse::IntegerMatmul.check(&weights.format)
    {
        return Err(format!("no kernel multiplies {} with codes: {why}", weights.format));
    }
    let size = number("group_size");
    let strategy = text("strategy").unwrap_or(if size.is_some() { "group" } else { "tensor" });
    let shared = match (strategy, size) {
        ("group", Some(size)) => format!("g{size}"),
        (strategy, _) => strategy.to_owned(),
    };
    let symmetric = flag("symmetric").unwrap_or(true);
    let name = format!("int8-{shared}{}", if symmetric { "" } else { "-asym" });
    let format = name.parse::<ActivationFormat>().ok();
    let format = format.filter(|format| format.layout(weights.k).is_ok());
    let format = format.ok_or_else(|| format!("lowbit has no scales for each `{shared}`"))?;
    if flag("dynamic") == Some(true) {
        return Ok(Some(Quantization::Dynamic(format)));
    }
    if strategy != "tensor" {
        return Err(format!("fixed scales for each {strategy} are not supported"));
    }
    let scale = scale.filter(|tensor| elements(tensor) == 1);
    let scale = scale.and_then(|tensor| Some(floats(&tensor).ok()?.get(0)));
    let scale = scale.ok_or("there is no `input_scale` of one float")?;
    let zero_point = if symmetric {
        0
    } else {
        let zero = zero.filter(|tensor| elements(tensor) == 1 && tensor.dtype == Dtype::I8);
        let zero = zero.and_then(|tensor| tensor.bytes.first().copied());
        i32::from(zero.ok_or("there is no `input_zero_point` of one I8")? as i8)
    };
    let fixed = StaticScale { scale, zero_point };
    fixed.check(format).map_err(|error| error.to_string())?;
    Ok(Some(Quantization::Static(fixed)))
}
