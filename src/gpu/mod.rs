//! What every op stands on: facts about adapters as plain data, the description of kernels, the
//! composition of shaders, and the pipeline cache. Nothing here submits, polls or waits.

mod caps;
mod compose;
mod feature;
mod fragments;
mod grid;
mod imports;
mod kernels;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod pipeline_file;
mod registry;
mod uniform;

pub(crate) use caps::MAX_TEXTURE_WIDTH;
pub use caps::{AdapterClass, Caps};
pub use compose::{Fragment, Wgsl};
pub use feature::Feature;
#[doc(hidden)]
pub use fragments::FRAGMENTS;
pub(crate) use fragments::fragment;
pub use grid::{Grid, Variable};
pub(crate) use grid::{Size, Workgroups};
pub use imports::ImportError;
pub(crate) use kernels::{BufferFill, CODE_TEXTURE, M_TABLE, MAX_COUNT};
pub use kernels::{DeviceError, Kernels, LostFlag, Pipeline};
#[doc(hidden)]
pub use kernels::{Instrument, Instrumented};
pub use registry::{Access, Binding, BindingRole, Const, KernelDesc, Stored};
pub use uniform::UniformLayout;
pub(crate) use uniform::uniform;
