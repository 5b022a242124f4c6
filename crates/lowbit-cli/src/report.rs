//! Output of results as tables and JSON, and progress on terminals.

use crate::error::{CliError, printable, printable_text};
use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lowbit_models::Step;
use lowbit_models::checkpoint::AtomicFile;
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

/// The width of a table that must fit if the terminal's width is not known.
const WIDTH: u16 = 80;

/// The `--json` option of every command.
#[derive(clap::Args)]
pub struct JsonArg {
    /// Also write the result as JSON. `-` writes it to stdout, and the table to stderr
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

enum Target {
    None,
    Stdout,
    File(AtomicFile),
}

/// Where the result of a command goes. It is opened before the work, so that a path that cannot be
/// written is reported first.
pub struct Report(Target);

impl Report {
    /// Opens the file of `--json`, if one is given.
    pub fn open(args: &JsonArg) -> Result<Self, CliError> {
        Ok(Self(match &args.json {
            None => Target::None,
            Some(path) if path.as_os_str() == "-" => Target::Stdout,
            Some(path) => Target::File(
                AtomicFile::create(path)
                    .map_err(|error| CliError::new("cannot write the JSON").because(error))?,
            ),
        }))
    }

    /// Prints text immediately, to the stream to which [`finish`](Self::finish) prints.
    pub fn say(&self, text: &str) -> Result<(), CliError> {
        match self.0 {
            Target::Stdout => print(std::io::stderr(), text.as_bytes()),
            Target::None | Target::File(_) => print(std::io::stdout(), text.as_bytes()),
        }
    }

    /// Prints text that a model makes, as [`say`](Self::say) does. A terminal gets no control characters but ends of lines
    /// and tabulators: a vocabulary comes from a file, and may hold escape codes.
    pub fn stream(&self, text: &str) -> Result<(), CliError> {
        let is_terminal = match self.0 {
            Target::Stdout => std::io::stderr().is_terminal(),
            Target::None | Target::File(_) => std::io::stdout().is_terminal(),
        };
        if is_terminal { self.say(&printable_text(text)) } else { self.say(text) }
    }

    /// Prints the text and writes the JSON.
    pub fn finish(self, text: &str, value: &impl Serialize) -> Result<(), CliError> {
        let failed = || CliError::new("cannot write the JSON");
        let json = || -> Result<Vec<u8>, CliError> {
            let mut json = serde_json::to_vec_pretty(value).map_err(|e| failed().because(e))?;
            json.push(b'\n');
            Ok(json)
        };
        self.say(text)?;
        match self.0 {
            Target::None => Ok(()),
            Target::Stdout => print(std::io::stdout(), &json()?),
            Target::File(mut file) => {
                file.write_all(&json()?).map_err(|e| failed().because(e))?;
                file.commit().map_err(|e| failed().because(e))
            }
        }
    }
}

/// Writes to a stream. It is not an error if the reader has gone (`lowbit … | head`).
fn print(mut to: impl Write, bytes: &[u8]) -> Result<(), CliError> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::new("cannot print the result").because(error))
        }
        _ => Ok(()),
    }
}

/// Creates an empty table that is as wide as the terminal, or as `COLUMNS` says. Without either, lines
/// are not wrapped, so that `grep` finds whole names, unless `fit` limits them to 80 columns.
pub fn table(header: &[&str], fit: bool) -> Table {
    let mut table = Table::new();
    let underline = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(underline)).set_header(header);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    let said = std::env::var("COLUMNS").ok().and_then(|text| columns(&text));
    match (table.width().or(said), fit) {
        (Some(width), _) => table.set_width(width),
        (None, true) => table.set_width(WIDTH),
        (None, false) => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table
}

/// Parses `COLUMNS`, if a table can be that narrow.
fn columns(text: &str) -> Option<u16> {
    text.parse().ok().filter(|&columns| columns >= 40)
}

/// Creates a right-aligned cell.
pub fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

/// Returns the lines of a table without trailing blanks.
pub fn text(table: &Table) -> String {
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Formats a number of bytes, as in `1.50 MiB`; round numbers are exact.
pub fn bytes(count: u64) -> String {
    let mut unit = 0;
    let mut value = count as f64;
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.2} {}", UNITS[unit])
    }
}

/// Formats a count, as in `1 weight` and `2 weights`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Returns the bits that a weight takes on average; 0 if there are no weights.
pub fn bits_per_weight(bytes: usize, weights: usize) -> f64 {
    if weights == 0 { 0.0 } else { 8.0 * bytes as f64 / weights as f64 }
}

/// Formats a shape: `[768, 3072]` as `768×3072`, and one without dimensions as `scalar`.
pub fn shape(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".to_owned();
    }
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

/// Creates a progress bar on stderr. It is hidden if stderr is not a terminal.
pub fn progress(steps: usize) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Creates a progress bar of work that takes minutes, with the time that is left.
pub fn long_progress(steps: usize) -> ProgressBar {
    let bar = progress(steps);
    let style =
        ProgressStyle::with_template("{bar:20} {pos}/{len} {elapsed}, {eta} left {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}

/// Calls `work`, and meanwhile says on a terminal what it does: work without steps that takes seconds.
pub fn waiting<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let bar = progress(0);
    let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_message(printable(what));
    bar.enable_steady_tick(Duration::from_millis(200));
    let done = work();
    bar.finish_and_clear();
    done
}

/// Shows a step of work on a progress bar.
pub fn advance(bar: &ProgressBar, step: Step<'_>) {
    match step {
        Step::Started(name) => bar.set_message(printable(name)),
        Step::Finished(_) => bar.inc(1),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_a_width() {
        assert_eq!(columns("132"), Some(132));
        assert!(["", "x", "-1", "39", "99999999"].into_iter().all(|t| columns(t).is_none()));
    }

    #[test]
    fn sizes_and_shapes() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(134_217_728), "128 MiB");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
        assert_eq!(shape(&[2, 3]), "2×3");
        assert_eq!(shape(&[]), "scalar");
    }
}
