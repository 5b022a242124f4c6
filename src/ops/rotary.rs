//! Prepares queries, keys and values for attention: an RMSNorm of each head, rotary position embedding,
//! a Hadamard transform, and the writing of keys and values to their caches, in one dispatch.
//!
//! Each part but the last is optional, and they come in this order. What is written to a quantized cache
//! is floating-point arithmetic, so a code next to a tie may be either neighbor:
//! [`reference::check_cached_head`](crate::reference::check_cached_head) states the contract.

use super::buffers::{Resource, Window, check, window_capacity};
use super::recording::{Bound, Count, Draft, Head};
use super::rows::{Rows, RowsSpec, Spans, check_rows};
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::format::{CacheFormat, CacheLayout};
use crate::gpu::{
    Access, AdapterClass, Binding, BufferFill, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE,
    MAX_COUNT, Pipeline, Size, Variable, fragment, uniform,
};
use std::sync::Arc;

/// The largest number of columns of a head.
pub const MAX_HEAD_DIM: u32 = 256;

/// Which columns of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RotaryPairs {
    /// Columns 2j and 2j + 1 (GPT-J, and the Llama of GGUF files).
    Adjacent,
    /// Columns j and `rotary_dim`/2 + j (GPT-NeoX, and most models of safetensors files).
    HalfSplit,
}

/// An RMSNorm of each head of queries and of keys: `x / √(mean(x²) + epsilon) · (w + offset)`. A head
/// whose sum of squares is not finite in f32 becomes NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNorm {
    /// What is added to the mean of the squares, positive.
    pub epsilon: f32,
    /// What is added to each weight: 0, or 1 for Gemma.
    pub offset: f32,
}

/// The shapes and types of queries, keys and values, and what is done with them.
///
/// A row holds the heads of the queries, then those of the keys, then those of the values. There may be no
/// queries, or no keys and values.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RotarySpec {
    /// The largest number of rows.
    pub max_m: u32,
    /// Heads of queries.
    pub heads: u32,
    /// Heads of keys, and of values.
    pub kv_heads: u32,
    /// Columns of a head: a multiple of 4, at most [`MAX_HEAD_DIM`].
    pub head_dim: u32,
    /// Columns of a head of queries or keys that are rotated, from the first one on: a multiple of 4.
    /// With 0 there is no rotation and no table.
    pub rotary_dim: u32,
    /// Which of them rotate together.
    pub pairs: RotaryPairs,
    /// Positions in the table.
    pub positions: u32,
    /// The norm of each head of queries and of keys, if there is one.
    pub norm: Option<HeadNorm>,
    /// Whether queries and keys are transformed, which leaves their products unchanged.
    pub hadamard_qk: bool,
    /// Whether values are transformed, which the result of attention must undo.
    pub hadamard_v: bool,
    /// How keys and values are stored.
    pub cache: CacheFormat,
    /// Tokens that each cache has room for.
    pub slots: u32,
    /// The type of the rows that are read.
    pub activations: FloatType,
    /// Elements from one row that is read to the next.
    pub x_stride: u32,
    /// The type of the queries that are written.
    pub output: FloatType,
    /// Elements from one row of queries that is written to the next.
    pub q_stride: u32,
}

impl RotarySpec {
    /// Creates a spec for packed f32 rows and queries, f32 caches without room, and neither norm, rotation
    /// nor transform.
    pub fn new(max_m: u32, heads: u32, kv_heads: u32, head_dim: u32) -> Self {
        let spec = Self {
            max_m,
            heads,
            kv_heads,
            head_dim,
            rotary_dim: 0,
            pairs: RotaryPairs::HalfSplit,
            positions: 0,
            norm: None,
            hadamard_qk: false,
            hadamard_v: false,
            cache: CacheFormat::F32,
            slots: 0,
            activations: FloatType::F32,
            x_stride: 0,
            output: FloatType::F32,
            q_stride: 0,
        };
        spec.with_activations(FloatType::F32).with_output(FloatType::F32)
    }

    /// Rotates the first `rotary_dim` columns of queries and keys by a table of so many positions.
    #[must_use]
    pub fn with_rotation(mut self, pairs: RotaryPairs, rotary_dim: u32, positions: u32) -> Self {
        (self.pairs, self.rotary_dim, self.positions) = (pairs, rotary_dim, positions);
        self
    }

    /// Normalizes each head of queries and keys before it is rotated.
    #[must_use]
    pub fn with_norm(mut self, norm: HeadNorm) -> Self {
        self.norm = Some(norm);
        self
    }

    /// Transforms queries and keys, or values, or both.
    #[must_use]
    pub fn with_hadamard(mut self, qk: bool, v: bool) -> Self {
        (self.hadamard_qk, self.hadamard_v) = (qk, v);
        self
    }

    /// Sets how keys and values are stored, and for how many tokens.
    #[must_use]
    pub fn with_cache(mut self, cache: CacheFormat, slots: u32) -> Self {
        (self.cache, self.slots) = (cache, slots);
        self
    }

    /// Sets the type of the rows that are read, and a packed stride.
    #[must_use]
    pub fn with_activations(mut self, activations: FloatType) -> Self {
        self.activations = activations;
        self.x_stride = activations.packed(self.columns());
        self
    }

    /// Sets the stride of the rows that are read, in elements.
    #[must_use]
    pub fn with_x_stride(mut self, stride: u32) -> Self {
        self.x_stride = stride;
        self
    }

    /// Sets the type of the queries that are written, and a packed stride.
    #[must_use]
    pub fn with_output(mut self, output: FloatType) -> Self {
        self.output = output;
        self.q_stride = output.packed(self.q_columns());
        self
    }

    /// Sets the stride of the queries that are written, in elements.
    #[must_use]
    pub fn with_q_stride(mut self, stride: u32) -> Self {
        self.q_stride = stride;
        self
    }

    /// Returns the number of columns that are read of a row.
    pub fn columns(&self) -> u32 {
        let heads = self.kv_heads.saturating_mul(2).saturating_add(self.heads);
        heads.saturating_mul(self.head_dim)
    }

    fn q_columns(&self) -> u32 {
        self.heads.saturating_mul(self.head_dim)
    }

    /// Returns the layout of each of the two caches.
    ///
    /// # Errors
    /// Returns [`PlanError::Format`] if it is too large.
    pub fn cache_layout(&self) -> Result<CacheLayout, PlanError> {
        let [heads, slots, head_dim] =
            [self.kv_heads, self.slots, self.head_dim].map(|number| number as usize);
        Ok(self.cache.layout(heads, slots, head_dim)?)
    }

    /// Returns the number of bytes that a run with `m` rows reads of them, from their start.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.x_rows().bytes(m)
    }

    /// Returns the number of bytes of queries that a run with `m` rows writes, from their start.
    pub fn q_bytes(&self, m: u32) -> u64 {
        self.q_rows().bytes(m)
    }

    /// Returns the number of bytes of the table of angles.
    pub fn table_bytes(&self) -> u64 {
        4 * u64::from(self.positions) * u64::from(self.rotary_dim)
    }

    fn weight_bytes(&self) -> u64 {
        4 * u64::from(self.head_dim)
    }

    fn x_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Activations, self.columns(), self.x_stride, self.activations)
    }

    fn q_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Output, self.q_columns(), self.q_stride, self.output)
    }

    /// Returns the number of columns of a block of the transform: the largest power of two that divides
    /// the columns of a head.
    pub fn hadamard_block(&self) -> u32 {
        1 << self.head_dim.trailing_zeros().min(31)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension is too large or not a multiple of 4, a number of the norm is
    /// out of range, or a stride is too short or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("heads", self.heads, u16::MAX.into()),
            ("kv_heads", self.kv_heads, u16::MAX.into()),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("rotary_dim", self.rotary_dim, self.head_dim),
            ("positions", self.positions, i32::MAX as u32),
            ("slots", self.slots, i32::MAX as u32),
        ])?;
        for (name, value) in [("head_dim", self.head_dim), ("rotary_dim", self.rotary_dim)] {
            if !value.is_multiple_of(4) {
                return Err(PlanError::NotMultiple { name, value, multiple: 4 });
            }
        }
        if let Some(HeadNorm { epsilon, offset }) = self.norm {
            if !(epsilon.is_normal() && epsilon > 0.0) {
                let (name, need) = ("epsilon", "positive and a normal f32");
                return Err(PlanError::Number { name, value: epsilon, need });
            }
            if !offset.is_finite() {
                let (name, need) = ("offset", "finite");
                return Err(PlanError::Number { name, value: offset, need });
            }
        }
        self.cache_layout()?;
        self.x_rows().check(self.max_m)?;
        self.q_rows().check(self.max_m)
    }

    /// Returns the kernel.
    pub fn shader(&self, caps: &Caps) -> KernelDesc {
        let f16 = self.activations == FloatType::F16;
        let extra = self.norm.is_some() || self.hadamard_qk || self.hadamard_v;
        let lanes = lanes(caps);
        let [low, high] = Binding::COUNTS;
        KernelDesc {
            id: format!(
                "rotary_{}{}{}.l{lanes}",
                self.cache,
                if f16 { ".xf16" } else { "" },
                if extra { ".extra" } else { "" },
            ),
            consts: vec![
                ("M_TABLE", Const::U32(M_TABLE)),
                ("WORKGROUP", Const::U32(lanes)),
                ("HELD", Const::U32(MAX_HEAD_DIM / 4)),
                ("X_F16", Const::Bool(f16)),
                ("CACHE_BITS", Const::U32(self.cache.bits() as u32)),
                ("EXTRA", Const::Bool(extra)),
            ],
            fragments: ["lib/half_pair", "rotary/heads"].map(fragment).into(),
            bindings: vec![
                Binding::params("p", Params::LAYOUT),
                low,
                high,
                Binding::data(3, "x", "queries, keys and values of rows; f16 in pairs", READ),
                Binding::data(4, "rows", "position, slot and two more words of each row", READ),
                Binding::data(5, "angles", "a cosine and a sine for each position and pair", READ),
                Binding::data(6, "q_weights", "f32 weights of the norm of queries", READ),
                Binding::data(7, "k_weights", "f32 weights of the norm of keys", READ),
                Binding::data(8, "q", "queries that are written; f16 in pairs", Access::Write),
                Binding::data(9, "keys", "the cache of keys", Access::Write),
                Binding::data(10, "values", "the cache of values", Access::Write),
            ],
            grid: Grid::new(&[(&[Variable::M, ALL_HEADS], 1)]),
            workgroup_size: lanes,
            workgroup_memory: 4 * MAX_HEAD_DIM + 8 * lanes,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

const READ: Access = Access::Read;

const ALL_HEADS: Variable =
    Variable { name: "all_heads", meaning: "heads of a row: the parameters heads + 2 · kv_heads" };

/// Returns the number of lanes that share a head. On CPUs they are one vector, so that no lane waits for
/// another.
fn lanes(caps: &Caps) -> u32 {
    match caps.class {
        AdapterClass::Gpu => 32,
        AdapterClass::Cpu => 8,
    }
}

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let mut kernels = Vec::new();
    for cache in CacheFormat::ALL {
        for float in [FloatType::F32, FloatType::F16] {
            for extra in [false, true] {
                let spec =
                    RotarySpec::new(2, 2, 1, 64).with_cache(cache, 2).with_activations(float);
                kernels.push(spec.with_hadamard(extra, extra).shader(caps));
            }
        }
    }
    kernels
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "RotaryParams" in "rotary/heads" {
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        rotary_dim: u32,
        adjacent: u32,
        positions: u32,
        table_at: u32,
        rows_at: u32,
        x_at: u32,
        x_stride: u32,
        q_at: u32,
        q_stride: u32,
        q_f16: u32,
        m0: u32,
        m_cap: u32,
        slots: u32,
        row_words: u32,
        scales_at: u32,
        k_at: u32,
        v_at: u32,
        normed: u32,
        q_weights_at: u32,
        k_weights_at: u32,
        epsilon: f32,
        weight_offset: f32,
        block: u32,
        gain: f32,
        transform_qk: u32,
        transform_v: u32,
        nan: f32,
        pad: [u32; 2] = "pad0" "pad1",
    }
}

/// The compiled kernel for one [`RotarySpec`]. A plan is cheap to clone.
///
/// The queries, keys and values of a step come from one matmul; attention reads what is written here:
///
/// ```no_run
/// # use lowbit::format::{CacheFormat, RotaryTable};
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{RotaryArgs, RotaryPairs, RotaryPlan, RotarySpec};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     [qkv, rows, angles]: [&wgpu::Buffer; 3],
/// #     [q, keys, values]: [&wgpu::Buffer; 3],
/// #     pass: &mut wgpu::ComputePass<'_>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// // 9 heads of queries, 3 of keys and values, 64 columns each; up to 512 rows.
/// let spec = RotarySpec::new(512, 9, 3, 64)
///     .with_rotation(RotaryPairs::HalfSplit, 64, 2048)
///     .with_cache(CacheFormat::F16, 2048);
/// let table: Vec<[f32; 2]> = RotaryTable::new(10000.0, 64).pairs(2048)?; // goes into `angles`
/// assert_eq!(table.len() as u64 * 8, spec.table_bytes());
/// assert!(keys.size() >= spec.cache_layout()?.bytes());
/// let plan = RotaryPlan::new(kernels, &spec).await?;
/// let bound = plan
///     .bind(RotaryArgs {
///         activations: qkv.into(),
///         rows: rows.into(), // [512, 4] u32: position, slot, and the slots to attend to
///         angles: Some(angles.into()),
///         query_norm: None,
///         key_norm: None,
///         queries: Some(q.into()),
///         keys: Some(keys.into()),
///         values: Some(values.into()),
///     })
///     .await?;
/// bound.record(pass, 1)?; // one row
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RotaryPlan {
    kernels: Kernels,
    spec: RotarySpec,
    layout: CacheLayout,
    pipeline: Arc<Pipeline>,
}

/// The buffers of one step. A buffer that is written may be no other argument.
#[derive(Clone, Copy, Debug)]
pub struct RotaryArgs<'a> {
    /// `[max_m, (heads + 2·kv_heads)·head_dim]`: the queries, keys and values of each row.
    pub activations: SubBuffer<'a>,
    /// `[max_m, 4]` u32: the position of each row, its slot, and two words that attention reads. A slot
    /// past the cache is not written. At a position past the table, queries and keys become NaN.
    pub rows: SubBuffer<'a>,
    /// If there is a rotation: `[positions, rotary_dim/2]` pairs of f32, as
    /// [`RotaryTable::pairs`](crate::format::RotaryTable::pairs) makes them.
    pub angles: Option<SubBuffer<'a>>,
    /// If there are a norm and queries: its `[head_dim]` f32 weights.
    pub query_norm: Option<SubBuffer<'a>>,
    /// If there are a norm and keys: its `[head_dim]` f32 weights.
    pub key_norm: Option<SubBuffer<'a>>,
    /// If there are queries: `[max_m, heads·head_dim]`, which is written.
    pub queries: Option<SubBuffer<'a>>,
    /// If there are keys: their cache ([`RotarySpec::cache_layout`]), at a multiple of 16 bytes. Only the
    /// slots of the rows are written.
    pub keys: Option<SubBuffer<'a>>,
    /// If there are values: their cache, likewise.
    pub values: Option<SubBuffer<'a>>,
}

/// A step with its buffers.
pub type BoundRotary = Bound<RotaryPlan>;

impl RotaryPlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &RotarySpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps())).await?;
        let layout = spec.cache_layout()?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), layout, pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &RotarySpec {
        &self.spec
    }

    /// Returns the layout of each of the two caches.
    pub fn cache_layout(&self) -> &CacheLayout {
        &self.layout
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Rows that exceed a
    /// binding are split; a cache or a table that does is refused.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: RotaryArgs<'_>) -> Result<BoundRotary, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        self.check(&args)?;
        let x = Rows { align: 4, ..Rows::read(spec.x_rows(), args.activations) };
        let rows =
            Rows { align: 4, ..Rows::read(RowsSpec::words(Role::Positions, 4, 4), args.rows) };
        let q = args.queries.map(|at| Rows::write(spec.q_rows(), at));
        let all = [Some(x), Some(rows), q];
        check_rows(&all.into_iter().flatten().collect::<Vec<_>>(), spec.max_m)?;
        // Where a kernel reads nothing, it gets the rows. Where it writes nothing, it gets a small buffer.
        let align = u64::from(caps.storage_align.max(16));
        let spare = if args.queries.is_some() && args.keys.is_some() {
            None
        } else {
            let fill = BufferFill::Zeros(3 * align);
            let usage = wgpu::BufferUsages::STORAGE;
            Some(self.kernels.buffer("lowbit rotary, nothing", usage, fill).await?)
        };

        let spans = if spec.columns() == 0 || spec.max_m == 0 {
            Spans::none()
        } else {
            Spans::new(caps, spec.max_m, [x.spec, rows.spec, spec.q_rows()])?
        };
        let nothing = |index: u64| {
            Window::new(caps, spare.as_ref().unwrap_or(args.rows.buffer), index * align, 16)
        };
        let input = |at: Option<_>, bytes| match at {
            Some(at) => window(caps, at, bytes),
            None => window(caps, args.rows, 16),
        };
        let cache = |at: Option<_>, index| match at {
            Some(at) => window(caps, at, self.layout.bytes()),
            None => nothing(index),
        };
        let angles = input(args.angles, spec.table_bytes());
        let q_weights = input(args.query_norm, spec.weight_bytes());
        let k_weights = input(args.key_norm, spec.weight_bytes());
        let (keys, values) = (cache(args.keys, 1), cache(args.values, 2));
        let (label, count) = ("lowbit rotary", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, spans.count())?;
        let block = spec.hadamard_block();
        let norm = spec.norm.unwrap_or(HeadNorm { epsilon: 1.0, offset: 0.0 });
        let heads = u64::from(spec.heads) + 2 * u64::from(spec.kv_heads);
        for span in spans.iter() {
            let (x, rows) = (x.window(caps, &span), rows.window(caps, &span));
            let q = q.map_or(nothing(0), |q| q.window(caps, &span));
            let slot = draft.slot(Params {
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                head_dim: spec.head_dim,
                rotary_dim: spec.rotary_dim,
                adjacent: u32::from(spec.pairs == RotaryPairs::Adjacent),
                positions: spec.positions,
                table_at: angles.at(8),
                rows_at: rows.at(4),
                x_at: x.at(spec.activations.bytes()),
                x_stride: spec.x_stride,
                q_at: q.at(spec.output.bytes()),
                q_stride: spec.q_stride,
                q_f16: u32::from(spec.output == FloatType::F16),
                m0: span.m0,
                m_cap: span.m_cap,
                slots: spec.slots,
                row_words: self.layout.row_words as u32,
                scales_at: self.layout.scales_at as u32,
                k_at: keys.at(4),
                v_at: values.at(4),
                normed: u32::from(spec.norm.is_some()),
                q_weights_at: q_weights.at(4),
                k_weights_at: k_weights.at(4),
                epsilon: norm.epsilon,
                weight_offset: norm.offset,
                block,
                gain: f64::from(block).sqrt().recip() as f32,
                transform_qk: u32::from(spec.hadamard_qk),
                transform_v: u32::from(spec.hadamard_v),
                nan: f32::NAN,
                pad: [0; 2],
            });
            let bound: [(u32, Resource<'_>); 8] = [
                (3, x.into()),
                (4, rows.into()),
                (5, angles.into()),
                (6, q_weights.into()),
                (7, k_weights.into()),
                (8, q.into()),
                (9, keys.into()),
                (10, values.into()),
            ];
            let sizes = [(ALL_HEADS, Size::Fixed(heads))];
            draft.step(&self.pipeline, Head::Counted(slot), bound, span, &sizes);
        }
        draft.bind(self.clone()).await
    }

    /// Checks which arguments there are, those of which a dispatch needs all bytes, and that no buffer is
    /// written and also used as another argument.
    fn check(&self, args: &RotaryArgs<'_>) -> Result<(), BindError> {
        let spec = &self.spec;
        let (queries, keys) = (spec.heads > 0, spec.kv_heads > 0);
        let norm = spec.norm.is_some();
        let (table, weights) = (spec.table_bytes(), spec.weight_bytes());
        let cache = self.layout.bytes();
        let limit = window_capacity(self.kernels.caps());
        let mut seen: Vec<(Role, &wgpu::Buffer, bool)> = vec![
            (Role::Activations, args.activations.buffer, false),
            (Role::Positions, args.rows.buffer, false),
        ];
        for (role, at, planned, need, align, written) in [
            (Role::Angles, args.angles, spec.rotary_dim > 0, table, 8, false),
            (Role::NormWeights, args.query_norm, norm && queries, weights, 4, false),
            (Role::NormWeights, args.key_norm, norm && keys, weights, 4, false),
            (Role::Output, args.queries, queries, 0, 4, true),
            (Role::Keys, args.keys, keys, cache, 16, true),
            (Role::Values, args.values, keys, cache, 16, true),
        ] {
            if at.is_some() != planned {
                return Err(BindError::Argument { role, planned });
            }
            let Some(at) = at else { continue };
            check(role, at, need, align)?;
            if need > limit {
                return Err(BindError::BindingTooLarge { role, need, limit });
            }
            let written_before = |&&(_, buffer, before): &&(Role, &wgpu::Buffer, bool)| {
                buffer == at.buffer && (before || written)
            };
            if let Some(&(before, ..)) = seen.iter().find(written_before) {
                let role = if role == Role::Output { before } else { role };
                return Err(BindError::Aliased { role });
            }
            seen.push((role, at.buffer, written));
        }
        Ok(())
    }
}

/// Returns a binding of the first bytes of an argument.
fn window<'a>(caps: &Caps, at: SubBuffer<'a>, bytes: u64) -> Window<'a> {
    Window::new(caps, at.buffer, at.offset, bytes)
}
