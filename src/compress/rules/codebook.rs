//! nf4 and fp4, as bitsandbytes makes them.

use crate::format::CodeType;

/// The nearest entry of a table of 16 numbers from −1 to 1, as bitsandbytes finds it: the weight is
/// multiplied by the reciprocal of the scale, and compared with the points halfway between neighbors.
///
/// A tie goes to the lower entry of nf4, as in all backends of bitsandbytes. In fp4 it goes to the
/// entry of smaller magnitude, as on CUDA; its CPU backend goes to the lower entry, which differs for
/// negative weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Codebook {
    /// The points between the entries in ascending order, of nf4; of fp4, between magnitudes.
    bounds: [f32; 15],
    /// The number of bounds, and the codes in ascending order of their numbers (or magnitudes).
    order: [u8; 16],
    count: usize,
    signed: bool,
}

impl Codebook {
    /// Returns `None` for code types whose tables have no such rule.
    pub fn of(code_type: CodeType) -> Option<Self> {
        let table = code_type.table()?;
        let signed = match code_type {
            CodeType::Nf4 | CodeType::Af4 => false,
            CodeType::Fp4 => true,
            _ => return None,
        };
        let mut order: [u8; 16] = std::array::from_fn(|code| code as u8);
        let entries = if signed { 8 } else { 16 };
        let number = |code: u8| table[usize::from(code & 15)];
        order[..entries].sort_by(|&a, &b| number(a).total_cmp(&number(b)));
        let mut bounds = [f32::INFINITY; 15];
        for (bound, pair) in bounds.iter_mut().zip(order[..entries].windows(2)) {
            *bound = (number(pair[0]) + number(pair[1])) / 2.0;
        }
        Some(Self { bounds, order, count: entries - 1, signed })
    }

    /// Returns the code of a weight, given the scale of its group.
    pub fn code(&self, x: f32, scale: f32) -> u32 {
        let x = x * (1.0 / scale);
        let key = if self.signed { x.abs() } else { x };
        let above = self.bounds[..self.count].iter().filter(|&&bound| key > bound).count();
        let sign = if self.signed && x < 0.0 { 8 } else { 0 };
        u32::from(self.order[above & 15]) | sign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes<const N: usize>(code_type: CodeType, scale: f32, w: [f32; N]) -> [u32; N] {
        let table = Codebook::of(code_type).unwrap();
        w.map(|x| table.code(x, scale))
    }

    #[test]
    fn nf4_by_hand() {
        let w = [-2.0, 2.0, 0.0, -0.18, 0.16, 0.03 * 2.0, 0.05 * 2.0];
        assert_eq!(codes(CodeType::Nf4, 2.0, w), [0, 15, 7, 6, 8, 7, 8]);
    }

    #[test]
    fn fp4_by_hand() {
        let w = [12.0, -12.0, 8.0, 6.0, 4.0, 3.0, 2.0, 0.0625, 0.0, -0.01, -0.04];
        assert_eq!(codes(CodeType::Fp4, 12.0, w), [3, 11, 2, 5, 4, 7, 6, 1, 0, 8, 9]);
    }

    /// Every entry is its own code, and ties go where bitsandbytes puts them.
    #[test]
    fn every_code() {
        for code_type in [CodeType::Nf4, CodeType::Fp4] {
            let (grid, table) = (Codebook::of(code_type).unwrap(), code_type.table().unwrap());
            for (code, &x) in (0..).zip(table) {
                let zero = code_type == CodeType::Fp4 && code == 8;
                assert_eq!(grid.code(x, 1.0), if zero { 0 } else { code }, "{code_type:?} {code}");
            }
            for at in 0..grid.count {
                let (low, high) = (u32::from(grid.order[at]), u32::from(grid.order[at + 1]));
                let bound = grid.bounds[at];
                assert_eq!(grid.code(bound, 1.0), low);
                assert_eq!(grid.code(bound.next_up(), 1.0), high);
                if grid.signed {
                    assert_eq!(grid.code(-bound, 1.0), low | 8);
                    assert_eq!(grid.code(-bound.next_up(), 1.0), high | 8);
                }
            }
        }
        assert!(Codebook::of(CodeType::Iq4Nl).is_none() && Codebook::of(CodeType::Int4).is_none());
    }
}
