//! What the pages' workers call: the conformance table and a few timings (`Session`), and a language model
//! (`Generator`), on a device of their own. Everything that is more than a number goes to JavaScript as
//! JSON.

mod generate;

use lowbit::conformance::{self, Case, Extent, MeasuredLimits, Op, Quantized};
use lowbit::format::{ActivationFormat, ActivationGranularity, Granularity, WeightFormat};
use lowbit::gpu::AdapterClass;
use lowbit::host::{Host, HostError};
use lowbit::ops::{Activations, FloatType, Output, Select};
use serde::Serialize;
use wasm_bindgen::prelude::*;

/// Panics become readable in the console.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// The library's version.
#[wasm_bindgen]
pub fn version() -> String {
    lowbit::VERSION.into()
}

/// One case as the page shows it before it has run.
#[derive(Serialize)]
struct Planned {
    id: String,
    op: &'static str,
    weights: &'static str,
    sparsity: &'static str,
}

/// The table and how to share it out.
#[derive(Serialize)]
struct Plan {
    cases: Vec<Planned>,
    /// Indices of cases that belong on one device; those to be taken first last.
    groups: Vec<Vec<usize>>,
}

/// The cases of the table whose id holds `filter` and starts with none of `except`, which commas
/// separate, of these each `every`th of the table, as the page shows them, and their groups.
///
/// # Errors
/// If JSON cannot be written.
#[wasm_bindgen]
pub fn plan(quick: bool, filter: &str, except: &str, every: usize) -> Result<String, JsError> {
    let cases = conformance::table(extent(quick));
    let of = |index: &usize| {
        let Some(id) = cases.get(*index).map(Case::id) else { return false };
        let mut except = except.split(',').filter(|start| !start.is_empty());
        let excepted = except.any(|start| id.starts_with(start));
        id.contains(filter) && !excepted && index.is_multiple_of(every.max(1))
    };
    let mut groups = conformance::groups(&cases);
    groups.iter_mut().for_each(|group| group.retain(of));
    groups.retain(|group| !group.is_empty());
    let planned = |case: &Case| Planned {
        id: case.id(),
        op: case.op.name(),
        weights: match case.op {
            op if op.has_only_x() => "none",
            _ => case.format.code_type().name(),
        },
        sparsity: case.format.sparsity().name(),
    };
    json(&Plan { cases: cases.iter().map(planned).collect(), groups })
}

/// What kernels go by on this device, for the report.
#[derive(Serialize)]
struct About {
    name: String,
    backend: String,
    class: &'static str,
    features: Vec<String>,
}

/// A device, and what is to be run on it.
#[wasm_bindgen]
pub struct Session {
    host: Host,
    cases: Vec<Case>,
    limits: Option<MeasuredLimits>,
}

#[wasm_bindgen]
impl Session {
    /// A new device of the best adapter.
    ///
    /// # Errors
    /// If there is none.
    pub async fn open(quick: bool) -> Result<Session, JsError> {
        let host = Host::new_async().await.map_err(|error| match error {
            HostError::NoAdapter(why) => JsError::new(&format!("no GPU in a worker: {why}")),
            error => error.into(),
        })?;
        Ok(Self { host, cases: conformance::table(extent(quick)), limits: None })
    }

    /// The adapter as the library sees it.
    ///
    /// # Errors
    /// If JSON cannot be written.
    pub fn about(&self) -> Result<String, JsError> {
        let info = self.host.adapter_info();
        let class = match self.class() {
            AdapterClass::Cpu => "software",
            _ => "gpu",
        };
        let features = self.host.device().features().iter_names();
        json(&About {
            name: info.name.clone(),
            backend: info.backend.to_string(),
            class,
            features: features.map(|(name, _)| name.to_string()).collect(),
        })
    }

    /// Why the device is lost; nothing while it is not. A new session goes on.
    pub fn lost(&self) -> Option<String> {
        self.host.kernels().lost_flag().reason().map(String::from)
    }

    /// Runs one case of the table: its report.
    ///
    /// # Errors
    /// If there is no such case.
    pub async fn run(&self, index: usize) -> Result<String, JsError> {
        let case = self.cases.get(index).ok_or_else(|| JsError::new("no such case"))?;
        json(&conformance::run_one(&self.host, case, 1).await)
    }

    /// How many matmuls there are to time.
    pub fn timings(&self) -> usize {
        self.matmuls().len()
    }

    /// Times one of them.
    ///
    /// # Errors
    /// What the device refuses.
    pub async fn time(&mut self, index: usize) -> Result<String, JsError> {
        let limits = match self.limits {
            Some(limits) => limits,
            None => *self.limits.insert(conformance::limits_async(&self.host).await?),
        };
        let all = self.matmuls();
        let matmul = all.get(index).ok_or_else(|| JsError::new("no such timing"))?;
        let Matmul { weights, activations, m, n, k } = *matmul;
        let op = match activations {
            Activations::Float(_) => Op::Matmul,
            Activations::Int8(format) => {
                Op::IntegerMatmul(Quantized { format, output: Output::Float(FloatType::F32) })
            }
        };
        let (how, shape) = (Select::Auto, (m, n, k));
        let timings =
            conformance::time_async(&self.host, &limits, &how, op, weights, activations, shape);
        let timing = timings.await?.pop().ok_or_else(|| JsError::new("nothing was timed"))?;
        json(&Timed { rows: m, timing })
    }

    /// What the adapter can do at most, once something has been timed.
    ///
    /// # Errors
    /// If JSON cannot be written.
    pub fn limits(&self) -> Result<String, JsError> {
        json(&self.limits)
    }

    fn class(&self) -> AdapterClass {
        self.host.kernels().caps().class
    }

    /// A layer of a language model of 7 G weights, for one token, some and many; where the adapter
    /// is software a small one, and without int8: SwiftShader takes many minutes to compile the
    /// kernels that make such weights.
    fn matmuls(&self) -> Vec<Matmul> {
        let (rows, n, k): (&[usize], _, _) = match self.class() {
            AdapterClass::Cpu => (&[1, 16], 512, 512),
            _ => (&[1, 16, 128], 4096, 4096),
        };
        let float = Activations::Float(FloatType::F32);
        let bytes = Activations::Int8(ActivationFormat::int8(ActivationGranularity::Token));
        let int8 = WeightFormat::int8(Granularity::Channel);
        let mut kinds = vec![(WeightFormat::f16(), float)];
        if self.class() != AdapterClass::Cpu {
            kinds.extend([(int8, float), (int8, bytes)]);
        }
        if let Ok(group) = Granularity::group(64) {
            let int4 = WeightFormat::int4(group);
            kinds.extend([(int4, float), (int4.two_four(), float), (int4, bytes)]);
        }
        let of = |m| {
            let matmul = move |&(weights, activations)| Matmul { weights, activations, m, n, k };
            kinds.iter().map(matmul).collect::<Vec<_>>()
        };
        rows.iter().copied().flat_map(of).collect()
    }
}

/// One matmul to time.
#[derive(Clone, Copy)]
struct Matmul {
    weights: WeightFormat,
    activations: Activations,
    m: usize,
    n: usize,
    k: usize,
}

/// What came of it.
#[derive(Serialize)]
struct Timed {
    /// Rows of X.
    rows: usize,
    #[serde(flatten)]
    timing: conformance::Timing,
}

fn extent(quick: bool) -> Extent {
    if quick { Extent::Quick } else { Extent::Full }
}

fn json(value: &impl Serialize) -> Result<String, JsError> {
    Ok(serde_json::to_string(value)?)
}
