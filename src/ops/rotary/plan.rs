//! The plan of `rotary`, its arguments, and how they are bound.

use super::{ALL_HEADS, HeadNorm, RotarySpec};
use crate::format::CacheLayout;
use crate::gpu::{BufferFill, Caps, Kernels, Pipeline, Size, uniform};
use crate::ops::buffers::{Resource, Window, check, window_capacity};
use crate::ops::recording::{Bound, Count, Draft, Head};
use crate::ops::rows::{Rows, RowsSpec, Spans, check_rows};
use crate::ops::{BindError, FloatType, PlanError, Role, SubBuffer};
use std::sync::Arc;

uniform! {
    /// The parameters of one dispatch.
    pub(super) struct Params for "RotaryParams" in "rotary/heads" {
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        rotary_dim: u32,
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
        pad: [u32; 3] = "pad0" "pad1" "pad2",
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
                pad: [0; 3],
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
