//! What both parts of the demo print and write.

use crate::models::Error;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lowbit_models::checkpoint::write_atomic;
use std::io::IsTerminal;
use std::path::Path;

/// Columns of a terminal.
const WIDTH: usize = 78;

/// Returns an error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Returns a bar on stderr, which shows only on a terminal.
pub fn progress(steps: usize) -> Result<ProgressBar, Error> {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?;
    Ok(ProgressBar::with_draw_target(Some(steps as u64), target).with_style(style))
}

/// Writes rows, so that the file appears whole or not at all.
pub fn write(path: &str, rows: &impl serde::Serialize) -> Result<(), Error> {
    let path = Path::new(path);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    write_atomic(path, (serde_json::to_string_pretty(rows)? + "\n").as_bytes())?;
    println!("written: {}", path.display());
    Ok(())
}

/// Returns a text in lines that fit a terminal, each after some spaces.
pub fn wrapped(text: &str, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH
            {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            lines.push(line);
        }
    }
    let spaces = " ".repeat(indent);
    lines.iter().map(|line| format!("{spaces}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_a_terminal() {
        let text = "word ".repeat(60) + "\n\nafter an empty line";
        let lines = wrapped(&text, 2);
        assert!(lines.lines().all(|line| line.len() <= WIDTH && line.starts_with("  ")));
        assert_eq!(lines.matches("word").count(), 60);
        assert!(lines.ends_with("  after an empty line\n"));
        assert_eq!(wrapped(" \n", 2), "");
    }
}
