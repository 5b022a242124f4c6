//! The ops. Each one has the same five verbs: `Spec::check`, `Plan::new`, `plan.bind`,
//! `bound.record` and `kernels`.
//!
//! A *spec* says what is wanted. A *plan* holds compiled pipelines for a spec. *Binding* checks
//! buffers and makes bind groups. *Recording* writes commands for some number of rows; it neither
//! allocates, compiles nor waits, and refuses only a number of rows that was not planned.
//!
//! Specs are made by constructors, since they will grow. Arguments of `bind` are plain structs of
//! named buffers, so that no two can be confused.
//!
//! Errors are [`PlanError`], [`BindError`] and [`RecordError`] for every op. All ops describe rows
//! with `rows` and bind and record through `recording`.

mod buffers;
pub mod dequantize;
mod error;
pub mod fake_quant;
pub(crate) mod limits;
pub mod matmul;
pub mod observe;
pub(crate) mod probe;
pub mod quantize_activations;
pub mod quantize_weights;
mod recording;
#[doc(hidden)]
pub mod registry;
pub mod repack;
mod rows;
mod types;
mod weights;

pub use buffers::SubBuffer;
pub use dequantize::{BoundDequantize, DequantizeArgs, DequantizePlan, DequantizeSpec};
pub use error::{BindError, PlanError, RecordError};
pub use fake_quant::{
    BoundFakeQuant, BoundFakeQuantBackward, FakeQuantArgs, FakeQuantBackwardArgs, FakeQuantPlan,
    FakeQuantSpec,
};
pub use matmul::{
    BoundMatmul, KernelChoice, MatmulArgs, MatmulPlan, MatmulSpec, Schedule, Select, Tuning,
    TuningKey,
};
pub use observe::{BoundObserve, ObserveArgs, ObserveError, ObservePlan, ObserveSpec};
pub use quantize_activations::{
    BoundQuantizeActivations, QuantizeActivationsArgs, QuantizeActivationsPlan,
    QuantizeActivationsSpec,
};
pub use quantize_weights::{
    BoundQuantizeWeights, MaskSource, QuantizeWeightsArgs, QuantizeWeightsError,
    QuantizeWeightsJob, QuantizeWeightsPlan, QuantizeWeightsSpec, SourceRows,
};
pub use recording::Bound;
pub use repack::{BoundRepack, RepackArgs, RepackPlan, RepackSpec};
pub use types::{Activations, FloatType, Output, Role};
pub(crate) use weights::texture_width;
pub use weights::{Codes, DeviceWeights, RowBlock, WeightsError, code_textures_pay};
