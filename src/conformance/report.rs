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

/// What `verify` writes as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of this crate.
    #[serde(default)]
    pub version: String,
    /// One a device that was tried.
    pub adapters: Vec<AdapterReport>,
}

impl Report {
    /// A report of this version.
    pub fn new(adapters: Vec<AdapterReport>) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").into(), adapters }
    }

    /// What `verify --json` or `--report` wrote.
    ///
    /// # Errors
    /// Where it is not JSON, or not a report.
    pub fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => serde_json::from_str(super::json_of(text).unwrap_or(text)),
            // That says where the text ends to be one.
            Err(_) => serde_json::from_slice(bytes),
        }
    }
}

/// All cases on one adapter.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AdapterReport {
    /// The adapter's name.
    pub name: String,
    /// Its driver and version.
    pub driver: String,
    /// The API it was reached through.
    pub backend: String,
    /// Discrete, integrated or virtual GPU, or a CPU.
    #[serde(default)]
    pub device_type: String,
    /// What the device was asked to do without, as options of `lowbit verify`.
    #[serde(default)]
    pub options: String,
    /// Features that the device was requested with, by WebGPU's or wgpu's names.
    #[serde(default)]
    pub features: Vec<String>,
    /// Limits of the device, by WebGPU's names.
    #[serde(default)]
    pub limits: BTreeMap<String, u64>,
    /// What kernels were chosen by: see [`Caps`](crate::gpu::Caps).
    #[serde(default)]
    pub caps: BTreeMap<String, String>,
    /// The version of this crate.
    #[serde(default)]
    pub version: String,
    /// Why nothing could run, where nothing could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Seconds that all cases took.
    #[serde(default)]
    pub seconds: f64,
    /// How fast some kernels are, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// Every case.
    pub cases: Vec<CaseReport>,
    /// How many passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many could not run here.
    pub skipped: usize,
}

/// How fast some kernels are, beside the adapter's own limits in the same run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Speed {
    /// What the adapter can do at most.
    pub limits: MeasuredLimits,
    /// A kernel each.
    pub rows: Vec<Timing>,
}

impl AdapterReport {
    /// What `cases` found on a device.
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

    /// An adapter that gives no device.
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

    /// Whether all that ran is right, and something did.
    pub fn is_right(&self) -> bool {
        self.error.is_none() && self.failed == 0 && self.unsteady().next().is_none()
    }

    /// Name, driver and backend, which tell it from other adapters of a machine.
    pub fn full_name(&self) -> String {
        format!("{} ({}, {})", self.name, self.driver, self.backend)
    }

    /// The command that repeats just this case here.
    pub fn command(&self, case: &CaseReport) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        let (name, id) = (quoted(&self.full_name()), quoted(&case.id));
        format!("lowbit verify --adapter {name} --case {id}{}", self.options)
    }

    /// Cases that gave other bits when they ran a second time.
    pub fn unsteady(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| case.repeats == Some(false))
    }
}

/// The limits that decide how work is split.
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

/// What of the device kernels go by beside limits.
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

/// The worst error as a fraction of the proven bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ErrorOverBound {
    /// Up to 1 is right; the largest f64 for NaN, infinities and cases that broke off.
    Ratio(f64),
    /// Bit for bit equal where that was asked: always the string `exact`.
    Exact(Cow<'static, str>),
}

impl ErrorOverBound {
    /// As a number: 0 where all bits are right.
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
            // Of a case that broke off, and of bits that differ, there is no error to speak of.
            Self::Ratio(ratio) if *ratio < 1e6 => write!(f, "{ratio:.3}"),
            Self::Ratio(_) => f.write_str("wrong"),
            Self::Exact(_) => f.write_str("exact"),
        }
    }
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaseReport {
    /// The case's name; `lowbit verify --case` repeats it.
    pub id: String,
    /// The op.
    pub op: Cow<'static, str>,
    /// What W is stored as, or X becomes: the whole format.
    #[serde(default)]
    pub format: String,
    /// f32, f16, int16, int8 or int4: what W is stored as, or X is fake-quantized to; `none` where
    /// there is neither.
    pub weights: Cow<'static, str>,
    /// `"tensor"`, `"channel"`, `"token"` or a group size.
    pub group: serde_group::Group,
    /// Whether there are no stored zero points.
    pub symmetric: bool,
    /// `dense` or `2:4`.
    pub sparsity: Cow<'static, str>,
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
    /// A checksum of every word that was read back, 16 hexadecimal digits: the same where all
    /// results have the same bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<String>,
    /// Whether a second run gave the same bits; none where there was one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<bool>,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The ways to name a granularity in JSON.
pub mod serde_group {
    use serde::{Deserialize, Serialize};
    use std::borrow::Cow;

    /// `"tensor"`, `"channel"`, `"token"` or a number.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(untagged)]
    pub enum Group {
        /// One scale for all, or one a row.
        Named(Cow<'static, str>),
        /// Weights in a group.
        Size(u32),
    }
}

/// Weights, group and symmetry: of W, or of what X becomes.
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
            op: case.op.name().into(),
            format: match case.op {
                Op::Quantize { .. } | Op::Observe { .. } => case.output_name(),
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

/// Why a case did not run to its end.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// Something refused or broke.
    Failed(String),
    /// The adapter lacks what a pinned kernel needs.
    NotHere(String),
}

impl Trouble {
    /// A plan that the adapter is too small for is no failure; that a schedule does not apply is
    /// one, unless it was pinned.
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

/// What running a case found.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub kernel: String,
    pub error_over_bound: ErrorOverBound,
    /// What is wrong, if anything.
    pub fault: Option<String>,
}
