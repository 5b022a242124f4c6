mod adam;
mod messages;
mod power;
mod qsgd;
mod workers;

use crate::random::{Purpose, Random};

/// Numbers that are normally distributed, a few of them zeros.
fn normal(len: usize, seed: u64) -> Vec<f32> {
    let random = Random::new(seed, Purpose::Subset);
    (0..len).map(|at| if at % 17 == 3 { 0.0 } else { random.normal(at as u64) }).collect()
}

fn rounding() -> Random {
    Random::new(11, Purpose::Rounding { rank: 0, tensor: 0 })
}
