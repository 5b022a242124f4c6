//! Tests of NVFP4, whose scales are in two tensors.

use super::*;

/// Rows of two blocks of NVFP4 whose scales and codes are 1.
fn ones(rows: usize) -> Vec<u8> {
    let block = [[0x38; 4].as_slice(), &[0x22; 32]].concat();
    block.repeat(2 * rows)
}

/// The upper level of the scales of NVFP4 is a tensor beside the weight, or 1; it is no tensor of its own.
#[test]
fn nvfp4_has_its_upper_level_in_another_tensor() {
    let scale = |value: f32| value.to_le_bytes();
    let base = small().tensor("w.weight", &[128, 2], 40, &ones(2));
    let base = base.tensor("w.input_scale", &[1], 0, &scale(3.0));
    for (file, want) in [
        (base.clone(), 1.0),
        (base.clone().tensor("w.scale", &[1], 0, &scale(2.5)), 2.5),
        (base.clone().tensor("w.weight.scale", &[1], 0, &scale(-0.5)), -0.5),
    ] {
        let mapped = open(&file).unwrap();
        for model in [&mapped as &dyn ModelSource, &ranged(&file).unwrap()] {
            let items = model.items().unwrap();
            let names: Vec<_> = items
                .iter()
                .map(|item| item.name.as_str())
                .filter(|name| name.starts_with('w'))
                .collect();
            assert_eq!(names, ["w.input_scale", "w.weight"]);
            model.check("w.weight").unwrap();
            let source::Data::Compressed(weights) = model.read("w.weight").unwrap() else {
                panic!("floats");
            };
            assert_eq!(weights.format().other_name(), Some("nvfp4"));
            assert_eq!(lowbit::compress::dequantize(&weights), [want; 256]);
        }
    }
    // Beside a weight of another type it is a tensor like any other.
    let file = small().tensor("blk.0.attn_q.scale", &[1], 0, &scale(2.0));
    assert_eq!(open(&file).unwrap().items().unwrap().len(), 4);
}

/// Scales of NVFP4 that are not what they must be are refused, by their names, and the rest is read.
#[test]
fn damaged_scales_of_nvfp4_are_named() {
    use crate::checkpoint::source::Readable;
    let base = small().tensor("w.weight", &[128, 2], 40, &ones(2));
    let mut signed = ones(2);
    signed[36 * 3 + 2] = 0xb8;
    let one = 1f32.to_le_bytes();
    for (file, why) in [
        (
            base.clone().tensor("w.scale", &[1], 0, &f32::NAN.to_le_bytes()),
            "the scale of row 0, group 0 is NaN: it must be finite",
        ),
        (
            base.clone().tensor("w.scale", &[1], 0, &f32::INFINITY.to_le_bytes()),
            "the scale of row 0, group 0 is inf: it must be finite",
        ),
        (
            base.clone().tensor("w.scale", &[2], 0, &[0; 8]),
            "its scale `w.scale` is F32 [2] instead of one F32",
        ),
        (
            base.clone().tensor("w.scale", &[0], 0, &[]),
            "its scale `w.scale` is F32 [0] instead of one F32",
        ),
        (
            base.clone().tensor("w.scale", &[2], 1, &[0; 4]),
            "its scale `w.scale` is F16 [2] instead of one F32",
        ),
        (
            base.clone().tensor("w.scale", &[1], 0, &one).tensor("w.weight.scale", &[1], 0, &one),
            "it has more than one scale: `w.weight.scale` and `w.scale`",
        ),
        (
            small().tensor("w.weight", &[128, 2], 40, &signed),
            "the scale of row 1, group 6 is NaN: it must be finite",
        ),
    ] {
        let mapped = open(&file).unwrap();
        for model in [&mapped as &dyn ModelSource, &ranged(&file).unwrap()] {
            let error = model.read("w.weight").unwrap_err().to_string();
            assert!(error.contains("`w.weight`"), "{error}");
            let checked = model.check("w.weight").unwrap_err().to_string();
            assert_eq!(checked, error);
            let readable = Readable::new(model).unwrap();
            let omissions = readable.omissions();
            let left = omissions.iter().find(|left| left.name == "w.weight").unwrap();
            assert_eq!(left.why, why);
            assert!(
                readable.items().unwrap().iter().any(|item| item.name.ends_with("attn_q.weight"))
            );
        }
    }
    // A row that is no whole number of blocks is refused when the file is opened, as of every type.
    let ragged = small().tensor("w.weight", &[96, 2], 40, &[0; 108]);
    assert!(open(&ragged).unwrap_err().to_string().contains("w.weight"));
}
