use std::fmt::Write;

/// One file under `shaders/`: its path there without `.wgsl`, and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// `decode/int4`, say.
    pub name: &'static str,
    /// WGSL, legal by itself in syntax.
    pub text: &'static str,
}

impl Fragment {
    /// The language extensions that its header names: `// Enables: f16, other.`
    fn enables(&self) -> impl Iterator<Item = &'static str> {
        let header = self.text.lines().take_while(|line| line.starts_with("//"));
        let names = header.filter_map(|line| line.strip_prefix("// Enables: "));
        names.flat_map(|names| names.trim_end_matches('.').split(", "))
    }

    /// What its header asks of whoever binds and records: `// Caller: k is even.`
    pub fn caller(&self) -> impl Iterator<Item = &'static str> {
        let header = self.text.lines().take_while(|line| line.starts_with("//"));
        let lines = header.filter_map(|line| line.strip_prefix("// Caller: "));
        lines.map(|line| line.trim_end_matches('.'))
    }
}

/// A value for the generated block of constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Const {
    /// A `u32`.
    U32(u32),
    /// An `i32`.
    I32(i32),
    /// A `bool`.
    Bool(bool),
}

/// One binding of group 0, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binding {
    /// A uniform buffer of this many bytes.
    Uniform(u32),
    /// A uniform buffer of this many bytes with a dynamic offset.
    DynamicUniform(u32),
    /// A storage buffer that is read.
    Read,
    /// A storage buffer that is written, perhaps read too.
    Write,
    /// A 2D texture of four u32 a texel that is read.
    Texture,
    /// Not there; keeps the numbers of the others.
    Absent,
}

/// Everything that makes a compute shader, as plain comparable data: fragments, the
/// constants they need, and the bindings. It is the key of the pipeline cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shader {
    /// Kernel id: the label of modules and pipelines, and the row of a report.
    pub name: String,
    /// Constants, in order.
    pub consts: Vec<(&'static str, Const)>,
    /// Fragments, in order; the last defines `main`.
    pub fragments: Vec<Fragment>,
    /// Bindings of group 0.
    pub bindings: Vec<Binding>,
}

/// Composed WGSL, and where each line came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wgsl {
    /// The whole shader.
    pub source: String,
    /// First line (from 1) of each part.
    spans: Vec<(usize, &'static str)>,
}

impl Shader {
    /// How many storage buffers it binds.
    pub fn storage_buffers(&self) -> u32 {
        let storage = |binding: &&Binding| matches!(binding, Binding::Read | Binding::Write);
        self.bindings.iter().filter(storage).count() as u32
    }

    /// Joins the constants and the fragments.
    pub fn compose(&self) -> Wgsl {
        let mut source = String::new();
        let mut spans = vec![(1, "constants")];
        let mut line = 1 + self.consts.len();
        // Directives come before all else.
        let mut enables: Vec<&str> = self.fragments.iter().flat_map(Fragment::enables).collect();
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
        for fragment in &self.fragments {
            spans.push((line, fragment.name));
            source.push_str(fragment.text);
            if !fragment.text.ends_with('\n') {
                source.push('\n');
            }
            line += fragment.text.lines().count();
        }
        Wgsl { source, spans }
    }
}

impl Wgsl {
    /// The fragment and its line behind a line (from 1) of the whole:
    /// `decode/int4.wgsl:12`.
    pub fn locate(&self, line: usize) -> String {
        match self.spans.iter().rev().find(|(start, _)| *start <= line) {
            Some((start, name)) => format!("{name}.wgsl:{}", line - start + 1),
            None => format!("line {line}"),
        }
    }

    /// Appends where the lines that a compiler's message names (`wgsl:LINE:COLUMN`, in Chromium
    /// ` :LINE:COLUMN`, and `LINE │` in the margin) come from.
    pub fn explain(&self, message: &str) -> String {
        let mut out = message.trim_end().to_string();
        for line in named_lines(message) {
            let _ = write!(out, "\n  line {line} is {}", self.locate(line));
        }
        out
    }

    /// Where the lines that a compiler's message names come from, as [`locate`](Self::locate)
    /// gives them.
    pub fn places(&self, message: &str) -> Vec<String> {
        named_lines(message).into_iter().map(|line| self.locate(line)).collect()
    }
}

/// The lines that a compiler's message speaks of, each once, in order.
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
        let shader = Shader {
            name: "test".into(),
            consts: vec![("A", Const::U32(1)), ("B", Const::Bool(true))],
            fragments: vec![
                Fragment { name: "lib/a", text: "// one\n// two\n" },
                Fragment { name: "lib/b", text: "// three" },
                Fragment { name: "lib/c", text: "// four\n" },
            ],
            bindings: vec![],
        };
        let wgsl = shader.compose();
        let where_is = |text: &str| {
            let line = wgsl.source.lines().position(|l| l == text).unwrap() + 1;
            wgsl.locate(line)
        };
        assert_eq!(where_is("const A: u32 = 1u;"), "constants.wgsl:1");
        assert_eq!(where_is("// two"), "lib/a.wgsl:2");
        assert_eq!(where_is("// three"), "lib/b.wgsl:1");
        assert_eq!(where_is("// four"), "lib/c.wgsl:1");
        assert!(wgsl.explain("error at wgsl:4:9").ends_with("line 4 is lib/a.wgsl:2"));
        let chromium = wgsl.explain("Error while parsing WGSL: :4:9 error: unresolved value 'x'");
        assert!(chromium.ends_with("'x'\n  line 4 is lib/a.wgsl:2"));
        let quoted = wgsl.explain("error at wgsl:4:9\n4 │ two\n  │ ^\n5 │ three");
        let (first, second) = ("\n  line 4 is lib/a.wgsl:2", "\n  line 5 is lib/b.wgsl:1");
        assert!(quoted.ends_with(&format!("{first}{second}")));
    }
}
