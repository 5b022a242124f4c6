use super::case::axis_name;
use super::speed::{MeasuredLimits, Timing};
use super::{Case, Op};
use crate::format::{ActivationGranularity, Granularity, WeightFormat};
use crate::gpu::{Caps, DeviceError};
use crate::host::Host;
use crate::ops::PlanError;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The report that `lowbit verify` writes as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of this crate.
    #[serde(default)]
    pub version: String,
    /// One report per device that was tried.
    pub adapters: Vec<AdapterReport>,
}

impl Report {
    /// Creates a report of this version of the crate.
    pub fn new(adapters: Vec<AdapterReport>) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").into(), adapters }
    }

    /// Reads a report that `lowbit verify --json` or `--report` wrote.
    ///
    /// # Errors
    /// Returns an error if the bytes are not JSON or not a report.
    pub fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => serde_json::from_str(super::json_of(text).unwrap_or(text)),
            // The error of this function says where the text stops being UTF-8.
            Err(_) => serde_json::from_slice(bytes),
        }
    }
}

/// The results of all cases on one adapter.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AdapterReport {
    /// Name of the adapter.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// The graphics API.
    pub backend: String,
    /// The type of the adapter: discrete, integrated or virtual GPU, or CPU.
    #[serde(default)]
    pub device_type: String,
    /// The features that were disabled, as options of `lowbit verify`.
    #[serde(default)]
    pub options: String,
    /// The features that were requested with the device, by the names of WebGPU or wgpu.
    #[serde(default)]
    pub features: Vec<String>,
    /// The limits of the device, by the names of WebGPU.
    #[serde(default)]
    pub limits: BTreeMap<String, u64>,
    /// The facts that the choice of kernels depends on; see [`Caps`](crate::gpu::Caps).
    #[serde(default)]
    pub caps: BTreeMap<String, String>,
    /// The version of this crate.
    #[serde(default)]
    pub version: String,
    /// The reason why nothing could run, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The time that all cases took, in seconds.
    #[serde(default)]
    pub seconds: f64,
    /// The speed of some kernels, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// All cases.
    pub cases: Vec<CaseReport>,
    /// Number of cases that passed.
    pub passed: usize,
    /// Number of cases that failed.
    pub failed: usize,
    /// Number of cases that could not run on this adapter.
    pub skipped: usize,
}

/// The speed of some kernels, with the limits of the adapter measured in the same run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Speed {
    /// The measured limits of the adapter.
    pub limits: MeasuredLimits,
    /// One row per kernel.
    pub rows: Vec<Timing>,
}

impl AdapterReport {
    /// Creates the report of the cases that ran on a device.
    pub fn new(host: &Host, cases: Vec<CaseReport>) -> Self {
        let info = host.adapter_info();
        let count = |status| cases.iter().filter(|case| case.status == status).count();
        Self {
            name: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
            backend: info.backend.to_string(),
            device_type: format!("{:?}", info.device_type),
            features: host.device().features().iter_names().map(|(name, _)| name.into()).collect(),
            limits: limits(&host.device().limits()),
            caps: facts(host.kernels().caps()),
            version: env!("CARGO_PKG_VERSION").into(),
            passed: count(Status::Pass),
            failed: count(Status::Fail),
            skipped: count(Status::Skip),
            cases,
            ..Self::default()
        }
    }

    /// Creates the report of an adapter on which no device could be created.
    pub fn without_device(info: &wgpu::AdapterInfo, error: String) -> Self {
        Self {
            name: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
            backend: info.backend.to_string(),
            device_type: format!("{:?}", info.device_type),
            version: env!("CARGO_PKG_VERSION").into(),
            error: Some(error),
            ..Self::default()
        }
    }

    /// Returns whether there was a device, no case failed, and no case gave different bits in a
    /// second run.
    pub fn is_right(&self) -> bool {
        self.error.is_none() && self.failed == 0 && self.unsteady().next().is_none()
    }

    /// Returns the name, driver and backend, which identify one of the adapters of a machine.
    pub fn full_name(&self) -> String {
        format!("{} ({}, {})", self.name, self.driver, self.backend)
    }

    /// Returns the command that repeats this case on this adapter.
    pub fn command(&self, case: &CaseReport) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        let (name, id) = (quoted(&self.full_name()), quoted(&case.id));
        format!("lowbit verify --adapter {name} --case {id}{}", self.options)
    }

    /// Returns the cases that gave different bits in a second run.
    pub fn unsteady(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| case.repeats == Some(false))
    }
}

/// Returns the limits that decide how work is divided.
fn limits(limits: &wgpu::Limits) -> BTreeMap<String, u64> {
    let all = [
        ("maxBufferSize", limits.max_buffer_size),
        ("maxStorageBufferBindingSize", limits.max_storage_buffer_binding_size),
        ("maxUniformBufferBindingSize", limits.max_uniform_buffer_binding_size),
        ("maxStorageBuffersPerShaderStage", limits.max_storage_buffers_per_shader_stage.into()),
        ("maxStorageTexturesPerShaderStage", limits.max_storage_textures_per_shader_stage.into()),
        ("maxComputeWorkgroupStorageSize", limits.max_compute_workgroup_storage_size.into()),
        ("maxComputeInvocationsPerWorkgroup", limits.max_compute_invocations_per_workgroup.into()),
        ("maxComputeWorkgroupSizeX", limits.max_compute_workgroup_size_x.into()),
        ("maxComputeWorkgroupsPerDimension", limits.max_compute_workgroups_per_dimension.into()),
        ("minStorageBufferOffsetAlignment", limits.min_storage_buffer_offset_alignment.into()),
        ("minUniformBufferOffsetAlignment", limits.min_uniform_buffer_offset_alignment.into()),
    ];
    all.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// Returns the facts, besides limits, that the choice of kernels depends on.
fn facts(caps: &Caps) -> BTreeMap<String, String> {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_string();
    let number = |number: u32| if number == 0 { "no".into() } else { number.to_string() };
    let all = [
        ("class", format!("{:?}", caps.class)),
        ("subgroups", yes(caps.subgroups)),
        ("fixed subgroup size", number(caps.subgroup)),
        ("64-bit integers", yes(caps.int64)),
        ("exact f16 conversion", yes(caps.exact_f16_unpack)),
        ("packed 8-bit dot product", yes(caps.packed_dot)),
        ("cooperative matrices", number(caps.matrix)),
        ("rows of weights lie in", format!("{:?}", caps.row_order).to_lowercase()),
        ("codes in textures up to", number(caps.texture_extent)),
        ("largest binding", caps.max_binding.to_string()),
    ];
    all.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// The largest error as a fraction of the proven bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ErrorOverBound {
    /// A correct result has at most 1. NaN, infinities and cases that could not finish have the
    /// largest f64.
    Ratio(f64),
    /// All bits are right, where that was required. The string is always `exact`.
    Exact(Cow<'static, str>),
}

impl ErrorOverBound {
    /// Returns the number, or 0 if all bits are right.
    pub fn ratio(&self) -> f64 {
        match self {
            Self::Ratio(ratio) => *ratio,
            Self::Exact(_) => 0.0,
        }
    }
}

impl std::fmt::Display for ErrorOverBound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // Cases that could not finish, and bits that differ, have no meaningful error.
            Self::Ratio(ratio) if *ratio < 1e6 => write!(f, "{ratio:.3}"),
            Self::Ratio(_) => f.write_str("wrong"),
            Self::Exact(_) => f.write_str("exact"),
        }
    }
}

/// The status of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The result is correct.
    Pass,
    /// The result is wrong, or the case could not finish.
    Fail,
    /// The case cannot run on this adapter.
    Skip,
}

/// The result of one case on one adapter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaseReport {
    /// The name of the case. `lowbit verify --case` repeats it.
    pub id: String,
    /// Name of the op.
    pub op: Cow<'static, str>,
    /// The whole format of W, or the format that X is quantized to.
    #[serde(default)]
    pub format: String,
    /// The type that W is stored as, or that X is fake-quantized to: f32, f16, int16, int8 or int4.
    /// `none` if there is neither.
    pub weights: Cow<'static, str>,
    /// `"tensor"`, `"channel"`, `"token"` or a group size.
    pub group: serde_group::Group,
    /// Whether the format is symmetric, that is, has no stored zero points.
    pub symmetric: bool,
    /// `dense` or `2:4`.
    pub sparsity: Cow<'static, str>,
    /// The type of X.
    pub activations: String,
    /// The type of Y.
    pub output: String,
    /// Number of rows of X.
    pub m: usize,
    /// Number of rows of W.
    pub n: usize,
    /// Number of columns of W.
    pub k: usize,
    /// Name of the kernel that ran.
    pub kernel: String,
    /// The largest error as a fraction of its bound.
    pub error_over_bound: ErrorOverBound,
    /// The status of the case.
    pub status: Status,
    /// A checksum of every word that was read back, as 16 hexadecimal digits. It is equal if all
    /// results have the same bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<String>,
    /// Whether a second run gave the same bits, or `None` if the case ran only once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<bool>,
    /// The reason why the case failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The JSON form of a granularity.
pub mod serde_group {
    use serde::{Deserialize, Serialize};
    use std::borrow::Cow;

    /// `"tensor"`, `"channel"`, `"token"` or a number.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(untagged)]
    pub enum Group {
        /// One scale for everything, or one per row.
        Named(Cow<'static, str>),
        /// Number of weights per group.
        Size(u32),
    }
}

/// Returns the code type, the granularity and the symmetry of W, or of the format that X is
/// quantized to.
fn scheme(case: &Case) -> (&'static str, serde_group::Group, bool) {
    let of_weights = |format: &WeightFormat| match format.granularity() {
        Granularity::Tensor => serde_group::Group::Named("tensor".into()),
        Granularity::Channel => serde_group::Group::Named("channel".into()),
        Granularity::Group(g) => serde_group::Group::Size(g.get()),
    };
    match case.op {
        Op::Quantize { format, .. } => {
            let group = match format.granularity() {
                ActivationGranularity::Tensor => serde_group::Group::Named("tensor".into()),
                ActivationGranularity::Token => serde_group::Group::Named("token".into()),
                ActivationGranularity::Group(g) => serde_group::Group::Size(g.get()),
            };
            ("none", group, format.is_symmetric())
        }
        Op::Observe { axis, .. } => {
            ("none", serde_group::Group::Named(axis_name(axis).into()), true)
        }
        op if op.has_only_x() => ("none", serde_group::Group::Named("tensor".into()), true),
        _ => {
            let format = &case.format;
            (format.code_type().name(), of_weights(format), format.is_symmetric())
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
                // Results that must be exact have no ratio.
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
            op: case.op.name().into(),
            format: match case.op {
                Op::Rotary(rotary) => rotary.cache.name().into(),
                op if op.has_only_x() => case.output_name(),
                _ => case.format.to_string(),
            },
            weights: weights.into(),
            group,
            symmetric,
            sparsity: case.format.sparsity().name().into(),
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
            bits: None,
            repeats: None,
            reason,
        }
    }
}

/// The reason why a case could not finish.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// A step returned an error.
    Failed(String),
    /// The adapter lacks something that the case needs.
    NotHere(String),
}

impl Trouble {
    /// Classifies the error of a plan. It is not a failure if the limits of the adapter are too
    /// small. It is one if a schedule is not applicable, unless the case pins that schedule.
    pub fn of(case: &Case, error: &PlanError) -> Self {
        match error {
            PlanError::NotApplicable { what, .. }
                if case.schedule.is_some() || *what == "storage buffers" =>
            {
                Self::NotHere(error.to_string())
            }
            PlanError::Device(DeviceError::Limit { .. }) => Self::NotHere(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// The result of running a case.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub kernel: String,
    pub error_over_bound: ErrorOverBound,
    /// The fault, if there is one.
    pub fault: Option<String>,
}
