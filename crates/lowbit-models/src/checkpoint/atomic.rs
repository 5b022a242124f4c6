use super::IoError;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::NamedTempFile;

/// The temporary files that exist. A signal ends the process without dropping anything, so that whoever
/// handles one must know them.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // A thread that panicked has changed nothing halfway: each change is one call.
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the temporary files of all [`AtomicFile`]s, for a process that is about to end because of a
/// signal. From then on no such file is created, and none appears under its name: threads that try to
/// do so wait until the process ends.
pub fn discard_unfinished() {
    let files = unfinished();
    for file in files.iter() {
        // A file that cannot be removed is left behind; there is nobody to tell.
        let _ = fs::remove_file(file);
    }
    std::mem::forget(files);
}

/// The entry of a temporary file in the list of those that exist.
#[derive(Debug)]
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        unfinished().remove(&self.0);
    }
}

/// A file that appears under its name whole or not at all: a temporary file in the same directory,
/// which [`commit`](Self::commit) renames. If it is dropped before that, it leaves nothing behind, and
/// an earlier file of that name stays as it was. A process that a signal ends drops nothing; it calls
/// [`discard_unfinished`].
#[derive(Debug)]
pub struct AtomicFile {
    // Fields are dropped in this order: first the file disappears, then its entry.
    temp: BufWriter<NamedTempFile>,
    listed: Listed,
    path: PathBuf,
}

impl AtomicFile {
    /// Opens a temporary file beside `path`.
    ///
    /// # Errors
    /// Returns [`IoError::Io`] if the directory cannot be written, or if `path` exists and is
    /// read-only or not a regular file. (A rename would replace even a device.)
    pub fn create(path: impl AsRef<Path>) -> Result<Self, IoError> {
        let path = path.as_ref();
        let error = |source| IoError::Io { doing: "create", path: path.to_owned(), source };
        if let Ok(old) = fs::metadata(path) {
            if !old.is_file() {
                return Err(error(io::Error::other("it exists and is not a regular file")));
            }
            if old.permissions().readonly() {
                return Err(error(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "it exists and is read-only",
                )));
            }
        }
        // If `path` is a symbolic link, the file that it points to is replaced, not the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if target.file_name().is_none() {
            return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "not a file name")));
        }
        let folder = directory(&target);
        if !folder.is_dir() {
            let is = if folder.exists() { "is no folder" } else { "does not exist" };
            let why = format!("the folder `{}` {is}", folder.display());
            return Err(error(io::Error::new(io::ErrorKind::NotFound, why)));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".lowbit-").suffix(".part");
        // Temporary files are private by default, but this one will become an ordinary file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut unfinished = unfinished();
        let temp = builder.tempfile_in(folder);
        let temp = temp.map_err(|source| error(without_path(source)))?;
        unfinished.insert(temp.path().to_owned());
        drop(unfinished);
        let listed = Listed(temp.path().to_owned());
        Ok(Self { temp: BufWriter::with_capacity(1 << 16, temp), listed, path: target })
    }

    /// Makes the file appear under its name. Everything is on disk before the name changes.
    ///
    /// # Errors
    /// Returns [`IoError::Io`]; nothing is left behind in that case.
    pub fn commit(self) -> Result<(), IoError> {
        let Self { temp, listed, path } = self;
        let write = |source| IoError::Io { doing: "write", path: path.clone(), source };
        let temp = temp.into_inner().map_err(|error| write(error.into_error()))?;
        temp.as_file().sync_all().map_err(write)?;
        // Either the file has its name, or it is in the list.
        let files = unfinished();
        let renamed = temp.persist(&path);
        drop(files);
        drop(listed);
        renamed.map_err(|error| IoError::Io {
            doing: "replace",
            path: path.clone(),
            source: error.error,
        })?;
        // The rename itself is durable once the directory is synced. If a directory cannot be opened
        // or synced (on Windows and some network file systems), the file is whole nevertheless.
        if let Ok(directory) = fs::File::open(directory(&path)) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temp.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.temp.seek(to)
    }
}

/// Removes the name of the temporary file, which `tempfile` adds to the system's message.
fn without_path(error: io::Error) -> io::Error {
    let text = error.to_string();
    let system = text.split(" at path ").next().unwrap_or_default();
    io::Error::new(error.kind(), system)
}

/// Returns the directory of a file. (The parent of a bare file name is empty, not `.`.)
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes a whole file or nothing.
///
/// # Errors
/// Returns the errors of [`AtomicFile`].
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), IoError> {
    let mut file = AtomicFile::create(&path)?;
    file.write_all(bytes).map_err(|source| IoError::Io {
        doing: "write",
        path: path.as_ref().to_owned(),
        source,
    })?;
    file.commit()
}

/// Reads a whole regular file. Returns `None` if it has more than `most` bytes.
pub(crate) fn read_limited(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    // Reading a pipe could wait forever, and a device may have no end.
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // The size is checked before anything is read, and again below, because the file may grow.
    if about.len() > most {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_atomic(&path, b"first").unwrap();
        let mut second = AtomicFile::create(&path).unwrap();
        second.write_all(b"second").unwrap();
        second.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        drop(second);
        assert_eq!(names(directory.path()), ["file"]);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        write_atomic(&path, b"third").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn refuses_what_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        for bad in ["sub", "missing/file", "sub/..", "sub/../."] {
            let result = write_atomic(directory.path().join(bad), b"x");
            assert!(matches!(result, Err(IoError::Io { doing: "create", .. })), "{bad}");
        }
        assert!(write_atomic("", b"x").is_err());
        assert_eq!(names(directory.path()), ["sub"]);
    }

    /// The target turning into a directory in between is the one failure of the rename
    /// that can be staged as any user.
    #[test]
    fn a_failing_rename_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = AtomicFile::create(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(file.commit(), Err(IoError::Io { doing: "replace", .. })));
        assert_eq!(names(directory.path()), ["file"]);
        assert!(path.is_dir());
    }

    #[test]
    fn a_read_only_file_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"kept").unwrap();
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
        assert!(write_atomic(&path, b"lost").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"kept");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&path, b"old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        // Under any umask, the owner may read and write, and nobody may execute.
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o711, 0o600);
    }
}
