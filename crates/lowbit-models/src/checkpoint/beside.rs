//! Files that belong to a model file: where they may lie.

use std::path::{Component, Path, PathBuf};

/// Returns the real path of the file `location`, which a model file names relative to its folder.
///
/// Neither `location` nor a symbolic link may lead out of the folder of the model. There is one
/// exception: the Hugging Face cache stores a model as links into a folder `blobs/`, so a link may lead
/// to the folder in which the real model file lies.
///
/// # Errors
/// Returns the reason why the file is refused, as the end of a sentence: "…, which cannot be found".
pub(super) fn resolve(model: &Path, location: &Path) -> Result<PathBuf, &'static str> {
    let normal = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if location.as_os_str().is_empty() || !location.components().all(normal) {
        return Err("which is not a path inside the model's folder");
    }
    let missing = |_| "which cannot be found";
    let folder = folder(model).canonicalize().map_err(missing)?;
    let path = folder.join(location).canonicalize().map_err(missing)?;
    let with_model = || {
        let model = model.canonicalize().ok().filter(|model| model.is_file());
        model.is_some_and(|model| model.parent() == path.parent())
    };
    if !path.starts_with(&folder) && !with_model() {
        return Err("a link that leads out of the model's folder");
    }
    // This is checked before the file is opened, because opening a pipe waits for a writer.
    if !path.is_file() {
        return Err("which is not a regular file");
    }
    Ok(path)
}

/// Returns the folder of a file. (The parent of a bare file name is empty, not `.`.)
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    #[test]
    fn links_of_a_cache_are_followed_and_others_are_not() {
        use super::*;
        use std::fs;
        use std::os::unix::fs::symlink;
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        for folder in ["blobs", "snapshots/1", "elsewhere"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["blobs/a", "blobs/b", "elsewhere/c", "snapshots/1/plain"] {
            fs::write(root.join(file), b"x").unwrap();
        }
        let snapshot = root.join("snapshots/1");
        let (model, plain) = (snapshot.join("model"), snapshot.join("plain"));
        symlink("../../blobs/a", &model).unwrap();
        symlink("../../blobs/b", snapshot.join("data")).unwrap();
        symlink("../../elsewhere/c", snapshot.join("far")).unwrap();
        symlink("../../blobs", snapshot.join("folder")).unwrap();

        let real = |file: &str| Ok(root.join(file).canonicalize().unwrap());
        assert_eq!(resolve(&model, Path::new("data")), real("blobs/b"));
        assert_eq!(resolve(&model, Path::new("./plain")), real("snapshots/1/plain"));
        // A model file that is no link has no other folder than its own.
        let out = Err("a link that leads out of the model's folder");
        assert_eq!(resolve(&plain, Path::new("data")), out);
        assert_eq!(resolve(&model, Path::new("far")), out);
        assert_eq!(resolve(&model, Path::new("none")), Err("which cannot be found"));
        assert_eq!(resolve(&model, Path::new("folder/b")), real("blobs/b"));
        for bad in ["", "/etc/hostname", "../1/plain"] {
            let inside = Err("which is not a path inside the model's folder");
            assert_eq!(resolve(&model, Path::new(bad)), inside, "{bad}");
        }
        fs::create_dir(snapshot.join("sub")).unwrap();
        assert_eq!(resolve(&model, Path::new("sub")), Err("which is not a regular file"));
    }
}
