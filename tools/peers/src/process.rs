//! A peer's process: started, asked, and ended when it takes too long.

use crate::catalog::{Device, Peer, Program};
use protocol::{Hello, Reply, Request};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a peer may take to come up, to prepare a case (ggml's shaders compile for
/// minutes), and to run one.
const HELLO: Duration = Duration::from_secs(120);
const PREPARE: Duration = Duration::from_secs(900);
const TIME: Duration = Duration::from_secs(120);
/// How long a prompt and what follows it may take, and as well what comes before the first one.
const GENERATE: Duration = Duration::from_secs(1800);

/// Where ggml's libraries are, below the folder that peers are installed in.
const LIBRARIES: &str = "ggml/package/bins/linux-x64-vulkan";

/// Where peers are installed, and where the sources of those in Python lie.
pub struct Folders {
    pub installed: PathBuf,
    pub sources: PathBuf,
}

/// Why a question has no answer.
#[derive(Debug)]
pub enum Failure {
    /// The peer says so, and goes on.
    Said(String),
    /// There is no process any more.
    Ended(String),
}

pub struct Process {
    child: Child,
    stdin: ChildStdin,
    replies: Receiver<Reply>,
    last_words: Arc<Mutex<String>>,
}

impl Process {
    /// Starts a peer and waits for its greeting.
    ///
    /// # Errors
    /// What is missing, or what the peer said last.
    pub fn start(peer: &Peer, folders: &Folders) -> Result<(Self, Hello), String> {
        let mut command = command(peer, folders)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            let program = Path::new(command.get_program()).display();
            format!("{program} does not start: {error}; run scripts/setup-peers.sh")
        })?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err("the process has no pipes".into());
        };
        let last_words = Arc::new(Mutex::new(String::new()));
        let mut process = Self {
            child,
            stdin,
            replies: listen(stdout),
            last_words: remember(stderr, last_words.clone()),
        };
        match process.reply(HELLO) {
            Ok(Reply::Hello(hello)) => Ok((process, hello)),
            Ok(other) => Err(format!("instead of a greeting it said {other:?}")),
            Err(Failure::Said(error) | Failure::Ended(error)) => Err(error),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn ask(&mut self, request: &Request) -> Result<Reply, Failure> {
        let limit = match request {
            Request::Prepare(_) => PREPARE,
            Request::Open(_) | Request::Generate => GENERATE,
            Request::Time(_) => TIME,
        };
        let line = serde_json::to_string(request)
            .map_err(|error| Failure::Said(format!("the question cannot be written: {error}")))?;
        // A process that is gone says more by its last words than by a broken pipe.
        let _ = writeln!(self.stdin, "{line}");
        self.reply(limit)
    }

    fn reply(&mut self, limit: Duration) -> Result<Reply, Failure> {
        match self.replies.recv_timeout(limit) {
            Ok(Reply::Error(error)) => Err(Failure::Said(error)),
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.child.kill();
                Err(Failure::Ended(format!("no answer within {} s", limit.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Failure::Ended(self.obituary())),
        }
    }

    /// What the process ended with.
    fn obituary(&mut self) -> String {
        // It may live on without a stdout.
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
        // Its stderr may still be on the way.
        std::thread::sleep(Duration::from_millis(100));
        match self.last_words.lock().map(|words| words.clone()) {
            Ok(words) if !words.is_empty() => format!("ended ({status}): {words}"),
            _ => format!("ended ({status})"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(peer: &Peer, folders: &Folders) -> Result<Command, String> {
    let python = |file: &str, argument: PathBuf| {
        let mut command = Command::new(folders.installed.join("venv/bin/python"));
        // -B: nothing is written beside the sources.
        command.arg("-B").arg(folders.sources.join("python").join(file)).arg(argument);
        command
    };
    Ok(match peer.program {
        Program::Binary(name, argument) => {
            let own = std::env::current_exe().map_err(|e| format!("where am I? {e}"))?;
            let mut command = Command::new(own.with_file_name(name));
            command.args((!argument.is_empty()).then_some(argument));
            command
        }
        Program::Python(file, argument) => python(file, argument.into()),
        Program::Ggml(file) => {
            let mut command = python(file, folders.installed.join(LIBRARIES));
            // Unasked it takes no adapter of the CPU's type, and aborts.
            command.env("GGML_VK_VISIBLE_DEVICES", "0");
            command
        }
        Program::Llama(file) => {
            let mut command = Command::new("python3");
            command.arg("-B").arg(folders.sources.join("python").join(file));
            command.arg(folders.installed.join(LIBRARIES));
            match peer.device {
                Device::Gpu => command.arg("vulkan").env("GGML_VK_VISIBLE_DEVICES", "0"),
                Device::Cpu => command.arg("cpu"),
            };
            command
        }
    })
}

/// Replies among whatever else stands on stdout.
fn listen(stdout: impl Read + Send + 'static) -> Receiver<Reply> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if let Ok(reply) = serde_json::from_slice(&line)
                && send.send(reply).is_err()
            {
                break;
            }
        }
    });
    receive
}

/// Keeps the last line of stderr that says anything.
fn remember(
    stderr: impl Read + Send + 'static,
    last_words: Arc<Mutex<String>>,
) -> Arc<Mutex<String>> {
    let words = last_words.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            if !line.is_empty()
                && let Ok(mut words) = words.lock()
            {
                *words = line;
            }
        }
    });
    last_words
}
