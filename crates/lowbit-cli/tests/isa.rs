//! Every kernel through AMD's compiler, without a GPU: registers suffice, loads are wide, and
//! what the hardware can do at once is used. Kernels are enumerated, not listed.

use lowbit::ops::matmul::Schedule;
use lowbit_isa::{self as isa, Family, IsaError, Job, Kernel, Stats};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lowbit");

/// The families that there is a driver for. Skips of others say so, or fail where the
/// environment demands all.
fn families() -> Vec<(Family, PathBuf)> {
    let found = Family::ALL.into_iter().map(|family| (family, family.manifest()));
    let mut families = Vec::new();
    for (family, manifest) in found {
        match manifest {
            Ok(manifest) => families.push((family, manifest)),
            Err(error) if std::env::var_os("LOWBIT_REQUIRE_ISA").is_none() => {
                crate::common::skipped(error);
            }
            Err(error) => panic!("LOWBIT_REQUIRE_ISA is set, and {error}"),
        }
    }
    families
}

/// Navi31 and one of the other families, another for each `LOWBIT_SAMPLE`; all of them if `LOWBIT_ISA`
/// is `all`.
fn in_turn(mut families: Vec<(Family, PathBuf)>) -> Vec<(Family, PathBuf)> {
    match std::env::var("LOWBIT_ISA").as_deref() {
        Ok("all") => return families,
        Ok(other) => panic!("LOWBIT_ISA is `{other}`; `all` takes every family"),
        Err(_) => {}
    }
    let others = families.iter().filter(|(family, _)| *family != Family::Navi31);
    let others: Vec<_> = others.map(|(family, _)| *family).collect();
    let one = others.get(crate::common::sample() % others.len().max(1)).copied();
    families.retain(|(family, _)| *family == Family::Navi31 || Some(*family) == one);
    let left_out = others.iter().filter(|family| Some(**family) != one).map(Family::to_string);
    let left_out = left_out.collect::<Vec<_>>().join(", ");
    crate::common::skipped(format_args!("{left_out}; LOWBIT_ISA=all compiles for them too"));
    families
}

type Matches = fn(&Kernel) -> bool;

/// Kernels whose scalar registers may spill, and why.
const SCALAR_SPILLS: [(Matches, &str); 1] = [(
    |kernel| schedule(kernel).is_some_and(|s| matches!(s, Schedule::Rows { m_tile: 4, .. })),
    "for CPU adapters; X is uniform there, and RADV keeps 128 of it in scalar registers",
)];

fn schedule(kernel: &Kernel) -> Option<Schedule> {
    kernel.choice().map(|choice| choice.schedule)
}

/// Returns a sentence for each rule that a kernel breaks.
fn faults(kernel: &Kernel, stats: &Stats) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |fine: bool, fault: String| {
        if !fine {
            faults.push(format!("{} on {}: {fault}", stats.kernel, stats.family));
        }
    };
    check(stats.spilled_vgprs == 0, format!("{} vector registers spill", stats.spilled_vgprs));
    check(stats.scratch == 0, format!("{} bytes of scratch", stats.scratch));
    if stats.spilled_sgprs > 0 {
        let allowed = SCALAR_SPILLS.iter().any(|(matches, _)| matches(kernel));
        check(allowed, format!("{} scalar registers spill", stats.spilled_sgprs));
        // Descriptors go through lanes of vector registers: loads cannot be told apart.
        return faults;
    }
    check(stats.vgprs > 0 && stats.instructions > 0, "no statistics".into());
    // The driver counts vector operations too, where it is new enough.
    let counted = stats.counts.valu;
    check(
        stats.valu.is_none_or(|valu| valu == counted),
        format!("{counted} vector operations read, the driver says {:?}", stats.valu),
    );
    if kernel.integer_dot() && stats.family.integer_dot() {
        check(stats.counts.dot4 > 0, "no v_dot4".into());
    }
    if kernel.matrix() {
        check(stats.counts.wmma > 0, "no v_wmma".into());
    }
    let (Some(choice), Some(step)) = (kernel.choice(), kernel.step()) else { return faults };
    let Some(main) = &stats.main_loop else {
        check(false, "no loop loads codes".into());
        return faults;
    };
    let loads = &main.counts.code_loads;
    let wide = choice.schedule.is_integer() || matches!(choice.schedule, Schedule::Gemv { .. });
    if let (true, Some(width)) = (wide, step.code_load) {
        check(loads.0.keys().eq([&width]), format!("codes by {:?}, not {width} bytes", loads.0));
    }
    // Two ways to tell the weights of a trip: bytes of codes loaded, and the schedule's
    // constants. They agree where one is a whole multiple of the other: the unrolling.
    let unrolled = loads.bytes() / u64::from(step.code_bytes);
    let whole = loads.bytes() % u64::from(step.code_bytes) == 0 && unrolled > 0;
    check(whole, format!("{} bytes of codes a trip, {} a step", loads.bytes(), step.code_bytes));
    // A third: each weight is multiplied with each row of X. (Mesa 22 leaves loops of constant
    // length as they are, and in a loop not counted to the end some products are missing.)
    if !kernel.matrix() && main.inner_loops == 0 {
        let all = unrolled as f64 * step.weights * f64::from(step.x_rows);
        // A dot product is of four; what 2:4 leaves out is there again.
        let dots = kernel.integer_dot() && stats.family.integer_dot();
        let (least, products) = match (kernel.integer_dot(), choice.decoder.sparse) {
            (true, _) if !dots => (0.0, 0),
            (true, _) => (all, 4 * main.counts.dot4),
            (false, sparse) => (if sparse { 0.5 * all } else { all }, main.counts.products),
        };
        check(products as f64 >= least, format!("{products} products a trip of {least}"));
    }
    faults
}

#[test]
fn isa_kernels_on_amd() {
    let start = Instant::now();
    let families = in_turn(families());
    // Navi31: every two properties that occur together. Elsewhere every property once, and
    // everything with LOWBIT_ISA=all; the number of lanes that share a row, which makes few loops
    // differ, is left out there.
    let kernels = isa::covering(isa::kernels());
    let usual = |kernel: &Kernel| {
        let lanes = schedule(kernel).and_then(|schedule| match schedule {
            Schedule::Gemv { lanes, .. } | Schedule::IntGemv { lanes, .. } => Some(lanes),
            _ => None,
        });
        lanes.is_none_or(|lanes| lanes == 32)
    };
    let all: Vec<_> = isa::kernels().into_iter().filter(usual).collect();
    let fewer = match std::env::var("LOWBIT_ISA").as_deref() {
        Ok("all") => isa::covering(all),
        _ => isa::each_once(all),
    };
    let mut jobs = Vec::new();
    for (family, manifest) in &families {
        let kernels = if *family == Family::Navi31 { &kernels } else { &fewer };
        // RADV aborts on matrices where the hardware has none.
        let able = kernels.iter().filter(|kernel| family.matrix() || !kernel.matrix());
        let kernels = able.map(|kernel| kernel.name().to_string()).collect();
        jobs.push(Job { family: *family, manifest: manifest.clone(), kernels, listings: false });
    }
    let compiled = isa::compile_all(Path::new(PROGRAM), &jobs).unwrap();
    let known: HashMap<_, _> = kernels.iter().chain(&fewer).map(|k| (k.name(), k)).collect();
    let mut wrong = Vec::new();
    for (stats, _) in &compiled {
        wrong.extend(faults(known[stats.kernel.as_str()], stats));
    }
    for (matches, why) in SCALAR_SPILLS {
        let spills = |(s, _): &(Stats, _)| s.spilled_sgprs > 0 && matches(known[s.kernel.as_str()]);
        let all = families.iter().any(|(family, _)| *family == Family::Navi31);
        assert!(!all || compiled.iter().any(spills), "none spills any more: {why}");
    }
    eprintln!(
        "{} kernels on navi31, {} elsewhere; {} families, {} compiled in {:.0} s",
        kernels.len(),
        fewer.len(),
        families.len(),
        compiled.len(),
        start.elapsed().as_secs_f64()
    );
    let some = &wrong[..wrong.len().min(40)];
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), some.join("\n"));
}

/// A driver that cannot be used is an error that says so, whatever the process did.
#[test]
fn isa_failures_are_told() {
    let kernels = vec![isa::kernels()[0].name().to_string()];
    let manifest = PathBuf::from("no/such/icd.json");
    let job = Job { family: Family::Navi21, manifest, kernels, listings: false };
    let error = isa::compile(Path::new(PROGRAM), &job).unwrap_err();
    assert!(matches!(&error, IsaError::Aborted { kernel, .. } if *kernel == job.kernels[0]));
    assert!(error.to_string().contains("no Vulkan device"), "{error}");
}

/// The command: a table, and JSON with the derived bounds of every format.
#[test]
fn isa_the_command_prints_a_roofline() {
    let run = |args: &[&str]| Command::new(PROGRAM).arg("isa").args(args).output().unwrap();
    let refused = run(&["--kernel", "no_such_kernel*"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no kernel has such an id"));
    if !families().iter().any(|(family, _)| *family == Family::Navi31) {
        return;
    }
    let output = run(&["--roofline", "--rows", "1", "--json", "-"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let roofs = page["roofline"].as_array().unwrap();
    assert_eq!(roofs.len(), 9);
    for roof in roofs {
        let number = |name: &str| roof[name].as_f64().unwrap();
        let times = ["memory_us", "cache_us", "workgroup_us", "valu_us"].map(number);
        assert!(times.iter().all(|time| *time > 0.0), "{roof}");
        let most = times.iter().copied().fold(0.0, f64::max);
        assert_eq!(number("share_of_memory"), times[0] / most);
        assert_eq!(number("share_of_valu"), times[3] / most);
    }
    // Tiles hold a loop whose trips are traced.
    let tiles = ["--roofline", "--rows", "32,128", "--format", "int4-g128"];
    for activations in ["f32", "int8-token"] {
        let all = [&tiles[..], &["--activations", activations, "--json", "-"]].concat();
        let output = run(&all);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let page: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let kernels: Vec<_> =
            page["roofline"].as_array().unwrap().iter().map(|roof| &roof["kernel"]).collect();
        assert_eq!(kernels.len(), 2, "{kernels:?}");
    }
}

/// Lines of a product, for both classes of devices, and of kernels by name.
#[test]
fn isa_the_command_counts_lines() {
    if !crate::cli::gpu() {
        return;
    }
    let run = |args: &[&str]| {
        let output =
            Command::new(PROGRAM).arg("isa").args(args).args(["--json", "-"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    // No compiler is needed.
    let page =
        run(&["--memory", "--rows", "1", "--format", "int4-g128", "--driver", "no/such/icd.json"]);
    assert_eq!(page["kernels"], serde_json::json!([]));
    let rows = page["memory"].as_array().unwrap();
    for class in ["gpu", "software"] {
        for subgroup in [32, 64] {
            for operand in ["w", "x", "y"] {
                let is = |row: &&serde_json::Value| {
                    row["class"] == class
                        && row["subgroup"] == subgroup
                        && row["operand"] == operand
                };
                let found: Vec<_> = rows.iter().filter(is).collect();
                assert_eq!(found.len(), 1, "{class} {subgroup} {operand}");
                let number = |name: &str| found[0][name].as_u64().unwrap();
                assert_eq!(number("bytes_fetched"), 128 * number("lines"));
                assert!(number("bytes_used") <= number("bytes_fetched"), "{}", found[0]);
                let (lines, ideal) = (number("lines"), number("ideal_lines"));
                assert!(0 < ideal && ideal <= lines, "{}", found[0]);
            }
        }
    }
    // A kernel of another op, in a case of its own.
    let page =
        run(&["--memory", "--kernel", "softmax.capped.w128", "--driver", "no/such/icd.json"]);
    let rows = page["memory"].as_array().unwrap();
    assert!(
        !rows.is_empty() && rows.iter().all(|row| row["kernel"] == "softmax.capped.w128"),
        "{rows:?}"
    );
}
