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
//! The verbs have the same signatures for all ops, with these exceptions: [`MatmulPlan::new`] also
//! takes a [`Select`], which says how kernels are chosen. [`MatmulPlan::bind_scaled`] binds a matmul
//! whose output is quantized, and [`FakeQuantPlan::bind_backward`] binds the backward pass.
//! [`BoundQuantizeWeights`] is no [`Bound`], because several plans may be bound together; it also
//! has the status of what was quantized.
//!
//! Errors are [`PlanError`], [`BindError`] and [`RecordError`] for every op. The first two, and
//! [`WeightsError`], have a method `device`, which returns the error of the device if that is the
//! cause. The others have none, because the device does not take part: [`RecordError`] refuses a
//! number of rows, and [`ObserveError`] and [`QuantizeWeightsError`] refuse words that were read
//! back. All ops describe rows with `rows` and bind and record through `recording`.

pub mod attention;
mod buffers;
pub mod columns;
pub mod combine;
pub mod dequantize;
mod error;
pub mod factor;
pub mod fake_quant;
pub mod gate;
pub mod gram;
pub mod hadamard;
pub(crate) mod limits;
mod loads;
pub mod matmul;
pub mod norm;
pub mod observe;
mod output;
pub mod permute_columns;
pub mod positions;
pub(crate) mod probe;
pub mod products;
pub mod quantize_activations;
pub mod quantize_weights;
mod recording;
#[doc(hidden)]
pub mod registry;
pub mod repack;
pub mod rotary;
pub mod route;
mod rows;
pub mod sample;
pub mod softmax;
mod supports;
mod types;
mod weights;

pub use attention::{AttentionArgs, AttentionPlan, AttentionSpec, BoundAttention};
pub use buffers::SubBuffer;
pub use columns::{BoundColumns, ColumnsArgs, ColumnsError, ColumnsPlan, ColumnsSpec, Pattern};
pub use combine::{BoundCombine, CombineArgs, CombinePlan, CombineSpec};
pub use dequantize::{BoundDequantize, DequantizeArgs, DequantizePlan, DequantizeSpec};
pub use error::{BindError, PlanError, RecordError, WeightsError};
pub use factor::{BoundFactor, FactorArgs, FactorError, FactorPlan, FactorSpec};
pub use fake_quant::{
    BoundFakeQuant, BoundFakeQuantBackward, FakeQuantArgs, FakeQuantBackwardArgs, FakeQuantPlan,
    FakeQuantSpec,
};
pub use gate::{BoundGate, GateArgs, GateLayout, GatePlan, GateSpec};
pub use gram::{BoundGram, GRAM_ROWS, GRAM_UNIT, GramArgs, GramError, GramPlan, GramSpec};
pub use hadamard::{BoundHadamard, HadamardArgs, HadamardPlan, HadamardSpec};
pub use matmul::{
    BoundMatmul, Experts, KernelChoice, MatmulArgs, MatmulPlan, MatmulSpec, Schedule, Select,
    Tuning, TuningKey,
};
pub use norm::{BoundNorm, NormArgs, NormKind, NormPlan, NormResidual, NormSpec};
pub use observe::{BoundObserve, ObserveArgs, ObserveError, ObservePlan, ObserveSpec};
pub use permute_columns::{
    BoundPermuteColumns, PermuteColumnsArgs, PermuteColumnsPlan, PermuteColumnsSpec,
};
pub use positions::{BoundPositions, PositionsArgs, PositionsPlan, PositionsSpec};
pub use products::{BoundProduct, ProductArgs, ProductPlan, ProductSpec, Strides};
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
pub use rotary::{BoundRotary, HeadNorm, RotaryArgs, RotaryPairs, RotaryPlan, RotarySpec};
pub use route::{BoundRoute, RouteArgs, RoutePlan, RouteSpec};
pub use sample::{BoundSample, SampleArgs, SamplePlan, SampleSettings, SampleSpec};
pub use softmax::{BoundSoftmax, SoftmaxArgs, SoftmaxPlan, SoftmaxSpec};
pub use supports::FormatUse;
pub use types::{Activations, Epilogue, FloatType, Output, Role};
#[cfg(feature = "conformance")]
pub(crate) use weights::texture_width;
pub use weights::{Codes, DeviceWeights, RowBlock, code_textures_pay};
