//! Checkpoints whose tensors have been changed: an error or a weight, and never a panic.

use super::super::HfModel;
use super::integers::{GPTQ, Packed, awq};
use super::others::{four_bits, fp4, fp8, hqq, masked, sparse};
use super::{Checkpoint, random};
use crate::checkpoint::Dtype;
use lowbit::format::CodeType;
use serde_json::{Value, json};

fn all() -> Vec<Checkpoint> {
    let packed = Packed { bits: 3, asymmetric: true, crosses: true, n: 5, k: 64, size: 16 };
    let map = CodeType::Nf4.table().unwrap();
    vec![
        GPTQ.checkpoint(json!({ "quant_method": "gptq" })),
        awq(),
        packed.checkpoint(),
        fp8("l.weight_scale_inv", &[2, 2]),
        fp4(32),
        sparse(Dtype::I8).f32s("l.weight_scale", &[4, 1], &[1.0; 4]),
        masked(Dtype::F16, "l"),
        four_bits("nf4", map, 4, 32),
        hqq(3, "3bit_32"),
        hqq(4, "4bit_u8"),
    ]
}

/// Opens a checkpoint and reads whatever it says that it has.
fn read(checkpoint: &Checkpoint) -> usize {
    let (file, _folder) = checkpoint.file();
    let Ok(model) = HfModel::find(file).unwrap() else { return 0 };
    for name in model.weights().keys() {
        // A weight that was found may be damaged only where codes can be.
        let weights = model.read_weight(name).unwrap();
        assert_eq!(
            model.weights()[name].shape.iter().product::<usize>(),
            weights.n() * weights.k()
        );
    }
    model.weights().len()
}

#[test]
fn tensors_of_other_shapes_and_types() {
    for checkpoint in all() {
        assert_eq!(read(&checkpoint), 1, "{:?}", checkpoint.tensors.keys());
        for (name, (dtype, shape, bytes)) in &checkpoint.tensors {
            read(&checkpoint.clone().without(name));
            let size = dtype.bitsize() / 8;
            let count = bytes.len() / size;
            let mut shapes = vec![
                vec![],
                vec![0],
                vec![0, 0],
                vec![1 << 40, 0],
                vec![0, 1 << 40],
                vec![1, 1, 1],
            ];
            for change in [0, 1] {
                for (by, times) in [(1, 1), (0, 2), (0, 0)] {
                    let mut changed = shape.clone();
                    if let Some(size) = changed.get_mut(change) {
                        *size = *size * times + by;
                        shapes.push(changed);
                    }
                }
            }
            shapes.push(vec![count, 1]);
            shapes.push(vec![1, count]);
            shapes.push(shape.iter().rev().copied().collect());
            for shape in shapes {
                let need = shape.iter().product::<usize>() * size;
                let bytes: Vec<u8> = bytes.iter().copied().cycle().take(need).collect();
                read(&checkpoint.clone().bytes(name, *dtype, &shape, &bytes));
            }
            for other in [
                Dtype::F32,
                Dtype::F16,
                Dtype::U8,
                Dtype::I8,
                Dtype::I64,
                Dtype::F8_E4M3,
                Dtype::BOOL,
            ] {
                let need = count * other.bitsize() / 8;
                let bytes: Vec<u8> = bytes.iter().copied().cycle().take(need).collect();
                read(&checkpoint.clone().bytes(name, other, shape, &bytes));
            }
        }
    }
}

#[test]
fn tensors_of_other_values() {
    for (at, checkpoint) in all().into_iter().enumerate() {
        for (name, (dtype, shape, bytes)) in &checkpoint.tensors {
            for seed in 0..20 {
                let mut bytes = bytes.clone();
                for _ in 0..=seed % 3 {
                    let place = random(at * 100 + seed, bytes.len()) as usize % bytes.len().max(1);
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte = random(seed, place) as u8 | if seed % 2 == 0 { 0x80 } else { 0 };
                    }
                }
                read(&checkpoint.clone().bytes(name, *dtype, shape, &bytes));
            }
            let full = vec![0xff; bytes.len()];
            read(&checkpoint.clone().bytes(name, *dtype, shape, &full));
        }
    }
}

#[test]
fn configurations_of_other_kinds() {
    for checkpoint in all() {
        let Value::Object(config) = &checkpoint.config else { panic!() };
        for key in config.keys().map(String::as_str).chain([
            "bits",
            "group_size",
            "config_groups",
            "weight_block_size",
            "meta",
        ]) {
            for value in [
                Value::Null,
                json!(true),
                json!(-1),
                json!(0),
                json!(1e300),
                json!(u64::MAX),
                json!("x"),
                json!([]),
                json!({}),
                json!([0, 0]),
                json!({ "group_0": [], "group_1": { "weights": { "num_bits": 0, "group_size": -1 } } }),
            ] {
                let mut changed = checkpoint.clone();
                changed.config[key] = value;
                read(&changed);
            }
        }
    }
}
