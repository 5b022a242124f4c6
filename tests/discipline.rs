//! Rules of the source that the compiler does not check: who may submit and wait, and that nothing
//! panics. The checks are tested on planted text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A line of code outside of tests and comments.
struct Line {
    file: String,
    number: usize,
    text: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.number, self.text.trim())
    }
}

/// Returns the code of a file without comments, the text of strings, and test-only modules.
fn code(file: &str, source: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut depth: Option<usize> = None;
    let mut test_next = false;
    for (number, line) in (1..).zip(source.lines()) {
        let text = strip(line);
        let indent = line.len() - line.trim_start().len();
        if let Some(at) = depth {
            // rustfmt puts the closing brace of an item at the item's indentation.
            if indent == at && line.trim_start().starts_with('}') {
                depth = None;
            }
            continue;
        }
        if text.trim() == "#[cfg(test)]" {
            test_next = true;
            continue;
        }
        if test_next {
            test_next = text.trim_start().starts_with("#[");
            if !test_next && !text.contains(';') && !text.trim_end().ends_with('}') {
                depth = Some(indent);
            }
            continue;
        }
        lines.push(Line { file: file.into(), number, text });
    }
    assert!(depth.is_none() && !test_next, "{file}: a test module that never ends");
    lines
}

/// Returns the line without comments and with empty strings.
fn strip(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => drop(chars.next()),
            // A quote in a character literal does not start a string.
            '\'' if !in_string && chars.peek() == Some(&'"') => drop(chars.next()),
            '"' => {
                in_string = !in_string;
                out.push('"');
            }
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            c if !in_string => out.push(c),
            _ => {}
        }
    }
    out
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Returns the lines of code below a folder, named by the path from `root`.
fn lines_of(folder: &Path, root: &Path) -> Vec<Line> {
    let mut files = Vec::new();
    rust_files(folder, &mut files);
    files.sort();
    let mut lines = Vec::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        // These modules are included by a `#[cfg(test)] mod tests;` in another file.
        if !name.ends_with("/tests.rs") && !name.contains("/tests/") {
            lines.extend(code(&name, &std::fs::read_to_string(&path).unwrap()));
        }
    }
    lines
}

/// Returns every line of code of the kernel crate, named from `src/`, and of the crates above it, named
/// from the top.
fn all_sources() -> Vec<Line> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut lines = sources();
    for entry in std::fs::read_dir(root.join("crates")).unwrap() {
        lines.extend(lines_of(&entry.unwrap().path().join("src"), root));
    }
    let has = |name: &str| lines.iter().any(|l| l.file.ends_with(name));
    assert!(has("lowbit-isa/src/driver.rs") && has("lowbit-models/src/lib.rs"));
    lines
}

/// Returns every line of code under `src/`.
fn sources() -> Vec<Line> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lines = lines_of(&root, &root);
    let has = |name: &str| lines.iter().any(|l| l.file == name);
    assert!(has("host.rs") && has("ops/matmul/bind.rs") && has("gpu/kernels.rs"));
    lines
}

/// Returns submissions, polls and waits in files that must not contain them.
fn waits(lines: &[Line]) -> Vec<String> {
    let at_all = [".poll(", ".poll_all(", ".map_async(", ".on_submitted_work_done("];
    let found = lines.iter().filter(|line| {
        let above = ["conformance/", "crates/"].iter().any(|folder| line.file.starts_with(folder));
        let text = &line.text;
        if line.file == "host.rs" || line.file.starts_with("host/") {
            return false;
        }
        at_all.iter().any(|call| text.contains(call))
            // Modules above `host` may submit through it.
            || [".submit(", ".submit_async("].iter().any(|call| {
                text.contains(call) && !(above && text.contains(&format!("host{call}")))
            })
            || (text.contains("block_on(") && !above)
            || ((text.contains("pollster") || text.contains(".write_buffer(")) && !above)
    });
    found.map(Line::to_string).collect()
}

#[test]
fn only_the_host_submits_and_waits() {
    let lines = all_sources();
    let found = waits(&lines);
    assert!(found.is_empty(), "outside src/host.rs and src/host/:\n{}", found.join("\n"));
    // The search must find the calls that exist.
    for call in [".submit(", ".poll(", ".map_async(", "block_on("] {
        let of_host = |file: &str| file == "host.rs" || file.starts_with("host/");
        let there = lines.iter().any(|line| of_host(&line.file) && line.text.contains(call));
        assert!(there, "src/host.rs and src/host/ have no {call}");
    }
}

/// Calls that panic. Indexing, slicing and arithmetic are covered by tests.
const PANICS: [&str; 12] = [
    ".unwrap()",
    ".expect(",
    ".unwrap_err()",
    ".expect_err(",
    "panic!(",
    "unreachable!(",
    "todo!(",
    "unimplemented!(",
    "assert!(",
    "assert_eq!(",
    "assert_ne!(",
    "unwrap_unchecked(",
];

/// The places where a panic is allowed: file, call, number of calls, and the reason.
const ALLOWED: [(&str, &str, usize, &str); 2] = [
    (
        "gpu/fragments.rs",
        "panic!(",
        1,
        "names are literals of this crate, and tests/shaders.rs composes every one",
    ),
    (
        "format/device.rs",
        "assert_eq!(",
        1,
        "documented: the caller's layout belongs to another matrix",
    ),
];

fn panics(lines: &[Line]) -> Vec<(String, &'static str, String)> {
    let mut found = Vec::new();
    for line in lines {
        for call in PANICS {
            let mut from = 0;
            while let Some(at) = line.text[from..].find(call) {
                let start = from + at;
                from = start + call.len();
                // `debug_assert!(` is a different word, while `.unwrap()` begins with its own dot.
                let before = line.text[..start].chars().next_back();
                let inside = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
                if call.starts_with('.') || !inside {
                    found.push((line.file.clone(), call, line.to_string()));
                }
            }
        }
    }
    found
}

#[test]
fn nothing_panics() {
    let mut found = panics(&all_sources());
    for (file, call, count, why) in ALLOWED {
        assert!(!why.is_empty());
        let before = found.len();
        found.retain(|(f, c, _)| !(f == file && *c == call));
        assert_eq!(
            before - found.len(),
            count,
            "{call} in {file}: the list of exceptions is stale"
        );
    }
    let found: Vec<_> = found.into_iter().map(|(_, _, line)| line).collect();
    assert!(found.is_empty(), "panics:\n{}", found.join("\n"));
}

/// Every `unsafe` has a comment above it that says why it is sound.
#[test]
fn unsafe_is_argued() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for line in all_sources() {
        if !line.text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe") {
            continue;
        }
        seen += 1;
        let within = if line.file.starts_with("crates/") { "" } else { "src" };
        let source = std::fs::read_to_string(root.join(within).join(&line.file)).unwrap();
        let above: Vec<_> = source.lines().take(line.number - 1).collect();
        let above = &above[above.len().saturating_sub(10)..];
        // An unsafe function documents the duties of its callers.
        let wanted = if line.text.contains("unsafe fn ") { "/// # Safety" } else { "// SAFETY: " };
        assert!(above.iter().any(|l| l.contains(wanted)), "{line}");
    }
    // At least the creation of shader modules without loop bounding is unsafe.
    assert!(seen >= 1);
}

/// Modules from the bottom up. Each may use those above it in this list, except that `compress`
/// and `reference` know nothing of each other.
const LAYERS: [&str; 7] = ["format", "compress", "reference", "gpu", "ops", "host", "conformance"];

/// Uses of `crate::…` that point up, or from `reference` to `compress` and to what is above it.
fn upward(lines: &[Line]) -> Vec<String> {
    let mut found = Vec::new();
    for line in lines {
        let folder = line.file.split(['/', '.']).next().unwrap_or_default();
        let Some(own) = LAYERS.iter().position(|layer| *layer == folder) else { continue };
        for (at, layer) in LAYERS.iter().enumerate() {
            // The oracle must not share code with what it judges, nor kernels with the oracle.
            let apart = matches!(
                (folder, *layer),
                ("reference", "compress") | ("gpu" | "ops", "reference") | ("gpu", "compress")
            );
            let name = format!("crate::{layer}");
            let used = line.text.match_indices(&name).any(|(start, _)| {
                let next = line.text[start + name.len()..].chars().next();
                !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
            });
            if used && (at > own || apart) {
                found.push(line.to_string());
            }
        }
        let without_wgpu = ["format", "compress", "reference"].contains(&folder);
        if without_wgpu && line.text.contains("wgpu") {
            found.push(line.to_string());
        }
    }
    found
}

/// Arrows go one way: format ← compress, reference ← gpu ← ops ← host ← conformance.
#[test]
fn modules_depend_one_way() {
    let found = upward(&sources());
    assert!(found.is_empty(), "{}", found.join("\n"));
    for (file, text, bad) in [
        ("format/mod.rs", "use crate::host::Quantization;", true),
        ("reference/mod.rs", "use crate::compress;", true),
        ("gpu/mod.rs", "use wgpu::Device; use crate::format::RowOrder;", false),
        ("ops/mod.rs", "use crate::compress::calibrate::Axis;", false),
        ("ops/mod.rs", "use crate::hosted::Thing;", false),
        ("host.rs", "use crate::conformance::Case;", true),
        ("compress/mod.rs", "fn f(_: wgpu::Device) {}", true),
    ] {
        assert_eq!(!upward(&code(file, text)).is_empty(), bad, "{file}: {text}");
    }
}

/// The items of a braced group of a `use`, or all of the text if it opens no group.
fn items(text: &str) -> Vec<&str> {
    let Some(group) = text.trim_start().strip_prefix('{') else { return vec![text] };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' if depth == 0 => {
                found.push(group[start..at].trim());
                start = at + 1;
            }
            '}' if depth == 0 => {
                found.push(group[start..at].trim());
                break;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    found
}

/// What follows each occurrence of a path in a text: items of a group one by one.
fn after<'a>(text: &'a str, path: &str) -> Vec<&'a str> {
    let name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let begins = |at: &usize| !text[..*at].ends_with(name);
    let places = text.match_indices(path).map(|(at, _)| at).filter(begins);
    places.flat_map(|at| items(&text[at + path.len()..])).collect()
}

/// The first name of a path.
fn first_name(path: &str) -> &str {
    let path = path.trim_start();
    path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// Files and folders of `ops`, each with those that it uses, by their names or by what the root
/// re-exports of them.
fn uses_within_ops(lines: &[Line]) -> Vec<(String, String)> {
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for line in lines {
        if let Some(file) = line.file.strip_prefix("ops/") {
            let text = files.entry(file).or_default();
            text.push_str(&line.text);
            text.push('\n');
        }
    }
    let module = |file: &str| file.split(['/', '.']).next().unwrap_or_default().to_string();
    let mut modules: BTreeMap<String, String> =
        files.keys().map(|file| (module(file), module(file))).collect();
    // The root re-exports names of the others.
    let root = files.remove("mod.rs").unwrap_or_default();
    let statements = root.split(';').filter_map(|part| part.split_once("use "));
    for (owner, names) in statements.filter_map(|(_, tree)| tree.split_once("::")) {
        for name in items(names) {
            modules.insert(first_name(name).into(), owner.trim().into());
        }
    }
    let mut uses = Vec::new();
    for (file, text) in &files {
        let own = module(file);
        let nested = file.contains('/') && !file.ends_with("/mod.rs");
        let mut paths = after(text, if nested { "super::super::" } else { "super::" });
        let from_crate = after(text, "crate::").into_iter();
        paths.extend(from_crate.filter_map(|path| path.strip_prefix("ops::")).flat_map(items));
        for used in paths.into_iter().filter_map(|path| modules.get(first_name(path))) {
            let used = (own.clone(), used.clone());
            if used.0 != used.1 && !uses.contains(&used) {
                uses.push(used);
            }
        }
    }
    uses
}

/// Modules that use each other, through any number of others.
fn circles(uses: &[(String, String)]) -> Vec<String> {
    let reached = |from: &str| {
        let mut all = vec![from.to_string()];
        let mut next = 0;
        while let Some(at) = all.get(next).cloned() {
            next += 1;
            for (_, to) in uses.iter().filter(|(user, _)| *user == at) {
                if next == 1 || !all[1..].contains(to) {
                    all.push(to.clone());
                }
            }
        }
        all[1..].to_vec()
    };
    let mut users: Vec<_> = uses.iter().map(|(user, _)| user.clone()).collect();
    users.sort();
    users.dedup();
    users.into_iter().filter(|user| reached(user).contains(user)).collect()
}

/// The modules of `ops` use each other in one direction too.
#[test]
fn ops_have_no_circles() {
    let uses = uses_within_ops(&sources());
    let has = |a: &str, b: &str| uses.contains(&(a.into(), b.into()));
    assert!(has("matmul", "recording") && has("recording", "rows") && has("observe", "rows"));
    assert_eq!(circles(&uses), [""; 0], "{uses:?}");
    let planted: Vec<_> = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")]
        .map(|(a, b)| (a.to_string(), b.to_string()))
        .to_vec();
    assert_eq!(circles(&planted), ["b", "c"]);
}

#[test]
fn uses_within_ops_are_found() {
    let files = [
        ("ops/mod.rs", "pub use a::{Spec, Plan};\npub use b::B;"),
        ("ops/a.rs", "use super::{\n    b, c::{self, Inner},\n};\nfn f() { super::d::g() }"),
        ("ops/b.rs", "use crate::ops::c;\nuse crate::gpu::a;"),
        ("ops/c.rs", "use super::Plan;"),
        ("ops/d/mod.rs", "use super::b::B;"),
        ("ops/d/e.rs", "use super::b;\nuse super::super::c::C;\nuse crate::{format, ops::Spec};"),
    ];
    let lines: Vec<_> = files.iter().flat_map(|(file, text)| code(file, text)).collect();
    let uses = uses_within_ops(&lines);
    let uses: Vec<_> = uses.iter().map(|(a, b)| format!("{a}{b}")).collect();
    assert_eq!(uses, ["ab", "ac", "ad", "bc", "ca", "dc", "da", "db"]);
}

/// Checks that the searches find planted faults.
#[test]
fn planted_faults_are_found() {
    let source = r#"
fn work(queue: &Queue) {
    queue.submit([]);
    // queue.submit([]) in a comment
    let text = "queue.submit([])";
    host.submit(|pass| ());
    device.poll(PollType::Poll);
    block_on(later());
    buffer.slice(..).map_async(mode, || ()); // and wait
}
#[cfg(test)]
use nothing::at_all;
#[cfg(test)]
mod tests {
    fn fine() {
        queue.submit([]);
    }
}
fn after() {
    value.unwrap(); option.expect("text"); panic!("{}", 1);
    debug_assert!(true);
    assert!(x.unwrap_or(true));
    let quote = '"'; unreachable!();
}
"#;
    let numbers = |file: &str| -> Vec<usize> {
        let found = waits(&code(file, source));
        found.iter().map(|l| l.split(':').nth(1).unwrap().parse().unwrap()).collect()
    };
    assert_eq!(numbers("ops/matmul/bind.rs"), [3, 6, 7, 8, 9]);
    assert_eq!(numbers("conformance/run.rs"), [3, 7, 9]);
    assert_eq!(numbers("host.rs"), [0; 0]);
    let calls: Vec<_> =
        panics(&code("a.rs", source)).into_iter().map(|(_, call, _)| call).collect();
    assert_eq!(calls, [".unwrap()", ".expect(", "panic!(", "assert!(", "unreachable!("]);
}

/// Openings of comments that are not sentences: they make a reader guess what is meant.
const OPENINGS: [&str; 21] = [
    "The same",
    "None where",
    "`None` where",
    "None of",
    "Of a ",
    "Of an ",
    "Of the ",
    "Of what",
    "Of one",
    "What is",
    "What are",
    "What was",
    "What there",
    "As is",
    "As of",
    "That of",
    "Those of",
    "Whatever",
    "Whose",
    "So many",
    "So much",
];

/// The comments of a file whose first line opens in one of these ways, or as "No … where …".
fn odd_openings(file: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for (number, line) in (1..).zip(source.lines()) {
        let line = line.trim_start();
        let text = line.strip_prefix("//").map(|rest| rest.trim_start_matches(['/', '!']).trim());
        let first = text.filter(|_| !inside);
        inside = text.is_some();
        let Some(first) = first else { continue };
        let sentence = first.split(". ").next().unwrap_or(first);
        let nothing_where = sentence.starts_with("No ") && sentence.contains(" where ");
        if nothing_where || OPENINGS.iter().any(|opening| first.starts_with(opening)) {
            found.push(format!("{file}:{number}: {first}"));
        }
    }
    found
}

/// Comments in the sources of all crates begin with a sentence or a noun that says what the item
/// is. docs/glossary.md has the terms.
#[test]
fn comments_open_as_sentences() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let crates = std::fs::read_dir(root.join("crates")).unwrap();
    folders.extend(crates.map(|entry| entry.unwrap().path().join("src")));
    let mut files = Vec::new();
    for folder in &folders {
        rust_files(folder, &mut files);
    }
    files.sort();
    assert!(folders.len() >= 4 && files.len() > 100, "{} files", files.len());
    let mut found = Vec::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        found.extend(odd_openings(&name, &std::fs::read_to_string(&path).unwrap()));
    }
    assert!(found.is_empty(), "{} comments:\n{}", found.len(), found.join("\n"));
}

#[test]
fn odd_openings_are_found() {
    let source = "
/// The same with a stride.
/// Of the rows, the second line does not count.
fn one() {}
/// Returns the stride.
///
/// The same applies to paragraphs that are not the first.
fn two() {}
    /// No zero points where the format is symmetric.
    zeros: u32,
    // None where X is quantized.
    // What is this line?
    m: u32,
    /// No panic. Elsewhere there may be one, where it matters.
    let url = \"https://example.invalid\"; // The same at the end of a line of code
";
    let found = odd_openings("a.rs", source);
    let numbers: Vec<_> = found.iter().map(|line| line.split(':').nth(1).unwrap()).collect();
    assert_eq!(numbers, ["2", "9", "11"]);
}

/// Lists the files below a folder, without those that are built.
fn tree(folder: &Path, root: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "data", ".git", "node_modules"].contains(&name.as_str()) {
            tree(&path, root, files);
        } else if path.is_file() {
            files.push(format!("/{}", path.strip_prefix(root).unwrap().to_string_lossy()));
        }
    }
}

/// Every file and folder in backticks of ARCHITECTURE.md exists. The page shortens paths, so the end
/// of a path is enough.
#[test]
fn the_paths_of_the_architecture_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let mut files = Vec::new();
    tree(root, root, &mut files);
    let (mut checked, mut missing) = (0, Vec::new());
    for quoted in page.split('`').skip(1).step_by(2) {
        // NAME stands for a name of one's own.
        let pattern = quoted.contains("NAME") || quoted.contains([' ', '(', '<', '*']);
        let file = [".rs", ".wgsl", ".md", ".sh"].iter().any(|end| quoted.ends_with(end));
        if pattern || !(file || quoted.ends_with('/')) {
            continue;
        }
        checked += 1;
        let end = format!("/{quoted}");
        let there = |path: &String| if file { path.ends_with(&end) } else { path.contains(&end) };
        if !files.iter().any(there) {
            missing.push(quoted);
        }
    }
    assert!(checked > 60, "{checked} paths");
    assert!(missing.is_empty(), "ARCHITECTURE.md names what is not there: {missing:?}");
}
