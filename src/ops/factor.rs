//! Factors what methods of second order need of the inputs of a layer: from the Gram matrix H, as
//! [`gram`](super::gram) sums it, to the upper triangle U with H⁻¹ = UᵀU.
//!
//! H is divided by the mean of its diagonal and damped, then H = V · Vᵀ with an upper triangle V, from the
//! last column on, in blocks of 64; and U = V⁻¹. All of it is f32.

use super::buffers::{Resource, Window, check, check_aliases, window_capacity};
use super::gram::GramSpec;
use super::products::{self, Params as Product, Shared, TILE, TILES, WORDS, flag, slot};
use super::recording::{Bound, Count, Draft, Head, pipelines};
use super::rows::Span;
use super::{BindError, PlanError, Role, SubBuffer};
use crate::gpu::{
    Access, Binding, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, Pipeline, Size, Variable,
    fragment, uniform,
};
use std::sync::Arc;

/// The largest number of columns. Elements have numbers below 2³¹ then.
const MAX_COLUMNS: u32 = 1 << 15;

/// Lanes of a workgroup.
const WORKGROUP: u32 = 64;

/// The products of a factorization.
const PRODUCTS: [Shared; 3] = [Shared::LeftOutput, Shared::RightOutput, Shared::All];

/// Why a matrix could not be factored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FactorError {
    /// A pivot was no positive normal number: the matrix is not positive definite in f32.
    #[error(
        "{failures} of {k} pivots were not positive, the last at place {place}; raise the damping of {damping}"
    )]
    NotPositive {
        /// The number of such pivots.
        failures: u32,
        /// Rows and columns of the matrix.
        k: u32,
        /// The place of the last of them.
        place: u32,
        /// The damping, as text.
        damping: String,
    },
    /// The status has a wrong number of words, or words that no kernel leaves.
    #[error("these {0} words are not the status of a factorization")]
    Words(usize),
}

/// A matrix of `k` rows and columns, and what is added to its diagonal.
///
/// The mean of the diagonal is 1 when `damping` is added: columns whose sum is 0 do not count for it, and get
/// a 1 on the diagonal and 0 elsewhere.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FactorSpec {
    /// Rows and columns.
    pub k: u32,
    /// The number that is added to the diagonal. It must be a positive normal number.
    pub damping: f32,
}

impl FactorSpec {
    /// The number of bytes of the status buffer.
    pub const STATUS_BYTES: u64 = 8;

    /// Creates a spec with a damping of 0.01.
    pub fn new(k: u32) -> Self {
        Self { k, damping: 0.01 }
    }

    /// Sets what is added to the diagonal.
    pub fn with_damping(self, damping: f32) -> Self {
        Self { damping, ..self }
    }

    /// Returns the number of bytes of each of the two matrices.
    pub fn matrix_bytes(&self) -> u64 {
        (4 * u64::from(self.k)).saturating_mul(self.k.into())
    }

    /// Returns the number of bytes of the order of columns.
    pub fn order_bytes(&self) -> u64 {
        8 * u64::from(self.k)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if there are too many columns or the damping is no positive normal number.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[("k", self.k, MAX_COLUMNS)])?;
        let (name, value) = ("damping", self.damping);
        if !value.is_normal() || value < 0.0 {
            return Err(PlanError::Number { name, value, need: "a positive normal number" });
        }
        Ok(())
    }

    /// Returns the kernels: those of `Part::ALL`, then the products.
    pub fn shaders(&self, caps: &Caps) -> Vec<KernelDesc> {
        let products = PRODUCTS.map(|shared| products::shader(caps, shared));
        Part::ALL.map(Part::shader).into_iter().chain(products).collect()
    }

    /// Checks a status that was read back.
    ///
    /// # Errors
    /// Returns [`FactorError`].
    pub fn decode(&self, status: &[u32]) -> Result<(), FactorError> {
        match status {
            [0, 0] => Ok(()),
            &[failures, place] if failures <= self.k && (1..=self.k).contains(&place) => {
                let (k, damping) = (self.k, self.damping.to_string());
                Err(FactorError::NotPositive { failures, k, place: place - 1, damping })
            }
            _ => Err(FactorError::Words(status.len())),
        }
    }
}

/// The kernels beside products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Fill,
    Diagonal,
    Scale,
    Block,
}

const PLACES: Variable = Variable { name: "k", meaning: "rows and columns: the parameter `k`" };

impl Part {
    const ALL: [Self; 4] = [Self::Fill, Self::Diagonal, Self::Scale, Self::Block];

    fn shader(self) -> KernelDesc {
        let read = |number, name, holds| Binding::data(number, name, holds, Access::Read);
        let write = |number, name, holds| Binding::data(number, name, holds, Access::Write);
        let (matrix, diagonal) = ("H, row-major", "the diagonal of H, and 1 / its mean");
        let (name, main, memory, data) = match self {
            Self::Fill => {
                let sums = read(3, "sums", "tiles of integers of four words");
                let order = read(4, "order", "the column at each place, the place of each column");
                ("fill", "factor/fill", 0, vec![sums, order, write(5, "h", matrix)])
            }
            Self::Diagonal => {
                let data = vec![read(3, "h", matrix), write(4, "diagonal", diagonal)];
                ("diagonal", "factor/diagonal", 8 * WORKGROUP, data)
            }
            Self::Scale => {
                let data = vec![read(3, "diagonal", diagonal), write(4, "h", matrix)];
                ("scale", "factor/scale", 0, data)
            }
            Self::Block => {
                let status = write(5, "status", "pivots that failed, and where");
                let inverse = write(4, "inverse", "U, row-major");
                let memory = 4 * TILE * TILE;
                ("block", "factor/block", memory, vec![write(3, "h", matrix), inverse, status])
            }
        };
        let mut bindings = vec![Binding::params("p", Params::LAYOUT)];
        let grid = match self {
            Self::Fill => Grid::new(&[(&[TILES], 1), (&[ROWS], 1)]),
            Self::Scale => Grid::new(&[(&[PLACES], 1), (&[PLACES], WORKGROUP)]),
            Self::Diagonal | Self::Block => Grid::new(&[]),
        };
        // These number workgroups by lib/dispatch.
        let many = matches!(self, Self::Fill | Self::Scale);
        bindings.extend(data);
        KernelDesc {
            consts: if many { vec![("M_TABLE", Const::U32(M_TABLE))] } else { Vec::new() },
            grid,
            workgroup_size: WORKGROUP,
            workgroup_memory: memory,
            ..KernelDesc::new(format!("factor_{name}"), vec![fragment(main)], bindings)
        }
    }
}

/// Rows of a tile.
const ROWS: Variable = Variable { name: "tile_rows", meaning: "rows of a tile: 64" };

/// Returns every kernel of this op. Products are another one's.
pub(crate) fn kernels(_: &Caps) -> Vec<KernelDesc> {
    Part::ALL.map(Part::shader).to_vec()
}

uniform! {
    /// The parameters of one dispatch that is no product.
    struct Params for "FactorParams" in "factor/matrix" {
        k: u32,
        tile0: u32,
        tiles: u32,
        sums_at: u32,
        order_at: u32,
        first: u32,
        size: u32,
        status_at: u32,
        damping: f32,
        pad: [u32; 3] = "pad0" "pad1" "pad2",
    }
}

/// The compiled kernels for one [`FactorSpec`]. A plan is cheap to clone.
#[derive(Clone, Debug)]
pub struct FactorPlan {
    kernels: Kernels,
    spec: FactorSpec,
    /// The pipelines of `Part::ALL`, then those of the products.
    pipelines: Vec<Arc<Pipeline>>,
}

/// The buffers of one factorization.
#[derive(Clone, Copy, Debug)]
pub struct FactorArgs<'a> {
    /// The sums of [`GramSpec`] with the same number of columns, at a multiple of 16 bytes.
    pub sums: SubBuffer<'a>,
    /// The column at each place, then the place of each column: `[2, k]` u32.
    pub order: SubBuffer<'a>,
    /// Room for H, `[k, k]` f32, a whole buffer. It holds V afterwards, above and on the diagonal.
    pub scratch: &'a wgpu::Buffer,
    /// U, `[k, k]` f32, a whole buffer. What is below the diagonal is undefined.
    pub output: &'a wgpu::Buffer,
    /// The diagonal of H as it was before damping, in the order of places, and the reciprocal of its mean: `[k + 1]` f32, a
    /// whole buffer.
    pub diagonal: &'a wgpu::Buffer,
    /// The status, [`FactorSpec::STATUS_BYTES`]. The caller clears it.
    pub status: SubBuffer<'a>,
}

/// A factorization with its buffers. It is recorded for exactly `k` rows.
pub type BoundFactor = Bound<FactorPlan>;

impl FactorPlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &FactorSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipelines = pipelines(kernels, &spec.shaders(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipelines })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &FactorSpec {
        &self.spec
    }

    /// Checks the buffers, allocates a small one, and makes bind groups.
    ///
    /// # Errors
    /// Returns [`BindError`]; [`BindError::TooLarge`] if a matrix exceeds a binding.
    pub async fn bind(&self, args: FactorArgs<'_>) -> Result<BoundFactor, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let (k, bytes) = (spec.k, spec.matrix_bytes());
        let gram = GramSpec::new(1, k);
        check(Role::Sums, args.sums, gram.sums_bytes(), 16)?;
        check(Role::ColumnOrder, args.order, spec.order_bytes(), 4)?;
        check(Role::Scratch, args.scratch.into(), bytes, 4)?;
        check(Role::Output, args.output.into(), bytes, 4)?;
        check(Role::Diagonal, args.diagonal.into(), 4 * (u64::from(k) + 1), 4)?;
        check(Role::Status, args.status, FactorSpec::STATUS_BYTES, 4)?;
        let written = [args.output, args.scratch, args.diagonal, args.status.buffer];
        let read = [(Role::Sums, args.sums.buffer), (Role::ColumnOrder, args.order.buffer)];
        check_aliases(read, &written)?;
        check_aliases([(Role::Scratch, args.scratch)], &[args.output])?;
        check_aliases([(Role::Diagonal, args.diagonal)], &[args.output, args.scratch])?;
        check_aliases([(Role::Status, args.status.buffer)], &written[..3])?;
        let limit = window_capacity(caps);
        if bytes > limit {
            return Err(BindError::TooLarge { role: Role::Output, need: bytes, limit });
        }
        let tile_bytes = u64::from(16 * TILE * TILE);
        let fit = limit / tile_bytes;
        if fit == 0 {
            return Err(BindError::TooLarge { role: Role::Sums, need: tile_bytes, limit });
        }
        let blocks = k.div_ceil(TILE);
        let slots = 8 * u64::from(blocks) + gram.tiles().div_ceil(fit) + 8;
        let draft = Draft::new(&self.kernels, "lowbit factor", Count::Whole(k), slots)?;
        let mut builder = Builder { plan: self, args, draft };
        if k > 0 {
            builder.fill(&gram, fit);
            builder.factor();
            builder.invert();
        }
        builder.draft.bind(self.clone()).await
    }
}

/// A draft while it grows.
struct Builder<'a> {
    plan: &'a FactorPlan,
    args: FactorArgs<'a>,
    draft: Draft<'a, [u32; WORDS]>,
}

impl<'a> Builder<'a> {
    fn params(&self) -> Params {
        let FactorSpec { k, damping } = self.plan.spec;
        Params { k, damping, ..Params::default() }
    }

    fn part(
        &mut self,
        part: Part,
        params: Params,
        data: Vec<Resource<'a>>,
        sizes: &[(Variable, Size)],
    ) {
        let at = Part::ALL.iter().position(|&other| other == part).unwrap_or_default();
        let Some(pipeline) = self.plan.pipelines.get(at) else { return };
        let number = self.draft.slot(slot(params));
        let (head, span) = (Head::Params(number), Span::all(self.plan.spec.k));
        self.draft.step(pipeline, head, (3..).zip(data), span, sizes);
    }

    fn product(&mut self, shared: Shared, params: Product) {
        let at = PRODUCTS.iter().position(|&other| other == shared).unwrap_or_default();
        let Some(pipeline) = self.plan.pipelines.get(Part::ALL.len() + at) else { return };
        let (h, u) = (self.args.scratch, self.args.output);
        let data = match shared {
            // U holds the inverse of a block, H what it is multiplied with.
            Shared::LeftOutput => vec![u.into(), h.into()],
            Shared::RightOutput => vec![h.into(), u.into()],
            Shared::All if params.flags & flag::ONLY_UPPER > 0 => vec![h.into()],
            _ => vec![u.into()],
        };
        let sizes = params.sizes(self.plan.kernels.caps());
        let number = self.draft.slot(slot(params));
        let (head, span) = (Head::Params(number), Span::all(self.plan.spec.k));
        self.draft.step(pipeline, head, (3..).zip(data), span, &sizes);
    }

    /// Records H, from its sums.
    fn fill(&mut self, gram: &GramSpec, fit: u64) {
        let (caps, k) = (self.plan.kernels.caps(), u64::from(self.plan.spec.k));
        let tile_bytes = u64::from(16 * TILE * TILE);
        let order = self.args.order;
        let order = Window::new(caps, order.buffer, order.offset, 8 * k);
        for part in 0..gram.tiles().div_ceil(fit) {
            let (first, end) = (part * fit, gram.tiles().min((part + 1) * fit));
            let sums = self.args.sums;
            let start = sums.offset + tile_bytes * first;
            let sums = Window::new(caps, sums.buffer, start, tile_bytes * (end - first));
            let params = Params {
                tile0: first as u32,
                tiles: (end - first) as u32,
                sums_at: sums.at(16),
                order_at: order.at(4),
                ..self.params()
            };
            let sizes = [(TILES, Size::Fixed(end - first)), (ROWS, Size::Fixed(TILE.into()))];
            let data = vec![sums.into(), order.into(), self.args.scratch.into()];
            self.part(Part::Fill, params, data, &sizes);
        }
        let FactorArgs { scratch: h, diagonal, .. } = self.args;
        self.part(Part::Diagonal, self.params(), vec![h.into(), diagonal.into()], &[]);
        let sizes = [(PLACES, Size::Fixed(k))];
        self.part(Part::Scale, self.params(), vec![diagonal.into(), h.into()], &sizes);
    }

    /// Records V, from the last block of columns on, and the inverses of its blocks of the diagonal.
    fn factor(&mut self) {
        let (caps, k) = (self.plan.kernels.caps(), self.plan.spec.k);
        let FactorArgs { scratch: h, output: u, status, .. } = self.args;
        let status = Window::new(caps, status.buffer, status.offset, FactorSpec::STATUS_BYTES);
        for first in (0..k).step_by(TILE as usize).rev() {
            let size = TILE.min(k - first);
            let params = Params { first, size, status_at: status.at(4), ..self.params() };
            self.part(Part::Block, params, vec![h.into(), u.into(), status.into()], &[]);
            if first == 0 {
                return;
            }
            // The panel above the block is multiplied with the transposed inverse of the block.
            self.product(
                Shared::LeftOutput,
                Product {
                    m: first,
                    n: size,
                    k: size,
                    a_at: first,
                    a_row: k,
                    a_column: 1,
                    b_at: first * k + first,
                    b_row: 1,
                    b_column: k,
                    c_at: first,
                    ..self.rows()
                },
            );
            self.product(
                Shared::All,
                Product {
                    m: first,
                    n: first,
                    k: size,
                    a_at: first,
                    b_at: first,
                    b_row: 1,
                    b_column: k,
                    flags: flag::ONLY_UPPER | flag::SUBTRACT | flag::KEEP,
                    ..self.rows()
                },
            );
        }
    }

    /// The strides of row-major matrices.
    fn rows(&self) -> Product {
        let row = self.plan.spec.k;
        Product {
            batch: 1,
            a_row: row,
            a_column: 1,
            b_row: row,
            b_column: 1,
            c_row: row,
            c_column: 1,
            ..Product::default()
        }
    }

    /// Records U = V⁻¹. Where both blocks of a pair are inverted, A of V = [A B; 0 C] and C, what is missing
    /// is −A⁻¹ · (B · C⁻¹). The product in brackets waits, transposed, below the diagonal.
    fn invert(&mut self) {
        let k = self.plan.spec.k;
        let mut size = TILE;
        while size < k {
            let whole = k / (2 * size);
            self.pairs(0, whole, size, size);
            let next = 2 * size * whole;
            if next + size < k {
                self.pairs(next, 1, size, k - next - size);
            }
            size *= 2;
        }
    }

    /// Records the products of `batch` pairs of blocks of `size` and `other` columns, from `first` on.
    fn pairs(&mut self, first: u32, batch: u32, size: u32, other: u32) {
        let k = self.plan.spec.k;
        let step = 2 * size * (k + 1);
        let (a_batch, b_batch, c_batch) = (step, step, step);
        let second = first + size;
        if batch == 0 {
            return;
        }
        self.product(
            Shared::RightOutput,
            Product {
                m: size,
                n: other,
                k: other,
                batch,
                a_at: first * k + second,
                a_batch,
                b_at: second * k + second,
                b_batch,
                c_at: second * k + first,
                c_row: 1,
                c_column: k,
                c_batch,
                flags: flag::RIGHT_UPPER,
                ..self.rows()
            },
        );
        self.product(
            Shared::All,
            Product {
                m: size,
                n: other,
                k: size,
                batch,
                a_at: first * k + first,
                a_batch,
                b_at: second * k + first,
                b_row: 1,
                b_column: k,
                b_batch,
                c_at: first * k + second,
                c_batch,
                flags: flag::LEFT_UPPER | flag::SUBTRACT,
                ..self.rows()
            },
        );
    }
}
