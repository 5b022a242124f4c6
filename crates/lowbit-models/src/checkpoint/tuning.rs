//! Reads and writes tuning files.

use super::{IoError, read_limited, write_atomic};
use lowbit::gpu::Caps;
use lowbit::ops::matmul::{BadTuning, Tuning, TuningKey};
use std::path::{Path, PathBuf};

/// The reason why a tuning file is ignored. Show it as a warning and continue without the file:
/// [`Tuning::default`] is empty, and kernels are then chosen as without tuning.
#[derive(Debug, thiserror::Error)]
#[error("the tuning in `{}` is ignored: {why}", path.display())]
pub struct TuningIgnored {
    /// The file.
    pub path: PathBuf,
    /// The reason why the file is ignored.
    pub why: BadTuning,
}

/// The largest file that is read: far more than the shapes of any model.
const MOST: u64 = 16 << 20;

/// Reads a file that [`save_tuning`] wrote, for the adapter with this key and a device with these
/// capabilities.
///
/// # Errors
/// Returns [`TuningIgnored`] if there is no such file, or if [`Tuning::from_json`] refuses it.
pub fn load_tuning(
    path: impl AsRef<Path>,
    key: &TuningKey,
    caps: &Caps,
) -> Result<Tuning, TuningIgnored> {
    let path = path.as_ref();
    let ignored = |why| TuningIgnored { path: path.to_owned(), why };
    let text = read_limited(path, MOST).map_err(|error| ignored(BadTuning::Unreadable(error)))?;
    let text = text.ok_or_else(|| ignored(BadTuning::TooLarge(MOST)))?;
    Tuning::from_json(&text, key, caps).map_err(ignored)
}

/// Writes a tuning file, whole or not at all.
///
/// # Errors
/// Returns the errors of [`write_atomic`].
pub fn save_tuning(path: impl AsRef<Path>, tuning: &Tuning) -> Result<(), IoError> {
    write_atomic(path, tuning.to_json().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit::format::WeightFormat;
    use lowbit::gpu::AdapterClass;
    use lowbit::ops::MatmulSpec;
    use lowbit::ops::matmul::{Problem, Schedule};

    fn caps() -> Caps {
        Caps::from_limits(AdapterClass::Cpu, &lowbit::wgpu::Limits::defaults())
    }

    fn key() -> TuningKey {
        TuningKey { adapter: "A".into(), ..TuningKey::default() }
    }

    #[test]
    fn what_is_no_file_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let load = |path: &Path| load_tuning(path, &key(), &caps()).unwrap_err();
        let missing = load(&directory.path().join("missing"));
        assert!(matches!(missing.why, BadTuning::Unreadable(_)));
        assert!(missing.to_string().contains("missing` is ignored: "), "{missing}");
        assert!(matches!(load(directory.path()).why, BadTuning::Unreadable(_)));
        let large = directory.path().join("large");
        std::fs::File::create(&large).unwrap().set_len(MOST + 1).unwrap();
        assert!(matches!(load(&large).why, BadTuning::TooLarge(_)));
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tuning.json");
        let spec = MatmulSpec::new(8, 640, 4096, WeightFormat::f32());
        let schedule = Schedule::all(4096)[0];
        let tuning = Tuning::new(key(), vec![(Problem::new(&spec, 8), schedule)]);
        save_tuning(&path, &tuning).unwrap();
        assert_eq!(load_tuning(&path, &key(), &caps()).unwrap(), tuning);
    }
}
