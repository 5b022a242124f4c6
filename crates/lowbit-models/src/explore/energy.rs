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

/// Returns the picojoules of a token for which so many bytes are read, and so many products are made in f32 and summed.
pub fn picojoules(bytes: usize, products: f64) -> f64 {
    bytes as f64 * BYTE + products * (MULTIPLY + ADD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_products_are_added() {
        assert_eq!(picojoules(4, 0.0), 640.0);
        assert!((picojoules(1, 10.0) - 206.0).abs() < 1e-9);
    }
}
