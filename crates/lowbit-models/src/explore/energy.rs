//! An estimate of the energy of a token. It is derived from bytes and operations, and not measured.
//!
//! The figures are those of a process of 45 nm (Horowitz, "Computing's energy problem", ISSCC 2014). Newer devices take
//! less; what is meaningful is the ratio of two models.

/// Picojoules of a byte that comes from DRAM: 640 for 32 bits.
const BYTE: f64 = 640.0 / 4.0;
/// Picojoules of a multiplication of f32.
const MULTIPLY: f64 = 3.7;
/// Picojoules of an addition of f32.
const ADD: f64 = 0.9;

/// Picojoules of a multiplication of 8-bit integers, and of an addition of 32-bit integers.
const INTEGER_MULTIPLY: f64 = 0.2;
const INTEGER_ADD: f64 = 0.1;

/// Returns the picojoules of a token for which so many bytes are read, so many products are made in f32 and summed, and so
/// many of 8-bit integers, which are summed in 32 bits.
pub fn picojoules(bytes: usize, products: f64, integers: f64) -> f64 {
    let of_integers = integers * (INTEGER_MULTIPLY + INTEGER_ADD);
    bytes as f64 * BYTE + products * (MULTIPLY + ADD) + of_integers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_products_are_added() {
        assert_eq!(picojoules(4, 0.0, 0.0), 640.0);
        assert!((picojoules(1, 10.0, 0.0) - 206.0).abs() < 1e-9);
        assert!((picojoules(1, 10.0, 20.0) - 212.0).abs() < 1e-9);
    }
}
