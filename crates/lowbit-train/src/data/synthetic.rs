use super::{DataSet, Examples};
use crate::random::{Purpose, Random};

/// Creates a data set that needs no files, for tests: `classes` clusters of normally distributed points in
/// `columns` dimensions, whose centers are as far from 0 as their points are from them.
pub fn clusters(seed: u64, classes: usize, columns: usize, train: usize, test: usize) -> DataSet {
    let random = Random::new(seed, Purpose::Subset);
    let center = |class: usize, column: usize| random.normal((class * columns + column) as u64);
    let points = |from: usize, count: usize| {
        let mut inputs = Vec::with_capacity(count * columns);
        for at in from..from + count {
            for column in 0..columns {
                let noise = random.normal(1 << 32 | (at * columns + column) as u64);
                inputs.push(center(at % classes, column) + noise);
            }
        }
        let labels = (from..from + count).map(|at| (at % classes) as u8).collect();
        Examples { inputs, columns, labels }
    };
    let validation = Examples { inputs: Vec::new(), columns, labels: Vec::new() };
    let (train, test) = (points(0, train), points(train, test));
    DataSet { name: "clusters".to_owned(), classes, train, validation, test }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_and_repeat() {
        let data = clusters(1, 3, 5, 30, 12).with_validation(6);
        assert_eq!([&data.train, &data.validation, &data.test].map(Examples::len), [24, 6, 12]);
        assert_eq!(data, clusters(1, 3, 5, 30, 12).with_validation(6));
        for row in 0..6 {
            let own = data.validation.row(row);
            assert!((0..24).all(|other| data.train.row(other) != own));
        }
        let small = data.clone().limited(7, 3);
        assert_eq!((small.train.len(), small.test.len()), (7, 3));
        // One example stays.
        assert_eq!(clusters(1, 3, 5, 2, 1).with_validation(9).train.len(), 1);
    }
}
