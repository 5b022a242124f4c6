//! What a file is, told by its first bytes and never by its name.

use std::fmt;

/// The number of bytes from the start of a file that [`sniff`] looks at.
pub(super) const HEAD: usize = 4096;

/// What the start of a file looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    Safetensors,
    Gguf,
    Onnx,
    /// JSON text, which may be an index of shards.
    Json,
    Not(NotAModel),
}

/// What a file or folder is that is no model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotAModel {
    /// A file without bytes.
    Empty,
    /// A pointer of Git LFS, which stands for a file that was not fetched.
    LfsPointer,
    /// A web page, as a failed download leaves it.
    Html,
    /// JSON text without an index of shards.
    Json,
    /// A PyTorch checkpoint in a ZIP archive.
    PytorchZip,
    /// A Python pickle, as older PyTorch checkpoints are.
    Pickle,
    /// NumPy arrays in a ZIP archive.
    NumpyZip,
    /// A ZIP archive of something else.
    Zip,
    /// A NumPy array.
    Numpy,
    /// An HDF5 file, as Keras writes it.
    Hdf5,
    /// A TensorFlow Lite model.
    TfLite,
    /// A file compressed by gzip.
    Gzip,
    /// A file compressed by Zstandard.
    Zstd,
    /// A file compressed by xz.
    Xz,
    /// A tar archive.
    Tar,
    /// A model of a ggml program from before GGUF.
    OldGgml,
    /// A part of a model for llama.cpp that only holds changes of other weights.
    OldGgmlLora,
    /// A folder in which no file is a model.
    FolderWithoutModel,
    /// Something else.
    Unknown,
}

impl NotAModel {
    /// Returns what to do about it, as a sentence.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::Empty | Self::Html => "download the file again",
            Self::LfsPointer => "`git lfs pull` fetches the file that it stands for",
            Self::Json => {
                "give the model file, the index of its shards, or the folder in which they lie"
            }
            Self::PytorchZip | Self::Pickle => {
                "a pickle may run any program, so lowbit does not read it: save the model as \
                 safetensors, for example with `save_pretrained`"
            }
            Self::NumpyZip | Self::Numpy => {
                "save the arrays as safetensors with `safetensors.numpy.save_file`"
            }
            Self::Hdf5 | Self::TfLite => "export the model as ONNX or safetensors",
            Self::Zip => {
                "unpack it, and give the model inside; if it is a PyTorch checkpoint, save the model as \
                 safetensors"
            }
            Self::Gzip | Self::Zstd | Self::Xz | Self::Tar => {
                "unpack it, and give the model inside"
            }
            Self::OldGgml | Self::OldGgmlLora => "convert it to GGUF with the scripts of llama.cpp",
            Self::FolderWithoutModel | Self::Unknown => {
                "lowbit reads safetensors files, their index and folders, GGUF files, and ONNX files"
            }
        }
    }
}

impl fmt::Display for NotAModel {
    /// Writes a noun phrase that follows "is".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "an empty file",
            Self::LfsPointer => "a Git LFS pointer and not the model that it stands for",
            Self::Html => "a web page and not a model",
            Self::Json => "a JSON file and not a model",
            Self::PytorchZip => "a PyTorch checkpoint of pickles in a ZIP archive",
            Self::Pickle => "a Python pickle, as older PyTorch checkpoints are",
            Self::NumpyZip => "an archive of NumPy arrays",
            Self::Zip => "a ZIP archive and not a model",
            Self::Numpy => "a NumPy array and not a model",
            Self::Hdf5 => "an HDF5 file, as Keras writes it",
            Self::TfLite => "a TensorFlow Lite model",
            Self::Gzip => "a file that gzip compressed",
            Self::Zstd => "a file that Zstandard compressed",
            Self::Xz => "a file that xz compressed",
            Self::Tar => "a tar archive and not a model",
            Self::OldGgml => "a ggml file from before GGUF",
            Self::OldGgmlLora => "a ggml adapter from before GGUF",
            Self::FolderWithoutModel => "a folder in which no file is a model",
            Self::Unknown => "no model of a kind that lowbit knows",
        })
    }
}

/// Tells what a file is. `head` is its start, of up to [`HEAD`] bytes.
pub(super) fn sniff(head: &[u8]) -> Looks {
    if head.is_empty() {
        return Looks::Not(NotAModel::Empty);
    }
    if is_safetensors(head) {
        return Looks::Safetensors;
    }
    if head.starts_with(b"GGUF") {
        return Looks::Gguf;
    }
    if let Some(what) = magic(head) {
        return Looks::Not(what);
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    if is_markup(text) {
        return Looks::Not(NotAModel::Html);
    }
    if matches!(text.first(), Some(b'{' | b'[')) {
        return Looks::Json;
    }
    if is_onnx(head) { Looks::Onnx } else { Looks::Not(NotAModel::Unknown) }
}

/// A safetensors file has the length of its header in eight bytes and then a JSON object.
fn is_safetensors(head: &[u8]) -> bool {
    let Some((length, rest)) = head.split_first_chunk::<8>() else { return false };
    // Readers accept no header that is longer, and no text has four such bytes.
    let possible = u64::from_le_bytes(*length) < 1 << 32;
    possible && rest.trim_ascii_start().first() == Some(&b'{')
}

/// Returns what a file is that starts with known bytes.
fn magic(head: &[u8]) -> Option<NotAModel> {
    let starts: [(&[u8], NotAModel); 17] = [
        (b"version https://git-lfs.github.com/spec/", NotAModel::LfsPointer),
        (b"version https://hawser.github.com/spec/", NotAModel::LfsPointer),
        // These three numbers were stored with the lowest byte first.
        (b"lmgg", NotAModel::OldGgml),
        (b"fmgg", NotAModel::OldGgml),
        (b"tjgg", NotAModel::OldGgml),
        (b"algg", NotAModel::OldGgmlLora),
        (b"\x89HDF\r\n\x1a\n", NotAModel::Hdf5),
        (b"\x93NUMPY", NotAModel::Numpy),
        (b"\x1f\x8b", NotAModel::Gzip),
        (b"\x28\xb5\x2f\xfd", NotAModel::Zstd),
        (b"\xfd7zXZ\0", NotAModel::Xz),
        (b"\x80\x02", NotAModel::Pickle),
        (b"\x80\x03", NotAModel::Pickle),
        (b"\x80\x04", NotAModel::Pickle),
        (b"\x80\x05", NotAModel::Pickle),
        (b"PK\x05\x06", NotAModel::Zip),
        (b"PK\x03\x04", NotAModel::Zip),
    ];
    let has = |at: usize, bytes: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    if has(4, b"TFL3") {
        return Some(NotAModel::TfLite);
    }
    if has(257, b"ustar") {
        return Some(NotAModel::Tar);
    }
    let (_, what) = starts.into_iter().find(|(start, _)| head.starts_with(start))?;
    Some(if what == NotAModel::Zip { zip(head) } else { what })
}

/// Tells ZIP archives apart by the name of their first file.
fn zip(head: &[u8]) -> NotAModel {
    let length = |at: usize| {
        let bytes = head.get(at..at + 2).unwrap_or_default();
        bytes.iter().rev().fold(0usize, |length, &byte| length << 8 | usize::from(byte))
    };
    let name = head.get(30..).unwrap_or_default();
    let name = name.get(..length(26)).unwrap_or(name);
    if name.ends_with(b".npy") {
        return NotAModel::NumpyZip;
    }
    // An archive that is cut off here is most likely a checkpoint, too: nothing else is so named.
    let pytorch = [&b"data.pkl"[..], b"/version", b"/byteorder", b"/.format_version", b"/data/0"];
    if pytorch.iter().any(|end| name.ends_with(end)) {
        NotAModel::PytorchZip
    } else {
        NotAModel::Zip
    }
}

fn is_markup(text: &[u8]) -> bool {
    let starts: [&[u8]; 5] = [b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--"];
    starts
        .iter()
        .any(|start| text.get(..start.len()).is_some_and(|have| have.eq_ignore_ascii_case(start)))
}

/// An ONNX file is a protobuf message whose fields have the numbers and kinds of `ModelProto`.
///
/// This follows fields until it leaves `head`. It asks for the version of the format or the graph, which
/// every model has, so that a few bytes of anything else do not pass.
fn is_onnx(mut rest: &[u8]) -> bool {
    let mut model = false;
    while !rest.is_empty() {
        let Some(tag) = varint(&mut rest) else { return model };
        match (tag >> 3, tag & 7) {
            // ir_version and model_version.
            (field @ (1 | 5), 0) => match varint(&mut rest) {
                None => return model,
                Some(version) if field == 1 && (version == 0 || version > 1000) => return false,
                Some(_) => model |= field == 1,
            },
            // Names and domains, the graph, sets of operators, properties, training, functions and
            // devices.
            (field @ (2..=4 | 6..=8 | 14 | 20 | 25 | 26), 2) => {
                model |= field == 7;
                let Some(length) = varint(&mut rest) else { return model };
                let Some(next) = usize::try_from(length).ok().and_then(|at| rest.get(at..)) else {
                    return model;
                };
                rest = next;
            }
            _ => return false,
        }
    }
    model
}

/// Takes a protobuf integer. Returns `None` if it is cut off or too long.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_by_its_content() {
        let zip = |name: &str| {
            let mut file = b"PK\x03\x04".to_vec();
            file.resize(26, 0);
            file.extend([name.len() as u8, 0, 0, 0]);
            file.extend(name.as_bytes());
            file.extend([b'x'; 20]);
            file
        };
        let mut tar = vec![b'n'; 257];
        tar.extend(b"ustar\0");
        let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n";
        let not = |what| Looks::Not(what);
        let cases: Vec<(Vec<u8>, Looks)> = vec![
            (b"".into(), not(NotAModel::Empty)),
            (lfs.into(), not(NotAModel::LfsPointer)),
            (b"\n <!DOCTYPE HTML>\n<p>Not found".into(), not(NotAModel::Html)),
            (b"<html lang=en>".into(), not(NotAModel::Html)),
            (zip("pytorch_model/data.pkl"), not(NotAModel::PytorchZip)),
            (zip("arr_0.npy"), not(NotAModel::NumpyZip)),
            (zip("readme.txt"), not(NotAModel::Zip)),
            (b"PK\x03\x04".into(), not(NotAModel::Zip)),
            (b"\x80\x02\x8a\nl\xfc".into(), not(NotAModel::Pickle)),
            (b"\x89HDF\r\n\x1a\n\0\0".into(), not(NotAModel::Hdf5)),
            (b"\x1c\0\0\0TFL3".into(), not(NotAModel::TfLite)),
            (b"\x93NUMPY\x01\0".into(), not(NotAModel::Numpy)),
            (b"\x1f\x8b\x08".into(), not(NotAModel::Gzip)),
            (tar, not(NotAModel::Tar)),
            (b"tjgg\x03\0\0\0".into(), not(NotAModel::OldGgml)),
            (b"algg\x01\0\0\0".into(), not(NotAModel::OldGgmlLora)),
            (b"hello, world".into(), not(NotAModel::Unknown)),
            (vec![0; 64], not(NotAModel::Unknown)),
            (b"GGUF\x03\0\0\0".into(), Looks::Gguf),
            (b"GGUF".into(), Looks::Gguf),
            (b"\x02\0\0\0\0\0\0\0{}".into(), Looks::Safetensors),
            // 0x7b is `{`: the length of a header, not the start of a text.
            (b"{\0\0\0\0\0\0\0{\"a\":".into(), Looks::Safetensors),
            (b"{\"weight_map\": {}}".into(), Looks::Json),
            (b"\xef\xbb\xbf[1]".into(), Looks::Json),
            // ir_version 8, producer "x", and a graph of which two bytes are here.
            (b"\x08\x08\x12\x01x\x3a\x80\x01ab".into(), Looks::Onnx),
            (b"\x3a\x02ab\x08\x07".into(), Looks::Onnx),
            // A version that does not exist, a field that does not exist, a kind that does not fit.
            (b"\x08\xff\x7f\x12\x01x".into(), not(NotAModel::Unknown)),
            (b"\x08\x08\x4a\x01x".into(), not(NotAModel::Unknown)),
            (b"\x0a\x01x".into(), not(NotAModel::Unknown)),
            // A producer alone.
            (b"\x12\x01x".into(), not(NotAModel::Unknown)),
        ];
        for (head, want) in cases {
            assert_eq!(sniff(&head), want, "{:?}", String::from_utf8_lossy(&head));
        }
    }
}
