//! ONNX files as bytes.

use crate::memory::within;
use lowbit_models::checkpoint::matrix_shape;
use lowbit_models::checkpoint::onnx::OnnxFile;

/// Bytes of memory for a byte of file. An empty message in a list takes two bytes of a file.
pub const FACTOR: usize = 128;

pub fn run(data: &[u8]) {
    within(FACTOR, data.len(), || {
        let mut file = match OnnxFile::from_bytes(data.to_vec()) {
            Ok(file) => file,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        };
        assert_eq!(file.file_bytes(), data.len());
        read(&file);
        if let Some(prefix) = file.common_prefix().map(str::to_owned) {
            let count = file.weights().len() + file.tensors().len();
            if let Ok(changed) = file.strip_prefix(&prefix) {
                assert!(changed <= count);
                read(&file);
            }
        }
    });
}

/// Every name leads to what was said of it.
fn read(file: &OnnxFile) {
    for weight in file.weights() {
        if let Ok(packed) = file.read_weight(&weight.name) {
            assert_eq!(packed.format(), weight.format);
            assert_eq!(Some((packed.n(), packed.k())), matrix_shape(&weight.shape));
        }
        if let Some(bias) = &weight.bias {
            assert!(file.read_tensor(bias).is_ok(), "bias `{bias}`");
        }
    }
    for tensor in file.tensors() {
        let bytes = file.read_tensor(&tensor.name).expect("a tensor that is listed");
        let elements: usize = tensor.shape.iter().product();
        assert_eq!(8 * bytes.len(), elements * tensor.dtype.bitsize(), "`{}`", tensor.name);
    }
}
