//! Matrices that are written are read back bit for bit.

use super::super::{HfFormat, HfModel, write};
use crate::checkpoint::source::{
    Data, Family, Item, ItemKind, Model, ModelSource, SourceError, open,
};
use crate::checkpoint::{Content, Dtype, LayerActivations, ModelFile, Output, write_model};
use lowbit::compress::dequantize;
use lowbit::format::{
    PackedWeights, Parts, Quantization, StaticScale, WeightFormat, random_weights,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

const FORMATS: [HfFormat; 3] =
    [HfFormat::PackQuantized, HfFormat::IntQuantized, HfFormat::Sparse24Bitmask];

/// Writes a model of lowbit with these weights in `folder`, and a plain tensor.
fn model(folder: &Path, weights: &[(&str, &PackedWeights)]) -> ModelFile {
    let path = folder.join("model.safetensors");
    let shapes: Vec<[usize; 2]> = weights.iter().map(|(_, w)| [w.n(), w.k()]).collect();
    let mut tensors: Vec<_> = weights
        .iter()
        .zip(&shapes)
        .map(|((name, weights), shape)| (*name, Content::Compressed { shape, weights }))
        .collect();
    tensors
        .push(("norm.weight", Content::Plain { dtype: Dtype::U8, shape: &[3], bytes: &[1, 2, 3] }));
    let metadata = [("note".to_owned(), "kept".to_owned())].into();
    write_model(path.as_path(), &tensors, &metadata).unwrap();
    std::fs::write(folder.join("config.json"), "{\"model_type\": \"test\"}").unwrap();
    ModelFile::open(path).unwrap()
}

/// Checks that two matrices are equal. A file does not say whether lowbit had zero points of 4 bits in a byte
/// each; nothing else may differ.
fn same(read: &PackedWeights, weights: &PackedWeights, to: HfFormat) {
    let what = format!("{} in {}", weights.format(), to.name());
    let zeros = |weights: &PackedWeights| {
        let groups = weights.geometry().groups;
        let all = (0..weights.n()).flat_map(|row| (0..groups).map(move |group| (row, group)));
        all.map(|(row, group)| weights.zero(row, group)).collect::<Vec<_>>()
    };
    assert_eq!(zeros(read), zeros(weights), "{what}");
    assert_eq!(read.format().has_zeros(), weights.format().has_zeros());
    assert_eq!(read.scales(), weights.scales(), "{what}");
    if weights.format().is_permuted() {
        // Only the group of each column is stored, so that columns of a group are in order again.
        assert_eq!(dequantize(read), dequantize(weights), "{what}");
        return;
    }
    let width = weights.format().with_offset(read.format().offset());
    assert_eq!(read.format(), width, "{what}");
    if weights.format().code_type().bits() > 4 {
        assert_eq!(read.format(), weights.format());
    }
    let parts = |weights: &PackedWeights| Parts { zeros: Vec::new(), ..weights.parts().clone() };
    assert_eq!(parts(read), parts(weights), "{what}");
}

fn reopened(path: &Path) -> Box<HfModel> {
    match open(path).unwrap() {
        Model::Quantized(model) => model,
        other => panic!("{other:?}"),
    }
}

/// A model in memory: weights, and how their X is quantized.
#[derive(Debug)]
struct Memory(BTreeMap<String, PackedWeights>, BTreeMap<String, Quantization>);

impl ModelSource for Memory {
    fn family(&self) -> Family {
        Family::Safetensors
    }

    fn architecture(&self) -> Option<&str> {
        None
    }

    fn config(&self) -> &Value {
        &Value::Null
    }

    fn files(&self) -> Vec<String> {
        Vec::new()
    }

    fn file_bytes(&self) -> usize {
        0
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        let item = |(name, weights): (&String, &PackedWeights)| Item {
            name: name.clone(),
            shape: vec![weights.n(), weights.k()],
            stored: String::new(),
            bytes: 0,
            kind: ItemKind::Compressed(weights.format()),
            role: None,
        };
        Ok(self.0.iter().map(item).collect())
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        Ok(Data::Compressed(self.0[name].clone()))
    }

    fn activations(&self, name: &str) -> Result<Option<LayerActivations>, SourceError> {
        let of = |quantization: &Quantization| LayerActivations {
            quantization: *quantization,
            factors: None,
        };
        Ok(self.1.get(name).map(of))
    }
}

/// Every format that lowbit has is written and read back, or refused by name.
#[test]
fn all_formats_come_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    for to in FORMATS {
        let out = folder.path().join(to.name());
        std::fs::create_dir(&out).unwrap();
        let path = out.join("model.safetensors");
        let (mut accepted, mut refused) = (BTreeMap::new(), 0);
        for (at, format) in lowbit::format::sample_formats().into_iter().enumerate() {
            // 21 rows fill no word of zero points, 92 columns no word of codes; groups of 20 and 64
            // columns divide 320.
            for k in [92, 320] {
                let weights = random_weights(format, 21, k, at as u32, true).unwrap();
                let name = format!("m{at}_{k}.weight");
                if to.refuses(&format, k).is_none() {
                    accepted.insert(name, weights);
                    continue;
                }
                let one = Memory([(name.clone(), weights)].into(), BTreeMap::new());
                let error = write(&one, to, path.as_path(), &mut |_| ()).unwrap_err().to_string();
                assert!(error.contains(&format!("`{name}` is {format}: {}", to.name())), "{error}");
                refused += 1;
            }
        }
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
        assert!(accepted.len() >= 3 && refused > 100, "{}, {refused}", accepted.len());
        let memory = Memory(accepted, BTreeMap::new());
        write(&memory, to, path.as_path(), &mut |_| ()).unwrap();
        let back = reopened(&out);
        assert_eq!(back.left_out(), []);
        assert_eq!(back.weights().len(), memory.0.len());
        for (name, weights) in &memory.0 {
            same(&back.read_weight(name).unwrap(), weights, to);
        }
    }
}

/// Weights of several formats are in several groups, and shards have one configuration.
#[test]
fn several_formats_and_shards() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| {
        random_weights(name.parse::<WeightFormat>().unwrap(), 8, 64, 3, false).unwrap()
    };
    let weights = [of("int4-g32-asym4"), of("int8-channel"), of("int3-g16-f16s")];
    let names = ["a.weight", "b.weight", "c.weight"];
    let from = model(folder.path(), &names.into_iter().zip(&weights).collect::<Vec<_>>());
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let path = Output::from(out.join("model.safetensors")).in_shards(NonZeroU64::new(300).unwrap());
    let warnings = write(&from, HfFormat::PackQuantized, path, &mut |_| ()).unwrap();
    assert_eq!(warnings, [] as [String; 0]);
    let back = reopened(&out);
    assert!(back.files().len() > 1);
    assert_eq!(back.file().tensor("norm.weight").unwrap().bytes, [1, 2, 3]);
    assert_eq!(back.file().metadata()["note"], "kept");
    assert_eq!(back.config()["model_type"], "test");
    for (name, weights) in names.into_iter().zip(&weights) {
        assert_eq!(back.read_weight(name).unwrap(), *weights);
    }
    let groups = back.config()["quantization_config"]["config_groups"].as_object().unwrap();
    let targets: BTreeMap<u64, &Value> = groups
        .values()
        .map(|g| (g["weights"]["num_bits"].as_u64().unwrap(), &g["targets"][0]))
        .collect();
    let want = [(3, "c"), (4, "a"), (8, "b")];
    assert!(
        targets.into_iter().eq(want
            .iter()
            .map(|(bits, name)| (*bits, Value::from(*name)))
            .collect::<Vec<_>>()
            .iter()
            .map(|(b, v)| (*b, v)))
    );
}

/// The configuration says how X is quantized, in the words of compressed-tensors, and fixed scales are tensors
/// of the module.
#[test]
fn quantization_of_inputs_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let dynamic = |name: &str| Quantization::Dynamic(name.parse().unwrap());
    let fixed = |scale, zero_point| Quantization::Static(StaticScale { scale, zero_point });
    let inputs = [
        ("a", dynamic("int8-token"), json!(["token", null, true, true])),
        ("b", dynamic("int8-tensor-asym"), json!(["tensor", null, false, true])),
        ("c", dynamic("int8-g32"), json!(["group", 32, true, true])),
        ("d", fixed(0.5, 0), json!(["tensor", null, true, false])),
        ("e", fixed(0.25, -3), json!(["tensor", null, false, false])),
    ];
    for to in [HfFormat::PackQuantized, HfFormat::IntQuantized] {
        let weights = random_weights("int8-channel".parse().unwrap(), 4, 64, 3, false).unwrap();
        let name = |module: &str| format!("{module}.weight");
        let mut all: BTreeMap<_, _> =
            inputs.iter().map(|(module, ..)| (name(module), weights.clone())).collect();
        all.insert("f.weight".to_owned(), weights.clone());
        let memory = Memory(all, inputs.iter().map(|(m, how, _)| (name(m), *how)).collect());
        let out = folder.path().join(to.name());
        std::fs::create_dir(&out).unwrap();
        let warnings = write(&memory, to, out.join("model.safetensors"), &mut |_| ()).unwrap();
        assert!(matches!(&warnings[..], [one] if one.contains("no config.json")), "{warnings:?}");
        let back = reopened(&out);
        let groups = back.config()["quantization_config"]["config_groups"].as_object().unwrap();
        let of = |module: &str| {
            let group = groups.values().find(|group| group["targets"] == json!([module]));
            group.unwrap()["input_activations"].clone()
        };
        for (module, _, want) in &inputs {
            let have = of(module);
            assert_eq!((&have["num_bits"], &have["type"]), (&json!(8), &json!("int")));
            let words = ["strategy", "group_size", "symmetric", "dynamic"].map(|key| &have[key]);
            assert_eq!(json!(words), *want, "{module}");
        }
        assert_eq!(of("f"), Value::Null);
        let bytes = |name: &str| back.file().tensor(name).map(|tensor| tensor.bytes.to_vec());
        assert_eq!(bytes("d.input_scale"), Some(0.5f32.to_le_bytes().to_vec()));
        assert_eq!(bytes("d.input_zero_point"), None);
        assert_eq!(bytes("e.input_scale"), Some(0.25f32.to_le_bytes().to_vec()));
        assert_eq!(bytes("e.input_zero_point"), Some(vec![0xfd]));
        assert_eq!(bytes("a.input_scale"), None);
        assert_eq!(back.read_weight("e.weight").unwrap(), weights);
        // All that is written is read again, and no tensor of it is left over.
        for (module, how, _) in &inputs {
            let read = back.activations(&name(module)).unwrap().unwrap();
            assert_eq!((read.quantization, read.factors), (*how, None), "{module}");
        }
        assert_eq!(back.activations("f.weight").unwrap(), None);
        assert_eq!(back.plain().count(), 0);
        assert_eq!(back.warnings(), [""; 0]);
    }
    // Floats have no group in the configuration, in which it could stand.
    let weights = random_weights("2:4+f16".parse().unwrap(), 4, 64, 3, false).unwrap();
    let memory = Memory(
        [("x.weight".to_owned(), weights)].into(),
        [("x.weight".to_owned(), fixed(0.5, 0))].into(),
    );
    let to = HfFormat::Sparse24Bitmask;
    let out = folder.path().join(to.name());
    std::fs::create_dir(&out).unwrap();
    let warnings = write(&memory, to, out.join("model.safetensors"), &mut |_| ()).unwrap();
    assert!(matches!(&warnings[..], [one, _] if one.contains("`x.weight`")), "{warnings:?}");
}

#[test]
fn what_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_weights("int8-channel".parse().unwrap(), 4, 8, 3, false).unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let path = out.join("model.safetensors");
    let refuse = |name: &str, says: &str| {
        let from = model(folder.path(), &[(name, &weights)]);
        let error = write(&from, HfFormat::IntQuantized, path.as_path(), &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    };
    refuse("l.matrix", "`l.matrix` does not end in `.weight`");
    // The module `norm` has the plain tensor `norm.weight` already, so the name is taken.
    std::fs::write(out.join("config.json"), "{}").unwrap();
    refuse("l.weight", "config.json` exists");
}

/// Floats with zeros in any pattern come back bit for bit, −0 and subnormals too; those that a mask does not make smaller
/// stay dense.
#[test]
fn zeros_are_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let to = HfFormat::SparseBitmask;
    let mut all = BTreeMap::new();
    for (at, (name, every)) in
        [("f16", 2), ("f32", 4), ("f16", 8), ("f32", 1)].into_iter().enumerate()
    {
        let format: WeightFormat = name.parse().unwrap();
        let dense = random_weights(format, 6, 93, at as u32, true).unwrap();
        let g = *dense.geometry();
        let mut parts = dense.into_parts();
        let bits = format.code_type().bits() as usize;
        for (row, column) in (0..6).flat_map(|row| (0..93).map(move |column| (row, column))) {
            let place = row * g.code_words * 32 + column * bits;
            let mask = (u32::MAX >> (32 - bits)) << (place % 32);
            if !(row * 93 + column).is_multiple_of(every) {
                parts.codes[place / 32] &= !mask;
            }
            if (row + column).is_multiple_of(31) {
                // −0, and then the smallest subnormal.
                let code = if row % 2 == 0 { 1u32 << (bits - 1) } else { 1 };
                parts.codes[place / 32] = parts.codes[place / 32] & !mask | code << (place % 32);
            }
        }
        all.insert(format!("m{at}.weight"), PackedWeights::new(format, 6, 93, parts).unwrap());
    }
    let memory = Memory(all, BTreeMap::new());
    write(&memory, to, folder.path().join("model.safetensors"), &mut |_| ()).unwrap();
    let back = reopened(folder.path());
    assert_eq!((back.left_out(), back.weights().len()), (&[][..], 3));
    for name in ["m0.weight", "m1.weight", "m2.weight"] {
        assert_eq!(back.read_weight(name).unwrap(), memory.0[name]);
        assert_eq!(
            back.weights()[name].stored,
            format!(
                "sparse-bitmask, {}",
                back.file().tensor(&name.replace("weight", "compressed")).unwrap().dtype
            )
        );
    }
    let plain = back.file().tensor("m3.weight").unwrap();
    assert_eq!(plain.shape, [6, 93]);
    let values: Vec<u8> =
        memory.0["m3.weight"].codes().iter().flat_map(|code| code.to_le_bytes()).collect();
    assert_eq!(plain.bytes, values);
    let config = &back.config()["quantization_config"];
    assert_eq!(config["sparsity_config"]["targets"], json!(["m0", "m1", "m2"]));
    assert_eq!(config["sparsity_config"]["ignore"], json!(["m3"]));
    assert_eq!(config["sparsity_config"]["sparsity_structure"], "unstructured");
    // 8 of 16 bits, a bit for the mask, and 64 for each row of 93 columns.
    let bytes = |own: &str| back.file().tensor(&format!("m0.{own}")).unwrap().bytes.len();
    let own: usize = ["compressed", "bitmask", "row_offsets", "shape"].map(bytes).iter().sum();
    assert!(own < 2 * 6 * 93 * 3 / 4, "{own}");
    // A model without zeros gains nothing.
    let dense =
        Memory([("m3.weight".into(), memory.0["m3.weight"].clone())].into(), BTreeMap::new());
    let path = folder.path().join("dense.safetensors");
    let error = write(&dense, to, path, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("no weight has so many zeros"), "{error}");
    for (name, says) in
        [("int8-channel", "it holds f32 and f16"), ("2:4+f16", "`sparse-24-bitmask` holds 2:4")]
    {
        let weights = random_weights(name.parse().unwrap(), 4, 32, 0, true).unwrap();
        let memory = Memory([("x.weight".into(), weights)].into(), BTreeMap::new());
        let path = folder.path().join("other.safetensors");
        let error = write(&memory, to, path, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
