use std::sync::{Mutex, PoisonError};

/// A checksum of the words that are read back (FNV-1a by words), kept where it was asked for.
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

    /// What was kept since the last call; from now on it is kept anew.
    pub fn restart(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(0xcbf2_9ce4_8422_2325)
    }
}
