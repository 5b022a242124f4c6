//! Reads samples of texts, for commands that run texts through a model.

use crate::error::{CliError, warn};
use crate::model::text_failed;
use crate::{files, report};
use lowbit_models::architecture::Blueprint;
use lowbit_models::layerwise::{Samples, SamplesError, samples_after};
use lowbit_models::text::Tokenizer;
use std::path::Path;

/// Reads samples of texts for a model.
pub struct SampleReader<'a> {
    tokenizer: Tokenizer,
    blueprint: &'a Blueprint,
}

impl<'a> SampleReader<'a> {
    /// Opens the tokenizer of the model in a file or folder.
    pub fn open(model: &Path, blueprint: &'a Blueprint) -> Result<Self, CliError> {
        let refuse = |error| {
            text_failed(format!("cannot use the tokenizer of `{}`", model.display()), error)
        };
        let tokenizer = Tokenizer::open(model).map_err(refuse)?;
        tokenizer.check(blueprint).map_err(refuse)?;
        Ok(Self { tokenizer, blueprint })
    }

    /// Returns the first number for a language model, whose samples are windows, and the other one for an encoder,
    /// whose samples are lines.
    pub fn of_kind(&self, (windows, lines): (usize, usize)) -> usize {
        if self.blueprint.head.is_some() { windows } else { lines }
    }

    /// Reads up to `most` samples of a text, each of up to `tokens` tokens, which `option` names in errors. Warns of samples
    /// that are cut.
    pub fn read(
        &self,
        path: &Path,
        most: usize,
        tokens: u32,
        option: &str,
    ) -> Result<Samples, CliError> {
        self.of_text((path, &files::read_text(path)?), 0, most, tokens, option)
    }

    /// Does the same with a text that was read from a path, after leaving out its first `skip` samples.
    pub fn of_text(
        &self,
        (path, text): (&Path, &str),
        skip: usize,
        most: usize,
        tokens: u32,
        option: &str,
    ) -> Result<Samples, CliError> {
        let found =
            samples_after(&self.tokenizer, self.blueprint, text, skip, most, tokens as usize);
        let found = found.map_err(|error| {
            let hint = match error {
                SamplesError::Skipped { .. } => "a lower --skip, or a longer text".to_owned(),
                _ => format!("a longer text, or a smaller {option}"),
            };
            let message = format!("cannot take samples of `{}`", path.display());
            CliError::new(message).because(error).hint(hint)
        })?;
        if found.cut > 0 {
            let cut = report::count(found.cut, "sample");
            let path = path.display();
            warn(format!("{cut} of `{path}` had more than {tokens} tokens and were cut"));
        }
        Ok(found)
    }
}
