//! Rounds and prunes a matrix column by column, and moves the error that this makes into the columns that
//! follow: what GPTQ and SparseGPT have in common.
//!
//! For each column i in order, q is what is kept of the weights w of the column, e = (w − q)/U_ii, and
//! w_j −= e·U_ij for the columns j after it. U is the upper triangle with H⁻¹ = UᵀU, as
//! [`factor`](super::factor) makes it. Columns are taken in blocks of 128: a product brings a block up to date,
//! and then a lane goes through the columns of some rows. What a fraction prunes of a block is found before that.

mod select;

use super::buffers::{Resource, Window, check, check_aliases, window_capacity};
use super::products::{self, Params as Product, Shared, flag};
use super::recording::{Bound, Count, Draft, Head, pipelines};
use super::rows::Span;
use super::{BindError, PlanError, Role, SubBuffer};
use crate::format::{Granularity, ScaleType, WeightFormat};
use crate::gpu::{
    Access, AdapterClass, Binding, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, Pipeline, Size,
    Variable, fragment, uniform,
};
use std::sync::Arc;

/// Columns of a block.
const BLOCK: u32 = 128;

/// Columns that are taken at a time.
const SUB: u32 = 8;

/// Columns of the largest pattern.
const MAX_OF: u32 = 16;

/// Lanes of a workgroup.
const WORKGROUP: u32 = 64;

/// The largest number of rows and columns. Elements have numbers below 2³¹ then.
const MAX_SIDE: u32 = 1 << 20;

/// Which weights are pruned. Their scores are w²/U_ii², and the lowest go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Each row keeps `kept` of every `of` consecutive columns. Scores are those of the weights as they are when
    /// the first of these columns is taken. Of equal ones the first is kept.
    OfM {
        /// The number of columns that are kept.
        kept: u32,
        /// The number of consecutive columns: 2, 4, 8 or 16.
        of: u32,
    },
    /// This part of the weights of each block of 128 columns is pruned, at least 0 and below 1. Scores are those
    /// of all rows when the first column of the block is taken. The number of weights is rounded down. Of equal
    /// scores the first is kept, row by row of the block.
    Fraction(f64),
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OfM { kept, of } => write!(f, "{kept}:{of}"),
            Self::Fraction(fraction) => write!(f, "{fraction}"),
        }
    }
}

/// Why what was read back of the status is not sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnsError {
    /// Groups whose scales the format cannot hold.
    #[error(
        "{count} groups of weights have scales that are no normal numbers of the format's scale type"
    )]
    ScaleRange {
        /// The number of such groups, counted once for each lane that met some.
        count: u32,
    },
    /// Weights that are not finite, or became so.
    #[error("{count} columns have weights that are not finite, or became so; raise the damping")]
    NotFinite {
        /// The number of such columns, counted once for each lane that met some.
        count: u32,
    },
    /// The status has a wrong number of words.
    #[error("the status has {0} words, but it must have 2")]
    Words(usize),
}

/// A matrix W, `[n, k]`, and what is made of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ColumnsSpec {
    /// Rows of W.
    pub n: u32,
    /// Columns of W.
    pub k: u32,
    /// The format of the codes: dense integers of 2 to 8 bits with f32 or f16 scales for groups of 16,
    /// 32, 64 or 128 columns, or for channels. `None` keeps what is not pruned as it is.
    pub format: Option<WeightFormat>,
    /// The pattern by which weights are pruned, if any are.
    pub pattern: Option<Pattern>,
    /// Whether scales and zero points are given instead of found when a group is reached.
    pub given: bool,
    /// Elements from one row of W to the next.
    pub w_stride: u32,
}

impl ColumnsSpec {
    /// The number of bytes of the status buffer.
    pub const STATUS_BYTES: u64 = 8;

    /// Creates a spec with packed rows that prunes nothing and finds its scales.
    pub fn new(n: u32, k: u32, format: Option<WeightFormat>) -> Self {
        Self { n, k, format, pattern: None, given: false, w_stride: k }
    }

    /// Prunes by a pattern.
    pub fn with_pattern(self, pattern: Pattern) -> Self {
        Self { pattern: Some(pattern), ..self }
    }

    /// Takes the scales and zero points that the buffer of scales holds.
    pub fn with_given_scales(self) -> Self {
        Self { given: true, ..self }
    }

    /// Returns the rows that the buffers have room for: n, rounded up to whole lanes.
    pub fn rows(&self) -> u32 {
        self.n.div_ceil(4).saturating_mul(4)
    }

    /// Columns of a group.
    fn group(&self) -> u32 {
        match self.format.map(|format| format.granularity()) {
            Some(Granularity::Group(group)) => group.get().min(self.k.max(1)),
            _ => self.k.max(1),
        }
    }

    /// Returns the groups of a row.
    pub fn groups(&self) -> u32 {
        self.k.div_ceil(self.group())
    }

    /// Returns the bytes of the transposed W, `[k, rows]` f32.
    pub fn columns_bytes(&self) -> u64 {
        (4 * u64::from(self.k)).saturating_mul(self.rows().into())
    }

    /// Returns the bytes of the result: of codes `[⌈k/8⌉ · 2, rows]` words of four, of floats `[k, rows]`.
    pub fn output_bytes(&self) -> u64 {
        let words = if self.format.is_some() { 2 * self.k.div_ceil(8) } else { self.k };
        (4 * u64::from(words)).saturating_mul(self.rows().into())
    }

    /// Returns the bytes of the scales, `[groups, rows]` f32, and the zero points after them.
    pub fn scales_bytes(&self) -> u64 {
        (8 * u64::from(self.groups())).saturating_mul(self.rows().into())
    }

    /// Returns the bytes of the masks, `[⌈k/32⌉, rows]` words, and after them of what finds the threshold of a
    /// fraction.
    pub fn masks_bytes(&self) -> u64 {
        let state = if self.fraction().is_some() { select::STATE_BYTES } else { 0 };
        self.state_at().saturating_mul(4).saturating_add(state)
    }

    /// The words of the masks.
    fn state_at(&self) -> u64 {
        u64::from(self.k.div_ceil(32)) * u64::from(self.rows())
    }

    /// The fraction that is pruned, if the pattern is one.
    fn fraction(&self) -> Option<f64> {
        match self.pattern {
            Some(Pattern::Fraction(fraction)) => Some(fraction),
            _ => None,
        }
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension is too large, the stride too short, or there is no kernel for the
    /// format or the pattern.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[("n", self.n, MAX_SIDE), ("k", self.k, 1 << 15)])?;
        if self.n > 1 && self.w_stride < self.k {
            let (role, stride, need) = (Role::Weights, self.w_stride, self.k.into());
            return Err(PlanError::Stride { role, stride, need });
        }
        if let Some(format) = self.format {
            format.check()?;
            let refuse = |why| Err(PlanError::Unsupported { op: "the column loop", format, why });
            if format.is_sparse() || format.is_permuted() {
                return refuse("codes are dense and in order; the pattern is apart");
            }
            let integers = format.code_type().is_integer() && format.code_type().bits() <= 8;
            if !integers || !(format.is_symmetric() || format.has_zeros()) {
                return refuse("only integers of up to 8 bits with whole zero points have kernels");
            }
            if !matches!(format.scale_type(), ScaleType::F32 | ScaleType::F16) {
                return refuse("only scales of f32 and f16 have kernels");
            }
            match format.granularity() {
                Granularity::Channel => {}
                Granularity::Group(group)
                    if group.get().is_multiple_of(MAX_OF) && BLOCK.is_multiple_of(group.get()) => {}
                _ => {
                    return refuse("groups of 16, 32, 64 or 128 columns and channels have kernels");
                }
            }
        }
        let refuse = |value, need| Err(PlanError::Number { name: "pattern", value, need });
        match self.pattern {
            Some(Pattern::OfM { kept, of }) if !matches!(of, 2 | 4 | 8 | 16) || kept >= of => {
                refuse(kept as f32, "fewer than the 2, 4, 8 or 16 columns that it is kept of")
            }
            Some(Pattern::Fraction(fraction)) if !(0.0..1.0).contains(&fraction) => {
                refuse(fraction as f32, "a fraction of at least 0 and below 1")
            }
            _ => Ok(()),
        }
    }

    /// Returns the kernels: those that transpose and go through columns, the product, and those that find what
    /// a fraction prunes.
    pub fn shaders(&self, caps: &Caps) -> Vec<KernelDesc> {
        let mut all = vec![enter(), self.block(caps), products::shader(caps, Shared::Wide)];
        if self.fraction().is_some() {
            all.extend(select::shaders());
        }
        all
    }

    fn block(&self, caps: &Caps) -> KernelDesc {
        let (of, pruned) = match self.pattern {
            Some(Pattern::OfM { kept, of }) => (of, of - kept),
            _ => (SUB, 0),
        };
        let masked = self.fraction().is_some();
        let asymmetric = self.format.is_some_and(|format| !format.is_symmetric());
        let half = self.format.is_some_and(|format| format.scale_type() == ScaleType::F16);
        let rows = lane_rows(caps);
        let read = |number, name, holds| Binding::data(number, name, holds, Access::Read);
        let write = |number, name, holds| Binding::data(number, name, holds, Access::Write);
        let mut id = format!("columns_r{rows}");
        let parts = [
            (self.format.is_none(), ".floats".to_string()),
            (asymmetric, ".asym".into()),
            (half, ".f16s".into()),
            (self.given, ".given".into()),
            (pruned > 0, format!(".{}of{of}", of - pruned)),
            (masked, ".masked".into()),
        ];
        parts.iter().filter(|(on, _)| *on).for_each(|(_, part)| id.push_str(part));
        KernelDesc {
            consts: vec![
                ("M_TABLE", Const::U32(M_TABLE)),
                ("SUB", Const::U32(SUB.max(of))),
                ("ASYMMETRIC", Const::Bool(asymmetric)),
                ("GIVEN", Const::Bool(self.given)),
                ("FLOATS", Const::Bool(self.format.is_none())),
                ("HALF", Const::Bool(half)),
                ("OF", Const::U32(of)),
                ("PRUNED", Const::U32(pruned)),
                ("MASKED", Const::Bool(masked)),
            ],
            grid: Grid::new(&[(&[LANES], WORKGROUP)]),
            workgroup_size: WORKGROUP,
            ..KernelDesc::new(
                id,
                [if rows == 4 { "columns/rows4" } else { "columns/rows1" }, "columns/block"]
                    .map(fragment)
                    .to_vec(),
                vec![
                    Binding::params("p", Params::LAYOUT),
                    read(3, "u", "U, row-major"),
                    write(4, "w", "W by columns; errors where a column was taken"),
                    write(5, "out", "codes, four in a word, or floats"),
                    write(6, "scales", "scales by groups, then zero points"),
                    write(7, "masks", "which weights are kept, a bit each"),
                    write(8, "status", "scales out of range, weights that are not finite"),
                    read(9, "order", "the column at each place"),
                ],
            )
        }
    }
}

/// How many rows a lane has.
fn lane_rows(caps: &Caps) -> u32 {
    match caps.class {
        AdapterClass::Cpu => 4,
        AdapterClass::Gpu => 1,
    }
}

const LANES: Variable = Variable { name: "lanes", meaning: "lanes: the parameter `stride`" };
const COLUMNS: Variable = Variable { name: "k", meaning: "columns of W: the parameter `k`" };
const ROWS: Variable = Variable {
    name: "rows",
    meaning: "rows that there is room for: the parameters `stride` · `rows`",
};

/// Returns the kernel that transposes W.
fn enter() -> KernelDesc {
    let read = |number, name, holds| Binding::data(number, name, holds, Access::Read);
    KernelDesc {
        consts: vec![("M_TABLE", Const::U32(M_TABLE))],
        grid: Grid::new(&[(&[COLUMNS], 1), (&[ROWS], WORKGROUP)]),
        workgroup_size: WORKGROUP,
        ..KernelDesc::new(
            "columns_enter",
            vec![fragment("columns/enter")],
            vec![
                Binding::params("p", Params::LAYOUT),
                read(3, "source", "W, row-major from element source_at on"),
                read(4, "order", "the column at each place"),
                read(5, "diagonal", "the diagonal of the Gram matrix, by place"),
                Binding::data(6, "w", "W by columns", Access::Write),
            ],
        )
    }
}

/// Returns every kernel of this op on such a device. The product is another one's.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let symmetric = WeightFormat::int4(Granularity::Channel);
    let integers = [symmetric, symmetric.asymmetric()];
    let formats = integers
        .into_iter()
        .flat_map(|format| [format, format.with_scales(ScaleType::F16)])
        .map(Some)
        .chain([None]);
    let patterns = [2, 4, 8, 16].into_iter().flat_map(|of| (0..of).map(move |kept| (kept, of)));
    let patterns = patterns.map(|(kept, of)| Some(Pattern::OfM { kept, of }));
    let patterns = patterns.chain([Some(Pattern::Fraction(0.5)), None]);
    let specs = formats.flat_map(|format| {
        let spec = ColumnsSpec::new(1, 1, format);
        patterns.clone().flat_map(move |pattern| {
            let spec = ColumnsSpec { pattern, ..spec.clone() };
            [spec.clone(), spec.with_given_scales()]
        })
    });
    let specs = specs.filter(|spec| spec.format.is_some() || !spec.given);
    let blocks = specs.map(|spec| spec.block(caps));
    blocks.chain([enter()]).chain(select::shaders()).collect()
}

uniform! {
    /// The parameters of one dispatch that is no product.
    struct Params for "ColumnsParams" in "columns/params" {
        n: u32,
        k: u32,
        rows: u32,
        stride: u32,
        source_at: u32,
        source_stride: u32,
        order_at: u32,
        first: u32,
        width: u32,
        group: u32,
        groups: u32,
        status_at: u32,
        low: f32,
        high: f32,
        zero: f32,
        steps: f32,
    }
}

/// The compiled kernels for one [`ColumnsSpec`]. A plan is cheap to clone.
#[derive(Clone, Debug)]
pub struct ColumnsPlan {
    kernels: Kernels,
    spec: ColumnsSpec,
    /// The kernels of [`ColumnsSpec::shaders`].
    pipelines: Vec<Arc<Pipeline>>,
}

/// The buffers of one run. Those without an offset are whole buffers.
#[derive(Clone, Copy, Debug)]
pub struct ColumnsArgs<'a> {
    /// W, `[n, k]` f32. It must be finite.
    pub weights: SubBuffer<'a>,
    /// The column at each place, `[k]` u32.
    pub order: SubBuffer<'a>,
    /// The diagonal of the Gram matrix by place, `[k]` f32, as [`FactorArgs`](super::FactorArgs) has it: columns
    /// whose sum is 0 become 0.
    pub diagonal: &'a wgpu::Buffer,
    /// U, `[k, k]` f32, of which only the upper triangle is read.
    pub factor: &'a wgpu::Buffer,
    /// Room for W by columns, [`ColumnsSpec::columns_bytes`]. It holds the errors e afterwards.
    pub columns: &'a wgpu::Buffer,
    /// Codes or floats by place, [`ColumnsSpec::output_bytes`]. A word has the codes of four columns of a row,
    /// in two's complement where they are negative.
    pub output: &'a wgpu::Buffer,
    /// Scales and zero points, [`ColumnsSpec::scales_bytes`]. Found ones are those of groups of places. Given
    /// ones are read, and are those of groups of columns.
    pub scales: &'a wgpu::Buffer,
    /// Which weights are kept, [`ColumnsSpec::masks_bytes`]: bit i of word j is that of place 32j + i.
    /// Written if there is a pattern. What follows the masks is of no use to the caller.
    pub masks: &'a wgpu::Buffer,
    /// The status, [`ColumnsSpec::STATUS_BYTES`]. The caller clears it.
    pub status: SubBuffer<'a>,
}

/// A run with its buffers. It is recorded for exactly `n` rows.
pub type BoundColumns = Bound<ColumnsPlan>;

impl ColumnsPlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &ColumnsSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipelines = pipelines(kernels, &spec.shaders(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipelines })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &ColumnsSpec {
        &self.spec
    }

    /// Checks a status that was read back.
    ///
    /// # Errors
    /// Returns [`ColumnsError`].
    pub fn decode(status: &[u32]) -> Result<(), ColumnsError> {
        match *status {
            [0, 0] => Ok(()),
            [_, count] if count > 0 => Err(ColumnsError::NotFinite { count }),
            [count, _] => Err(ColumnsError::ScaleRange { count }),
            _ => Err(ColumnsError::Words(status.len())),
        }
    }

    /// Checks the buffers and makes bind groups and one uniform buffer.
    ///
    /// # Errors
    /// Returns [`BindError`]; [`BindError::TooLarge`] if a matrix exceeds a binding.
    pub async fn bind(&self, args: ColumnsArgs<'_>) -> Result<BoundColumns, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let (n, k) = (u64::from(spec.n), u64::from(spec.k));
        let elements = n.saturating_sub(1) * u64::from(spec.w_stride) + k;
        let given = if n == 0 { 0 } else { 4 * elements };
        let written = [
            (Role::Columns, args.columns.into(), spec.columns_bytes()),
            (Role::Output, args.output.into(), spec.output_bytes()),
            (Role::Scales, args.scales.into(), spec.scales_bytes()),
            (Role::Mask, args.masks.into(), spec.masks_bytes()),
            (Role::Status, args.status, ColumnsSpec::STATUS_BYTES),
        ];
        let read = [
            (Role::Weights, args.weights, given),
            (Role::ColumnOrder, args.order, 4 * k),
            (Role::Diagonal, args.diagonal.into(), 4 * k),
            (Role::Factor, args.factor.into(), 4 * k * k),
        ];
        let limit = window_capacity(caps);
        for (at, &(role, buffer, need)) in written.iter().chain(&read).enumerate() {
            // Whole buffers are loaded four words at a time.
            let whole = at < 4;
            check(role, buffer, need, if whole { 16 } else { 4 })?;
            if need > limit {
                return Err(BindError::TooLarge { role, need, limit });
            }
            let others = written.iter().enumerate().filter(|&(other, _)| other != at);
            let others: Vec<_> = others.map(|(_, (_, other, _))| other.buffer).collect();
            check_aliases([(role, buffer.buffer)], &others)?;
        }
        let blocks = spec.k.div_ceil(BLOCK);
        let slots = (2 + select::MOST_STEPS) * u64::from(blocks) + 1;
        let (label, count) = ("lowbit columns", Count::Whole(spec.n));
        let mut draft = Draft::new(&self.kernels, label, count, slots)?;
        let [enter, block, product, selection @ ..] = &self.pipelines[..] else {
            return draft.bind(self.clone()).await;
        };
        if spec.n == 0 || spec.k == 0 {
            return draft.bind(self.clone()).await;
        }
        let status = Window::new(caps, args.status.buffer, args.status.offset, 8);
        let source = Window::new(caps, args.weights.buffer, args.weights.offset, given);
        let order = Window::new(caps, args.order.buffer, args.order.offset, 4 * k);
        let params = self.params(&source, &order, &status);
        let span = Span::all(spec.n);
        let sizes = [
            (COLUMNS, Size::Fixed(k)),
            (ROWS, Size::Fixed(spec.rows().into())),
            (LANES, Size::Fixed(params.stride.into())),
        ];
        let slot = draft.slot(products::slot(params));
        let (diagonal, columns): (Resource, Resource) = (args.diagonal.into(), args.columns.into());
        let bound = [(3, source.into()), (4, order.into()), (5, diagonal), (6, columns)];
        draft.step(enter, Head::Params(slot), bound, span, &sizes);
        for first in (0..spec.k).step_by(BLOCK as usize) {
            let width = BLOCK.min(spec.k - first);
            if first > 0 {
                let update = self.update(first, width);
                let tiles = update.sizes(caps);
                let slot = draft.slot(products::slot(update));
                let bound = [(3, args.factor.into()), (4, args.columns.into())];
                draft.step(product, Head::Params(slot), bound, span, &tiles);
            }
            if let (Some(fraction), [select, pick]) = (spec.fraction(), selection) {
                for step in select::steps(spec, fraction, first, width) {
                    let masks: Resource = args.masks.into();
                    let slot = Head::Params(draft.slot(products::slot(step.params)));
                    if step.picks {
                        draft.step(pick, slot, [(3, masks)], span, &[]);
                    } else {
                        let bound = [(3, args.factor.into()), (4, args.columns.into()), (5, masks)];
                        draft.step(select, slot, bound, span, &step.params.sizes());
                    }
                }
            }
            let slot = draft.slot(products::slot(Params { first, width, ..params }));
            let bound: [(u32, Resource); 7] = [
                (3, args.factor.into()),
                (4, args.columns.into()),
                (5, args.output.into()),
                (6, args.scales.into()),
                (7, args.masks.into()),
                (8, status.into()),
                (9, order.into()),
            ];
            draft.step(block, Head::Params(slot), bound, span, &sizes);
        }
        draft.bind(self.clone()).await
    }

    fn params(&self, source: &Window<'_>, order: &Window<'_>, status: &Window<'_>) -> Params {
        let (spec, rows) = (&self.spec, lane_rows(self.kernels.caps()));
        let range = spec.format.and_then(|format| format.code_range());
        let (low, high) = range.unwrap_or_default();
        let zero = spec.format.map_or(0, |format| format.symmetric_zero());
        let symmetric = spec.format.is_none_or(|format| format.is_symmetric());
        let steps = if symmetric { high - zero } else { high - low };
        Params {
            n: spec.n,
            k: spec.k,
            rows,
            stride: spec.rows() / rows,
            source_at: source.at(4),
            source_stride: spec.w_stride,
            order_at: order.at(4),
            first: 0,
            width: 0,
            group: spec.group(),
            groups: spec.groups(),
            status_at: status.at(4),
            low: low as f32,
            high: high as f32,
            zero: zero as f32,
            steps: steps as f32,
        }
    }

    /// What brings a block up to date: the errors of all columns before it, times their part of U.
    fn update(&self, first: u32, width: u32) -> Product {
        let (k, rows) = (self.spec.k, self.spec.rows());
        Product {
            m: width,
            n: rows,
            k: first,
            batch: 1,
            a_at: first,
            a_row: 1,
            a_column: k,
            b_row: rows,
            b_column: 1,
            c_at: first * rows,
            c_row: rows,
            c_column: 1,
            flags: flag::SUBTRACT | flag::KEEP,
            ..Product::default()
        }
    }
}
