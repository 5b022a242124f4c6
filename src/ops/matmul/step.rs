use super::{KernelChoice, Scaling, Schedule};

/// What one trip of the main loop of a schedule covers: the innermost loop that loads codes, as in the
/// shader, before the compiler unrolls it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Weights per lane, on average over the workgroup. Under 2:4, pruned weights count too.
    pub weights: f64,
    /// Rows of X that each weight is multiplied with.
    pub x_rows: u32,
    /// Bytes of codes that a lane loads, if it loads any codes.
    pub code_bytes: u32,
    /// Bytes of codes that one load must fetch; `None` if the layout does not determine it.
    pub code_load: Option<u32>,
}

impl Step {
    /// Returns the step of a kernel. Blocks of 32 columns hold `bits · 4` bytes of codes, half of
    /// that under 2:4, and are loaded 16 bytes at a time if they have that many. General scaling
    /// takes a quad of columns at a time, from whole words or from the block that it is in.
    pub fn new(choice: &KernelChoice) -> Self {
        let KernelChoice { schedule, decoder, scaling, .. } = *choice;
        let stored = decoder.element.low_bits() / if decoder.sparse { 2 } else { 1 };
        let (columns, code_bytes, code_load) = match scaling {
            // A quad of words, or the whole block that the quad is in.
            Scaling::General if choice.by_columns() => (4, (stored / 2).max(4), None),
            Scaling::General => (4, stored * 4, None),
            Scaling::None | Scaling::Row | Scaling::Aligned | Scaling::Block(_) => {
                (32, stored * 4, Some((stored * 4).min(16)))
            }
        };
        match schedule {
            Schedule::Gemv { m_tile, .. } => {
                let trip = if choice.pair { 2 } else { 1 };
                Self {
                    weights: f64::from(4 * trip * columns),
                    x_rows: m_tile,
                    code_bytes: 4 * trip * code_bytes,
                    code_load: code_load.map(|width| if choice.pair { 16 } else { width }),
                }
            }
            Schedule::IntGemv { m_tile, .. } | Schedule::IntRows { m_tile } => Self {
                weights: f64::from(4 * columns),
                x_rows: m_tile,
                code_bytes: 4 * code_bytes,
                code_load,
            },
            Schedule::Rows { m_tile, n_tile } => Self {
                weights: f64::from(n_tile * columns),
                x_rows: m_tile,
                code_bytes: n_tile * code_bytes,
                code_load,
            },
            // 64 of 128 lanes load a row of 32 columns each.
            Schedule::Tiled { m_tile } | Schedule::IntTiled { m_tile } => {
                let code_bytes = code_bytes * 32 / columns;
                Self { weights: 16.0, x_rows: m_tile, code_bytes, code_load }
            }
            // Each of 2 · size lanes loads a row of 32 columns; the others of 32 load nothing.
            Schedule::Coop { size } => {
                let code_bytes = code_bytes * 32 / columns;
                Self { weights: f64::from(2 * size), x_rows: 2 * size, code_bytes, code_load }
            }
        }
    }
}
