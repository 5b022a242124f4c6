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

/// How many workgroups a kernel needs: the product of some factors. It is declared with the kernel,
/// for callers who record kernels by themselves.
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
        assert_eq!((Grid::new(&[]).formula().as_str(), Grid::new(&[]).groups(|_| 0)), ("1", 1));
    }
}
