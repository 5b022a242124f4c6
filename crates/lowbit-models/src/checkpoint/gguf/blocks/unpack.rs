//! From the bytes of a block to its codes, in the order of columns, and its scales.

use super::Block;
use half::f16;

pub(super) fn half(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Unpacks bytes of two codes: the low halves are the first columns, the high halves the others.
fn halves(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 0xf, byte >> 4);
    }
}

/// f16 | 16 bytes.
pub(super) fn q4_0(bytes: &[u8], block: &mut Block) {
    block.d = half(bytes, 0);
    halves(&bytes[2..18], &mut block.codes[..32]);
}

/// f16 | f16 | 16 bytes.
pub(super) fn q4_1(bytes: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(bytes, 0), half(bytes, 2));
    halves(&bytes[4..20], &mut block.codes[..32]);
}

/// Adds the fifth bits, one for each column, the first in the lowest bit.
fn fifth_bits(bytes: &[u8], codes: &mut [u8]) {
    for (at, code) in codes.iter_mut().enumerate() {
        *code |= (bytes[at / 8] >> (at % 8) & 1) << 4;
    }
}

/// f16 | 4 bytes of fifth bits | 16 bytes.
pub(super) fn q5_0(bytes: &[u8], block: &mut Block) {
    block.d = half(bytes, 0);
    halves(&bytes[6..22], &mut block.codes[..32]);
    fifth_bits(&bytes[2..6], &mut block.codes[..32]);
}

/// f16 | f16 | 4 bytes of fifth bits | 16 bytes.
pub(super) fn q5_1(bytes: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(bytes, 0), half(bytes, 2));
    halves(&bytes[8..24], &mut block.codes[..32]);
    fifth_bits(&bytes[4..8], &mut block.codes[..32]);
}

/// f16 | 32 bytes.
pub(super) fn q8_0(bytes: &[u8], block: &mut Block) {
    block.d = half(bytes, 0);
    block.codes[..32].copy_from_slice(&bytes[2..34]);
}

/// Unpacks 64 bytes of four codes. Each 32 bytes are 128 columns, of which the lowest bits are the
/// first 32.
fn quarters(bytes: &[u8], codes: &mut [u8]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (shift, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = byte >> (2 * shift) & 3;
            }
        }
    }
}

/// 16 bytes of scales and minima | 64 bytes | f16 | f16.
pub(super) fn q2_k(bytes: &[u8], block: &mut Block) {
    for (group, byte) in bytes[..16].iter().enumerate() {
        (block.scales[group], block.minima[group]) = ((byte & 0xf) as i8, (byte >> 4) as i8);
    }
    quarters(&bytes[16..80], &mut block.codes);
    (block.d, block.m) = (half(bytes, 80), -half(bytes, 82));
}

/// 32 bytes of third bits | 64 bytes | 12 bytes of scales | f16.
pub(super) fn q3_k(bytes: &[u8], block: &mut Block) {
    quarters(&bytes[32..96], &mut block.codes);
    for (bit, codes) in block.codes.chunks_exact_mut(32).enumerate() {
        for (code, byte) in codes.iter_mut().zip(&bytes[..32]) {
            *code |= (byte >> bit & 1) << 2;
        }
    }
    let packed = &bytes[96..108];
    for (group, scale) in block.scales.iter_mut().enumerate() {
        let low = packed[group % 8] >> (4 * (group / 8)) & 0xf;
        let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        *scale = (low | high << 4) as i8 - 32;
    }
    block.d = half(bytes, 108);
}

/// Unpacks eight scales and eight minima of six bits from 12 bytes.
fn six_bits(packed: &[u8], block: &mut Block) {
    for group in 0..4 {
        block.scales[group] = (packed[group] & 63) as i8;
        block.minima[group] = (packed[group + 4] & 63) as i8;
        let last = packed[group + 8];
        block.scales[group + 4] = (last & 0xf | packed[group] >> 6 << 4) as i8;
        block.minima[group + 4] = (last >> 4 | packed[group + 4] >> 6 << 4) as i8;
    }
}

/// Unpacks 128 bytes of two codes: each 32 bytes are 64 columns.
fn chunks_of_64(bytes: &[u8], codes: &mut [u8]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        halves(bytes, codes);
    }
}

/// f16 | f16 | 12 bytes of scales and minima | 128 bytes.
pub(super) fn q4_k(bytes: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(bytes, 0), -half(bytes, 2));
    six_bits(&bytes[4..16], block);
    chunks_of_64(&bytes[16..144], &mut block.codes);
}

/// f16 | f16 | 12 bytes of scales and minima | 32 bytes of fifth bits | 128 bytes.
pub(super) fn q5_k(bytes: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(bytes, 0), -half(bytes, 2));
    six_bits(&bytes[4..16], block);
    chunks_of_64(&bytes[48..176], &mut block.codes);
    for (bit, codes) in block.codes.chunks_exact_mut(32).enumerate() {
        for (code, byte) in codes.iter_mut().zip(&bytes[16..48]) {
            *code |= (byte >> bit & 1) << 4;
        }
    }
}

/// 128 bytes of low bits | 64 bytes of high bits | 16 scales | f16.
pub(super) fn q6_k(bytes: &[u8], block: &mut Block) {
    let (low, high) = (bytes[..128].chunks_exact(64), bytes[128..192].chunks_exact(32));
    for ((low, high), codes) in low.zip(high).zip(block.codes.chunks_exact_mut(128)) {
        halves(low, codes);
        for (quarter, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, byte) in codes.iter_mut().zip(high) {
                *code |= (byte >> (2 * quarter) & 3) << 4;
            }
        }
    }
    for (scale, byte) in block.scales.iter_mut().zip(&bytes[192..208]) {
        *scale = *byte as i8;
    }
    block.d = half(bytes, 208);
}

/// f16 | 2 bytes of high bits of scales | 4 bytes of low bits | 128 bytes.
pub(super) fn iq4_xs(bytes: &[u8], block: &mut Block) {
    block.d = half(bytes, 0);
    let high = u16::from_le_bytes([bytes[2], bytes[3]]);
    for group in 0..8 {
        let low = bytes[4 + group / 2] >> (4 * (group % 2)) & 0xf;
        let scale = low | ((high >> (2 * group) & 3) as u8) << 4;
        block.scales[group] = scale as i8 - 32;
    }
    for (bytes, codes) in bytes[8..136].chunks_exact(16).zip(block.codes.chunks_exact_mut(32)) {
        halves(bytes, codes);
    }
}

/// Four bytes of scales | 4 · 8 bytes. Scales are unsigned numbers of 7 bits: 127 is 0, and what does not
/// fit becomes the NaN of lowbit's e4m3, which no format takes.
pub(super) fn nvfp4(bytes: &[u8], block: &mut Block) {
    const NAN: i8 = 0x7f;
    let scales = bytes[..4].iter().map(|&byte| match i8::try_from(byte) {
        Ok(NAN) => 0,
        Ok(scale) => scale,
        Err(_) => NAN,
    });
    block.scales.iter_mut().zip(scales).for_each(|(to, scale)| *to = scale);
    for (bytes, codes) in bytes[4..36].chunks_exact(8).zip(block.codes.chunks_exact_mut(16)) {
        halves(bytes, codes);
    }
}

/// A byte of the scale | 16 bytes.
pub(super) fn mxfp4(bytes: &[u8], block: &mut Block) {
    block.scales[0] = bytes[0] as i8;
    halves(&bytes[1..17], &mut block.codes[..32]);
}
