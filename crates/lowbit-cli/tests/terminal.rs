//! `lowbit generate` on a pseudo-terminal, and what signals do to it.

use crate::cli::{Scratch, command, gpu, stdout};
use crate::tiny_language::{characters, tiny, tokenizer};
use crate::wild::signals::{send, start};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a command may take to show what it has to.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command on a terminal of its own.
struct Terminal {
    to: File,
    from: Receiver<Vec<u8>>,
    child: Child,
    shown: Vec<u8>,
}

impl Terminal {
    fn start(args: &[&str]) -> Self {
        let (mut master, mut slave) = (0, 0);
        let null = std::ptr::null_mut();
        // SAFETY: both numbers are written to memory that this function owns; no name, settings or size are given.
        let opened =
            unsafe { libc::openpty(&mut master, &mut slave, null, null.cast(), null.cast()) };
        assert_eq!(opened, 0);
        // SAFETY: the call has opened both, and nothing else owns them.
        let (master, slave) =
            unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let mut command = command(args);
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let own = || {
            // SAFETY: these calls may be made between fork and exec; the terminal is stdin.
            unsafe {
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY as _, 0);
            }
            Ok(())
        };
        // SAFETY: the closure allocates nothing.
        unsafe { command.pre_exec(own) };
        let child = command.spawn().unwrap();
        // The command holds what is left of the other end.
        drop(command);
        let (to, mut reads) = (File::from(master.try_clone().unwrap()), File::from(master));
        let (sender, from) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // On Linux the end of a terminal is an error.
            while let Ok(count @ 1..) = reads.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { to, from, child, shown: Vec::new() }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Waits until what is shown from `start` on has something.
    fn wait(&mut self, start: usize, what: &str, has: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !has(&String::from_utf8_lossy(&self.shown[start..])) {
            let left = end.saturating_duration_since(Instant::now());
            match self.from.recv_timeout(left) {
                Ok(bytes) => self.shown.extend(bytes),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let _ = self.child.kill();
                    panic!("no {what}: {}", self.shown());
                }
            }
        }
    }

    fn type_in(&mut self, keys: &str) -> usize {
        self.to.write_all(keys.as_bytes()).unwrap();
        self.shown.len()
    }

    /// Waits for the end, and returns everything that was shown.
    fn end(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            while let Ok(bytes) = self.from.try_recv() {
                self.shown.extend(bytes);
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                panic!("it does not end: {}", self.shown());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        while let Ok(bytes) = self.from.recv_timeout(Duration::from_secs(1)) {
            self.shown.extend(bytes);
        }
        (status, self.shown())
    }
}

/// Options with which a model writes until it is stopped.
const ENDLESS: [&str; 4] = ["--context", "100000", "--max-tokens", "90000"];

/// Ctrl-C ends each answer and nothing else, and where a prompt is awaited it ends the conversation, whose result is
/// written.
#[test]
fn ctrl_c_ends_answers_and_then_the_conversation() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, json) = (tiny(&scratch, "llama"), scratch.text("json"));
    let args = [&["generate", &model, "--interactive", "--json", &json], &ENDLESS[..]].concat();
    let mut terminal = Terminal::start(&args);
    let mut from = 0;
    for turn in ["hi", "more", "and more"] {
        terminal.wait(from, "prompt", |shown| shown.contains("> "));
        from = terminal.type_in(&format!("{turn}\n"));
        // The line itself is shown as well.
        let least = turn.len() + 40;
        terminal.wait(from, "answer", |shown| shown.chars().count() > least);
        assert!(!terminal.shown()[from..].contains("> "), "{}", terminal.shown());
        from = terminal.type_in("\u{3}");
    }
    terminal.wait(from, "prompt", |shown| shown.contains("> "));
    assert!(!scratch.path("json").exists());
    terminal.type_in("\u{3}");
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(0), "{status}: {shown}");
    assert!(shown.contains("tokens/s") && shown.contains("interrupted"), "{shown}");
    let json = scratch.json("json");
    assert_eq!(json["ended"], "interrupted");
    let tokens = json["tokens"].as_u64().unwrap();
    assert!((20..90_000).contains(&tokens), "{tokens}");
    assert_eq!(json["text"].as_str().unwrap().chars().count() as u64, tokens);
}

/// The end of the input ends a conversation too.
#[test]
fn ctrl_d_ends_a_conversation() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, json) = (tiny(&scratch, "llama"), scratch.text("json"));
    let args = ["generate", &model, "--interactive", "--max-tokens", "4", "--json", &json];
    let mut terminal = Terminal::start(&args);
    terminal.wait(0, "prompt", |shown| shown.contains("> "));
    let from = terminal.type_in("hi\n");
    terminal.wait(from, "second prompt", |shown| shown.contains("> "));
    terminal.type_in("\u{4}");
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(0), "{status}: {shown}");
    assert!(shown.contains("4 tokens, cut after --max-tokens"), "{shown}");
    assert_eq!(scratch.json("json")["tokens"], 4);
}

/// Without --interactive, Ctrl-C ends the text, and the result is written.
#[test]
fn an_interrupt_ends_a_text() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, json) = (tiny(&scratch, "llama"), scratch.text("json"));
    let args = [&["generate", &model, "--prompt", "ab", "--json", &json], &ENDLESS[..]].concat();
    let mut child = start(command(&args), Stdio::piped());
    let mut text = vec![0; 40];
    child.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
    assert!(send("INT", &child));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", output.status);
    let text = String::from_utf8(text).unwrap() + &stdout(&output);
    let json = scratch.json("json");
    assert_eq!(json["ended"], "interrupted");
    assert_eq!(text, format!("{}\n", json["text"].as_str().unwrap()));
}

/// An interrupt also ends the reading of a long prompt, which then is no part of the conversation.
#[test]
fn an_interrupt_ends_the_reading_of_a_prompt() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, json) = (tiny(&scratch, "llama"), scratch.text("json"));
    let args = ["generate", &model, "--interactive", "--context", "100000", "--max-tokens", "6"];
    let args = [&args[..], &["--json", &json]].concat();
    let talk = |long: bool| {
        let mut command = command(&args);
        command.stdin(Stdio::piped());
        let mut child = start(command, Stdio::piped());
        let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        to.write_all(b"hi\n").unwrap();
        let mut first = [0; 7];
        from.read_exact(&mut first).unwrap();
        if long {
            // It would be read for many seconds.
            to.write_all(format!("{}\n", "long ".repeat(18_000)).as_bytes()).unwrap();
            std::thread::sleep(Duration::from_secs(1));
            assert!(send("INT", &child));
            let mut end = [0];
            from.read_exact(&mut end).unwrap();
            assert_eq!(&end, b"\n");
        }
        to.write_all(b"bye\n").unwrap();
        drop(to);
        let mut rest = String::new();
        from.read_to_string(&mut rest).unwrap();
        assert!(child.wait().unwrap().success());
        let json = scratch.json("json");
        assert_eq!((&json["ended"], &json["tokens"]), (&"max_tokens".into(), &6.into()));
        (first, rest)
    };
    assert_eq!(talk(true), talk(false));
}

/// A vocabulary may hold escape codes. A terminal shows them, and pipes and the JSON get them as they are.
#[test]
fn a_terminal_gets_no_control_characters_of_a_vocabulary() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, json) = (tiny(&scratch, "llama"), scratch.text("json"));
    let texts: Vec<String> = characters()
        .iter()
        .map(|c| if *c == 'a' { "a".into() } else { format!("\u{1b}[3{c}") })
        .collect();
    std::fs::write(scratch.path("llama").join("tokenizer.json"), tokenizer(&texts)).unwrap();
    let args = ["generate", &model, "--prompt", "a", "--max-tokens", "6", "--json", &json];
    let piped = crate::cli::fine(&args);
    assert!(piped.starts_with("\u{1b}[3"), "{piped:?}");
    assert_eq!(piped, format!("{}\n", scratch.json("json")["text"].as_str().unwrap()));
    let (status, shown) = Terminal::start(&args).end();
    assert!(status.success(), "{shown}");
    // What the progress bar and the terminal make of lines is not the text's.
    let text = piped.trim_end().replace('\u{1b}', "\\u{1b}").replace('\n', "\r\n");
    assert!(shown.contains(&text) && !shown.contains("\u{1b}[3"), "{shown:?}");
    assert_eq!(format!("{}\n", scratch.json("json")["text"].as_str().unwrap()), piped);
}
