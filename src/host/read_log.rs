use std::sync::{Mutex, PoisonError};

/// A checksum of all words that were read back (FNV-1a over words). It is only computed once
/// [`restart`](Self::restart) has been called.
#[derive(Debug, Default)]
pub(super) struct ReadLog(Mutex<Option<u64>>);

impl ReadLog {
    pub fn add(&self, words: &[u32]) {
        if let Some(sum) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            for &word in words {
                *sum = (*sum ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }

    /// Starts a new checksum, and returns the previous one if there was one.
    pub fn restart(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(0xcbf2_9ce4_8422_2325)
    }
}
