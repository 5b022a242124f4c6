//! Which layers of a model attend to a window only.

use super::ArchitectureError;
use super::config::Config;
use serde_json::Value;

/// The window of models of `transformers` whose settings leave it out.
const USUAL: usize = 4096;

/// Returns the window of a `config.json`: none if it is null.
pub(super) fn window(config: &Config<'_>) -> Result<Option<usize>, ArchitectureError> {
    if config.is_null("sliding_window") {
        return Ok(None);
    }
    config.count_or("sliding_window", Some(USUAL)).map(Some)
}

/// Returns which layers have a window, by their types in a `config.json`, or `None` if it has no types.
pub(super) fn types(
    config: &Config<'_>,
    layers: usize,
) -> Result<Option<Vec<bool>>, ArchitectureError> {
    let Some(value) = config.get("layer_types") else { return Ok(None) };
    let list = value.as_array().filter(|list| list.len() == layers);
    let list =
        list.ok_or_else(|| config.wrong("layer_types", format_args!("a list of {layers} types")))?;
    let sliding = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(ArchitectureError::Unsupported {
            key: config.name("layer_types"),
            have: kind.to_string(),
            need: "`full_attention` or `sliding_attention`".to_owned(),
        }),
    };
    list.iter().map(sliding).collect::<Result<_, _>>().map(Some)
}
