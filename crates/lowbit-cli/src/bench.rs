//! `lowbit bench`: measures kernels.

use crate::adapter::{AdapterArg, DeviceArg};
use crate::error::{CliError, printable, warn};
use crate::files;
use crate::model::CacheArg;
use crate::plot::Plot;
use crate::report::{JsonArg, Report, progress, right, table, text};
use crate::{Outcome, bench_beside, bench_model};
use clap::ValueEnum;
use lowbit::compress::calibrate::Observer;
use lowbit::conformance::{FakeScales, MeasuredLimits, Op, Timing, limits, time};
use lowbit::format::{ActivationFormat, ActivationGranularity, WeightFormat};
use lowbit::ops::matmul::{TuningKey, first_part};
use lowbit::ops::{Activations, FakeQuantSpec, FloatType, MatmulSpec, Schedule, Select};
use lowbit_models::checkpoint::load_tuning;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Measure kernels, and compare them with the adapter's limits as measured in the same run
///
/// Times are medians of at least seven submissions and include the wait. `of limit` is the least time
/// that the adapter's measured multiply-adds or reads (copies for compress and dequantize) would
/// take, as a share of the time taken. `of unpack` is the share of the same kernel without X and
/// scales, and `host ms` is the time of making the weights on the host. For up to eight rows of X,
/// weights that fit into a cache are copied so often that they come from memory; X may come from a
/// cache.
#[derive(clap::Args)]
pub struct Args {
    /// The op to measure. May be given more than once. quantize, observe and fake-quant take only X,
    /// M×K
    #[arg(long, value_name = "OP", default_value = "matmul")]
    op: Vec<OpArg>,
    /// Rows of X, rows of W and columns. May be given more than once
    #[arg(long, value_name = "MxNxK", default_values = ["1x4096x4096", "128x1024x1024"])]
    shape: Vec<Shape>,
    /// Format of W, or of fake quantization. May be given more than once. The default is nine usual
    /// formats
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Vec<WeightFormat>,
    /// The type of X: f32, f16, or the format to which f32 X is quantized first, as in int8-token or
    /// int8-g128-asym. The default is f32, and int8-token for quantize
    #[arg(long, value_name = "TYPE")]
    pub(crate) activations: Option<Activations>,
    /// Choose kernels by this file of `lowbit tune`. It is ignored with a warning if it is of another
    /// adapter, driver or version
    #[arg(long, value_name = "FILE")]
    tuning: Option<PathBuf>,
    /// Pin the schedule of a matmul, as `lowbit tune` names it. May be given more than once, for one
    /// row each
    #[arg(long, value_name = "SCHEDULE", conflicts_with = "tuning")]
    schedule: Vec<Schedule>,
    /// Draw an SVG of the matmuls' times per row of X over the rows of X, with a line for each format
    #[arg(long, value_name = "FILE", value_parser = files::to_file())]
    plot: Option<PathBuf>,
    /// Measure a language model instead: how fast it reads a prompt and generates tokens. --format and
    /// --activations then are its weights' and activations'
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["op", "shape", "tuning", "schedule", "plot"])]
    model: Option<PathBuf>,
    /// Measure this language model in turn with that of --model, and print how many times as fast it is. May be
    /// given more than once
    #[arg(long, value_name = "MODEL", requires = "model")]
    beside: Vec<PathBuf>,
    /// Tokens of the prompt, with --model
    #[arg(short, long, value_name = "N", default_value_t = 512, requires = "model", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) prompt_tokens: u32,
    /// Tokens to generate, with --model
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, requires = "model", value_parser = clap::value_parser!(u32).range(2..=65536))]
    pub(crate) tokens: u32,
    #[command(flatten)]
    pub(crate) cache: CacheArg,
    #[command(flatten)]
    pub(crate) adapter: AdapterArg,
    #[command(flatten)]
    pub(crate) device: DeviceArg,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum OpArg {
    Matmul,
    Compress,
    Dequantize,
    Quantize,
    Observe,
    FakeQuant,
}

/// The formats that are measured if none is given.
const FORMATS: [&str; 9] = [
    "f32",
    "f16",
    "int8-channel",
    "int8-g128",
    "int4-g128",
    "int4-g64-asym",
    "2:4+f16",
    "2:4+int8-channel",
    "2:4+int4-g64-asym",
];

/// A measurement that is repeated at every shape. It yields one row of the table, or two for fake
/// quantization.
struct Subject {
    op: Op,
    format: WeightFormat,
    activations: Activations,
    how: Select,
    name: String,
}

/// Returns what to measure for an op.
fn subjects(args: &Args, op: OpArg, hows: &[Select]) -> Result<Vec<Subject>, CliError> {
    let name = op.to_possible_value().map(|value| value.get_name().to_string());
    let name = name.unwrap_or_default();
    let usual = || FORMATS.iter().filter_map(|name| name.parse().ok()).collect();
    let formats = if args.format.is_empty() { usual() } else { args.format.clone() };
    let float = Activations::Float(FloatType::F32);
    let activations = args.activations.unwrap_or(float);
    let of_x = |op, what: String| Subject {
        op,
        format: WeightFormat::f32(),
        activations,
        how: Select::Auto,
        name: format!("{name} {what}"),
    };
    let refused = |what: &str| Err(CliError::new(format!("{name} takes {what}")));
    match (op, args.activations) {
        (OpArg::Quantize, Some(Activations::Float(_))) => {
            refused("f32 X to 8-bit codes: --activations int8-token, say")
        }
        (OpArg::Quantize, codes) => {
            let format = match codes {
                Some(Activations::Int8(format)) => format,
                _ => ActivationFormat::int8(ActivationGranularity::Token),
            };
            let op = Op::Quantize { format, given: false };
            Ok(vec![of_x(op, format.to_string())])
        }
        (OpArg::Observe | OpArg::FakeQuant, Some(Activations::Int8(_))) => {
            refused("X as floats: --activations f32 or f16")
        }
        (OpArg::Observe, _) => {
            // These are the observers of calibration.
            let kinds = [Observer::tensor("", 0), Observer::channels("", 0)];
            let op = |o: &Observer| Op::Observe { axis: o.axis(), bins: o.bins() as u32 };
            Ok(kinds.iter().map(|observer| of_x(op(observer), String::new())).collect())
        }
        (OpArg::FakeQuant, _) => {
            let able = |format: &WeightFormat| FakeQuantSpec::new(1, 1, *format).check();
            // Usual formats that the op does not take are left out; a format that is given must fit.
            let mut formats: Vec<WeightFormat> = formats;
            if args.format.is_empty() {
                formats.retain(|format| able(format).is_ok());
            }
            if let Some(error) = formats.iter().find_map(|format| able(format).err()) {
                return Err(CliError::new("cannot time fake-quant").because(error));
            }
            let op = Op::FakeQuant(FakeScales::Lsq);
            let subject = |format: WeightFormat| Subject { format, ..of_x(op, format.to_string()) };
            Ok(formats.into_iter().map(subject).collect())
        }
        (OpArg::Matmul | OpArg::Compress | OpArg::Dequantize, _) => {
            let op = match op {
                OpArg::Compress => Op::Compress,
                OpArg::Dequantize => Op::Dequantize,
                _ => Op::Matmul,
            };
            let subject = |format: WeightFormat, how: &Select| Subject {
                format,
                how: how.clone(),
                ..of_x(op, format.to_string())
            };
            let mut formats: Vec<WeightFormat> = formats;
            if op == Op::Matmul {
                // This is checked before the adapter's limits are measured.
                let able = |format: &WeightFormat| {
                    args.shape.iter().try_for_each(|&Shape(m, n, k)| {
                        MatmulSpec::new(m as u32, n as u32, k as u32, *format)
                            .with_activations(activations)
                            .check()
                    })
                };
                if args.format.is_empty() {
                    formats.retain(|format| able(format).is_ok());
                }
                if let Some(error) = formats.iter().find_map(|format| able(format).err()) {
                    let error = CliError::new("cannot time matmul").because(error);
                    return Err(match activations {
                        Activations::Int8(_) => error.hint("--format int8-channel or int4-g128"),
                        Activations::Float(_) => error,
                    });
                }
            }
            let pairs = formats.iter().flat_map(|&f| hows.iter().map(move |how| (f, how)));
            Ok(pairs.map(|(format, how)| subject(format, how)).collect())
        }
    }
}

/// Rows of X, rows of W and columns.
#[derive(Clone, Copy)]
pub struct Shape(pub usize, pub usize, pub usize);

/// The largest number of elements in a matrix.
const MOST: usize = 1 << 31;

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<usize> = text.split('x').filter_map(|part| part.parse().ok()).collect();
        let [m, n, k] = parts[..] else {
            return Err("a shape is MxNxK, as in 1x4096x4096".into());
        };
        let fits =
            |a: usize, b: usize| a.checked_mul(b).is_some_and(|size| size > 0 && size <= MOST);
        if text.split('x').count() != 3 || !(fits(m, n) && fits(m, k) && fits(n, k)) {
            return Err(format!(
                "{m}×{n}×{k} is empty, or has a matrix of more than {MOST} elements"
            ));
        }
        Ok(Self(m, n, k))
    }
}

/// What `--json` holds.
#[derive(Serialize)]
struct Bench {
    adapter: String,
    driver: String,
    backend: String,
    limits: MeasuredLimits,
    rows: Vec<Timing>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    if let Some(model) = &args.model {
        if args.beside.is_empty() {
            return bench_model::run(args, model);
        }
        return bench_beside::run(args, model, &args.beside);
    }
    let report = Report::open(&args.json)?;
    let plot = args.plot.as_deref().map(Plot::open).transpose()?;
    let adapter = args.adapter.choose()?;
    let info = adapter.get_info();
    let failed = |what: &str| CliError::new(format!("{what} on {}", printable(&info.name)));
    let host = args.device.host(&adapter).map_err(|e| failed("no device").because(e))?;
    let how = args.tuning.as_ref().map_or(Select::Auto, |path| {
        let tuning = load_tuning(path, &TuningKey::new(&info), host.kernels().caps());
        tuning.map_or_else(
            |ignored| {
                warn(ignored);
                Select::Auto
            },
            |tuning| Select::Tuned(Arc::new(tuning)),
        )
    });
    let hows = match args.schedule.as_slice() {
        [] => vec![how],
        schedules => schedules.iter().map(|&schedule| Select::Pinned(schedule)).collect(),
    };
    let mut subjects = Vec::new();
    for &op in &args.op {
        subjects.push(self::subjects(args, op, &hows)?);
    }
    let count: usize = subjects.iter().map(|of_op| of_op.len() * args.shape.len()).sum();
    let bar = progress(1 + count);
    bar.set_message("the adapter's limits");
    let limits = limits(&host).map_err(|e| failed("cannot measure the limits").because(e))?;
    bar.inc(1);
    let mut rows = Vec::new();
    for of_op in &subjects {
        let by_shape = args.shape.iter().flat_map(|shape| of_op.iter().map(move |s| (*shape, s)));
        for (Shape(m, n, k), Subject { op, format, activations, how, name }) in by_shape {
            bar.set_message(format!("{name} {m}×{n}×{k}"));
            let timed = time(&host, &limits, how, *op, *format, *activations, (m, n, k));
            rows.extend(
                timed.map_err(|e| failed(&format!("cannot time {name} {m}×{n}×{k}")).because(e))?,
            );
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let bench = Bench {
        adapter: info.name,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        backend: info.backend.to_string(),
        limits,
        rows,
    };
    if let Some(plot) = plot {
        plot.finish(&format!("{} ({})", bench.adapter, bench.driver), &bench.rows)?;
    }
    report.finish(&page(&bench), &bench)?;
    Ok(Outcome::Fine)
}

fn page(bench: &Bench) -> String {
    let giga =
        |rate: f64| if rate == 0.0 { "–".to_string() } else { format!("{:.2}", rate / 1e9) };
    // Only ops that make weights have a time on the host; they do not multiply.
    let makes = bench.rows.iter().any(|row| row.host_ms.is_some());
    // Integer products have no kernel without X; their column shows the time of quantizing X.
    let quantizes = bench.rows.iter().any(|row| row.quantize_ms.is_some());
    let header = [
        "op and weights",
        "M×N×K",
        "ms",
        "GPU ms",
        if makes { "host ms" } else { "Gop/s" },
        "of limit",
        if quantizes { "quantize" } else { "of unpack" },
        "kernel",
    ];
    let mut rows = table(&header, false);
    for row in &bench.rows {
        let shape = match (row.m, row.n) {
            (0, n) => format!("{n}×{}", row.k),
            (m, 0) => format!("{m}×{}", row.k),
            (m, n) => format!("{m}×{n}×{}", row.k),
        };
        // The decoder repeats the format, so only the schedule is shown.
        let kernel = first_part(&row.kernel);
        rows.add_row([
            format!("{} {}", row.op, row.weights).into(),
            shape.into(),
            right(format!("{:.2}", row.ms)),
            right(row.gpu_ms.map_or("–".into(), |ms| format!("{ms:.2}"))),
            right(match row.host_ms {
                Some(ms) => format!("{ms:.1}"),
                None if makes => "–".into(),
                None => giga(row.operations_per_second),
            }),
            right(format!("{:.0} %", 100.0 * row.share_of_limit)),
            right(
                row.unpack_ms
                    .or(row.quantize_ms)
                    .map_or("–".into(), |ms| format!("{:.0} %", 100.0 * ms / row.ms)),
            ),
            kernel.into(),
        ]);
    }
    format!(
        "{} ({}, {})\nlimits measured in this run: {} Gop/s f32, {} Gop/s int8 dot, reads of {} GB/s in\n\
         runs, {} coalesced, {} out of a texture, copies of {} (read and written)\n{}",
        bench.adapter,
        bench.driver,
        bench.backend,
        giga(bench.limits.operations_per_second),
        giga(bench.limits.dot_operations_per_second),
        giga(bench.limits.read_runs_bytes_per_second),
        giga(bench.limits.read_coalesced_bytes_per_second),
        giga(bench.limits.read_texture_bytes_per_second),
        giga(bench.limits.copy_bytes_per_second),
        text(&rows)
    )
}
