//! Explores tiny models from end to end.

use crate::common::host;
use lowbit::host::Host;
use lowbit_models::architecture::{self, Blueprint};
use lowbit_models::checkpoint::source::{self, Item, Model, ModelSource, Overlay};
use lowbit_models::compress::{Recipe, SelectRequest};
use lowbit_models::device::{self, LoadOptions};
use lowbit_models::evaluate::Evaluation;
use lowbit_models::explore::{Candidate, Doing, Exploration, ExploreError, Job, Limit, run};
use lowbit_models::layerwise::{self, Identity, LayerwiseRunError, plans};
use pollster::block_on;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
const CANDIDATES: [&str; 4] =
    ["keep", "rtn:int8-channel", "gptq:int3-g32-asym", "gptq:int2-g32-asym"];

/// A tiny model, with texts of random tokens.
struct Tiny {
    model: Model,
    blueprint: Blueprint,
    texts: Vec<Vec<u32>>,
    probes: Vec<Vec<u32>>,
    eval: Vec<Vec<u32>>,
}

impl Tiny {
    fn new(name: &str) -> Self {
        let model = source::open(format!("{FOLDER}/{name}/model.safetensors")).unwrap();
        let blueprint = architecture::read(&model).unwrap();
        let mut state = 5u32;
        let mut texts = |count: usize| -> Vec<Vec<u32>> {
            let mut token = || {
                state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                (state >> 8) % 96
            };
            (0..count).map(|_| (0..12).map(|_| token()).collect()).collect()
        };
        Self { texts: texts(24), probes: texts(4), eval: texts(8), model, blueprint }
    }

    fn job(&self, candidates: &[&str], limit: Option<Limit>, folder: &Path) -> Job<'_> {
        Job {
            source: &self.model,
            blueprint: &self.blueprint,
            candidates: candidates.iter().map(|name| name.parse::<Candidate>().unwrap()).collect(),
            exclude: vec![],
            texts: &self.texts,
            probes: &self.probes,
            eval: &self.eval,
            rows: 64,
            limit,
            points: 2,
            folder: folder.to_owned(),
            identity: Identity {
                model: 1,
                recipe: candidates.join(","),
                calibration: (24, 288, 0),
            },
        }
    }
}

fn shared() -> Option<Arc<Host>> {
    // Models keep their device, so it is a device of their own.
    let _ = host()?;
    Some(Arc::new(Host::new().unwrap()))
}

/// What was found, without times.
fn timeless(mut found: Exploration) -> Exploration {
    found.chosen.assessed.latency_ms = 0.0;
    found.uniform.iter_mut().chain(&mut found.mixed).for_each(|a| a.latency_ms = 0.0);
    found
}

/// Checks what an exploration says of its recipes: the sizes are those of the weights, and the recipe gives the loss that was
/// reported when it is applied to the model.
fn check(host: &Arc<Host>, tiny: &Tiny, found: &Exploration) {
    let chosen = &found.chosen.assessed;
    let recipe = Recipe::from_toml(&chosen.recipe).unwrap();
    let request = SelectRequest { recipe, exclude: vec![] };
    let plans = plans(&tiny.model, &request).unwrap();
    assert!(plans.unmatched.is_empty());
    let job = layerwise::Job {
        source: &tiny.model,
        blueprint: &tiny.blueprint,
        plans: plans.plans,
        texts: &tiny.texts,
        statistics: None,
        rows: 64,
        loops: layerwise::Loops::default(),
        folder: None,
    };
    let (model, reports) = block_on(layerwise::run(Some(host), &job, &mut |_| ())).unwrap();
    let items = model.items().unwrap();
    assert_eq!(chosen.bytes, items.iter().map(|item| item.bytes).sum::<usize>());
    let eval = tiny.eval.clone();
    let evaluation = block_on(Evaluation::new(host, &tiny.model, &tiny.blueprint, eval)).unwrap();
    let measured = block_on(evaluation.measure(host, &model)).unwrap();
    assert_eq!((measured.value, measured.loss), (chosen.value, chosen.loss));
    assert_eq!(evaluation.value(), found.value);
    let marked: Vec<_> = found.candidates.iter().filter(|candidate| candidate.chosen).collect();
    let weights = found.candidates.len() / CANDIDATES.len();
    assert_eq!(marked.len(), weights);
    let compressed = marked.iter().filter(|candidate| candidate.candidate != "keep").count();
    assert_eq!(compressed, reports.len());
    let bits = marked.iter().map(|candidate| 8.0 * candidate.bytes as f64).sum::<f64>();
    assert!((bits / found.elements as f64 - chosen.bits_per_weight).abs() < 1e-9);
    assert!(
        found.candidates.iter().all(|c| c.predicted_loss >= 0.0 && c.predicted_loss.is_finite())
    );
}

#[test]
fn an_interrupted_exploration_goes_on_and_gives_the_same() {
    let Some(host) = shared() else { return };
    for name in ["bert", "llama"] {
        let tiny = Tiny::new(name);
        let scratch = tempfile::tempdir().unwrap();
        // Half of what int8 and int3 take together.
        let limit = Some(Limit::Bits(6.0));
        let job = tiny.job(&CANDIDATES, limit, &scratch.path().join("whole"));
        let whole = block_on(run(&host, &job, &mut |done, all, _| assert!(done <= all))).unwrap();
        check(&host, &tiny, &whole);
        assert_eq!(whole.uniform.len(), CANDIDATES.len());
        let keep = whole.uniform.iter().find(|assessed| assessed.recipe == "keep").unwrap();
        assert_eq!((keep.loss.abs() < 1e-4, keep.bytes), (true, whole.bytes));
        let chosen = &whole.chosen;
        assert!(chosen.assessed.bits_per_weight <= 6.0);
        // No other recipe that fits loses less.
        let fit = whole.uniform.iter().chain(&whole.mixed).filter(|a| a.bits_per_weight <= 6.0);
        let best = fit.map(|assessed| assessed.loss).fold(f64::INFINITY, f64::min);
        assert_eq!(chosen.loss_put_together, best);
        // Nothing of it remains to be done a second time.
        let mut again = 0;
        let mut count = |_, _, doing: Option<Doing<'_>>| {
            again += usize::from(matches!(doing, Some(Doing::Making { .. } | Doing::Probing(_))));
        };
        let second = block_on(run(&host, &job, &mut count)).unwrap();
        assert_eq!((second, again), (whole.clone(), 0));

        // Each run is ended by force where it does the next kind of thing.
        let job = tiny.job(&CANDIDATES, limit, &scratch.path().join("parts"));
        let is = |doing: &Doing<'_>, at: usize| match doing {
            Doing::Making { candidate, .. } => at == 0 && *candidate == CANDIDATES[2],
            Doing::Probing(_) => at == 1,
            Doing::Measuring(what) => at == 2 && what.contains("mixed"),
            Doing::Compressing(_) => at == 3,
            _ => false,
        };
        for at in 0..4 {
            let mut seen = 0;
            let mut progress = |_, _, doing: Option<Doing<'_>>| {
                if doing.is_some_and(|doing| is(&doing, at)) {
                    seen += 1;
                    assert!(seen < 3, "the process ends here");
                }
            };
            let ended =
                catch_unwind(AssertUnwindSafe(|| block_on(run(&host, &job, &mut progress))));
            assert!(ended.is_err(), "{name}: {at}");
        }
        let found = block_on(run(&host, &job, &mut |_, _, _| ())).unwrap();
        assert_eq!(timeless(found), timeless(whole), "{name}");
        // The folder is of this job only.
        let mut other = tiny.job(&CANDIDATES, limit, &scratch.path().join("parts"));
        other.identity.recipe.push_str(",keep");
        let error = block_on(run(&host, &other, &mut |_, _, _| ())).unwrap_err();
        let error = matches!(error, ExploreError::Layerwise(LayerwiseRunError::Other { .. }));
        assert!(error, "{name}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let Some(host) = shared() else { return };
    let tiny = Tiny::new("bert");
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("folder");
    let refused = |job: &Job<'_>| block_on(run(&host, job, &mut |_, _, _| ())).unwrap_err();
    let mut job = tiny.job(&CANDIDATES, None, &folder);
    job.texts = &[];
    assert_eq!(refused(&job).to_string(), "there is no calibration text, or it is empty");
    let empty = [vec![]];
    let mut job = tiny.job(&CANDIDATES, None, &folder);
    job.eval = &empty;
    assert_eq!(refused(&job).to_string(), "there is no evaluation text, or it is empty");
    assert!(matches!(refused(&tiny.job(&["keep"], None, &folder)), ExploreError::NoCandidates));
    let mut job = tiny.job(&CANDIDATES, None, &folder);
    job.exclude = vec!["*".parse().unwrap()];
    assert!(matches!(refused(&job), ExploreError::NoWeights));
    // The smallest size is that of 2-bit codes in groups of 32: 8 bytes, a scale of 4 and a zero point in a byte for
    // each group, or part of one, of a row.
    let groups = |n: usize, k: usize| n * k.div_ceil(32);
    let weights: usize = 2 * (4 * groups(32, 32) + groups(48, 32) + groups(32, 48));
    let elements: usize = 2 * (4 * 32 * 32 + 2 * 48 * 32);
    let others =
        tiny.model.items().unwrap().iter().map(|item| item.bytes).sum::<usize>() - 2 * elements;
    let smallest = others + elements / 4 + weights * 5;
    let job = tiny.job(&CANDIDATES, Some(Limit::Size(smallest as u64 - 1)), &folder);
    match refused(&job) {
        ExploreError::Size { asked, least } => {
            assert_eq!((asked, least), (smallest as u64 - 1, smallest));
        }
        other => panic!("{other}"),
    }
    let job = tiny.job(&CANDIDATES, Some(Limit::Bits(2.5)), &folder);
    let message = refused(&job).to_string();
    let least = 8.0 * (elements / 4 + weights * 5) as f64 / elements as f64;
    assert!(message.contains(&format!("at least {least:.3} bits")), "{message}");
    // What takes the input of a weight that stays as it is cannot take codes.
    let codes = ["rtn:int8-channel@int8-token", "gptq:int2-g32-asym@int8-token"];
    let mut job = tiny.job(&codes, None, &folder);
    job.exclude = vec!["*.0.*key*".parse().unwrap()];
    assert!(matches!(refused(&job), ExploreError::NoneGoes { .. }));
    // Nothing was begun.
    assert!(!folder.exists());
    // What no model that was measured keeps.
    let job = tiny.job(&CANDIDATES[2..], Some(Limit::Loss(1e-9)), &folder);
    assert!(matches!(refused(&job), ExploreError::Loss { .. }));
    let job = tiny.job(&CANDIDATES[2..], Some(Limit::Latency(1e-9)), &folder);
    assert!(matches!(refused(&job), ExploreError::Latency { .. }));
}

/// Returns the model of a recipe, compressed layer by layer.
fn applied<'a>(host: &Arc<Host>, tiny: &'a Tiny, recipe: &str) -> Overlay<'a> {
    let recipe = Recipe::from_toml(recipe).unwrap();
    let request = SelectRequest { recipe, exclude: vec!["*lm_head*".parse().unwrap()] };
    let job = layerwise::Job {
        source: &tiny.model,
        blueprint: &tiny.blueprint,
        plans: plans(&tiny.model, &request).unwrap().plans,
        texts: &tiny.texts,
        statistics: None,
        rows: 64,
        loops: layerwise::Loops::default(),
        folder: None,
    };
    block_on(layerwise::run(Some(host), &job, &mut |_| ())).unwrap().0
}

fn int8_inputs(host: &Arc<Host>, model: &dyn ModelSource) -> usize {
    let options = LoadOptions::default();
    let model = block_on(device::Model::from_source(host, model, &options, &|_, _| ())).unwrap();
    let inputs = model.linear_inputs().unwrap();
    assert!(inputs.reasons.is_empty(), "{:?}", inputs.reasons);
    inputs.int8
}

/// Inputs become codes, all layers that take one at once, and losses, times and energy are those of integer products.
#[test]
fn inputs_become_codes() {
    let Some(host) = shared() else { return };
    for name in ["bert", "llama"] {
        let tiny = Tiny::new(name);
        let scratch = tempfile::tempdir().unwrap();
        let candidates = [
            "keep",
            "rtn:int8-channel",
            "rtn:int8-channel@int8-token",
            "gptq:int3-g32-asym@int8-token",
        ];
        // A token may take long: it is what asks for codes at every size.
        let mut job = tiny.job(&candidates, Some(Limit::Latency(1e9)), scratch.path());
        job.exclude = vec!["*lm_head*".parse().unwrap(), "*.1.*k_proj*".parse().unwrap()];
        let found = block_on(run(&host, &job, &mut |_, _, _| ())).unwrap();
        let uniform = |recipe: &str| found.uniform.iter().find(|a| a.recipe == recipe);
        let floats = uniform("rtn:int8-channel").unwrap();
        if name == "llama" {
            // What queries and values of the second layer take is not explored whole.
            assert!(uniform(candidates[2]).is_none());
            let left_out = found.left_out.iter().find(|left_out| left_out.name == candidates[2]);
            assert_eq!(left_out.unwrap().why, "2 of 13 weights cannot be it");
        } else {
            let codes = uniform(candidates[2]).unwrap();
            assert_eq!(codes.bytes, floats.bytes);
            assert!(codes.loss > floats.loss && codes.loss < 1.0, "{codes:?} {floats:?}");
            assert!(codes.predicted_loss > floats.predicted_loss, "{codes:?} {floats:?}");
            assert!(codes.picojoules_per_token < floats.picojoules_per_token);
        }
        let recipes = found.mixed.iter().filter(|a| a.recipe.contains("activations = "));
        assert!(recipes.clone().count() > 2, "{:?}", found.mixed);
        let mut partly = 0;
        for assessed in recipes {
            let model = applied(&host, &tiny, &assessed.recipe);
            let items = model.items().unwrap();
            let codes = |item: &&Item| model.activations(&item.name).unwrap().is_some();
            let codes = items.iter().filter(codes).count();
            // Those that share an input agree, so that each of them takes codes.
            assert_eq!(int8_inputs(&host, &model), codes, "{}", assessed.recipe);
            partly += usize::from(codes < if name == "llama" { 11 } else { 12 });
        }
        assert!(partly > 0);
    }
}

/// What AWQ makes of the first layer, whose inputs are those of the model as it is, is what the recipe makes, norms among it.
#[test]
fn awq_is_measured_as_it_is_applied() {
    let Some(host) = shared() else { return };
    for name in ["llama", "bert"] {
        let tiny = Tiny::new(name);
        let scratch = tempfile::tempdir().unwrap();
        let candidates = ["keep", "awq:int4-g32-asym", "awq:int4-g32-asym@int8-token"];
        let mut job = tiny.job(&candidates, None, scratch.path());
        job.limit = Some(Limit::Loss(1e6));
        job.exclude = vec!["*lm_head*".parse().unwrap(), "*.1.*".parse().unwrap()];
        let found = block_on(run(&host, &job, &mut |_, _, _| ())).unwrap();
        assert!(
            found.left_out.iter().all(|left_out| left_out.name.contains(".1.")
                || left_out.name.contains("lm_head")
                || left_out.name.contains("pooler")),
            "{:?}",
            found.left_out
        );
        let chosen = &found.chosen;
        assert!(chosen.assessed.recipe.contains("fold = \"norms\""), "{}", chosen.assessed.recipe);
        assert_eq!(chosen.assessed.loss, chosen.loss_put_together);
        let model = applied(&host, &tiny, &chosen.assessed.recipe);
        let items = model.items().unwrap();
        assert_eq!(chosen.assessed.bytes, items.iter().map(|item| item.bytes).sum::<usize>());
        let read = |model: &dyn ModelSource, name: &str| {
            model.read(name).unwrap() == tiny.model.read(name).unwrap()
        };
        let norms = items.iter().filter(|item| item.name.contains("norm"));
        let changed = norms.filter(|item| !read(&model, &item.name)).count();
        assert_eq!(changed > 0, name == "llama");
    }
}

/// Without a limit it is the smallest that loses at most 1 %; with one for the loss, that.
#[test]
fn the_smallest_that_keeps_a_loss_is_chosen() {
    let Some(host) = shared() else { return };
    let tiny = Tiny::new("bert");
    let scratch = tempfile::tempdir().unwrap();
    let of = |limit| {
        let job = tiny.job(&CANDIDATES, limit, scratch.path());
        block_on(run(&host, &job, &mut |_, _, _| ())).unwrap()
    };
    let (knee, one, tight) = (of(None), of(Some(Limit::Loss(1.0))), of(Some(Limit::Loss(0.01))));
    assert_eq!(timeless(knee.clone()), timeless(one));
    for (found, percent) in [(&knee, 1.0), (&tight, 0.01)] {
        let chosen = &found.chosen.assessed;
        assert!(chosen.loss <= percent, "{chosen:?}");
        let smaller = found.uniform.iter().filter(|a| a.bytes < chosen.bytes);
        assert!(smaller.clone().all(|a| a.loss > percent), "{chosen:?}");
    }
    assert!(tight.chosen.assessed.bytes > knee.chosen.assessed.bytes);
}
