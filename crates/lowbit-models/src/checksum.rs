//! A checksum by which files and inputs of an earlier run are known again.

/// FNV-1a of bytes, which is the same on every machine and in every version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Adds bytes.
    pub fn with<'b>(self, bytes: impl IntoIterator<Item = &'b u8>) -> Self {
        Self(bytes.into_iter().fold(self.0, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }))
    }

    /// Returns the checksum of all bytes so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// Returns the checksum of some bytes.
#[cfg(feature = "text")]
pub(crate) fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(Fnv::default(), |sum, byte| sum.with(&[byte])).value()
}

#[cfg(test)]
mod tests {
    /// The published values of the empty text and of `foobar`.
    #[test]
    fn known_values() {
        assert_eq!(super::Fnv::default().value(), 0xcbf2_9ce4_8422_2325);
        assert_eq!(super::Fnv::default().with(b"foobar").value(), 0x8594_4171_f739_67e8);
    }
}
