//! Compares what is read of quantized checkpoints with what the packages that define their formats say.
//! `scripts/test-formats.sh` makes the files with those packages.

use half::{bf16, f16};
use lowbit::compress::dequantize;
use lowbit::format::{Quantization, StaticScale};
use lowbit::reference::dequantize_f64;
use lowbit_models::checkpoint::hf::{self, HfFormat};
use lowbit_models::checkpoint::source::{Data, Model, ModelSource, open};
use lowbit_models::checkpoint::{Dtype, ModelFile};
use serde_json::json;
use std::path::Path;

#[test]
#[ignore = "scripts/test-formats.sh makes the files"]
fn values_are_those_of_the_packages() {
    let folder = std::env::var_os("LOWBIT_FORMATS").expect("LOWBIT_FORMATS names the folder");
    let mut cases: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 86, "{} cases", cases.len());
    let mut failed = Vec::new();
    for case in &cases {
        match check(case) {
            Ok(formats) => println!("{}: {formats}", case.file_name().unwrap().display()),
            Err(why) => failed.push(format!("{}: {why}", case.display())),
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

/// Writes every checkpoint of compressed-tensors again. Its tensors must be those of the package, bit for bit;
/// `scripts/formats/read.py` then has the package read them.
#[test]
#[ignore = "scripts/test-formats.sh makes the files"]
fn what_is_written_is_what_the_package_writes() {
    let folder = std::env::var_os("LOWBIT_FORMATS").expect("LOWBIT_FORMATS names the folder");
    let written = std::env::var_os("LOWBIT_WRITTEN").expect("LOWBIT_WRITTEN names another");
    for (prefix, format) in [
        ("ct-pack-", HfFormat::PackQuantized),
        ("ct-int-", HfFormat::IntQuantized),
        ("ct-sparse-", HfFormat::Sparse24Bitmask),
    ] {
        let mut count = 0;
        for case in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = case.file_name().unwrap().to_string_lossy().into_owned();
            if !name.starts_with(prefix) {
                continue;
            }
            count += 1;
            let to = Path::new(&written).join(&name);
            std::fs::create_dir_all(&to).unwrap();
            let path = to.join("model.safetensors");
            hf::write(&open(&case).unwrap(), format, path.as_path(), &mut |_| ()).unwrap();
            let [theirs, ours] = [&case, &to]
                .map(|folder| ModelFile::open(folder.join("model.safetensors")).unwrap());
            let names = |file: &ModelFile| {
                file.tensors().map(|tensor| tensor.name.to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(names(&ours), names(&theirs), "{name}");
            for tensor in ours.tensors() {
                let other = theirs.tensor(tensor.name).unwrap();
                assert_eq!(tensor.shape, other.shape, "{name}, {}", tensor.name);
                // bf16 has become f32.
                if other.dtype == Dtype::BF16 {
                    assert_eq!(tensor.to_f32().unwrap(), other.to_f32().unwrap(), "{name}");
                } else {
                    assert_eq!(tensor, other, "{name}");
                }
            }
        }
        assert!(count > 1, "{prefix}: {count}");
    }
}

/// Checks one checkpoint. Returns the formats.
fn check(case: &Path) -> Result<String, String> {
    let model = open(case).map_err(|error| error.to_string())?;
    let expected = ModelFile::open(case.join("expected.safetensors")).unwrap();
    let json = std::fs::read(case.join("expected.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let roundings = json["roundings"].as_u64().unwrap();
    let Model::Quantized(model) = model else { return Err("it is not quantized".to_owned()) };
    if !model.left_out().is_empty() {
        return Err(format!("{:?}", model.left_out()));
    }
    let mut formats = Vec::new();
    for tensor in expected.tensors() {
        let weights = model.read_weight(tensor.name).map_err(|error| error.to_string())?;
        let values = tensor.to_f32().unwrap();
        if tensor.shape != [weights.n(), weights.k()] {
            return Err(format!("{:?} is not {}×{}", tensor.shape, weights.n(), weights.k()));
        }
        let (ours, exact) = (dequantize(&weights), dequantize_f64(&weights).unwrap());
        for (at, &theirs) in values.iter().enumerate() {
            let same = match tensor.dtype {
                Dtype::F16 => f16::from_f32(ours[at]).to_f32() == theirs,
                Dtype::BF16 => bf16::from_f32(ours[at]).to_f32() == theirs,
                _ if roundings == 0 => ours[at] == theirs,
                // Each rounding is off by at most half a unit in the last place, which is 2⁻²⁴ of the value.
                _ => {
                    let bound =
                        exact[at].abs() * ((1.0 + 0.5f64.powi(24)).powi(roundings as i32) - 1.0);
                    (f64::from(theirs) - exact[at]).abs() <= bound
                }
            };
            if !same {
                let (row, column) = (at / weights.k(), at % weights.k());
                return Err(format!(
                    "{} of {}: row {row}, column {column} is {} and should be {theirs}",
                    tensor.name,
                    weights.format(),
                    ours[at]
                ));
            }
        }
        formats.push(weights.format().to_string());
        let inputs = model.inputs().get(tensor.name).map(|inputs| match inputs {
            Quantization::Dynamic(format) => json!([format.to_string()]),
            Quantization::Static(StaticScale { scale, zero_point }) => {
                json!([inputs.format().to_string(), scale, zero_point])
            }
        });
        if inputs.as_ref() != json["inputs"].get(tensor.name) {
            return Err(format!("inputs of {}: {inputs:?}", tensor.name));
        }
    }
    if model.weights().len() != formats.len() {
        return Err(format!("{} weights", model.weights().len()));
    }
    let plain: Vec<&str> = model.plain().map(|tensor| tensor.name).collect();
    if plain != ["norm.weight"] {
        return Err(format!("plain tensors: {plain:?}"));
    }
    match model.read("norm.weight") {
        Ok(Data::Plain(bytes)) if bytes.len() == 32 => Ok(formats.join(", ")),
        other => Err(format!("norm.weight: {other:?}")),
    }
}
