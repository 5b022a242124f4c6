//! The `lowbit-train` command, run as users run it.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn train(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lowbit-train")).args(args).output().unwrap()
}

fn smoke() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/smoke.toml").display().to_string()
}

/// Every task at the smallest size: rows for all runs, and the curves behind them.
#[test]
fn smoke_test() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (json, curves) = (path("rows.json"), path("curves.json"));
    let recipe = smoke();
    let output = train(&["run", &recipe, "--json", &json, "--curves", &curves, "--quiet"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), message.as_str()), (Some(0), ""));
    let read = |path: &str| -> Vec<Value> {
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let rows = read(&json);
    for (task, count) in [("qat", 6), ("prune", 5), ("tickets", 5), ("gradients", 8)] {
        assert_eq!(rows.iter().filter(|row| row["task"] == task).count(), count, "{task}");
    }
    for row in &rows {
        let accuracy = row["accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.0 && accuracy <= 1.0, "{row}");
        assert!(row["bits_per_weight"].as_f64().unwrap() > 1.0, "{row}");
    }
    assert!(read(&curves).iter().all(|curve| !curve["points"].as_array().unwrap().is_empty()));
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), rows.len(), "{lines}");
}

#[test]
fn a_task_and_its_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("rows.json").display().to_string();
    let output = train(&["gradients", &smoke(), "--seeds", "3,4", "--json", &json, "--quiet"]);
    assert_eq!(output.status.code(), Some(0));
    let rows: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let seeds: Vec<_> = rows.iter().map(|row| row["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds.iter().filter(|&&seed| seed == 3).count(), 8);
    assert_eq!(seeds.len(), 16);
}

#[test]
fn mistakes_are_named() {
    for (args, want) in [
        (vec!["qat", "/nowhere.toml"], "/nowhere.toml cannot be read"),
        (vec!["qat", &smoke(), "--data", "/nowhere"], "train-images"),
        (vec!["fly", "recipe.toml"], "unrecognized subcommand"),
    ] {
        let output = train(&args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(want), "{message}");
    }
}
