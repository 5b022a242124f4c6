//! Products of f32 matrices: how they divide the work, which `gram` shares, and their kernels.

use super::buffers::{Window, check, check_aliases, window_capacity};
use super::recording::{Bound, Count, Draft, Head};
use super::rows::Span;
use super::{BindError, PlanError, Role, SubBuffer};
use crate::gpu::{
    Access, AdapterClass, Binding, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, Pipeline, Size,
    Variable, fragment, uniform,
};
use std::sync::Arc;

/// Rows and columns of a tile of results.
pub(crate) const TILE: u32 = 64;

/// Places of the sum that lie in workgroup memory at a time.
const STEP: u32 = 16;

/// How many tiles a dispatch makes.
pub(crate) const TILES: Variable =
    Variable { name: "tiles", meaning: "tiles of this segment: the parameter `tiles`" };

/// How many workgroups make a tile.
pub(crate) const STRIPS: Variable =
    Variable { name: "strips", meaning: "workgroups that make a tile" };

/// Which fragment has the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Tiles in workgroup memory.
    Tile,
    /// Registers that a subgroup of 8 lanes exchanges.
    Lanes,
}

impl Schedule {
    /// Returns the one for a device.
    pub fn of(caps: &Caps) -> Self {
        match caps.class {
            AdapterClass::Cpu if caps.subgroup == 8 => Self::Lanes,
            _ => Self::Tile,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tile => "tile",
            Self::Lanes => "lanes",
        }
    }

    pub fn fragment(self) -> &'static str {
        match self {
            Self::Tile => "linalg/tile",
            Self::Lanes => "linalg/lanes",
        }
    }

    pub fn consts(self) -> Vec<(&'static str, Const)> {
        match self {
            Self::Tile => vec![("STEP", Const::U32(STEP))],
            Self::Lanes => Vec::new(),
        }
    }

    /// Returns the lanes of a workgroup.
    pub fn workgroup(self) -> u32 {
        match self {
            Self::Tile => 128,
            Self::Lanes => 8,
        }
    }

    /// Returns the bytes of workgroup memory.
    pub fn memory(self) -> u32 {
        match self {
            Self::Tile => STEP * 2 * 4 * TILE,
            Self::Lanes => 16 * 4 * TILE,
        }
    }

    /// Returns how many workgroups make a tile.
    pub fn strips(self) -> u64 {
        match self {
            Self::Tile => 1,
            Self::Lanes => 4,
        }
    }
}

/// Which matrices of a product share a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    /// None.
    Nothing,
    /// B and C.
    RightOutput,
    /// A and C.
    LeftOutput,
    /// All.
    All,
    /// B and C, whose columns are neighbours and whose rows start at multiples of 4 elements.
    Wide,
}

impl Shared {
    pub const ALL: [Self; 5] =
        [Self::Nothing, Self::RightOutput, Self::LeftOutput, Self::All, Self::Wide];

    fn fragment(self, words: bool) -> &'static str {
        match self {
            Self::Wide if words => "linalg/wide_u64",
            Self::Wide => "linalg/wide",
            Self::Nothing => "linalg/apart",
            Self::RightOutput => "linalg/left_apart",
            Self::LeftOutput => "linalg/right_apart",
            Self::All => "linalg/within",
        }
    }

    fn suffix(self, words: bool) -> &'static str {
        match self {
            Self::Wide if words => ".wide.u64",
            Self::Wide => ".wide",
            Self::Nothing => "",
            Self::RightOutput => ".left_apart",
            Self::LeftOutput => ".right_apart",
            Self::All => ".within",
        }
    }

    fn bindings(self) -> Vec<Binding> {
        let a = Binding::data(3, "a", "A, from element a_at on", Access::Read);
        let b = |number| Binding::data(number, "b", "B, from element b_at on", Access::Read);
        let c = |number, holds| Binding::data(number, "c", holds, Access::Write);
        match self {
            Self::Nothing => vec![a, b(4), c(5, "C, from element c_at on")],
            Self::RightOutput | Self::Wide => {
                vec![a, c(4, "B and C, from elements b_at and c_at on")]
            }
            Self::LeftOutput => vec![b(3), c(4, "A and C, from elements a_at and c_at on")],
            Self::All => vec![c(3, "A, B and C, from elements a_at, b_at and c_at on")],
        }
    }
}

/// Returns the kernel of products.
pub(crate) fn shader(caps: &Caps, shared: Shared) -> KernelDesc {
    let schedule = Schedule::of(caps);
    let mut bindings = vec![Binding::params("p", Params::LAYOUT)];
    bindings.extend(shared.bindings());
    // Software adapters load one component of one lane at a time.
    let words = caps.int64 && caps.class == AdapterClass::Cpu;
    let single = (shared != Shared::Wide).then_some("linalg/single");
    let fragments = [shared.fragment(words)].into_iter().chain(single);
    let fragments = fragments.chain(["linalg/dense", schedule.fragment()]);
    let mut consts = vec![("M_TABLE", Const::U32(M_TABLE))];
    consts.extend(schedule.consts());
    KernelDesc {
        id: format!("product{}.{}", shared.suffix(words), schedule.name()),
        consts,
        fragments: fragments.map(fragment).collect(),
        bindings,
        grid: Grid::new(&[(&[TILES], 1), (&[STRIPS], 1)]),
        workgroup_size: schedule.workgroup(),
        workgroup_memory: schedule.memory(),
        conditions: Vec::new(),
        weights: None,
    }
}

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    Shared::ALL.map(|shared| shader(caps, shared)).to_vec()
}

uniform! {
    /// The parameters of one product.
    pub(crate) struct Params for "DenseParams" in "linalg/dense" {
        m: u32,
        n: u32,
        k: u32,
        batch: u32,
        a_at: u32,
        a_row: u32,
        a_column: u32,
        a_batch: u32,
        b_at: u32,
        b_row: u32,
        b_column: u32,
        b_batch: u32,
        c_at: u32,
        c_row: u32,
        c_column: u32,
        c_batch: u32,
        flags: u32,
        pad: [u32; 3] = "pad0" "pad1" "pad2",
    }
}

/// The bits of `flags`; see shaders/linalg/dense.wgsl.
pub(crate) mod flag {
    pub const ONLY_UPPER: u32 = 1;
    pub const LEFT_UPPER: u32 = 2;
    pub const RIGHT_UPPER: u32 = 4;
    pub const SUBTRACT: u32 = 8;
    pub const KEEP: u32 = 16;
}

impl Params {
    /// Returns the values of the variables of the grid.
    pub fn sizes(&self, caps: &Caps) -> [(Variable, Size); 2] {
        let tiles = u64::from(self.m.div_ceil(TILE)) * u64::from(self.n.div_ceil(TILE));
        let tiles = Size::Fixed(tiles * u64::from(self.batch));
        [(TILES, tiles), (STRIPS, Size::Fixed(Schedule::of(caps).strips()))]
    }
}

/// Words of a slot of parameters of a recording that has products and other kernels.
pub(crate) const WORDS: usize = size_of::<Params>() / 4;

/// Returns parameters of either kind as the words of a slot. Those of products are the longest.
pub(crate) fn slot(params: impl bytemuck::NoUninit) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    let own = bytemuck::bytes_of(&params);
    bytes.iter_mut().zip(own).for_each(|(to, from)| *to = *from);
    words
}

/// How a matrix of f32 lies in a buffer: elements from one row to the next, and from one column to the next. A
/// transposed matrix has both exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strides {
    /// Elements from one row to the next.
    pub row: u32,
    /// Elements from one column to the next.
    pub column: u32,
}

impl Strides {
    /// Returns the strides of rows of `columns` elements, one after the other.
    pub const fn rows(columns: u32) -> Self {
        Self { row: columns, column: 1 }
    }

    /// Returns the strides of the transposed matrix.
    #[must_use]
    pub const fn transposed(self) -> Self {
        Self { row: self.column, column: self.row }
    }

    /// Returns the bytes from the first element to the end of the last.
    fn bytes(self, rows: u32, columns: u32) -> u64 {
        if rows == 0 || columns == 0 {
            return 0;
        }
        let along = |count: u32, stride: u32| u64::from(count - 1) * u64::from(stride);
        let elements = along(rows, self.row).saturating_add(along(columns, self.column));
        elements.saturating_add(1).saturating_mul(4)
    }

    /// Returns whether no two elements share a place.
    fn is_apart(self, rows: u32, columns: u32) -> bool {
        let spans = |inner: u32, count: u32, outer: u32| {
            inner > 0 && u64::from(outer) > u64::from(inner) * u64::from(count.saturating_sub(1))
        };
        rows <= 1 && (columns <= 1 || self.column > 0)
            || columns <= 1 && self.row > 0
            || spans(self.column, columns, self.row)
            || spans(self.row, rows, self.column)
    }
}

/// A product of f32 matrices: C = A · B, where A is `[m, k]`, B `[k, n]` and C `[m, n]`, or C ± A · B.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ProductSpec {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A and rows of B.
    pub k: u32,
    /// How A lies.
    pub left: Strides,
    /// How B lies.
    pub right: Strides,
    /// How C lies.
    pub output: Strides,
    /// Whether the product is subtracted.
    pub subtract: bool,
    /// Whether what C holds is kept, and the product is added to it or subtracted from it.
    pub keep: bool,
    /// Whether only the upper triangle of C is wanted. Some of what is below its diagonal is written too.
    pub only_upper: bool,
}

impl ProductSpec {
    /// Creates the spec of C = A · B with packed rows.
    pub fn new(m: u32, n: u32, k: u32) -> Self {
        let (left, right, output) = (Strides::rows(k), Strides::rows(n), Strides::rows(n));
        let (subtract, keep, only_upper) = (false, false, false);
        Self { m, n, k, left, right, output, subtract, keep, only_upper }
    }

    /// Sets how A, B and C lie.
    pub fn with_strides(self, left: Strides, right: Strides, output: Strides) -> Self {
        Self { left, right, output, ..self }
    }

    /// Keeps what C holds, and adds the product.
    pub fn adding(self) -> Self {
        Self { keep: true, subtract: false, ..self }
    }

    /// Keeps what C holds, and subtracts the product.
    pub fn subtracting(self) -> Self {
        Self { keep: true, subtract: true, ..self }
    }

    /// Leaves out what is below the diagonal of C.
    pub fn with_only_upper(self) -> Self {
        Self { only_upper: true, ..self }
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension or a matrix is too large, k is 0, or elements of C share a place.
    pub fn check(&self) -> Result<(), PlanError> {
        let &Self { m, n, k, left, right, output, .. } = self;
        for (name, value) in [("m", m), ("n", n), ("k", k)] {
            PlanError::check_index(name, value.into())?;
        }
        if k == 0 {
            let (name, value) = ("k", 0.0);
            return Err(PlanError::Number {
                name,
                value,
                need: "at least 1: there is nothing to sum",
            });
        }
        let matrices = [
            ("bytes of A", left.bytes(m, k)),
            ("bytes of B", right.bytes(k, n)),
            ("bytes of C", output.bytes(m, n)),
        ];
        for (name, bytes) in matrices {
            PlanError::check_index(name, bytes)?;
        }
        if !output.is_apart(m, n) {
            let (role, stride) = (Role::Output, output.row);
            return Err(PlanError::Stride { role, stride, need: n.into() });
        }
        Ok(())
    }

    /// Returns the kernel.
    pub fn shader(&self, caps: &Caps) -> KernelDesc {
        shader(caps, Shared::Nothing)
    }
}

/// The compiled kernel for one [`ProductSpec`]. A plan is cheap to clone.
#[derive(Clone, Debug)]
pub struct ProductPlan {
    kernels: Kernels,
    spec: ProductSpec,
    pipeline: Arc<Pipeline>,
}

/// The matrices of one product. Each starts at a multiple of 4 bytes.
#[derive(Clone, Copy, Debug)]
pub struct ProductArgs<'a> {
    /// A.
    pub left: SubBuffer<'a>,
    /// B.
    pub right: SubBuffer<'a>,
    /// C.
    pub output: SubBuffer<'a>,
}

/// A product with its buffers. It is recorded for exactly `m` rows.
pub type BoundProduct = Bound<ProductPlan>;

impl ProductPlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &ProductSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &ProductSpec {
        &self.spec
    }

    /// Checks the buffers and makes a bind group and one small uniform buffer.
    ///
    /// # Errors
    /// Returns [`BindError`]; [`BindError::TooLarge`] if a matrix exceeds a binding.
    pub async fn bind(&self, args: ProductArgs<'_>) -> Result<BoundProduct, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let &ProductSpec { m, n, k, left, right, output, .. } = spec;
        let matrices = [
            (Role::Left, args.left, left.bytes(m, k)),
            (Role::Right, args.right, right.bytes(k, n)),
            (Role::Output, args.output, output.bytes(m, n)),
        ];
        let limit = window_capacity(caps);
        for (role, at, need) in matrices {
            check(role, at, need, 4)?;
            if need > limit {
                return Err(BindError::TooLarge { role, need, limit });
            }
        }
        let read = [(Role::Left, args.left.buffer), (Role::Right, args.right.buffer)];
        check_aliases(read, &[args.output.buffer])?;
        let mut draft = Draft::new(&self.kernels, "lowbit product", Count::Whole(m), 1)?;
        if m > 0 && n > 0 {
            let [a, b, c] =
                matrices.map(|(_, at, bytes)| Window::new(caps, at.buffer, at.offset, bytes));
            let set = |on: bool, bit| if on { bit } else { 0 };
            let params = Params {
                m,
                n,
                k,
                batch: 1,
                a_at: a.at(4),
                a_row: left.row,
                a_column: left.column,
                b_at: b.at(4),
                b_row: right.row,
                b_column: right.column,
                c_at: c.at(4),
                c_row: output.row,
                c_column: output.column,
                flags: set(spec.only_upper, flag::ONLY_UPPER)
                    | set(spec.subtract, flag::SUBTRACT)
                    | set(spec.keep, flag::KEEP),
                ..Params::default()
            };
            let sizes = params.sizes(caps);
            let slot = draft.slot(params);
            let bound = [(3, a.into()), (4, b.into()), (5, c.into())];
            draft.step(&self.pipeline, Head::Params(slot), bound, Span::all(m), &sizes);
        }
        draft.bind(self.clone()).await
    }
}
