//! fp8, 4-bit floats, 2:4 sparse weights, bitsandbytes and HQQ.

use super::{Checkpoint, random, scale};
use crate::checkpoint::Dtype;
use lowbit::format::CodeType;
use serde_json::{Value, json};

/// Returns the value of an e4m3 code that is no NaN.
fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let value = match exponent {
        0 => fraction * 2f32.powi(-9),
        _ => (8.0 + fraction) * 2f32.powi(exponent - 10),
    };
    if code & 0x80 == 0 { value } else { -value }
}

const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

fn e2m1(code: u8) -> f32 {
    let value = E2M1[usize::from(code & 7)];
    if code & 8 == 0 { value } else { -value }
}

/// fp8 codes `[20, 40]` and their scales under a name.
pub(in super::super) fn fp8(scale: &str, shape: &[usize]) -> Checkpoint {
    let codes: Vec<u8> = (0..20 * 40).map(|at| random(9, at) as u8 & !0x01).collect();
    let scales: Vec<f32> = (0..shape.iter().product()).map(|at| super::scale(at, 0)).collect();
    Checkpoint::new(json!({ "quant_method": "fp8", "weight_block_size": [16, 32] }))
        .bytes("l.weight", Dtype::F8_E4M3, &[20, 40], &codes)
        .f32s(scale, shape, &scales)
}

fn fp8_value(row: usize, column: usize) -> f32 {
    e4m3(random(9, row * 40 + column) as u8 & !0x01)
}

#[test]
fn fp8_scales() {
    let check = |name: &str, shape: &[usize], format: &str, index: fn(usize, usize) -> usize| {
        fp8(name, shape).check(format, |n, k| fp8_value(n, k) * scale(index(n, k), 0));
    };
    for name in ["l.weight_scale", "l.weight_scale_inv"] {
        check(name, &[1], "e4m3-tensor", |_, _| 0);
        check(name, &[], "e4m3-tensor", |_, _| 0);
        check(name, &[20, 1], "e4m3-channel", |n, _| n);
        check(name, &[20], "e4m3-channel", |n, _| n);
        check(name, &[20, 5], "e4m3-g8", |n, k| n * 5 + k / 8);
        // Blocks of 16 rows and 32 columns, the last ones cut off.
        check(name, &[2, 2], "e4m3-g32", |n, k| n / 16 * 2 + k / 32);
    }
    // Files of compressed-tensors state blocks elsewhere.
    let mut blocks = fp8("l.weight_scale", &[2, 2]);
    let weights = json!({ "num_bits": 8, "type": "float", "block_structure": [16, 32] });
    let groups = json!({ "group_0": { "weights": weights } });
    blocks.config = json!({ "quant_method": "compressed-tensors", "config_groups": groups });
    blocks.check("e4m3-g32", |n, k| fp8_value(n, k) * scale(n / 16 * 2 + k / 32, 0));
    // Without a statement blocks are 128 by 128.
    let mut whole = fp8("l.weight_scale_inv", &[1, 1]);
    whole.config = Value::Null;
    whole.check("e4m3-channel", |n, k| fp8_value(n, k) * scale(0, 0));
}

#[test]
fn fp8_scales_that_are_powers_of_two() {
    let exponents = [120u8, 127, 130, 1];
    let power = |at: usize| 2f32.powi(i32::from(exponents[at]) - 127);
    for dtype in [Dtype::U8, Dtype::F8_E8M0] {
        let blocks = fp8("l.weight_scale_inv", &[2, 2]).bytes(
            "l.weight_scale_inv",
            dtype,
            &[2, 2],
            &exponents,
        );
        blocks.check("e4m3-g32-e8m0s", |n, k| fp8_value(n, k) * power(n / 16 * 2 + k / 32));
    }
    let rows: Vec<u8> = (0..20).map(|n| 110 + n).collect();
    let rows = fp8("l.weight_scale", &[20, 1]).bytes("l.weight_scale", Dtype::U8, &[20, 1], &rows);
    rows.check("e4m3-g40-e8m0s", |n, k| fp8_value(n, k) * 2f32.powi(n as i32 + 110 - 127));
}

/// GPTQModel's `weight_scale_inv` is a divisor.
#[test]
fn fp8_scales_that_are_divisors() {
    let mut divisor = fp8("l.weight_scale_inv", &[2, 2]).f32s(
        "l.weight_scale_inv",
        &[2, 2],
        &[8.0, 0.5, 4.0, 1.0],
    );
    divisor.config["weight_scale_semantics"] = "inverse".into();
    let factors = [0.125, 2.0, 0.25, 1.0];
    divisor.check("e4m3-g32", |n, k| fp8_value(n, k) * factors[n / 16 * 2 + k / 32]);
}

#[test]
fn e5m2() {
    let codes: Vec<u8> = vec![0x3c, 0xbe, 0x01, 0x7b];
    let checkpoint = Checkpoint::new(Value::Null)
        .bytes("l.weight", Dtype::F8_E5M2, &[2, 2], &codes)
        .f32s("l.weight_scale", &[1], &[2.0]);
    let values = [2.0, -3.0, 2f32.powi(-15), 114_688.0];
    checkpoint.check("e5m2-tensor", |n, k| values[2 * n + k]);
}

pub(in super::super) fn fp4(group: usize) -> Checkpoint {
    let (n, k) = (3, 96);
    let codes: Vec<u8> = (0..n * k / 2).map(|at| random(10, at) as u8).collect();
    Checkpoint::new(
        json!({ "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized" }),
    )
    .bytes("l.weight_packed", Dtype::U8, &[n, k / 2], &codes)
    .bytes("l.weight_scale", Dtype::U8, &[n, k / group], &vec![0; n * k / group])
}

#[test]
fn nvfp4_divides_by_the_global_scale() {
    let scales: Vec<u8> = (0..18).map(|at| random(11, at) as u8 & 0x7e).collect();
    let checkpoint = fp4(16).bytes("l.weight_scale", Dtype::F8_E4M3, &[3, 6], &scales).f32s(
        "l.weight_global_scale",
        &[1],
        &[256.0],
    );
    let code = |n: usize, k: usize| random(10, (n * 96 + k) / 2) as u8 >> (4 * (k % 2)) & 15;
    let value = |n: usize, k: usize| e2m1(code(n, k)) * e4m3(scales[n * 6 + k / 16]) / 256.0;
    checkpoint.check("e2m1-g16-e4m3s", value);
}

#[test]
fn mxfp4() {
    let scales: Vec<u8> = (0..9).map(|at| 110 + (random(12, at) % 30) as u8).collect();
    let checkpoint = fp4(32).bytes("l.weight_scale", Dtype::U8, &[3, 3], &scales);
    let code = |n: usize, k: usize| random(10, (n * 96 + k) / 2) as u8 >> (4 * (k % 2)) & 15;
    let power = |n: usize, k: usize| 2f32.powi(i32::from(scales[n * 3 + k / 32]) - 127);
    checkpoint.check("e2m1-g32-e8m0s", |n, k| e2m1(code(n, k)) * power(n, k));
}

/// Which two of four columns a row keeps.
fn kept(row: usize, quad: usize) -> [usize; 2] {
    const PAIRS: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
    PAIRS[random(13, row * 50 + quad) as usize % 6]
}

/// A 2:4 sparse weight of 4 rows and 20 columns.
pub(in super::super) fn sparse(dtype: Dtype) -> Checkpoint {
    let (n, k) = (4, 20);
    let mut mask = vec![0u8; n * 3];
    for (row, quad) in (0..n).flat_map(|row| (0..k / 4).map(move |quad| (row, quad))) {
        for column in kept(row, quad) {
            mask[row * 3 + (4 * quad + column) / 8] |= 1 << ((4 * quad + column) % 8);
        }
    }
    let values = (0..n * k / 2).map(|at| random(14, at) as u8 as i8);
    let bytes: Vec<u8> = match dtype {
        Dtype::F32 => values.flat_map(|v| f32::from(v).to_le_bytes()).collect(),
        Dtype::F16 => values.flat_map(|v| half::f16::from_f32(v.into()).to_le_bytes()).collect(),
        Dtype::BF16 => values.flat_map(|v| half::bf16::from_f32(v.into()).to_le_bytes()).collect(),
        _ => values.map(|v| v as u8).collect(),
    };
    Checkpoint::new(json!({ "quant_method": "compressed-tensors", "format": "dense",
        "sparsity_config": { "format": "sparse-24-bitmask" } }))
    .bytes("l.compressed", dtype, &[n, k / 2], &bytes)
    .bytes("l.bitmask", Dtype::U8, &[n, 3], &mask)
    .i64s("l.shape", &[2, 1], &[n as i64, k as i64])
}

#[test]
fn sparse_24_bitmask() {
    let value = |row: usize, column: usize| {
        let which = kept(row, column / 4).iter().position(|&kept| kept == column % 4);
        which.map_or(0.0, |which| {
            f32::from(random(14, row * 10 + column / 4 * 2 + which) as u8 as i8)
        })
    };
    sparse(Dtype::F32).check("2:4+f32", value);
    sparse(Dtype::F16).check("2:4+f16", value);
    sparse(Dtype::BF16).check("2:4+f32", value);
    let scales = [0.5, 0.25, 1.0, 2.0];
    let int8 = sparse(Dtype::I8).f32s("l.weight_scale", &[4, 1], &scales);
    int8.check("2:4+int8-channel", |n, k| value(n, k) * scales[n]);
    // Without a configuration.
    let mut bare = sparse(Dtype::F32);
    bare.config = Value::Null;
    bare.check("2:4+f32", value);
}

/// Whether a weight behind a mask is stored.
fn stored(row: usize, column: usize) -> bool {
    random(16, row * 50 + column).is_multiple_of(3)
}

/// A weight of 4 rows and 21 columns behind a mask, under the module or, as in older files, the weight.
pub(in super::super) fn masked(dtype: Dtype, prefix: &str) -> Checkpoint {
    let (n, k) = (4, 21);
    let mut mask = vec![0u8; n * 3];
    let (mut bytes, mut offsets, mut count) = (Vec::new(), Vec::new(), 0);
    for row in 0..n {
        offsets.push(count);
        for column in (0..k).filter(|&column| stored(row, column)) {
            mask[row * 3 + column / 8] |= 1 << (column % 8);
            let value = f32::from(random(17, row * k + column) as u8) - 128.5;
            match dtype {
                Dtype::F32 => bytes.extend(value.to_le_bytes()),
                Dtype::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                _ => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
            }
            count += 1;
        }
    }
    Checkpoint::new(json!({ "quant_method": "compressed-tensors", "format": "dense",
        "sparsity_config": { "format": "sparse-bitmask", "sparsity_structure": "unstructured" } }))
    .bytes(&format!("{prefix}.compressed"), dtype, &[count as usize], &bytes)
    .bytes(&format!("{prefix}.bitmask"), Dtype::U8, &[n, 3], &mask)
    .i64s(&format!("{prefix}.row_offsets"), &[n], &offsets)
    .i64s(&format!("{prefix}.shape"), &[2], &[n as i64, k as i64])
}

#[test]
fn sparse_bitmask() {
    let value = |round: fn(f32) -> f32| {
        move |row: usize, column: usize| {
            let value = f32::from(random(17, row * 21 + column) as u8) - 128.5;
            if stored(row, column) { round(value) } else { 0.0 }
        }
    };
    masked(Dtype::F32, "l").check("f32", value(|x| x));
    masked(Dtype::F16, "l").check("f16", value(|x| half::f16::from_f32(x).to_f32()));
    masked(Dtype::BF16, "l").check("f32", value(|x| half::bf16::from_f32(x).to_f32()));
    masked(Dtype::F16, "l.weight").check("f16", value(|x| half::f16::from_f32(x).to_f32()));
    // As newer versions shape it, and without a configuration.
    let mut bare = masked(Dtype::F32, "l").i64s("l.shape", &[2, 1], &[4, 21]);
    bare.config = Value::Null;
    bare.check("f32", value(|x| x));
}

/// A weight of bitsandbytes, `[n, k]`, in blocks of 64.
pub(in super::super) fn four_bits(kind: &str, map: &[f32], n: usize, k: usize) -> Checkpoint {
    let codes: Vec<u8> = (0..n * k / 2).map(|at| random(15, at) as u8).collect();
    let blocks = (n * k).div_ceil(64);
    let absmax: Vec<f32> = (0..blocks).map(|block| scale(block, 1)).collect();
    let state = json!({ "quant_type": kind, "blocksize": 64, "dtype": "float16", "shape": [n, k] });
    Checkpoint::new(json!({ "load_in_4bit": true }))
        .bytes("l.weight", Dtype::U8, &[n * k / 2, 1], &codes)
        .f32s("l.weight.absmax", &[blocks], &absmax)
        .f32s("l.weight.quant_map", &[16], map)
        .bytes(
            &format!("l.weight.quant_state.bitsandbytes__{kind}"),
            Dtype::U8,
            &[state.to_string().len()],
            state.to_string().as_bytes(),
        )
}

#[test]
fn bitsandbytes_in_4_bits() {
    let own: Vec<f32> = (0..16).map(|i| (i * i) as f32 / 256.0).collect();
    let tables = [("nf4", CodeType::Nf4), ("fp4", CodeType::Fp4)];
    let tables = tables.map(|(kind, code_type)| (kind, code_type.table().unwrap().to_vec(), kind));
    for (kind, map, name) in tables.into_iter().chain([("nf4", own, "codebook")]) {
        // Blocks end with rows; a row and a half; two rows.
        for (n, k, groups) in [(4, 128, "g64"), (6, 96, "g32"), (6, 32, "channel")] {
            let checkpoint = four_bits(kind, &map, n, k);
            let value = |n: usize, column: usize| {
                let at = n * k + column;
                // The first of two codes is in the high half.
                let code = random(15, at / 2) as u8 >> (4 * (1 - at % 2)) & 15;
                map[usize::from(code)] * scale(at / 64, 1)
            };
            checkpoint.check(&format!("{name}-{groups}"), value);
        }
    }
}

#[test]
fn bitsandbytes_with_double_quantization() {
    let map = CodeType::Nf4.table().unwrap();
    // 8 blocks, of which 4 share a nested scale.
    let nested_map: Vec<f32> = (0..256).map(|i| (i as f32 - 128.0) / 128.0).collect();
    let indices: Vec<u8> = (0..8).map(|block| random(16, block) as u8).collect();
    let state = json!({ "quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [4, 128],
        "nested_blocksize": 4, "nested_dtype": "float32", "nested_offset": 0.3f32 });
    let checkpoint = four_bits("nf4", map, 4, 128)
        .bytes("l.weight.absmax", Dtype::U8, &[8], &indices)
        .f32s("l.weight.nested_absmax", &[2], &[0.1, 0.7])
        .f32s("l.weight.nested_quant_map", &[256], &nested_map)
        .bytes(
            "l.weight.quant_state.bitsandbytes__nf4",
            Dtype::U8,
            &[state.to_string().len()],
            state.to_string().as_bytes(),
        );
    checkpoint.check("nf4-g64", |n, k| {
        let at = n * 128 + k;
        let code = random(15, at / 2) as u8 >> (4 * (1 - at % 2)) & 15;
        let block = at / 64;
        let absmax = nested_map[usize::from(indices[block])] * [0.1, 0.7][block / 4] + 0.3;
        map[usize::from(code)] * absmax
    });
}

#[test]
fn bitsandbytes_in_8_bits() {
    let codes: Vec<u8> = (0..24).map(|at| random(17, at) as u8).collect();
    let checkpoint = Checkpoint::new(json!({ "load_in_8bit": true }))
        .bytes("l.weight", Dtype::I8, &[3, 8], &codes)
        .f32s("l.SCB", &[3], &[1.27, 254.0, 0.3])
        .bytes("l.weight_format", Dtype::U8, &[], &[0]);
    let largest = [1.27, 254.0, 0.3];
    checkpoint
        .check("int8-channel", |n, k| f32::from(codes[8 * n + k] as i8) * (largest[n] / 127.0));
}

/// An HQQ weight of 4 rows and 60 columns in groups of 20.
pub(in super::super) fn hqq(bits: u32, packing: &str) -> Checkpoint {
    let (n, k, group): (usize, usize, usize) = (4, 60, 20);
    let lines = n * k / group;
    let code = |line: usize, column: usize| hqq_code(bits, line, column);
    let slots = match packing {
        "4bit_u8" => 2,
        "2bit_u8" => 4,
        "3bit_32" => 10,
        _ => 1,
    };
    let rows = lines.div_ceil(slots);
    let width = if slots == 1 { 8 } else { bits };
    let number = |row: usize, column: usize| {
        (0..slots).fold(0u32, |number, slot| {
            let line = slot * rows + row;
            let code = if line < lines { code(line, column) } else { 0 };
            number << width | code
        })
    };
    let numbers = (0..rows * group).map(|at| number(at / group, at % group));
    let scales: Vec<f32> = (0..lines).map(|line| scale(line, 2)).collect();
    let zeros: Vec<f32> = (0..lines).map(hqq_zero).collect();
    let checkpoint = Checkpoint::new(json!({ "quant_method": "hqq" }))
        .f32s("l.scale", &[lines, 1], &scales)
        .f32s("l.zero", &[lines, 1], &zeros)
        .i64s("l.shape", &[2], &[n as i64, k as i64])
        .words("l.nbits", &[], &[bits])
        .words("l.group_size", &[], &[group as u32])
        .words("l.axis", &[], &[1])
        .bytes("l.packing", Dtype::U8, &[packing.len()], packing.as_bytes())
        .bytes("l.channel_wise", Dtype::U8, &[], &[1]);
    if slots == 10 {
        let numbers: Vec<u32> = numbers.collect();
        return checkpoint.words("l.W_q", &[rows, group], &numbers);
    }
    let numbers: Vec<u8> = numbers.map(|number| number as u8).collect();
    checkpoint.bytes("l.W_q", Dtype::U8, &[rows, group], &numbers)
}

fn hqq_code(bits: u32, line: usize, column: usize) -> u32 {
    random(18, line * 100 + column) % (1 << bits)
}

/// A zero point with few enough bits for every sum to be exact.
fn hqq_zero(line: usize) -> f32 {
    (random(19, line) % 256) as f32 / 16.0
}

#[test]
fn hqq_of_every_size() {
    for (bits, packing) in [
        (8, "8bit_u8"),
        (6, "8bit_u8"),
        (5, "8bit_u8"),
        (4, "4bit_u8"),
        (3, "3bit_32"),
        (2, "2bit_u8"),
    ] {
        let value = |n: usize, k: usize| {
            let (line, column) = ((n * 60 + k) / 20, k % 20);
            (hqq_code(bits, line, column) as f32 - hqq_zero(line)) * scale(line, 2)
        };
        hqq(bits, packing).check(&format!("int{bits}-g20-fzero"), value);
    }
    let ternary = |line: usize, column: usize| hqq_code(2, line, column);
    let small = hqq(2, "2bit_u8").f32s("l.nbits", &[], &[1.58]);
    small.check("int2-g20-fzero", |n, k| {
        let line = (n * 60 + k) / 20;
        (ternary(line, k % 20) as f32 - hqq_zero(line)) * scale(line, 2)
    });
}

/// A group that goes on in the next row is divided.
#[test]
fn hqq_groups_across_rows() {
    let four = hqq(4, "4bit_u8").i64s("l.shape", &[2], &[8, 30]);
    four.check("int4-g10-fzero", |n, k| {
        let at = n * 30 + k;
        (hqq_code(4, at / 20, at % 20) as f32 - hqq_zero(at / 20)) * scale(at / 20, 2)
    });
}
