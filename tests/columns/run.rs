//! One run of the device with all that it leaves, and the checks of each of its steps against f64.

use crate::common::floats;
use lowbit::format::{Granularity, ScaleType};
use lowbit::host::Host;
use lowbit::ops::{
    ColumnsArgs, ColumnsPlan, ColumnsSpec, FactorArgs, FactorPlan, FactorSpec, GramSpec, Pattern,
};
use lowbit::reference::{UNIT, gamma};
use pollster::block_on;

/// Columns of a block.
const BLOCK: usize = 128;
/// The word that a buffer is full of before anything is written, which is NaN as a float.
const HOLE: u32 = 0x7fc5_7fc5;

/// The rows of inputs of a layer, `[m, k]`: columns of different sizes, with what is common to neighbours.
pub fn inputs(m: usize, k: usize) -> Vec<f32> {
    let mut x = floats(m * k, 7);
    for row in x.chunks_mut(k) {
        for j in 1..k {
            row[j] = 0.6 * row[j - 1] + row[j] * [1.0, 2.0, 0.5][j % 3];
        }
    }
    x
}

pub fn triangle(x: &[f32], k: usize) -> Vec<i128> {
    let mut h = vec![0.0; k * k];
    for row in x.chunks(k) {
        for i in 0..k {
            for j in i..k {
                h[i * k + j] += f64::from(row[i]) * f64::from(row[j]);
            }
        }
    }
    let upper = (0..k).flat_map(|i| (i..k).map(move |j| i * k + j));
    upper.map(|at| (h[at] * 2f64.powi(72)) as i128).collect()
}

/// What a run left.
pub struct Run {
    spec: ColumnsSpec,
    output: Vec<u32>,
    /// The words behind the results.
    past: Vec<u32>,
    pub scales: Vec<f32>,
    masks: Vec<u32>,
    errors: Vec<f32>,
    u: Vec<f32>,
    status: Vec<u32>,
}

impl Run {
    pub fn new(
        host: &Host,
        spec: &ColumnsSpec,
        w: &[f32],
        gram: &[i128],
        order: &[u32],
        scales: &[f32],
    ) -> Self {
        let k = spec.k;
        let mut places = vec![0; k as usize];
        order.iter().enumerate().for_each(|(at, &column)| places[column as usize] = at as u32);
        let factor = FactorSpec::new(k);
        let sums = host.storage(&GramSpec::new(1, k).encode(gram).unwrap()).unwrap();
        let order = host.storage(&[order, &places].concat()).unwrap();
        let hole = |bytes: u64| host.storage(&vec![HOLE; bytes as usize / 4]).unwrap();
        let (scratch, upper) = (hole(factor.matrix_bytes()), hole(factor.matrix_bytes()));
        let diagonal = hole(4 * (u64::from(k) + 1));
        let status = host.zeros(8).unwrap();
        let plan = block_on(FactorPlan::new(host.kernels(), &factor)).unwrap();
        let args = FactorArgs {
            sums: (&sums).into(),
            order: (&order).into(),
            scratch: &scratch,
            output: &upper,
            diagonal: &diagonal,
            status: (&status).into(),
        };
        let factored = block_on(plan.bind(args)).unwrap();
        let weights = host.storage(bytemuck::cast_slice(w)).unwrap();
        let columns = hole(spec.columns_bytes());
        // Four rows of words more than there are results.
        let past = 16 * u64::from(spec.rows());
        let output = hole(spec.output_bytes() + past);
        let mut all = scales.to_vec();
        all.resize((spec.scales_bytes() / 4) as usize, f32::NAN);
        let scales = host.storage(bytemuck::cast_slice(&all)).unwrap();
        let masks = hole(spec.masks_bytes());
        let plan = block_on(ColumnsPlan::new(host.kernels(), spec)).unwrap();
        let args = ColumnsArgs {
            weights: (&weights).into(),
            order: (&order).into(),
            diagonal: &diagonal,
            factor: &upper,
            columns: &columns,
            output: &output,
            scales: &scales,
            masks: &masks,
            status: (&status).into(),
        };
        let bound = block_on(plan.bind(args)).unwrap();
        host.submit(|pass| {
            factored.record(pass, k).unwrap();
            bound.record(pass, spec.n).unwrap();
        })
        .unwrap();
        let words = |buffer, bytes: u64| host.read(buffer, 0, (bytes / 4) as usize).unwrap();
        let floats = |buffer, bytes| words(buffer, bytes).into_iter().map(f32::from_bits).collect();
        let mut output = words(&output, spec.output_bytes() + past);
        let past = output.split_off(spec.output_bytes() as usize / 4);
        Self {
            output,
            past,
            scales: floats(&scales, spec.scales_bytes()),
            masks: words(&masks, spec.masks_bytes()),
            errors: floats(&columns, spec.columns_bytes()),
            u: floats(&upper, factor.matrix_bytes()),
            status: host.read(&status, 0, 2).unwrap(),
            spec: spec.clone(),
        }
    }

    fn rows(&self) -> usize {
        self.spec.rows() as usize
    }

    fn code(&self, row: usize, at: usize) -> i32 {
        let byte = self.output[at / 4 * self.rows() + row] >> (8 * (at % 4)) & 0xff;
        let signed = self.spec.format.unwrap().code_range().unwrap().0 < 0;
        if signed { i32::from(byte as u8 as i8) } else { byte as i32 }
    }

    /// The scale and zero point that the code at a place has.
    fn affine(&self, row: usize, group: usize) -> (f64, f64) {
        let at = group * self.rows() + row;
        let zeros = self.scales.len() / 2;
        (f64::from(self.scales[at]), f64::from(self.scales[zeros + at]))
    }

    fn is_kept(&self, row: usize, at: usize) -> bool {
        self.spec.pattern.is_none() || self.masks[at / 32 * self.rows() + row] >> (at % 32) & 1 == 1
    }

    /// What is left of a row of W at each place from `from` on when the columns before `taken` were taken, and
    /// how far the device may be off.
    ///
    /// A kernel subtracts ê_j·U_ji in some order: with T = `taken` terms, γ_(2T+2) of Σ|ê_j·U_ji| + |w|, because a
    /// term goes through its product and at most T additions, in sums that are added or one by one.
    fn left(&self, w: &[f64], row: usize, taken: usize, at: usize) -> (f64, f64) {
        let k = self.spec.k as usize;
        let (mut value, mut size) = (w[at], w[at].abs());
        for j in 0..taken {
            let part =
                f64::from(self.errors[j * self.rows() + row]) * f64::from(self.u[j * k + at]);
            value -= part;
            size += part.abs();
        }
        (value, gamma(2 * taken + 2) * size + f64::from(f32::MIN_POSITIVE))
    }

    /// Checks scales, decisions and errors of every column of every row.
    pub fn check(&self, w: &[f32], order: &[u32]) {
        assert_eq!(self.status, [0, 0]);
        assert!(self.past.iter().all(|word| *word == HOLE), "words past the results are written");
        let (n, k) = (self.spec.n as usize, self.spec.k as usize);
        if let Some(Pattern::Fraction(fraction)) = self.spec.pattern {
            for first in (0..k).step_by(BLOCK) {
                self.check_fraction(w, order, first, fraction);
            }
        }
        let mut near = 0;
        for row in 0..n {
            let column = |&column: &u32| f64::from(w[row * k + column as usize]);
            let w: Vec<f64> = order.iter().map(column).collect();
            for at in 0..k {
                let (left, off) = self.left(&w, row, at, at);
                if let Some(Pattern::OfM { kept, of }) = self.spec.pattern
                    && at % of as usize == 0
                {
                    self.check_pattern(&w, row, at, (kept, of));
                }
                let kept = self.is_kept(row, at);
                let q = match self.spec.format {
                    None => {
                        let q = f64::from(f32::from_bits(self.output[at * self.rows() + row]));
                        let fine = if kept { (q - left).abs() <= off } else { q == 0.0 };
                        assert!(fine, "row {row}, place {at}: {q}, must be {left} ± {off}");
                        q
                    }
                    Some(format) => {
                        let group = self.group_of(at, order);
                        if !self.spec.given && at.is_multiple_of(self.group()) {
                            self.check_scale(&w, row, at, group);
                        }
                        let (scale, zero) = self.affine(row, group);
                        let (low, high) = format.code_range().unwrap();
                        let steps = left / scale;
                        let want = (steps.round_ties_even() + zero).clamp(low.into(), high.into());
                        let want = if kept { want } else { zero };
                        let got = f64::from(self.code(row, at));
                        // The division is accurate to 2.5 ulp.
                        let slack = off / scale + 4.0 * UNIT * steps.abs();
                        let tie = (steps - steps.floor() - 0.5).abs();
                        let fine = got == want || kept && (got - want).abs() == 1.0 && tie <= slack;
                        assert!(fine, "row {row}, place {at}: {got}, must be {want}");
                        near += usize::from(got != want);
                        (got - zero) * scale
                    }
                };
                let d = f64::from(self.u[at * k + at]);
                let error = (left - q) / d;
                let got = f64::from(self.errors[at * self.rows() + row]);
                // q is rounded once, the difference once, and the quotient is accurate to 2.5 ulp.
                let slack =
                    (off + UNIT * q.abs()) / d * (1.0 + 5.0 * UNIT) + 5.0 * UNIT * error.abs();
                let fine = (got - error).abs() <= slack + f64::from(f32::MIN_POSITIVE);
                assert!(fine, "row {row}, place {at}: e is {got}, must be {error} ± {slack}");
            }
        }
        // Codes next to ties are rare, so most decisions were checked.
        assert!(near * 100 <= n * k, "{near} codes of {} lie next to ties", n * k);
    }

    fn group(&self) -> usize {
        match self.spec.format.map(|format| format.granularity()) {
            Some(Granularity::Group(group)) => group.get() as usize,
            _ => self.spec.k as usize,
        }
    }

    fn group_of(&self, at: usize, order: &[u32]) -> usize {
        if self.spec.given { order[at] as usize / self.group() } else { at / self.group() }
    }

    fn check_scale(&self, w: &[f64], row: usize, at: usize, group: usize) {
        let format = self.spec.format.unwrap();
        let end = (at + self.group()).min(self.spec.k as usize);
        let (mut low, mut high, mut off) = (0.0f64, 0.0f64, 0.0f64);
        let masked = matches!(self.spec.pattern, Some(Pattern::Fraction(_)));
        for place in at..end {
            // What the block prunes is known when the group is reached.
            if masked && place / BLOCK == at / BLOCK && !self.is_kept(row, place) {
                continue;
            }
            let (left, own) = self.left(w, row, at, place);
            (low, high, off) = (low.max(-left), high.max(left), off.max(own));
        }
        let (least, most) = format.code_range().unwrap();
        let symmetric = format.is_symmetric();
        let extent = if symmetric { low.max(high) } else { low + high };
        let steps =
            f64::from(if symmetric { most - format.symmetric_zero() } else { most - least });
        let (scale, zero) = self.affine(row, group);
        let half = f64::from(u8::from(format.scale_type() == ScaleType::F16));
        // A sum, a division of 2.5 ulp, and half an ulp of f16.
        let slack = 2.0 * off / steps + extent / steps * (4.0 * UNIT + half * 2f64.powi(-11));
        // A group of zeros has a scale of 1.
        let want = if extent == 0.0 { 1.0 } else { extent / steps };
        assert!((scale - want).abs() <= slack, "row {row}, group {group}: {scale}, must be {want}");
        if symmetric {
            assert_eq!(zero, f64::from(format.symmetric_zero()));
        } else {
            let want = low / scale;
            let slack = off / scale + 4.0 * UNIT * want + 1e-12;
            let got = zero - f64::from(least);
            let (down, up) = (want - slack, want + slack);
            let fine = got >= down.round_ties_even().clamp(0.0, steps)
                && got <= up.round_ties_even().clamp(0.0, steps);
            assert!(fine, "row {row}, group {group}: zero point {got}, must be near {want}");
        }
    }

    /// Between which numbers the device's |w|/U_ii at a place lies, of a row of W after `taken` columns.
    fn score(&self, w: &[f64], row: usize, taken: usize, place: usize) -> (f64, f64) {
        let (left, off) = self.left(w, row, taken, place);
        let d = f64::from(self.u[place * self.spec.k as usize + place]);
        let size = left.abs() / d;
        // The division is accurate to 2.5 ulp.
        let off = off / d * (1.0 + 5.0 * UNIT) + 4.0 * UNIT * size + f64::from(f32::MIN_POSITIVE);
        (size - off, size + off)
    }

    /// As many are pruned as the pattern says, and no score of one is above that of one that is kept.
    fn check_pattern(&self, w: &[f64], row: usize, at: usize, (kept, of): (u32, u32)) {
        let end = (at + of as usize).min(self.spec.k as usize);
        let score = |place: usize| {
            let (low, high) = self.score(w, row, at, place);
            // The square.
            (low.max(0.0).powi(2), high.powi(2) * (1.0 + 2.0 * UNIT))
        };
        let absent = at + of as usize - end;
        let pruned = ((of - kept) as usize).saturating_sub(absent);
        let (kept, gone): (Vec<usize>, Vec<usize>) =
            (at..end).partition(|&place| self.is_kept(row, place));
        assert_eq!(gone.len(), pruned, "row {row}, places from {at} on");
        for &gone in &gone {
            for &kept in &kept {
                assert!(score(gone).0 <= score(kept).1, "row {row}: {gone} is pruned, not {kept}");
            }
        }
    }

    /// As many weights of a block are pruned as the fraction says, and those with the lowest scores: what is
    /// further from the threshold than the device may be off is decided as in f64.
    fn check_fraction(&self, w: &[f32], order: &[u32], first: usize, fraction: f64) {
        let (n, k) = (self.spec.n as usize, self.spec.k as usize);
        let end = k.min(first + BLOCK);
        let mut scores = Vec::with_capacity(n * (end - first));
        for row in 0..n {
            let column = |&column: &u32| f64::from(w[row * k + column as usize]);
            let w: Vec<f64> = order.iter().map(column).collect();
            scores.extend((first..end).map(|at| {
                let (low, high) = self.score(&w, row, first, at);
                (low, high, self.is_kept(row, at))
            }));
        }
        let gone = scores.iter().filter(|(.., kept)| !kept).count();
        let pruned = (scores.len() as f64 * fraction) as usize;
        assert_eq!(gone, pruned, "weights of the block from {first} on");
        let of = |kept| scores.iter().filter(move |score| score.2 == kept);
        let most = of(false).map(|&(low, ..)| low).fold(f64::NEG_INFINITY, f64::max);
        let least = of(true).map(|&(_, high, _)| high).fold(f64::INFINITY, f64::min);
        assert!(most <= least, "block {first}: a score of {most} is pruned, and {least} is kept");
        if pruned > 0 {
            // Scores that may lie on either side of the threshold are rare, but for weights that are 0.
            let mut middles: Vec<f64> = scores.iter().map(|(low, high, _)| low + high).collect();
            middles.sort_by(f64::total_cmp);
            let threshold = middles[pruned - 1] / 2.0;
            let near = |&&(low, high, _): &&(f64, f64, bool)| low <= threshold && threshold <= high;
            let near = scores.iter().filter(near).filter(|(low, ..)| *low > 0.0).count();
            assert!(near <= 3 + scores.len() / 200, "{near} of {} scores are near", scores.len());
        }
    }

    /// Whether each weight of a row-major W is kept.
    pub fn kept(&self, order: &[u32]) -> Vec<bool> {
        let (n, k) = (self.spec.n as usize, self.spec.k as usize);
        let mut kept = vec![false; n * k];
        for row in 0..n {
            for (at, &column) in order.iter().enumerate() {
                kept[row * k + column as usize] = self.is_kept(row, at);
            }
        }
        kept
    }
}
