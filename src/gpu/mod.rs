//! What every op stands on: adapter facts as plain data, shader composition, the
//! pipeline cache. Nothing here submits, polls or waits.

mod caps;
mod compose;
mod fragments;
mod kernels;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod pipeline_file;

pub(crate) use caps::MAX_TEXTURE_WIDTH;
pub use caps::{AdapterClass, Caps};
pub use compose::{Binding, Const, Fragment, Shader, Wgsl};
pub use fragments::FRAGMENTS;
pub(crate) use fragments::fragment;
pub(crate) use kernels::{BufferFill, CODE_TEXTURE, M_TABLE, MAX_COUNT};
pub use kernels::{DeviceError, Kernels, LostFlag, Pipeline};
