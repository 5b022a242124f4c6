//! Small kernels that measure what an adapter can do at most.

use crate::gpu::{Access, Binding, BindingRole, Caps, Const, Grid, KernelDesc, Variable, fragment};

/// What one of the kernels measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// f32 multiply-adds.
    Fma,
    /// Dot products of four packed bytes.
    Dot,
    /// Reads where each lane reads a run of its own.
    ReadRuns,
    /// Reads where neighbouring lanes read neighbouring words.
    ReadCoalesced,
    /// Reads of a texture with so many texels in a row.
    ReadTexture(u32),
    /// Reads and writes.
    Copy,
}

/// Rounds of arithmetic of a lane.
pub(crate) const ROUNDS: u32 = 4096;

/// Vectors of 16 bytes that a lane reads.
pub(crate) const RUN: u32 = 64;

/// Lanes of a workgroup.
pub(crate) const WORKGROUP: u32 = 64;

const GROUPS: Variable =
    Variable { name: "groups", meaning: "workgroups: as many as the memory suffices for" };

impl Limit {
    /// Every limit of a device. `texture_width` is the number of texels in a row of a texture, or 0
    /// if codes do not lie in textures.
    pub fn all(texture_width: u32) -> Vec<Self> {
        let mut all = vec![Self::Fma, Self::Dot, Self::ReadRuns, Self::ReadCoalesced, Self::Copy];
        if texture_width > 0 {
            all.push(Self::ReadTexture(texture_width));
        }
        all
    }

    /// The kernel.
    pub fn shader(self) -> KernelDesc {
        let (rounds, run) = (("ROUNDS", Const::U32(ROUNDS)), ("RUN", Const::U32(RUN)));
        let contiguous = |yes| ("CONTIGUOUS", Const::Bool(yes));
        let (id, main, consts) = match self {
            Self::Fma => ("limit_fma", "limits/fma", vec![rounds]),
            Self::Dot => ("limit_dot", "limits/dot", vec![rounds]),
            Self::ReadRuns => ("limit_read_runs", "limits/read", vec![run, contiguous(true)]),
            Self::ReadCoalesced => {
                ("limit_read_coalesced", "limits/read", vec![run, contiguous(false)])
            }
            Self::ReadTexture(width) => {
                let consts = vec![run, ("TEXTURE_WIDTH", Const::U32(width))];
                ("limit_read_texture", "limits/read_texture", consts)
            }
            Self::Copy => ("limit_copy", "limits/copy", vec![run]),
        };
        let sink = Binding::data(1, "sink", "memory to write", Access::Write);
        KernelDesc {
            id: id.into(),
            consts,
            fragments: vec![fragment(main)],
            bindings: match self {
                Self::ReadTexture(_) => {
                    vec![sink, Binding::new(4, "codes", BindingRole::Codes, Access::Texture)]
                }
                _ => vec![Binding::data(0, "source", "memory to read", Access::Read), sink],
            },
            grid: Grid::new(&[(&[GROUPS], 1)]).along_x(),
            workgroup_size: WORKGROUP,
            workgroup_memory: 0,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

/// Every kernel that measures a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    Limit::all(caps.texture_width()).into_iter().map(Limit::shader).collect()
}
