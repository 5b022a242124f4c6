//! The numbers of greatest magnitude: k positions as u32, then k numbers as f32. Among equal magnitudes the
//! lowest positions are sent.

use super::bits::floats;
use super::{GradientError, flushed};

/// Returns k: the fraction of `len`, rounded up.
pub fn count(fraction: f64, len: usize) -> usize {
    ((fraction * len as f64).ceil() as usize).min(len)
}

pub fn encode(gradient: &[f32], fraction: f64) -> Vec<u8> {
    let chosen = greatest(gradient, count(fraction, gradient.len()));
    let indices = chosen.iter().flat_map(|&at| (at as u32).to_le_bytes());
    let values = chosen.iter().flat_map(|&at| flushed(gradient[at]).to_le_bytes());
    indices.chain(values).collect()
}

/// Returns the positions of the `count` greatest magnitudes, in rising order.
fn greatest(gradient: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..gradient.len()).collect();
    if count < order.len() {
        let magnitude = |at: usize| flushed(gradient[at]).abs();
        order.select_nth_unstable_by(count, |&a, &b| {
            magnitude(b).total_cmp(&magnitude(a)).then(a.cmp(&b))
        });
        order.truncate(count);
        order.sort_unstable();
    }
    order
}

pub fn decode(message: &[u8], len: usize) -> Result<Vec<f32>, GradientError> {
    let (indices, values) = message.split_at(message.len() / 2);
    let mut restored = vec![0.0; len];
    for (index, value) in indices.chunks_exact(4).zip(floats(values)) {
        let index = u32::from_le_bytes([index[0], index[1], index[2], index[3]]) as usize;
        *restored.get_mut(index).ok_or(GradientError::BadIndex { index, len })? = value;
    }
    Ok(restored)
}
