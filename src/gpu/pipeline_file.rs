//! The driver's compiled code in a file: `MAGIC`, a checksum, the data. A file that is not
//! whole, or that something else wrote, counts as none.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

const MAGIC: &[u8; 8] = b"lowbitP1";

/// Far more than all kernels of this crate compile to.
const MOST: u64 = 256 << 20;

/// Returns the data of a file that [`write`] wrote.
pub(crate) fn read(path: &Path) -> Option<Vec<u8>> {
    // Not to wait for a pipe, nor to read a large file to find that it is none.
    std::fs::metadata(path).ok().filter(|about| about.is_file() && about.len() <= MOST)?;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MOST + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > MOST {
        return None;
    }
    let rest = bytes.strip_prefix(MAGIC)?;
    let (sum, data) = rest.split_at_checked(8)?;
    (sum == checksum(data).to_le_bytes()).then(|| data.to_vec())
}

/// Writes beside the path, then renames: a reader sees the old file or the new one.
pub(crate) fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let part = path.with_extension(format!("{}-{number}.part", std::process::id()));
    let written = std::fs::File::create(&part).and_then(|mut file| {
        file.write_all(MAGIC)?;
        file.write_all(&checksum(data).to_le_bytes())?;
        file.write_all(data)?;
        file.sync_all()
    });
    let done = written.and_then(|()| std::fs::rename(&part, path));
    if done.is_err() {
        // The error that matters is the first.
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// FNV-1a: it is to notice a torn file, not an enemy, who could as well replace the driver.
fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_are_read() {
        let folder = std::env::temp_dir().join(format!("lowbit-pipelines-{}", std::process::id()));
        let path = folder.join("deep").join("cache");
        assert_eq!(read(&path), None);
        for data in [&b""[..], b"some code", &[7; 1000]] {
            write(&path, data).unwrap();
            assert_eq!(read(&path).as_deref(), Some(data));
            let whole = std::fs::read(&path).unwrap();
            for cut in [0, 7, 15, whole.len() - 1] {
                std::fs::write(&path, &whole[..cut]).unwrap();
                assert_eq!(read(&path), None);
            }
            let mut wrong = whole.clone();
            for at in [0, 8, whole.len() - 1] {
                wrong[at] ^= 1;
                std::fs::write(&path, &wrong).unwrap();
                assert_eq!(read(&path), None);
                wrong[at] ^= 1;
            }
        }
        // Nothing is left beside it.
        assert_eq!(std::fs::read_dir(folder.join("deep")).unwrap().count(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
