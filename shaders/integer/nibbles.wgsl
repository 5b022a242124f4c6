// Four of eight nibbles as signed bytes.
// Requires: const W_ZEROS.
// Implements: shift.
// Provides: nibbles, SHIFT.
// Codes with zero points or minima stay 0…15. Codes without either are stored as q + 8. With the top
// bit flipped, a nibble in the upper half of a byte is 16q, which needs no zero point; SHIFT
// undoes the factor in sums of products exactly.

const SHIFT = select(4u, 0u, W_ZEROS);

fn nibbles(word: u32, high: u32) -> u32 {
    if (W_ZEROS) {
        return (word >> (4u * high)) & 0x0f0f0f0fu;
    }
    let signed = word ^ 0x88888888u;
    return (signed << (4u - 4u * high)) & 0xf0f0f0f0u;
}
