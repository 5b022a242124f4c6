use super::kernel::{self, DECODE_ROWS, Shaders};
use crate::format::{CacheFormat, CacheLayout};
use crate::gpu::{Caps, KernelDesc, MAX_COUNT};
use crate::ops::rows::RowsSpec;
use crate::ops::{FloatType, PlanError, Role};

/// Heads, cache and types of attention. Strides are in elements and default to packed rows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AttentionSpec {
    /// The largest number of rows.
    pub max_m: u32,
    /// Heads of queries.
    pub heads: u32,
    /// Heads of keys and values, each of which `heads / kv_heads` neighboring heads of queries share.
    pub kv_heads: u32,
    /// Columns of a head: a multiple of 4 from 4 to 256.
    pub head_dim: u32,
    /// Slots of the cache.
    pub slots: u32,
    /// How keys and values are stored.
    pub cache: CacheFormat,
    /// The type of queries.
    pub queries: FloatType,
    /// The type of the output.
    pub output: FloatType,
    /// Elements from one row of queries to the next.
    pub q_stride: u32,
    /// Elements from one row of the output to the next.
    pub y_stride: u32,
    /// What products of queries and keys are multiplied by. It defaults to 1/√head_dim.
    pub scale: f32,
    /// If not 0: scores s become `soft_cap · tanh(s / soft_cap)`.
    pub soft_cap: f32,
    /// If there is a bias by relative position: how far it reaches. A score of a slot gets the bias of
    /// its head at `slot − own slot`, clamped to −reach…reach.
    pub bias_reach: Option<u32>,
    /// Whether an inverse Hadamard transform of each head of the output follows, for values that were
    /// transformed before they were stored: orthonormal, in natural (Sylvester) order, on blocks of the
    /// largest power of two that divides the size of heads.
    pub hadamard: bool,
    /// Whether kernels that need no subgroups are used even where others are faster.
    pub plain: bool,
}

impl AttentionSpec {
    /// Creates a spec with an f32 cache, packed f32 rows, a scale of 1/√head_dim, and neither soft cap
    /// nor bias.
    pub fn new(max_m: u32, heads: u32, kv_heads: u32, head_dim: u32, slots: u32) -> Self {
        let stride = heads.saturating_mul(head_dim);
        Self {
            max_m,
            heads,
            kv_heads,
            head_dim,
            slots,
            cache: CacheFormat::F32,
            queries: FloatType::F32,
            output: FloatType::F32,
            q_stride: stride,
            y_stride: stride,
            scale: 1.0 / (head_dim.max(1) as f32).sqrt(),
            soft_cap: 0.0,
            bias_reach: None,
            hadamard: false,
            plain: false,
        }
    }

    /// Sets how keys and values are stored.
    #[must_use]
    pub fn with_cache(mut self, cache: CacheFormat) -> Self {
        self.cache = cache;
        self
    }

    /// Sets the types of queries and output.
    #[must_use]
    pub fn with_types(mut self, queries: FloatType, output: FloatType) -> Self {
        (self.queries, self.output) = (queries, output);
        self
    }

    /// Sets the strides of queries and output, in elements. Queries that lie beside their keys and
    /// values have the stride of all three.
    #[must_use]
    pub fn with_strides(mut self, q_stride: u32, y_stride: u32) -> Self {
        (self.q_stride, self.y_stride) = (q_stride, y_stride);
        self
    }

    /// Sets the scale.
    #[must_use]
    pub fn with_scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// Sets the soft cap of scores.
    #[must_use]
    pub fn with_soft_cap(mut self, soft_cap: f32) -> Self {
        self.soft_cap = soft_cap;
        self
    }

    /// Adds a bias by relative position.
    #[must_use]
    pub fn with_bias(mut self, reach: u32) -> Self {
        self.bias_reach = Some(reach);
        self
    }

    /// Adds an inverse Hadamard transform of each head of the output.
    #[must_use]
    pub fn with_inverse_hadamard(mut self) -> Self {
        self.hadamard = true;
        self
    }

    /// Uses kernels that need no subgroups, as on devices that have none.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Returns the number of heads of queries that share a head of the cache.
    pub fn group(&self) -> u32 {
        self.heads.checked_div(self.kv_heads).unwrap_or(0)
    }

    /// Returns the layout of the cache of keys, and of that of values.
    ///
    /// # Errors
    /// Returns [`PlanError::Format`] if it is too large.
    pub fn layout(&self) -> Result<CacheLayout, PlanError> {
        let [heads, slots, columns] =
            [self.kv_heads, self.slots, self.head_dim].map(|size| size as usize);
        Ok(self.cache.layout(heads, slots, columns)?)
    }

    /// Returns the number of bytes of queries from their start that a run with `m` rows reads.
    pub fn q_bytes(&self, m: u32) -> u64 {
        self.q_rows().bytes(m)
    }

    /// Returns the number of bytes of output from its start that a run with `m` rows writes.
    pub fn y_bytes(&self, m: u32) -> u64 {
        self.y_rows().bytes(m)
    }

    /// Returns the number of bytes of the bias: `[heads, 2·reach + 1]` f32, or 0 if there is none.
    pub fn bias_bytes(&self) -> u64 {
        let row = |reach: u32| 2 * u64::from(reach) + 1;
        (4 * u64::from(self.heads)).saturating_mul(self.bias_reach.map_or(0, row))
    }

    /// Returns the number of bytes of scratch that binding needs: 0 if one part of the cache is enough.
    pub fn scratch_bytes(&self) -> u64 {
        match kernel::parts(self) {
            0 | 1 => 0,
            parts => {
                let rows = self.max_m.min(DECODE_ROWS);
                let part = 4 * (u64::from(self.head_dim) + 4);
                let sums = u64::from(rows) * u64::from(self.heads);
                sums.saturating_mul(parts.into()).saturating_mul(part)
            }
        }
    }

    pub(super) fn q_rows(&self) -> RowsSpec {
        let columns = self.heads.saturating_mul(self.head_dim);
        RowsSpec::floats(Role::Queries, columns, self.q_stride, self.queries)
    }

    pub(super) fn y_rows(&self) -> RowsSpec {
        let columns = self.heads.saturating_mul(self.head_dim);
        RowsSpec::floats(Role::Output, columns, self.y_stride, self.output)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension is too large, heads do not share the heads of the cache evenly,
    /// the size of heads is not supported, a stride is too short or, for f16, odd, or the scale or the
    /// soft cap is not finite or the latter negative.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("heads", self.heads, u16::MAX.into()),
            ("slots", self.slots, i32::MAX as u32),
            ("bias_reach", self.bias_reach.unwrap_or(0), i32::MAX as u32 / 2),
        ])?;
        if self.kv_heads == 0 || self.heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            let Self { heads, kv_heads, .. } = *self;
            return Err(PlanError::Heads { heads, kv_heads });
        }
        if !(4..=256).contains(&self.head_dim) || !self.head_dim.is_multiple_of(4) {
            return Err(PlanError::HeadDim { head_dim: self.head_dim });
        }
        if !self.scale.is_finite() {
            let (name, value, need) = ("scale", self.scale, "finite");
            return Err(PlanError::Number { name, value, need });
        }
        if !self.soft_cap.is_finite() || self.soft_cap < 0.0 {
            let (name, value, need) = ("soft_cap", self.soft_cap, "finite and not negative");
            return Err(PlanError::Number { name, value, need });
        }
        PlanError::check_index("the size of the bias", self.bias_bytes())?;
        self.layout()?;
        self.q_rows().check(self.max_m)?;
        self.y_rows().check(self.max_m)
    }

    pub(super) fn shaders(&self, caps: &Caps) -> Shaders {
        kernel::shaders(self, caps)
    }

    /// Returns the kernel that handles `m` rows.
    pub fn shader(&self, caps: &Caps, m: u32) -> KernelDesc {
        let Shaders { decode, prefill, .. } = self.shaders(caps);
        match prefill {
            Some(prefill) if m > DECODE_ROWS => prefill,
            _ => decode,
        }
    }
}
