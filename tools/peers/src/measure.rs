//! One shape at a time: all processes are set up, then timed in rounds, each of lowbit's
//! kernels next to the peers' that it competes with.

use crate::catalog::{Device, Format, OURS, Peer, PeerCase, Shape};
use crate::process::{Failure, Folders, Process};
use crate::report::Row;
use indicatif::ProgressBar;
use protocol::{Activations, Case, Hello, Ready, Reply, Request};
use std::time::Duration;

/// Thread pools of engines for the CPU spin for a while after work: the next must not pay.
const SETTLE: Duration = Duration::from_millis(50);

/// What to measure beside the shape.
pub struct Plan {
    pub peers: Vec<Peer>,
    pub formats: Vec<Format>,
    pub rounds: usize,
    pub folders: Folders,
}

/// What has become of a case.
enum State {
    Waiting,
    /// Its number in the process, and the kernel.
    Ready(usize, Option<String>),
    Failed(String),
}

/// A case in a process.
struct Entry {
    format: Format,
    peer_format: &'static str,
    activations: Activations,
    state: State,
    samples: Vec<f64>,
}

impl Entry {
    fn new((format, peer_format, activations): PeerCase) -> Self {
        Self { format, peer_format, activations, state: State::Waiting, samples: Vec::new() }
    }

    fn failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }

    fn kernel(&self) -> Option<String> {
        match &self.state {
            State::Ready(_, kernel) => kernel.clone(),
            _ => None,
        }
    }

    fn twin_of(&self, other: &Self) -> bool {
        (self.format, self.activations) == (other.format, other.activations)
    }

    /// The median, or why there is none.
    fn ms(&self) -> Result<f64, String> {
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        let mut samples = self.samples.clone();
        samples.sort_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied().ok_or_else(|| "it was never timed".into())
    }
}

/// A peer with its cases of one shape.
struct Session {
    peer: Peer,
    hello: Hello,
    process: Option<Process>,
    entries: Vec<Entry>,
}

impl Session {
    /// Starts the peer and prepares its cases. One that takes the process with it is left
    /// out of the next process.
    fn open(peer: Peer, cases: Vec<PeerCase>, shape: Shape, folders: &Folders) -> Self {
        let hello = Hello { version: String::new(), adapter: None, driver: None };
        let entries = cases.into_iter().map(Entry::new).collect();
        let mut session = Self { peer, hello, process: None, entries };
        while !session.entries.iter().all(Entry::failed) {
            match Process::start(&peer, folders) {
                Ok((mut process, hello)) => {
                    session.hello = hello;
                    if prepare(&mut process, &mut session.entries, shape) {
                        session.process = Some(process);
                        break;
                    }
                }
                Err(error) => session.refuse(&error),
            }
        }
        session
    }

    fn time(&mut self, at: usize) {
        let (Some(process), entry) = (&mut self.process, &mut self.entries[at]) else { return };
        let State::Ready(number, _) = entry.state else { return };
        match process.ask(&Request::Time(number)) {
            Ok(Reply::Ms(ms)) => entry.samples.push(ms),
            Ok(other) => entry.state = State::Failed(format!("for a time it said {other:?}")),
            Err(Failure::Said(error)) => entry.state = State::Failed(error),
            Err(Failure::Ended(error)) => {
                self.process = None;
                let lost = format!("the process ended in {}: {error}", entry.peer_format);
                self.refuse(&lost);
            }
        }
        if self.peer.device == Device::Cpu {
            std::thread::sleep(SETTLE);
        }
    }

    /// Gives every case that has not failed this error.
    fn refuse(&mut self, error: &str) {
        for entry in self.entries.iter_mut().filter(|entry| !entry.failed()) {
            entry.state = State::Failed(error.into());
        }
    }
}

/// Prepares the cases that have not failed; whether the process outlives that.
fn prepare(process: &mut Process, entries: &mut [Entry], shape: Shape) -> bool {
    let Shape { m, n, k } = shape;
    let mut number = 0;
    for entry in entries.iter_mut().filter(|entry| !entry.failed()) {
        let (format, activations) = (entry.peer_format.to_owned(), entry.activations);
        match process.ask(&Request::Prepare(Case { m, n, k, format, activations })) {
            Ok(Reply::Ready(Ready { kernel, activations })) => {
                entry.activations = activations;
                entry.state = State::Ready(number, kernel);
                number += 1;
            }
            Ok(other) => entry.state = State::Failed(format!("for being ready it said {other:?}")),
            Err(Failure::Said(error)) => entry.state = State::Failed(error),
            Err(Failure::Ended(error)) => {
                entry.state = State::Failed(error);
                return false;
            }
        }
    }
    true
}

/// Measures one shape.
///
/// # Errors
/// lowbit itself does not start.
pub fn measure(plan: &Plan, shape: Shape, bar: &ProgressBar) -> Result<Vec<Row>, String> {
    let mut sessions: Vec<Session> = Vec::new();
    for peer in &plan.peers {
        bar.set_message(format!("{shape}: preparing {}", peer.name));
        let cases = peer.cases.iter().copied().filter(|case| plan.formats.contains(&case.0));
        sessions.push(Session::open(*peer, cases.collect(), shape, &plan.folders));
        bar.inc(1);
    }

    bar.set_message(format!("{shape}: preparing lowbit"));
    // Every format with f32 X, and whatever else peers do.
    let case = |format: Format, activations| (format, format.lowbit(), activations);
    let mut cases: Vec<PeerCase> =
        plan.formats.iter().map(|&format| case(format, Activations::F32)).collect();
    for entry in sessions.iter().flat_map(|session| &session.entries) {
        let wanted = case(entry.format, entry.activations);
        if !cases.contains(&wanted) {
            cases.push(wanted);
        }
    }
    let mut ours = Session::open(OURS, cases, shape, &plan.folders);
    if ours.process.is_none() {
        let why = ours.entries.first().and_then(|entry| entry.ms().err());
        return Err(why.unwrap_or_else(|| "no format was asked for".into()));
    }
    for session in sessions.iter_mut().filter(|session| session.peer.device == Device::Gpu) {
        let facts = |hello: &Hello| [hello.adapter.clone(), hello.driver.clone()];
        let (theirs, own) = (facts(&session.hello), facts(&ours.hello));
        let differ = theirs.iter().zip(&own).find(|(a, b)| a.is_some() && b.is_some() && a != b);
        if let Some((Some(theirs), Some(own))) = differ {
            session.refuse(&format!("it ran on {theirs}, lowbit on {own}"));
        }
    }
    bar.inc(1);

    for round in 1..=plan.rounds {
        bar.set_message(format!("{shape}: round {round} of {}", plan.rounds));
        for own in 0..ours.entries.len() {
            ours.time(own);
            for session in &mut sessions {
                for at in 0..session.entries.len() {
                    if session.entries[at].twin_of(&ours.entries[own]) {
                        session.time(at);
                    }
                }
            }
        }
        bar.inc(1);
    }
    Ok(rows(&ours, &sessions, shape))
}

fn rows(ours: &Session, sessions: &[Session], shape: Shape) -> Vec<Row> {
    let mut rows = Vec::new();
    for session in sessions {
        for entry in &session.entries {
            let own = ours.entries.iter().find(|own| own.twin_of(entry));
            rows.push(row(session, entry, ours, own, shape));
        }
    }
    for own in ours.entries.iter().filter(|own| own.activations == Activations::F32) {
        for twin in own.format.twins() {
            let twin_of =
                |entry: &&Entry| (entry.format, entry.activations) == (*twin, own.activations);
            if let Some(twin) = ours.entries.iter().find(twin_of) {
                rows.push(row(ours, twin, ours, Some(own), shape));
            }
        }
    }
    rows
}

/// What `entry` of `session` took, beside `own` of lowbit.
fn row(session: &Session, entry: &Entry, ours: &Session, own: Option<&Entry>, shape: Shape) -> Row {
    let peer_ms = entry.ms();
    let ours_ms = own.map_or_else(|| Err("lowbit has no such case".into()), Entry::ms);
    let error = peer_ms.as_ref().err().or(ours_ms.as_ref().err()).cloned();
    let peer_ms = peer_ms.ok();
    let ours_ms = peer_ms.and(ours_ms.ok());
    Row {
        peer: session.peer.name,
        peer_version: session.hello.version.clone(),
        peer_format: entry.peer_format,
        device: session.peer.device,
        adapter: ours.hello.adapter.clone().unwrap_or_default(),
        driver: ours.hello.driver.clone().unwrap_or_default(),
        format: own.map_or(entry.format, |own| own.format),
        activations: entry.activations,
        m: shape.m,
        n: shape.n,
        k: shape.k,
        peer_ms,
        ours_ms,
        ratio: peer_ms.zip(ours_ms).map(|(peer, ours)| peer / ours),
        ours_kernel: own.and_then(Entry::kernel),
        error,
    }
}
