//! One short-lived process a share of the work: the loader reads its environment once, and RADV
//! aborts on what it cannot compile.

use crate::{Driver, Family, IsaError, Stats};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a child is asked to compile.
#[derive(Clone, Debug)]
pub struct Job {
    /// The family.
    pub family: Family,
    /// The driver's manifest.
    pub manifest: PathBuf,
    /// Ids of [`kernels`](super::kernels).
    pub kernels: Vec<String>,
    /// Whether listings are wanted.
    pub listings: bool,
}

/// One line of a child's answer.
#[derive(Serialize, Deserialize)]
struct Answer {
    stats: Stats,
    listing: Option<String>,
}

/// Compiles in a process of its own: `program` is the `lowbit` command, whose hidden
/// `isa --serve FAMILY` calls [`serve`]. Statistics come in the order of the job, each with its
/// listing if that was asked for.
///
/// # Errors
/// Returns [`IsaError::Aborted`] where the driver gives up, with the kernel; [`IsaError::Process`]
/// and [`IsaError::Answer`] where the program is not what it should be.
pub fn compile(program: &Path, job: &Job) -> Result<Vec<(Stats, Option<String>)>, IsaError> {
    let mut command = Command::new(program);
    command.args(["isa", "--serve", job.family.name()]);
    if job.listings {
        command.arg("--disassemble");
    }
    command.env("RADV_FORCE_FAMILY", job.family.name()).env("VK_DRIVER_FILES", &job.manifest);
    // Older loaders know the older name only.
    command.env("VK_ICD_FILENAMES", &job.manifest);
    if let Some(libraries) = libraries(&job.manifest) {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let names = job.kernels.join("\n");
    let (answers, message) = std::thread::scope(|scope| {
        // Its own threads: a full pipe would stop the child.
        scope.spawn(move || {
            // A child that has ended says why by its status.
            let _ = input.map(|mut input| input.write_all(names.as_bytes()));
        });
        let message = scope.spawn(move || {
            let mut message = String::new();
            let _ = errors.map(|mut errors| errors.read_to_string(&mut message));
            message
        });
        let lines = output.into_iter().flat_map(|output| BufReader::new(output).lines());
        (lines.collect::<Result<Vec<_>, _>>(), message.join().unwrap_or_default())
    });
    let status = child.wait()?;
    let answers = answers?
        .iter()
        .map(|line| {
            let answer: Answer =
                serde_json::from_str(line).map_err(|e| IsaError::Answer(e.to_string()))?;
            Ok((answer.stats, answer.listing))
        })
        .collect::<Result<Vec<_>, IsaError>>()?;
    if !status.success() || answers.len() != job.kernels.len() {
        let last: Vec<_> = message.lines().rev().take(3).collect();
        return Err(IsaError::Aborted {
            family: job.family,
            status,
            kernel: job.kernels.get(answers.len()).cloned().unwrap_or_default(),
            message: last.into_iter().rev().collect::<Vec<_>>().join("; "),
        });
    }
    Ok(answers)
}

/// Kernels that one process compiles: enough that its start does not count.
const SHARE: usize = 100;

/// Runs [`compile`] for all jobs, on every core; statistics come in the jobs' order.
///
/// # Errors
/// The first of the errors of [`compile`].
pub fn compile_all(program: &Path, jobs: &[Job]) -> Result<Vec<(Stats, Option<String>)>, IsaError> {
    let shares: Vec<Job> = jobs
        .iter()
        .flat_map(|job| {
            let share = |kernels: &[String]| Job { kernels: kernels.to_vec(), ..job.clone() };
            job.kernels.chunks(SHARE).map(share).collect::<Vec<_>>()
        })
        .collect();
    let next = AtomicUsize::new(0);
    let results: Vec<_> = shares.iter().map(|_| OnceLock::new()).collect();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(shares.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(job), Some(result)) = (shares.get(index), results.get(index)) else {
                        break;
                    };
                    let _ = result.set(compile(program, job));
                }
            });
        }
    });
    let mut all = Vec::new();
    for result in results.into_iter().filter_map(OnceLock::into_inner) {
        all.extend(result?);
    }
    Ok(all)
}

/// Returns the libraries that were unpacked with a driver: `DIR/usr/lib/…` beside
/// `DIR/usr/share/vulkan/icd.d/radeon_icd.json`. None for the system's.
fn libraries(manifest: &Path) -> Option<PathBuf> {
    let usr = manifest.parent()?.parent()?.parent()?.parent()?;
    (usr != Path::new("/usr")).then(|| usr.join("lib/x86_64-linux-gnu"))
}

/// The child's side of [`compile`]: ids by lines in, statistics by lines out.
///
/// # Errors
/// Returns [`IsaError`]; kernels that went before have been answered for.
pub fn serve(
    family: Family,
    listings: bool,
    input: impl BufRead,
    output: impl Write,
) -> Result<(), IsaError> {
    let names = input.lines().collect::<Result<Vec<_>, _>>()?;
    let driver = Driver::new()?;
    let mut output = BufWriter::new(output);
    for name in names {
        let kernel =
            super::find(&name).ok_or_else(|| IsaError::Answer(format!("no kernel `{name}`")))?;
        let compiled = driver.compile(&kernel.desc(), kernel.wave())?;
        let stats = Stats::new(&kernel, family, &compiled);
        let answer = Answer { stats, listing: listings.then_some(compiled.listing) };
        let line = serde_json::to_string(&answer).map_err(|e| IsaError::Answer(e.to_string()))?;
        // Flushed one by one: an abort must not take earlier answers with it.
        writeln!(output, "{line}")?;
        output.flush()?;
    }
    Ok(())
}
