//! Which tensors share a buffer: those that are never needed at the same time.

use std::ops::RangeInclusive;

/// When a tensor is needed, and how large it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// From the step that writes it to the last one that reads it.
    pub steps: RangeInclusive<usize>,
    /// Bytes.
    pub bytes: u64,
}

/// A plan of buffers for tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arena {
    /// The size of each buffer in bytes.
    pub buffers: Vec<u64>,
    /// The buffer of each tensor; `None` if it is never needed.
    pub of: Vec<Option<usize>>,
}

impl Arena {
    /// Gives each tensor a buffer that no other tensor needs at the same time. A tensor takes the free buffer
    /// that wastes or grows least.
    pub fn new(lives: &[Option<Life>]) -> Self {
        let mut arena = Self { buffers: Vec::new(), of: vec![None; lives.len()] };
        // The last step at which each buffer is needed so far.
        let mut busy: Vec<usize> = Vec::new();
        let mut order: Vec<(usize, &Life)> =
            lives.iter().enumerate().filter_map(|(i, life)| Some((i, life.as_ref()?))).collect();
        order.sort_by_key(|(_, life)| *life.steps.start());
        for (tensor, life) in order {
            let free = (0..busy.len()).filter(|&b| busy[b] < *life.steps.start());
            let best = free.min_by_key(|&b| arena.buffers[b].abs_diff(life.bytes));
            let buffer = best.unwrap_or_else(|| {
                arena.buffers.push(0);
                busy.push(0);
                busy.len() - 1
            });
            arena.buffers[buffer] = arena.buffers[buffer].max(life.bytes);
            busy[buffer] = *life.steps.end();
            arena.of[tensor] = Some(buffer);
        }
        arena
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(steps: RangeInclusive<usize>, bytes: u64) -> Option<Life> {
        Some(Life { steps, bytes })
    }

    #[test]
    fn tensors_of_different_times_share() {
        // A residual through all steps, and a chain of results that are needed by the next step each.
        let lives = [
            life(0..=9, 64),
            life(1..=2, 32),
            life(2..=3, 96),
            life(3..=4, 32),
            None,
            life(4..=5, 100),
        ];
        let arena = Arena::new(&lives);
        assert_eq!(arena.of, [Some(0), Some(1), Some(2), Some(1), None, Some(2)]);
        assert_eq!(arena.buffers, [64, 32, 100]);
    }

    #[test]
    fn no_two_tensors_that_are_needed_together_share() {
        let mut seed = 1u64;
        let mut below = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..200 {
            let lives: Vec<_> = (0..20)
                .map(|_| {
                    let start = below(30) as usize;
                    life(start..=start + below(6) as usize, 4 + below(100))
                })
                .collect();
            let arena = Arena::new(&lives);
            for (i, a) in lives.iter().flatten().enumerate() {
                assert!(arena.buffers[arena.of[i].unwrap()] >= a.bytes);
                for (j, b) in lives.iter().flatten().enumerate().take(i) {
                    let together =
                        a.steps.start() <= b.steps.end() && b.steps.start() <= a.steps.end();
                    assert!(!together || arena.of[i] != arena.of[j]);
                }
            }
        }
    }
}
