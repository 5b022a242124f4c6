//! GPTQ, AWQ, and integers of compressed-tensors.

use super::{Checkpoint, random, scale, string, transpose};
use crate::checkpoint::Dtype;
use lowbit::compress::dequantize;
use serde_json::{Value, json};

/// How a GPTQ checkpoint is to be.
#[derive(Clone, Copy)]
pub(in super::super) struct Gptq {
    pub bits: u32,
    pub v2: bool,
    pub symmetric: bool,
    /// A group of each column.
    pub group: fn(usize) -> usize,
    pub k: usize,
    pub n: usize,
    pub groups: usize,
}

pub(in super::super) const GPTQ: Gptq =
    Gptq { bits: 4, v2: false, symmetric: true, group: |k| k / 32, k: 96, n: 32, groups: 3 };

impl Gptq {
    fn code(&self, row: usize, column: usize) -> u32 {
        random(1, row * 1000 + column) % (1 << self.bits)
    }

    fn zero(&self, row: usize, group: usize) -> u32 {
        match self.symmetric {
            true => 1 << (self.bits - 1),
            false => random(2, row * 100 + group) % (1 << self.bits),
        }
    }

    pub fn value(&self, row: usize, column: usize) -> f32 {
        let group = (self.group)(column);
        let (code, zero) = (self.code(row, column) as i32, self.zero(row, group) as i32);
        (code - zero) as f32 * scale(row, group)
    }

    pub fn checkpoint(&self, config: Value) -> Checkpoint {
        let Self { bits, n, k, groups, .. } = *self;
        let rows = (0..n).map(|row| string((0..k).map(|column| self.code(row, column)), bits));
        let codes = transpose(&rows.flatten().collect::<Vec<_>>(), n);
        let stored = |row, group| match self.v2 {
            true => self.zero(row, group),
            false => self.zero(row, group).wrapping_sub(1) % (1 << bits),
        };
        let zeros = (0..groups).map(|group| string((0..n).map(|row| stored(row, group)), bits));
        let zeros: Vec<u32> = zeros.flatten().collect();
        let scales: Vec<f32> = (0..groups * n).map(|at| scale(at % n, at / n)).collect();
        let index: Vec<u32> = (0..k).map(|column| (self.group)(column) as u32).collect();
        Checkpoint::new(config)
            .words("l.qweight", &[codes.len() / n, n], &codes)
            .words("l.qzeros", &[groups, zeros.len() / groups], &zeros)
            .f16s("l.scales", &[groups, n], &scales)
            .words("l.g_idx", &[k], &index)
    }
}

fn version(v2: bool) -> Value {
    json!({ "quant_method": "gptq", "checkpoint_format": if v2 { "gptq_v2" } else { "gptq" } })
}

#[test]
fn gptq() {
    for bits in [2, 3, 4, 8] {
        for v2 in [false, true] {
            for symmetric in [false, true] {
                let zeros = match (symmetric, bits) {
                    (true, _) => "",
                    (_, 8) => "-asym",
                    _ => "-asym4",
                };
                let gptq = Gptq { bits, v2, symmetric, ..GPTQ };
                let checkpoint = gptq.checkpoint(version(v2));
                let name = format!("int{bits}-g32{zeros}-f16s");
                let warnings = checkpoint.check(&name, |n, k| gptq.value(n, k));
                // Readers of version 1 disagree about zero points of 0.
                let disagree = usize::from(!v2 && !symmetric && bits != 3);
                assert!(warnings.len() <= disagree, "{warnings:?}");
                // Without `g_idx`, and without a configuration where version 1 is right.
                checkpoint.clone().without("l.g_idx").check(&name, |n, k| gptq.value(n, k));
                if !v2 {
                    let mut bare = checkpoint;
                    bare.config = Value::Null;
                    bare.check(&name, |n, k| gptq.value(n, k));
                }
            }
        }
    }
}

#[test]
fn gptq_with_act_order() {
    // Groups of 40 columns, the last with 16.
    let order: fn(usize) -> usize = |column| (column * 37 + 5) % 96 / 40;
    for bits in [2, 3, 4, 8] {
        let gptq = Gptq { bits, group: order, ..GPTQ };
        let mut config = version(false);
        config["desc_act"] = true.into();
        let checkpoint = gptq.checkpoint(config);
        checkpoint.check(&format!("int{bits}-g40-f16s-perm"), |n, k| gptq.value(n, k));
        // The columns of a group stay in their order.
        let weights = checkpoint.open().model.read_weight("l.weight").unwrap();
        let mut want: Vec<u32> = (0..96).collect();
        want.sort_by_key(|&column| order(column as usize));
        assert_eq!(weights.order(), want);
    }
}

/// Symmetric checkpoints show their version, whatever they claim. Those with zero points do not.
#[test]
fn the_version_of_gptq_is_told_by_symmetric_zero_points() {
    for v2 in [false, true] {
        for bits in [2, 3, 4, 8] {
            let gptq = Gptq { bits, v2, ..GPTQ };
            let name = format!("int{bits}-g32-f16s");
            let warnings = gptq.checkpoint(version(!v2)).check(&name, |n, k| gptq.value(n, k));
            let [warning] = &warnings[..] else { panic!("{warnings:?}") };
            let (claimed, stored) = if v2 { (1, 2) } else { (2, 1) };
            assert!(warning.contains(&format!("GPTQ version {claimed}, but")), "{warning}");
            assert!(warning.contains(&format!("as in version {stored}")), "{warning}");
            // A checkpoint that says that it is not symmetric is believed: its zero points are 2ᵇ⁻¹ ± 1.
            let mut config = version(!v2);
            config["sym"] = false.into();
            let off = if v2 { 1 } else { -1 };
            let zero = (1 << (bits - 1)) + off;
            let value =
                |n: usize, k: usize| (gptq.code(n, k) as i32 - zero) as f32 * scale(n, k / 32);
            let zeros = if bits == 8 { "asym" } else { "asym4" };
            let warnings =
                gptq.checkpoint(config).check(&format!("int{bits}-g32-{zeros}-f16s"), value);
            assert_eq!(warnings, [""; 0]);
        }
    }
}

/// GPTQModel subtracts 1 from whole words of zero points, so that 0 borrows from the next field.
#[test]
fn zero_points_of_0_in_version_1() {
    let gptq = Gptq { symmetric: false, ..GPTQ };
    let mut config = version(false);
    config["sym"] = false.into();
    config["meta"] = json!({ "quantizer": ["gptqmodel:7.7.0"] });
    let zeros: Vec<u32> =
        (0..3).flat_map(|group| string((0..32).map(|row| gptq.zero(row, group)), 4)).collect();
    assert!((0..32).any(|row| gptq.zero(row, 0) == 0));
    let borrowed: Vec<u32> = zeros.iter().map(|word| word.wrapping_sub(0x1111_1111)).collect();
    let checkpoint = gptq.checkpoint(config).words("l.qzeros", &[3, 4], &borrowed);
    let warnings = checkpoint.check("int4-g32-asym4-f16s", |n, k| gptq.value(n, k));
    assert!(warnings[0].contains("no safe way to store zero points of 0"), "{warnings:?}");
}

#[test]
fn g_idx_of_zeros_is_columns_in_order() {
    let gptq = GPTQ;
    let zeros = gptq.checkpoint(version(false)).words("l.g_idx", &[96], &[0; 96]);
    let warnings = zeros.check("int4-g32-f16s", |n, k| gptq.value(n, k));
    assert!(warnings[0].contains("g_idx is all zeros"), "{warnings:?}");
    let mut ordered = zeros;
    ordered.config["desc_act"] = true.into();
    assert!(ordered.refused().why.contains("`l.g_idx` is all zeros"));
}

pub(in super::super) fn awq() -> Checkpoint {
    let (n, k, groups) = (16, 96, 3);
    // Slot i of a word holds column ORDER[i].
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let word = |of: &dyn Fn(usize) -> u32, at: usize| {
        ORDER
            .iter()
            .enumerate()
            .fold(0, |word, (slot, column)| word | of(8 * at + column) << (4 * slot))
    };
    let codes: Vec<u32> = (0..k * n / 8)
        .map(|at| word(&|row| random(3, row * 1000 + at / (n / 8)) % 16, at % (n / 8)))
        .collect();
    let zeros: Vec<u32> = (0..groups * n / 8)
        .map(|at| word(&|row| random(4, row * 100 + at / (n / 8)) % 16, at % (n / 8)))
        .collect();
    let scales: Vec<f32> = (0..groups * n).map(|at| scale(at % n, at / n)).collect();
    Checkpoint::new(
        json!({ "quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm" }),
    )
    .words("l.qweight", &[k, n / 8], &codes)
    .words("l.qzeros", &[groups, n / 8], &zeros)
    .f16s("l.scales", &[groups, n], &scales)
}

#[test]
fn awq_gemm() {
    let value = |row: usize, column: usize| {
        let code = (random(3, row * 1000 + column) % 16) as i32;
        let zero = (random(4, row * 100 + column / 32) % 16) as i32;
        (code - zero) as f32 * scale(row, column / 32)
    };
    let mut checkpoint = awq();
    checkpoint.check("int4-g32-asym4-f16s", value);
    // The older file of its own, and no configuration at all.
    checkpoint.config =
        json!({ "zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM" });
    checkpoint.check("int4-g32-asym4-f16s", value);
    checkpoint.config = Value::Null;
    checkpoint.check("int4-g32-asym4-f16s", value);
}

/// compressed-tensors, `pack-quantized`.
pub(in super::super) struct Packed {
    pub bits: u32,
    pub asymmetric: bool,
    /// Whether codes cross words, as the package packs since 0.15.
    pub crosses: bool,
    pub n: usize,
    pub k: usize,
    /// Columns in a group.
    pub size: usize,
}

impl Packed {
    fn code(&self, row: usize, column: usize) -> u32 {
        random(5, row * 1000 + column) % (1 << self.bits)
    }

    fn zero(&self, row: usize, group: usize) -> u32 {
        match self.asymmetric {
            true => random(6, row * 100 + group) % (1 << self.bits),
            false => 1 << (self.bits - 1),
        }
    }

    fn value(&self, row: usize, column: usize) -> f32 {
        let group = column / self.size;
        (self.code(row, column) as i32 - self.zero(row, group) as i32) as f32 * scale(row, group)
    }

    fn pack(&self, codes: impl Iterator<Item = u32>) -> Vec<u32> {
        if self.crosses {
            return string(codes, self.bits);
        }
        let codes: Vec<u32> = codes.collect();
        codes
            .chunks((32 / self.bits) as usize)
            .flat_map(|word| string(word.to_vec(), self.bits))
            .collect()
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let Self { n, k, size, .. } = *self;
        let groups = k.div_ceil(size);
        let codes: Vec<u32> =
            (0..n).flat_map(|n| self.pack((0..k).map(|k| self.code(n, k)))).collect();
        let scales: Vec<f32> = (0..n * groups).map(|at| scale(at / groups, at % groups)).collect();
        let weights = json!({ "num_bits": self.bits, "type": "int", "symmetric": !self.asymmetric,
            "strategy": "group", "group_size": size });
        let config = json!({ "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } } });
        let checkpoint = Checkpoint::new(config)
            .words("l.weight_packed", &[n, codes.len() / n], &codes)
            .f32s("l.weight_scale", &[n, groups], &scales)
            .i64s("l.weight_shape", &[2], &[n as i64, k as i64]);
        if !self.asymmetric {
            return checkpoint;
        }
        let columns = (0..groups).map(|g| self.pack((0..n).map(|row| self.zero(row, g))));
        let zeros = transpose(&columns.flatten().collect::<Vec<_>>(), groups);
        checkpoint.words("l.weight_zero_point", &[zeros.len() / groups, groups], &zeros)
    }
}

#[test]
fn pack_quantized() {
    for bits in [2, 3, 4, 5, 6, 8] {
        for asymmetric in [false, true] {
            for crosses in [true, false] {
                // A row has no whole number of words, and the last group is short.
                let packed = Packed { bits, asymmetric, crosses, n: 21, k: 92, size: 32 };
                let zeros = match (asymmetric, bits) {
                    (false, _) => "",
                    (true, ..=4) => "-asym4",
                    _ => "-asym",
                };
                let checkpoint = packed.checkpoint();
                checkpoint.check(&format!("int{bits}-g32{zeros}"), |n, k| packed.value(n, k));
                // Without a configuration the number of words tells the bits. The group size is that
                // which divides K.
                if !asymmetric && crosses {
                    let whole = Packed { k: 96, ..packed };
                    let mut checkpoint = whole.checkpoint();
                    checkpoint.config = Value::Null;
                    checkpoint.check(&format!("int{bits}-g32"), |n, k| whole.value(n, k));
                }
            }
        }
    }
}

#[test]
fn pack_quantized_in_an_order_of_groups() {
    let packed = Packed { bits: 4, asymmetric: false, crosses: true, n: 5, k: 96, size: 32 };
    let group = |column: usize| (column * 35 + 11) % 96 / 32;
    let index: Vec<u32> = (0..96).map(|column| group(column) as u32).collect();
    let ordered = packed.checkpoint().words("l.weight_g_idx", &[96], &index);
    let value = |n: usize, k: usize| (packed.code(n, k) as i32 - 8) as f32 * scale(n, group(k));
    ordered.check("int4-g32-perm", value);
    // −1 stands for no order.
    let none = packed.checkpoint().words("l.weight_g_idx", &[96], &[u32::MAX; 96]);
    none.check("int4-g32", |n, k| packed.value(n, k));
}

#[test]
fn pack_quantized_for_the_whole_tensor() {
    let packed = Packed { bits: 4, asymmetric: false, crosses: true, n: 5, k: 16, size: 16 };
    let checkpoint = packed.checkpoint().f32s("l.weight_scale", &[1], &[0.25]).bytes(
        "l.weight_zero_point",
        Dtype::I8,
        &[1],
        &[-3i8 as u8],
    );
    checkpoint.check("int4-tensor-asym", |n, k| (packed.code(n, k) as i32 - 5) as f32 * 0.25);
}

#[test]
fn int_quantized() {
    let codes: Vec<u8> = (0..5 * 12).map(|at| random(8, at) as u8).collect();
    let checkpoint = Checkpoint::new(Value::Null)
        .bytes("l.weight", Dtype::I8, &[5, 12], &codes)
        .f32s("l.weight_scale", &[5, 1], &[0.5, 0.25, 1.0, 2.0, 4.0]);
    let code = |n: usize, k: usize| i32::from(codes[n * 12 + k] as i8);
    let scales = [0.5, 0.25, 1.0, 2.0, 4.0];
    checkpoint.check("int8-channel", |n, k| code(n, k) as f32 * scales[n]);
    let zeros = [1i8, -128, 127, 0, 5];
    let bytes = zeros.map(|zero| zero as u8);
    let asymmetric = checkpoint.clone().bytes("l.weight_zero_point", Dtype::I8, &[5, 1], &bytes);
    asymmetric
        .check("int8-channel-asym", |n, k| (code(n, k) - i32::from(zeros[n])) as f32 * scales[n]);
    let tensor = checkpoint.clone().f32s("l.weight_scale", &[], &[0.5]);
    tensor.check("int8-tensor", |n, k| code(n, k) as f32 * 0.5);
    let groups: Vec<f32> = (0..15).map(|at| scale(at / 3, at % 3)).collect();
    let groups = checkpoint.f32s("l.weight_scale", &[5, 3], &groups);
    groups.check("int8-g4", |n, k| code(n, k) as f32 * scale(n, k / 4));
}

/// A bf16 scale is widened, which is exact.
#[test]
fn scales_of_bf16() {
    let packed = Packed { bits: 4, asymmetric: false, crosses: true, n: 4, k: 32, size: 32 };
    let scales: Vec<u8> =
        (0..4).flat_map(|n| half::bf16::from_f32(scale(n, 0)).to_le_bytes()).collect();
    let checkpoint = packed.checkpoint().bytes("l.weight_scale", Dtype::BF16, &[4, 1], &scales);
    checkpoint.check("int4-channel", |n, k| packed.value(n, k));
    let weights = checkpoint.open().model.read_weight("l.weight").unwrap();
    assert_eq!(dequantize(&weights)[33], packed.value(1, 1));
}
