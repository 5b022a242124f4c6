use std::fmt::Write;

/// A number that the size of a grid depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variable {
    /// The name that formulas use.
    pub name: &'static str,
    /// What the number is, in a few words.
    pub meaning: &'static str,
}

impl Variable {
    /// Rows of X in one dispatch.
    pub const M: Self = Self {
        name: "m",
        meaning: "rows of X in this dispatch: min(count − p.m0, p.m_cap), the count by bindings 1 and 2",
    };
    /// Rows of W in one dispatch. A dispatch covers one block of rows of W; if all rows fit one
    /// binding, that block is all of W.
    pub const ROWS: Self =
        Self { name: "rows", meaning: "rows of W in this dispatch: the parameter `rows`" };
    /// Products of a batch.
    pub const BATCH: Self =
        Self { name: "batch", meaning: "products of one size: the parameter `batch`" };
    /// Blocks of 32 columns.
    pub const BLOCKS: Self = Self { name: "blocks", meaning: "the parameter `blocks`: ⌈k/32⌉" };
}

/// One factor of a [`Grid`]: ⌈(product of some numbers) / `each`⌉.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Factor {
    of: Vec<Variable>,
    each: u32,
}

/// How many workgroups a kernel needs: the product of some factors. It is declared with the kernel.
/// Ops record by it, and so do callers who record kernels by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    factors: Vec<Factor>,
    folds: bool,
}

impl Grid {
    /// Returns the product of ⌈(product of the variables) / `each`⌉ over `factors`; one workgroup
    /// if there are none. The grid may have any shape: see [`folds`](Self::folds).
    pub fn new(factors: &[(&[Variable], u32)]) -> Self {
        let factor = |&(of, each): &(&[Variable], u32)| Factor { of: of.into(), each: each.max(1) };
        Self { factors: factors.iter().map(factor).collect(), folds: true }
    }

    /// Returns this grid with all workgroups along x, not folded into three dimensions.
    #[must_use]
    pub fn along_x(self) -> Self {
        Self { folds: false, ..self }
    }

    /// Returns whether the kernel accepts a grid of any shape with at least the number of workgroups
    /// that it needs, because it numbers them by x + X · (y + Y · z). Otherwise all workgroups lie
    /// along x.
    pub fn folds(&self) -> bool {
        self.folds
    }

    /// Returns the number of workgroups, if `number` gives the value of each variable.
    pub fn groups(&self, number: impl Fn(Variable) -> u64) -> u64 {
        let factor = |factor: &Factor| {
            let all = factor.of.iter().fold(1u64, |all, of| all.saturating_mul(number(*of)));
            all.div_ceil(factor.each.into())
        };
        self.factors.iter().map(factor).fold(1, u64::saturating_mul)
    }

    /// Returns the number of workgroups of one dispatch as a function of its number of rows, if `size` says
    /// what each variable is in it.
    pub(crate) fn workgroups(&self, size: impl Fn(Variable) -> Size) -> Workgroups {
        let mut workgroups = Workgroups { fixed: 1, per_rows: Vec::new() };
        for factor in &self.factors {
            let mut of_rows = OfRows { times: 1, power: 0, each: factor.each.into() };
            for &variable in &factor.of {
                let (times, power) = match size(variable) {
                    Size::Fixed(number) => (number, 0),
                    Size::PerRow(number) => (number, 1),
                };
                of_rows.times = of_rows.times.saturating_mul(times);
                of_rows.power += power;
            }
            if of_rows.power == 0 {
                workgroups.fixed = workgroups.fixed.saturating_mul(of_rows.groups(0));
            } else {
                workgroups.per_rows.push(of_rows);
            }
        }
        workgroups
    }

    /// Returns the formula as text: `⌈m/32⌉ · ⌈rows/64⌉ · batch`.
    pub fn formula(&self) -> String {
        let mut formula = String::new();
        for (index, Factor { of, each }) in self.factors.iter().enumerate() {
            let names: Vec<_> = of.iter().map(|variable| variable.name).collect();
            let (times, all) = (if index > 0 { " · " } else { "" }, names.join(" · "));
            // Writing to a String cannot fail.
            let _ = match (each, of.len()) {
                (1, _) => write!(formula, "{times}{all}"),
                (_, 1) => write!(formula, "{times}⌈{all}/{each}⌉"),
                _ => write!(formula, "{times}⌈({all})/{each}⌉"),
            };
        }
        if formula.is_empty() { "1".into() } else { formula }
    }

    /// Returns the variables of the formula, each once.
    pub fn variables(&self) -> Vec<Variable> {
        let mut all: Vec<Variable> = Vec::new();
        for &variable in self.factors.iter().flat_map(|factor| &factor.of) {
            if !all.contains(&variable) {
                all.push(variable);
            }
        }
        all
    }
}

/// What a variable of a [`Grid`] is in one dispatch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    /// This number.
    Fixed(u64),
    /// This number times the number of rows that the dispatch takes.
    PerRow(u64),
}

/// The number of workgroups of one dispatch, as a function of the number of rows that it takes.
#[derive(Clone, Debug)]
pub(crate) struct Workgroups {
    /// The product of the factors that do not depend on the number of rows.
    fixed: u64,
    per_rows: Vec<OfRows>,
}

/// A factor that depends on the number of rows: ⌈times · rowsᵖᵒʷᵉʳ / each⌉.
#[derive(Clone, Copy, Debug)]
struct OfRows {
    times: u64,
    power: u32,
    each: u64,
}

impl OfRows {
    fn groups(&self, rows: u32) -> u64 {
        let rows = u64::from(rows).saturating_pow(self.power);
        self.times.saturating_mul(rows).div_ceil(self.each)
    }
}

impl Workgroups {
    /// The number of workgroups for this number of rows. It does not allocate.
    pub fn of(&self, rows: u32) -> u64 {
        self.per_rows.iter().map(|factor| factor.groups(rows)).fold(self.fixed, u64::saturating_mul)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_is_what_is_computed() {
        let (m, rows, batch) = (Variable::M, Variable::ROWS, Variable::BATCH);
        let grid = Grid::new(&[(&[m], 32), (&[rows], 64), (&[batch], 1)]);
        assert_eq!(grid.formula(), "⌈m/32⌉ · ⌈rows/64⌉ · batch");
        let numbers = |variable| match variable {
            Variable::M => 33,
            Variable::ROWS => 128,
            _ => 3,
        };
        assert_eq!(grid.groups(numbers), 2 * 2 * 3);
        let grid = Grid::new(&[(&[rows, Variable::BLOCKS], 64)]);
        assert_eq!(grid.formula(), "⌈(rows · blocks)/64⌉");
        assert_eq!(grid.groups(|_| 9), 2);
        let workgroups = grid.workgroups(|variable| match variable {
            Variable::ROWS => Size::PerRow(1),
            _ => Size::Fixed(9),
        });
        assert_eq!([0, 1, 7, 8].map(|rows| workgroups.of(rows)), [0, 1, 1, 2]);
        let workgroups = grid.workgroups(|_| Size::PerRow(2));
        assert_eq!([4, 5, u32::MAX].map(|rows| workgroups.of(rows)), [1, 2, u64::MAX / 64 + 1]);
        let workgroups = Grid::new(&[]).workgroups(|_| Size::Fixed(0));
        assert_eq!([0, 5].map(|rows| workgroups.of(rows)), [1, 1]);
        assert_eq!((Grid::new(&[]).formula().as_str(), Grid::new(&[]).groups(|_| 0)), ("1", 1));
    }
}
