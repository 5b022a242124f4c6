//! From codes, in the order of columns, and scales to the bytes of a block: the inverse of `unpack`.

use super::Block;
use half::f16;

fn put(bytes: &mut [u8], at: usize, value: f16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Packs two codes of four bits into a byte: the first columns are the low halves, the others the high
/// halves. Higher bits of codes are left out.
fn halves(codes: &[u8], bytes: &mut [u8]) {
    let (low, high) = codes.split_at(bytes.len());
    for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
        *byte = low & 0xf | high << 4;
    }
}

/// f16 | 16 bytes.
pub(super) fn q4_0(block: &Block, bytes: &mut [u8]) {
    put(bytes, 0, block.d);
    halves(&block.codes[..32], &mut bytes[2..18]);
}

/// f16 | f16 | 16 bytes.
pub(super) fn q4_1(block: &Block, bytes: &mut [u8]) {
    put(bytes, 0, block.d);
    put(bytes, 2, block.m);
    halves(&block.codes[..32], &mut bytes[4..20]);
}

/// Packs the fifth bits, one for each column, the first in the lowest bit.
fn fifth_bits(codes: &[u8], bytes: &mut [u8]) {
    for (byte, codes) in bytes.iter_mut().zip(codes.chunks_exact(8)) {
        *byte = codes.iter().rev().fold(0, |byte, code| byte << 1 | code >> 4);
    }
}

/// f16 | 4 bytes of fifth bits | 16 bytes.
pub(super) fn q5_0(block: &Block, bytes: &mut [u8]) {
    put(bytes, 0, block.d);
    fifth_bits(&block.codes[..32], &mut bytes[2..6]);
    halves(&block.codes[..32], &mut bytes[6..22]);
}

/// f16 | f16 | 4 bytes of fifth bits | 16 bytes.
pub(super) fn q5_1(block: &Block, bytes: &mut [u8]) {
    put(bytes, 0, block.d);
    put(bytes, 2, block.m);
    fifth_bits(&block.codes[..32], &mut bytes[4..8]);
    halves(&block.codes[..32], &mut bytes[8..24]);
}

/// f16 | 32 bytes.
pub(super) fn q8_0(block: &Block, bytes: &mut [u8]) {
    put(bytes, 0, block.d);
    bytes[2..34].copy_from_slice(&block.codes[..32]);
}

/// Packs four codes of two bits into a byte. Each 32 bytes are 128 columns, of which the lowest bits
/// are the first 32. Higher bits of codes are left out.
fn quarters(codes: &[u8], bytes: &mut [u8]) {
    bytes.fill(0);
    for (bytes, codes) in bytes.chunks_exact_mut(32).zip(codes.chunks_exact(128)) {
        for (shift, codes) in codes.chunks_exact(32).enumerate() {
            for (byte, code) in bytes.iter_mut().zip(codes) {
                *byte |= (code & 3) << (2 * shift);
            }
        }
    }
}

/// Packs bit `bit` of all 256 codes into 32 bytes: byte j has columns j, 32 + j, …, the first in the
/// lowest bit.
fn bit_planes(codes: &[u8], bit: u32, bytes: &mut [u8]) {
    bytes.fill(0);
    for (at, codes) in codes.chunks_exact(32).enumerate() {
        for (byte, code) in bytes.iter_mut().zip(codes) {
            *byte |= (code >> bit & 1) << at;
        }
    }
}

/// 16 bytes of scales and minima | 64 bytes | f16 | f16.
pub(super) fn q2_k(block: &Block, bytes: &mut [u8]) {
    for ((byte, scale), minimum) in bytes[..16].iter_mut().zip(block.scales).zip(block.minima) {
        *byte = scale as u8 | (minimum as u8) << 4;
    }
    quarters(&block.codes, &mut bytes[16..80]);
    put(bytes, 80, block.d);
    put(bytes, 82, -block.m);
}

/// 32 bytes of third bits | 64 bytes | 12 bytes of scales | f16.
pub(super) fn q3_k(block: &Block, bytes: &mut [u8]) {
    bit_planes(&block.codes, 2, &mut bytes[..32]);
    quarters(&block.codes, &mut bytes[32..96]);
    let packed = &mut bytes[96..108];
    packed.fill(0);
    for (group, scale) in block.scales.iter().enumerate() {
        let scale = scale.wrapping_add(32) as u8;
        packed[group % 8] |= (scale & 0xf) << (4 * (group / 8));
        packed[8 + group % 4] |= (scale >> 4 & 3) << (2 * (group / 4));
    }
    put(bytes, 108, block.d);
}

/// Packs eight scales and eight minima of six bits into 12 bytes.
fn six_bits(block: &Block, packed: &mut [u8]) {
    for group in 0..4 {
        let (scale, minimum) = (block.scales[group + 4] as u8, block.minima[group + 4] as u8);
        packed[group] = block.scales[group] as u8 | scale >> 4 << 6;
        packed[group + 4] = block.minima[group] as u8 | minimum >> 4 << 6;
        packed[group + 8] = scale & 0xf | minimum << 4;
    }
}

/// Packs two codes into a byte: each 32 bytes are 64 columns.
fn chunks_of_64(codes: &[u8], bytes: &mut [u8]) {
    for (codes, bytes) in codes.chunks_exact(64).zip(bytes.chunks_exact_mut(32)) {
        halves(codes, bytes);
    }
}

/// f16 | f16 | 12 bytes of scales and minima | 128 bytes.
pub(super) fn q4_k(block: &Block, bytes: &mut [u8]) {
    put(bytes, 0, block.d);
    put(bytes, 2, -block.m);
    six_bits(block, &mut bytes[4..16]);
    chunks_of_64(&block.codes, &mut bytes[16..144]);
}

/// f16 | f16 | 12 bytes of scales and minima | 32 bytes of fifth bits | 128 bytes.
pub(super) fn q5_k(block: &Block, bytes: &mut [u8]) {
    put(bytes, 0, block.d);
    put(bytes, 2, -block.m);
    six_bits(block, &mut bytes[4..16]);
    bit_planes(&block.codes, 4, &mut bytes[16..48]);
    chunks_of_64(&block.codes, &mut bytes[48..176]);
}

/// 128 bytes of low bits | 64 bytes of high bits | 16 scales | f16.
pub(super) fn q6_k(block: &Block, bytes: &mut [u8]) {
    let (low, rest) = bytes.split_at_mut(128);
    let (high, rest) = rest.split_at_mut(64);
    high.fill(0);
    let parts = low.chunks_exact_mut(64).zip(high.chunks_exact_mut(32));
    for ((low, high), codes) in parts.zip(block.codes.chunks_exact(128)) {
        halves(codes, low);
        for (quarter, codes) in codes.chunks_exact(32).enumerate() {
            for (byte, code) in high.iter_mut().zip(codes) {
                *byte |= (code >> 4 & 3) << (2 * quarter);
            }
        }
    }
    for (byte, scale) in rest.iter_mut().zip(block.scales) {
        *byte = scale as u8;
    }
    put(rest, 16, block.d);
}

/// f16 | 2 bytes of high bits of scales | 4 bytes of low bits | 128 bytes.
pub(super) fn iq4_xs(block: &Block, bytes: &mut [u8]) {
    put(bytes, 0, block.d);
    let mut high = 0u16;
    bytes[4..8].fill(0);
    for (group, scale) in block.scales[..8].iter().enumerate() {
        let scale = scale.wrapping_add(32) as u8;
        bytes[4 + group / 2] |= (scale & 0xf) << (4 * (group % 2));
        high |= u16::from(scale >> 4 & 3) << (2 * group);
    }
    bytes[2..4].copy_from_slice(&high.to_le_bytes());
    for (codes, bytes) in block.codes.chunks_exact(32).zip(bytes[8..136].chunks_exact_mut(16)) {
        halves(codes, bytes);
    }
}

/// A byte of the scale | 16 bytes.
pub(super) fn mxfp4(block: &Block, bytes: &mut [u8]) {
    bytes[0] = block.scales[0] as u8;
    halves(&block.codes[..32], &mut bytes[1..17]);
}
