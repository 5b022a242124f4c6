//! Counts lines and bank conflicts of what lanes access at once.

/// Sizes of lines, in bytes: a sector of NVIDIA's caches; a line of Intel's and of GCN's; a line of
/// RDNA's and of NVIDIA's.
pub const LINE_BYTES: [u32; 3] = [32, 64, 128];

/// Banks of workgroup memory, of 4 bytes each, as NVIDIA's and AMD's hardware has them.
const BANKS: usize = 32;

/// Lines and bytes of some accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Times that a subgroup loads or stores.
    pub accesses: u64,
    /// Different bytes of each access.
    pub used: u64,
    /// Different lines of each access, by [`LINE_BYTES`].
    pub lines: [u64; 3],
    /// Lines that the different bytes of each access would fill.
    pub ideal: [u64; 3],
}

impl Lines {
    /// Adds one access: `starts` are the first bytes of the lanes that take part, of `bytes` bytes
    /// each. Sorts them.
    pub fn add(&mut self, starts: &mut [u32], bytes: u32) {
        starts.sort_unstable();
        let mut used = 0;
        let mut end = 0;
        let mut next_line = [0; 3];
        for &start in &*starts {
            let (start, stop) = (u64::from(start), u64::from(start) + u64::from(bytes));
            used += stop - start.max(end).min(stop);
            end = stop;
            for ((line, next), size) in self.lines.iter_mut().zip(&mut next_line).zip(LINE_BYTES) {
                let past = stop.div_ceil(size.into());
                let first = (start / u64::from(size)).max(*next);
                *line += past.saturating_sub(first);
                *next = past.max(*next);
            }
        }
        for (ideal, size) in self.ideal.iter_mut().zip(LINE_BYTES) {
            *ideal += used.div_ceil(size.into());
        }
        self.accesses += 1;
        self.used += used;
    }

    /// Returns how many times the lines that its bytes would fill it touches; 1 if it touches none.
    pub fn factor(&self, size: usize) -> f64 {
        match self.ideal[size] {
            0 => 1.0,
            ideal => self.lines[size] as f64 / ideal as f64,
        }
    }
}

impl std::ops::AddAssign for Lines {
    fn add_assign(&mut self, other: Self) {
        self.accesses += other.accesses;
        self.used += other.used;
        for size in 0..LINE_BYTES.len() {
            self.lines[size] += other.lines[size];
            self.ideal[size] += other.ideal[size];
        }
    }
}

/// Cycles of workgroup memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Banks {
    /// Times that a subgroup loads or stores.
    pub accesses: u64,
    /// Cycles that they take: of each access, the largest number of different words in one bank.
    pub cycles: u64,
    /// Cycles that they would take if their words were spread over all banks.
    pub ideal: u64,
}

impl Banks {
    /// Adds one access, as [`Lines::add`] does. Lanes that access the same word share it. Wide accesses
    /// take several cycles, and which lanes share one is the hardware's choice: the best is counted.
    pub fn add(&mut self, starts: &[u32], bytes: u32) {
        let words = |&start: &u32| start / 4..(start + bytes).div_ceil(4);
        let mut all: Vec<u32> = starts.iter().flat_map(words).collect();
        all.sort_unstable();
        all.dedup();
        let mut banks = [0u64; BANKS];
        for word in &all {
            banks[*word as usize % BANKS] += 1;
        }
        self.accesses += 1;
        self.cycles += banks.into_iter().max().unwrap_or(0);
        self.ideal += all.len().div_ceil(BANKS) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(starts: impl IntoIterator<Item = u32>, bytes: u32) -> Lines {
        let mut lines = Lines::default();
        lines.add(&mut starts.into_iter().collect::<Vec<_>>(), bytes);
        lines
    }

    fn counts(used: u64, lines: [u64; 3], ideal: [u64; 3]) -> Lines {
        Lines { accesses: 1, used, lines, ideal }
    }

    #[test]
    fn lines_are_those_that_lanes_touch() {
        // 32 neighbouring vectors, in any order.
        let vectors = (0..32).rev().map(|lane| 16 * lane);
        assert_eq!(lines(vectors, 16), counts(512, [16, 8, 4], [16, 8, 4]));
        // A line for each lane.
        let strided = (0..32).map(|lane| 128 * lane);
        assert_eq!(lines(strided, 16), counts(512, [32; 3], [16, 8, 4]));
        // All lanes load one word.
        assert_eq!(lines([400; 32], 4), counts(4, [1; 3], [1; 3]));
        // Four bytes late, the last vector ends in one more line.
        let late = (0..32).map(|lane| 16 * lane + 4);
        assert_eq!(lines(late, 16), counts(512, [17, 9, 5], [16, 8, 4]));
        // One lane, over the end of a line of any size.
        assert_eq!(lines([120], 16), counts(16, [2; 3], [1; 3]));
        // Lanes that overlap in part.
        assert_eq!(lines([0, 8, 4], 16), counts(24, [1; 3], [1; 3]));
        // A load that spans lines on its own.
        assert_eq!(lines([0], 256), counts(256, [8, 4, 2], [8, 4, 2]));
        assert_eq!(lines([], 4), counts(0, [0; 3], [0; 3]));
    }

    #[test]
    fn the_fullest_bank_counts() {
        let banks = |starts: &[u32], bytes| {
            let mut banks = Banks::default();
            banks.add(starts, bytes);
            (banks.cycles, banks.ideal)
        };
        let every = |stride: u32| (0..32).map(|lane| lane * stride).collect::<Vec<_>>();
        assert_eq!(banks(&every(4), 4), (1, 1));
        assert_eq!(banks(&every(8), 4), (2, 1));
        assert_eq!(banks(&every(128), 4), (32, 1));
        assert_eq!(banks(&every(132), 4), (1, 1));
        assert_eq!(banks(&every(16), 16), (4, 4));
        assert_eq!(banks(&[64; 32], 4), (1, 1));
        assert_eq!(banks(&[], 4), (0, 0));
    }
}
