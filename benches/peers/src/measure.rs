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

/// A case in a process: what became of it.
struct Entry {
    format: Format,
    peer_format: &'static str,
    activations: Activations,
    /// Its number in the process, and the kernel.
    ready: Result<(usize, Option<String>), String>,
    samples: Vec<f64>,
}

impl Entry {
    fn new((format, peer_format, activations): PeerCase) -> Self {
        let ready = Err("it was never prepared".into());
        Self { format, peer_format, activations, ready, samples: Vec::new() }
    }

    fn twin_of(&self, other: &Self) -> bool {
        (self.format, self.activations) == (other.format, other.activations)
    }

    /// The median, or why there is none.
    fn ms(&self) -> Result<f64, String> {
        self.ready.as_ref().map_err(String::clone)?;
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
        let mut failed = vec![false; session.entries.len()];
        while failed.contains(&false) {
            let (mut process, hello) = match Process::start(&peer, folders) {
                Ok(started) => started,
                Err(error) => {
                    for (entry, _) in session.entries.iter_mut().zip(&failed).filter(|e| !e.1) {
                        entry.ready = Err(error.clone());
                    }
                    return session;
                }
            };
            session.hello = hello;
            if prepare(&mut process, &mut session.entries, &mut failed, shape) {
                session.process = Some(process);
                break;
            }
        }
        session
    }

    fn time(&mut self, at: usize) {
        let (Some(process), entry) = (&mut self.process, &mut self.entries[at]) else { return };
        let Ok((number, _)) = entry.ready else { return };
        match process.ask(&Request::Time(number)) {
            Ok(Reply::Ms(ms)) => entry.samples.push(ms),
            Ok(other) => entry.ready = Err(format!("instead of a time it said {other:?}")),
            Err(Failure::Said(error)) => entry.ready = Err(error),
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

    /// Gives every case that is alive this error.
    fn refuse(&mut self, error: &str) {
        for entry in self.entries.iter_mut().filter(|entry| entry.ready.is_ok()) {
            entry.ready = Err(error.into());
        }
    }
}

/// Prepares the cases that have not failed; whether the process outlives that.
fn prepare(
    process: &mut Process,
    entries: &mut [Entry],
    failed: &mut [bool],
    shape: Shape,
) -> bool {
    let Shape { m, n, k } = shape;
    let mut ready = 0;
    for (entry, failed) in entries.iter_mut().zip(failed).filter(|(_, failed)| !**failed) {
        let (format, activations) = (entry.peer_format.to_owned(), entry.activations);
        let error = match process.ask(&Request::Prepare(Case { m, n, k, format, activations })) {
            Ok(Reply::Ready(Ready { kernel, activations })) => {
                entry.activations = activations;
                entry.ready = Ok((ready, kernel));
                ready += 1;
                continue;
            }
            Ok(other) => format!("instead of being ready it said {other:?}"),
            Err(Failure::Said(error)) => error,
            Err(Failure::Ended(error)) => {
                (*failed, entry.ready) = (true, Err(error));
                return false;
            }
        };
        (*failed, entry.ready) = (true, Err(error));
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
        let why = ours.entries.first().and_then(|entry| entry.ready.as_ref().err());
        return Err(why.cloned().unwrap_or_else(|| "no format was asked for".into()));
    }
    for session in sessions.iter_mut().filter(|session| session.peer.device == Device::Gpu) {
        if session.hello.adapter.is_some() && session.hello.adapter != ours.hello.adapter {
            let name = |hello: &Hello| hello.adapter.clone().unwrap_or_default();
            let (theirs, ours) = (name(&session.hello), name(&ours.hello));
            session.refuse(&format!("it ran on {theirs}, lowbit on {ours}"));
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
    let error = match (&peer_ms, &ours_ms) {
        (Err(error), _) | (Ok(_), Err(error)) => Some(error.clone()),
        _ => None,
    };
    let (peer_ms, ours_ms) = (peer_ms.ok(), ours_ms.ok());
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
        ours_kernel: own.and_then(|own| own.ready.as_ref().ok()?.1.clone()),
        error,
    }
}
