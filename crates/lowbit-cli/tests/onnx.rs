//! ONNX files: written here byte by byte, written by ONNX Runtime's own tools
//! (`tests/fixtures/onnx`), damaged, and a real one, which `make model` fetches; without
//! it that test is skipped, unless `LOWBIT_REQUIRE_MODEL=1`.

use crate::sentences::{cosine, sentences};
use half::f16;
use lowbit::compress::dequantize;
use lowbit::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, PackedWeights, Quantization,
};
use lowbit::host::Host;
use lowbit::ops::DeviceWeights;
use lowbit_models::bert::{Dense, Encoder, Error};
use lowbit_models::checkpoint::onnx::{OnnxError, OnnxFile, OnnxWeight};
use lowbit_models::checkpoint::{Content, Dtype, ModelFile, read_compressed, write_model};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

/// Protobuf, as little of it as models need.
pub mod wire {
    pub fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    pub fn int(tag: u64, value: i64) -> Vec<u8> {
        [varint(tag << 3), varint(value as u64)].concat()
    }

    pub fn bytes(tag: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
        let value = value.as_ref();
        [varint(tag << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
    }

    pub fn float(tag: u64, value: f32) -> Vec<u8> {
        [varint(tag << 3 | 5), value.to_le_bytes().to_vec()].concat()
    }

    /// The fields of a message: tag, and bytes or a number.
    pub fn fields(mut message: &[u8]) -> Vec<(u64, Result<&[u8], u64>)> {
        let mut fields = Vec::new();
        while !message.is_empty() {
            let key = read(&mut message);
            let value = read(&mut message);
            fields.push(match key & 7 {
                0 => (key >> 3, Err(value)),
                2 => {
                    let (own, rest) = message.split_at(value as usize);
                    message = rest;
                    (key >> 3, Ok(own))
                }
                other => panic!("wire type {other}"),
            });
        }
        fields
    }

    fn read(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (&byte, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
}

pub const FLOAT: i64 = 1;
pub const UINT8: i64 = 2;
pub const INT8: i64 = 3;
pub const INT32: i64 = 6;
pub const HALF: i64 = 10;
pub const UINT4: i64 = 21;
pub const INT4: i64 = 22;

/// A tensor without data.
pub fn header(name: &str, kind: i64, dims: &[i64]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|&size| wire::int(1, size)).collect();
    [dims, wire::int(2, kind), wire::bytes(8, name)].concat()
}

pub fn tensor(name: &str, kind: i64, dims: &[i64], raw: &[u8]) -> Vec<u8> {
    [header(name, kind, dims), wire::bytes(9, raw)].concat()
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> Vec<u8> {
    tensor(name, FLOAT, dims, &le(values))
}

pub fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn attribute(name: &str, value: i64) -> Vec<u8> {
    wire::bytes(5, [wire::bytes(1, name), wire::int(3, value), wire::int(20, 2)].concat())
}

/// `Transpose`'s permutation of a matrix.
pub fn perm() -> Vec<u8> {
    let ints = [wire::int(8, 1), wire::int(8, 0), wire::int(20, 7)].concat();
    wire::bytes(5, [wire::bytes(1, "perm"), ints].concat())
}

/// A node: `op`, or `domain:op`; its name; inputs and outputs between blanks (`-` is an
/// absent one); attributes.
pub fn node(op: &str, name: &str, inputs: &str, outputs: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let (domain, op) = op.split_once(':').unwrap_or(("", op));
    let names = |tag, text: &str| -> Vec<u8> {
        let names = text.split_whitespace();
        names.flat_map(|name| wire::bytes(tag, if name == "-" { "" } else { name })).collect()
    };
    [
        names(1, inputs),
        names(2, outputs),
        wire::bytes(3, name),
        wire::bytes(4, op),
        attributes.concat(),
        wire::bytes(7, domain),
    ]
    .concat()
}

pub fn graph(nodes: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
    let nodes = nodes.iter().flat_map(|node| wire::bytes(1, node));
    nodes.chain(tensors.iter().flat_map(|tensor| wire::bytes(5, tensor))).collect()
}

pub fn model(nodes: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
    [wire::int(1, 8), wire::bytes(7, graph(nodes, tensors))].concat()
}

pub fn open(nodes: &[Vec<u8>], tensors: &[Vec<u8>]) -> OnnxFile {
    OnnxFile::from_bytes(model(nodes, tensors)).unwrap()
}

pub fn error(nodes: &[Vec<u8>], tensors: &[Vec<u8>]) -> OnnxError {
    OnnxFile::from_bytes(model(nodes, tensors)).unwrap_err()
}

/// Bytes that differ, −128 not among them.
pub fn codes(count: usize) -> Vec<u8> {
    (0..count).map(|i| ((i * 37 + 11) % 255) as i32 - 127).map(|code| code as i8 as u8).collect()
}

pub fn scales(count: usize) -> Vec<f32> {
    (0..count).map(|i| 0.01 * (i + 1) as f32).collect()
}

/// The only weight, which every element of must be `(code, zero point, scale)`.
pub fn only(
    model: &OnnxFile,
    format: &str,
    (n, k): (usize, usize),
    want: impl Fn(usize, usize) -> (i32, i32, f32),
) -> OnnxWeight {
    let [weight] = model.weights() else { panic!("{model:?}") };
    assert_eq!((weight.format.to_string().as_str(), &weight.shape[..]), (format, &[n, k][..]));
    check(&model.read_weight(&weight.name).unwrap(), (n, k), want);
    weight.clone()
}

pub fn check(
    packed: &PackedWeights,
    (n, k): (usize, usize),
    want: impl Fn(usize, usize) -> (i32, i32, f32),
) {
    assert_eq!((packed.n(), packed.k()), (n, k));
    for row in 0..n {
        for column in 0..k {
            let group = packed.geometry().group_of(column);
            let have =
                (packed.code(row, column), packed.zero(row, group), packed.scale(row, group));
            assert_eq!(have, want(row, column), "row {row}, column {column}");
        }
    }
}

pub fn names(model: &OnnxFile) -> Vec<&str> {
    model.tensors().iter().map(|tensor| tensor.name.as_str()).collect()
}

/// Returns the values that are left out, as `op name: why`.
pub fn left(model: &OnnxFile) -> Vec<String> {
    let line = |left: &lowbit_models::checkpoint::onnx::LeftOut| {
        format!("{} {}: {}", left.op, left.name, left.why)
    };
    model.left_out().iter().map(line).collect()
}

/// `[K, N]` by `[1, N]` scales, `N = 3`, `K = 5`: the codes arrive transposed.
#[test]
fn casts() {
    let (q, s) = (codes(15), scales(3));
    let parts = [
        tensor("val_4_q", INT8, &[5, 3], &q),
        floats("val_4_scale", &[1, 3], &s),
        floats("a.query.bias", &[3], &[1.0, 2.0, 3.0]),
    ];
    let want = |n: usize, k: usize| (i32::from(q[k * 3 + n] as i8), 0, s[n]);
    let cast = node("Cast", "", "val_4_q", "f", &[attribute("to", 1)]);
    for nodes in [
        // Dequantized first, the scales on either side.
        vec![
            cast.clone(),
            node("Mul", "", "f val_4_scale", "w", &[]),
            node("MatMul", "m", "x w", "y", &[]),
            node("Add", "", "y a.query.bias", "z", &[]),
        ],
        vec![
            cast.clone(),
            node("Mul", "", "val_4_scale f", "w", &[]),
            node("Identity", "", "w", "v", &[]),
            node("MatMul", "m", "x v", "y", &[]),
            node("Add", "", "a.query.bias y", "z", &[]),
        ],
        // Multiplied first.
        vec![
            cast.clone(),
            node("MatMul", "m", "x f", "p", &[]),
            node("Mul", "", "p val_4_scale", "y", &[]),
            node("Add", "", "y a.query.bias", "z", &[]),
        ],
    ] {
        let model = open(&nodes, &parts);
        let weight = only(&model, "int8-channel", (3, 5), want);
        assert_eq!(weight.name, "a.query.weight");
        assert_eq!((weight.source.as_str(), weight.op.as_str()), ("val_4_q", "MatMul"));
        assert_eq!(weight.bias.as_deref(), Some("a.query.bias"));
        assert_eq!(names(&model), ["a.query.bias"]);
        assert_eq!(*model.read_tensor("a.query.bias").unwrap(), le(&[1.0, 2.0, 3.0]));
        assert_eq!(left(&model), [""; 0]);
    }
}

/// Rows that are looked up, and rows of `[N, K]`, stay rows; one weight may be both.
#[test]
fn rows() {
    let (q, s) = (codes(15), scales(5));
    let parts = [tensor("e.weight_q", INT8, &[5, 3], &q), floats("e.weight_scale", &[5, 1], &s)];
    let want = |n: usize, k: usize| (i32::from(q[n * 3 + k] as i8), 0, s[n]);
    let made = [
        node("Cast", "", "e.weight_q", "f", &[attribute("to", 1)]),
        node("Mul", "", "f e.weight_scale", "e.weight", &[]),
    ];
    let gather = [node("Gather", "g", "e.weight ids", "y", &[])];
    let gemm = [node("Gemm", "g", "x e.weight", "z", &[attribute("transB", 1)])];
    let transposed =
        [node("Transpose", "", "e.weight", "t", &[perm()]), node("MatMul", "m", "x t", "u", &[])];
    for uses in [
        gather.to_vec(),
        gemm.to_vec(),
        transposed.to_vec(),
        [&gather[..], &gemm, &transposed].concat(),
    ] {
        let model = open(&[&made[..], &uses].concat(), &parts);
        let weight = only(&model, "int8-channel", (5, 3), want);
        assert_eq!(weight.name, "e.weight");
        assert_eq!((names(&model).len(), left(&model).len()), (0, 0));
    }
    // Looked up by rows and multiplied with by columns: that is two matrices.
    let both = [&made[..], &gather, &[node("MatMul", "m", "x e.weight", "u", &[])]].concat();
    let model = open(&both, &parts);
    only(&model, "int8-channel", (5, 3), want);
    assert_eq!(left(&model), ["MatMul m: its weight is used in another way by `g`"]);
    // Nothing of it is lost, so its parts are not copied as well.
    assert_eq!(names(&model).len(), 0);
}

/// A convolution's weight is `[O, I, H, W]`, its matrix `[O, I·H·W]`.
#[test]
fn convolutions() {
    let (q, s) = (codes(24), scales(2));
    let parts = [tensor("c.weight", INT8, &[2, 3, 2, 2], &q), floats("s", &[2], &s)];
    let nodes = [
        node("DequantizeLinear", "", "c.weight s", "w", &[attribute("axis", 0)]),
        node("Conv", "", "x w", "y", &[]),
    ];
    let model = open(&nodes, &parts);
    assert_eq!(model.weights()[0].shape, [2, 3, 2, 2]);
    let packed = model.read_weight("c.weight").unwrap();
    check(&packed, (2, 12), |n, k| (i32::from(q[n * 12 + k] as i8), 0, s[n]));
}

/// Every form of `DequantizeLinear`, in front of `[K, N]` and `[N, K]`.
#[test]
fn dequantize_linear() {
    let (n, k) = (3, 8);
    // Raw bytes of 8-bit elements; 4-bit ones take half of them.
    let q = codes(n * k);
    let nibble = |bytes: &[u8], at: usize| i32::from(bytes[at / 2] >> (at % 2 * 4) & 0xf);
    for by_rows in [false, true] {
        let dims = if by_rows { [n as i64, k as i64] } else { [k as i64, n as i64] };
        let at =
            |row: usize, column: usize| if by_rows { row * k + column } else { column * n + row };
        let run =
            |kind: i64, data: &[u8], scale: Vec<u8>, zero: Option<Vec<u8>>, extra: &[Vec<u8>]| {
                let mut tensors = vec![tensor("w.weight_quantized", kind, &dims, data), scale];
                tensors.extend(zero.clone());
                let inputs =
                    if zero.is_some() { "w.weight_quantized s z" } else { "w.weight_quantized s" };
                let trans = attribute("transB", i64::from(by_rows));
                let nodes = [
                    node("DequantizeLinear", "d", inputs, "w", extra),
                    node("Gemm", "g", "x w", "y", &[trans]),
                ];
                let model = open(&nodes, &tensors);
                assert_eq!(left(&model), [""; 0]);
                assert_eq!(names(&model), [""; 0]);
                model
            };
        let channel = i64::from(!by_rows);
        let axis = || vec![attribute("axis", channel)];
        let s = scales(n);
        let per_row = || floats("s", &[n as i64], &s);

        // int8, per tensor: a scalar, or one element.
        for dims in [&[][..], &[1]] {
            let model = run(INT8, &q, floats("s", dims, &[0.5]), None, &[]);
            only(&model, "int8-tensor", (n, k), |r, c| (i32::from(q[at(r, c)] as i8), 0, 0.5));
        }
        // int8, per channel, the axis counted from either end; zero points that are 0.
        for (axis, zero) in [(channel, None), (channel - 2, Some(vec![0u8; n]))] {
            let zero = zero.map(|zero| tensor("z", INT8, &[n as i64], &zero));
            let model = run(INT8, &q, per_row(), zero, &[attribute("axis", axis)]);
            let weight = only(&model, "int8-channel", (n, k), |r, c| {
                (i32::from(q[at(r, c)] as i8), 0, s[r])
            });
            assert_eq!(weight.name, "w.weight");
        }
        // A code of −128 is no symmetric one.
        let mut low = q.clone();
        low[5] = 0x80;
        let model = run(INT8, &low, per_row(), None, &axis());
        only(&model, "int8-channel-asym", (n, k), |r, c| (i32::from(low[at(r, c)] as i8), 0, s[r]));
        // Zero points, of which one is not 0.
        let zeros = [0, 0x85, 7];
        let zero = Some(tensor("z", INT8, &[n as i64], &zeros));
        let model = run(INT8, &q, per_row(), zero, &axis());
        only(&model, "int8-channel-asym", (n, k), |r, c| {
            (i32::from(q[at(r, c)] as i8), i32::from(zeros[r] as i8), s[r])
        });
        // uint8 is stored minus 128: with zero points of 128 it is symmetric, without any
        // zero is the lowest code.
        let middle = Some(tensor("z", UINT8, &[n as i64], &vec![128; n]));
        let high: Vec<u8> = q.iter().map(|&code| code.max(1)).collect();
        let model = run(UINT8, &high, per_row(), middle, &axis());
        only(&model, "int8-channel", (n, k), |r, c| (i32::from(high[at(r, c)]) - 128, 0, s[r]));
        let model = run(UINT8, &q, per_row(), None, &axis());
        only(&model, "int8-channel-asym", (n, k), |r, c| {
            (i32::from(q[at(r, c)]) - 128, -128, s[r])
        });
        // f16 scales stay f16, unless one is subnormal.
        let halves = |smallest: f32| {
            let halves = [0.5, 0.25, smallest].map(f16::from_f32);
            let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            (tensor("s", HALF, &[n as i64], &bytes), halves.map(f16::to_f32))
        };
        for (smallest, format) in [(0.125, "int8-channel-f16s"), (1e-6, "int8-channel")] {
            let (scale, values) = halves(smallest);
            let model = run(INT8, &q, scale, None, &axis());
            only(&model, format, (n, k), |r, c| (i32::from(q[at(r, c)] as i8), 0, values[r]));
        }
        // 4 bits in blocks of 3 along K, the last one shorter.
        let groups = 3;
        let s = scales(n * groups);
        let dims = if by_rows { [n as i64, 3] } else { [3, n as i64] };
        let place = |r: usize, c: usize| if by_rows { r * 3 + c / 3 } else { c / 3 * n + r };
        let blocks = [attribute("axis", 1 - channel), attribute("block_size", 3)];
        let half = &q[..n * k / 2];
        let model = run(INT4, half, floats("s", &dims, &s), None, &blocks);
        only(&model, "int4-g3", (n, k), |r, c| {
            let signed = (nibble(half, at(r, c)) ^ 8) - 8;
            (signed + 8, 8, s[place(r, c)])
        });
        let zeros = &codes(40)[20..25];
        let zero = Some(tensor("z", UINT4, &dims, zeros));
        let model = run(UINT4, half, floats("s", &dims, &s), zero, &blocks);
        only(&model, "int4-g3-asym", (n, k), |r, c| {
            (nibble(half, at(r, c)), nibble(zeros, place(r, c)), s[place(r, c)])
        });
    }
}

/// Operators that take codes, scale and zero point themselves: `[K, N]`, uint8.
#[test]
fn integer_matmuls() {
    let (q, s, z) = (codes(15), scales(3), [100, 128, 140]);
    let parts = [
        tensor("q", UINT8, &[5, 3], &q),
        floats("s", &[3], &s),
        tensor("z", UINT8, &[3], &z),
        floats("b", &[3], &[1.0, 2.0, 3.0]),
    ];
    let add = node("Add", "", "p b", "y", &[]);
    let nodes: [Vec<Vec<u8>>; 4] = [
        vec![
            node("DynamicQuantizeLinear", "", "x", "xq xs xz", &[]),
            node("Mul", "", "xs s", "both", &[]),
            node("MatMulInteger", "/a/fc/MatMul_quant", "xq q xz z", "i", &[]),
            node("Cast", "", "i", "f", &[attribute("to", 1)]),
            node("Mul", "", "f both", "p", &[]),
            add.clone(),
        ],
        vec![node("QLinearMatMul", "/a/fc/MatMul", "xq xs xz q s z ys yz", "p", &[])],
        vec![node("com.microsoft:DynamicQuantizeMatMul", "/a/fc/MatMul", "x q s z b", "y", &[])],
        vec![node(
            "com.microsoft:MatMulIntegerToFloat",
            "/a/fc/MatMul",
            "xq q xs s xz z b",
            "y",
            &[],
        )],
    ];
    for (index, nodes) in nodes.iter().enumerate() {
        let model = open(nodes, &parts);
        if index == 1 {
            // Its product is quantized before a bias is added.
            assert_eq!(names(&model), ["b"]);
        } else {
            assert_eq!(names(&model), ["a.fc.bias"]);
            assert_eq!(model.weights()[0].bias.as_deref(), Some("a.fc.bias"));
        }
        let weight = only(&model, "int8-channel-asym", (3, 5), |r, c| {
            (i32::from(q[c * 3 + r]) - 128, i32::from(z[r]) - 128, s[r])
        });
        assert_eq!(weight.name, "a.fc.weight");
        assert_eq!(left(&model), [""; 0]);
    }
}

/// `MatMulNBits`, K = 40 in blocks of 16: the last block is padded.
#[test]
fn matmul_n_bits() {
    let (n, k, blocks) = (3, 40, 3);
    let (mut q, s) = (codes(n * blocks * 16), scales(n * blocks));
    // −128 in the crate's domain.
    q[2] = 0;
    let nibble = |bytes: &[u8], at: usize| i32::from(bytes[at / 2] >> (at % 2 * 4) & 0xf);
    let run = |bits: i64, zero: Option<Vec<u8>>, bias: bool| {
        let size = 2 * bits;
        let bytes = n * blocks * size as usize;
        let mut tensors = vec![
            tensor("q", UINT8, &[n as i64, blocks as i64, size], &q[..bytes]),
            floats("s", &[(n * blocks) as i64], &s),
            floats("fc.bias", &[n as i64], &[0.0; 3]),
        ];
        let zeros = if zero.is_some() { "z" } else { "-" };
        tensors.extend(zero.map(|zero| tensor("z", UINT8, &[zero.len() as i64], &zero)));
        let inputs = format!("x q s {zeros} - {}", if bias { "fc.bias" } else { "-" });
        let mut attributes = vec![attribute("N", n as i64), attribute("K", k as i64)];
        attributes.extend([attribute("bits", bits), attribute("block_size", 16)]);
        let model =
            open(&[node("com.microsoft:MatMulNBits", "", &inputs, "y", &attributes)], &tensors);
        assert_eq!(left(&model), [""; 0]);
        model
    };
    let scale = |r: usize, c: usize| s[r * blocks + c / 16];
    let weight = only(&run(4, None, true), "int4-g16", (n, k), |r, c| {
        (nibble(&q, r * 48 + c), 8, scale(r, c))
    });
    assert_eq!((weight.name.as_str(), weight.bias.as_deref()), ("fc.weight", Some("fc.bias")));
    // Three zero points a row take two bytes.
    let zeros = &q[7..13];
    only(&run(4, Some(zeros.to_vec()), false), "int4-g16-asym", (n, k), |r, c| {
        (nibble(&q, r * 48 + c), nibble(zeros, r * 4 + c / 16), scale(r, c))
    });
    let zeros = &q[7..16];
    only(&run(8, Some(zeros.to_vec()), false), "int8-g16-asym", (n, k), |r, c| {
        (i32::from(q[r * 48 + c]) - 128, i32::from(zeros[r * 3 + c / 16]) - 128, scale(r, c))
    });
    // A code of 0 is −128 here, so that even this one needs its zero points.
    only(&run(8, None, false), "int8-g16-asym", (n, k), |r, c| {
        (i32::from(q[r * 48 + c]) - 128, 0, scale(r, c))
    });
}

/// Weights that ONNX Runtime's quantizers wrote: what they stand for is what the runtime
/// itself makes of them, one rounding of the product apart.
#[test]
fn onnx_runtime_fixtures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lowbit-models/tests/fixtures/onnx");
    for (name, format, left_out) in [
        ("dynamic_uint8", "int8-tensor-asym", 0),
        ("dynamic_int8_channel", "int8-channel", 0),
        // X and Y are quantized, with scales of their own.
        ("qdq_int8_channel", "int8-channel", 4),
        ("nbits4_asym", "int4-g16-asym", 0),
        // Its symmetric scales are negative where the lowest weight is the largest.
        ("nbits4_sym", "int4-g32-asym", 0),
        ("nbits8_asym", "int8-g16-asym", 0),
    ] {
        let model = OnnxFile::open(folder.join(format!("{name}.onnx"))).unwrap();
        assert_eq!(model.left_out().len(), left_out, "{name}: {:?}", left(&model));
        let [weight] = model.weights() else { panic!("{name}: {model:?}") };
        assert_eq!(
            (weight.name.as_str(), weight.shape.as_slice()),
            ("encoder.dense.weight", &[24, 40][..])
        );
        assert_eq!(weight.bias.as_deref(), Some("encoder.dense.bias"), "{name}");
        assert_eq!(weight.format.to_string(), format, "{name}");
        let bias =
            model.tensors().iter().find(|tensor| tensor.name == "encoder.dense.bias").unwrap();
        assert_eq!((bias.dtype, bias.shape.as_slice()), (Dtype::F32, &[24][..]), "{name}");
        let have = dequantize(&model.read_weight(&weight.name).unwrap());
        let want = fs::read(folder.join(format!("{name}.f32"))).unwrap();
        let want: Vec<f32> =
            want.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        assert_eq!(have.len(), want.len());
        for (at, (have, want)) in have.iter().zip(&want).enumerate() {
            assert!(
                (have - want).abs() <= want.abs() * f32::EPSILON,
                "{name}: element {at}: {have}, not {want}"
            );
        }
    }
}

/// Where names come from, in order.
#[test]
fn parameter_names() {
    let linear = |tensor_name: &str, bias: &str, scope: &str| {
        let nodes = [
            node("DequantizeLinear", "", &format!("{tensor_name} s"), "w", &[]),
            node("MatMul", scope, "x w", "y", &[]),
            node("Add", "", &format!("{bias} y"), "z", &[]),
        ];
        let tensors = [
            tensor(tensor_name, INT8, &[2, 2], &[1, 2, 3, 4]),
            floats("s", &[], &[1.0]),
            floats(bias, &[2], &[5.0, 6.0]),
        ];
        let model = open(&nodes, &tensors);
        let weight = &model.weights()[0];
        (weight.name.clone(), weight.bias.clone().unwrap())
    };
    for (given, want) in [
        (("a.weight_quantized", "b.bias", "/c/MatMul"), ("a.weight", "b.bias")),
        (("onnx::MatMul_9", "b.bias", "/c/MatMul"), ("b.weight", "b.bias")),
        (("onnx::MatMul_9", "onnx::Add_8", "/c/d.0/MatMul"), ("c.d.0.weight", "c.d.0.bias")),
        (("onnx::MatMul_9", "onnx::Add_8", "MatMul_3"), ("onnx::MatMul_9", "onnx::Add_8")),
    ] {
        let have = linear(given.0, given.1, given.2);
        assert_eq!((have.0.as_str(), have.1.as_str()), want, "{given:?}");
    }
}

/// Two weights in one scope, and a name that another tensor has: their own names.
#[test]
fn names_are_unique() {
    let weight = |name: &str| tensor(name, INT8, &[2, 2], &[1, 2, 3, 4]);
    let one = floats("s", &[], &[1.0]);
    let dequantize =
        |name: &str, out: &str| node("DequantizeLinear", "", &format!("{name} s"), out, &[]);
    let model = open(
        &[
            dequantize("p", "u"),
            dequantize("q", "v"),
            node("MatMul", "/a/MatMul", "x u", "y", &[]),
            node("MatMul", "/a/MatMul_1", "y v", "z", &[]),
        ],
        &[weight("p"), weight("q"), one.clone()],
    );
    let names: Vec<_> = model.weights().iter().map(|weight| weight.name.as_str()).collect();
    assert_eq!(names, ["p", "q"]);
    let model = open(
        &[dequantize("p", "u"), node("MatMul", "/a/MatMul", "x u", "y", &[])],
        &[weight("p"), one, floats("a.weight", &[1], &[1.0])],
    );
    assert_eq!(model.weights()[0].name, "p");
}

/// A float `[K, N]` whose name an exporter made takes its parameter's name and order; what has the name of
/// a parameter, or is used in any other way, stays as it is.
#[test]
fn float_weights() {
    let w = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let matmul = |name: &str, scope: &str| node("MatMul", scope, &format!("x {name}"), "y", &[]);
    let model =
        open(&[matmul("onnx::MatMul_1", "/a/MatMul")], &[floats("onnx::MatMul_1", &[3, 2], &w)]);
    let [tensor] = model.tensors() else { panic!("{model:?}") };
    assert_eq!((tensor.name.as_str(), tensor.shape.as_slice()), ("a.weight", &[2, 3][..]));
    assert_eq!(*model.read_tensor("a.weight").unwrap(), le(&[1.0, 3.0, 5.0, 2.0, 4.0, 6.0]));
    for (name, scope, more) in [
        ("kernel", "MatMul_3", None),
        ("kernel", "/a/MatMul", None),
        ("a.weight", "/a/MatMul", Some(node("Gather", "", "a.weight ids", "z", &[]))),
        ("kernel", "/a/MatMul", Some(node("Gather", "", "kernel ids", "z", &[]))),
    ] {
        let nodes: Vec<_> = [matmul(name, scope)].into_iter().chain(more).collect();
        let model = open(&nodes, &[floats(name, &[3, 2], &w)]);
        assert_eq!((names(&model), model.tensors()[0].shape.as_slice()), (vec![name], &[3, 2][..]));
        assert_eq!(*model.read_tensor(name).unwrap(), le(&w));
    }
}

/// Int32 biases become what `DequantizeLinear` makes of them.
#[test]
fn quantized_bias() {
    let ints: Vec<u8> = [7i32, -300_000].iter().flat_map(|v| v.to_le_bytes()).collect();
    let model = open(
        &[
            node("DequantizeLinear", "", "a.weight_quantized s", "w", &[]),
            node("DequantizeLinear", "", "a.bias_quantized t", "b", &[attribute("axis", 0)]),
            node("Gemm", "", "x w b", "y", &[]),
        ],
        &[
            tensor("a.weight_quantized", INT8, &[2, 2], &[1, 2, 3, 4]),
            floats("s", &[], &[1.0]),
            tensor("a.bias_quantized", INT32, &[2], &ints),
            floats("t", &[2], &[0.5, 0.25]),
        ],
    );
    assert_eq!((left(&model).len(), names(&model)), (0, vec!["a.bias"]));
    assert_eq!(model.weights()[0].bias.as_deref(), Some("a.bias"));
    assert_eq!(*model.read_tensor("a.bias").unwrap(), le(&[3.5, -75_000.0]));
}

/// Nothing of a weight is lost silently: what is not understood is named, and its tensors
/// are copied.
#[test]
fn what_is_left_out() {
    let q = tensor("q", INT8, &[2, 2], &[1, 2, 3, 4]);
    let s = floats("s", &[2], &[1.0, 2.0]);
    let dequantize = node("DequantizeLinear", "d", "q s", "w", &[attribute("axis", 1)]);
    let microsoft = "com.microsoft:MatMulNBits";
    let bits = [attribute("N", 2), attribute("K", 16), attribute("block_size", 16)];
    let subgraph = |name: &str| {
        wire::bytes(5, [wire::bytes(1, name), wire::bytes(6, graph(&[], &[]))].concat())
    };
    let cases: Vec<(Vec<Vec<u8>>, &[&str])> = vec![
        (
            vec![dequantize.clone(), node("Foo", "f", "w", "y", &[])],
            &["DequantizeLinear d: ", "Foo f: takes the quantized `w`"],
        ),
        (
            // Scales along K.
            vec![
                node("DequantizeLinear", "d", "q s", "w", &[attribute("axis", 0)]),
                node("MatMul", "m", "x w", "y", &[]),
            ],
            &["DequantizeLinear d: ", "MatMul m: its scales are per input channel"],
        ),
        (
            vec![dequantize.clone(), node("Gemm", "g", "x w", "y", &[attribute("transA", 1)])],
            &["DequantizeLinear d: ", "Gemm g: alpha, beta or transA"],
        ),
        (vec![node("DequantizeLinear", "d", "x s", "w", &[])], &["DequantizeLinear d: "]),
        (vec![node("QuantizeLinear", "d", "x s", "w", &[])], &["QuantizeLinear d: "]),
        (vec![node("MatMulInteger", "m", "x q", "y", &[])], &["MatMulInteger m: the scale"]),
        (vec![node("ConvInteger", "m", "x q", "y", &[])], &["ConvInteger m: "]),
        (vec![node("QLinearMatMul", "m", "x a b q t", "y", &[])], &["QLinearMatMul m: "]),
        (vec![node("com.microsoft:MatMulBnb4", "m", "x q", "y", &[])], &["MatMulBnb4 m: "]),
        (vec![node(microsoft, "m", "x q s", "y", &bits)], &["MatMulNBits m: its weight is not U8"]),
        (vec![node(microsoft, "m", "x q s", "y", &[])], &["MatMulNBits m: its N, K or block_size"]),
        (
            vec![node(microsoft, "m", "x q s", "y", &[attribute("bits", 2)])],
            &["MatMulNBits m: only 4 and 8"],
        ),
        (
            vec![node(microsoft, "m", "x q s - order", "y", &bits)],
            &["MatMulNBits m: an order of input channels"],
        ),
        (vec![node("If", "i", "x", "y", &[subgraph("then_branch")])], &["If i: its graphs"]),
    ];
    for (nodes, want) in cases {
        let model = open(&nodes, &[q.clone(), s.clone()]);
        let have = left(&model);
        assert_eq!(have.len(), want.len(), "{have:?}");
        for (have, want) in have.iter().zip(want) {
            assert!(have.starts_with(want), "{have}, not {want}");
        }
        assert_eq!((model.weights().len(), names(&model)), (0, vec!["q", "s"]));
    }
    // Tensors that a safetensors file cannot hold, functions, sparse tensors.
    let sparse = wire::bytes(15, wire::bytes(1, floats("p", &[1], &[1.0])));
    let tensors =
        [header("text", 8, &[1]), header("tiny", 17, &[1]), tensor("n", INT4, &[2], &[0x21])];
    let function = wire::bytes(25, wire::bytes(1, "fn"));
    let whole = [wire::bytes(7, [graph(&[], &tensors), sparse].concat()), function].concat();
    let model = OnnxFile::from_bytes(whole).unwrap();
    assert_eq!(
        left(&model),
        [
            "function fn: functions are not read",
            "sparse initializer p: sparse initializers are not read",
            "initializer text: elements of STRING cannot be copied",
            "initializer tiny: elements of FLOAT8E4M3FN cannot be copied",
            "initializer n: elements of I4 cannot be copied",
        ]
    );
    assert_eq!(model.tensors().len(), 0);
}

/// Under a negative scale codes and zero points are turned over, so that every weight stays
/// what it is; other channels keep theirs.
#[test]
fn negative_scales() {
    let (q, s) = (codes(8), [0.5, -0.25]);
    for (kind, data, dims, format) in [
        (INT8, &q[..], [2, 4], "int8-channel-asym"),
        (UINT8, &q, [2, 4], "int8-channel-asym"),
        (INT4, &q[..4], [2, 4], "int4-channel-asym"),
        (UINT4, &q[..4], [2, 4], "int4-channel-asym"),
    ] {
        let model = open(
            &[
                node("DequantizeLinear", "", "w.weight s", "w", &[attribute("axis", 0)]),
                node("Gemm", "", "x w", "y", &[attribute("transB", 1)]),
            ],
            &[tensor("w.weight", kind, &dims, data), floats("s", &[2], &s)],
        );
        assert_eq!(model.weights()[0].format.to_string(), format);
        let nibble = |at: usize| i32::from(data[at / 2] >> (at % 2 * 4) & 0xf);
        let value = |at: usize| match kind {
            INT8 => i32::from(data[at] as i8),
            UINT8 => i32::from(data[at]),
            INT4 => (nibble(at) ^ 8) - 8,
            _ => nibble(at),
        };
        // Small integers times powers of two: nothing rounds.
        let want: Vec<f32> = (0..8).map(|at| value(at) as f32 * s[at / 4]).collect();
        let packed = model.read_weight("w.weight").unwrap();
        assert_eq!(dequantize(&packed), want, "type {kind}");
        assert_eq!((packed.scale(0, 0), packed.scale(1, 0)), (0.5, 0.25));
    }
}

/// A weight with a scale that is no number is left out by name, and what it is made of is copied.
#[test]
fn bad_scales() {
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let model = open(
            &[
                node("DequantizeLinear", "", "w.weight s", "w", &[]),
                node("MatMul", "", "x w", "y", &[]),
            ],
            &[tensor("w.weight", INT8, &[2, 2], &[1, 2, 3, 4]), floats("s", &[], &[scale])],
        );
        assert_eq!((model.weights().len(), names(&model)), (0, vec!["s", "w.weight"]));
        let left = left(&model);
        let why = format!("MatMul y: the scale of row 0, group 0 is {scale}");
        assert!(left.len() == 2 && left[1] == why, "{left:?}");
    }
}

/// Data in the fields of their types are what they are as raw bytes.
#[test]
fn typed_data() {
    let packed = |tag: u64, values: &[i64]| {
        let values: Vec<u8> = values.iter().flat_map(|&v| wire::varint(v as u64)).collect();
        wire::bytes(tag, values)
    };
    for (kind, data, raw) in [
        (FLOAT, wire::bytes(4, le(&[1.5, -2.0])), le(&[1.5, -2.0])),
        // Not packed, as old writers have it.
        (FLOAT, [wire::float(4, 1.5), wire::float(4, -2.0)].concat(), le(&[1.5, -2.0])),
        (INT8, packed(5, &[-1, 127]), vec![0xff, 127]),
        (UINT8, packed(5, &[255, 1]), vec![255, 1]),
        (INT32, packed(5, &[-1, 1 << 20]), vec![255, 255, 255, 255, 0, 0, 16, 0]),
        (HALF, packed(5, &[0x3c00, 0xbc00]), vec![0, 0x3c, 0, 0xbc]),
        (7, packed(7, &[-2, 3]), [(-2i64).to_le_bytes(), 3i64.to_le_bytes()].concat()),
        (11, wire::bytes(10, 1.5f64.to_le_bytes().repeat(2)), 1.5f64.to_le_bytes().repeat(2)),
        (12, packed(11, &[5, 6]), vec![5, 0, 0, 0, 6, 0, 0, 0]),
    ] {
        let model = open(&[], &[[header("t", kind, &[2]), data].concat()]);
        assert_eq!(*model.read_tensor("t").unwrap(), raw, "type {kind}");
    }
    let outside = [header("t", INT8, &[2]), packed(5, &[1, 128])].concat();
    assert!(matches!(error(&[], &[outside]), OnnxError::BadTensor { .. }));
}

/// Shapes and sizes that lie, names that come twice, parts.
#[test]
fn lies() {
    let huge = 1i64 << 60;
    for dims in [&[huge][..], &[huge, huge], &[huge, 0, huge], &[1 << 40], &[i64::MAX, 2], &[-1]] {
        let error = error(&[], &[tensor("big", FLOAT, dims, &[0; 8])]);
        let fits = matches!(
            &error,
            OnnxError::BadShape { name, .. } | OnnxError::WrongSize { name, .. } if name == "big"
        );
        assert!(fits, "{dims:?}: {error}");
    }
    for raw in [&[0; 4][..], &[0; 12], &[0; 7], &[]] {
        let error = error(&[], &[tensor("t", FLOAT, &[2], raw)]);
        assert!(matches!(error, OnnxError::WrongSize { need: 8, .. }), "{error}");
    }
    let twice = [floats("t", &[1], &[1.0]), floats("t", &[1], &[1.0])];
    assert!(matches!(error(&[], &twice), OnnxError::DuplicateName { .. }));
    let made = [node("A", "", "", "v", &[]), node("B", "", "", "v", &[])];
    assert!(matches!(error(&made, &[]), OnnxError::DuplicateName { .. }));
    let both = [floats("t", &[1], &[1.0]), wire::bytes(4, le(&[1.0]))].concat();
    assert!(matches!(error(&[], &[both]), OnnxError::BadTensor { .. }));
    let segment = [floats("t", &[1], &[1.0]), wire::bytes(3, [])].concat();
    assert!(matches!(error(&[], &[segment]), OnnxError::BadTensor { .. }));
    // MatMulNBits whose sizes are not those of its tensors.
    let bits = [attribute("N", huge), attribute("K", huge), attribute("block_size", 16)];
    let parts = [tensor("q", UINT8, &[1, 1, 8], &[0; 8]), floats("s", &[1], &[1.0])];
    let model = open(&[node("com.microsoft:MatMulNBits", "m", "x q s", "y", &bits)], &parts);
    assert_eq!((model.weights().len(), left(&model).len()), (0, 1));
    let bits = [attribute("N", 1 << 30), attribute("K", 1 << 30), attribute("block_size", 1 << 40)];
    let model = open(&[node("com.microsoft:MatMulNBits", "m", "x q s", "y", &bits)], &parts);
    assert_eq!((model.weights().len(), left(&model).len()), (0, 1));
    // No model, two graphs, no protobuf.
    for (bytes, graphs) in [(vec![], 0), ([wire::bytes(7, []), wire::bytes(7, [])].concat(), 2)] {
        let error = OnnxFile::from_bytes(bytes).unwrap_err();
        assert!(matches!(error, OnnxError::Graphs { have } if have == graphs), "{error}");
    }
    let text = b"{\"this\": \"is JSON\"}".to_vec();
    assert!(matches!(OnnxFile::from_bytes(text).unwrap_err(), OnnxError::Protobuf { .. }));
}

/// Nesting costs neither stack nor time: subgraphs are not read, unknown groups are bounded.
#[test]
fn nesting() {
    let mut nested = graph(&[], &[]);
    for _ in 0..2000 {
        let attribute = [wire::bytes(1, "body"), wire::bytes(6, nested)].concat();
        nested = graph(&[node("Loop", "l", "", "", &[wire::bytes(5, attribute)])], &[]);
    }
    let model = OnnxFile::from_bytes(wire::bytes(7, nested)).unwrap();
    assert_eq!(left(&model), ["Loop l: its graphs are not read"]);
    // Groups of a field that is unknown, each inside the other.
    let groups =
        [wire::varint(100 << 3 | 3).repeat(100_000), wire::varint(100 << 3 | 4).repeat(100_000)];
    let error = OnnxFile::from_bytes(groups.concat()).unwrap_err();
    assert!(matches!(error, OnnxError::Protobuf { .. }), "{error}");
}

/// A model with every pattern, cut off anywhere and with bits turned over: a value or an
/// error, and whatever is listed can be read or is refused.
#[test]
fn damage() {
    let whole = fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../lowbit-models/tests/fixtures/onnx/nbits4_asym.onnx"),
    )
    .unwrap();
    let attempt = |bytes: &[u8]| -> bool {
        let Ok(model) = OnnxFile::from_bytes(bytes.to_vec()) else { return false };
        for weight in model.weights() {
            let _ = model.read_weight(&weight.name);
        }
        model.tensors().iter().for_each(|tensor| {
            let bytes = model.read_tensor(&tensor.name).unwrap();
            let elements: usize = tensor.shape.iter().product();
            assert_eq!(bytes.len() * 8, elements * tensor.dtype.bitsize());
        });
        true
    };
    assert!(attempt(&whole));
    let cut = (0..whole.len()).filter(|&length| !attempt(&whole[..length])).count();
    assert!(cut > whole.len() / 2, "{cut} of {} cuts are noticed", whole.len());
    let mut files = vec![whole];
    let fixture = |name| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../lowbit-models/tests/fixtures/onnx")
            .join(name)
    };
    files.extend(
        ["dynamic_uint8.onnx", "qdq_int8_channel.onnx"]
            .map(|name| fs::read(fixture(name)).unwrap()),
    );
    for file in files {
        let mut refused = 0;
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut bad = file.clone();
                bad[at] ^= 1 << bit;
                refused += usize::from(!attempt(&bad));
            }
        }
        assert!(refused > 0);
    }
}

/// Tensor data beside the model: read where they should be, refused anywhere else.
#[test]
fn external_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join("model").join(name);
    fs::create_dir_all(path("parts")).unwrap();
    let data: Vec<u8> = [&[9; 8][..], &le(&[1.0, 2.0]), &[9; 3]].concat();
    fs::write(path("parts/data"), &data).unwrap();
    fs::write(folder.path().join("secret"), &data).unwrap();
    let external = |entries: &[(&str, &str)]| {
        let entry = |(key, value): &(&str, &str)| {
            wire::bytes(13, [wire::bytes(1, key), wire::bytes(2, value)].concat())
        };
        let entries: Vec<u8> = entries.iter().flat_map(entry).collect();
        let tensor = [header("t", FLOAT, &[2]), entries, wire::int(14, 1)].concat();
        model(&[], &[tensor])
    };
    let open = |entries: &[(&str, &str)]| {
        fs::write(path("model.onnx"), external(entries)).unwrap();
        OnnxFile::open(path("model.onnx"))
    };
    for location in ["parts/data", "./parts/data"] {
        let model = open(&[("location", location), ("offset", "8"), ("length", "8")]).unwrap();
        assert_eq!(*model.read_tensor("t").unwrap(), le(&[1.0, 2.0]));
    }
    fs::write(path("whole"), &data[8..16]).unwrap();
    let model = open(&[("location", "whole")]).unwrap();
    assert_eq!(*model.read_tensor("t").unwrap(), le(&[1.0, 2.0]));

    for (offset, length) in
        [("12", "8"), ("18446744073709551615", "8"), ("8", "18446744073709551615")]
    {
        let error = open(&[("location", "parts/data"), ("offset", offset), ("length", length)]);
        let error = error.unwrap_err();
        assert!(matches!(&error, OnnxError::ExternalRange { name, .. } if name == "t"), "{error}");
    }
    for entry in [("offset", "-8"), ("length", "ten")] {
        let error = open(&[("location", "parts/data"), entry]).unwrap_err();
        assert!(matches!(error, OnnxError::BadTensor { .. }), "{error}");
    }
    let error = open(&[("location", "parts/data"), ("length", "4")]).unwrap_err();
    assert!(matches!(error, OnnxError::WrongSize { have: 4, .. }), "{error}");
    let absolute = folder.path().join("secret").into_os_string().into_string().unwrap();
    let mut outside = vec!["../secret", "parts/../../secret", &absolute, "", "none", "parts", "."];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path().join("secret"), path("link")).unwrap();
        outside.push("link");
    }
    for location in outside {
        let error = open(&[("location", location), ("offset", "8"), ("length", "8")]).unwrap_err();
        assert!(
            matches!(&error, OnnxError::External { name, .. } if name == "t"),
            "{location}: {error}"
        );
    }
    assert!(matches!(open(&[]).unwrap_err(), OnnxError::External { .. }));
    let bytes = external(&[("location", "parts/data")]);
    assert!(matches!(OnnxFile::from_bytes(bytes).unwrap_err(), OnnxError::External { .. }));
}

fn lowbit(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowbit"));
    command.args(args).env("XDG_RUNTIME_DIR", env::temp_dir()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `inspect` lists what `import` writes; `import` writes what the library reads.
#[test]
fn command_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (q, s) = (codes(15), scales(3));
    let bytes = model(
        &[
            node("DequantizeLinear", "", "net.fc.weight_quantized s", "w", &[]),
            node("MatMul", "m", "x w", "y", &[]),
            node("Add", "", "y net.fc.bias", "z", &[]),
            node("QuantizeLinear", "odd\u{1b}[31m", "z s", "u", &[]),
        ],
        &[
            tensor("net.fc.weight_quantized", INT8, &[5, 3], &q),
            floats("s", &[3], &s),
            floats("net.fc.bias", &[3], &s),
        ],
    );
    let (input, output, json) = (path("in.onnx"), path("out.safetensors"), path("out.json"));
    fs::write(&input, bytes).unwrap();
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let listed = lowbit(&["inspect", text(&input), "--json", text(&json)]);
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    let listing = String::from_utf8(listed.stdout).unwrap();
    for part in [
        "net.fc.weight ",
        "int8-channel",
        "3×5",
        "1 compressed",
        "to import",
        "left out: 1 × QuantizeLinear (odd\\u{1b}[31m): ",
        "`lowbit import --strip-prefix net.` removes it\n",
    ] {
        assert!(listing.contains(part), "{part}: {listing}");
    }
    let listed = read(&json);
    let first = &listed["tensors"][1];
    assert_eq!((&first["name"], &first["op"]), (&"net.fc.weight".into(), &"MatMul".into()));
    assert_eq!(listed["left_out"][0]["op"], "QuantizeLinear");
    assert!(!output.exists());

    let run = lowbit(&[
        "import",
        text(&input),
        "-o",
        text(&output),
        "--strip-prefix",
        "net.",
        "--json",
        text(&json),
    ]);
    assert_eq!(run.status.code(), Some(0), "{run:?}");
    assert_eq!(read(&json)["tensors"][1]["name"], "fc.weight");
    let written = ModelFile::open(&output).unwrap();
    let packed = read_compressed(&written, "fc.weight").unwrap();
    check(&packed, (3, 5), |r, c| (i32::from(q[c * 3 + r] as i8), 0, s[r]));
    assert_eq!(written.read_f32("fc.bias").unwrap(), s);
    assert_eq!(written.plain().map(|t| t.name.to_owned()).collect::<Vec<_>>(), ["fc.bias", "s"]);

    // Refusals say what to do, and leave what was there.
    let before = fs::read(&output).unwrap();
    fs::write(path("bad.onnx"), &fs::read(&input).unwrap()[..100]).unwrap();
    fs::write(path("empty.onnx"), model(&[], &[])).unwrap();
    let (bad, empty) = (path("bad.onnx"), path("empty.onnx"));
    for (args, says, hint) in [
        (vec![text(&bad)], "is not valid protobuf", "the input must be a complete ONNX file"),
        (vec![text(&empty)], "contains nothing to import", "`lowbit inspect`"),
        (
            vec![text(&input), "--strip-prefix", "model."],
            "no name begins with `model.`",
            "`lowbit inspect`",
        ),
        (vec!["missing.onnx"], "cannot open", "is the path right?"),
    ] {
        let run = lowbit(&[&["import", "-o", text(&output)], &args[..]].concat());
        let message = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2), "{message}");
        assert!(message.contains(says) && message.contains(hint), "{message}");
        assert_eq!(fs::read(&output).unwrap(), before);
    }
    let same = lowbit(&["import", text(&input), "-o", text(&input)]);
    assert_eq!(same.status.code(), Some(2), "{same:?}");
}

/// The prefix is taken off everything or nothing.
#[test]
fn prefixes() {
    let tensors =
        [floats("a.b", &[1], &[1.0]), floats("a.c", &[1], &[1.0]), floats("d", &[1], &[1.0])];
    let mut model = open(&[], &tensors);
    assert_eq!(model.common_prefix(), Some("a."));
    assert_eq!(model.strip_prefix("a.").unwrap(), 2);
    assert_eq!(names(&model), ["b", "c", "d"]);
    assert_eq!(model.common_prefix(), None);
    assert_eq!(model.strip_prefix("a.").unwrap(), 0);
    let mut model = open(&[], &[floats("a.b", &[1], &[1.0]), floats("b", &[1], &[1.0])]);
    assert!(matches!(model.strip_prefix("a.").unwrap_err(), OnnxError::DuplicateName { .. }));
    assert_eq!(names(&model), ["a.b", "b"]);
}

const REAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/minilm-int8/model.onnx");

/// The folder of the f32 model.
const FLOATS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/minilm");

/// The real file and the folder of the f32 model, which has the tokenizer.
fn real() -> Option<PathBuf> {
    let (file, folder) = (PathBuf::from(REAL), Path::new(FLOATS));
    if file.exists() && folder.join("tokenizer.json").exists() {
        return Some(file);
    }
    let missing = format!("{REAL} or {} is not there: run `make model`", folder.display());
    assert!(
        env::var_os("LOWBIT_REQUIRE_MODEL").is_none_or(|value| value != "1"),
        "{missing}, and LOWBIT_REQUIRE_MODEL is set"
    );
    crate::common::skipped(missing);
    None
}

/// Raw data of every initializer, read by nothing of the crate.
fn initializers(file: &[u8]) -> BTreeMap<String, &[u8]> {
    let graph = wire::fields(file).into_iter().find(|(tag, _)| *tag == 7).unwrap().1.unwrap();
    let tensors = wire::fields(graph).into_iter().filter(|(tag, _)| *tag == 5);
    tensors
        .map(|(_, tensor)| {
            let fields = wire::fields(tensor.unwrap());
            let get = |tag| fields.iter().find(|(t, _)| *t == tag).unwrap().1.unwrap();
            (String::from_utf8(get(8).to_vec()).unwrap(), get(9))
        })
        .collect()
}

fn plain(dense: &Dense, x: &[f32], m: usize) -> Result<Vec<f32>, Error> {
    let y = crate::common::linear(x, &dense.weight, &dense.bias, dense.k);
    assert_eq!(y.len(), m * dense.n);
    Ok(y)
}

/// What ONNX Runtime 1.32 makes of the file: the cosine of each sentence's embedding to
/// the f32 model's.
const RUNTIME: [f64; 10] = [
    0.9994683, 0.9996412, 0.9996251, 0.9996457, 0.9995654, 0.9996020, 0.9995879, 0.9996368,
    0.9996041, 0.9996705,
];

/// A way to run the imported layers on a device.
struct Engine<'a> {
    name: &'static str,
    /// The least cosine to the same codes in f32 on the host.
    floor: f64,
    linear: Box<lowbit_models::bert::Linear<'a>>,
}

/// The whole of a model made elsewhere: names, codes, and what its embeddings become.
#[test]
fn a_real_model() -> Result<(), Error> {
    let Some(path) = real() else { return Ok(()) };
    let mut model = OnnxFile::open(&path)?;
    assert_eq!(model.common_prefix(), Some("inner."));
    model.strip_prefix("inner.")?;
    assert_eq!(left(&model), [""; 0]);

    // Codes and scales against the file, transposed here.
    let file = fs::read(&path)?;
    let initializers = initializers(&file);
    let matmuls = || model.weights().iter().filter(|weight| weight.op == "MatMul");
    assert_eq!((matmuls().count(), model.weights().len()), (36, 38));
    let mut packed = BTreeMap::new();
    for weight in model.weights() {
        let own = model.read_weight(&weight.name)?;
        let (n, k) = (own.n(), own.k());
        let codes = initializers[&weight.source];
        let scales = initializers[&weight.source.replace("_q", "_scale")].as_chunks().0;
        assert_eq!(
            (codes.len(), scales.len(), weight.format.to_string().as_str()),
            (n * k, n, "int8-channel")
        );
        for (row, &scale) in scales.iter().enumerate() {
            assert_eq!(own.scale(row, 0).to_bits(), u32::from_le_bytes(scale), "{}", weight.name);
            for column in 0..k {
                let at = if weight.op == "MatMul" { column * n + row } else { row * k + column };
                assert!(
                    own.code(row, column) == i32::from(codes[at] as i8),
                    "{}: {row}, {column}",
                    weight.name
                );
            }
        }
        packed.insert(weight.name.clone(), own);
    }

    // The encoder of the demo on the file's own weights, embeddings and norms.
    let folder = tempfile::tempdir()?;
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(Path::new(FLOATS).join(name), folder.path().join(name))?;
    }
    let dense: Vec<(String, Vec<usize>, Vec<u8>)> = model
        .weights()
        .iter()
        .map(|weight| {
            (weight.name.clone(), weight.shape.clone(), le(&dequantize(&packed[&weight.name])))
        })
        .collect();
    let mut tensors: Vec<(&str, Content<'_>)> = dense
        .iter()
        .map(|(name, shape, bytes)| {
            (name.as_str(), Content::Plain { dtype: Dtype::F32, shape, bytes })
        })
        .collect();
    let others: Vec<_> = model
        .tensors()
        .iter()
        .map(|tensor| Ok((tensor, model.read_tensor(&tensor.name)?)))
        .collect::<Result<_, OnnxError>>()?;
    tensors.extend(others.iter().map(|(tensor, bytes)| {
        let content = Content::Plain { dtype: tensor.dtype, shape: &tensor.shape, bytes };
        (tensor.name.as_str(), content)
    }));
    write_model(folder.path().join("model.safetensors"), &tensors, &BTreeMap::new())?;
    let encoder = Encoder::open(folder.path())?;
    for (dense, weight) in encoder.linears().zip(matmuls()) {
        assert_eq!(weight.name, format!("{}.weight", dense.name));
        assert_eq!(weight.bias.as_ref(), Some(&format!("{}.bias", dense.name)));
    }

    let host = Host::new()?;
    let uploaded: Vec<DeviceWeights> = encoder
        .linears()
        .map(|dense| host.upload(&packed[&format!("{}.weight", dense.name)]))
        .collect::<Result<_, _>>()?;
    let int8 = |dense: &Dense, x: &[f32], m: usize| -> Result<Vec<f32>, Error> {
        Ok(host.matmul(x, m, &uploaded[dense.index], Some(&dense.bias))?)
    };
    // Sums of the same products in another order.
    let token = ActivationFormat::int8(ActivationGranularity::Token).asymmetric();
    let w8a8 = |dense: &Dense, x: &[f32], m: usize| -> Result<Vec<f32>, Error> {
        let (weights, bias) = (&uploaded[dense.index], Some(&dense.bias[..]));
        let how = Quantization::Dynamic(token);
        Ok(host.quantized_matmul(x, m, weights, bias, how, ActivationFunction::Identity)?)
    };
    let engines = [
        Engine { name: "int8 weights, f32 activations", floor: 0.999_999, linear: Box::new(int8) },
        // What the demo's recipe keeps of its f32 model.
        Engine {
            name: "int8 weights, int8 activations a token",
            floor: 0.998,
            linear: Box::new(w8a8),
        },
    ];
    let sentences = sentences()?;
    assert_eq!(sentences.len(), RUNTIME.len());
    for (sentence, runtime) in sentences.iter().zip(RUNTIME) {
        let want = encoder.embed(&sentence.text, &plain)?;
        // Unit vectors of cosine 1 − δ are √2δ apart, of which a third vector at cosine c
        // sees √(1 − c²) at most, and δ along itself. δ = 1e-6: both sum the same products.
        let reference = cosine(&want, &sentence.embedding);
        let delta = 1e-6f64;
        let bound = (2.0 * delta * (1.0 - runtime * runtime)).sqrt() + delta;
        let error = (reference - runtime).abs();
        assert!(error <= bound, "{}: cosine {reference}, not {runtime}", sentence.text);
        for engine in &engines {
            let have = encoder.embed(&sentence.text, &*engine.linear)?;
            let (same, reference) = (cosine(&have, &want), cosine(&have, &sentence.embedding));
            let what = format!("{}: {}", engine.name, sentence.text);
            println!("{same:.9} to the host, {reference:.7} to f32: {what}");
            assert!(same >= engine.floor, "{what}: cosine {same}");
        }
    }
    Ok(())
}
