use super::AttentionPlan;
use super::kernel::{
    DECODE_ROWS, HEADS, KV_HEADS, PART_SLOTS, PARTS, Params, UNIT_QUERIES, UNITS, hadamard_block,
    is_f16, parts,
};
use crate::gpu::{BufferFill, Caps, Size};
use crate::ops::buffers::{Window, check, check_aliases, window_capacity};
use crate::ops::recording::{Bound, Count, Draft, Head};
use crate::ops::rows::{Rows, RowsSpec, Span, Spans, check_rows};
use crate::ops::{BindError, Role, SubBuffer};

/// The buffers of one attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionArgs<'a> {
    /// Queries, `[max_m, heads · head_dim]`.
    pub queries: SubBuffer<'a>,
    /// The cache of keys ([`AttentionPlan::layout`]), at a multiple of 16 bytes.
    pub keys: SubBuffer<'a>,
    /// The cache of values, at a multiple of 16 bytes.
    pub values: SubBuffer<'a>,
    /// `(position, slot, first, end)` of each row, u32, `[max_m, 4]`, at a multiple of 16 bytes.
    pub rows: SubBuffer<'a>,
    /// The bias, `[heads, 2·reach + 1]` f32, if the spec has one.
    pub bias: Option<SubBuffer<'a>>,
    /// The output, `[max_m, heads · head_dim]`.
    pub output: SubBuffer<'a>,
    /// Scratch of [`AttentionPlan::scratch_bytes`] bytes, at a multiple of 16 bytes, which ops that run
    /// one after the other may share. If it is `None`, binding allocates it.
    pub scratch: Option<SubBuffer<'a>>,
}

/// An attention with its buffers.
pub type BoundAttention = Bound<AttentionPlan>;

impl AttentionPlan {
    /// Checks the buffers and makes bind groups, one small uniform buffer and, if none is given, scratch.
    /// Rows of queries and output that exceed a binding are split.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: AttentionArgs<'_>) -> Result<BoundAttention, BindError> {
        let (spec, layout, caps) = (&self.spec, &self.layout, self.kernels.caps());
        let q = Rows { align: 4, ..Rows::read(spec.q_rows(), args.queries) };
        let y = Rows::write(spec.y_rows(), args.output);
        let rows = Rows::read(RowsSpec::words(Role::Rows, 4, 4), args.rows);
        check_rows(&[q, y, rows], spec.max_m)?;
        for (role, cache) in [(Role::Keys, args.keys), (Role::Values, args.values)] {
            check(role, cache, layout.bytes(), 16)?;
            check_binding(caps, role, layout.bytes())?;
        }
        if spec.bias_reach.is_some() != args.bias.is_some() {
            return Err(BindError::Bias { planned: spec.bias_reach.is_some() });
        }
        if let Some(bias) = args.bias {
            check(Role::Bias, bias, spec.bias_bytes(), 4)?;
            check_binding(caps, Role::Bias, spec.bias_bytes())?;
        }
        // Without parts, a word that no kernel touches.
        let bytes = spec.scratch_bytes().max(16);
        check_binding(caps, Role::Scratch, bytes)?;
        let own = match args.scratch {
            Some(scratch) => {
                check(Role::Scratch, scratch, bytes, 16)?;
                None
            }
            None => {
                let (storage, fill) = (wgpu::BufferUsages::STORAGE, BufferFill::Zeros(bytes));
                Some(self.kernels.buffer("lowbit attention parts", storage, fill).await?)
            }
        };
        let scratch = match (&own, args.scratch) {
            (Some(own), _) => own.into(),
            (None, Some(scratch)) => scratch,
            (None, None) => args.output,
        };
        let inputs = [(Role::Keys, args.keys.buffer), (Role::Values, args.values.buffer)];
        let bias = args.bias.map(|bias| (Role::Bias, bias.buffer));
        check_aliases(inputs.into_iter().chain(bias), &[args.output.buffer, scratch.buffer])?;
        let others = [args.queries, args.rows, args.output].map(|other| other.buffer);
        if others.contains(&scratch.buffer) {
            return Err(BindError::Aliased { role: Role::Scratch });
        }

        let spans = match spec.max_m {
            0 => Spans::none(),
            _ => Spans::new(caps, spec.max_m, [q.spec, y.spec, rows.spec])?,
        };
        let [keys, values] = [args.keys, args.values]
            .map(|at| Window::new(caps, at.buffer, at.offset, layout.bytes()));
        let bias = args.bias.map(|at| Window::new(caps, at.buffer, at.offset, spec.bias_bytes()));
        let scratch = Window::new(caps, scratch.buffer, scratch.offset, bytes);
        let few = spec.max_m.min(DECODE_ROWS);
        let params = |span: &Span, by_row: bool| {
            let (q, y) = (q.window(caps, span), y.window(caps, span));
            Params {
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                group: spec.group(),
                head_dim: spec.head_dim,
                slots: spec.slots,
                row_words: layout.row_words as u32,
                keys_at: keys.at(4),
                values_at: values.at(4),
                scales_at: layout.scales_at as u32,
                q_at: q.at(spec.queries.bytes()),
                q_stride: spec.q_stride,
                q_f16: is_f16(spec.queries),
                y_at: y.at(spec.output.bytes()),
                y_stride: spec.y_stride,
                y_f16: is_f16(spec.output),
                rows_at: rows.window(caps, span).at(16),
                m0: span.m0,
                m_cap: span.m_cap,
                by_row: by_row.into(),
                parts: if by_row { parts(spec) } else { 1 },
                part_slots: PART_SLOTS,
                scale: spec.scale,
                cap: spec.soft_cap,
                reach: spec.bias_reach.unwrap_or(0),
                bias_at: bias.map_or(0, |bias| bias.at(4)),
                biased: bias.is_some().into(),
                hadamard: hadamard_block(spec),
                root: 1.0 / (hadamard_block(spec) as f32).sqrt(),
                scratch_at: scratch.at(16),
            }
        };
        let (label, count) = ("lowbit attention", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, 2 * spans.count())?;
        let fixed = |size: u32| Size::Fixed(size.into());
        let bound = |span: &Span| {
            let rows = rows.window(caps, span);
            [
                (3, q.window(caps, span).into()),
                (4, keys.into()),
                (5, values.into()),
                (6, rows.into()),
                (7, bias.unwrap_or(rows).into()),
                (8, y.window(caps, span).into()),
                (9, scratch.into()),
            ]
        };
        let mut groups = Vec::new();
        draft.stage(&self.decode, 0..=few);
        for span in spans.iter().filter(|span| span.m0 < few) {
            let slot = draft.slot(params(&span, true));
            let group = draft.group(&self.decode, Head::Counted(slot), bound(&span));
            groups.push((group, span));
            let sizes = [
                (UNIT_QUERIES, fixed(spec.group())),
                (UNITS, Size::PerRow(1)),
                (KV_HEADS, fixed(spec.kv_heads)),
                (PARTS, fixed(parts(spec))),
            ];
            draft.dispatch(group, span, &sizes);
        }
        let all_heads = [(HEADS, fixed(spec.heads))];
        if let Some(combine) = &self.combine {
            draft.stage(combine, 0..=few);
            for &(group, span) in &groups {
                draft.dispatch(group, span, &all_heads);
            }
        }
        if let Some(prefill) = &self.prefill {
            groups.clear();
            draft.stage(prefill, DECODE_ROWS + 1..=u32::MAX);
            for span in spans.iter() {
                let slot = draft.slot(params(&span, false));
                let group = draft.group(prefill, Head::Counted(slot), bound(&span));
                groups.push((group, span));
                let sizes = [
                    (UNIT_QUERIES, Size::PerRow(spec.group().into())),
                    (UNITS, fixed(1)),
                    (KV_HEADS, fixed(spec.kv_heads)),
                    (PARTS, fixed(1)),
                ];
                draft.dispatch(group, span, &sizes);
            }
            if let Some(combine) = self.combine.as_ref().filter(|_| spec.hadamard) {
                draft.stage(combine, DECODE_ROWS + 1..=u32::MAX);
                for &(group, span) in &groups {
                    draft.dispatch(group, span, &all_heads);
                }
            }
        }
        draft.bind(self.clone()).await
    }
}

/// Refuses what is bound as a whole and exceeds a binding.
fn check_binding(caps: &Caps, role: Role, need: u64) -> Result<(), BindError> {
    let limit = window_capacity(caps);
    if need > limit { Err(BindError::BindingTooLarge { role, need, limit }) } else { Ok(()) }
}
