//! What fuzzing starts from: real files cut down, files that the library writes, and noise for the
//! targets that choose by bytes. The same bytes every time.

use crate::model_seeds;
use crate::targets::{self, pipelines};
use half::f16;
use lowbit::compress::calibrate::{Calibration, Method, Observer, Statistics};
use lowbit::compress::quantize;
use lowbit::conformance::{Report, page};
use lowbit::format::{ActivationFormat, Quantization, StaticScale, WeightFormat};
use lowbit::ops::MatmulSpec;
use lowbit::ops::matmul::{Problem, Schedule, Tuning, select};
use lowbit_models::checkpoint::{
    CompressedInfo, Content, Dtype, Entry, LayerActivations, LayerRanges, ModelFile, ModelWriter,
    RangeTarget, Ranges, save_tuning, write_model,
};
use std::collections::BTreeMap;
use std::path::Path;

/// Seeds of each target, by its name.
pub type Seeds = BTreeMap<&'static str, Vec<Vec<u8>>>;

/// All seeds; `root` is the folder of the crate, whose fixtures and models are among them.
pub fn all(root: &Path) -> Seeds {
    let models = models(root);
    let headers = models.iter().map(|file| {
        let mut seed = file[8..].to_vec();
        let length = file[..8].try_into().map(u64::from_le_bytes).unwrap_or(0) as usize;
        seed.insert(length, 0xff);
        seed
    });
    let mut seeds: Seeds = BTreeMap::new();
    seeds.insert("header", headers.collect());
    seeds.insert("model", models);
    seeds.insert("ranges", ranges());
    seeds.insert("report", reports(root));
    seeds.insert("tuning", tunings());
    seeds.insert("onnx", fixtures(&root.join("crates/lowbit-models/tests/fixtures/onnx"), "onnx"));
    seeds.insert("gguf", gguf_files(root));
    seeds.insert("pipelines", pipeline_files());
    seeds.insert("names", names());
    seeds.insert("architecture", model_seeds::architectures(root));
    seeds.insert("text", model_seeds::texts());
    seeds.insert("hf", model_seeds::quantized());
    seeds.insert("statistics", model_seeds::statistics());
    for target in ["index", "graph", "weights", "specs", "plans", "ops"] {
        seeds.insert(target, noise(target.len() as u64));
    }
    // Graphs as files, too: the two targets read the same.
    let graphs = seeds["graph"].iter().take(16).map(|seed| targets::graph::model(seed));
    let graphs: Vec<_> = graphs.collect();
    seeds.entry("onnx").or_default().extend(graphs);
    seeds
}

/// Writes all seeds below a folder, those of a target under its name.
pub fn write(root: &Path, folder: &Path) -> std::io::Result<()> {
    for (target, seeds) in all(root) {
        std::fs::create_dir_all(folder.join(target))?;
        for (index, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(target).join(format!("seed-{index}")), seed)?;
        }
    }
    Ok(())
}

fn fixtures(folder: &Path, extension: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == extension));
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

/// The fixture, and small files that fuzzing reaches the end of.
pub fn gguf_files(root: &Path) -> Vec<Vec<u8>> {
    let mut files = fixtures(&root.join("crates/lowbit-models/tests/fixtures/gguf"), "gguf");
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    // A type and the bytes of one block.
    for (kind, bytes) in
        [(0u32, 128usize), (1, 64), (2, 18), (39, 17), (12, 144), (14, 210), (99, 9)]
    {
        let columns = if kind < 40 && kind != 12 && kind != 14 { 32u64 } else { 256 };
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend([1u64, 2].map(u64::to_le_bytes).concat());
        file.extend([text("a"), 4u32.to_le_bytes().to_vec(), vec![1, 0, 0, 0]].concat());
        file.extend([text("b"), vec![9, 0, 0, 0, 0, 0, 0, 0], 2u64.to_le_bytes().into()].concat());
        file.extend([7, 8]);
        file.extend([text("w"), 2u32.to_le_bytes().to_vec()].concat());
        file.extend([columns, 1].map(u64::to_le_bytes).concat());
        file.extend([&kind.to_le_bytes()[..], &[0; 8]].concat());
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend((0..bytes).map(|at| (at * 5) as u8));
        files.push(file);
    }
    files
}

fn wave(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.7).sin() * 3.0).collect()
}

/// Small compressed files of several formats, and the small tensors of a real model.
fn models(root: &Path) -> Vec<Vec<u8>> {
    let path = pipelines::scratch("seed", b"");
    let metadata: BTreeMap<String, String> = [("format".into(), "pt".into())].into();
    let mut files = Vec::new();
    for name in ["int8-channel", "int4-g8-asym", "2:4+int4-g5-asym-f16s", "f16", "2:4+int8-tensor"]
    {
        let Ok(format) = name.parse::<WeightFormat>() else { continue };
        let weights = quantize(&wave(3 * 9), 3, 9, &format).expect("weights that are finite");
        let bytes: Vec<u8> =
            wave(4).into_iter().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect();
        let tensors = [
            ("w", Content::Compressed { shape: &[3, 9], weights: &weights }),
            ("bias", Content::Plain { dtype: Dtype::F16, shape: &[4], bytes: &bytes }),
        ];
        write_model(&path, &tensors, &metadata).expect("a small file");
        files.push(std::fs::read(&path).expect("a small file"));
        files.push(with_activations(&path, format, &weights));
    }
    // What a model has of biases and norms, under their own names.
    if let Ok(model) = ModelFile::open(root.join("data/minilm/model.safetensors")) {
        let small: Vec<_> = model.tensors().filter(|t| t.bytes.len() <= 1 << 11).collect();
        for count in [2, 12] {
            let tensors: Vec<(&str, Content<'_>)> = small
                .iter()
                .take(count)
                .map(|t| {
                    (t.name, Content::Plain { dtype: t.dtype, shape: t.shape, bytes: t.bytes })
                })
                .collect();
            write_model(&path, &tensors, model.metadata()).expect("a small file");
            files.push(std::fs::read(&path).expect("a small file"));
        }
    }
    files
}

fn with_activations(
    path: &Path,
    format: WeightFormat,
    weights: &lowbit::format::PackedWeights,
) -> Vec<u8> {
    let entry = Entry::Compressed(CompressedInfo { format, shape: vec![3, 9] });
    let fixed = Quantization::Static(StaticScale { scale: 0.02, zero_point: 3 });
    let token = Quantization::Dynamic("int8-token".parse().expect("a name"));
    let layer = |quantization, factors| LayerActivations { quantization, factors };
    let layers: BTreeMap<String, LayerActivations> =
        [("a".into(), layer(fixed, None)), ("b".into(), layer(token, Some(vec![1.5; 9])))].into();
    let entries: BTreeMap<String, Entry> =
        [("a".into(), entry.clone()), ("b".into(), entry)].into();
    let none = BTreeMap::new();
    let writer = ModelWriter::create_with_activations(path, entries, layers, &none);
    let mut writer = writer.expect("a small file");
    for name in ["a", "b"] {
        writer.write_compressed(name, weights).expect("as declared");
    }
    writer.finish().expect("a small file");
    std::fs::read(path).expect("a small file")
}

fn ranges() -> Vec<Vec<u8>> {
    let observe = |observer: Observer| {
        let mut statistics = Statistics::new(observer).expect("an observer");
        for _ in 0..2 {
            statistics.observe(&wave(12)).expect("rows of three");
        }
        statistics
    };
    let mut ranges = Ranges::default();
    let mut seeds = vec![ranges.to_json()];
    ranges.insert(observe(Observer::tensor("a.query", 3).with_bins(16)));
    seeds.push(ranges.to_json());
    ranges.insert_channels(observe(Observer::channels("a.query", 3).with_bins(0)));
    let format: ActivationFormat = "int8-tensor-asym".parse().expect("a name");
    ranges.target = Some(RangeTarget { method: Method::MinMax, format });
    seeds.push(ranges.to_json());
    let mut bad = observe(Observer::tensor("b", 3).with_bins(4).with_momentum(0.5));
    let _ = bad.observe(&[1.0, f32::NAN, 2.0]);
    ranges.insert(bad);
    if let Ok(LayerRanges::Statistics(statistics)) = ranges.layers.get("a.query").ok_or(()) {
        let made: Calibration =
            statistics.calibrate(Method::MinMax, format).expect("values that are finite");
        ranges.layers.insert("c".into(), LayerRanges::Calibration(made));
    }
    seeds.push(ranges.to_json());
    seeds.into_iter().map(|text| text.expect("a small text")).collect()
}

/// A report of a real adapter, cut down, as JSON and as a page.
fn reports(root: &Path) -> Vec<Vec<u8>> {
    let json = std::fs::read(root.join("crates/lowbit-models/tests/fixtures/report.json"));
    let mut seeds: Vec<Vec<u8>> = json.into_iter().collect();
    let read = seeds.iter().filter_map(|seed| Report::read(seed).ok());
    let pages = read.filter_map(|report| Some(page(&report).ok()?.into_bytes()));
    let pages: Vec<_> = pages.collect();
    seeds.extend(pages);
    seeds
}

fn tunings() -> Vec<Vec<u8>> {
    let path = pipelines::scratch("seed", b"");
    let caps = targets::tuning::caps();
    let mut tuning = Tuning::new(targets::tuning::key(), Vec::new());
    let mut seeds = Vec::new();
    for (name, m) in [("int8-channel", 1), ("int4-g64-asym", 8), ("2:4+f16", 128)] {
        let Ok(format) = name.parse::<WeightFormat>() else { continue };
        let spec = MatmulSpec::new(m, 384, 1536, format);
        tuning.entries.push((Problem::new(&spec, m), select(&spec, &caps, m)));
        save_tuning(&path, &tuning).expect("a small file");
        seeds.push(std::fs::read(&path).expect("a small file"));
    }
    seeds
}

fn pipeline_files() -> Vec<Vec<u8>> {
    [&b""[..], b"code", &[7; 300]].iter().map(|data| pipelines::written(data)).collect()
}

fn names() -> Vec<Vec<u8>> {
    let fixed = [
        "int4-g64-asym",
        "2:4+int8-channel-f16s",
        "f16",
        "int16-tensor",
        "int8-g128",
        "int8-token",
        "int8-tensor-asym",
        "minmax",
        "percentile:99.99",
        "mse",
        "entropy",
        "average",
        "f32",
        "rows_m4_n2.int8.row.asym.f16s.xf16.yf16.bias.relu.panels.sub8.u64.half.tail",
        "gemv_m1_l32.int4_24.x1.yf16.pair.sum",
        "int_tiled_32x64.int8_24.asym.xint8asym.wgroups.xgroup.pieces.fdot.yint8asym.texture",
    ];
    let schedules = Schedule::all(4096).into_iter().chain(Schedule::integer(4096));
    let schedules = schedules.chain(Schedule::experimental()).map(|schedule| schedule.to_string());
    let fixed = fixed.iter().map(|name| (*name).to_owned());
    fixed.chain(schedules).map(String::into_bytes).collect()
}

/// SplitMix64.
fn noise(mut state: u64) -> Vec<Vec<u8>> {
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..64).map(|i| (0..8 + 4 * i).flat_map(|_| next().to_le_bytes()).collect()).collect()
}
