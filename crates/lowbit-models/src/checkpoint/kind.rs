//! What a file is that is not the one that was expected, by its first bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A kind of file that people give to a command by mistake, or before it has been fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A folder.
    Folder,
    /// A file without bytes.
    Empty,
    /// A pointer of Git LFS that stands for a file.
    LfsPointer,
    /// A page of HTML or XML, as servers send it for a failed download.
    Html,
    /// The index of a model in shards, `….index.json`.
    ShardIndex,
    /// Another file of JSON.
    Json,
    /// A GGUF file.
    Gguf,
    /// An older format of ggml.
    Ggml,
    /// A checkpoint of PyTorch, which is a ZIP archive or a pickle.
    PyTorch,
    /// An HDF5 file, as Keras writes it.
    Hdf5,
    /// An array of NumPy.
    Numpy,
    /// An archive: gzip, tar, Zstandard or xz.
    Archive,
    /// An ONNX file.
    Onnx,
    /// A safetensors file.
    Safetensors,
}

impl FileKind {
    /// Returns what a file is, or `None` if that cannot be told: if it cannot be read, is neither a folder
    /// nor a regular file, or begins with nothing that is known.
    pub fn of(path: impl AsRef<Path>) -> Option<Self> {
        let path = path.as_ref();
        let about = std::fs::metadata(path).ok()?;
        if about.is_dir() {
            return Some(Self::Folder);
        }
        // Reading a pipe could wait forever.
        if !about.is_file() {
            return None;
        }
        let mut start = Vec::new();
        File::open(path).ok()?.take(1 << 10).read_to_end(&mut start).ok()?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self::of_bytes(&start, &name)
    }

    /// Returns what a file is by its first bytes and its name. A kilobyte is enough.
    pub fn of_bytes(start: &[u8], name: &str) -> Option<Self> {
        if start.is_empty() {
            return Some(Self::Empty);
        }
        let text = start.trim_ascii_start();
        let tag = |tag: &str| {
            text.get(..tag.len()).is_some_and(|have| have.eq_ignore_ascii_case(tag.as_bytes()))
        };
        let magic = |bytes: &[u8]| start.starts_with(bytes);
        // The first one that applies: the length of a safetensors header may look like another mark.
        let kinds = [
            // A length of eight bytes and JSON. The length of a real header has some zeros at its end.
            (start.get(6..9) == Some(&[0, 0, b'{']), Self::Safetensors),
            (magic(b"version https://git-lfs.github.com/"), Self::LfsPointer),
            (tag("<!doctype html") || tag("<html") || tag("<?xml"), Self::Html),
            (magic(b"GGUF") || magic(b"FUGG"), Self::Gguf),
            ([b"lmgg", b"fmgg", b"tjgg", b"algg"].iter().any(|mark| magic(*mark)), Self::Ggml),
            (magic(b"PK\x03\x04") || magic(&[0x80, 2]), Self::PyTorch),
            (magic(b"\x89HDF\r\n"), Self::Hdf5),
            (magic(b"\x93NUMPY"), Self::Numpy),
            (magic(&[0x1f, 0x8b]) || magic(b"\xfd7zXZ"), Self::Archive),
            (magic(&[0x28, 0xb5, 0x2f, 0xfd]), Self::Archive),
            (start.get(257..262) == Some(b"ustar"), Self::Archive),
            (text.starts_with(b"{") && name.ends_with(".index.json"), Self::ShardIndex),
            (text.starts_with(b"{"), Self::Json),
            // The version of the format is the first field of a model, and a short number.
            (magic(&[8]) && start.get(1).is_some_and(|v| (1..64).contains(v)), Self::Onnx),
        ];
        kinds.into_iter().find_map(|(is, kind)| is.then_some(kind))
    }
}

impl std::fmt::Display for FileKind {
    /// Writes it as in `a GGUF file`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Folder => "a folder",
            Self::Empty => "an empty file",
            Self::LfsPointer => "a Git LFS pointer, which stands for the file itself",
            Self::Html => "an HTML page",
            Self::ShardIndex => "the index of a model in shards",
            Self::Json => "a JSON file",
            Self::Gguf => "a GGUF file",
            Self::Ggml => "a ggml file of the time before GGUF",
            Self::PyTorch => "a PyTorch checkpoint",
            Self::Hdf5 => "an HDF5 file",
            Self::Numpy => "a NumPy array",
            Self::Archive => "a compressed archive",
            Self::Onnx => "an ONNX file",
            Self::Safetensors => "a safetensors file",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell() {
        let mut tar = vec![0u8; 300];
        tar[..4].copy_from_slice(b"name");
        tar[257..262].copy_from_slice(b"ustar");
        let header = [&16u64.to_le_bytes()[..], br#"{"a":{}}"#].concat();
        for (start, name, want) in [
            (&b""[..], "", Some(FileKind::Empty)),
            (b"version https://git-lfs.github.com/spec/v1\noid", "", Some(FileKind::LfsPointer)),
            (b"\n <!DOCTYPE HTML><html>", "", Some(FileKind::Html)),
            (b"<HTML>", "", Some(FileKind::Html)),
            (b"GGUF\x03\0\0\0", "", Some(FileKind::Gguf)),
            (b"tjgg\x03", "", Some(FileKind::Ggml)),
            (b"PK\x03\x04", "", Some(FileKind::PyTorch)),
            (b"\x80\x02\x8a\n", "", Some(FileKind::PyTorch)),
            (b"\x89HDF\r\n\x1a\n", "", Some(FileKind::Hdf5)),
            (b"\x93NUMPY\x01", "", Some(FileKind::Numpy)),
            (b"\x1f\x8b\x08", "", Some(FileKind::Archive)),
            (&tar, "", Some(FileKind::Archive)),
            (b"{\"weight_map\": {}}", "model.safetensors.index.json", Some(FileKind::ShardIndex)),
            (b"{\"a\": {}}", "config.json", Some(FileKind::Json)),
            (&header, "", Some(FileKind::Safetensors)),
            // The length of a header may look like another kind's first bytes.
            (b"\x80\x02\0\0\0\0\0\0{", "", Some(FileKind::Safetensors)),
            (b"\x08\x0a\0\0\0\0\0\0{", "", Some(FileKind::Safetensors)),
            (b"\x08\x0a\x12\x07pytorch", "", Some(FileKind::Onnx)),
            (b"anything else", "", None),
        ] {
            assert_eq!(FileKind::of_bytes(start, name), want, "{start:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(FileKind::of(folder.path()), Some(FileKind::Folder));
        assert_eq!(FileKind::of(folder.path().join("none")), None);
    }
}
