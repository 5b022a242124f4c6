use super::IoError;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes of a file, mapped or read.
pub(super) enum FileBytes {
    Mapped(memmap2::Mmap),
    Read(Vec<u8>),
}

impl FileBytes {
    /// Maps a regular file; reads anything else, such as a pipe, to its end.
    pub fn open(path: &Path) -> Result<Self, IoError> {
        let error = |doing| move |source| IoError::Io { doing, path: path.to_owned(), source };
        let mut file = File::open(path).map_err(error("open"))?;
        if file.metadata().map_err(error("open"))?.is_file() {
            // SAFETY: the map is private to this value, read-only, and lives as long as
            // the slices made of it. What the language cannot rule out is another process
            // that changes or truncates the file meanwhile; the public functions that open
            // model files document that it must not, as every user of mapped files does.
            return Ok(Self::Mapped(unsafe { memmap2::Mmap::map(&file) }.map_err(error("map"))?));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(error("read"))?;
        Ok(Self::Read(bytes))
    }
}

impl std::ops::Deref for FileBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
