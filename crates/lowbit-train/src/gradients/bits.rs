//! Codes of 1, 2, 4 or 8 bits in bytes, the lowest bits first, and floats in little-endian bytes.

/// Packs codes of `bits` bits, 8 of which are a multiple.
pub fn pack(codes: impl Iterator<Item = u8>, bits: u32, len: usize) -> Vec<u8> {
    let per_byte = 8 / bits as usize;
    let mut bytes = vec![0u8; len.div_ceil(per_byte)];
    for (at, code) in codes.enumerate() {
        bytes[at / per_byte] |= code << (bits as usize * (at % per_byte));
    }
    bytes
}

/// Returns the code at a position.
pub fn unpack(bytes: &[u8], bits: u32, at: usize) -> u8 {
    let per_byte = 8 / bits as usize;
    let mask = ((1u16 << bits) - 1) as u8;
    bytes[at / per_byte] >> (bits as usize * (at % per_byte)) & mask
}

/// Returns the floats of a message.
pub fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]))
}
