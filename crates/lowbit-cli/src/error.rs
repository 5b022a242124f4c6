//! Errors as the command prints them.

use std::error::Error;
use std::io::Write;

/// A command that could not do its work: exit code 2.
#[derive(Debug)]
pub struct CliError {
    message: String,
    source: Option<Box<dyn Error>>,
    hint: Option<String>,
}

impl CliError {
    /// Creates an error that says what went wrong, in a few words.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None, hint: None }
    }

    /// Adds the cause. Its own chain of sources is printed too.
    pub fn because(mut self, source: impl Error + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds another way out to the hint.
    pub fn or_hint(mut self, more: &str) -> Self {
        self.hint = Some(match self.hint {
            Some(hint) => format!("{hint}; {more}"),
            None => more.to_owned(),
        });
        self
    }

    /// Returns the message and all causes in one line.
    pub fn line(&self) -> String {
        let mut line = self.message.clone();
        let mut next = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = next {
            line.push_str(": ");
            line.push_str(&error.to_string());
            next = error.source();
        }
        printable(&line)
    }

    /// Prints `error: …`, and the hint below it, to stderr.
    pub fn print(&self) {
        let hint = self.hint.as_deref().map(printable);
        let hint = hint.map_or(String::new(), |hint| format!("hint: {hint}\n"));
        // If stderr is closed, nobody can be told.
        let _ = write!(std::io::stderr(), "error: {}\n{hint}", self.line());
    }
}

/// Prints `warning: …` to stderr: something is ignored, and the command continues.
pub fn warn(warning: impl std::fmt::Display) {
    // With stderr closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "warning: {}", printable(&warning.to_string()));
}

/// Escapes text for a terminal. Names come from files and may contain line breaks, escape codes, and
/// characters that turn the direction of the text around or cannot be seen.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Escapes control characters other than ends of lines and tabulators: text of several lines for a terminal. Characters
/// without a shape stay, because scripts and emoji need them.
pub fn printable_text(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Returns whether a character has no shape of its own: marks of direction, separators of lines and
/// paragraphs, and characters of no width.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_chain_is_one_line() {
        let inner = io::Error::other("inner\nline");
        let error = CliError::new("outer").because(io::Error::other(inner)).hint("try");
        assert_eq!(error.line(), "outer: inner\\nline");
        assert_eq!(printable("a\u{1b}[31mb ü"), "a\\u{1b}[31mb ü");
        assert_eq!(
            printable("块\u{202e}.weight\u{200b}\u{9b}"),
            "块\\u{202e}.weight\\u{200b}\\u{9b}"
        );
        let text = "a\n\tb\r\u{1b}]0;c\u{7}\u{9b}2J\u{7f} 👩\u{200d}🔬";
        let shown = "a\n\tb\\r\\u{1b}]0;c\\u{7}\\u{9b}2J\\u{7f} 👩\u{200d}🔬";
        assert_eq!(printable_text(text), shown);
    }
}
