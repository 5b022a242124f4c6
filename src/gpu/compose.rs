use super::{Const, ImportError, KernelDesc};
use std::fmt::Write;

/// One file under `shaders/`: its path there without `.wgsl`, and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// The name, for example `decode/int4`.
    pub name: &'static str,
    /// WGSL whose syntax is valid by itself.
    pub text: &'static str,
}

/// Composed WGSL, with the fragment that each line comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wgsl {
    /// The whole shader.
    pub source: String,
    /// First line (from 1) of each part.
    spans: Vec<(usize, &'static str)>,
}

impl KernelDesc {
    /// Joins the constants and the fragments, with everything that these require.
    ///
    /// # Errors
    /// Returns [`ImportError`] if a fragment, an implementer or a constant is missing.
    pub fn compose(&self) -> Result<Wgsl, ImportError> {
        let parts = self.parts()?;
        let mut source = String::new();
        let mut spans = vec![(1, "constants")];
        let mut line = 1 + self.consts.len();
        // Directives come before all else.
        let mut enables: Vec<&str> =
            parts.iter().flat_map(|(_, header)| header.enables.iter().copied()).collect();
        enables.sort_unstable();
        enables.dedup();
        for extension in enables {
            let _ = writeln!(source, "enable {extension};");
            line += 1;
        }
        for (name, value) in &self.consts {
            // Writing to a String cannot fail.
            let _ = match value {
                Const::U32(v) => writeln!(source, "const {name}: u32 = {v}u;"),
                Const::I32(v) => writeln!(source, "const {name}: i32 = {v};"),
                Const::Bool(v) => writeln!(source, "const {name}: bool = {v};"),
            };
        }
        for (fragment, _) in &parts {
            spans.push((line, fragment.name));
            source.push_str(fragment.text);
            if !fragment.text.ends_with('\n') {
                source.push('\n');
            }
            line += fragment.text.lines().count();
        }
        Ok(Wgsl { source, spans })
    }
}

impl Wgsl {
    /// Returns the fragment and the line in it that a line (from 1) of the whole shader comes from,
    /// for example `decode/int4.wgsl:12`.
    pub fn locate(&self, line: usize) -> String {
        match self.spans.iter().rev().find(|(start, _)| *start <= line) {
            Some((start, name)) => format!("{name}.wgsl:{}", line - start + 1),
            None => format!("line {line}"),
        }
    }

    /// Appends to a compiler's message the fragments of the lines that it names (as
    /// `wgsl:LINE:COLUMN`, in Chromium as ` :LINE:COLUMN`, and as `LINE │` in the margin).
    pub fn explain(&self, message: &str) -> String {
        let mut out = message.trim_end().to_string();
        for line in named_lines(message) {
            let _ = write!(out, "\n  line {line} is {}", self.locate(line));
        }
        out
    }

    /// Returns the fragments of the lines that a compiler's message names, in the form of
    /// [`locate`](Self::locate).
    pub fn places(&self, message: &str) -> Vec<String> {
        named_lines(message).into_iter().map(|line| self.locate(line)).collect()
    }
}

/// Returns the lines that a compiler's message names, each once, in order.
fn named_lines(message: &str) -> Vec<usize> {
    let places = message.match_indices("wgsl:").chain(message.match_indices(" :"));
    let named = places.filter_map(|(at, found)| {
        message[at + found.len()..].split(|c: char| !c.is_ascii_digit()).next()
    });
    let quoted = message.lines().filter_map(|l| l.split_once('│').map(|(margin, _)| margin));
    let mut lines: Vec<usize> =
        named.chain(quoted).filter_map(|number| number.trim().parse().ok()).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_map_back() {
        let fragments = vec![
            Fragment { name: "t/a", text: "// one\n// two\n" },
            Fragment { name: "t/b", text: "// three" },
            Fragment { name: "t/c", text: "// four\n" },
        ];
        let mut kernel = KernelDesc::new("test", fragments, vec![]);
        kernel.consts = vec![("A", Const::U32(1)), ("B", Const::Bool(true))];
        let wgsl = kernel.compose().unwrap();
        let where_is = |text: &str| {
            let line = wgsl.source.lines().position(|l| l == text).unwrap() + 1;
            wgsl.locate(line)
        };
        assert_eq!(where_is("const A: u32 = 1u;"), "constants.wgsl:1");
        assert_eq!(where_is("// two"), "t/a.wgsl:2");
        assert_eq!(where_is("// three"), "t/b.wgsl:1");
        assert_eq!(where_is("// four"), "t/c.wgsl:1");
        assert!(wgsl.explain("error at wgsl:4:9").ends_with("line 4 is t/a.wgsl:2"));
        let chromium = wgsl.explain("Error while parsing WGSL: :4:9 error: unresolved value 'x'");
        assert!(chromium.ends_with("'x'\n  line 4 is t/a.wgsl:2"));
        let quoted = wgsl.explain("error at wgsl:4:9\n4 │ two\n  │ ^\n5 │ three");
        let (first, second) = ("\n  line 4 is t/a.wgsl:2", "\n  line 5 is t/b.wgsl:1");
        assert!(quoted.ends_with(&format!("{first}{second}")));
    }
}
