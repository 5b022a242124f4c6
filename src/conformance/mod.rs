//! The table of test cases and the code that runs them. `lowbit verify`, the tests and the benches
//! share both.
//!
//! Every matmul case runs on the device with three kinds of input. The results of its value pattern
//! must be within the bounds of [`reference`](crate::reference). The exact pattern consists of
//! integers and powers of two, so that every bit must be right. The one-hot pattern has one
//! non-zero x per row and shows each weight alone. Weights that are quantized on the device and
//! observations must equal those of the host bit for bit. Outputs start as NaN, with sentinels
//! around every row.

mod attention;
mod attention_table;
mod case;
mod compare;
mod covering;
mod data;
mod epilogue;
mod experts;
mod fake;
mod gate;
mod gram;
mod hadamard;
mod integer;
mod matmul;
mod norm;
mod normalizing;
mod observe;
mod output;
mod page;
mod permute;
mod positions;
mod quantize;
mod reading;
mod report;
mod rotary;
mod rows;
mod run;
mod sample;
mod softmax;
mod speed;
mod table;
mod weights;

pub use case::{
    AttentionOf, Case, FakeScales, Normalized, Op, Quantized, Rotary, Sampled, Sight, Values,
};
pub use compare::{Comparison, Difference, Kind, Side, compare};
pub use page::{json_of, page};
pub use report::{AdapterReport, CaseReport, ErrorOverBound, Report, Speed, Status};
pub use run::{groups, run_one};
#[cfg(not(target_arch = "wasm32"))]
pub use run::{run, run_times};
pub use speed::{MeasuredLimits, Timing, limits_async, time_async, unpack_shader};
#[cfg(not(target_arch = "wasm32"))]
pub use speed::{limits, time};
pub use table::{Extent, formats, sample, table};
