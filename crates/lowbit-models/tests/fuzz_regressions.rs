//! The fuzz targets of `tools/fuzz/` without libFuzzer: over every input that once failed, and over the
//! seeds that fuzzing starts from.

use crate::{seeds, targets};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What one input may take. The slowest take milliseconds; machines are shared.
const MOST: Duration = Duration::from_secs(10);

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Runs a target over an input, within its time.
fn run(target: &targets::Target, input: &[u8], name: &str) {
    eprintln!("{}: {name}, {} bytes", target.0, input.len());
    let start = Instant::now();
    target.1(input);
    let took = start.elapsed();
    assert!(took < MOST, "{}: {name} took {took:?}", target.0);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_regression_passes() {
    let folder = root().join("tools/fuzz/regressions");
    let mut count = 0;
    for target in &targets::ALL {
        for path in files(&folder.join(target.0)) {
            run(target, &std::fs::read(&path).unwrap(), &path.display().to_string());
            count += 1;
        }
    }
    // A folder of no target, misspelt perhaps, would be passed over.
    for path in files(&folder) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(targets::ALL.iter().any(|target| target.0 == name), "no target `{name}`");
    }
    assert!(count > 0, "no regressions in {}", folder.display());
    eprintln!("{count} regressions");
}

#[test]
fn every_seed_passes() {
    let seeds = seeds::all(root());
    for target in &targets::ALL {
        let seeds = &seeds[target.0];
        assert!(!seeds.is_empty(), "{} starts from nothing", target.0);
        for (index, seed) in seeds.iter().enumerate() {
            run(target, seed, &format!("seed {index}"));
        }
    }
}

/// The target has the binary that `cargo fuzz` runs, and the other way round.
#[test]
fn every_target_is_fuzzed() {
    let mut sources: Vec<String> = files(&root().join("tools/fuzz/fuzz_targets"))
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let mut names: Vec<String> = targets::ALL.iter().map(|target| target.0.to_owned()).collect();
    sources.sort();
    names.sort();
    assert_eq!(sources, names);
    let manifest = std::fs::read_to_string(root().join("tools/fuzz/Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
