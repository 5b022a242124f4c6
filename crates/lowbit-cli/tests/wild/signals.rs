//! A signal in the middle of the work.

use crate::cli::{Scratch, command, fine, le_f32, values};
use lowbit_models::checkpoint::{Content, Dtype, write_model};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
    assert!(sent.unwrap().success());
}

/// SIGINT, SIGTERM and SIGHUP leave what was there before, and no temporary file; the process ends as one
/// that does not handle them.
#[test]
fn signals_leave_nothing_behind() {
    let scratch = Scratch::new();
    let [input, packed, output] = ["in", "packed", "out"].map(|name| scratch.text(name));
    let bytes = le_f32(&values(2048 * 2048));
    let content = Content::Plain { dtype: Dtype::F32, shape: &[2048, 2048], bytes: &bytes };
    let names: Vec<String> = (0..8).map(|i| format!("l{i}.weight")).collect();
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), content)).collect();
    write_model(scratch.path("in"), &tensors, &BTreeMap::new()).unwrap();
    fine(&["compress", &input, "-o", &packed, "--scheme", "int4", "--host"]);
    fs::write(&output, b"earlier").unwrap();
    let compress = ["compress", &input, "-o", &output, "--scheme", "int4", "--host"];
    let decompress = ["decompress", &packed, "-o", &output];
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        for args in [&compress[..], &decompress] {
            let mut child =
                command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let start = Instant::now();
            while scratch.names().len() == 3 {
                assert!(start.elapsed() < Duration::from_secs(60), "no temporary file appears");
                assert!(child.try_wait().unwrap().is_none(), "it ended before its file appeared");
            }
            send(signal, &child);
            let status = child.wait().unwrap();
            assert_eq!(status.signal(), Some(number), "{signal} {args:?}: {status}");
            assert_eq!(scratch.names(), ["in", "out", "packed"], "{signal} {args:?}");
            assert_eq!(fs::read(&output).unwrap(), b"earlier");
        }
    }
}

/// A signal that the caller ignores stays ignored, so that `nohup` works.
#[test]
fn ignored_signals_stay_ignored() {
    let scratch = Scratch::new();
    let [input, output] = ["in", "out"].map(|name| scratch.text(name));
    let bytes = le_f32(&values(2048 * 2048));
    let content = Content::Plain { dtype: Dtype::F32, shape: &[2048, 2048], bytes: &bytes };
    let tensors = [("a.weight", content), ("b.weight", content)];
    write_model(scratch.path("in"), &tensors, &BTreeMap::new()).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lowbit")]);
    shell.args(["compress", &input, "-o", &output, "--scheme", "int4", "--host"]);
    let mut child = shell.stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while scratch.names().len() == 1 {
        assert!(start.elapsed() < Duration::from_secs(60), "no temporary file appears");
    }
    send("HUP", &child);
    assert!(child.wait().unwrap().success());
    assert_eq!(scratch.names(), ["in", "out"]);
}
