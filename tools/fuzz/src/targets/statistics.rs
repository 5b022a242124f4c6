//! Files of statistics of inputs, as bytes.

use crate::memory::within;
use lowbit_models::layerwise::StatisticsFile;

/// Bytes of memory for a byte of file.
const FACTOR: usize = 64;

pub fn run(data: &[u8]) {
    within(FACTOR, data.len(), || {
        let file = match StatisticsFile::from_bytes(data.to_vec()) {
            Ok(file) => file,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        assert!(file.parts().iter().all(|part| part.samples > 0 && part.tokens > 0));
        for (columns, weights) in file.inputs() {
            assert!(columns > 0 && !weights.is_empty());
            // A sum of 16 bytes for each pair of columns lies in the file.
            assert!(columns * (columns + 1) / 2 * 16 <= data.len());
        }
        if let Err(error) = file.check_sums() {
            assert!(!error.to_string().is_empty());
        }
    });
}
