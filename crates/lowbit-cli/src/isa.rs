//! `lowbit isa`: what AMD's compiler makes of the kernels.

use crate::Outcome;
use crate::error::{CliError, printable};
use crate::report::{JsonArg, Report, right, table, text};
use globset::Glob;
use lowbit::format::WeightFormat;
use lowbit::gpu::{AdapterClass, Caps};
use lowbit::ops::MatmulSpec;
use lowbit::ops::matmul::Step;
use lowbit::ops::matmul::{KernelChoice, select};
use lowbit_isa::{self as isa, Bound, Family, IsaError, Job, Kernel, Roof, Stats};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What AMD's compiler makes of the kernels, without a GPU
///
/// Compiles through Mesa's RADV on null hardware and prints what the driver reports and what
/// the listing's main loop costs a weight; `~` where lanes differ, and a part is a guess.
/// Nothing runs: the roofline is derived from published peaks, not measured.
#[derive(clap::Args)]
pub struct Args {
    /// navi31, navi21, gfx1201, vega20 or polaris10; commas between several
    #[arg(long, value_name = "FAMILY", value_delimiter = ',', default_value = "navi31")]
    family: Vec<Family>,
    /// Kernels whose id matches; without, those that a GPU takes for the formats below
    #[arg(long, value_name = "GLOB", conflicts_with = "roofline")]
    kernel: Option<Glob>,
    /// Formats of W, where no kernel is named; commas between several
    #[arg(long, value_name = "FORMAT", value_delimiter = ',', default_values = FORMATS)]
    format: Vec<WeightFormat>,
    /// Rows of X; commas between several
    #[arg(long, value_name = "M", value_delimiter = ',', default_values = ["1", "8"])]
    rows: Vec<u32>,
    /// Bounds of M×4096×4096 by published peaks: memory, vector operations
    #[arg(long)]
    roofline: bool,
    /// Print listings too
    #[arg(long)]
    disassemble: bool,
    /// The driver's manifest, where the usual places have none
    #[arg(long, value_name = "ICD.json")]
    driver: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
    /// Compile what stdin names for this family, with the environment as it is
    #[arg(long, hide = true, value_name = "FAMILY")]
    serve: Option<Family>,
}

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

/// Rows of W and columns of the roofline's product.
const SIDE: u32 = 4096;

/// What `--json` holds.
#[derive(Serialize)]
struct Page {
    /// Where the numbers come from.
    source: &'static str,
    kernels: Vec<Stats>,
    roofline: Vec<Roof>,
}

/// A product and the kernel that a GPU takes for it.
struct Product {
    spec: MatmulSpec,
    m: u32,
    choice: KernelChoice,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    if let Some(family) = args.serve {
        let served =
            isa::serve(family, args.disassemble, std::io::stdin().lock(), std::io::stdout().lock());
        served.map_err(|error| CliError::new("cannot compile").because(error))?;
        return Ok(Outcome::Fine);
    }
    let report = Report::open(&args.json)?;
    let products = products(args);
    let names: Vec<String> = match &args.kernel {
        Some(glob) => {
            let glob = glob.compile_matcher();
            let all = isa::kernels();
            all.iter()
                .map(Kernel::name)
                .filter(|name| glob.is_match(name))
                .map(Into::into)
                .collect()
        }
        None => {
            let mut names: Vec<_> = products.iter().map(|p| p.choice.name()).collect();
            names.sort();
            names.dedup();
            names
        }
    };
    if names.is_empty() {
        return Err(CliError::new("no kernel has such an id")
            .hint("ids are like gemv_m1_l64.int4.asym; `*` stands for anything"));
    }
    let mut jobs = Vec::new();
    for &family in &args.family {
        let manifest = match &args.driver {
            Some(path) => Ok(path.clone()),
            None => family.manifest(),
        };
        let manifest = manifest.map_err(|error| CliError::new("no driver").because(error))?;
        jobs.push(Job { family, manifest, kernels: names.clone(), listings: args.disassemble });
    }
    let failed = |error: IsaError| CliError::new("cannot compile").because(error);
    let program = std::env::current_exe()
        .map_err(|error| CliError::new("cannot find this program").because(error))?;
    let compiled = isa::compile_all(&program, &jobs).map_err(failed)?;
    let mut page = String::new();
    for (stats, listing) in &compiled {
        if let Some(listing) = listing {
            page.push_str(&format!("{} on {}\n{listing}\n", stats.kernel, stats.family));
        }
    }
    let kernels: Vec<Stats> = compiled.into_iter().map(|(stats, _)| stats).collect();
    let (mut roofline, mut left_out) = (Vec::new(), BTreeSet::new());
    if args.roofline {
        (roofline, left_out) = self::roofline(&products, &kernels)?;
    }
    page.push_str(&if args.roofline { roofs(&roofline) } else { rows(&kernels) });
    if !left_out.is_empty() {
        let names: Vec<_> = left_out.iter().map(String::as_str).collect();
        page.push_str(&format!(
            "not derived, since their loops hold loops: {}\n",
            names.join(", ")
        ));
    }
    let source = "compiled by RADV on null hardware; times derived from published peaks";
    report.finish(&page, &Page { source, kernels, roofline })?;
    Ok(Outcome::Fine)
}

fn products(args: &Args) -> Vec<Product> {
    let caps = Caps::from_limits(AdapterClass::Gpu, &wgpu::Limits::defaults());
    let product = |format: WeightFormat, m: u32| {
        let spec = MatmulSpec::new(m, SIDE, SIDE, format);
        let choice = KernelChoice::new(&spec, select(&spec, &caps, m), &caps);
        Product { spec, m, choice }
    };
    args.rows
        .iter()
        .flat_map(|&m| args.format.iter().map(move |&format| (format, m)))
        .map(|(format, m)| product(format, m))
        .collect()
}

/// Returns the bounds, and the kernels whose loops hold loops, so that nothing is derived.
fn roofline(
    products: &[Product],
    kernels: &[Stats],
) -> Result<(Vec<Roof>, BTreeSet<String>), CliError> {
    let (mut roofs, mut left_out) = (Vec::new(), BTreeSet::new());
    for product in products {
        let name = product.choice.name();
        for stats in kernels.iter().filter(|stats| stats.kernel == name) {
            let Some(peaks) = stats.family.peaks() else { continue };
            let choice = &product.choice;
            let step = Step::new(choice);
            let roof = isa::roof(stats, step.x_rows, &product.spec, product.m, &peaks);
            match roof.map_err(|e| CliError::new("no such weights").because(e))? {
                Some(roof) => roofs.push(roof),
                None => drop(left_out.insert(name.clone())),
            }
        }
    }
    Ok((roofs, left_out))
}

fn rows(kernels: &[Stats]) -> String {
    let header = [
        "kernel",
        "family",
        "group",
        "VGPRs",
        "LDS",
        "waves",
        "VALU/weight",
        "loads/weight",
        "code loads/weight",
        "width",
        "dot4",
        "wmma",
        "spills",
        "scratch",
    ];
    let mut page = table(&header, false);
    for s in kernels {
        let per = |value: Option<f64>| match (value, &s.per_weight) {
            (Some(value), Some(p)) => format!("{}{value:.3}", if p.exact { "" } else { "~" }),
            _ => "–".to_string(),
        };
        let widths = s.main_loop.as_ref().map_or_else(String::new, |main| {
            let widths = main.counts.code_loads.0.keys();
            widths.map(u32::to_string).collect::<Vec<_>>().join(", ")
        });
        page.add_row([
            printable(&s.kernel).into(),
            s.family.name().into(),
            right(s.workgroup),
            right(s.vgprs),
            right(s.lds),
            right(s.occupancy),
            right(per(s.per_weight.map(|p| p.valu))),
            right(per(s.per_weight.map(|p| p.loads))),
            right(per(s.per_weight.map(|p| p.code_loads))),
            right(widths),
            right(s.counts.dot4),
            right(s.counts.wmma),
            right(s.spilled_vgprs + s.spilled_sgprs),
            right(s.scratch),
        ]);
    }
    format!(
        "{}waves: that a SIMD holds at once, 16 at most (before navi 10); width: bytes that a load \
         of codes fetches\n",
        text(&page)
    )
}

fn roofs(roofs: &[Roof]) -> String {
    let header =
        ["W", "M", "GPU", "memory µs", "VALU µs", "bound", "of memory", "of VALU", "kernel"];
    let mut page = table(&header, false);
    for roof in roofs {
        let bound = if roof.bound == Bound::Memory { "memory" } else { "VALU" };
        page.add_row([
            roof.weights.as_str().into(),
            right(roof.shape[0]),
            roof.gpu.into(),
            right(format!("{:.1}", roof.memory_us)),
            right(format!("{}{:.1}", if roof.exact { "" } else { "≤ " }, roof.valu_us)),
            bound.into(),
            right(format!("{:.0} %", 100.0 * roof.share_of_memory)),
            right(format!("{:.0} %", 100.0 * roof.share_of_valu)),
            printable(&roof.kernel).into(),
        ]);
    }
    format!(
        "{}derived, not measured: M×{SIDE}×{SIDE}, published peaks, vector operations issued \
         one a lane and clock;\n\
         ≤: the loop branches, and every branch counts as taken\n",
        text(&page)
    )
}
