use crate::Outcome;
use crate::adapter::{AdapterArg, WithoutArg};
use crate::error::{CliError, printable, warn};
use crate::plot::Plot;
use crate::report::{JsonArg, Report, progress, right, table, text};
use lowbit::conformance::{Limits, Op, Timing, limits, time};
use lowbit::format::WeightFormat;
use lowbit::io::load_tuning;
use lowbit::ops::matmul::TuningKey;
use lowbit::ops::{Activations, Schedule, Select};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Measure kernels, beside the adapter's own limits in the same run
///
/// Times are medians of at least seven submissions, the wait counted in. `of limit` is the
/// time that the adapter's measured multiply-adds or reads (copies, for compress and
/// dequantize) would take at least, as a share of the time taken; `of unpack` is the time of the
/// same kernel without X and scales; `host ms` that of making the weights on the host.
/// Up to eight rows of X, weights that fit a cache are copied so often that they come from memory.
#[derive(clap::Args)]
pub struct Args {
    /// matmul, compress or dequantize; may be given again
    #[arg(long, value_name = "OP", default_value = "matmul")]
    op: Vec<OpArg>,
    /// Rows of X, rows of W, columns; may be given again
    #[arg(long, value_name = "MxNxK", default_values = ["1x4096x4096", "128x1024x1024"])]
    shape: Vec<Shape>,
    /// Formats of W; may be given again
    #[arg(long, value_name = "FORMAT", default_values = [
        "f32", "f16", "int8-channel", "int8-g128", "int4-g128", "int4-g64-asym",
        "2:4+f16", "2:4+int8-channel", "2:4+int4-g64-asym",
    ])]
    format: Vec<WeightFormat>,
    /// What X is: f32, f16, or what f32 X is quantized to first, as in int8-token, int8-g128-asym
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    activations: Activations,
    /// Choose kernels by this file of `lowbit tune`; ignored with a warning where it is of
    /// another adapter, driver or version
    #[arg(long, value_name = "FILE")]
    tuning: Option<PathBuf>,
    /// Pin the schedule of a matmul, as `lowbit tune` names it; may be given again, for a row
    /// each
    #[arg(long, value_name = "SCHEDULE", conflicts_with = "tuning")]
    schedule: Vec<Schedule>,
    /// Draw the matmuls' times a row of X over the rows of X, a line a format, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    adapter: AdapterArg,
    #[command(flatten)]
    without: WithoutArg,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum OpArg {
    Matmul,
    Compress,
    Dequantize,
}

/// Rows of X, rows of W, columns.
#[derive(Clone, Copy)]
pub struct Shape(pub usize, pub usize, pub usize);

/// More elements in one matrix than anyone means to time.
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
    limits: Limits,
    rows: Vec<Timing>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    let report = Report::open(&args.json)?;
    let plot = args.plot.as_deref().map(Plot::open).transpose()?;
    let adapter = args.adapter.choose()?;
    let info = adapter.get_info();
    let failed = |what: &str| CliError::new(format!("{what} on {}", printable(&info.name)));
    let host = args.without.host(&adapter).map_err(|e| failed("no device").because(e))?;
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
    let count = args.op.len() * args.shape.len() * args.format.len() * hows.len();
    let bar = progress(1 + count);
    bar.set_message("the adapter's limits");
    let limits = limits(&host).map_err(|e| failed("cannot measure the limits").because(e))?;
    bar.inc(1);
    let mut rows = Vec::new();
    for &op in &args.op {
        let op = match op {
            OpArg::Matmul => Op::Matmul,
            OpArg::Compress => Op::Compress,
            OpArg::Dequantize => Op::Dequantize,
        };
        for &Shape(m, n, k) in &args.shape {
            let cases =
                args.format.iter().flat_map(|&format| hows.iter().map(move |h| (format, h)));
            for (format, how) in cases {
                bar.set_message(format!("{} {format} {m}×{n}×{k}", op.name()));
                let row = time(&host, &limits, how, op, format, args.activations, (m, n, k));
                rows.push(row.map_err(|e| {
                    failed(&format!("cannot time {} {format} {m}×{n}×{k}", op.name())).because(e)
                })?);
                bar.inc(1);
            }
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
    // Making weights multiplies nothing, and a matmul has no way on the host.
    let makes = bench.rows.iter().any(|row| row.host_ms.is_some());
    // Quantizing X stands where integer products have no kernel without X to compare with.
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
    let mut rows = table(&header, true);
    for row in &bench.rows {
        let shape = match row.m {
            0 => format!("{}×{}", row.n, row.k),
            m => format!("{m}×{}×{}", row.n, row.k),
        };
        // The decoder repeats the format: the schedule is what one wants to see.
        let kernel = row.kernel.split('.').next().unwrap_or_default();
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
