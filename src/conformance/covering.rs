//! Covering arrays of strength 3, in which every triple of levels of any three factors occurs.

use std::collections::HashSet;

/// Returns rows with one level per factor that contain every triple of levels at least once. The
/// algorithm is greedy: each row starts with a triple that is not covered yet, and then takes for
/// each factor the level that covers the most new triples.
pub(super) fn triples(levels: &[usize]) -> Vec<Vec<usize>> {
    let factors = levels.len();
    let mut missing: HashSet<[(u8, u8); 3]> = HashSet::new();
    let mut order = Vec::new();
    for a in 0..factors {
        for b in a + 1..factors {
            for c in b + 1..factors {
                for x in 0..levels[a] {
                    for y in 0..levels[b] {
                        for z in 0..levels[c] {
                            let triple = [pair(a, x), pair(b, y), pair(c, z)];
                            missing.insert(triple);
                            order.push(triple);
                        }
                    }
                }
            }
        }
    }
    // Triples of the largest factors come first, because they bound the number of rows from below.
    let weight = |t: &[(u8, u8); 3]| t.iter().map(|&(f, _)| levels[f as usize]).product::<usize>();
    order.sort_by_key(|t| std::cmp::Reverse(weight(t)));
    let mut rows = Vec::new();
    for start in order {
        if !missing.contains(&start) {
            continue;
        }
        let mut row: Vec<Option<usize>> = vec![None; factors];
        for (factor, level) in start {
            row[factor as usize] = Some(level as usize);
        }
        for factor in 0..factors {
            if row[factor].is_some() {
                continue;
            }
            // Among equal levels, the choice rotates with the row, so that no level is preferred.
            let best = (0..levels[factor]).max_by_key(|&level| {
                let gain = new_triples(&row, factor, level).filter(|t| missing.contains(t)).count();
                (gain, (level + rows.len()) % levels[factor])
            });
            row[factor] = best;
        }
        let row: Vec<usize> = row.into_iter().flatten().collect();
        for a in 0..factors {
            for b in a + 1..factors {
                for c in b + 1..factors {
                    missing.remove(&[pair(a, row[a]), pair(b, row[b]), pair(c, row[c])]);
                }
            }
        }
        rows.push(row);
    }
    rows
}

fn pair(factor: usize, level: usize) -> (u8, u8) {
    (factor as u8, level as u8)
}

/// Returns the triples that become complete when one more factor is fixed.
fn new_triples(
    row: &[Option<usize>],
    factor: usize,
    level: usize,
) -> impl Iterator<Item = [(u8, u8); 3]> {
    let fixed: Vec<_> = row.iter().enumerate().filter_map(|(f, l)| l.map(|l| pair(f, l))).collect();
    (0..fixed.len()).flat_map(move |i| {
        let fixed = fixed.clone();
        (i + 1..fixed.len()).map(move |j| {
            let mut triple = [fixed[i], fixed[j], pair(factor, level)];
            triple.sort_unstable();
            triple
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_every_triple() {
        let levels = [5, 4, 3, 2, 2];
        let rows = triples(&levels);
        assert!(rows.len() >= 60 && rows.len() < 120, "{} rows", rows.len());
        for a in 0..5 {
            for b in a + 1..5 {
                for c in b + 1..5 {
                    let seen: HashSet<_> = rows.iter().map(|r| (r[a], r[b], r[c])).collect();
                    assert_eq!(seen.len(), levels[a] * levels[b] * levels[c]);
                }
            }
        }
    }
}
