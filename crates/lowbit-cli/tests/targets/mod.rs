//! Every composable shader for every target: what is refused, and that the rest is accepted by
//! naga, by Khronos's validators and by Tint.

mod command;
mod planted;
mod tools;

use self::tools::{Glslang, SpirvVal, Tint};
use lowbit::gpu::KernelDesc;
use lowbit::ops::registry;
use lowbit::translate::{Feature, Parsed, Target, TranslateError, Translated};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Every shader of the crate, each once.
fn all_shaders() -> Vec<KernelDesc> {
    let kernels = registry::distinct_shaders(registry::all());
    kernels.into_iter().map(|kernel| kernel.desc()).collect()
}

/// What targets lack, told apart from the table that is tested: by language and version.
fn is_lacking(target: Target, feature: Feature) -> bool {
    let version: f64 = target.version().and_then(|v| v.parse().ok()).unwrap_or(0.0);
    let matrix = matches!(feature, Feature::Matrix8 | Feature::Matrix16);
    match (target.language(), feature) {
        ("wgsl" | "wgsl-naga", _) | (_, Feature::PackedDot | Feature::ReadTexture) => false,
        ("wgsl-web", _) => matrix || feature == Feature::Int64,
        ("spirv", Feature::Subgroups | Feature::SubgroupId) => version < 1.3,
        ("spirv", _) => matrix && version < 1.6,
        ("msl", Feature::Matrix8 | Feature::Int64) => version < 2.3,
        ("msl", _) => feature == Feature::Matrix16,
        ("hlsl", Feature::F16) => version < 6.2,
        ("hlsl", _) => matrix || version < 6.0,
        ("glsl", _) => true,
        (language, _) => panic!("{language} is not in the test's table"),
    }
}

/// The results of one target: a row of the table.
#[derive(Default)]
struct Row {
    shaders: usize,
    written: usize,
    refused: BTreeMap<Feature, usize>,
    largest: (usize, String),
    slowest: (Duration, String),
    time: Duration,
}

impl Row {
    fn write(&mut self, bytes: usize, time: Duration, name: &str) {
        self.written += 1;
        self.time += time;
        if bytes > self.largest.0 {
            self.largest = (bytes, name.into());
        }
        if time > self.slowest.0 {
            self.slowest = (time, name.into());
        }
    }
}

/// The checkers that are there, and what they took.
struct Checkers {
    spirv: Option<SpirvVal>,
    glsl: Option<Glslang>,
    tint: Option<Mutex<Tint>>,
    folder: tempfile::TempDir,
    /// Files that wait for glslangValidator, which takes many at once.
    files: Mutex<Vec<PathBuf>>,
    passed: Mutex<BTreeMap<String, usize>>,
    wrong: Mutex<Vec<String>>,
}

/// Files that one run of glslangValidator takes.
const FILES: usize = 100;

impl Checkers {
    fn new() -> Self {
        Self {
            spirv: tools::found(SpirvVal::new()),
            glsl: tools::found(Glslang::new()),
            tint: tools::found(Tint::new()).map(Mutex::new),
            folder: tempfile::tempdir().unwrap(),
            files: Mutex::default(),
            passed: Mutex::default(),
            wrong: Mutex::default(),
        }
    }

    fn verdict(&self, checker: &str, what: &str, count: usize, verdict: Result<(), String>) {
        match verdict {
            Ok(()) => *self.passed.lock().unwrap().entry(checker.into()).or_default() += count,
            Err(wrong) => self.wrong.lock().unwrap().push(format!("{checker}: {what}: {wrong}")),
        }
    }

    fn check(&self, index: usize, made: &Translated) {
        let name = &made.kernel;
        match made.target {
            Target::Spirv(version) => {
                let Some(checker) = &self.spirv else { return };
                for environment in SpirvVal::environments(version) {
                    let verdict = checker.check(environment, &made.output.bytes());
                    self.verdict(&format!("spirv-val {environment}"), name, 1, verdict);
                }
            }
            Target::Glsl => {
                if self.glsl.is_none() {
                    return;
                }
                let path = self.folder.path().join(format!("{index}.comp"));
                std::fs::write(&path, made.output.bytes()).unwrap();
                let some = {
                    let mut files = self.files.lock().unwrap();
                    files.push(path);
                    if files.len() < FILES { Vec::new() } else { std::mem::take(&mut *files) }
                };
                self.check_files(some);
            }
            Target::WgslWeb => {
                let Some(tint) = &self.tint else { return };
                let verdict = tint.lock().unwrap().check(made);
                self.verdict("Tint", name, 1, verdict);
            }
            Target::WgslNaga => {
                self.verdict("naga", name, 1, read(made.output.text().unwrap()).map(drop));
            }
            _ => {}
        }
    }

    fn check_files(&self, files: Vec<PathBuf>) {
        if let Some(checker) = &self.glsl
            && !files.is_empty()
        {
            let verdict = checker.check(&files);
            self.verdict("glslangValidator", "one of these", files.len(), verdict);
            files.iter().for_each(|file| drop(std::fs::remove_file(file)));
        }
    }
}

/// A text as naga reads it, where it is valid.
fn read(text: &str) -> Result<(naga::Module, naga::valid::ModuleInfo), String> {
    let capabilities = naga::valid::Capabilities::all();
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(text)
        .map_err(|error| error.emit_to_string(text))?;
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|error| error.emit_to_string(text))?;
    Ok((module, info))
}

/// Translates a shader to every target, with what was refused compared to what should be.
fn translate_all(
    index: usize,
    shader: &KernelDesc,
    table: &Mutex<BTreeMap<Target, Row>>,
    to: &Checkers,
) {
    let name = &shader.id;
    let parsed = Parsed::new(shader).unwrap_or_else(|error| panic!("{error}"));
    let features = shader.features().unwrap();
    // Fragments may call what no path of this kernel does.
    let used: BTreeSet<_> = parsed.features().collect();
    assert!(used.is_subset(&features), "{name} declares {features:?} and uses {used:?}");
    let sure = features.iter().filter(|f| **f != Feature::PackedDot && **f != Feature::Int64);
    assert!(sure.clone().all(|f| used.contains(f)), "{name}: {features:?}, {used:?}");
    for target in Target::ALL {
        // A browser reads what is not used too.
        let asked = if target == Target::WgslWeb { &features } else { &used };
        let expected = asked.iter().copied().find(|feature| is_lacking(target, *feature));
        let start = Instant::now();
        let made = parsed.translate(target);
        let time = start.elapsed();
        let refused = match &made {
            Err(TranslateError::Refused { feature, .. }) => Some(*feature),
            Err(error) => panic!("{error}"),
            Ok(_) => None,
        };
        assert_eq!(refused, expected, "{name} for {target}");
        {
            let mut table = table.lock().unwrap();
            let row = table.entry(target).or_default();
            row.shaders += 1;
            match (&made, refused) {
                (Ok(made), _) => row.write(made.output.bytes().len(), time, name),
                (_, Some(feature)) => *row.refused.entry(feature).or_default() += 1,
                _ => {}
            }
        }
        if let Ok(made) = made {
            for bound in &made.bindings {
                assert!(!bound.slot.is_empty(), "{name} for {target}: {bound:?}");
                assert!(!bound.used || !bound.holds.starts_with("nothing"), "{name}: {bound:?}");
            }
            to.check(index, &made);
        }
    }
}

/// A page that says how many shaders there are must say so of these.
fn check_pages(total: usize, chosen: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    pages.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let said = format!("{},{:03} composable shaders ({chosen},", total / 1000, total % 1000);
    for page in pages.iter().filter(|page| page.extension().is_some_and(|ext| ext == "md")) {
        let text = std::fs::read_to_string(page).unwrap();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let says = !words.contains(" composable shaders (") || words.contains(&said);
        assert!(says, "{} must say: {said}", page.display());
    }
}

#[test]
fn shaders_for_every_target() {
    let start = Instant::now();
    let all = all_shaders();
    let total = all.len();
    assert!(total > 10_000, "only {total} shaders");
    let shaders = crate::common::chosen(all, registry::parts);
    let spent = start.elapsed();
    eprintln!("{} of {total} shaders; chosen in {spent:.0?}", shaders.len());
    if shaders.len() < total {
        eprintln!(
            "any two fragments or constants that occur together do so in one of these; \
             LOWBIT_TARGETS=all takes every shader"
        );
    }
    if std::env::var_os("LOWBIT_TARGETS").is_none() {
        check_pages(total, shaders.len());
    }
    let (table, next) = (Mutex::default(), AtomicUsize::new(0));
    let checkers = Checkers::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(shader) = shaders.get(index) else { return };
                    translate_all(index, shader, &table, &checkers);
                }
            });
        }
    });
    checkers.check_files(std::mem::take(&mut *checkers.files.lock().unwrap()));
    for (target, row) in table.into_inner().unwrap() {
        let refused: Vec<_> = row.refused.iter().map(|(f, count)| format!("{count} {f}")).collect();
        eprintln!(
            "{target}: {} shaders, {} written in {:.1?}, refused for want of {}; \
             largest {} KB ({}), slowest {:.1?} ({})",
            row.shaders,
            row.written,
            row.time,
            if refused.is_empty() { "nothing".into() } else { refused.join(", ") },
            row.largest.0.div_ceil(1000),
            row.largest.1,
            row.slowest.0,
            row.slowest.1,
        );
    }
    for (checker, passed) in checkers.passed.into_inner().unwrap() {
        eprintln!("{checker}: {passed} pass");
    }
    eprintln!("in {:.0?}", start.elapsed());
    let wrong = checkers.wrong.into_inner().unwrap();
    // A few of each checker: one cause is often many.
    let mut some: Vec<&str> = Vec::new();
    for line in &wrong {
        let checker = line.split(':').next().unwrap();
        if some.iter().filter(|shown| shown.starts_with(checker)).count() < 3 {
            some.push(line);
        }
    }
    assert!(wrong.is_empty(), "{} are wrong, such as:\n{}", wrong.len(), some.join("\n"));
}
