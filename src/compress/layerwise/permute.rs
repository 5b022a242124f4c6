use super::check_matrix;
use super::error::LayerwiseError;
use crate::compress::rows::each_row;

/// How long [`permute_for_two_four`] searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The greatest number of pairs of stripes whose 35 divisions are compared. Going over all pairs
    /// once takes s · (s − 1) / 2 for s = ⌈k/4⌉ stripes.
    pub pairs: u64,
    /// The number of times that the search leaves an order that no pair improves, by two random
    /// swaps, and goes on from there. What does not become better is taken back.
    pub escapes: u32,
}

impl Default for Budget {
    /// For 384 columns this is 44 times all pairs, for 4096 columns two fifths of them once.
    fn default() -> Self {
        Self { pairs: 200_000, escapes: 1000 }
    }
}

/// Finds an order of columns in which 2:4 pruning by magnitude keeps more (Pool and Yu 2021, "Channel
/// Permutations for N:M Sparsity"): the sum of the kept magnitudes is never below that of the columns
/// as they are.
///
/// `w` is `[n, k]` in row-major order: weights, or any scores whose magnitudes count instead. Entry j of
/// the result is the column that comes to place j. Columns of four neighboring places are a stripe.
/// Two stripes at a time, all 35 ways to divide their eight columns are compared, over all
/// pairs, until none is better; then two columns are swapped twice at random to leave this order. Stripes are
/// paired so that each is in one pair of a round, which makes rounds parallel and the result
/// the same for every number of threads. It depends on `seed` only through the order of pairs and the
/// random swaps.
///
/// # Errors
/// Returns a [`LayerwiseError`] if the length does not match, a size overflows or a value is not
/// finite.
pub fn permute_for_two_four(
    w: &[f32],
    n: usize,
    k: usize,
    seed: u64,
    budget: Budget,
) -> Result<Vec<u32>, LayerwiseError> {
    check_matrix("the matrix", w, n, k)?;
    let mut order: Vec<u32> = (0..k as u32).collect();
    let count = k.div_ceil(4);
    if count < 2 || n == 0 {
        return Ok(order);
    }
    let columns = Columns::new(w, n, k);
    let mut search = Search {
        columns: &columns,
        places: (0..count).map(|s| std::array::from_fn(|i| 4 * s + i)).collect(),
        left: budget.pairs,
        random: seed,
    };
    let before = search.total();
    search.improve(None);
    let mut best = (search.total(), search.places.clone());
    for _ in 0..budget.escapes {
        if search.left == 0 {
            break;
        }
        let touched = search.shake();
        search.improve(Some(touched));
        let now = search.total();
        if now > best.0 {
            best = (now, search.places.clone());
        } else {
            search.places.clone_from(&best.1);
        }
    }
    if best.0 > before {
        // Places past K stay in the last stripe, behind its columns.
        let places = best.1.into_iter().flat_map(|mut stripe| {
            stripe.sort_unstable();
            stripe
        });
        order = places.filter(|&column| column < k).map(|column| column as u32).collect();
    }
    Ok(order)
}

/// Rows of a column that are summed at once.
const LANES: usize = 8;

/// The magnitudes of columns. Rows are padded with zeros to whole lanes, and columns to whole stripes.
struct Columns {
    lanes: usize,
    k: usize,
    values: Vec<[f32; LANES]>,
}

impl Columns {
    fn new(w: &[f32], n: usize, k: usize) -> Self {
        let lanes = n.div_ceil(LANES);
        let mut values = vec![[0.0; LANES]; lanes * k.next_multiple_of(4)];
        each_row(&mut values, lanes, |column, values| {
            for (row, value) in values.as_flattened_mut().iter_mut().enumerate() {
                let w = w.get(row * k + column).filter(|_| row < n && column < k);
                *value = w.map_or(0.0, |w| w.abs());
            }
        });
        Self { lanes, k, values }
    }

    fn column(&self, at: usize) -> &[[f32; LANES]] {
        &self.values[at * self.lanes..][..self.lanes]
    }

    /// Returns the sum of what four columns keep.
    fn kept(&self, stripe: [usize; 4]) -> f64 {
        let [a, b, c, d] = stripe.map(|at| self.column(at));
        let mut sum = 0.0;
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            for lane in 0..LANES {
                sum += f64::from(greatest_two(a[lane], b[lane], c[lane], d[lane]));
            }
        }
        sum
    }

    /// Returns, for each way to choose four of eight columns, the sum of what they keep and of what the
    /// others keep. Sums are in f32 over a few lanes and in f64 over those.
    fn divided(&self, columns: [usize; 8]) -> [f64; WAYS.len()] {
        const BATCH: usize = 16;
        let columns = columns.map(|at| self.column(at));
        let mut sums = [0.0f64; WAYS.len()];
        for start in (0..self.lanes).step_by(BATCH) {
            let mut lanes = [[0.0f32; LANES]; WAYS.len()];
            for at in start..self.lanes.min(start + BATCH) {
                let x = columns.map(|column| column[at]);
                for (sum, (one, other)) in lanes.iter_mut().zip(&WAYS) {
                    let [a, b, c, d] = one.map(|i| &x[i]);
                    let [e, f, g, h] = other.map(|i| &x[i]);
                    for lane in 0..LANES {
                        sum[lane] += greatest_two(a[lane], b[lane], c[lane], d[lane])
                            + greatest_two(e[lane], f[lane], g[lane], h[lane]);
                    }
                }
            }
            for (sum, lanes) in sums.iter_mut().zip(&lanes) {
                *sum += lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
            }
        }
        sums
    }
}

/// Returns the sum of the two greatest of four numbers that are not negative.
fn greatest_two(a: f32, b: f32, c: f32, d: f32) -> f32 {
    let more = |x: f32, y: f32| if x > y { x } else { y };
    more(more(a, b) + more(c, d), more(a + b, c + d))
}

/// The 35 ways to divide eight columns into two stripes, the first being as they are.
const WAYS: [([usize; 4], [usize; 4]); 35] = ways();

const fn ways() -> [([usize; 4], [usize; 4]); 35] {
    let mut ways = [([0; 4], [0; 4]); 35];
    let (mut count, mut bits) = (0, 0u32);
    while bits < 256 {
        // The first column is always in the first stripe, as the order of stripes does not matter.
        if bits & 1 == 1 && bits.count_ones() == 4 {
            let (mut one, mut other, mut at) = (0, 0, 0);
            while at < 8 {
                if bits >> at & 1 == 1 {
                    ways[count].0[one] = at;
                    one += 1;
                } else {
                    ways[count].1[other] = at;
                    other += 1;
                }
                at += 1;
            }
            count += 1;
        }
        bits += 1;
    }
    ways
}

struct Search<'a> {
    columns: &'a Columns,
    /// The columns of each stripe.
    places: Vec<[usize; 4]>,
    left: u64,
    random: u64,
}

/// A pair of stripes, and the better division that was found.
struct Pair {
    stripes: (usize, usize),
    better: Option<([usize; 4], [usize; 4])>,
}

impl Search<'_> {
    fn total(&self) -> f64 {
        self.places.iter().map(|&stripe| self.columns.kept(stripe)).sum()
    }

    /// Compares pairs of stripes until none can be divided better, or the budget is spent. Only pairs
    /// with a stripe that has changed since are compared; `touched` are those that have at first, or
    /// all of them.
    fn improve(&mut self, touched: Option<Vec<bool>>) {
        let count = self.places.len();
        // One more makes the number even, so that every stripe has a partner in every round but those in
        // which it would be that one.
        let players = count + count % 2;
        let mut changed = touched.unwrap_or_else(|| vec![true; count]);
        while changed.contains(&true) && self.left > 0 {
            let mut now = vec![false; count];
            let offset = self.next() as usize % (players - 1);
            for round in 0..players - 1 {
                let round = (round + offset) % (players - 1);
                let pairs = (0..players / 2).map(|at| match at {
                    0 => (players - 1, round),
                    _ => {
                        let turn = |by: usize| (round + by) % (players - 1);
                        (turn(at), turn(players - 1 - at))
                    }
                });
                let pairs = pairs.map(|(a, b)| (a.min(b), a.max(b)));
                // What this pass has changed already is compared with all that come after.
                let fresh = |s: usize| changed[s] || now[s];
                let pairs = pairs.filter(|&(a, b)| b < count && (fresh(a) || fresh(b)));
                let mut pairs: Vec<Pair> =
                    pairs.map(|stripes| Pair { stripes, better: None }).collect();
                pairs.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= pairs.len() as u64;
                let search = &*self;
                each_row(&mut pairs, 1, |_, pairs| {
                    pairs.iter_mut().for_each(|pair| pair.better = search.better(pair.stripes));
                });
                for Pair { stripes: (a, b), better } in pairs {
                    if let Some((one, other)) = better {
                        (self.places[a], self.places[b]) = (one, other);
                        (now[a], now[b]) = (true, true);
                    }
                }
            }
            changed = now;
        }
    }

    /// Returns the division of two stripes that keeps most, if it keeps more than they do.
    fn better(&self, (a, b): (usize, usize)) -> Option<([usize; 4], [usize; 4])> {
        let (one, other) = (self.places[a], self.places[b]);
        let columns = std::array::from_fn(|i| if i < 4 { one[i] } else { other[i - 4] });
        let sums = self.columns.divided(columns);
        let (mut best, mut most) = (None, sums[0]);
        for (sum, way) in sums.iter().zip(&WAYS).skip(1) {
            // Places past K cannot leave the last stripe.
            let (mut one, mut other) = (way.0.map(|i| columns[i]), way.1.map(|i| columns[i]));
            let past =
                |stripe: &[usize; 4]| stripe.iter().filter(|&&c| c >= self.columns.k).count();
            if past(&one) > 0 && past(&other) > 0 {
                continue;
            }
            if past(&one) > 0 {
                (one, other) = (other, one);
            }
            if *sum > most {
                (best, most) = (Some((one, other)), *sum);
            }
        }
        // Sums in f32 may see a difference where there is none.
        let kept = |one, other| self.columns.kept(one) + self.columns.kept(other);
        best.filter(|&(x, y)| kept(x, y) > kept(one, other))
    }

    /// Swaps two random pairs of columns of different stripes, and returns which stripes have changed.
    /// More swaps at a time take more pairs to go on from, and find less for the same number of pairs.
    fn shake(&mut self) -> Vec<bool> {
        let (count, mut touched) = (self.places.len(), vec![false; self.places.len()]);
        for _ in 0..2 {
            let (a, b) = (self.next() as usize % count, self.next() as usize % count);
            let (i, j) = (self.next() as usize % 4, self.next() as usize % 4);
            let (x, y) = (self.places[a][i], self.places[b][j]);
            if a != b && x < self.columns.k && y < self.columns.k {
                (self.places[a][i], self.places[b][j]) = (y, x);
                (touched[a], touched[b]) = (true, true);
            }
        }
        touched
    }

    /// The next random number (Steele, Lea and Flood 2014, SplitMix).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
