//! A checksum by which an interrupted run knows its inputs again.

/// Returns FNV-1a of some bytes, which is the same on every machine and in every version.
pub(crate) fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    /// The published values of the empty text and of `foobar`.
    #[test]
    fn known_values() {
        assert_eq!(super::fnv([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(super::fnv(*b"foobar"), 0x8594_4171_f739_67e8);
    }
}
