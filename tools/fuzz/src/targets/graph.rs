//! ONNX graphs of the operators that are understood, over a few tensors, in any combination: what
//! lies behind the decoding of messages.

use super::pick::{self, Bytes};

pub fn run(data: &[u8]) {
    super::onnx::run(&model(data));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn int(out: &mut Vec<u8>, tag: u64, value: i64) {
    varint(out, tag << 3);
    varint(out, value as u64);
}

fn bytes(out: &mut Vec<u8>, tag: u64, value: &[u8]) {
    varint(out, tag << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

const NAMES: [&str; 12] =
    ["a.weight", "b", "s", "z", "x", "y", "m.a.bias", "m.b.weight_quantized", "t", "u", "v", ""];

const OPS: [&str; 18] = [
    "DequantizeLinear",
    "MatMul",
    "Cast",
    "Mul",
    "Add",
    "Transpose",
    "Gemm",
    "Gather",
    "Conv",
    "MatMulInteger",
    "QLinearMatMul",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "Identity",
    "Constant",
    "QuantizeLinear",
    "If",
];

const ATTRIBUTES: [&str; 12] = [
    "axis",
    "block_size",
    "to",
    "perm",
    "transB",
    "transA",
    "alpha",
    "N",
    "K",
    "bits",
    "value",
    "body",
];

/// A tensor: mostly of the bytes that its type and shape need.
fn tensor(u: &mut Bytes<'_>, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let kind = pick::one_of(u, &[1i64, 3, 2, 10, 6, 21, 22, 7, 16, 8, 99]);
    let rank = pick::index(u, 4);
    let mut elements = 1usize;
    for _ in 0..rank {
        let size = match pick::byte(u) {
            small @ 0..=239 => [1i64, 2, 4, 8, 16, 32, 3, 0][usize::from(small) % 8],
            _ => u.arbitrary().unwrap_or(0),
        };
        elements = elements.saturating_mul(size.clamp(0, 1 << 20) as usize);
        int(&mut out, 1, size);
    }
    int(&mut out, 2, kind);
    bytes(&mut out, 8, name.as_bytes());
    let bits = match kind {
        1 | 6 => 32,
        7 => 64,
        10 | 16 => 16,
        21 | 22 => 4,
        _ => 8,
    };
    let need = elements.saturating_mul(bits).div_ceil(8).min(1 << 12);
    match pick::byte(u) {
        0..=223 => {
            let fill = pick::byte(u);
            // Floats that are scales: the top byte of 1.0 and its like.
            let pattern = |at: usize| match kind {
                1 if at % 4 == 3 => 0x3f ^ (fill & 0x80),
                1 => 0,
                10 if at % 2 == 1 => 0x3c ^ (fill & 0x80),
                10 => 0,
                _ => fill.wrapping_add(at as u8),
            };
            let data: Vec<u8> = (0..need).map(pattern).collect();
            bytes(&mut out, 9, &data);
        }
        224..=239 => {
            let mut packed = Vec::new();
            (0..need).for_each(|at| varint(&mut packed, at as u64 % 17));
            bytes(&mut out, if kind == 7 { 7 } else { 5 }, &packed);
        }
        240..=247 => {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, b"location");
            bytes(&mut entry, 2, b"../beside");
            bytes(&mut out, 13, &entry);
            int(&mut out, 14, 1);
        }
        _ => {
            let count = pick::index(u, 8).min(u.len());
            bytes(&mut out, 9, u.bytes(count).unwrap_or(&[]));
        }
    }
    out
}

fn attribute(u: &mut Bytes<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let name = pick::one_of(u, &ATTRIBUTES);
    bytes(&mut out, 1, name.as_bytes());
    match name {
        "perm" => [1, 0].iter().for_each(|&axis| int(&mut out, 8, axis)),
        "alpha" => {
            varint(&mut out, 2 << 3 | 5);
            out.extend(f32::from(pick::byte(u)).to_le_bytes());
        }
        "value" => {
            let value = tensor(u, "value");
            bytes(&mut out, 5, &value);
        }
        "body" => bytes(&mut out, 6, &[]),
        _ => {
            let value = match pick::byte(u) {
                small @ 0..=223 => [0, 1, -1, 4, 8, 16, 32, 10, 2, 3][usize::from(small) % 10],
                _ => u.arbitrary().unwrap_or(0),
            };
            int(&mut out, 3, value);
        }
    }
    out
}

fn node(u: &mut Bytes<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..pick::index(u, 7) {
        bytes(&mut out, 1, pick::one_of(u, &NAMES).as_bytes());
    }
    // Outputs are unique in a graph, mostly.
    for _ in 0..1 + pick::index(u, 2) {
        let name = match pick::byte(u) {
            own @ 0..=31 => NAMES[usize::from(own) % NAMES.len()].to_owned(),
            own => NAMES[usize::from(own) % 11].to_owned() + if own > 128 { "_o" } else { "" },
        };
        bytes(&mut out, 2, name.as_bytes());
    }
    bytes(&mut out, 3, pick::one_of(u, &["/a/b/MatMul", "", "n", "/m/Gemm"]).as_bytes());
    let op = pick::one_of(u, &OPS);
    bytes(&mut out, 4, op.as_bytes());
    for _ in 0..pick::index(u, 5) {
        let attribute = attribute(u);
        bytes(&mut out, 5, &attribute);
    }
    let foreign = ["DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits"].contains(&op);
    if foreign != pick::rarely(u) {
        bytes(&mut out, 7, b"com.microsoft");
    }
    out
}

/// The file that an input stands for.
pub fn model(data: &[u8]) -> Vec<u8> {
    let mut u = Bytes::new(data);
    let mut graph = Vec::new();
    for name in &NAMES[..pick::index(&mut u, NAMES.len())] {
        let tensor = tensor(&mut u, name);
        bytes(&mut graph, 5, &tensor);
    }
    for _ in 0..pick::index(&mut u, 12) {
        let node = node(&mut u);
        bytes(&mut graph, 1, &node);
    }
    let mut model = Vec::new();
    bytes(&mut model, 7, &graph);
    model
}
