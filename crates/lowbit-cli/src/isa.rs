//! `lowbit isa`: what AMD's compiler makes of the kernels, and which lines of memory they touch.

use crate::Outcome;
use crate::error::{CliError, printable};
use crate::report::{JsonArg, Report, right, table, text};
use globset::Glob;
use lowbit::conformance::{self, Case, Extent, Op};
use lowbit::format::WeightFormat;
use lowbit::gpu::{AdapterClass, Caps};
use lowbit::host::Host;
use lowbit::ops::matmul::{KernelChoice, Step, code_textures_pay, select};
use lowbit::ops::{Activations, MatmulSpec};
use lowbit_isa::memory::{self, BankRow, Class, MemoryError, Row, SUBGROUPS, Tracer, Tracing};
use lowbit_isa::{self as isa, Family, IsaError, Job, Kernel, Roof, Stats, Traffic};
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

/// What AMD's compiler makes of the kernels and which lines they touch, without a GPU
///
/// Compiles through Mesa's RADV on null hardware and prints what the driver reports and what
/// the listing's main loop costs a weight; `~` where lanes differ, and a part is a guess.
/// With --memory and --roofline, kernels also run on an adapter of this machine, any one, and write
/// down the addresses that their lanes load from. Times are derived from published peaks, not measured.
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
    /// f32, f16, or quantized, as int8-token; of the formats above
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    activations: Activations,
    /// Bounds of M×4096×4096 by published peaks: memory, caches, vector operations
    #[arg(long)]
    roofline: bool,
    /// Lines of memory that subgroups of 32 and 64 touch, and conflicts of workgroup memory. Kernels
    /// that are named run in cases of `lowbit verify --quick`
    #[arg(long)]
    memory: bool,
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
    memory: Vec<Row>,
    workgroup_memory: Vec<BankRow>,
}

/// A product and the kernel that a class of devices takes for it.
struct Product {
    spec: MatmulSpec,
    m: u32,
    choice: KernelChoice,
}

/// Lines and conflicts that were traced.
#[derive(Default)]
struct Traced {
    rows: Vec<Row>,
    banks: Vec<BankRow>,
    /// By number of the product, for subgroups of 32 and of 64.
    traffic: Vec<[Traffic; 2]>,
    /// Kernels that no case ran.
    left_out: Vec<String>,
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
    let products = products(args, &Class::Gpu.caps(&software()));
    let names = names(args, &products)?;
    let compiled = match compile(args, &names) {
        // Lines can be counted without a compiler.
        Err(error) if args.memory && !args.roofline => Err(error.line()),
        compiled => Ok(compiled?),
    };
    let mut page = String::new();
    let mut kernels: Vec<Stats> = Vec::new();
    match compiled {
        Ok(compiled) => {
            for (stats, listing) in compiled {
                if let Some(listing) = listing {
                    page.push_str(&format!("{} on {}\n{listing}\n", stats.kernel, stats.family));
                }
                kernels.push(stats);
            }
        }
        Err(error) => page.push_str(&format!("no instruction counts: {error}\n")),
    }
    let mut traced = Traced::default();
    if args.memory || args.roofline {
        let failed = |error| CliError::new("cannot trace kernels").because(error);
        traced = trace(args, &products, &names).map_err(failed)?;
    }
    let (mut roofline, mut left_out) = (Vec::new(), BTreeSet::new());
    if args.roofline {
        (roofline, left_out) = self::roofline(&products, &kernels, &traced.traffic)?;
    }
    if args.roofline {
        page.push_str(&roofs(&roofline));
    } else if !kernels.is_empty() {
        page.push_str(&rows(&kernels));
    }
    if !left_out.is_empty() {
        let names: Vec<_> = left_out.iter().map(String::as_str).collect();
        page.push_str(&format!(
            "not derived, since their loops hold several loops: {}\n",
            names.join(", ")
        ));
    }
    let Traced { rows: mut memory, banks: mut workgroup_memory, left_out, .. } = traced;
    if args.memory {
        page.push_str(&lines(&memory, &workgroup_memory));
        if !left_out.is_empty() {
            page.push_str(&format!("run by no case: {}\n", left_out.join(", ")));
        }
    } else {
        (memory, workgroup_memory) = (Vec::new(), Vec::new());
    }
    let source = "compiled by RADV on null hardware; lines traced on an adapter of this machine; times \
                  derived from published peaks";
    report.finish(&page, &Page { source, kernels, roofline, memory, workgroup_memory })?;
    Ok(Outcome::Fine)
}

/// Returns the ids of the kernels that are asked for.
fn names(args: &Args, products: &[Product]) -> Result<Vec<String>, CliError> {
    let mut names: Vec<String> = match &args.kernel {
        Some(glob) => {
            let glob = glob.compile_matcher();
            let all = isa::kernels();
            all.iter()
                .map(Kernel::name)
                .filter(|name| glob.is_match(name))
                .map(Into::into)
                .collect()
        }
        None => products.iter().map(|p| p.choice.name()).collect(),
    };
    if args.kernel.is_none() {
        names.sort();
        names.dedup();
    }
    if names.is_empty() {
        return Err(CliError::new("no kernel has such an id")
            .hint("ids are like gemv_m1_l64.int4.asym; `*` stands for anything"));
    }
    Ok(names)
}

fn compile(args: &Args, names: &[String]) -> Result<Vec<(Stats, Option<String>)>, CliError> {
    let mut jobs = Vec::new();
    for &family in &args.family {
        let manifest = match &args.driver {
            Some(path) => Ok(path.clone()),
            None => family.manifest(),
        };
        let manifest = manifest.map_err(|error| CliError::new("no driver").because(error))?;
        jobs.push(Job { family, manifest, kernels: names.to_vec(), listings: args.disassemble });
    }
    let failed = |error: IsaError| CliError::new("cannot compile").because(error);
    let program = std::env::current_exe()
        .map_err(|error| CliError::new("cannot find this program").because(error))?;
    isa::compile_all(&program, &jobs).map_err(failed)
}

/// Capabilities of which only the class matters here.
fn software() -> Caps {
    Caps::from_limits(AdapterClass::Cpu, &wgpu::Limits::defaults())
}

fn products(args: &Args, caps: &Caps) -> Vec<Product> {
    let product = |format: WeightFormat, m: u32| {
        let mut spec = MatmulSpec::new(m, SIDE, SIDE, format).with_activations(args.activations);
        spec.code_textures = code_textures_pay(&format, SIDE, caps);
        let choice = KernelChoice::new(&spec, select(&spec, caps, m), caps);
        Product { spec, m, choice }
    };
    args.rows
        .iter()
        .flat_map(|&m| args.format.iter().map(move |&format| (format, m)))
        .map(|(format, m)| product(format, m))
        .collect()
}

/// Runs products, or cases in which the kernels `names` run, and counts lines.
fn trace(args: &Args, products: &[Product], names: &[String]) -> Result<Traced, MemoryError> {
    let real = Host::new()?;
    let mut traced = Traced::default();
    let classes: &[Class] =
        if args.memory { &[Class::Gpu, Class::Software] } else { &[Class::Gpu] };
    if args.kernel.is_some() {
        return trace_cases(&real, classes, names);
    }
    let mut known = HashSet::new();
    for class in classes {
        let caps = class.caps(real.kernels().caps());
        let own = match class {
            Class::Gpu => None,
            _ => Some(self::products(args, &caps)),
        };
        for product in own.as_deref().unwrap_or(products) {
            // New for each: what one has compiled and found is not needed again.
            let tracing = Tracing::new(&real, &caps)?;
            let measured = tracing.matmul(&product.spec, product.choice.schedule, product.m)?;
            if *class == Class::Gpu {
                traced.traffic.push(SUBGROUPS.map(|width| Traffic::new(&measured, width)));
            }
            let name = product.choice.name();
            if known.insert((*class, name.clone())) {
                traced.add(memory::rows(&measured.trace, &name, *class));
            }
        }
    }
    Ok(traced)
}

/// Runs cases until each of the kernels has run, and counts the lines of the first case that runs it.
fn trace_cases(real: &Host, classes: &[Class], names: &[String]) -> Result<Traced, MemoryError> {
    let mut traced = Traced::default();
    let mut wanted: HashSet<String> = names.iter().cloned().collect();
    // Ids begin with the name of their op, or nearly so: its cases run, and all cases only if there
    // are none. Most cases multiply.
    let multiply = wanted.iter().any(|id| id.parse::<KernelChoice>().is_ok());
    let words: HashSet<String> =
        names.iter().filter_map(|id| id.split(['.', '_']).next()).map(Into::into).collect();
    let likely = |case: &Case| match case.op {
        Op::Matmul | Op::IntegerMatmul(_) | Op::ExpertMatmul { .. } => multiply,
        op => op.name().split('-').next().is_some_and(|word| words.contains(word)),
    };
    let (first, others): (Vec<_>, Vec<_>) =
        conformance::table(Extent::Quick).into_iter().partition(likely);
    let cases = if first.is_empty() { others } else { first };
    for class in classes {
        let caps = class.caps(real.kernels().caps());
        let tracer = Tracer::new(real)?.only(wanted.iter().cloned());
        let tracing = Tracing::with_tracer(real, &caps, tracer)?;
        for case in &cases {
            if wanted.is_empty() {
                break;
            }
            let trace = tracing.case(case)?;
            for kernel in trace.kernels() {
                if wanted.remove(kernel) {
                    traced.add(memory::rows(&trace, kernel, *class));
                }
            }
        }
    }
    traced.left_out = names.iter().filter(|name| wanted.contains(*name)).cloned().collect();
    Ok(traced)
}

impl Traced {
    fn add(&mut self, (rows, banks): (Vec<Row>, Vec<BankRow>)) {
        self.rows.extend(rows);
        self.banks.extend(banks);
    }
}

/// Returns the bounds, and the kernels whose loops hold several loops, so that nothing is derived.
fn roofline(
    products: &[Product],
    kernels: &[Stats],
    traffic: &[[Traffic; 2]],
) -> Result<(Vec<Roof>, BTreeSet<String>), CliError> {
    let (mut roofs, mut left_out) = (Vec::new(), BTreeSet::new());
    for (product, [narrow, wide]) in products.iter().zip(traffic) {
        let name = product.choice.name();
        for stats in kernels.iter().filter(|stats| stats.kernel == name) {
            let Some(peaks) = stats.family.peaks() else { continue };
            let choice = &product.choice;
            let step = Step::new(choice);
            let traffic = if stats.wave > 32 { wide } else { narrow };
            let roof = isa::roof(stats, step.x_rows, &product.spec, product.m, traffic, &peaks);
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
    let header = [
        "W",
        "M",
        "GPU",
        "memory µs",
        "cache µs",
        "LDS µs",
        "VALU µs",
        "bound",
        "of memory",
        "of VALU",
        "kernel",
    ];
    let mut page = table(&header, false);
    for roof in roofs {
        page.add_row([
            roof.weights.as_str().into(),
            right(roof.shape[0]),
            roof.gpu.into(),
            right(format!("{:.1}", roof.memory_us)),
            right(format!("{:.1}", roof.cache_us)),
            right(format!("{:.1}", roof.workgroup_us)),
            right(format!("{}{:.1}", if roof.exact { "" } else { "≤ " }, roof.valu_us)),
            roof.bound.name().into(),
            right(format!("{:.0} %", 100.0 * roof.share_of_memory)),
            right(format!("{:.0} %", 100.0 * roof.share_of_valu)),
            printable(&roof.kernel).into(),
        ]);
    }
    format!(
        "{}derived, not measured: M×{SIDE}×{SIDE}, published peaks, vector operations issued \
         one a lane and clock;\n\
         cache: a line of 128 bytes a compute unit and clock, assumed; LDS: workgroup memory\n\
         ≤: the loop branches, and every branch counts as taken\n",
        text(&page)
    )
}

fn lines(memory: &[Row], banks: &[BankRow]) -> String {
    let header = [
        "kernel",
        "class",
        "subgroup",
        "operand",
        "accesses",
        "bytes used",
        "bytes fetched",
        "lines",
        "ideal",
        "factor",
        "of 64",
        "of 32",
    ];
    let mut page = table(&header, false);
    let factor = |lines: u64, ideal: u64| format!("{:.2}", lines as f64 / ideal.max(1) as f64);
    for row in memory {
        page.add_row([
            printable(&row.kernel).into(),
            row.class.name().into(),
            right(row.subgroup),
            row.operand.name().into(),
            right(row.accesses),
            right(row.bytes_used),
            right(row.bytes_fetched),
            right(row.lines),
            right(row.ideal_lines),
            right(factor(row.lines, row.ideal_lines)),
            right(factor(row.lines_64, row.ideal_lines_64)),
            right(factor(row.lines_32, row.ideal_lines_32)),
        ]);
    }
    let header = ["kernel", "class", "subgroup", "accesses", "cycles", "ideal", "factor"];
    let mut of_banks = table(&header, false);
    for row in banks {
        of_banks.add_row([
            printable(&row.kernel).into(),
            row.class.name().into(),
            right(row.subgroup),
            right(row.accesses),
            right(row.cycles),
            right(row.ideal_cycles),
            right(factor(row.cycles, row.ideal_cycles)),
        ]);
    }
    let mut page = format!(
        "{}lines of 128 bytes that subgroups touch, access by access, in the workgroups that were \
         traced; ideal: what their bytes would fill;\n\
         factor: lines for one ideal line, also for lines of 64 and 32 bytes\n",
        text(&page)
    );
    if !banks.is_empty() {
        page.push_str(&format!("{}workgroup memory of 32 banks\n", text(&of_banks)));
    }
    page
}
