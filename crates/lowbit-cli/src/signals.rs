//! What signals do: interrupts may ask a command to come to its end, and where a signal ends the command, it leaves no
//! temporary file behind.

use lowbit_models::checkpoint::discard_unfinished;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether an interrupt only asks the command to come to the end of what it does.
static CATCH: AtomicBool = AtomicBool::new(false);

/// Whether one has asked, and was not answered yet.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets interrupts (Ctrl-C) ask the command to come to the end of what it does, instead of ending the process. One
/// that comes before the last one is answered ends the process.
pub fn catch_interrupts() {
    CATCH.store(true, Ordering::Relaxed);
}

/// Returns whether an interrupt asks the command to come to the end of what it does.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Returns whether an interrupt has asked, and answers it, so that the next one asks again.
pub fn answer_interrupt() -> bool {
    INTERRUPTED.swap(false, Ordering::Relaxed)
}

/// Returns whether an interrupt only asks, which it does unless the last one is not answered yet.
fn caught() -> bool {
    CATCH.load(Ordering::Relaxed) && !INTERRUPTED.swap(true, Ordering::Relaxed)
}

/// Watches for SIGINT, SIGTERM and SIGHUP in a thread of its own: removes unfinished files, and then ends
/// the process as the signal would have. Signals that the caller ignores (`nohup`, jobs in the
/// background of a script) stay ignored.
#[cfg(unix)]
pub fn watch() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let heard = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
    // Without the watch the command works as well; only a signal would leave a file behind.
    let Ok(mut signals) = signal_hook::iterator::Signals::new(heard) else { return };
    let end = move || {
        for signal in signals.forever() {
            if signal == SIGINT && caught() {
                continue;
            }
            discard_unfinished();
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            break;
        }
    };
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(end);
}

/// Returns whether the process that started this one has a signal ignored.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the new action is null, so that the call changes nothing; the old one is written to memory
    // of its type that this function owns.
    let done = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    if done != 0 {
        return false;
    }
    // SAFETY: the call returned 0, and then it has written the old action.
    unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Watches for Ctrl-C and the end of the session: removes unfinished files, and then ends the process.
#[cfg(not(unix))]
pub fn watch() {
    // Without the watch the command works as well; only Ctrl-C would leave a file behind.
    let _ = ctrlc::set_handler(|| {
        if caught() {
            return;
        }
        discard_unfinished();
        std::process::exit(130);
    });
}
