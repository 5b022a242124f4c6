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

fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The best choice for every budget: a multiple-choice knapsack, solved by dynamic programming over sizes.
///
/// Weights may be joined to groups, and candidates be of several kinds: the weights of a group take candidates of one
/// kind.
///
/// Sizes are counted in units above the smallest total. The unit is the greatest common divisor of all differences
/// between candidates of a weight, and between kinds of a group, and the choice is then the best one, exactly. If that
/// makes more than [`BUCKETS`] units, the unit is larger, and differences are rounded up to it: a budget is never
/// exceeded, and of each weight and each group less than a unit of it may stay unused.
#[derive(Debug)]
pub struct Frontier {
    /// The bytes of the smallest choice, and of the largest.
    least: usize,
    most: usize,
    unit: usize,
    /// The largest number of units that a budget has.
    units: usize,
    groups: Vec<Group>,
}

/// The weights of a group.
#[derive(Debug)]
struct Group {
    ways: Vec<Way>,
    /// For each number of units, the place of the best kind in `ways`.
    taken: Vec<u16>,
}

/// The candidates of a group's weights that are of one kind.
#[derive(Debug)]
struct Way {
    /// The bytes of its smallest choice beyond those of the group's smallest choice, in units.
    more: usize,
    /// The bytes of its smallest choice, and of the largest.
    least: usize,
    most: usize,
    /// For each weight its candidates as their number, units above the first, and costs, by rising size.
    weights: Vec<Vec<(usize, usize, Cost)>>,
    /// For each weight and number of units, the place of the best candidate in `weights`.
    taken: Vec<Vec<u16>>,
}

impl Way {
    /// Sorts the candidates of one kind. Returns `None` if a weight has none, or sizes overflow.
    fn new(weights: &[Vec<Option<Cost>>], kinds: &[usize], kind: usize) -> Option<Self> {
        let mut way = Self { more: 0, least: 0, most: 0, weights: Vec::new(), taken: Vec::new() };
        for candidates in weights {
            let there = candidates.iter().zip(kinds).enumerate();
            let mut there: Vec<(usize, usize, Cost)> = there
                .filter(|(_, (_, of))| **of == kind)
                .filter_map(|(index, (cost, _))| cost.map(|cost| (index, 0, cost)))
                .filter(|(_, _, cost)| cost.loss.is_finite())
                .take(usize::from(u16::MAX))
                .collect();
            there.sort_by(|(_, _, a), (_, _, b)| {
                a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss))
            });
            way.least = way.least.checked_add(there.first()?.2.bytes)?;
            way.most = way.most.checked_add(there.last()?.2.bytes)?;
            way.weights.push(there);
        }
        Some(way)
    }

    /// Returns the greatest common divisor of a number and of all differences between candidates of a weight.
    fn unit(&self, unit: usize) -> usize {
        self.weights.iter().fold(unit, |unit, there| {
            let first = there.first().map_or(0, |(_, _, cost)| cost.bytes);
            there.iter().fold(unit, |unit, (_, _, cost)| gcd(unit, cost.bytes - first))
        })
    }

    /// Counts sizes in units, and returns the units of the largest choice.
    fn count(&mut self, least: usize, unit: usize) -> usize {
        self.more = (self.least - least).div_ceil(unit);
        let mut all = self.more;
        for there in &mut self.weights {
            let first = there.first().map_or(0, |(_, _, cost)| cost.bytes);
            for (_, units, cost) in there.iter_mut() {
                *units = (cost.bytes - first).div_ceil(unit);
            }
            all += there.last().map_or(0, |(_, units, _)| *units);
        }
        all
    }

    /// Returns the least losses for all numbers of units, given those of the groups before.
    fn solve(&mut self, before: &[f64]) -> Vec<f64> {
        let start = std::iter::repeat_n(f64::INFINITY, self.more).chain(before.iter().copied());
        let mut best: Vec<f64> = start.take(before.len()).collect();
        for candidates in &self.weights {
            let mut now = vec![f64::INFINITY; best.len()];
            let mut place = vec![0u16; best.len()];
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
            self.taken.push(place);
        }
        best
    }
}

/// Returns the candidates of each group's weights by kinds, those with the smallest choice first.
fn ways(weights: &[Vec<Option<Cost>>], groups: &[usize], kinds: &[usize]) -> Option<Vec<Vec<Way>>> {
    let mut all: Vec<usize> = kinds.to_vec();
    all.sort();
    all.dedup();
    let mut found = Vec::new();
    let mut rest = weights;
    for group in groups.chunk_by(|a, b| a == b) {
        let (these, later) = rest.split_at_checked(group.len())?;
        rest = later;
        let ways = all.iter().filter_map(|&kind| Way::new(these, kinds, kind));
        let mut ways: Vec<Way> = ways.take(usize::from(u16::MAX)).collect();
        ways.sort_by_key(|way| way.least);
        if ways.is_empty() {
            return None;
        }
        found.push(ways);
    }
    rest.is_empty().then_some(found)
}

/// Returns the bytes of the smallest choice of weights that are joined to groups, as [`Frontier::joined`] has it.
pub(super) fn least(
    weights: &[Vec<Option<Cost>>],
    groups: &[usize],
    kinds: &[usize],
) -> Option<usize> {
    let ways = ways(weights, groups, kinds)?;
    ways.iter().try_fold(0usize, |all, ways| all.checked_add(ways.first()?.least))
}

impl Frontier {
    /// Solves for all budgets. `weights` has the costs of the candidates of each weight; a candidate that a weight
    /// cannot take is `None`. Returns `None` if a weight has no candidate, or sizes overflow.
    pub fn new(weights: &[Vec<Option<Cost>>]) -> Option<Self> {
        let groups: Vec<usize> = (0..weights.len()).collect();
        let most = weights.iter().map(Vec::len).max().unwrap_or(0);
        Self::joined(weights, &groups, &vec![0; most])
    }

    /// Does the same with weights that are joined: `groups` has the number of the group of each weight, those of a group
    /// one after the other, and `kinds` the kind of each candidate. Returns `None` also if a group has no kind of which all
    /// its weights have a candidate.
    pub fn joined(
        weights: &[Vec<Option<Cost>>],
        groups: &[usize],
        kinds: &[usize],
    ) -> Option<Self> {
        let sorted = ways(weights, groups, kinds)?;
        let (mut least, mut most, mut unit) = (0usize, 0usize, 0usize);
        for ways in &sorted {
            let first = ways.first()?.least;
            least = least.checked_add(first)?;
            most = most.checked_add(ways.iter().map(|way| way.most).max()?)?;
            unit = ways.iter().fold(unit, |unit, way| way.unit(gcd(unit, way.least - first)));
        }
        let unit = unit.max(1).max((most - least).div_ceil(BUCKETS));
        let mut units = 0;
        let mut groups = Vec::with_capacity(sorted.len());
        for mut ways in sorted {
            let first = ways.first()?.least;
            units += ways.iter_mut().map(|way| way.count(first, unit)).max()?;
            groups.push(Group { ways, taken: Vec::new() });
        }
        let mut best = vec![0.0f64; units + 1];
        for Group { ways, taken } in &mut groups {
            let mut now = vec![f64::INFINITY; units + 1];
            *taken = vec![0; units + 1];
            for (at, way) in (0u16..).zip(ways) {
                for ((now, taken), loss) in now.iter_mut().zip(&mut *taken).zip(way.solve(&best)) {
                    if loss < *now {
                        (*now, *taken) = (loss, at);
                    }
                }
            }
            best = now;
        }
        Some(Self { least, most, unit, units, groups })
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
        let mut chosen = Vec::new();
        for Group { ways, taken } in self.groups.iter().rev() {
            let way = ways.get(usize::from(*taken.get(left)?))?;
            for (candidates, taken) in way.weights.iter().zip(&way.taken).rev() {
                let place = usize::from(*taken.get(left)?);
                let &(index, units, _) = candidates.get(place)?;
                chosen.push(index);
                left = left.checked_sub(units)?;
            }
            left = left.checked_sub(way.more)?;
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

    /// Joined weights take candidates of one kind, and no other such choice is better.
    #[test]
    fn no_choice_of_joined_weights_is_better() {
        let mut noise = Noise(11);
        for _ in 0..60 {
            let kinds: Vec<usize> = (0..5).map(|_| noise.next() % 3).collect();
            let count = 2 + noise.next() % 4;
            let mut groups = vec![0];
            for _ in 1..count {
                groups.push(groups[groups.len() - 1] + noise.next() % 2);
            }
            let weights: Vec<Vec<Option<Cost>>> = (0..count)
                .map(|_| {
                    let cost = |noise: &mut Noise| Cost {
                        bytes: noise.next() % 40,
                        loss: (noise.next() % 1000) as f64 / 8.0,
                    };
                    let there = |noise: &mut Noise| !noise.next().is_multiple_of(5);
                    (0..5).map(|_| there(&mut noise).then(|| cost(&mut noise))).collect()
                })
                .collect();
            // All choices of numbers of candidates, those that are allowed among them.
            let mut all: Vec<Vec<usize>> = vec![vec![]];
            for (at, candidates) in weights.iter().enumerate() {
                let mut next = Vec::new();
                for before in &all {
                    for (index, _) in candidates.iter().enumerate().filter(|(_, c)| c.is_some()) {
                        let same = at > 0 && groups[at] == groups[at - 1];
                        if !same || kinds[before[at - 1]] == kinds[index] {
                            next.push([&before[..], &[index]].concat());
                        }
                    }
                }
                all = next;
            }
            let all: Vec<(usize, f64)> = all.iter().map(|chosen| costs(&weights, chosen)).collect();
            let frontier = Frontier::joined(&weights, &groups, &kinds);
            let smallest = all.iter().map(|a| a.0).min();
            assert_eq!(frontier.as_ref().map(Frontier::least), smallest);
            assert_eq!(least(&weights, &groups, &kinds), smallest);
            let Some(frontier) = frontier else { continue };
            assert_eq!(Some(frontier.most()), all.iter().map(|a| a.0).max());
            for budget in 0..frontier.most() + 3 {
                let best = all.iter().filter(|a| a.0 <= budget).map(|a| a.1);
                let best = best.min_by(f64::total_cmp);
                let chosen = frontier.at(budget);
                for pair in
                    chosen.iter().flat_map(|chosen| chosen.windows(2).zip(groups.windows(2)))
                {
                    assert!(pair.1[0] != pair.1[1] || kinds[pair.0[0]] == kinds[pair.0[1]]);
                }
                let found = chosen.map(|chosen| costs(&weights, &chosen));
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
