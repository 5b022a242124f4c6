//! Refusals name what is not read, with the next step.

use super::Checkpoint;
use super::integers::{GPTQ, Packed, awq};
use super::others::{four_bits, fp4, fp8, hqq, masked, sparse};
use crate::checkpoint::hf::HfModel;
use crate::checkpoint::source::{self, ModelSource, SourceError};
use crate::checkpoint::{Dtype, ModelFile};
use lowbit::format::CodeType;
use serde_json::{Value, json};

fn gptq() -> Checkpoint {
    GPTQ.checkpoint(json!({ "quant_method": "gptq", "bits": 4, "group_size": 32 }))
}

fn packed(bits: u32) -> Checkpoint {
    Packed { bits, asymmetric: true, crosses: true, n: 5, k: 64, size: 32 }.checkpoint()
}

fn nf4() -> Checkpoint {
    four_bits("nf4", CodeType::Nf4.table().unwrap(), 4, 64)
}

fn int8() -> Checkpoint {
    Checkpoint::new(json!({ "quant_method": "compressed-tensors" }))
        .bytes("l.weight", Dtype::I8, &[4, 8], &[1; 32])
        .f32s("l.weight_scale", &[4, 1], &[1.0; 4])
}

fn with(mut checkpoint: Checkpoint, key: &str, value: Value) -> Checkpoint {
    checkpoint.config[key] = value;
    checkpoint
}

#[test]
fn missing_tensors() {
    for (checkpoint, names) in [
        (gptq(), &["qzeros", "scales"][..]),
        (with(gptq(), "desc_act", true.into()), &["g_idx"]),
        (awq(), &["qzeros", "scales"]),
        (packed(4), &["weight_scale", "weight_shape", "weight_zero_point"]),
        (int8(), &["weight_scale"]),
        (fp8("l.weight_scale_inv", &[2, 2]), &["weight_scale_inv"]),
        (fp4(32), &["weight_scale"]),
        (
            fp4(16).bytes("l.weight_scale", Dtype::F8_E4M3, &[3, 6], &[0; 18]),
            &["weight_global_scale"],
        ),
        (sparse(Dtype::F32), &["shape"]),
        (sparse(Dtype::I8), &["weight_scale"]),
        (nf4(), &["weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"]),
        (hqq(4, "4bit_u8"), &["scale", "zero", "shape", "nbits", "axis", "packing"]),
    ] {
        for name in names {
            let name = format!("l.{name}");
            let mut checkpoint = checkpoint.clone();
            checkpoint.tensors.remove(&name);
            let left_out = checkpoint.refused();
            assert_eq!(left_out.name, "l.weight");
            // fp8 may have either scale.
            let why = left_out.why.replace("weight_scale`", "weight_scale_inv`");
            let name = name.replace("weight_scale", "weight_scale_inv").replace("_inv_inv", "_inv");
            let says = format!("tensor `{name}` is missing; fetch all files of the checkpoint");
            assert!(why.contains(&says), "{}", left_out.why);
        }
    }
}

#[test]
fn wrong_types_and_shapes() {
    let index = |at: usize, value: i32| {
        let mut index: Vec<u32> = (0..96).map(|column| column as u32 / 32).collect();
        index[at] = value as u32;
        gptq().words("l.g_idx", &[96], &index)
    };
    let uneven: Vec<u32> =
        (0..96).map(|column| u32::from(column > 40) + u32::from(column > 80)).collect();
    let mut damaged = gptq();
    let scales = damaged.tensors.get_mut("l.scales").unwrap();
    scales.2[11] = 0x7c;
    scales.2[10] = 0;
    for (checkpoint, says) in [
        (
            gptq().f32s("l.qweight", &[12, 32], &[0.0; 384]),
            "tensor `l.qweight` is F32, where I32 is needed",
        ),
        (
            gptq().words("l.scales", &[3, 32], &[0; 96]),
            "`l.scales` is I32, where F16, BF16 or F32 is needed",
        ),
        (
            gptq().f16s("l.scales", &[4, 32], &[1.0; 128]),
            "`l.scales` has shape [4, 32], where [3, 32] is needed",
        ),
        (
            gptq().words("l.qzeros", &[3, 5], &[0; 15]),
            "rows of 32 zero points of 2, 3, 4 or 8 bits",
        ),
        (
            gptq().words("l.qweight", &[384], &[0; 384]),
            "`l.qweight` has shape [384], where a matrix",
        ),
        (
            index(7, 3),
            "entry 7 of `l.g_idx` is 3, but the weight has 3 groups; quantize the model again",
        ),
        (index(7, -5), "entry 7 of `l.g_idx` is -5, but the weight has 3 groups"),
        (index(7, 1), "group 1 of `l.g_idx` has 33 columns, but group 0 has 31"),
        (
            gptq().words("l.g_idx", &[96], &uneven),
            "group 1 of `l.g_idx` has 40 columns, but group 0 has 41",
        ),
        (
            gptq().words("l.g_idx", &[95], &[0; 95]),
            "`l.g_idx` has shape [95], where [96] is needed",
        ),
        (damaged, "entry 15 of the scales of `l.weight` is inf: it must be finite"),
        (
            with(gptq(), "bits", json!(8)),
            "the configuration says 8 bits, but `l.qweight` has codes of 4 bits",
        ),
        (
            Packed { bits: 3, asymmetric: false, crosses: true, n: 5, k: 40, size: 40 }
                .checkpoint(),
            "40 codes of 3 bits both as old and as new versions",
        ),
        (
            awq().words("l.qzeros", &[3, 3], &[0; 9]),
            "`l.qzeros` has shape [3, 3], where [3, 2] is needed",
        ),
        (packed(4).i64s("l.weight_shape", &[2], &[6, 64]), "where [6, 64] in words is needed"),
        (
            packed(4).i64s("l.weight_shape", &[2], &[5, 72]),
            "words of 72 codes of the stated [4] bits",
        ),
        (
            packed(4).f32s("l.weight_scale", &[5, 7], &[1.0; 35]),
            "a number of groups that fits 64 columns",
        ),
        (
            packed(4).bytes("l.weight_zero_point", Dtype::I8, &[5, 2], &[0; 10]),
            "one element, or I32",
        ),
        (
            int8().f32s("l.weight_scale", &[3, 1], &[1.0; 3]),
            "where [4, groups], or one scale is needed",
        ),
        (
            int8().f32s("l.weight_scale", &[4, 1], &[f32::NAN; 4]),
            "entry 0 of the scales of `l.weight` is NaN",
        ),
        (fp8("l.weight_scale_inv", &[3, 2]), "one scale for each 16×32 block"),
        (fp4(32).bytes("l.weight_scale", Dtype::U8, &[3, 4], &[0; 12]), "where [3, 3] is needed"),
        (
            fp4(32).bytes("l.weight_scale", Dtype::U8, &[3, 3], &[255; 9]),
            "entry 0 of the scales of `l.weight` is NaN",
        ),
        (
            sparse(Dtype::F32).bytes("l.bitmask", Dtype::U8, &[4, 3], &[0x0f; 12]),
            "`l.bitmask` keeps 4 of 4 weights in row 0, columns 0…3",
        ),
        (
            sparse(Dtype::F32).i64s("l.shape", &[2], &[4, 24]),
            "`l.compressed` has shape [4, 10], where half of [4, 24]",
        ),
        (
            masked(Dtype::F32, "l").i64s("l.row_offsets", &[4], &[0, 1, 1 << 40, -1]),
            "entry 1 of `l.row_offsets` is 1, and `l.bitmask` has",
        ),
        (
            masked(Dtype::F32, "l").i64s("l.row_offsets", &[3], &[0, 0, 0]),
            "`l.row_offsets` has shape [3], where [4] is needed",
        ),
        (
            masked(Dtype::F32, "l").i64s("l.row_offsets", &[4], &[-1, 0, 0, 0]),
            "entry 0 of `l.row_offsets` is -1",
        ),
        (
            masked(Dtype::F32, "l").f32s("l.compressed", &[1], &[1.0]),
            "`l.compressed` has shape [1], where [",
        ),
        (
            masked(Dtype::F32, "l").bytes("l.bitmask", Dtype::U8, &[4, 2], &[0; 8]),
            "`l.bitmask` has shape [4, 2], where [4, 3] is needed",
        ),
        (
            masked(Dtype::F32, "l").bytes("l.bitmask", Dtype::U8, &[4, 3], &[0xff; 12]),
            "has bits behind column 20 in row 0",
        ),
        (
            masked(Dtype::F32, "l").i64s("l.shape", &[2], &[4, 30]),
            "`l.bitmask` has shape [4, 3], where [4, 4] is needed",
        ),
        (masked(Dtype::F32, "l").i64s("l.shape", &[3], &[4, 7, 3]), "the two sizes of a matrix"),
        (
            masked(Dtype::F32, "l").bytes("l.compressed", Dtype::I8, &[4], &[1; 4]),
            "`l.compressed` is I8, where F32, F16 or BF16 is needed",
        ),
        (
            nf4().f32s("l.weight.absmax", &[5], &[1.0; 5]),
            "`l.weight.absmax` has shape [5], where [4] is needed",
        ),
        (
            nf4().f32s("l.weight.quant_map", &[17], &[1.0; 17]),
            "`l.weight.quant_map` has shape [17]",
        ),
        (
            nf4().bytes("l.weight", Dtype::U8, &[100, 1], &[0; 100]),
            "where the codes of [4, 64] is needed",
        ),
        (
            hqq(4, "4bit_u8").f32s("l.zero", &[6, 1], &[1.0; 6]),
            "`l.zero` has shape [6, 1], where [12, 1]",
        ),
        (
            hqq(4, "4bit_u8").bytes("l.W_q", Dtype::U8, &[5, 20], &[0; 100]),
            "where [6, 20] numbers of 2 codes",
        ),
    ] {
        let left_out = checkpoint.refused();
        assert!(left_out.why.contains(says), "{}\nshould say\n{says}", left_out.why);
        assert!(left_out.why.contains("; "), "no next step: {}", left_out.why);
        // Nothing of the weight is taken for a plain tensor.
        let opened = checkpoint.open();
        assert_eq!(opened.model.plain().map(|tensor| tensor.name).collect::<Vec<_>>(), [""; 0]);
    }
}

#[test]
fn variants_that_are_not_read() {
    let state = |text: &str| {
        nf4().bytes(
            "l.weight.quant_state.bitsandbytes__nf4",
            Dtype::U8,
            &[text.len()],
            text.as_bytes(),
        )
    };
    let blocks = json!({ "quant_type": "nf4", "blocksize": 0, "shape": [4, 64] }).to_string();
    for (checkpoint, says) in [
        (with(awq(), "bits", json!(8)), "its AWQ codes have 8 bits"),
        (hqq(4, "4bit_u8").words("l.axis", &[], &[0]), "its groups are along the output channels"),
        (
            hqq(4, "4bit_u8").words("l.nbits", &[], &[1]),
            "its codes of 1 bits are packed as `4bit_u8`",
        ),
        (hqq(4, "4bit_u8").f32s("l.zero_q", &[1], &[1.0]), "its `zero_q` is quantized itself"),
        (
            hqq(6, "8bit_u8").bytes("l.W_q", Dtype::U8, &[12, 20], &[64; 240]),
            "code 0 of `l.W_q` has more than 6 bits",
        ),
        (sparse(Dtype::F8_E4M3), "2:4 sparse codes are fp8"),
        (
            sparse(Dtype::I8).f32s("l.weight_scale", &[4, 1], &[1.0; 4]).bytes(
                "l.weight_zero_point",
                Dtype::I8,
                &[4, 1],
                &[1; 4],
            ),
            "so that pruned weights are not 0",
        ),
        (
            fp8("l.weight_scale", &[1]).f32s("l.weight_zero_point", &[1], &[1.0]),
            "its fp8 codes have zero points",
        ),
        (gptq().f32s("l.weight", &[2, 2], &[1.0; 4]), "there is another weight of this name"),
        (state("{"), "is not the JSON of a quantization state"),
        (state(&blocks), "its blocks have no weights"),
        (int8().bytes("l.weight", Dtype::I8, &[4, 2, 4], &[1; 32]), "where a matrix is needed"),
        (
            Checkpoint::new(Value::Null)
                .bytes("l.weight", Dtype::I8, &[4, 8], &[1; 32])
                .f32s("l.SCB", &[4], &[1.0; 4])
                .bytes("l.weight_format", Dtype::U8, &[], &[1]),
            "its codes are in tiles of a GPU",
        ),
        (with(gptq(), "quant_method", json!("awq")), "`l.qzeros` has shape [3, 4], where [3, 32]"),
        (
            with(packed(4), "quant_method", json!("gptq")),
            "the configuration says GPTQ, but the tensors are those of pack-quantized",
        ),
        (
            Checkpoint::new(json!({ "quant_method": "fp8" })).bytes(
                "l.weight",
                Dtype::F8_E4M3,
                &[4, 8],
                &[1; 32],
            ),
            "`l.weight_scale` is missing",
        ),
        (
            with(
                gptq().without("l.qweight").words("l.weight", &[4, 8], &[1; 32]),
                "bits",
                json!(4),
            ),
            "nothing says what its codes stand for",
        ),
    ] {
        let left_out = checkpoint.refused();
        assert!(left_out.why.contains(says), "{}\nshould say\n{says}", left_out.why);
    }
}

#[test]
fn checkpoints_that_are_not_read() {
    for (config, says, next) in [
        (
            json!({ "quant_method": "aqlm" }),
            "the method `aqlm`",
            "import the model in another format",
        ),
        (
            json!({ "quant_method": "gptq", "checkpoint_format": "marlin" }),
            "the layout `marlin`",
            "`checkpoint_format` `gptq`",
        ),
        (
            json!({ "quant_method": "gptq", "is_marlin_format": true }),
            "the layout `marlin`",
            "`checkpoint_format` `gptq`",
        ),
        (
            json!({ "quant_method": "gptq", "pack_dtype": "int16" }),
            "packed in int16",
            "pack them in int32",
        ),
        (
            json!({ "quant_method": "awq", "version": "gemv" }),
            "the layout `gemv`",
            "the layout `gemm`",
        ),
        (
            json!({ "quant_method": "awq", "version": "gemm", "backend": "llm-awq" }),
            "the layout `llm-awq`",
            "the layout `gemm`",
        ),
        (
            json!({ "quant_method": "compressed-tensors", "format": "marlin-24" }),
            "the format `marlin-24`",
            "import the model",
        ),
        (
            json!({
                "quant_method": "compressed-tensors", "format": "pack-quantized",
                "transform_config": { "config_groups": { "R1": { "type": "hadamard" } } },
            }),
            "transformed (transform_config)",
            "import the model",
        ),
    ] {
        let mut checkpoint = gptq();
        checkpoint.config = config;
        let opened = checkpoint.open();
        let refused = opened.model.refused().unwrap();
        assert!(refused.to_string().contains(says), "{refused}");
        assert!(refused.next_step().contains(next), "{}", refused.next_step());
        assert!(opened.model.weights().is_empty());
        let out = tempfile::tempdir().unwrap();
        let error = source::import(&opened.model, out.path().join("out"), &mut |_| ()).unwrap_err();
        assert!(matches!(error, SourceError::Hf(_)), "{error}");
    }
}

/// One weight that cannot be used is listed, and the others are imported.
#[test]
fn one_damaged_weight_does_not_sink_a_file() {
    let mut checkpoint = gptq();
    for (name, tensor) in gptq().tensors {
        checkpoint.tensors.insert(name.replace("l.", "damaged."), tensor);
    }
    checkpoint =
        checkpoint.words("damaged.g_idx", &[96], &[9; 96]).f32s("norm.weight", &[2], &[1.0, 2.0]);
    let opened = checkpoint.open();
    let omissions = opened.model.omissions();
    assert_eq!(omissions.len(), 1);
    assert_eq!(
        (omissions[0].name.as_str(), omissions[0].what.as_str()),
        ("damaged.weight", "GPTQ")
    );
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.safetensors");
    source::import(&opened.model, path.as_path(), &mut |_| ()).unwrap();
    let written = ModelFile::open(&path).unwrap();
    assert_eq!(written.compressed().keys().collect::<Vec<_>>(), ["l.weight"]);
    assert_eq!(written.plain().map(|tensor| tensor.name).collect::<Vec<_>>(), ["norm.weight"]);
    assert_eq!(
        crate::checkpoint::read_compressed(&written, "l.weight").unwrap(),
        opened.model.read_weight("l.weight").unwrap()
    );
}

/// A model that nobody has quantized stays what it is, also if it has integers.
#[test]
fn plain_models_are_left_alone() {
    let plain = Checkpoint::new(Value::Null)
        .f32s("l.weight", &[2, 2], &[1.0; 4])
        .i64s("ids", &[2, 2], &[1; 4])
        .bytes("mask", Dtype::U8, &[4], &[1; 4])
        .bytes("i.weight", Dtype::I8, &[2, 2], &[1; 4])
        .bytes("f.weight", Dtype::F8_E4M3, &[2, 2], &[1; 4]);
    let (file, _folder) = plain.file();
    assert!(HfModel::find(file).unwrap().is_err());
    let mut stated = plain.without("i.weight").without("f.weight");
    stated.config = json!({ "quant_method": "bitsandbytes", "load_in_4bit": true });
    let opened = stated.open();
    assert_eq!(opened.model.plain().count(), 3);
    assert!(opened.model.warnings()[0].contains("says bitsandbytes, but no tensor is quantized"));
}
