//! Tables for people, JSON beside them, progress on terminals.

use crate::error::{CliError, printable};
use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lowbit_models::Step;
use lowbit_models::checkpoint::AtomicFile;
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;

/// Columns of a table that is to fit, where nobody says how wide that is.
const WIDTH: u16 = 80;

/// The `--json` option of every command.
#[derive(clap::Args)]
pub struct JsonArg {
    /// Also write the result as JSON; `-` writes it to stdout, and the table to stderr
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

enum Target {
    None,
    Stdout,
    File(AtomicFile),
}

/// Where a command's result goes. Opened before the work, so that a path that cannot be
/// written is found out first.
pub struct Report(Target);

impl Report {
    /// Opens the file of `--json`, if there is one.
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

    /// Prints text at once, where [`finish`](Self::finish) prints it.
    pub fn say(&self, text: &str) -> Result<(), CliError> {
        match self.0 {
            Target::Stdout => print(std::io::stderr(), text.as_bytes()),
            Target::None | Target::File(_) => print(std::io::stdout(), text.as_bytes()),
        }
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

/// Writes to a stream whose reader may have gone (`lowbit … | head`): that is no error.
fn print(mut to: impl Write, bytes: &[u8]) -> Result<(), CliError> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::new("cannot print the result").because(error))
        }
        _ => Ok(()),
    }
}

/// An empty table. It is as wide as the terminal, or as `COLUMNS` says. Without either its lines
/// stay whole, for `grep` and so that no name is torn, unless `fit` keeps them to 80 columns.
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

/// What `COLUMNS` says, if a table can be that narrow.
fn columns(text: &str) -> Option<u16> {
    text.parse().ok().filter(|&columns| columns >= 40)
}

/// A number's cell.
pub fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

/// Lines of a table without the blanks that pad them.
pub fn text(table: &Table) -> String {
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// `1.50 MiB`; exact where it is a round number.
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

/// `1 weight`, `2 weights`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Returns the bits that a weight takes on average; 0 if there are no weights.
pub fn bits_per_weight(bytes: usize, weights: usize) -> f64 {
    if weights == 0 { 0.0 } else { 8.0 * bytes as f64 / weights as f64 }
}

/// `[768, 3072]` as `768×3072`; a scalar has no dimensions.
pub fn shape(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".to_owned();
    }
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

/// A progress bar on stderr; silent where that is no terminal.
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
