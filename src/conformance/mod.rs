//! The case table and the runner: `lowbit verify`, the tests and the benches share them.
//!
//! Every matmul case runs three times on the device: its value pattern against the f64
//! oracle and the bound of [`reference`](crate::reference); pattern (a), integers and
//! powers of two, which must come out bit for bit; pattern (b), one-hot rows, which show
//! each weight alone. Making weights must equal the host bit for bit, and so must observations.
//! Outputs start as NaN, with sentinels around every row.

mod case;
mod compare;
mod covering;
mod data;
mod fake;
mod integer;
mod matmul;
mod observe;
mod page;
mod quantize;
mod report;
mod rows;
mod run;
mod speed;
mod table;
mod weights;

pub use case::{Case, FakeScales, Op, Quantized, Values};
pub use compare::{Comparison, Difference, Kind, Side, compare};
pub use page::{json_of, page};
pub use report::{AdapterReport, CaseReport, ErrorOverBound, Report, Speed, Status};
pub use run::{groups, run_one};
#[cfg(not(target_arch = "wasm32"))]
pub use run::{run, run_times};
pub use speed::{MeasuredLimits, Timing, limits_async, time_async, unpack_shader};
#[cfg(not(target_arch = "wasm32"))]
pub use speed::{limits, time};
pub use table::{Extent, formats, table};
