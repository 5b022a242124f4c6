//! Calls of the library `tokenizers`, which panics on some files that are not valid.

use super::TextError;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a call of the library, and returns its error, or its panic as an error. A program that aborts on
/// panics ends, as every program for browsers does.
pub(super) fn call<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TextError> {
    // What the call has borrowed is only used again if it succeeds, apart from the library's cache of words,
    // whose entries are whole.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|source| TextError::Library { source }),
        Err(panic) => Err(TextError::LibraryPanic { reason: reason(panic.as_ref()) }),
    }
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it does not say why")
        .to_owned()
}
