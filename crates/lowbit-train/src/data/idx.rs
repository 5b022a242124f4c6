//! Images and labels in idx files, the format of MNIST and data sets made like it.

use super::{DataError, DataSet, Examples};
use std::path::Path;

/// How to get MNIST.
const HINT: &str = "; scripts/fetch-model.sh mnist fetches MNIST into data/mnist";

/// Reads the four files of MNIST, or of a data set with the same file names, from a folder: raw idx, not
/// compressed. Pixels become 0…1. Names may have `-idx3-ubyte` or `.idx3-ubyte` at their end.
///
/// # Errors
/// Returns [`DataError`] if a file is missing or damaged, or if images and labels do not fit each other.
pub fn read_mnist(folder: &Path, name: &str) -> Result<DataSet, DataError> {
    let train = examples(folder, "train")?;
    let test = examples(folder, "t10k")?;
    if train.columns() != test.columns() {
        let why = format!(
            "has training images of {} pixels, but test images of {}",
            train.columns(),
            test.columns()
        );
        return Err(DataError::Format { path: folder.to_owned(), why });
    }
    let greatest = train.labels().iter().chain(test.labels()).max();
    let classes = greatest.map_or(0, |&label| usize::from(label) + 1);
    let validation = Examples::new(Vec::new(), train.columns(), Vec::new())?;
    Ok(DataSet { name: name.to_owned(), classes, train, validation, test })
}

fn examples(folder: &Path, prefix: &str) -> Result<Examples, DataError> {
    let images = read(folder, &format!("{prefix}-images"), 3)?;
    let labels = read(folder, &format!("{prefix}-labels"), 1)?;
    if images.dimensions[0] != labels.dimensions[0] {
        let why = format!(
            "has {} images, but {} labels, for {prefix:?}",
            images.dimensions[0], labels.dimensions[0]
        );
        return Err(DataError::Format { path: folder.to_owned(), why });
    }
    let columns = images.dimensions[1..].iter().product();
    let inputs = images.bytes.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
    Examples::new(inputs, columns, labels.bytes)
}

/// An array of bytes.
#[derive(Debug)]
struct Array {
    dimensions: Vec<usize>,
    bytes: Vec<u8>,
}

fn read(folder: &Path, stem: &str, rank: u8) -> Result<Array, DataError> {
    let dash = folder.join(format!("{stem}-idx{rank}-ubyte"));
    let dot = folder.join(format!("{stem}.idx{rank}-ubyte"));
    let path = if dot.is_file() { dot } else { dash };
    let file = std::fs::read(&path).map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::NotFound { HINT } else { "" };
        DataError::Read { path: path.clone(), error, hint }
    })?;
    parse(file, rank).map_err(|why| DataError::Format { path, why })
}

/// Parses `0 0 8 rank`, the dimensions as big-endian u32, and the bytes.
fn parse(mut file: Vec<u8>, rank: u8) -> Result<Array, String> {
    let header = 4 + 4 * usize::from(rank);
    if file.starts_with(&[0x1f, 0x8b]) {
        return Err("is compressed: unpack it with gunzip".into());
    }
    if file.len() < header || file[..4] != [0, 0, 8, rank] {
        let have = &file[..file.len().min(4)];
        return Err(format!(
            "does not begin with the bytes 0, 0, 8, {rank} of an idx file of {rank} dimensions of bytes, but with {have:?}"
        ));
    }
    let dimensions: Vec<usize> = file[4..header]
        .chunks_exact(4)
        .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
        .collect();
    let need = dimensions.iter().try_fold(1usize, |size, &next| size.checked_mul(next));
    let have = file.len() - header;
    if need != Some(have) {
        return Err(format!("has {have} bytes of data, but its header says {dimensions:?}"));
    }
    file.drain(..header);
    Ok(Array { dimensions, bytes: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, dimensions: &[u32], bytes: &[u8]) {
        let mut file = vec![0, 0, 8, dimensions.len() as u8];
        file.extend(dimensions.iter().flat_map(|size| size.to_be_bytes()));
        file.extend(bytes);
        std::fs::write(folder.join(name), file).unwrap();
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        write(path, "train-images-idx3-ubyte", &[2, 1, 3], &[0, 51, 255, 255, 0, 102]);
        write(path, "train-labels-idx1-ubyte", &[2], &[4, 1]);
        write(path, "t10k-images.idx3-ubyte", &[1, 1, 3], &[255, 255, 0]);
        write(path, "t10k-labels.idx1-ubyte", &[1], &[2]);
        folder
    }

    #[test]
    fn files_by_hand() {
        let folder = folder();
        let data = read_mnist(folder.path(), "tiny").unwrap();
        assert_eq!((data.classes, data.train.len(), data.test.len()), (5, 2, 1));
        assert_eq!(data.train.row(0), [0.0, 0.2, 1.0]);
        assert_eq!(data.train.row(1), [1.0, 0.0, 0.4]);
        assert_eq!(data.train.labels(), [4, 1]);
        assert_eq!((data.test.row(0), data.test.labels()), (&[1.0, 1.0, 0.0][..], &[2][..]));
    }

    #[test]
    fn faults_are_named() {
        let check = |name: &str, dimensions: &[u32], bytes: &[u8], want: &str| {
            let folder = folder();
            write(folder.path(), name, dimensions, bytes);
            let error = read_mnist(folder.path(), "tiny").unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        };
        check("train-labels-idx1-ubyte", &[3], &[1, 2, 3], "2 images, but 3 labels");
        check("train-labels-idx1-ubyte", &[3], &[1, 2], "has 2 bytes of data");
        check("train-labels-idx1-ubyte", &[2, 1], &[1, 2], "0, 0, 8, 1");
        check("train-images-idx3-ubyte", &[u32::MAX; 3], &[1], "header says");
        check("train-images-idx3-ubyte", &[2, 1, 2], &[1; 4], "test images of 3");
        let folder = folder();
        std::fs::write(folder.path().join("train-labels-idx1-ubyte"), [0x1f, 0x8b, 8]).unwrap();
        let error = read_mnist(folder.path(), "tiny").unwrap_err().to_string();
        assert!(error.contains("gunzip"), "{error}");
        let error = read_mnist(Path::new("/nowhere"), "tiny").unwrap_err().to_string();
        assert!(error.contains("train-images") && error.contains("fetch-model.sh"), "{error}");
    }
}
