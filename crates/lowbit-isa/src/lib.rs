//! What AMD's compiler makes of the kernels, with no GPU: each shader goes through naga as
//! wgpu would send it and through Mesa's RADV, whose null hardware compiles for any family.
//! Statistics are the driver's; loads, dot products and the work of the main loop are counted
//! in its listing. Nothing runs: every time that follows from these numbers is derived.
//!
//! Which lines of memory a kernel touches is another matter, which [`memory`] measures by running it on
//! any adapter.

mod child;
mod driver;
mod family;
mod kernel;
mod listing;
pub mod memory;
mod roofline;

pub use child::{Job, compile, compile_all, serve};
pub use driver::{Compiled, Driver};
pub use family::{Family, Peaks};
pub use kernel::{Kernel, covering, cpu_kernels, each_once, find, kernels};
pub use listing::{Counts, Listing, Loads, MainLoop};
pub use roofline::{Bound, Roof, Traffic, roof};

use lowbit::ops::matmul::Step;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The compiler or its driver could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// There is no driver where one is looked for.
    #[error("no RADV for {family} at {}: {hint}", path.display())]
    NoDriver {
        /// The family.
        family: Family,
        /// The driver's manifest.
        path: PathBuf,
        /// How to get it.
        hint: &'static str,
    },
    /// No Vulkan loader, or it has no device to offer.
    #[error("no Vulkan device to compile for: {0}")]
    NoDevice(String),
    /// A call of Vulkan failed.
    #[error("{call}: {result}")]
    Vulkan {
        /// The function.
        call: &'static str,
        /// What it returned.
        result: ash::vk::Result,
    },
    /// naga refused the shader.
    #[error("{kernel}: {message}")]
    Shader {
        /// The kernel.
        kernel: String,
        /// naga's words, with lines traced to their files.
        message: String,
    },
    /// The process that compiles could not be started or talked to.
    #[error("cannot talk to the compiling process")]
    Process(#[from] std::io::Error),
    /// The process that compiles ended early. Mesa aborts on family names that it does not
    /// know and on shaders that it cannot compile.
    #[error("the driver for {family} ended ({status}) at {kernel}: {message}")]
    Aborted {
        /// The family.
        family: Family,
        /// How the process ended.
        status: std::process::ExitStatus,
        /// The first kernel that it did not answer for.
        kernel: String,
        /// The last of what it printed.
        message: String,
    },
    /// The process that compiles answered something else than asked.
    #[error("the compiling process answered nonsense: {0}")]
    Answer(String),
}

/// One kernel on one family. Registers and bytes are the driver's numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The kernel id.
    pub kernel: String,
    /// The family.
    pub family: Family,
    /// Invocations in a workgroup.
    pub workgroup: u32,
    /// Lanes in a wave.
    pub wave: u32,
    /// Vector registers a lane.
    pub vgprs: u64,
    /// Scalar registers a wave.
    pub sgprs: u64,
    /// Bytes of workgroup memory.
    pub lds: u64,
    /// Vector registers that did not fit and went to memory.
    pub spilled_vgprs: u64,
    /// Scalar registers that did not fit and went to lanes of vector registers.
    pub spilled_sgprs: u64,
    /// Bytes of scratch memory a lane.
    pub scratch: u64,
    /// Waves that a SIMD can hold at once; see [`Family::waves`].
    pub occupancy: u64,
    /// Instructions in all.
    pub instructions: u64,
    /// Vector operations in all, as the driver counts them; Mesa 25 does.
    pub valu: Option<u64>,
    /// What the listing holds.
    pub counts: Counts,
    /// The innermost loop that loads codes.
    pub main_loop: Option<MainLoop>,
    /// What that loop costs a weight, for kernels with a [`Step`].
    pub per_weight: Option<PerWeight>,
}

/// The main loop's costs, divided by the weights that a lane covers in one trip.
///
/// A trip covers [`Step::weights`] weights a lane as the shader has it. Where the compiler
/// unrolls by u, the loop holds u times the loads of codes, so
/// `cost = count · Step::bytes / (bytes of codes loaded · Step::weights)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerWeight {
    /// Weights that a lane covers in one trip, unrolling counted in.
    pub weights: f64,
    /// Cycles of vector issue; an operation takes one, a quarter-rate one four.
    pub valu_cycles: f64,
    /// Vector operations.
    pub valu: f64,
    /// Loads of anything from memory.
    pub loads: f64,
    /// Loads of codes.
    pub code_loads: f64,
    /// Bytes of codes loaded.
    pub code_bytes: f64,
    /// Whether every lane runs every counted instruction once a trip: no loop of unknown
    /// length within (it counts as one trip), no branch (both sides count).
    pub exact: bool,
}

impl Stats {
    /// Statistics of a compiled kernel.
    pub fn new(kernel: &Kernel, family: Family, compiled: &Compiled) -> Self {
        let listing = Listing::parse(&compiled.listing);
        let main_loop = listing.main_loop(kernel.codes_binding());
        let value = |name: &str| compiled.statistics.get(name).copied();
        let or_0 = |name: &str| value(name).unwrap_or(0);
        Self {
            kernel: kernel.name().to_string(),
            family,
            workgroup: compiled.workgroup,
            wave: compiled.wave,
            vgprs: or_0("VGPRs"),
            sgprs: or_0("SGPRs"),
            lds: or_0("LDS size"),
            spilled_vgprs: or_0("Spilled VGPRs"),
            spilled_sgprs: or_0("Spilled SGPRs"),
            scratch: or_0("Scratch size"),
            occupancy: family.waves(
                or_0("VGPRs"),
                or_0("LDS size"),
                compiled.wave,
                compiled.workgroup,
            ),
            instructions: or_0("Instructions"),
            valu: value("VALU"),
            counts: listing.counts(kernel.codes_binding()),
            per_weight: main_loop.as_ref().zip(kernel.step()).map(|(l, s)| per_weight(l, &s)),
            main_loop,
        }
    }
}

fn per_weight(main: &MainLoop, step: &Step) -> PerWeight {
    let counts = &main.counts;
    let unrolled = counts.code_loads.bytes() as f64 / step.code_bytes as f64;
    let weights = unrolled * step.weights;
    let per = |count: u64| count as f64 / weights;
    PerWeight {
        weights,
        valu_cycles: per(counts.valu + 3 * counts.quarter_rate),
        valu: per(counts.valu),
        loads: per(counts.loads.count()),
        code_loads: per(counts.code_loads.count()),
        code_bytes: per(counts.code_loads.bytes()),
        exact: main.inner_loops == 0 && main.branches == 0,
    }
}
