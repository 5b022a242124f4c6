//! Models that are compressed layer by layer, on the tiny models of scripts/models/make.py.

use crate::common::host;
use lowbit::compress::dequantize;
use lowbit::format::{ActivationFormat, CacheFormat, Quantization};
use lowbit::host::Host;
use lowbit::ops::Activations;
use lowbit_models::architecture;
use lowbit_models::checkpoint::Tensor;
use lowbit_models::checkpoint::source::{
    self, Data, ItemKind, Model, ModelSource, Overlay, import,
};
use lowbit_models::compress::{Recipe, SelectRequest};
use lowbit_models::device::{self, LoadOptions, SessionOptions};
use lowbit_models::layerwise::{
    Doing, Identity, Job, LayerwiseRunError, Loops, WeightReport, plans, run,
};
use pollster::block_on;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn shared() -> Option<Arc<Host>> {
    // Models keep their device, so it is a device of their own.
    let _ = host()?;
    Some(Arc::new(Host::new().unwrap()))
}

pub(super) fn open(name: &str) -> Model {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
    let folder = Path::new(folder).join(name);
    let gguf = folder.join("model.gguf");
    let path = if gguf.exists() { gguf } else { folder.join("model.safetensors") };
    source::open(path).unwrap()
}

/// Texts of several lengths, enough of them that XᵀX of 64 columns has full rank.
pub(super) fn texts(vocab: usize) -> Vec<Vec<u32>> {
    let token = |i: usize| ((i * 7919 + i * i * 31) % vocab) as u32;
    (0..24).map(|text| (0..5 + text % 7).map(|at| token(31 * text + at)).collect()).collect()
}

pub(super) fn request(recipe: &str) -> SelectRequest {
    SelectRequest { recipe: Recipe::from_toml(recipe).unwrap(), exclude: vec![] }
}

/// Compresses a model by a recipe.
fn compressed<'a>(
    host: &Arc<Host>,
    model: &'a dyn ModelSource,
    recipe: &str,
    (loops, folder): (Loops, Option<PathBuf>),
    observed: &mut usize,
) -> Result<(Overlay<'a>, Vec<WeightReport>), LayerwiseRunError> {
    let blueprint = architecture::read(model).unwrap();
    let plans = plans(model, &request(recipe)).unwrap().plans;
    assert!(!plans.is_empty());
    let texts = texts(blueprint.vocab);
    let identity =
        Identity { model: 0, recipe: recipe.to_owned(), calibration: (texts.len(), 0, 0) };
    let folder = folder.map(|folder| (folder, identity));
    let job = Job {
        source: model,
        blueprint: &blueprint,
        plans,
        texts: &texts,
        statistics: None,
        rows: 32,
        loops,
        folder,
    };
    block_on(run(Some(host), &job, &mut |doing| {
        *observed += usize::from(matches!(doing, Doing::Observing(_)));
    }))
}

pub(super) fn rule(format: &str, more: &str) -> String {
    format!("[[rule]]\nformat = \"{format}\"\n{more}\n")
}

/// Returns the last logits of a text.
fn logits(host: &Arc<Host>, model: &dyn ModelSource) -> Vec<f32> {
    logits_with(host, model, &LoadOptions::default())
}

fn logits_with(host: &Arc<Host>, model: &dyn ModelSource, options: &LoadOptions) -> Vec<f32> {
    let model = block_on(device::Model::from_source(host, model, options, &|_, _| ())).unwrap();
    let text = texts(model.blueprint().vocab).swap_remove(6);
    let options = SessionOptions::default().with_slots(text.len()).with_cache(CacheFormat::F32);
    let mut session = block_on(model.session(&options)).unwrap();
    block_on(session.extend(&text)).unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f64 {
    let largest = b.iter().fold(0f32, |max, x| max.max(x.abs()));
    let most = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    f64::from(most / largest)
}

#[test]
fn every_method_compresses_what_runs() {
    let Some(host) = shared() else { return };
    for (name, methods) in [
        ("llama", &["gptq", "awq", "sparsegpt", "wanda", "magnitude"][..]),
        ("bert", &["gptq", "awq", "sparsegpt"]),
        ("llama-gguf", &["gptq"]),
    ] {
        let model = open(name);
        let blueprint = architecture::read(&model).unwrap();
        let linear: usize = 7 * blueprint.layers.len();
        for method in methods {
            let sparsity = match *method {
                "sparsegpt" => "sparsity = \"2:4\"",
                "wanda" => "sparsity = \"6:8\"",
                "magnitude" => "sparsity = \"0.5\"",
                _ => "",
            };
            let format = if *method == "sparsegpt" { "f16" } else { "int4-g32-asym" };
            let recipe = rule(format, &format!("method = \"{method}\"\n{sparsity}"));
            let plan = (Loops::Host, None);
            let (made, reports) = compressed(&host, &model, &recipe, plan, &mut 0).unwrap();
            if name == "llama" {
                // The head is one of the linear layers if it is not tied.
                assert!((linear..=linear + 1).contains(&reports.len()), "{}", reports.len());
            }
            let (mut before, mut after) = (0.0, 0.0);
            for report in &reports {
                assert_eq!(report.method, *method, "{}", report.name);
                let (rounded, error) =
                    (report.output_error_before.unwrap(), report.output_error.unwrap());
                assert!(error.is_finite() && error > 0.0, "{name} {}: {error}", report.name);
                before += rounded * rounded;
                after += error * error;
                // Inputs of BERT that no head makes from its values have nothing to fold factors into.
                let clips = report.warnings.iter().any(|warning| warning.contains("only clips"));
                let (of_bert, of_values) =
                    (name == "bert", report.name.contains("attention.output"));
                if of_bert {
                    assert_eq!(clips, *method == "awq" && !of_values, "{}", report.name);
                }
                assert!(matches!(made.read(&report.name).unwrap(), Data::Compressed(_)));
            }
            println!("{name} {method}: {:.4} → {:.4}", f64::sqrt(before), f64::sqrt(after));
            if *method == "magnitude" {
                assert_eq!(before, after);
            } else {
                assert!(after < before, "{name} {method}: {before} → {after}");
            }
            if blueprint.head.is_some() {
                assert!(logits(&host, &made).iter().all(|logit| logit.is_finite()));
            }
        }
    }
}

/// Factors that are folded change nothing but what rounding makes of them: with 8 bits hardly anything.
#[test]
fn factors_of_awq_are_folded_exactly() {
    let Some(host) = shared() else { return };
    for name in ["llama", "qwen2"] {
        let model = open(name);
        let want = logits(&host, &model);
        let recipe = rule("int8-g16", "method = \"awq\"");
        let (made, _) = compressed(&host, &model, &recipe, (Loops::Host, None), &mut 0).unwrap();
        let norms = made.items().unwrap().into_iter().filter(|item| item.name.contains("norm"));
        let changed =
            norms.filter(|item| made.read(&item.name).unwrap() != model.read(&item.name).unwrap());
        assert!(changed.count() > 0, "{name}: no factor was folded");
        let rounded = rule("int8-g16", "");
        let (plain, _) = compressed(&host, &model, &rounded, (Loops::Host, None), &mut 0).unwrap();
        let (awq, plain) =
            (apart(&logits(&host, &made), &want), apart(&logits(&host, &plain), &want));
        println!("{name}: {awq:.1e}, rounded {plain:.1e}");
        // A factor that one side lacks changes a column by tens of per cent.
        assert!(awq < 4.0 * plain, "{name}: {awq:.1e}, rounded {plain:.1e}");
    }
}

#[test]
fn the_device_does_as_well_as_the_host() {
    let Some(host) = shared() else { return };
    let model = open("llama");
    for recipe in [
        rule("int4-g32-asym", "method = \"gptq\""),
        rule("int3-g16", "method = \"gptq\"\norder = \"activations\""),
        rule("int4-channel", "method = \"gptq\"\norder = \"columns-updated\""),
        rule("int4-g16-asym", "method = \"gptq\"\norder = \"activations-static\""),
        rule("f16", "method = \"sparsegpt\"\nsparsity = \"2:4\""),
        rule("f32", "method = \"sparsegpt\"\nsparsity = \"6:8\""),
        rule("f32", "method = \"sparsegpt\"\nsparsity = \"0.5\""),
        rule("f16", "method = \"sparsegpt\"\nsparsity = \"0.7\"\norder = \"activations\""),
        rule("int4-g32-asym", "method = \"sparsegpt\"\nsparsity = \"0.5\""),
        rule("int4-g32", "method = \"sparsegpt\"\nsparsity = \"0.3\"\norder = \"columns-updated\""),
    ] {
        let errors = [Loops::Device, Loops::Host].map(|loops| {
            let (_, reports) = compressed(&host, &model, &recipe, (loops, None), &mut 0).unwrap();
            assert!(reports.iter().all(|report| report.warnings.is_empty()));
            reports
        });
        // The first layer sees the same inputs. Later ones see what other codes near ties made of them.
        for (device, host) in errors[0].iter().zip(&errors[1]).take(3) {
            let (have, want) = (device.output_error.unwrap(), host.output_error.unwrap());
            let ratio = (have / want).powi(2);
            println!("{recipe:?} {}: {ratio:.5}", device.name);
            assert!((ratio - 1.0).abs() < 0.005, "{recipe}{}: {ratio}", device.name);
        }
    }
}

#[test]
fn an_interrupted_run_goes_on() {
    let Some(host) = shared() else { return };
    let model = open("llama");
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("out.partial");
    let recipe = rule("int4-g32-asym", "method = \"awq\"");
    let plan = || (Loops::Host, Some(folder.clone()));
    let mut stages = 0;
    let (want, reports) = compressed(&host, &model, &recipe, plan(), &mut stages).unwrap();
    let files = |model: &dyn ModelSource, name: &str| {
        let path = place.path().join(name);
        import(model, path.as_path(), &mut |_| ()).unwrap();
        std::fs::read(path).unwrap()
    };
    let want = files(&want, "want.safetensors");
    let mut kept: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
        .collect();
    kept.sort();
    assert_eq!(kept.len(), stages);
    std::fs::remove_file(kept.pop().unwrap()).unwrap();
    let mut again = 0;
    let (made, reported) = compressed(&host, &model, &recipe, plan(), &mut again).unwrap();
    assert_eq!(again, 1, "only the stage that is missing is observed");
    assert_eq!(reported.len(), reports.len());
    assert!(files(&made, "made.safetensors") == want, "the file differs");
    let other = rule("int8-g32", "method = \"gptq\"");
    let error = compressed(&host, &model, &other, plan(), &mut 0).unwrap_err();
    assert!(matches!(error, LayerwiseRunError::Other { .. }), "{error}");
    std::fs::write(kept.pop().unwrap(), b"damaged").unwrap();
    assert!(compressed(&host, &model, &recipe, plan(), &mut 0).is_err());
}

/// Returns the model with the weights of another one, whose inputs stay floats.
fn without_activations<'a>(model: &'a dyn ModelSource, made: &dyn ModelSource) -> Overlay<'a> {
    let mut plain = Overlay::new(model);
    for item in made.items().unwrap() {
        if let Data::Compressed(packed) = made.read(&item.name).unwrap() {
            plain.put_packed(&item.name, item.shape, packed, None).unwrap();
        }
    }
    plain
}

/// Inputs become codes as the recipe says, in memory and in the file, just as if the options said it of all layers.
#[test]
fn layers_run_with_the_activations_of_a_recipe() {
    let Some(host) = shared() else { return };
    let place = tempfile::tempdir().unwrap();
    for (name, method, activations) in [
        ("llama", "gptq", "int8-token"),
        ("llama", "rtn", "int8-g32-asym"),
        ("qwen2", "awq", "int8-token"),
    ] {
        let model = open(name);
        let more = format!("method = \"{method}\"\nactivations = \"{activations}\"");
        let recipe = rule("int4-g32-asym", &more);
        let (made, reports) =
            compressed(&host, &model, &recipe, (Loops::Host, None), &mut 0).unwrap();
        let format: ActivationFormat = activations.parse().unwrap();
        for report in &reports {
            assert_eq!(report.activations.as_deref(), Some(activations), "{}", report.name);
        }
        let path = place.path().join("made.safetensors");
        import(&made, path.as_path(), &mut |_| ()).unwrap();
        std::fs::copy(model_config(name), place.path().join("config.json")).unwrap();
        let file = source::open(&path).unwrap();
        let found = file.activations(&reports[0].name).unwrap().unwrap();
        assert_eq!(found.quantization, Quantization::Dynamic(format));
        let loaded =
            block_on(device::Model::from_source(&host, &file, &LoadOptions::default(), &|_, _| ()));
        let inputs = loaded.unwrap().linear_inputs().unwrap();
        // The head of qwen2 is the table of tokens, which stays as it is.
        let layers = 7 * architecture::read(&model).unwrap().layers.len();
        let head = usize::from(name == "llama");
        assert_eq!((inputs.int8, inputs.floats), (layers + head, 1 - head), "{:?}", inputs.reasons);
        let have = logits(&host, &file);
        assert_eq!(have, logits(&host, &made), "{name}");
        let mut plain = without_activations(&model, &made);
        for item in made.items().unwrap().iter().filter(|item| item.name.contains("norm")) {
            let (shape, values) = (item.shape.clone(), floats(&made, &item.name));
            plain.put_floats(&item.name, shape, &values).unwrap();
        }
        let options = LoadOptions::default().with_activations(Activations::Int8(format));
        assert_eq!(have, logits_with(&host, &plain, &options), "{name}");
        let in_floats = apart(&have, &logits(&host, &plain));
        println!("{name} {activations}: {in_floats:.1e} from floats");
        assert!(in_floats > 0.0 && in_floats < 0.3, "{name}: {in_floats}");
    }
}

fn model_config(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
    Path::new(folder).join(name).join("config.json")
}

fn floats(model: &dyn ModelSource, name: &str) -> Vec<f32> {
    let items = model.items().unwrap();
    let item = items.iter().find(|item| item.name == name).unwrap();
    let (ItemKind::Plain(dtype), Data::Plain(bytes)) = (&item.kind, model.read(name).unwrap())
    else {
        panic!("{name} is compressed")
    };
    let tensor = Tensor { name, dtype: *dtype, shape: &item.shape, bytes: &bytes };
    tensor.to_f32().unwrap()
}

#[test]
fn activations_that_cannot_be_are_refused() {
    let Some(host) = shared() else { return };
    let model = open("llama");
    let refused = |recipe: &str| {
        compressed(&host, &model, recipe, (Loops::Host, None), &mut 0).unwrap_err().to_string()
    };
    let codes = "activations = \"int8-token\"";
    let said = refused(&format!(
        "[[rule]]\ntensors = \"*q_proj*\"\nformat = \"int8\"\n{codes}\n[[rule]]\nformat = \"int8\""
    ));
    assert!(said.contains("take one input") && said.contains("k_proj"), "{said}");
    assert!(said.contains("int8-token for the first and floats for the second"), "{said}");
    // Nor can the others stay as they are.
    let said = refused(&format!("[[rule]]\ntensors = \"*up_proj*\"\nformat = \"int8\"\n{codes}"));
    assert!(said.contains("gate_proj") && said.contains("up_proj"), "{said}");
    let said = refused(&rule("f16", codes));
    assert!(said.contains("as f16 it cannot be multiplied with int8-token"), "{said}");
    // Weights that take an input alone may.
    let alone = format!("[[rule]]\ntensors = \"*down_proj*\"\nformat = \"int8\"\n{codes}");
    let (made, _) = compressed(&host, &model, &alone, (Loops::Host, None), &mut 0).unwrap();
    assert!(apart(&logits(&host, &made), &logits(&host, &model)) > 0.0);
}

#[test]
fn what_cannot_be_compressed_is_refused() {
    let Some(host) = shared() else { return };
    let model = open("gpt2");
    let recipe = rule("int4-g32", "method = \"gptq\"");
    let error = compressed(&host, &model, &recipe, (Loops::Host, None), &mut 0).unwrap_err();
    assert!(error.to_string().contains("[K, N]"), "{error}");
    let model = open("llama");
    let blueprint = architecture::read(&model).unwrap();
    let plans = plans(&model, &request(&recipe)).unwrap().plans;
    let (loops, folder) = (Loops::Host, None);
    let job = Job {
        source: &model,
        blueprint: &blueprint,
        plans,
        texts: &[],
        statistics: None,
        rows: 8,
        loops,
        folder,
    };
    let error = block_on(run(Some(&host), &job, &mut |_| ())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "gptq needs a calibration text: it looks at what the layers take"
    );
    let minima = rule("q4_k", "method = \"magnitude\"\nsparsity = \"0.5\"");
    let error = compressed(&host, &model, &minima, (Loops::Host, None), &mut 0).unwrap_err();
    assert!(matches!(error, LayerwiseRunError::Weight { .. }), "{error}");
}

/// One threshold prunes the part of all weights together, and of each what its magnitudes are worth.
#[test]
fn one_threshold_prunes_layers_unevenly() {
    let Some(host) = shared() else { return };
    let model = open("llama");
    let more = "method = \"magnitude\"\nsparsity = \"0.5\"";
    let recipe = rule("f32", &format!("{more}\nglobal = true"));
    let (made, reports) = compressed(&host, &model, &recipe, (Loops::Host, None), &mut 0).unwrap();
    let original = |name: &str| {
        let item = model.items().unwrap().into_iter().find(|item| item.name == name).unwrap();
        match (model.read(name).unwrap(), item.kind) {
            (Data::Plain(bytes), ItemKind::Plain(dtype)) => {
                Tensor { name, dtype, shape: &item.shape, bytes: &bytes }.to_f32().unwrap()
            }
            other => panic!("{name}: {other:?}"),
        }
    };
    let pruned = |name: &str| match made.read(name).unwrap() {
        Data::Compressed(packed) => dequantize(&packed),
        Data::Plain(_) => panic!("{name} is not compressed"),
    };
    let (mut zeros, mut all) = (0, 0);
    let (mut largest_pruned, mut smallest_kept) = (0f32, f32::MAX);
    let mut parts = Vec::new();
    for report in &reports {
        assert_eq!(report.method, "magnitude-global");
        let (before, after) = (original(&report.name), pruned(&report.name));
        let mut own = 0;
        for (before, after) in before.iter().zip(&after) {
            if *after == 0.0 {
                own += 1;
                largest_pruned = largest_pruned.max(before.abs());
            } else {
                assert_eq!(before, after);
                smallest_kept = smallest_kept.min(before.abs());
            }
        }
        let part = own as f64 / after.len() as f64;
        assert!((report.sparsity.parse::<f64>().unwrap() - part).abs() < 1e-4);
        parts.push(part);
        (zeros, all) = (zeros + own, all + after.len());
    }
    assert!(largest_pruned < smallest_kept, "{largest_pruned}, {smallest_kept}");
    // Fewer only if several have the magnitude of the threshold.
    let pruned = zeros as f64 / all as f64;
    assert!((0.49..=0.5).contains(&pruned), "{pruned}");
    let spread = |parts: &[f64]| {
        let least = parts.iter().copied().fold(1.0, f64::min);
        parts.iter().copied().fold(0.0, f64::max) - least
    };
    assert!(spread(&parts) > 0.01, "{parts:?}");
    let apart = rule("f32", more);
    let (_, reports) = compressed(&host, &model, &apart, (Loops::Host, None), &mut 0).unwrap();
    assert!(reports.iter().all(|report| report.sparsity == "0.5"));
}
