//! Chooses a candidate for each weight so that the sum of losses is least within a budget of bytes.

/// The largest number of sizes that the solver tells apart.
pub const BUCKETS: usize = 65_536;

/// What a candidate of a weight costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Its bytes.
    pub bytes: usize,
    /// What it loses. It is finite and not negative.
    pub loss: f64,
}

/// The best choice for every budget: a multiple-choice knapsack, solved by dynamic programming over sizes.
///
/// Sizes are counted in units above the smallest total. The unit is the greatest common divisor of all differences
/// between candidates of a weight, and the choice is then the best one, exactly. If that makes more than [`BUCKETS`]
/// units, the unit is larger, and differences are rounded up to it: a budget is never exceeded, and of each weight
/// less than a unit of it may stay unused.
#[derive(Debug)]
pub struct Frontier {
    /// The bytes of the smallest choice, and of the largest.
    least: usize,
    most: usize,
    unit: usize,
    /// The largest number of units that a budget has.
    units: usize,
    /// For each weight its candidates as their number, units and costs, by rising units.
    weights: Vec<Vec<(usize, usize, Cost)>>,
    /// For each weight and number of units, the place of the best candidate in `weights`.
    taken: Vec<Vec<u16>>,
}

fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Frontier {
    /// Solves for all budgets. `weights` has the costs of the candidates of each weight; a candidate that a weight
    /// cannot take is `None`. Returns `None` if a weight has no candidate, or sizes overflow.
    pub fn new(weights: &[Vec<Option<Cost>>]) -> Option<Self> {
        let mut sorted = Vec::with_capacity(weights.len());
        let (mut least, mut most, mut unit) = (0usize, 0usize, 0usize);
        for candidates in weights {
            let there = candidates.iter().enumerate();
            let mut there: Vec<(usize, Cost)> = there
                .filter_map(|(index, cost)| cost.map(|cost| (index, cost)))
                .filter(|(_, cost)| cost.loss.is_finite())
                .take(usize::from(u16::MAX))
                .collect();
            there.sort_by(|(_, a), (_, b)| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
            let (first, last) = (there.first()?.1.bytes, there.last()?.1.bytes);
            least = least.checked_add(first)?;
            most = most.checked_add(last)?;
            unit = there.iter().fold(unit, |unit, (_, cost)| gcd(unit, cost.bytes - first));
            sorted.push(there);
        }
        let unit = unit.max(1).max((most - least).div_ceil(BUCKETS));
        let in_units = |there: Vec<(usize, Cost)>| -> Vec<(usize, usize, Cost)> {
            let first = there.first().map_or(0, |(_, cost)| cost.bytes);
            let units = |cost: &Cost| (cost.bytes - first).div_ceil(unit);
            there.into_iter().map(|(index, cost)| (index, units(&cost), cost)).collect()
        };
        let weights: Vec<_> = sorted.into_iter().map(in_units).collect();
        let units = weights.iter().filter_map(|w| w.last()).map(|(_, units, _)| units).sum();
        let mut best = vec![0.0f64; units + 1];
        let mut taken = Vec::with_capacity(weights.len());
        for candidates in &weights {
            let mut now = vec![f64::INFINITY; units + 1];
            let mut place = vec![0u16; units + 1];
            for (at, &(_, more, cost)) in (0u16..).zip(candidates) {
                let found = now.iter_mut().zip(&mut place).skip(more).zip(&best);
                for ((now, place), before) in found {
                    // If two lose the same, the first one stays: it is the smaller.
                    if before + cost.loss < *now {
                        (*now, *place) = (before + cost.loss, at);
                    }
                }
            }
            best = now;
            taken.push(place);
        }
        Some(Self { least, most, unit, units, weights, taken })
    }

    /// Returns the bytes of the smallest choice.
    pub fn least(&self) -> usize {
        self.least
    }

    /// Returns the bytes of the largest choice.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Returns the bytes of the unit in which sizes are counted.
    pub fn unit(&self) -> usize {
        self.unit
    }

    /// Returns the number of the candidate of each weight with the least sum of losses in a budget of bytes, or `None` if
    /// the smallest choice is larger.
    pub fn at(&self, budget: usize) -> Option<Vec<usize>> {
        let mut left = (budget.checked_sub(self.least)? / self.unit).min(self.units);
        let mut chosen = Vec::with_capacity(self.weights.len());
        for (candidates, taken) in self.weights.iter().zip(&self.taken).rev() {
            let place = usize::from(*taken.get(left)?);
            let &(index, units, _) = candidates.get(place)?;
            chosen.push(index);
            left = left.checked_sub(units)?;
        }
        chosen.reverse();
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from 0 to 2³¹ − 1, the same in every run.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) as usize
        }
    }

    fn costs(weights: &[Vec<Option<Cost>>], chosen: &[usize]) -> (usize, f64) {
        let costs = weights.iter().zip(chosen).map(|(w, &index)| w[index].unwrap());
        costs.fold((0, 0.0), |(bytes, loss), cost| (bytes + cost.bytes, loss + cost.loss))
    }

    /// The bytes and losses of all choices.
    fn all(weights: &[Vec<Option<Cost>>]) -> Vec<(usize, f64)> {
        let mut all = vec![(0, 0.0)];
        for candidates in weights {
            all = all
                .iter()
                .flat_map(|(bytes, loss)| {
                    candidates.iter().flatten().map(move |c| (bytes + c.bytes, loss + c.loss))
                })
                .collect();
        }
        all
    }

    /// With small sizes every choice is the best of all.
    #[test]
    fn no_choice_is_better() {
        let mut noise = Noise(7);
        for _ in 0..60 {
            let count = 1 + noise.next() % 5;
            let weights: Vec<Vec<Option<Cost>>> = (0..count)
                .map(|_| {
                    let candidates = 1 + noise.next() % 4;
                    let cost = |noise: &mut Noise| Cost {
                        bytes: noise.next() % 40,
                        loss: (noise.next() % 1000) as f64 / 8.0,
                    };
                    let mut all: Vec<_> = (0..candidates).map(|_| Some(cost(&mut noise))).collect();
                    all.push(None);
                    all
                })
                .collect();
            let frontier = Frontier::new(&weights).unwrap();
            let all = all(&weights);
            let least = all.iter().map(|a| a.0).min().unwrap();
            let most = all.iter().map(|a| a.0).max().unwrap();
            assert_eq!((frontier.least(), frontier.most()), (least, most));
            for budget in 0..most + 3 {
                let best = all.iter().filter(|a| a.0 <= budget).map(|a| a.1);
                let best = best.min_by(f64::total_cmp);
                let found = frontier.at(budget).map(|chosen| costs(&weights, &chosen));
                // Sums of eighths are exact.
                assert_eq!(found.map(|(_, loss)| loss), best, "{weights:?}, {budget}");
                assert!(found.is_none_or(|(bytes, _)| bytes <= budget));
            }
        }
    }

    /// With sizes that have to be rounded, budgets hold, and what is lost is no more than with a budget that is smaller
    /// by a unit for each weight.
    #[test]
    fn large_sizes_are_rounded_to_the_safe_side() {
        let mut noise = Noise(3);
        for _ in 0..20 {
            let cost = |noise: &mut Noise| {
                Some(Cost { bytes: noise.next(), loss: (noise.next() % 1000) as f64 / 8.0 })
            };
            let weights: Vec<Vec<_>> =
                (0..5).map(|_| (0..4).map(|_| cost(&mut noise)).collect()).collect();
            let frontier = Frontier::new(&weights).unwrap();
            assert!(frontier.unit() > 1 && frontier.units <= BUCKETS + weights.len());
            let all = all(&weights);
            let steps = 50;
            for step in 0..=steps {
                let span = frontier.most() - frontier.least();
                let budget = frontier.least() + span / steps * step;
                let (bytes, loss) = costs(&weights, &frontier.at(budget).unwrap());
                assert!(bytes <= budget);
                let tighter = budget.saturating_sub(weights.len() * frontier.unit());
                let best = all.iter().filter(|a| a.0 <= tighter).map(|a| a.1);
                assert!(best.min_by(f64::total_cmp).is_none_or(|best| loss <= best));
            }
        }
    }

    #[test]
    fn there_may_be_nothing_to_choose() {
        assert!(Frontier::new(&[vec![None]]).is_none());
        let frontier = Frontier::new(&[vec![Some(Cost { bytes: 9, loss: 1.0 })]]).unwrap();
        assert_eq!((frontier.at(8), frontier.at(9)), (None, Some(vec![0])));
        assert_eq!(Frontier::new(&[]).unwrap().at(0), Some(vec![]));
    }
}
