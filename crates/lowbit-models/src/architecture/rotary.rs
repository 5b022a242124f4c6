//! How the settings of a model describe its rotary embedding.

use super::config::Config;
use super::{ArchitectureError, Pairs, Rotary, RotaryScaling};

/// The base where the settings do not name one.
const BASE: f64 = 10_000.0;
/// YaRN's β where the settings do not name them.
const BETAS: (f64, f64) = (32.0, 1.0);

/// Reads the settings of a `config.json`: `rope_parameters`, or `rope_theta` and `rope_scaling` of older
/// files.
pub(super) fn of_config(
    config: &Config<'_>,
    head_dim: usize,
    context: usize,
) -> Result<Rotary, ArchitectureError> {
    // As in `transformers`, the old setting comes first.
    let scaling = config.section("rope_scaling")?;
    let settings = if scaling.is_empty() { config.section("rope_parameters")? } else { scaling };
    let base = config.positive_or("rope_theta", Some(BASE))?;
    of_section(config, &settings, base, head_dim, context)
}

/// Reads the settings of one section of a `config.json`.
pub(super) fn of_section(
    config: &Config<'_>,
    settings: &Config<'_>,
    base: f64,
    head_dim: usize,
    context: usize,
) -> Result<Rotary, ArchitectureError> {
    for part in [config, settings] {
        if part.optional_number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(part.unsupported("partial_rotary_factor", 1));
        }
    }
    if settings.has("mrope_section") {
        return Err(settings.unsupported("mrope_section", "a model without it"));
    }
    let key = if settings.has("rope_type") { "rope_type" } else { "type" };
    let original = || {
        let own = settings.optional_count("original_max_position_embeddings")?;
        let outer = config.optional_count("original_max_position_embeddings")?;
        Ok::<_, ArchitectureError>(own.or(outer).unwrap_or(context) as f64)
    };
    let scaling = match settings.text(key)?.unwrap_or("default") {
        "default" => RotaryScaling::None,
        "linear" => RotaryScaling::Linear(settings.positive_or("factor", None)?),
        "llama3" => {
            let factor = settings.positive_or("factor", None)?;
            let low = settings.positive_or("low_freq_factor", None)?;
            let high = settings.positive_or("high_freq_factor", None)?;
            if high <= low {
                return Err(settings.wrong("high_freq_factor", "more than `low_freq_factor`"));
            }
            RotaryScaling::Llama3 { factor, low, high, original_context: original()? }
        }
        "yarn" => {
            settings.expect_flag("truncate", true, true)?;
            let factor = settings.positive_or("factor", None)?;
            // 0 stands for the default.
            let beta = |key, default| {
                let set = settings.optional_number(key)?.filter(|beta| *beta != 0.0);
                if set.is_none() { Ok(default) } else { settings.positive_or(key, None) }
            };
            RotaryScaling::Yarn {
                factor,
                original_context: original()?,
                beta_fast: beta("beta_fast", BETAS.0)?,
                beta_slow: beta("beta_slow", BETAS.1)?,
                attention_factor: yarn_attention(settings, factor)?,
            }
        }
        _ => return Err(settings.unsupported(key, "`default`, `linear`, `llama3` or `yarn`")),
    };
    let base = settings.positive_or("rope_theta", Some(base))?;
    check(config, Rotary { dim: head_dim, pairs: Pairs::Split, base, scaling })
}

/// Returns what YaRN multiplies cosines and sines with, if it is not the default.
fn yarn_attention(settings: &Config<'_>, factor: f64) -> Result<Option<f64>, ArchitectureError> {
    if let Some(given) = settings.optional_positive("attention_factor")? {
        return Ok(Some(given));
    }
    let scale = |m: f64| if factor > 1.0 { 0.1 * m * factor.ln() + 1.0 } else { 1.0 };
    let number = |key| settings.optional_number(key).map(|m| m.filter(|m| *m != 0.0));
    match (number("mscale")?, number("mscale_all_dim")?) {
        (Some(_), Some(_)) => {
            let positive = |key| settings.positive_or(key, None).map(scale);
            Ok(Some(positive("mscale")? / positive("mscale_all_dim")?))
        }
        // The default formula would be below 1.
        _ if factor < 1.0 => Ok(Some(1.0)),
        _ => Ok(None),
    }
}

/// Reads the metadata of a GGUF file.
pub(super) fn of_metadata(
    config: &Config<'_>,
    head_dim: usize,
    context: usize,
    pairs: Pairs,
) -> Result<Rotary, ArchitectureError> {
    let dim = config.count_or("rope.dimension_count", Some(head_dim))?;
    if dim > head_dim || !dim.is_multiple_of(2) {
        return Err(
            config.wrong("rope.dimension_count", format_args!("even and at most {head_dim}"))
        );
    }
    let factor = match config.optional_number("rope.scaling.factor")? {
        None => config.optional_number("rope.scale_linear")?,
        given => given,
    };
    // 0 stands for no scaling.
    let factor = factor.filter(|factor| *factor != 0.0).unwrap_or(1.0);
    if factor < 0.0 {
        return Err(config.wrong("rope.scaling.factor", "a positive number"));
    }
    let scaling = match config.text("rope.scaling.type")?.unwrap_or("linear") {
        "none" => RotaryScaling::None,
        "linear" if factor == 1.0 => RotaryScaling::None,
        "linear" => RotaryScaling::Linear(factor),
        "yarn" => yarn_of_metadata(config, factor, context)?,
        _ => return Err(config.unsupported("rope.scaling.type", "`none`, `linear` or `yarn`")),
    };
    const ATTENTION: &str = "rope.scaling.attn_factor";
    let attention = config.optional_positive(ATTENTION)?;
    if !matches!(scaling, RotaryScaling::Yarn { .. }) && attention.is_some_and(|a| a != 1.0) {
        return Err(config.unsupported(ATTENTION, "1 without `yarn`"));
    }
    let base = config.positive_or("rope.freq_base", Some(BASE))?;
    check(config, Rotary { dim, pairs, base, scaling })
}

fn yarn_of_metadata(
    config: &Config<'_>,
    factor: f64,
    context: usize,
) -> Result<RotaryScaling, ArchitectureError> {
    // Programs differ in what they make of these.
    for (key, neutral) in [
        ("rope.scaling.yarn_ext_factor", 1.0),
        ("rope.scaling.yarn_attn_factor", 1.0),
        ("rope.scaling.yarn_log_multiplier", 0.0),
    ] {
        if config.optional_number(key)?.is_some_and(|value| value != neutral) {
            return Err(config.unsupported(key, neutral));
        }
    }
    let default = 0.1 * factor.ln() + 1.0;
    let attention = config.optional_positive("rope.scaling.attn_factor")?;
    Ok(RotaryScaling::Yarn {
        factor,
        original_context: config.count_or("rope.scaling.original_context_length", Some(context))?
            as f64,
        beta_fast: config.positive_or("rope.scaling.yarn_beta_fast", Some(BETAS.0))?,
        beta_slow: config.positive_or("rope.scaling.yarn_beta_slow", Some(BETAS.1))?,
        attention_factor: match attention {
            Some(attention) => Some(attention * default),
            None if factor < 1.0 => Some(1.0),
            None => None,
        },
    })
}

/// Checks what every rotation must be.
fn check(config: &Config<'_>, rotary: Rotary) -> Result<Rotary, ArchitectureError> {
    if !rotary.dim.is_multiple_of(2) {
        let (key, have) = (config.name("head_dim"), rotary.dim.to_string());
        return Err(ArchitectureError::Wrong { key, have, need: "even".to_owned() });
    }
    if rotary.base <= 1.0 {
        let (key, have) = (config.name("rope_theta"), rotary.base.to_string());
        return Err(ArchitectureError::Wrong { key, have, need: "more than 1".to_owned() });
    }
    Ok(rotary)
}
