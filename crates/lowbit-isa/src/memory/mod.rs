//! The lines of memory that the lanes of a kernel touch, measured without a GPU.
//!
//! A GPU loads whole lines for all lanes of a subgroup at once. So what a load costs depends on the
//! addresses of its lanes, which neither a count of bytes nor a count of instructions tells. Here any
//! kernel runs on any adapter, also a software one, and writes down the first byte of every load and
//! store of every lane ([`Tracer`]). Afterwards the host puts lanes together as a GPU would, and counts
//! ([`Trace::count`]).
//!
//! **One declaration drives it.** The text of a kernel is composed as always. [`rewrite`] then takes naga's form
//! of it and puts a call after each load from a buffer, a texture or workgroup memory, and before each
//! store, with the number of the place in the shader and the byte offset that the pointer says. Nothing
//! of a kernel is written twice, and nothing about a kernel has to be known: fragments that do not exist
//! yet are traced too. (Fragments of access that write the log would have been second copies of a
//! third of `shaders/`, and blind to workgroup memory, which schedules access themselves.) The
//! rewritten kernel computes what it did before, and ops record it as they record any kernel, because
//! [`Instrument`](lowbit::gpu::Instrument) is asked where kernels are compiled and bind group 1 is free for
//! the log.
//!
//! **How lanes are put together.** Invocation i of a workgroup is lane i mod w of subgroup ⌊i / w⌋, for
//! any width w, whatever the adapter does that runs the kernel. One access of a subgroup is what its
//! lanes do at one place in the shader when each of them is there for the i-th time. That is exact where
//! the lanes of a subgroup take the same way, and where lanes leave a loop earlier than others; a lane
//! that skips a place and returns to it later is counted one access late.
//!
//! **What is left out.** Addresses are those before bounds checks, and compilers may join neighbouring
//! loads of a lane. Operands of cooperative matrices have no lanes. Caches are not modelled: an access
//! that finds its line in a cache counts like one that does not, because it takes the cache's time.

mod count;
mod rewrite;
mod run;
#[cfg(test)]
mod tests;
mod trace;

pub use count::{Banks, LINE_BYTES, Lines};
pub use rewrite::{Place, Site, rewrite};
pub use run::{Class, Measured, Tracing};
pub use trace::{Counted, Trace, Tracer};

use lowbit::gpu::{Access, Binding, BindingRole, DeviceError};
use lowbit::host::HostError;
use lowbit::ops::{BindError, PlanError, RecordError, WeightsError};
use serde::Serialize;

/// Widths of subgroups that accesses are counted for.
pub const SUBGROUPS: [u16; 2] = [32, 64];

/// A kernel could not be traced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The device refused something.
    #[error("the device")]
    Host(#[from] HostError),
    /// Weights could not be allocated.
    #[error("weights")]
    Weights(#[from] WeightsError),
    /// The product could not be planned.
    #[error("planning")]
    Plan(#[from] PlanError),
    /// The product could not be bound.
    #[error("binding")]
    Bind(#[from] BindError),
    /// The product could not be recorded.
    #[error("recording")]
    Record(#[from] RecordError),
    /// The log is too small.
    #[error("{wanted} accesses, and the log holds {capacity}: trace fewer workgroups")]
    Full {
        /// Accesses that were made.
        wanted: u32,
        /// Accesses that fit.
        capacity: u32,
    },
    /// The plan took another kernel than the one that is asked about.
    #[error("traced {taken} instead of {asked}")]
    Other {
        /// The kernel that ran.
        taken: String,
        /// The kernel that should have run.
        asked: String,
    },
}

impl From<DeviceError> for MemoryError {
    fn from(error: DeviceError) -> Self {
        Self::Host(error.into())
    }
}

/// A part of a product, which a binding holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operand {
    /// Weights: codes, scales, zero points, metadata.
    W,
    /// Everything else that a kernel only reads.
    X,
    /// Everything that a kernel writes.
    Y,
}

impl Operand {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::W, Self::X, Self::Y];

    /// Returns the operand of a binding.
    pub fn of(binding: &Binding) -> Self {
        match binding.role {
            _ if binding.access == Access::Write => Self::Y,
            BindingRole::Codes => Self::W,
            _ if binding.name == "side" => Self::W,
            _ => Self::X,
        }
    }

    /// `w`, `x` or `y`.
    pub fn name(self) -> &'static str {
        match self {
            Self::W => "w",
            Self::X => "x",
            Self::Y => "y",
        }
    }
}

/// Lines of one operand of a kernel, as `lowbit isa --memory` reports them. Everything is summed over
/// the traced workgroups.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The kernel id.
    pub kernel: String,
    /// The devices that take it.
    pub class: Class,
    /// Lanes of a subgroup.
    pub subgroup: u16,
    /// The operand.
    pub operand: Operand,
    /// Different bytes that subgroups asked for, access by access.
    pub bytes_used: u64,
    /// Bytes of the lines of 128 bytes that they touched.
    pub bytes_fetched: u64,
    /// Those lines.
    pub lines: u64,
    /// Lines that the bytes of each access would fill.
    pub ideal_lines: u64,
    /// Lines of 64 bytes that they touched.
    pub lines_64: u64,
    /// Lines of 64 bytes that the bytes of each access would fill.
    pub ideal_lines_64: u64,
    /// Lines of 32 bytes that they touched.
    pub lines_32: u64,
    /// Lines of 32 bytes that the bytes of each access would fill.
    pub ideal_lines_32: u64,
    /// Loads and stores of a subgroup.
    pub accesses: u64,
    /// Workgroups that were traced.
    pub workgroups: u64,
}

/// Workgroup memory of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BankRow {
    /// The kernel id.
    pub kernel: String,
    /// The devices that take it.
    pub class: Class,
    /// Lanes of a subgroup.
    pub subgroup: u16,
    /// Loads and stores of a subgroup.
    pub accesses: u64,
    /// Cycles of a memory of 32 banks.
    pub cycles: u64,
    /// Cycles without conflicts.
    pub ideal_cycles: u64,
}

/// Returns the rows of a kernel in a trace, for each width of subgroups.
pub fn rows(trace: &Trace, kernel: &str, class: Class) -> (Vec<Row>, Vec<BankRow>) {
    let (mut rows, mut banks) = (Vec::new(), Vec::new());
    let workgroups = trace.groups();
    for subgroup in SUBGROUPS {
        let counted = trace.count(kernel, subgroup);
        for (operand, lines) in counted.lines {
            let ([lines_32, lines_64, lines_128], [ideal_32, ideal_64, ideal_128]) =
                (lines.lines, lines.ideal);
            rows.push(Row {
                kernel: kernel.into(),
                class,
                subgroup,
                operand,
                bytes_used: lines.used,
                bytes_fetched: lines_128 * u64::from(LINE_BYTES[2]),
                lines: lines_128,
                ideal_lines: ideal_128,
                lines_64,
                ideal_lines_64: ideal_64,
                lines_32,
                ideal_lines_32: ideal_32,
                accesses: lines.accesses,
                workgroups,
            });
        }
        let Banks { accesses, cycles, ideal } = counted.banks;
        if accesses > 0 {
            let kernel = kernel.into();
            banks.push(BankRow { kernel, class, subgroup, accesses, cycles, ideal_cycles: ideal });
        }
    }
    (rows, banks)
}
