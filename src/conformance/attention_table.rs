//! The cases of attention.

use super::table::{Extent, FLOATS};
use super::{AttentionOf, Case, Op, Sight, Values};
use crate::format::{CacheFormat, WeightFormat};

/// Columns of heads: powers of two, and sizes whose rows end in part of an octet, of a chunk or of a word.
const HEAD_DIMS: [usize; 9] = [32, 36, 64, 80, 96, 112, 128, 192, 256];

/// Heads of queries, and of keys and values: groups of 1, 3, 4, 7, 8 and 12.
const HEADS: [(u16, u16); 6] = [(3, 3), (6, 2), (8, 2), (14, 2), (8, 1), (12, 1)];

/// Rows that decode, and rows that take tiles of queries.
const ROWS: [usize; 6] = [1, 9, 2, 33, 8, 14];

/// One slot, less than a step, whole steps, and two and more parts.
const SLOTS: [u32; 6] = [1, 7, 64, 130, 300, 1000];

/// Patterns of queries, keys and values.
const VALUES: [Values; 4] =
    [Values::Normal, Values::Extreme, Values::SignedZeros, Values::Outliers];

/// Adds cases of attention: every cache format with every size of heads and both kinds of kernels, six times.
/// Heads, rows, slots, what rows see, types, patterns and options alternate at periods that differ.
pub(super) fn attending(extent: Extent, cases: &mut Vec<Case>) {
    for (i, cache) in CacheFormat::ALL.into_iter().enumerate() {
        for (j, head_dim) in HEAD_DIMS.into_iter().enumerate() {
            for plain in [false, true] {
                for turn in 0..6 {
                    let at = turn + 5 * i + 7 * j + 3 * usize::from(plain);
                    // Quick: one of the six.
                    if extent == Extent::Quick && turn != (i + j) % 6 {
                        continue;
                    }
                    let (heads, kv_heads) = HEADS[(turn + i + j) % HEADS.len()];
                    let m = ROWS[(at + j) % ROWS.len()];
                    let mut slots = SLOTS[(turn + at / 6) % SLOTS.len()];
                    // The reference is slow.
                    if m > 8 {
                        slots = slots.min(300);
                    }
                    let of = AttentionOf {
                        heads,
                        kv_heads,
                        slots,
                        cache,
                        sight: Sight::ALL[(at + at / 4) % Sight::ALL.len()],
                        cap: at % 5 == 2,
                        bias: at % 7 < 2,
                        hadamard: at % 3 == 1,
                        plain,
                    };
                    let types = (FLOATS[at / 2 % 2], FLOATS[at / 3 % 2]);
                    let (op, shape) = (Op::Attention(of), (m, head_dim));
                    let values = VALUES[(at + turn / 2) % VALUES.len()];
                    let case = Case::of_x(op, WeightFormat::f32(), types, shape, values);
                    cases.push(Case { strided: at % 4 < 2, ..case });
                }
            }
        }
    }
}
