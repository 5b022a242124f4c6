//! `lowbit shader`: any kernel in any shading language.

use crate::Outcome;
use crate::error::CliError;
use crate::files::{self, refuse_same};
use crate::report::{JsonArg, Report};
use globset::Glob;
use lowbit::gpu::Grid;
use lowbit::translate::{
    BoundResource, Extra, Feature, Stored, Target, TranslateError, Translated, TranslatedCode,
    translate,
};
use lowbit_isa as isa;
use lowbit_models::checkpoint::{AtomicFile, IoError};
use serde::Serialize;
use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// A kernel as WGSL, SPIR-V, MSL, HLSL or GLSL, with what its host must know as JSON
///
/// For engines that don't use wgpu. Bounds checks are in the code (but for GLSL, which leaves them
/// to the context); what the target cannot express is refused by name.
#[derive(clap::Args)]
pub struct Args {
    /// The kernel's id, as --list and reports have it; with --list, ids that match (`*` stands
    /// for anything)
    #[arg(value_name = "KERNEL", required_unless_present = "list")]
    kernel: Option<String>,
    /// Print the ids of all kernels, over 140,000 without a pattern
    #[arg(long, conflicts_with_all = ["target", "version", "output"])]
    list: bool,
    /// wgsl, wgsl-web (with the directives that browsers require), wgsl-naga (as naga writes it),
    /// spirv, msl, hlsl or glsl (ES 3.10)
    #[arg(long, value_name = "TARGET", default_value = "wgsl")]
    target: String,
    /// Version of SPIR-V (1.0, 1.3, 1.5, 1.6), of MSL (2.1, 2.3, 3.0), or shader model (5.1, 6.0,
    /// 6.2, 6.4); without, the last
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Write FILE, and FILE.json with bindings, parameters, workgroup size, grid, what is required
    /// and how weights are stored
    #[arg(short, long, value_name = "FILE", value_parser = files::to_file())]
    output: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

/// What `--json` holds of a kernel.
#[derive(Serialize)]
struct Page {
    lowbit: &'static str,
    kernel: String,
    target: String,
    language: &'static str,
    version: Option<&'static str>,
    entry_point: String,
    workgroup_size: [u32; 3],
    /// Bytes.
    workgroup_memory: u32,
    /// Beyond the core of WGSL.
    features: Vec<Feature>,
    bindings: Vec<BoundResource>,
    /// A buffer that the translation asks for.
    extra: Option<Extra>,
    grid: GridPage,
    /// The conditions on shapes, strides and the device.
    requires: Vec<String>,
    /// How W is stored: ARCHITECTURE.md, Two layouts.
    weights: Option<Stored>,
    relies_on: [&'static str; 3],
}

#[derive(Serialize)]
struct GridPage {
    /// Workgroups, of all dimensions together.
    workgroups: String,
    variables: Vec<Variable>,
    shape: &'static str,
}

#[derive(Serialize)]
struct Variable {
    name: &'static str,
    is: &'static str,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    match (&args.kernel, args.list) {
        (Some(kernel), false) => one(args, kernel),
        (pattern, _) => list(args, pattern.as_deref().unwrap_or("*")),
    }
}

fn list(args: &Args, pattern: &str) -> Result<Outcome, CliError> {
    let glob = Glob::new(pattern).map_err(|e| CliError::new("not a pattern").because(e))?;
    let glob = glob.compile_matcher();
    let report = Report::open(&args.json)?;
    let all = isa::kernels().into_iter().chain(isa::cpu_kernels());
    let mut names: Vec<String> =
        all.map(|kernel| kernel.name().to_string()).filter(|name| glob.is_match(name)).collect();
    names.sort();
    if names.is_empty() {
        return Err(unknown(pattern));
    }
    report.finish(&format!("{}\n", names.join("\n")), &names)?;
    Ok(Outcome::Fine)
}

fn unknown(name: &str) -> CliError {
    let family = name.split(['_', '.']).next().unwrap_or_default().trim_end_matches('*');
    CliError::new(format!("no kernel has the id `{name}`")).hint(format!(
        "`lowbit shader --list '{family}*'` prints ids; they are like rows_m1_n2.int8"
    ))
}

fn one(args: &Args, name: &str) -> Result<Outcome, CliError> {
    let target = Target::find(&args.target, args.version.as_deref())
        .map_err(|error| CliError::new("nothing to translate to").because(error))?;
    let json = match (&args.json.json, &args.output) {
        (None, Some(output)) => Some(beside(output)),
        (json, _) => json.clone(),
    };
    let mut paths = Vec::new();
    paths.extend(args.output.as_deref().map(|path| ("--output", path)));
    let to_file = json.as_deref().filter(|path| path.as_os_str() != "-");
    paths.extend(to_file.map(|path| ("--json", path)));
    refuse_same(&paths)?;
    let kernel = isa::find(name).ok_or_else(|| unknown(name))?;
    let made = translate(&kernel.desc(), target).map_err(|error| {
        let hint = match &error {
            TranslateError::Refused { .. } => {
                "another --target or --version, or a kernel whose id has not what is lacking"
            }
            _ => "this is a defect of lowbit; please report it",
        };
        CliError::new("cannot translate").because(error).hint(hint)
    })?;
    let failed = |error: IoError| CliError::new("cannot write the shader").because(error);
    // Both are opened before either is written.
    let file = args.output.as_ref().map(AtomicFile::create).transpose().map_err(failed)?;
    let report = Report::open(&JsonArg { json })?;
    let bytes = made.output.bytes().into_owned();
    let text = match (&made.output, file) {
        (_, Some(mut file)) => {
            let written = file.write_all(&bytes);
            written.map_err(|e| CliError::new("cannot write the shader").because(e))?;
            file.commit().map_err(failed)?;
            String::new()
        }
        (TranslatedCode::Text(text), None) => text.clone(),
        (_, None) => {
            to_stdout(args, &bytes)?;
            String::new()
        }
    };
    report.finish(&text, &page(made, &kernel.desc().grid))?;
    Ok(Outcome::Fine)
}

/// `FILE.json`.
fn beside(output: &Path) -> PathBuf {
    let mut name = OsString::from(output);
    name.push(".json");
    name.into()
}

/// Writes bytes that are no text to the standard output, unless it is a terminal or takes JSON.
fn to_stdout(args: &Args, bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = std::io::stdout();
    if stdout.is_terminal() || args.json.json.as_ref().is_some_and(|path| path.as_os_str() == "-") {
        return Err(CliError::new("SPIR-V is binary").hint("write it to a file by -o FILE"));
    }
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::new("cannot print the shader").because(error))
        }
        _ => Ok(()),
    }
}

fn page(made: Translated, grid: &Grid) -> Page {
    let variable = |of: lowbit::gpu::Variable| Variable { name: of.name, is: of.meaning };
    let grid = GridPage {
        workgroups: grid.formula(),
        variables: grid.variables().into_iter().map(variable).collect(),
        shape: match grid.folds() {
            true => {
                "x, or any x, y, z whose product is at least as many: workgroups are numbered by \
                 their place in the grid, and those past the end do nothing"
            }
            false => "x",
        },
    };
    Page {
        lowbit: lowbit::VERSION,
        kernel: made.kernel,
        target: made.target.to_string(),
        language: made.target.language(),
        version: made.target.version(),
        entry_point: made.entry_point,
        workgroup_size: made.workgroup_size,
        workgroup_memory: made.workgroup_memory,
        features: made.features,
        bindings: made.bindings,
        extra: made.extra,
        grid,
        requires: made.requires,
        weights: made.weights,
        relies_on: [
            match made.target {
                Target::Glsl => "a context with robust buffer access: the code checks no index",
                Target::Wgsl | Target::WgslWeb | Target::WgslNaga => {
                    "the bounds checks of whoever compiles it"
                }
                _ => "nothing about indices: the code clamps them",
            },
            "no cleared workgroup memory: it is written before it is read",
            "parameters below 2^31: loops end by them and are not bounded otherwise",
        ],
    }
}
