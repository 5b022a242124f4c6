use super::case::axis_name;
use super::{Case, Op};
use crate::format::{ActivationGranularity, Granularity, WeightFormat};
use serde::Serialize;

/// What `verify` writes as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One a device that was tried.
    pub adapters: Vec<AdapterReport>,
}

/// All cases on one adapter.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterReport {
    /// The adapter's name.
    pub name: String,
    /// Its driver and version.
    pub driver: String,
    /// The API it was reached through.
    pub backend: String,
    /// Every case.
    pub cases: Vec<CaseReport>,
    /// How many passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many could not run here.
    pub skipped: usize,
}

/// The worst error as a fraction of the proven bound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ErrorOverBound {
    /// Up to 1 is right; the largest f64 for NaN, infinities and cases that broke off.
    Ratio(f64),
    /// Bit for bit equal where that was asked: always the string `exact`.
    Exact(&'static str),
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As proven.
    Pass,
    /// Not.
    Fail,
    /// Could not run, for a reason.
    Skip,
}

/// One case on one adapter.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// The case's name; `lowbit verify --case` repeats it.
    pub id: String,
    /// The op.
    pub op: &'static str,
    /// f32, f16, int16, int8 or int4: what W is stored as, or X is fake-quantized to; `none` where
    /// there is neither.
    pub weights: &'static str,
    /// `"tensor"`, `"channel"`, `"token"` or a group size.
    pub group: serde_group::Group,
    /// Whether there are no stored zero points.
    pub symmetric: bool,
    /// `dense` or `2:4`.
    pub sparsity: &'static str,
    /// The type of X.
    pub activations: String,
    /// The type of Y.
    pub output: String,
    /// Rows of X.
    pub m: usize,
    /// Rows of W.
    pub n: usize,
    /// Columns of W.
    pub k: usize,
    /// The kernel that ran.
    pub kernel: String,
    /// The worst error, as a fraction of its bound.
    pub error_over_bound: ErrorOverBound,
    /// How it ended.
    pub status: Status,
    /// Why it failed or was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The ways to name a granularity in JSON.
pub mod serde_group {
    use serde::Serialize;

    /// `"tensor"`, `"channel"`, `"token"` or a number.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
    #[serde(untagged)]
    pub enum Group {
        /// One scale for all, or one a row.
        Named(&'static str),
        /// Weights in a group.
        Size(u32),
    }
}

/// Weights, group and symmetry: of W, or of what X becomes.
fn scheme(case: &Case) -> (&'static str, serde_group::Group, bool) {
    let of_weights = |format: &WeightFormat| match format.granularity() {
        Granularity::Tensor => serde_group::Group::Named("tensor"),
        Granularity::Channel => serde_group::Group::Named("channel"),
        Granularity::Group(g) => serde_group::Group::Size(g.get()),
    };
    match case.op {
        Op::Quantize { format, .. } => {
            let group = match format.granularity() {
                ActivationGranularity::Tensor => serde_group::Group::Named("tensor"),
                ActivationGranularity::Token => serde_group::Group::Named("token"),
                ActivationGranularity::Group(g) => serde_group::Group::Size(g.get()),
            };
            ("none", group, format.is_symmetric())
        }
        Op::Observe { axis, .. } => ("none", serde_group::Group::Named(axis_name(axis)), true),
        _ => {
            let format = &case.format;
            (format.element().name(), of_weights(format), format.is_symmetric())
        }
    }
}

impl CaseReport {
    pub(super) fn new(case: &Case, outcome: Result<Outcome, Trouble>) -> Self {
        let broken = ErrorOverBound::Ratio(f64::MAX);
        let (weights, group, symmetric) = scheme(case);
        let pinned = case.schedule.map(|schedule| schedule.to_string()).unwrap_or_default();
        let (kernel, error_over_bound, status, reason) = match outcome {
            Ok(Outcome { kernel, error_over_bound, fault: None }) => {
                (kernel, error_over_bound, Status::Pass, None)
            }
            Ok(Outcome { kernel, error_over_bound, fault }) => {
                // Bits that differ have no ratio.
                let ratio = match error_over_bound {
                    ErrorOverBound::Ratio(ratio) => ErrorOverBound::Ratio(ratio.min(f64::MAX)),
                    ErrorOverBound::Exact(_) => broken,
                };
                (kernel, ratio, Status::Fail, fault)
            }
            Err(Trouble::Failed(reason)) => (pinned, broken, Status::Fail, Some(reason)),
            Err(Trouble::NotHere(reason)) => {
                (pinned, ErrorOverBound::Ratio(0.0), Status::Skip, Some(reason))
            }
        };
        Self {
            id: case.id(),
            op: case.op.name(),
            weights,
            group,
            symmetric,
            sparsity: case.format.sparsity().name(),
            activations: match case.op {
                Op::Compress | Op::Dequantize | Op::Gather => "f32".into(),
                _ => case.activations_name(),
            },
            output: case.output_name(),
            m: case.m,
            n: case.n,
            k: case.k,
            kernel,
            error_over_bound,
            status,
            reason,
        }
    }
}

/// Why a case did not run to its end.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// Something refused or broke.
    Failed(String),
    /// The adapter lacks what a pinned kernel needs.
    NotHere(String),
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// What running a case found.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub kernel: String,
    pub error_over_bound: ErrorOverBound,
    /// What is wrong, if anything.
    pub fault: Option<String>,
}
