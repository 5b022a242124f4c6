//! The checkers of other people: Khronos's two, and Tint. Each takes what was translated and says
//! what is wrong with it.

use lowbit::translate::{SpirvVersion, Translated};
use serde_json::json;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Where scripts/setup-tools.sh puts things.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools")
}

/// A tool that is there, or a skip that says so: a failure where the environment demands tools.
pub fn found<T>(tool: Result<T, String>) -> Option<T> {
    match tool {
        Ok(tool) => Some(tool),
        Err(reason) if std::env::var_os("LOWBIT_REQUIRE_TOOLS").is_none_or(|v| v != "1") => {
            crate::common::skipped(format_args!("{reason}; `make tools` gets it"));
            None
        }
        Err(reason) => panic!("LOWBIT_REQUIRE_TOOLS is set, and {reason}"),
    }
}

/// The program that was unpacked, or else the system's.
fn program(name: &str, ask: &str) -> Result<PathBuf, String> {
    let starts = |path: &Path| {
        let run = Command::new(path).arg(ask).stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    };
    let places = [tools().join("bin").join(name), name.into()];
    let found = places.into_iter().find(|path| starts(path));
    found.ok_or_else(|| format!("there is no {name}"))
}

/// Returns the complaints of a process about some input, or an empty text if it accepts it.
fn said(command: &mut Command, input: &[u8]) -> Result<(), String> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // Its answer is short: it cannot fill a pipe while we write.
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    match out.status.success() {
        true => Ok(()),
        false => {
            let all = [out.stdout, out.stderr].concat();
            Err(format!("{}: {}", out.status, String::from_utf8_lossy(&all).trim()))
        }
    }
}

/// `spirv-val`.
pub struct SpirvVal(PathBuf);

impl SpirvVal {
    pub fn new() -> Result<Self, String> {
        let program = program("spirv-val", "--version")?;
        // Cooperative matrices are newer than some.
        let help = Command::new(&program).arg("--version").output().map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        let year = text.split(['v', '.']).find_map(|part| part.parse::<u32>().ok());
        match year {
            Some(2024..) => Ok(Self(program)),
            _ => Err(format!("spirv-val is older than 2024: {}", text.trim())),
        }
    }

    /// The environments that a version is checked for.
    pub fn environments(version: SpirvVersion) -> &'static [&'static str] {
        match version {
            SpirvVersion::V1_0 => &["vulkan1.0", "vulkan1.1"],
            SpirvVersion::V1_3 => &["vulkan1.1", "vulkan1.3"],
            SpirvVersion::V1_5 => &["vulkan1.2"],
            _ => &["vulkan1.3"],
        }
    }

    pub fn check(&self, environment: &str, bytes: &[u8]) -> Result<(), String> {
        said(Command::new(&self.0).args(["--target-env", environment, "-"]), bytes)
    }
}

/// `glslangValidator`.
pub struct Glslang(PathBuf);

impl Glslang {
    pub fn new() -> Result<Self, String> {
        program("glslangValidator", "--version").map(Self)
    }

    /// Checks files, whose names end in `.comp`.
    pub fn check(&self, files: &[PathBuf]) -> Result<(), String> {
        said(Command::new(&self.0).args(files), &[])
    }
}

/// Tint: npm's `webgpu`, in a process that takes any number of shaders.
pub struct Tint {
    child: Child,
    answers: Lines<BufReader<ChildStdout>>,
    pub features: Vec<String>,
}

impl Tint {
    pub fn new() -> Result<Self, String> {
        let module = tools().join("npm/node_modules/webgpu/index.js");
        if !module.exists() {
            return Err("npm's webgpu is not there".into());
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets/tint.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .arg(module)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("node does not start: {error}"))?;
        let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
        match answers.next() {
            Some(Ok(features)) => {
                Ok(Self { child, answers, features: serde_json::from_str(&features).unwrap() })
            }
            _ => Err(format!("npm's webgpu does not start: {:?}", child.wait())),
        }
    }

    /// Returns the errors that Tint finds in shaders for browsers.
    pub fn check(&mut self, shader: &Translated) -> Result<(), String> {
        let line = json!({
            "code": shader.output.text().unwrap(),
            "entry_point": shader.entry_point,
            "bindings": shader.bindings,
        });
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        stdin.flush().unwrap();
        let answer = self.answers.next().expect("Tint's process ended").unwrap();
        match serde_json::from_str::<String>(&answer).unwrap() {
            wrong if wrong.is_empty() => Ok(()),
            wrong => Err(wrong),
        }
    }
}

impl Drop for Tint {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
