//! How a weight is compressed: the method, what it prunes, and its options.

use lowbit::compress::layerwise::{Options, Order, Pattern};
use lowbit::format::{ActivationFormat, WeightFormat};
use lowbit::ops::{Activations, MatmulSpec};

/// A method that makes compressed weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// Every weight is rounded to the nearest number of its format. With a sparsity, the weights that are smallest
    /// in magnitude are pruned first.
    #[default]
    Rtn,
    /// Columns are rounded one after the other, and what each loses is made up for by those that follow.
    Gptq,
    /// Columns are scaled before they are rounded, those with large inputs up, where the factors can be folded into
    /// what makes the inputs; and ranges are clipped by the output error.
    Awq,
    /// Weights are pruned, and rounded if the format asks for it, with the same compensation as in GPTQ.
    SparseGpt,
    /// The weights with the smallest |w| · ‖x‖₂ are pruned.
    Wanda,
    /// The weights that are smallest in magnitude are pruned.
    Magnitude,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 6] =
        [Self::Rtn, Self::Gptq, Self::Awq, Self::SparseGpt, Self::Wanda, Self::Magnitude];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rtn => "rtn",
            Self::Gptq => "gptq",
            Self::Awq => "awq",
            Self::SparseGpt => "sparsegpt",
            Self::Wanda => "wanda",
            Self::Magnitude => "magnitude",
        }
    }

    /// Returns whether it needs to see what a layer takes.
    pub fn needs_inputs(self) -> bool {
        !matches!(self, Self::Rtn | Self::Magnitude)
    }

    /// Returns whether pruning is all that it does beside rounding.
    pub fn prunes(self) -> bool {
        matches!(self, Self::SparseGpt | Self::Wanda | Self::Magnitude)
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|method| method.name() == text);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is no method; there are {names}")
        })
    }
}

/// In which order columns are rounded or pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ColumnOrder {
    /// As they are, with the scales of the weights as they were before the first column was rounded.
    #[default]
    Columns,
    /// As they are, with scales that are found when the first column of a group is reached.
    ColumnsUpdated,
    /// Those with the largest inputs first; the columns of the compressed weight are in that order too, and groups are
    /// made of it.
    Activations,
    /// Those with the largest inputs first; groups and columns stay as they are.
    ActivationsStatic,
}

impl ColumnOrder {
    /// All orders.
    pub const ALL: [Self; 4] =
        [Self::Columns, Self::ColumnsUpdated, Self::Activations, Self::ActivationsStatic];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Columns => "columns",
            Self::ColumnsUpdated => "columns-updated",
            Self::Activations => "activations",
            Self::ActivationsStatic => "activations-static",
        }
    }
}

impl std::str::FromStr for ColumnOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|order| order.name() == text);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is no order of columns; there are {names}")
        })
    }
}

/// Into what AWQ folds its factors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fold {
    /// Into normalizations, and into the rows of the weights that make an input.
    #[default]
    All,
    /// Into normalizations only, so that no weight changes because of how another one is compressed.
    Norms,
}

impl Fold {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Norms => "norms",
        }
    }
}

impl std::str::FromStr for Fold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::All, Self::Norms].into_iter().find(|fold| fold.name() == text);
        known.ok_or_else(|| {
            format!("`{text}` is neither all nor norms, into which awq folds factors")
        })
    }
}

/// How a weight is compressed.
#[derive(Clone, Debug, PartialEq)]
pub struct Treatment {
    /// The method.
    pub method: Method,
    /// Which weights are pruned.
    pub sparsity: Pattern,
    /// The order in which GPTQ and SparseGPT take columns.
    pub order: ColumnOrder,
    /// The number that is added to the diagonal of XᵀX, as a part of its mean.
    pub damping: f64,
    /// Whether ranges are shrunk to where the error is least.
    pub clip: bool,
    /// Whether columns are permuted before 2:4 pruning so that more is kept.
    pub permute: bool,
    /// Whether magnitude pruning has one threshold for all weights that it prunes by the same part, so that some layers
    /// lose more than others.
    pub global: bool,
    /// Into what AWQ folds its factors.
    pub fold: Fold,
    /// The format of the codes that the layer's input becomes, with scales taken from it at run time. `None` leaves floats.
    pub activations: Option<ActivationFormat>,
}

impl Default for Treatment {
    fn default() -> Self {
        Self {
            method: Method::default(),
            sparsity: Pattern::Dense,
            order: ColumnOrder::default(),
            damping: 0.01,
            clip: false,
            permute: false,
            global: false,
            fold: Fold::default(),
            activations: None,
        }
    }
}

impl Treatment {
    /// Returns the treatment by a method with its usual options.
    pub fn of(method: Method) -> Self {
        Self { method, ..Self::default() }
    }

    /// Returns whether it is what [`compress`](crate::compress) does without looking at inputs: rounding to nearest,
    /// after pruning to 2:4 by magnitude if the format is 2:4, and inputs stay floats.
    pub fn is_plain(&self) -> bool {
        let method = matches!(self.method, Method::Rtn | Method::Magnitude);
        let sparsity = matches!(self.sparsity, Pattern::Dense | Pattern::TWO_FOUR);
        method && sparsity && !self.clip && !self.permute && self.activations.is_none()
    }

    /// Checks that its parts fit each other.
    ///
    /// # Errors
    /// Returns a sentence that says what does not fit.
    pub fn check(&self) -> Result<(), String> {
        let Self { method, sparsity, order, damping, permute, fold, .. } = self;
        let loops = matches!(method, Method::Gptq | Method::SparseGpt);
        if method.prunes() && *sparsity == Pattern::Dense {
            return Err(format!("{method} prunes, and there is no sparsity; give one, as in 2:4"));
        }
        if matches!(method, Method::Gptq | Method::Awq) && *sparsity != Pattern::Dense {
            let next = "sparsegpt prunes and rounds in one pass";
            return Err(format!("{method} prunes nothing, and the sparsity is {sparsity}; {next}"));
        }
        if *order != ColumnOrder::Columns && !loops {
            return Err(format!("{method} has no order of columns; gptq and sparsegpt have one"));
        }
        if self.clip && !matches!(method, Method::Gptq | Method::SparseGpt | Method::Rtn) {
            return Err(format!("{method} takes no `clip`; awq clips by itself"));
        }
        if self.clip && *method == Method::Rtn && *sparsity != Pattern::Dense {
            let next = "sparsegpt prunes and clips";
            return Err(format!("rtn clips only what it does not prune; {next}"));
        }
        if *damping != Self::default().damping && !loops {
            return Err(format!("{method} has no damping; gptq and sparsegpt have one"));
        }
        let by_activations =
            matches!(order, ColumnOrder::Activations | ColumnOrder::ActivationsStatic);
        if by_activations && matches!(sparsity, Pattern::OfM { .. }) {
            let next = "take columns as they are, or prune a part such as 0.5";
            return Err(format!(
                "{sparsity} is a pattern of neighboring columns, and columns are taken by activations; {next}"
            ));
        }
        if *fold != Fold::default() && *method != Method::Awq {
            return Err(format!("{method} folds nothing; `fold` goes with awq"));
        }
        if *permute && *sparsity != Pattern::TWO_FOUR {
            return Err(format!("columns are permuted for 2:4, and the sparsity is {sparsity}"));
        }
        if *permute && *order == ColumnOrder::Activations {
            return Err("columns have one order: permuted, or by activations".into());
        }
        if self.global {
            if *method != Method::Magnitude {
                let next = "magnitude has one";
                return Err(format!("{method} has no threshold for all weights together; {next}"));
            }
            if !matches!(sparsity, Pattern::Fraction(_)) {
                let what = "one threshold for all weights prunes a part of them, such as 0.5";
                return Err(format!("{what}, and the sparsity is {sparsity}"));
            }
        }
        if !(damping.is_finite() && (0.0..=1.0).contains(damping)) {
            return Err(format!("the damping is {damping}; it is from 0 to 1"));
        }
        Ok(())
    }

    /// Returns whether it needs to see what a layer takes.
    pub fn needs_inputs(&self) -> bool {
        self.method.needs_inputs() || self.clip
    }

    /// Returns its name for tables and results: the method, the order of columns if it is another one, and `-global` if
    /// there is one threshold for all weights.
    pub fn name(&self) -> String {
        let order = match self.order {
            ColumnOrder::Columns => "",
            ColumnOrder::ColumnsUpdated => "-updated",
            ColumnOrder::Activations => "-actorder",
            ColumnOrder::ActivationsStatic => "-actorder-static",
        };
        let global = if self.global { "-global" } else { "" };
        format!("{}{order}{global}", self.method)
    }

    /// Returns why no kernel multiplies a matrix `[n, k]` of a format with the activations that are asked for, or `None`
    /// if one does.
    pub(crate) fn refused_activations(
        &self,
        format: WeightFormat,
        n: usize,
        k: usize,
    ) -> Option<String> {
        let activations = self.activations?;
        let (Ok(n), Ok(k)) = (u32::try_from(n), u32::try_from(k)) else {
            return Some("the matrix is too large".into());
        };
        let permuted = self.permute || self.order == ColumnOrder::Activations;
        let format = if permuted { format.permuted() } else { format };
        let spec = MatmulSpec::new(1, n, k, format);
        let checked = spec.with_activations(Activations::Int8(activations)).check();
        let refused =
            |error| format!("as {format} it cannot be multiplied with {activations}: {error}");
        checked.err().map(refused)
    }

    /// Returns the options of the column loops.
    pub(super) fn options(&self) -> Options {
        Options {
            damping: self.damping,
            order: match self.order {
                ColumnOrder::Columns => Order::AsIsStatic,
                ColumnOrder::ColumnsUpdated => Order::AsIs,
                ColumnOrder::Activations => Order::ByDiagonal { static_groups: false },
                ColumnOrder::ActivationsStatic => Order::ByDiagonal { static_groups: true },
            },
            clip: self.clip,
            ..Options::default()
        }
    }
}
