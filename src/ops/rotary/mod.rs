//! Prepares queries, keys and values for attention: an RMSNorm of each head, rotary position embedding,
//! a Hadamard transform, and the writing of keys and values to their caches, in one dispatch.
//!
//! Each part but the last is optional, and they come in this order. What is written to a quantized cache
//! is floating-point arithmetic, so a code next to a tie may be either neighbor:
//! [`reference::check_cached_head`](crate::reference::check_cached_head) states the contract.

mod plan;

pub use plan::{BoundRotary, RotaryArgs, RotaryPlan};

use super::rows::RowsSpec;
use super::{FloatType, PlanError, Role};
use crate::format::{CacheFormat, CacheLayout};
use crate::gpu::{
    Access, AdapterClass, Binding, Caps, Const, Grid, KernelDesc, M_TABLE, MAX_COUNT, Variable,
    fragment,
};
use plan::Params;

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
    /// The number that is added to the mean of the squares, positive.
    pub epsilon: f32,
    /// The number that is added to each weight: 0, or 1 for Gemma.
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
        (u64::from(self.positions) * u64::from(self.rotary_dim)).saturating_mul(4)
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
        let pairs: u32 = match self.pairs {
            RotaryPairs::Adjacent => 0,
            // Four pairs are in two quads.
            RotaryPairs::HalfSplit if self.rotary_dim.is_multiple_of(8) => 1,
            RotaryPairs::HalfSplit => 2,
        };
        let lanes = lanes(caps);
        let [low, high] = Binding::COUNTS;
        KernelDesc {
            id: format!(
                "rotary_{}{}{}{}.l{lanes}",
                self.cache,
                ["", ".half", ".columns"][pairs as usize],
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
                ("PAIRS", Const::U32(pairs)),
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
            conditions: match pairs {
                1 => vec!["rotary_dim is a multiple of 8".into()],
                _ => Vec::new(),
            },
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
    let rotations =
        [(RotaryPairs::Adjacent, 64), (RotaryPairs::HalfSplit, 64), (RotaryPairs::HalfSplit, 20)];
    let mut kernels = Vec::new();
    for cache in CacheFormat::ALL {
        for float in [FloatType::F32, FloatType::F16] {
            for extra in [false, true] {
                for (pairs, rotary_dim) in rotations {
                    let spec = RotarySpec::new(2, 2, 1, 64)
                        .with_rotation(pairs, rotary_dim, 2)
                        .with_cache(cache, 2)
                        .with_activations(float)
                        .with_hadamard(extra, extra);
                    kernels.push(spec.shader(caps));
                }
            }
        }
    }
    kernels
}
