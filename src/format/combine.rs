//! Matrices of the rows of others, bit for bit.

use std::ops::Range;

use super::{FormatError, Granularity, Offset, PackedWeights, Parts, Scales};

impl PackedWeights {
    /// Returns the matrix that has the rows of all of these, one below the other: the query, key and value
    /// projections of a layer as one matmul, for example. Codes, scales, zero points and minima are
    /// copied bit for bit.
    ///
    /// # Errors
    /// Returns a [`FormatError`] if there are no matrices, if their formats or numbers of columns differ,
    /// or if they differ in what all rows of a matrix share: scale, zero point or minimum of the tensor,
    /// codebook, order of columns.
    pub fn stack(matrices: &[&Self]) -> Result<Self, FormatError> {
        let rows = matrices.iter().flat_map(|matrix| (0..matrix.n()).map(|row| (*matrix, row)));
        of_rows(matrices, rows)
    }

    /// Returns the matrix of some consecutive rows: one expert of a stack of them, for example.
    ///
    /// # Errors
    /// Returns [`FormatError::WrongLength`] if there are not so many rows.
    pub fn select_rows(&self, rows: Range<usize>) -> Result<Self, FormatError> {
        if rows.start > rows.end || rows.end > self.n() {
            let (need, have) = (rows.end, self.n());
            return Err(FormatError::WrongLength { part: "rows of the matrix", need, have });
        }
        of_rows(&[self], rows.map(|row| (self, row)))
    }

    /// Returns the matrix whose rows are those of `gate` and `up` in turn, `gate` first, as matmuls with a
    /// gated epilogue take them. Codes, scales, zero points and minima are copied bit for bit.
    ///
    /// # Errors
    /// Returns the errors of [`stack`](Self::stack), and [`FormatError::WrongLength`] if the numbers of
    /// rows differ.
    pub fn interleave(gate: &Self, up: &Self) -> Result<Self, FormatError> {
        let (need, have) = (gate.n(), up.n());
        if need != have {
            return Err(FormatError::WrongLength { part: "rows of `up`", need, have });
        }
        let rows = (0..gate.n()).flat_map(|row| [(gate, row), (up, row)]);
        of_rows(&[gate, up], rows)
    }
}

/// Returns the matrix of these rows of these matrices.
fn of_rows<'a>(
    matrices: &[&'a PackedWeights],
    rows: impl Iterator<Item = (&'a PackedWeights, usize)> + Clone,
) -> Result<PackedWeights, FormatError> {
    // A matrix without rows has no scales either.
    let filled = matrices.iter().find(|matrix| matrix.n() > 0);
    let Some(first) = filled.or(matrices.first()) else {
        return Err(FormatError::NoMatrices);
    };
    for (index, matrix) in matrices.iter().enumerate() {
        check_same(first, index, matrix)?;
    }
    let (format, k, n) = (first.format(), first.k(), rows.clone().count());
    let geometry = format.geometry(n, k)?;
    let whole = format.granularity() == Granularity::Tensor;
    let zeros = match format.offset() {
        _ if whole => 0,
        Offset::ZeroPoint => geometry.groups,
        Offset::ZeroPoint4 => geometry.groups.div_ceil(2),
        _ => 0,
    };
    let scales = |of: fn(&Parts) -> &Scales| {
        if whole || of(first.parts()).is_empty() {
            return of(first.parts()).clone();
        }
        let [groups, supers] = [geometry.groups, geometry.supers];
        scales_of(
            of(first.parts()),
            rows.clone().map(|(w, row)| (of(w.parts()), row)),
            groups,
            supers,
        )
    };
    let parts = Parts {
        codes: words(rows.clone(), geometry.code_words, |parts| &parts.codes),
        metadata: words(rows.clone(), geometry.meta_words, |parts| &parts.metadata),
        scales: scales(|parts| &parts.scales),
        zeros: if whole {
            first.parts().zeros.clone()
        } else {
            words(rows.clone(), zeros, |parts| &parts.zeros)
        },
        minima: scales(|parts| &parts.minima),
        codebook: first.parts().codebook.clone(),
        order: first.parts().order.clone(),
    };
    PackedWeights::new(format, n, k, parts)
}

/// Refuses a matrix whose rows cannot be in one matrix with those of `first`.
fn check_same(
    first: &PackedWeights,
    index: usize,
    other: &PackedWeights,
) -> Result<(), FormatError> {
    let (need, have) = (first.format(), other.format());
    if need != have {
        return Err(FormatError::MixedFormats { need, have, index });
    }
    let (need, have) = (first.k(), other.k());
    if need != have {
        return Err(FormatError::WrongLength { part: "columns of a matrix", need, have });
    }
    if first.n() == 0 || other.n() == 0 {
        return Ok(());
    }
    let (a, b) = (first.parts(), other.parts());
    let whole = first.format().granularity() == Granularity::Tensor;
    let tensor = |scales: &Scales| match scales {
        Scales::E4m3Tensor { tensor, .. } => Some(tensor.to_bits()),
        _ => None,
    };
    let bits = |scales: &Scales| (0..scales.len()).map(|at| scales.bits(at)).collect::<Vec<_>>();
    let numbers = |all: &[f32]| all.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let differs = [
        ("scale of the tensor", whole && bits(&a.scales) != bits(&b.scales)),
        ("scale of the tensor", tensor(&a.scales) != tensor(&b.scales)),
        ("zero point of the tensor", whole && a.zeros != b.zeros),
        ("minimum of the tensor", whole && bits(&a.minima) != bits(&b.minima)),
        ("minimum of the tensor", tensor(&a.minima) != tensor(&b.minima)),
        ("codebook", numbers(&a.codebook) != numbers(&b.codebook)),
        ("order of columns", a.order != b.order),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((part, _)) => Err(FormatError::Differs { index, part }),
        None => Ok(()),
    }
}

/// Returns the `count` entries that each row has of a part.
fn words<'a, T: Copy + 'a>(
    rows: impl Iterator<Item = (&'a PackedWeights, usize)>,
    count: usize,
    part: impl Fn(&'a Parts) -> &'a [T],
) -> Vec<T> {
    rows.flat_map(|(matrix, row)| {
        let part = part(matrix.parts());
        part.get(row * count..(row + 1) * count).unwrap_or_default().iter().copied()
    })
    .collect()
}

/// Returns the scales of rows, `groups` and `supers` a row, in the type of `like`.
fn scales_of<'a>(
    like: &Scales,
    rows: impl Iterator<Item = (&'a Scales, usize)> + Clone,
    groups: usize,
    supers: usize,
) -> Scales {
    fn row_of<T>(all: &[T], row: usize, count: usize) -> &[T] {
        all.get(row * count..(row + 1) * count).unwrap_or_default()
    }
    let mut out = match like {
        Scales::F32(_) => Scales::F32(Vec::new()),
        Scales::F16(_) => Scales::F16(Vec::new()),
        Scales::E8m0(_) => Scales::E8m0(Vec::new()),
        Scales::Int8Super { .. } => Scales::Int8Super { groups: Vec::new(), supers: Vec::new() },
        Scales::E4m3Tensor { tensor, .. } => {
            Scales::E4m3Tensor { groups: Vec::new(), tensor: *tensor }
        }
    };
    for (scales, row) in rows {
        match (&mut out, scales) {
            (Scales::F32(to), Scales::F32(from)) => to.extend(row_of(from, row, groups)),
            (Scales::F16(to), Scales::F16(from)) => to.extend(row_of(from, row, groups)),
            (Scales::E8m0(to), Scales::E8m0(from)) => to.extend(row_of(from, row, groups)),
            (
                Scales::Int8Super { groups: to, supers: upper },
                Scales::Int8Super { groups: from, supers: from_upper },
            ) => {
                to.extend(row_of(from, row, groups));
                upper.extend(row_of(from_upper, row, supers));
            }
            (Scales::E4m3Tensor { groups: to, .. }, Scales::E4m3Tensor { groups: from, .. }) => {
                to.extend(row_of(from, row, groups));
            }
            // One format has one type of scales, so that no others meet.
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{WeightFormat, random_weights, sample_formats};

    fn matrix(format: WeightFormat, n: usize, seed: u32) -> PackedWeights {
        random_weights(format, n, 301, seed, true).unwrap()
    }

    /// Gives `b` what all rows of `a` share.
    fn sharing(a: &PackedWeights, b: PackedWeights) -> PackedWeights {
        let (format, n, k) = (b.format(), b.n(), b.k());
        let (a, mut parts) = (a.parts(), b.into_parts());
        parts.codebook.clone_from(&a.codebook);
        parts.order.clone_from(&a.order);
        if format.granularity() == Granularity::Tensor {
            parts.zeros.clone_from(&a.zeros);
            parts.scales.clone_from(&a.scales);
            parts.minima.clone_from(&a.minima);
        }
        for (to, from) in [(&mut parts.scales, &a.scales), (&mut parts.minima, &a.minima)] {
            if let (Scales::E4m3Tensor { tensor, .. }, Scales::E4m3Tensor { tensor: first, .. }) =
                (to, from)
            {
                *tensor = *first;
            }
        }
        PackedWeights::new(format, n, k, parts).unwrap()
    }

    /// Every row decodes to what it was, in every format.
    #[test]
    fn rows_are_copied_bit_for_bit() {
        let mut combined = 0;
        for format in sample_formats() {
            let a = matrix(format, 3, 1);
            let b = sharing(&a, matrix(format, 3, 2));
            let rows = |matrix: &PackedWeights| {
                let mut kept = Vec::new();
                let rows = (0..matrix.n()).map(|row| {
                    crate::reference::decode_row(matrix, row, &mut kept).unwrap();
                    kept.iter().map(|w| (w.column, w.value.to_bits())).collect::<Vec<_>>()
                });
                rows.collect::<Vec<_>>()
            };
            let (ra, rb) = (rows(&a), rows(&b));
            let stacked = PackedWeights::stack(&[&a, &b, &a]).unwrap();
            assert_eq!(rows(&stacked), [ra.clone(), rb.clone(), ra.clone()].concat(), "{format}");
            assert_eq!(PackedWeights::stack(&[&a]).unwrap(), a, "{format}");
            let turns = PackedWeights::interleave(&a, &b).unwrap();
            let want: Vec<_> = ra.into_iter().zip(rb).flat_map(|(a, b)| [a, b]).collect();
            assert_eq!(rows(&turns), want, "{format}");
            combined += 1;
        }
        assert!(combined > 100);
    }

    #[test]
    fn what_cannot_be_one_matrix_is_refused() {
        let parse = |name: &str| name.parse::<WeightFormat>().unwrap();
        assert_eq!(PackedWeights::stack(&[]), Err(FormatError::NoMatrices));
        let (int4, int8) = (parse("int4-g64"), parse("int8-channel"));
        let a = matrix(int4, 4, 1);
        assert_eq!(
            PackedWeights::stack(&[&a, &matrix(int8, 4, 1)]),
            Err(FormatError::MixedFormats { need: int4, have: int8, index: 1 })
        );
        let short = random_weights(int4, 4, 300, 1, true).unwrap();
        assert!(matches!(
            PackedWeights::stack(&[&a, &short]),
            Err(FormatError::WrongLength { part: "columns of a matrix", need: 301, have: 300 })
        ));
        assert!(matches!(
            PackedWeights::interleave(&a, &matrix(int4, 3, 1)),
            Err(FormatError::WrongLength { part: "rows of `up`", need: 4, have: 3 })
        ));
        for (name, part) in [
            ("int8-tensor", "scale of the tensor"),
            ("nvfp4", "scale of the tensor"),
            ("codebook-g64", "codebook"),
            ("int4-g64-perm", "order of columns"),
        ] {
            let format = parse(name);
            let (a, b) = (matrix(format, 4, 1), matrix(format, 4, 2));
            let error = FormatError::Differs { index: 1, part };
            assert_eq!(PackedWeights::stack(&[&a, &b]), Err(error.clone()), "{name}");
            assert_eq!(PackedWeights::interleave(&a, &b), Err(error), "{name}");
            // A matrix without rows has nothing that differs.
            let none = matrix(format, 0, 2);
            assert_eq!(PackedWeights::stack(&[&none, &a]).unwrap(), a, "{name}");
        }
    }
}
