//! The file of a driver's compiled code: read, and written and read.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

// Inside of the crate it is private.
#[path = "../../../../src/gpu/pipeline_file.rs"]
#[allow(dead_code)]
mod file;

/// A folder for small files: `scripts/fuzz.sh` names one in memory, a test has cargo's own.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let parent = std::env::var_os("LOWBIT_FUZZ_FOLDER").map(PathBuf::from);
        let parent = parent.or(option_env!("CARGO_TARGET_TMPDIR").map(PathBuf::from));
        let parent = parent.unwrap_or_else(std::env::temp_dir);
        let folder = parent.join(format!("lowbit-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for small files");
        folder
    })
}

/// Writes bytes to a file of this thread.
pub fn scratch(name: &str, data: &[u8]) -> PathBuf {
    let path = folder().join(format!("{name}-{:?}", std::thread::current().id()));
    std::fs::write(&path, data).expect("a small file");
    path
}

/// The file of these data.
#[allow(dead_code)]
pub fn written(data: &[u8]) -> Vec<u8> {
    let path = scratch("pipelines", b"");
    file::write(&path, data).expect("a small file");
    std::fs::read(&path).expect("a small file")
}

pub fn run(data: &[u8]) {
    let path = scratch("pipelines", data);
    let read = crate::memory::within(3, data.len(), || file::read(&path));
    if let Some(read) = &read {
        // The magic, eight bytes of checksum, the data.
        assert_eq!(read, &data[16..]);
    }
    let whole = read.unwrap_or_else(|| data.to_vec());
    file::write(&path, &whole).expect("a small file");
    assert_eq!(file::read(&path).as_ref(), Some(&whole));
    // Any one byte that changes is noticed.
    let mut bytes = std::fs::read(&path).expect("the file");
    let at = whole.iter().fold(whole.len(), |sum, &byte| sum.wrapping_mul(31) + usize::from(byte));
    let at = at % bytes.len();
    bytes[at] ^= 1 << (at % 8);
    std::fs::write(&path, &bytes).expect("a small file");
    assert_eq!(file::read(&path), None);
}
