//! A signal in the middle of the work.

use crate::cli::{Scratch, command, le_f32, values};
use lowbit_models::checkpoint::{Content, Dtype, write_model};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SIGNALS: [(&str, i32); 3] =
    [("INT", libc::SIGINT), ("TERM", libc::SIGTERM), ("HUP", libc::SIGHUP)];

/// Starts a command to which no signal is ignored, whatever is ignored where the tests run.
pub fn start(mut command: Command, stdout: Stdio) -> Child {
    let reset = || {
        for (_, signal) in SIGNALS {
            // SAFETY: `signal` may be called between fork and exec, and the default needs no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure calls nothing but `signal`, and allocates nothing.
    unsafe { command.pre_exec(reset) };
    command.stdout(stdout).spawn().unwrap()
}

pub fn send(signal: &str, child: &Child) -> bool {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{signal}")).arg(child.id().to_string()).stderr(Stdio::null());
    kill.status().unwrap().success()
}

/// Waits until a command has created its temporary file.
fn wait_for_part(scratch: &Scratch) {
    let start = Instant::now();
    while !scratch.names().iter().any(|name| name.starts_with(".lowbit-")) {
        assert!(start.elapsed() < Duration::from_secs(60), "no temporary file appears");
    }
}

/// Writes a file of so many tensors that a list of them does not fit into a pipe.
fn many_tensors(scratch: &Scratch) {
    let names: Vec<String> = (0..4000).map(|i| format!("layer.{i}.{}", "x".repeat(40))).collect();
    let content = Content::Plain { dtype: Dtype::U8, shape: &[1], bytes: &[0] };
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), content)).collect();
    write_model(scratch.path("in"), &tensors, &BTreeMap::new()).unwrap();
}

/// SIGINT, SIGTERM and SIGHUP leave what was there before and no temporary file, and the process ends as
/// one that does not handle them. The command waits here until somebody reads its list, with its JSON
/// unfinished.
#[test]
fn signals_leave_nothing_behind() {
    let scratch = Scratch::new();
    many_tensors(&scratch);
    let [input, json] = ["in", "json"].map(|name| scratch.text(name));
    fs::write(&json, b"earlier").unwrap();
    for (signal, number) in SIGNALS {
        let inspect = command(&["inspect", &input, "--json", &json]);
        let mut child = start(inspect, Stdio::piped());
        wait_for_part(&scratch);
        assert!(send(signal, &child));
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(number), "{signal}: {status}");
        assert_eq!(scratch.names(), ["in", "json"], "{signal}");
        assert_eq!(fs::read(&json).unwrap(), b"earlier");
    }
}

/// A signal may also come while weights are compressed. The command may end before the signal comes; then it is tried
/// again.
#[test]
fn signals_in_the_middle_of_a_weight() {
    let scratch = Scratch::new();
    let [input, output] = ["in", "out"].map(|name| scratch.text(name));
    let bytes = le_f32(&values(2048 * 2048));
    let content = Content::Plain { dtype: Dtype::F32, shape: &[2048, 2048], bytes: &bytes };
    let names: Vec<String> = (0..8).map(|i| format!("l{i}.weight")).collect();
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), content)).collect();
    write_model(scratch.path("in"), &tensors, &BTreeMap::new()).unwrap();
    for (signal, number) in SIGNALS {
        let in_time = (0..20).any(|_| {
            fs::write(&output, b"earlier").unwrap();
            let compress =
                command(&["compress", &input, "-o", &output, "--scheme", "int4", "--host"]);
            let mut child = start(compress, Stdio::null());
            wait_for_part(&scratch);
            send(signal, &child);
            let status = child.wait().unwrap();
            assert_eq!(scratch.names(), ["in", "out"], "{signal}: {status}");
            assert!(status.success() || status.signal() == Some(number), "{signal}: {status}");
            let kept = fs::read(&output).unwrap() == b"earlier";
            assert_eq!(kept, !status.success(), "{signal}");
            kept
        });
        assert!(in_time, "{signal} never came in time");
    }
}

/// A signal that the caller ignores stays ignored, so that `nohup` works.
#[test]
fn ignored_signals_stay_ignored() {
    let scratch = Scratch::new();
    many_tensors(&scratch);
    let [input, json] = ["in", "json"].map(|name| scratch.text(name));
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lowbit")]);
    shell.args(["inspect", &input, "--json", &json]);
    let mut child = start(shell, Stdio::piped());
    wait_for_part(&scratch);
    assert!(send("HUP", &child));
    let mut list = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut list).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(scratch.names(), ["in", "json"]);
    assert!(list.len() > 1 << 16);
}
