//! The ops: one file each, and each the same way: spec → choice → plan → bind → record.
//!
//! A *spec* says what is wanted and is checked; a *choice* is the kernel, plain data; a
//! *plan* holds compiled pipelines; *binding* checks buffers and makes bind groups;
//! *recording* writes commands and neither allocates, compiles nor waits; more rows than were
//! planned is all that it refuses.

mod buffers;
pub mod dequantize;
pub mod fake_quant;
pub(crate) mod limits;
pub mod matmul;
pub mod observe;
pub(crate) mod probe;
pub mod quantize_activations;
pub mod quantize_weights;
#[doc(hidden)]
pub mod registry;
pub mod repack;
mod slots;
mod weights;

pub use buffers::{BindError, FloatType, Role, SubBuffer};
pub use dequantize::{BoundDequantize, DequantizeArgs, DequantizePlan, DequantizeSpec};
pub use fake_quant::{
    BoundFakeQuant, BoundFakeQuantBackward, FakeQuantArgs, FakeQuantBackwardArgs, FakeQuantError,
    FakeQuantPlan, FakeQuantSpec,
};
pub use matmul::{
    Activations, BoundMatmul, KernelChoice, MatmulArgs, MatmulPlan, MatmulSpec, Output, PlanError,
    Schedule, Select,
};
pub use observe::{BoundObserve, ObserveArgs, ObserveError, ObservePlan, ObserveSpec};
pub use quantize_activations::{
    BoundQuantizeActivations, QuantizeActivationsArgs, QuantizeActivationsPlan,
    QuantizeActivationsSpec,
};
pub use quantize_weights::{
    BoundQuantizeWeights, MaskSource, QuantizeWeightsArgs, QuantizeWeightsError,
    QuantizeWeightsPlan, QuantizeWeightsSpec, SourceRows,
};
pub use repack::{BoundRepack, RepackArgs, RepackPlan, RepackSpec};
pub use weights::{Codes, DeviceWeights, RowBlock, WeightsError};
