//! The sign of each number, and the mean of their magnitudes: C(p) = ‖p‖₁/d · sign(p). The sign of 0 is +.

use super::bits::{floats, pack, unpack};
use super::flushed;

pub fn bytes(len: usize) -> usize {
    4 + len.div_ceil(8)
}

pub fn encode(gradient: &[f32]) -> Vec<u8> {
    let sum: f64 = gradient.iter().map(|&x| f64::from(flushed(x)).abs()).sum();
    let mean = (sum / gradient.len().max(1) as f64) as f32;
    let mut message = mean.to_le_bytes().to_vec();
    message.extend(pack(gradient.iter().map(|&x| u8::from(flushed(x) < 0.0)), 1, gradient.len()));
    message
}

pub fn decode(message: &[u8], len: usize) -> Vec<f32> {
    let mean = floats(message).next().unwrap_or_default();
    (0..len).map(|at| if unpack(&message[4..], 1, at) == 1 { -mean } else { mean }).collect()
}
