//! How compressed-tensors says that the input X of a module becomes 8-bit codes: with the `input_activations` of
//! the module's group in `config_groups`, and, where the scale is fixed, with tensors of one element.
//!
//! | tensor | type | |
//! |---|---|---|
//! | `M.input_scale` | F16, BF16, F32 | if X is not `dynamic` |
//! | `M.input_zero_point` | I8 | absent if symmetric |

use super::config::{Config, Method};
use super::tensors::{Context, elements, floats};
use lowbit::format::{ActivationFormat, Geometry, Quantization, StaticScale};
use lowbit::ops::{FormatUse, PlanError};
use regex::Regex;
use safetensors::Dtype;
use serde_json::Value;

impl Config {
    /// Returns the `input_activations` of a module, or `None` if they stay floats.
    ///
    /// # Errors
    /// Returns the reason, as the end of a sentence, if the groups differ and do not say which is the module's.
    fn inputs(&self, module: &str) -> Result<Option<&Value>, String> {
        if self.method() != Some(Method::CompressedTensors) {
            return Ok(None);
        }
        let groups: Vec<&Value> = self.ct_groups().collect();
        let Some(first) = groups.first() else { return Ok(None) };
        if groups.iter().all(|group| of_group(group) == of_group(first)) {
            return Ok(of_group(first));
        }
        // A name goes before a pattern, and a pattern before the class of the module, which tensors do not say.
        for rank in [Target::Name, Target::Pattern, Target::Class] {
            for group in &groups {
                let targets = group.get("targets").and_then(Value::as_array);
                for target in targets.into_iter().flatten().filter_map(Value::as_str) {
                    if Target::of(target) == rank && rank.takes(target, module)? {
                        return Ok(of_group(group));
                    }
                }
            }
        }
        Err("no group of the configuration names them".to_owned())
    }
}

/// Returns the `input_activations` of a group.
fn of_group(group: &Value) -> Option<&Value> {
    group.get("input_activations").filter(|inputs| inputs.is_object())
}

/// What a target of a group stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// A module.
    Name,
    /// `re:` and a regular expression that the name of a module starts with.
    Pattern,
    /// A class of modules.
    Class,
}

impl Target {
    fn of(target: &str) -> Self {
        match target {
            _ if target.starts_with("re:") => Self::Pattern,
            "Linear" => Self::Class,
            _ => Self::Name,
        }
    }

    fn takes(self, target: &str, module: &str) -> Result<bool, String> {
        Ok(match self {
            Self::Name => target == module,
            Self::Class => true,
            Self::Pattern => {
                let pattern = target.trim_start_matches("re:");
                let regex = Regex::new(&format!("^(?:{pattern})"));
                regex
                    .map_err(|_| format!("the pattern `{target}` is not understood"))?
                    .is_match(module)
            }
        })
    }
}

/// Returns how X of a module becomes codes, or `None` if it stays floats.
///
/// # Errors
/// Returns the reason, as the end of a sentence, if the configuration says something else than kernels do.
pub(super) fn inputs(
    context: &Context<'_>,
    weights: &Geometry,
) -> Result<Option<Quantization>, String> {
    let Some(stated) = context.config.inputs(context.module)? else { return Ok(None) };
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
    let strategy = text("strategy").unwrap_or("tensor");
    let shared = match (strategy, number("group_size")) {
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
    let one = |own: &str| context.find(own).filter(|tensor| elements(tensor) == 1);
    let scale = one("input_scale").and_then(|tensor| Some(floats(&tensor).ok()?.get(0)));
    let scale = scale.ok_or("there is no `input_scale` of one float")?;
    let zero_point = match one("input_zero_point").filter(|_| !symmetric) {
        None => 0,
        Some(tensor) if tensor.dtype == Dtype::I8 => i32::from(tensor.bytes[0] as i8),
        Some(_) => return Err("`input_zero_point` is not I8".to_owned()),
    };
    let fixed = StaticScale { scale, zero_point };
    fixed.check(format).map_err(|error| error.to_string())?;
    Ok(Some(Quantization::Static(fixed)))
}
