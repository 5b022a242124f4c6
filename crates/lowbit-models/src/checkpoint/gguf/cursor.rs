//! Reading numbers and text from bytes that are not trusted.

use super::GgufError;

/// A place in the bytes of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the number of bytes read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Takes bytes. `what` says what they are.
    fn take(&mut self, length: u64, what: impl Fn() -> String) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let bytes = end.and_then(|end| self.bytes.get(self.at..end));
        let cut_off = || GgufError::Truncated { what: what(), at: self.bytes.len() };
        let bytes = bytes.ok_or_else(cut_off)?;
        self.at += bytes.len();
        Ok(bytes)
    }

    pub fn array<const SIZE: usize>(
        &mut self,
        what: impl Fn() -> String,
    ) -> Result<[u8; SIZE], GgufError> {
        let mut array = [0; SIZE];
        array.copy_from_slice(self.take(SIZE as u64, what)?);
        Ok(array)
    }

    pub fn u32(&mut self, what: impl Fn() -> String) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: impl Fn() -> String) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Takes a number of things that take at least `least` bytes each, and checks that they fit.
    pub fn count(&mut self, what: &'static str, least: usize) -> Result<u64, GgufError> {
        let count = self.u64(|| format!("the number of {what}"))?;
        let have = self.left();
        let fits = count.checked_mul(least as u64).is_some_and(|bytes| bytes <= have as u64);
        if fits { Ok(count) } else { Err(GgufError::Count { what, count, have }) }
    }

    /// Takes a length and as many bytes of text.
    pub fn string(&mut self, what: impl Fn() -> String) -> Result<String, GgufError> {
        let length = self.u64(&what)?;
        let bytes = self.take(length, &what)?;
        // This is a copy, so that text that was found to be UTF-8 stays valid if the file changes.
        String::from_utf8(bytes.to_vec()).map_err(|_| GgufError::NotUtf8 { what: what() })
    }
}
