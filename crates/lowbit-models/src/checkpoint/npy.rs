//! NumPy's files of arrays, version 1.0.

use std::io::Write;

/// The size of the header is a multiple of this, so that the numbers are aligned.
const ALIGNMENT: usize = 64;

/// Returns what is before the numbers in a NumPy file (`.npy`, version 1.0) of f32 in C order,
/// `[rows, columns]`. The numbers follow row by row, little-endian.
pub fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    let text =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // The magic number and the version are 8 bytes, the length of what follows 2. Two numbers of 20 digits
    // leave it far below 2¹⁶.
    let size = (10 + text.len() + 1).next_multiple_of(ALIGNMENT);
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((size - 10) as u16).to_le_bytes());
    header.extend(text.bytes());
    header.resize(size - 1, b' ');
    header.push(b'\n');
    header
}

/// Writes rows of numbers, as they follow the header.
///
/// # Errors
/// Returns the error of `file`.
pub fn write_npy_rows(file: &mut impl Write, numbers: &[f32]) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * numbers.len());
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    file.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::npy_header;

    /// The header that NumPy itself writes for an array of this shape.
    #[test]
    fn the_header_is_numpys() {
        let header = npy_header(10, 384);
        let mut want = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        want.extend(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10, 384), }");
        want.extend([b' '; 55]);
        want.push(b'\n');
        assert_eq!(header, want);
        let long = npy_header(usize::MAX, usize::MAX);
        assert_eq!(long.len() % 64, 0);
        assert_eq!(10 + usize::from(long[8]) + 256 * usize::from(long[9]), long.len());
    }
}
