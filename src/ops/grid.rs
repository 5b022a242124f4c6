use crate::gpu::Shader;
use std::fmt::Write;

/// One factor of a [`Grid`]: ⌈(product of some numbers) / `each`⌉.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// The numbers, by the names of [`VARIABLES`].
    pub of: &'static [&'static str],
    /// How many of them one workgroup takes.
    pub each: u32,
}

/// How many workgroups a kernel wants: the product of its factors. For those who record kernels
/// by themselves; the ops of this crate do by `record`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// What is multiplied. Without any, one workgroup.
    pub factors: Vec<Factor>,
    /// Whether the kernel takes a grid of any shape that has at least so many workgroups: it
    /// numbers them by x + X · (y + Y · z). Otherwise all are along x.
    pub folds: bool,
}

/// What the numbers in a [`Grid`] are. A dispatch is of one block of rows of W, and of one span of
/// rows of X; where all fit their bindings, that is all of them.
pub const VARIABLES: [(&str, &str); 15] = [
    ("m", "rows of X in this dispatch: min(count − p.m0, p.m_cap), the count by bindings 1 and 2"),
    ("rows", "rows of W in this dispatch: the parameter `rows`"),
    ("batch", "products of one size: the parameter `batch`"),
    ("blocks", "the parameter `blocks`: ⌈k/32⌉"),
    ("code_words", "the parameter `code_words`: words of codes of a row of W"),
    ("scale_words", "words of scales and zero points of a row: side_words − scale_at"),
    ("row_words", "words of a row in the device layout: code_words + side_words"),
    ("clear_words", "max(the parameter `extreme_words`, 4)"),
    ("out_rows", "rows that are written: the parameter `out_rows`, at most the count of a gather"),
    ("out_words", "words of a row that is written: k, or ⌈k/2⌉ of f16"),
    ("words", "words of the observation: the parameter `words`"),
    ("tiles", "the parameter `tiles`: units of work in a row"),
    (
        "units",
        "m · tiles; where all of X shares a learned scale, the parameter `workers`, which is any",
    ),
    ("row_sums", "m; where all of X shares a scale (the parameter `scale_stride` is 0), 1"),
    ("pairs", "pairs of f16: 32768, every f16 once"),
];

impl Grid {
    fn new(factors: &[(&'static [&'static str], u32)]) -> Self {
        let factors = factors.iter().map(|&(of, each)| Factor { of, each: each.max(1) });
        Self { factors: factors.collect(), folds: true }
    }

    /// Of a matmul whose workgroups make tiles of Y.
    pub(crate) fn tiles(tile_m: u32, tile_n: u32) -> Self {
        Self::new(&[(&["m"], tile_m), (&["rows"], tile_n), (&["batch"], 1)])
    }

    /// Of a kernel that is no matmul, by the file that has its `main`. `None` for matmuls, whose
    /// [`KernelChoice`](super::KernelChoice) knows their tiles, and for other people's shaders.
    pub fn of(shader: &Shader) -> Option<Self> {
        let main = shader.fragments.last()?.name;
        Some(match main {
            "quantize/reset" => Self::new(&[(&["clear_words"], 64)]),
            "quantize/scales" => Self::new(&[(&["rows", "scale_words"], 64)]),
            "quantize/codes" => Self::new(&[(&["rows", "code_words"], 64)]),
            "sparse/prune"
            | "sparse/place"
            | "quantize/ranges"
            | "quantize/block_ranges"
            | "quantize/block_codes" => Self::new(&[(&["rows", "blocks"], 64)]),
            "quantize/repack" => Self::new(&[(&["rows", "row_words"], 64)]),
            "quantize/dequantize" => Self::new(&[(&["out_rows", "out_words"], 64)]),
            "activations/reset" | "fake/scale" => Self::new(&[]),
            "activations/ranges" | "activations/quantize" => Self::new(&[(&["m"], 1)]),
            "activations/sums" => Self::new(&[(&["m"], 1), (&["batch"], 1)]),
            "observe/reset" => Self::new(&[(&["words"], super::observe::WORKGROUP)]),
            "observe/ranges" | "observe/histogram" => {
                Self::new(&[(&["blocks"], 1), (&["m"], super::observe::TILE_ROWS)])
            }
            "fake/forward" | "fake/dynamic" | "fake/ranges" | "fake/groups" => {
                Self::new(&[(&["m"], 1), (&["tiles"], 1)])
            }
            "fake/backward" => Self::new(&[(&["units"], 1)]),
            "fake/sums" => Self::new(&[(&["row_sums"], 1)]),
            "probe/halves" => Self { folds: false, ..Self::new(&[(&["pairs"], 64)]) },
            _ => return None,
        })
    }

    /// Workgroups, given the numbers. Numbers that are not asked for here do not matter.
    pub fn groups(&self, number: impl Fn(&str) -> u64) -> u64 {
        let factor = |factor: &Factor| {
            let all = factor.of.iter().fold(1u64, |all, name| all.saturating_mul(number(name)));
            all.div_ceil(factor.each.max(1).into())
        };
        self.factors.iter().map(factor).fold(1, u64::saturating_mul)
    }

    /// As text: `⌈m/32⌉ · ⌈rows/64⌉ · batch`.
    pub fn formula(&self) -> String {
        let mut formula = String::new();
        for (index, Factor { of, each }) in self.factors.iter().enumerate() {
            let (times, all) = (if index > 0 { " · " } else { "" }, of.join(" · "));
            // Writing to a String cannot fail.
            let _ = match (each, of.len()) {
                (1, _) => write!(formula, "{times}{all}"),
                (_, 1) => write!(formula, "{times}⌈{all}/{each}⌉"),
                _ => write!(formula, "{times}⌈({all})/{each}⌉"),
            };
        }
        if formula.is_empty() { "1".into() } else { formula }
    }

    /// The numbers that it asks for, with what they are.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let asked = |name: &str| self.factors.iter().any(|f| f.of.contains(&name));
        VARIABLES.into_iter().filter(move |(name, _)| asked(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_is_what_is_computed() {
        let grid = Grid::tiles(32, 64);
        assert_eq!(grid.formula(), "⌈m/32⌉ · ⌈rows/64⌉ · batch");
        let numbers = |name: &str| match name {
            "m" => 33,
            "rows" => 128,
            _ => 3,
        };
        assert_eq!(grid.groups(numbers), 2 * 2 * 3);
        let grid = Grid::new(&[(&["rows", "blocks"], 64)]);
        assert_eq!(grid.formula(), "⌈(rows · blocks)/64⌉");
        assert_eq!(grid.groups(|_| 9), 2);
        assert_eq!((Grid::new(&[]).formula().as_str(), Grid::new(&[]).groups(|_| 0)), ("1", 1));
    }
}
