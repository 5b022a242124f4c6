//! Times what GPTQ does on the best adapter, int4-g128, beside f32 matmuls of the same run: the Gram matrix of
//! 512 rows, its factorization, and the loop over columns; and that loop where it prunes 2:4 or half of each block. Then
//! the f64 reference does the same on all processors. Two ratios are printed: to the rate of the faster f32 matmul, and
//! to the time of the reference.
//!
//! `cargo bench --all-features --bench gptq -- 4096` sets the number of rows and columns of W (default: 1024). Times are the
//! least of three submissions, including the wait, after one that compiles. A multiply-add counts as two
//! operations: the factorization has ⅔K³ and the loop N·K².

use lowbit::compress::Scheme;
use lowbit::compress::layerwise::{Gram, Options, gptq};
use lowbit::format::WeightFormat;
use lowbit::host::{Host, HostError};
use lowbit::ops::{
    ColumnsArgs, ColumnsPlan, ColumnsSpec, FactorArgs, FactorPlan, FactorSpec, GramArgs, GramPlan,
    GramSpec, MatmulArgs, MatmulPlan, MatmulSpec, Pattern, Schedule, Select,
};
use pollster::block_on;
use std::error::Error;
use std::time::Instant;

/// Rows of X.
const ROWS: u32 = 512;

/// Returns the least of three times in seconds, after one that compiles.
fn seconds(mut run: impl FnMut() -> Result<(), HostError>) -> Result<f64, HostError> {
    run()?;
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        run()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}

fn show(what: &str, seconds: f64, operations: f64) -> f64 {
    let rate = operations / seconds / 1e9;
    println!("{what:24} {:10.1} ms {rate:8.2} Gop/s", seconds * 1e3);
    rate
}

fn values(count: usize) -> Vec<f32> {
    // No two neighbouring columns of X are alike.
    let mixed = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
    (0..count).map(|i| mixed(i) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let side: u32 = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(1024);
    let host = match Host::new() {
        Ok(host) => host,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            return Ok(());
        }
    };
    let info = host.adapter_info();
    println!("{} ({} {}), {side} rows and columns", info.name, info.driver, info.driver_info);
    let kernels = host.kernels();
    let k = side as usize;
    let w = values(k * k);
    let x = values(ROWS as usize * k);

    // f32 matmuls of the same X.
    let weights = host.compress(&w, k, k, &WeightFormat::f32())?;
    let spec = MatmulSpec::of(ROWS, &weights);
    let x_at = host.storage(bytemuck::cast_slice(&x))?;
    let y = host.zeros(spec.y_bytes(ROWS))?;
    let products = 2.0 * f64::from(ROWS) * (k * k) as f64;
    let mut fastest: f64 = 0.0;
    for (name, select) in [
        ("matmul, tiled_64x64", Select::Pinned(Schedule::Tiled { m_tile: 64 })),
        ("matmul, as chosen", Select::Auto),
    ] {
        let plan = block_on(MatmulPlan::new(kernels, &spec, select))?;
        let args = MatmulArgs {
            activations: (&x_at).into(),
            weights: &weights,
            bias: None,
            output: (&y).into(),
        };
        let bound = block_on(plan.bind(args))?;
        let time = seconds(|| host.submit(|pass| drop(bound.record(pass, ROWS))))?;
        fastest = fastest.max(show(name, time, products));
    }

    let spec = GramSpec::new(ROWS, side);
    let sums = host.zeros(spec.sums_bytes())?;
    let status = host.zeros(GramSpec::STATUS_BYTES)?;
    let plan = block_on(GramPlan::new(kernels, &spec))?;
    let args =
        GramArgs { activations: (&x_at).into(), sums: (&sums).into(), status: (&status).into() };
    let bound = block_on(plan.bind(args))?;
    let time = seconds(|| host.submit(|pass| drop(bound.record(pass, ROWS))))?;
    show("gram, half of X'X", time, products / 2.0);
    // Four submissions have added to the sums.
    let seen = spec.decode(
        &host.read(&sums, 0, (spec.sums_bytes() / 4) as usize)?,
        &host.read(&status, 0, 2)?,
    )?;
    let seen = Gram::from_parts(k, 4 * u64::from(ROWS), seen)?;

    let factor = FactorSpec::new(side);
    let order: Vec<u32> = (0..side).chain(0..side).collect();
    let order = host.storage(&order)?;
    let (scratch, upper) = (host.zeros(factor.matrix_bytes())?, host.zeros(factor.matrix_bytes())?);
    let diagonal = host.zeros(4 * (u64::from(side) + 1))?;
    let plan = block_on(FactorPlan::new(kernels, &factor))?;
    let bound = block_on(plan.bind(FactorArgs {
        sums: (&sums).into(),
        order: (&order).into(),
        scratch: &scratch,
        output: &upper,
        diagonal: &diagonal,
        status: (&status).into(),
    }))?;
    let time = seconds(|| host.submit(|pass| drop(bound.record(pass, side))))?;
    let (cube, mut all) = ((k * k) as f64 * k as f64, time);
    show("factorization", time, 2.0 / 3.0 * cube);
    factor.decode(&host.read(&status, 0, 2)?)?;
    drop((sums, scratch, weights, x_at, y));

    let weights = host.storage(bytemuck::cast_slice(&w))?;
    // GPTQ, and SparseGPT with patterns of rows and of blocks.
    let floats = ColumnsSpec::new(side, side, None);
    for (at, spec) in [
        ColumnsSpec::new(side, side, Some("int4-g128".parse()?)),
        floats.clone().with_pattern(Pattern::OfM { kept: 2, of: 4 }),
        floats.with_pattern(Pattern::Fraction(0.5)),
    ]
    .into_iter()
    .enumerate()
    {
        let columns = host.zeros(spec.columns_bytes())?;
        let output = host.zeros(spec.output_bytes())?;
        let scales = host.zeros(spec.scales_bytes())?;
        let masks = host.zeros(spec.masks_bytes())?;
        let plan = block_on(ColumnsPlan::new(kernels, &spec))?;
        let bound = block_on(plan.bind(ColumnsArgs {
            weights: (&weights).into(),
            order: (&order).into(),
            diagonal: &diagonal,
            factor: &upper,
            columns: &columns,
            output: &output,
            scales: &scales,
            masks: &masks,
            status: (&status).into(),
        }))?;
        let time = seconds(|| host.submit(|pass| drop(bound.record(pass, side))))?;
        all += if at == 0 { time } else { 0.0 };
        let format = spec.format.map_or("floats".into(), |format| format.to_string());
        let pattern = spec.pattern.map_or(String::new(), |pattern| format!(", {pattern}"));
        show(&format!("columns, {format}{pattern}"), time, cube);
        ColumnsPlan::decode(&host.read(&status, 0, 2)?)?;
    }
    let rate = show("GPTQ", all, 5.0 / 3.0 * cube);
    println!("GPTQ reaches {:.0} % of the rate of the faster f32 matmul", 100.0 * rate / fastest);
    let scheme: Scheme = "int4-g128".parse()?;
    let start = Instant::now();
    gptq(&w, k, k, &seen, &scheme, &Options::default())?;
    let reference = start.elapsed().as_secs_f64();
    show("reference, f64, host", reference, 5.0 / 3.0 * cube);
    println!("GPTQ takes {:.2} of the time of the f64 reference", all / reference);
    Ok(())
}
