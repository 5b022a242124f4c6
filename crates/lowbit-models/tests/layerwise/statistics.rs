//! Statistics of inputs in files: collected in parts, merged, damaged, and used.

use super::run::{open, request, rule, shared, texts};
use lowbit::format::PackedWeights;
use lowbit::host::Host;
use lowbit_models::architecture::{self, Blueprint};
use lowbit_models::checkpoint::source::{Data, Model, ModelSource, model_checksum};
use lowbit_models::checkpoint::{Content, Dtype, ModelFile, write_model};
use lowbit_models::layerwise::{
    BadStatistics, Job, LayerwiseRunError, Loops, Recording, StatisticsFile, TextPart, plans,
    record, run,
};
use pollster::block_on;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A tiny model with the texts that run through it.
struct Tiny {
    host: Arc<Host>,
    model: Model,
    blueprint: Blueprint,
    texts: Vec<Vec<u32>>,
    checksum: u64,
}

impl Tiny {
    fn new(name: &str) -> Option<Self> {
        let host = shared()?;
        let model = open(name);
        let blueprint = architecture::read(&model).unwrap();
        // Each fills more than half of a step of 16 tokens, so that a step has one text.
        let texts = texts(blueprint.vocab).into_iter().map(|text| text.repeat(2));
        let texts = texts.map(|text| text[..10].to_vec()).collect();
        let checksum = model_checksum(&model).unwrap();
        Some(Self { host, model, blueprint, texts, checksum })
    }

    fn part(&self, samples: Range<usize>) -> TextPart {
        TextPart {
            text: "text".into(),
            text_checksum: 7,
            sample_tokens: 16,
            first: samples.start as u64,
            samples: samples.len() as u64,
            tokens: self.texts[samples.clone()].iter().map(|text| text.len() as u64).sum(),
            checksum: samples.map(|sample| sample as u64).sum(),
        }
    }

    /// Runs some of the texts, adds files, and writes all.
    fn record(
        &self,
        samples: Range<usize>,
        merged: &[&Path],
        out: &Path,
    ) -> Result<Vec<TextPart>, LayerwiseRunError> {
        let merged = merged.iter().map(|path| StatisticsFile::open(path).unwrap());
        let merged: Vec<StatisticsFile> = merged.collect();
        let texts = &self.texts[samples.clone()];
        let job = Recording {
            source: &self.model,
            checksum: self.checksum,
            blueprint: &self.blueprint,
            samples: (!samples.is_empty()).then(|| (texts, self.part(samples))),
            rows: 16,
            merged: &merged,
        };
        block_on(record(Some(&self.host), &job, out, &mut |_| ()))
    }

    /// Compresses the model, with statistics or else with the texts. Returns its weights.
    fn compressed(
        &self,
        recipe: &str,
        statistics: Option<&StatisticsFile>,
    ) -> BTreeMap<String, PackedWeights> {
        let plans = plans(&self.model, &request(recipe)).unwrap().plans;
        let names: Vec<String> = plans.keys().cloned().collect();
        let texts: &[Vec<u32>] = if statistics.is_some() { &[] } else { &self.texts };
        let job = Job {
            source: &self.model,
            blueprint: &self.blueprint,
            plans,
            texts,
            statistics,
            rows: 16,
            loops: Loops::Host,
            folder: None,
        };
        let (made, _) = block_on(run(Some(&self.host), &job, &mut |_| ())).unwrap();
        let read = |name: String| match made.read(&name).unwrap() {
            Data::Compressed(packed) => (name, packed),
            Data::Plain(_) => panic!("{name} is not compressed"),
        };
        names.into_iter().map(read).collect()
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn parts_merge_to_the_bits_of_one_run() {
    for name in ["llama", "bert", "llama-gguf"] {
        let Some(tiny) = Tiny::new(name) else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let [one, a, b, c, all] = ["one", "a", "b", "c", "all"].map(path);
        let whole = tiny.record(0..24, &[], &one).unwrap();
        tiny.record(0..9, &[], &a).unwrap();
        tiny.record(9..10, &[], &b).unwrap();
        tiny.record(10..24, &[], &c).unwrap();
        for merged in [[&*a, &*b, &*c], [&*c, &*a, &*b]] {
            let parts = tiny.record(0..0, &merged, &all).unwrap();
            assert_eq!(parts, whole);
            assert!(read(&all) == read(&one), "{name}: merged, they are others");
        }
        // A run goes on with what a file has, and may replace it.
        tiny.record(9..24, &[&a], &a).unwrap();
        assert!(read(&a) == read(&one), "{name}: continued, they are others");
        assert!(read(&b) != read(&one));
        let file = StatisticsFile::open(&one).unwrap();
        file.check_sums().unwrap();
        assert_eq!(file.parts(), [tiny.part(0..24)]);
        let weights: usize = file.inputs().map(|(_, weights)| weights.len()).sum();
        let found = plans(&tiny.model, &request(&rule("f32", ""))).unwrap().plans;
        assert!(weights >= found.len(), "{weights} of {}", found.len());
        // No sample counts twice.
        let error = tiny.record(20..24, &[&one], &all).unwrap_err();
        assert!(matches!(error, LayerwiseRunError::Twice(_)), "{error}");
    }
}

/// The first layer takes the same whether those behind it are compressed or not, and so do the second one's weights
/// only with a text.
#[test]
fn methods_use_them_in_place_of_a_text() {
    let Some(tiny) = Tiny::new("llama") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("statistics");
    tiny.record(0..24, &[], &path).unwrap();
    let file = StatisticsFile::open(&path).unwrap();
    for (format, more) in [
        ("int4-g32-asym", "method = \"gptq\""),
        ("int4-g32-asym", "method = \"awq\""),
        ("f16", "method = \"sparsegpt\"\nsparsity = \"0.5\""),
        ("f16", "method = \"wanda\"\nsparsity = \"2:4\""),
    ] {
        let recipe = rule(format, more);
        let by_file = tiny.compressed(&recipe, Some(&file));
        let by_text = tiny.compressed(&recipe, None);
        let rounded = tiny.compressed(&rule(format, ""), None);
        let (mut first, mut behind) = (0, 0);
        for (name, packed) in &by_file {
            assert_ne!(packed, &rounded[name], "{more} {name}: nothing was observed");
            if name.contains("layers.0.") {
                assert_eq!(packed, &by_text[name], "{more} {name}");
                first += 1;
            } else {
                behind += usize::from(packed != &by_text[name]);
            }
        }
        assert!(first == 7 && behind > 0, "{more}: {first}, {behind}");
    }
}

/// Returns the tensors of a file.
fn tensors(file: &ModelFile) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let own = |tensor: lowbit_models::checkpoint::Tensor<'_>| {
        let parts = (tensor.dtype, tensor.shape.to_vec(), tensor.bytes.to_vec());
        (tensor.name.to_owned(), parts)
    };
    file.tensors().map(own).collect()
}

#[test]
fn damaged_files_are_refused_by_name() {
    let Some(tiny) = Tiny::new("bert") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("statistics");
    tiny.record(0..2, &[], &path).unwrap();
    let bytes = read(&path);
    let opened = |bytes: Vec<u8>| {
        StatisticsFile::from_bytes(bytes).and_then(|file| file.check_sums()).map_err(|e| e.why)
    };
    opened(bytes.clone()).unwrap();
    for length in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(opened(bytes[..length].to_vec()).is_err(), "{length}");
    }
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for at in (header..bytes.len()).step_by(bytes.len() / 50 + 1).chain([bytes.len() - 1]) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x40;
        let error = opened(bytes).unwrap_err();
        assert!(matches!(error, BadStatistics::Damaged { .. }), "{at}: {error}");
    }
    let file = ModelFile::open(&path).unwrap();
    let (good, metadata) = (tensors(&file), file.metadata().clone());
    let name = good.keys().find_map(|name| name.strip_suffix(".gram")).unwrap().to_owned();
    let rewritten = |tensors: &BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>, about: &str| {
        let contents: Vec<_> = tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                (name.as_str(), Content::Plain { dtype: *dtype, shape, bytes })
            })
            .collect();
        let path = folder.path().join("rewritten");
        let metadata = match about {
            "" => BTreeMap::new(),
            about => [("lowbit.statistics".to_owned(), about.to_owned())].into(),
        };
        write_model(path.as_path(), &contents, &metadata).unwrap();
        opened(read(&path)).unwrap_err().to_string()
    };
    let about = metadata["lowbit.statistics"].as_str();
    let mut without = good.clone();
    without.remove(&format!("{name}.abs"));
    let mut more = good.clone();
    more.insert("more".into(), (Dtype::U8, vec![1], vec![0]));
    let mut other = good.clone();
    let (dtype, shape, _) = other.get_mut(&format!("{name}.gram")).unwrap();
    (*dtype, *shape) = (Dtype::I64, shape.clone());
    let columns = |columns: &str| {
        let at = about.find(&format!("\"{name}\":{{\"columns\":")).unwrap();
        let start = at + about[at..].find("columns\":").unwrap() + "columns\":".len();
        let end = start + about[start..].find(',').unwrap();
        format!("{}{columns}{}", &about[..start], &about[end..])
    };
    let replaced = |from: &str, to: &str| {
        assert!(about.contains(from), "{about}");
        about.replacen(from, to, 1)
    };
    for (tensors, about, says) in [
        (&good, String::new(), "no statistics of inputs"),
        (&good, "{}".to_owned(), "missing field `version`"),
        (&good, replaced("\"version\":1", "\"version\":2"), "its version is 2"),
        (&good, replaced("\"version\":1", "\"version\":1,\"more\":0"), "unknown field `more`"),
        (&good, replaced("\"samples\":2", "\"samples\":0"), "without samples"),
        (&good, replaced("\"tokens\":20", "\"tokens\":21"), "damaged"),
        (&good, columns("0"), "has 0 columns"),
        (&good, columns("18446744073709551615"), "has 18446744073709551615 columns"),
        (&good, columns("1073741824"), "must be U64 [576460752840294400, 2]"),
        (&good, columns("3"), "must be U64 [6, 2]"),
        (&without, about.to_owned(), "and is not there"),
        (&more, about.to_owned(), "`more` belongs to no input"),
        (&other, about.to_owned(), "and is I64"),
    ] {
        let error = rewritten(tensors, &about);
        assert!(error.contains(says), "{error}\nshould say\n{says}");
    }
    // Another model, or the same one with another configuration.
    let file = StatisticsFile::open(&path).unwrap();
    let error = file.check_model(model_checksum(&open("electra")).unwrap()).unwrap_err();
    assert!(error.to_string().contains("another model"), "{error}");
    assert!(file.check_model(tiny.checksum).is_ok());
}
