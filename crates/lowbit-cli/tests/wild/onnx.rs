//! ONNX files of other tools: fused operators, dead blocks, names.

use crate::onnx::{
    FLOAT, HALF, INT8, INT32, UINT4, UINT8, attribute, codes, floats, le, left, model, names, node,
    open, perm, scales, tensor,
};
use half::f16;
use lowbit::compress::dequantize;
use lowbit_models::checkpoint::onnx::OnnxFile;
use std::fs;
use std::process::Command;

/// Returns the values of a weight, `[n, k]`, and its format.
fn values(model: &OnnxFile, name: &str) -> (String, Vec<f32>) {
    let packed = model.read_weight(name).unwrap_or_else(|error| panic!("{error}: {model:?}"));
    (packed.format().to_string(), dequantize(&packed))
}

/// Returns a plain tensor of f32.
fn plain(model: &OnnxFile, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = model.tensors().iter().find(|tensor| tensor.name == name).unwrap();
    let bytes = model.read_tensor(name).unwrap();
    let values = match bytes.len() / tensor.shape.iter().product::<usize>() {
        2 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    };
    (tensor.shape.clone(), values)
}

/// Turns a row-major `[rows, columns]` over.
fn turned<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns).copied()).collect()
}

/// A quantizer gives a block of zeros the scale 0: a padded row of a vocabulary, a pruned channel. Its
/// weights are 0 whatever its codes are, and the other blocks stay what they are.
#[test]
fn blocks_of_zeros_have_no_scale() {
    let (n, k, size) = (3, 32, 16);
    let q = codes(n * k / 2);
    let nibble = |at: usize| i32::from(q[at / 2] >> (at % 2 * 4) & 0xf);
    for dead in [0.0, -0.0, 1e-40, -1e-40] {
        let s = [0.5, dead, 0.25, 2.0, dead, dead];
        let mut attributes = vec![attribute("N", n as i64), attribute("K", k as i64)];
        attributes.extend([attribute("bits", 4), attribute("block_size", size as i64)]);
        let nodes =
            [node("com.microsoft:MatMulNBits", "/lm_head/MatMul_Q4", "x q s", "y", &attributes)];
        let tensors = [tensor("q", UINT8, &[n as i64, 2, 8], &q), floats("s", &[6], &s)];
        let model = open(&nodes, &tensors);
        assert_eq!(left(&model), [""; 0]);
        let (format, have) = values(&model, "lm_head.weight");
        let want: Vec<f32> = (0..n * k)
            .map(|at| {
                let scale = s[at / size];
                if scale.abs() < 1e-30 { 0.0 } else { (nibble(at) - 8) as f32 * scale }
            })
            .collect();
        assert_eq!((format.as_str(), have), ("int4-g16", want), "{dead}");
    }
    // Codes that symmetric int8 does not have, and zero points, do not matter in a dead channel.
    let q = [128u8, 3, 7, 128, 5, 250];
    let nodes = [
        node("DequantizeLinear", "", "fc.weight s z", "w", &[attribute("axis", 0)]),
        node("Gemm", "", "x w", "y", &[attribute("transB", 1)]),
    ];
    let half = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
    };
    let model = open(
        &nodes,
        &[
            tensor("fc.weight", INT8, &[2, 3], &q),
            tensor("s", HALF, &[2], &half(&[0.0, 0.5])),
            tensor("z", INT8, &[2], &[9, 0]),
        ],
    );
    let (format, have) = values(&model, "fc.weight");
    // −128 is in the live channel.
    assert_eq!(format, "int8-channel-asym-f16s");
    assert_eq!(have, [0.0, 0.0, 0.0, -64.0, 2.5, -3.0]);
    let model = open(
        &nodes,
        &[
            tensor("fc.weight", INT8, &[2, 3], &[128, 3, 7, 4, 5, 250]),
            floats("s", &[2], &[0.0, 0.5]),
            tensor("z", INT8, &[2], &[9, 0]),
        ],
    );
    assert_eq!(
        values(&model, "fc.weight"),
        ("int8-channel".to_owned(), vec![0.0, 0.0, 0.0, 2.0, 2.5, -3.0])
    );
}

/// One weight that cannot be imported does not cost the others: the command writes them, lists that one,
/// and exits with 1 under `--strict`.
#[test]
fn one_bad_weight_sinks_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.onnx"), folder.path().join("out.safetensors"));
    let layer = |name: &str, scale: &str, out: &str| {
        [
            node("DequantizeLinear", "", &format!("{name}.weight_quantized {scale}"), out, &[]),
            node(
                "MatMul",
                &format!("/{name}/MatMul"),
                &format!("x {out}"),
                &format!("{out}y"),
                &[],
            ),
        ]
    };
    let bytes = model(
        &[layer("good", "s", "u"), layer("bad", "t", "v")].concat(),
        &[
            tensor("good.weight_quantized", INT8, &[2, 2], &[1, 2, 3, 4]),
            tensor("bad.weight_quantized", INT8, &[2, 2], &[1, 2, 3, 4]),
            floats("s", &[], &[0.5]),
            floats("t", &[], &[f32::INFINITY]),
            // A name that safetensors files reserve, and one that a part of the weight takes.
            floats("__metadata__", &[1], &[1.0]),
            floats("good.weight.scales", &[1], &[1.0]),
        ],
    );
    fs::write(&input, bytes).unwrap();
    for (strict, code) in [(None, 0), (Some("--strict"), 1)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lowbit"));
        command.arg("import").arg(&input).arg("-o").arg(&output).args(strict);
        let run = command.output().unwrap();
        let text = String::from_utf8(run.stdout).unwrap();
        assert_eq!(run.status.code(), Some(code), "{text}");
        for part in [
            "1 × MatMul (/bad/MatMul): the scale of row 0, group 0 is inf",
            "1 × initializer (__metadata__): safetensors files reserve this name",
            "1 × initializer (good.weight.scales): a part of the weight `good.weight` has this name",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let file = lowbit_models::checkpoint::ModelFile::open(&output).unwrap();
        assert_eq!(file.compressed().keys().collect::<Vec<_>>(), ["good.weight"]);
        assert!(file.tensor("bad.weight_quantized").is_some());
        fs::remove_file(&output).unwrap();
    }
}

/// A name that would appear twice in the new file is given once, and the other tensor is listed.
#[test]
fn names_that_meet() {
    let model = open(
        &[
            node("DequantizeLinear", "", "q s", "d", &[]),
            node("MatMul", "", "x d", "y", &[]),
            node("Foo", "foo", "q", "z", &[]),
        ],
        &[
            tensor("q", INT8, &[2, 2], &[1, 2, 3, 4]),
            floats("s", &[], &[1.0]),
            floats("q.weight", &[1], &[5.0]),
        ],
    );
    assert_eq!(values(&model, "q.weight").1, [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(names(&model), ["q"]);
    let left = left(&model);
    assert!(
        left.iter().any(|line| line.contains("another tensor is imported under the name")),
        "{left:?}"
    );
}

/// Operators that hold their weights as integers, and that are understood.
#[test]
fn fused_operators() {
    let (k, n) = (4, 6);
    let (q, s) = (codes(k * n), scales(n));
    let per_column = |at: usize| f32::from(q[at] as i8) * s[at % n];
    let kn: Vec<f32> = (0..k * n).map(per_column).collect();
    // QAttention: X, W [K, 3·H], bias, scale of X, scales of W, mask, zero points of X and W.
    let model = open(
        &[node(
            "com.microsoft:QAttention",
            "Attention_0_quant",
            "xq attention.qkv.weight_quantized b xs ws m xz wz",
            "y",
            &[attribute("num_heads", 2)],
        )],
        &[
            tensor("attention.qkv.weight_quantized", INT8, &[k as i64, n as i64], &q),
            floats("b", &[n as i64], &s),
            floats("ws", &[n as i64], &s),
            tensor("wz", INT8, &[n as i64], &[0; 6]),
        ],
    );
    assert_eq!((left(&model), names(&model)), (vec![], vec!["attention.qkv.bias"]));
    assert_eq!(values(&model, "attention.qkv.weight"), ("int8-channel".to_owned(), turned(&kn, n)));
    assert_eq!(model.weights()[0].bias.as_deref(), Some("attention.qkv.bias"));

    // QGemm, whose bias is int32 by the product of the scales of X and W.
    let ints: Vec<u8> = (0..n as i32).flat_map(|v| (v - 2).to_le_bytes()).collect();
    let bias: Vec<f32> = (0..n).map(|c| (c as i32 - 2) as f32 * (s[c] * 0.5)).collect();
    for transposed in [false, true] {
        let (dims, data) = if transposed {
            ([n as i64, k as i64], turned(&q, n))
        } else {
            ([k as i64, n as i64], q.clone())
        };
        let model = open(
            &[node(
                "com.microsoft:QGemm",
                "/fc/Gemm_quant",
                "xq xs xz W ws wz B ys yz",
                "y",
                &[attribute("transB", i64::from(transposed))],
            )],
            &[
                tensor("W", INT8, &dims, &data),
                floats("ws", &[n as i64], &s),
                tensor("wz", INT8, &[n as i64], &[0; 6]),
                tensor("B", INT32, &[n as i64], &ints),
                floats("xs", &[], &[0.5]),
            ],
        );
        assert_eq!(left(&model), [""; 0]);
        assert_eq!(values(&model, "fc.weight"), ("int8-channel".to_owned(), turned(&kn, n)));
        assert_eq!(plain(&model, "fc.bias"), (vec![n], bias.clone()));
    }
}

/// Rows of codes that are looked up: dequantized after the lookup, or in blocks.
#[test]
fn tables_of_codes() {
    let (rows, k) = (5, 32);
    let q = codes(rows * k);
    let nodes = [
        node("Gather", "/emb/Gather_quant", "emb.weight_quantized ids", "h", &[]),
        node("DequantizeLinear", "dq", "h s z", "y", &[]),
    ];
    let parts = [
        tensor("emb.weight_quantized", UINT8, &[rows as i64, k as i64], &q),
        floats("s", &[], &[0.5]),
        tensor("z", UINT8, &[], &[128]),
    ];
    let want: Vec<f32> = q.iter().map(|&q| (f32::from(q) - 128.0) * 0.5).collect();
    let model = open(&nodes, &parts);
    assert_eq!((left(&model), names(&model)), (vec![], vec![]));
    assert_eq!(values(&model, "emb.weight").1, want);
    assert_eq!(model.weights()[0].op, "Gather");
    // What it is not: one scale of several, columns, or rows that something else takes.
    for (nodes, why) in [
        (vec![nodes[0].clone()], "nothing dequantizes the rows"),
        (vec![nodes[0].clone(), node("Add", "a", "h x", "y", &[])], "which Add `a` takes"),
        (
            vec![
                node("Gather", "g", "emb.weight_quantized ids", "h", &[attribute("axis", 1)]),
                nodes[1].clone(),
            ],
            "it looks up along axis 1",
        ),
    ] {
        let model = open(&nodes, &parts);
        let left = left(&model);
        assert!(
            left.iter().any(|line| line.starts_with("Gather ") && line.contains(why)),
            "{left:?}"
        );
        assert_eq!(model.weights().len(), 0);
        assert!(names(&model).contains(&"emb.weight_quantized"));
    }

    // GatherBlockQuantized, 4 and 8 bits in uint8, with the middle as the zero point or with stored ones.
    let s = scales(rows * 2);
    let nibble = |bytes: &[u8], at: usize| f32::from(bytes[at / 2] >> (at % 2 * 4) & 0xf);
    let blocks = |bits: i64, kind: i64, data: &[u8], zeros: Option<&[u8]>| {
        let width = if kind == UINT4 { k as i64 } else { k as i64 * bits / 8 };
        let mut tensors = vec![
            tensor("emb.weight_Q4", kind, &[rows as i64, width], data),
            floats("s", &[rows as i64, 2], &s),
        ];
        tensors.extend(zeros.map(|zeros| {
            tensor("z", kind, &[rows as i64, zeros.len() as i64 / rows as i64], zeros)
        }));
        let inputs = format!("emb.weight_Q4 ids s{}", if zeros.is_some() { " z" } else { "" });
        let attributes = [attribute("bits", bits), attribute("block_size", 16)];
        let model = open(
            &[node("com.microsoft:GatherBlockQuantized", "gbq", &inputs, "y", &attributes)],
            &tensors,
        );
        assert_eq!((left(&model), names(&model)), (vec![], vec![]));
        values(&model, "emb.weight").1
    };
    let half = &q[..rows * k / 2];
    let by_block = |at: usize, code: f32| code * s[at / 16];
    let want: Vec<f32> = (0..rows * k).map(|at| by_block(at, nibble(half, at) - 8.0)).collect();
    assert_eq!(blocks(4, UINT8, half, None), want);
    // Typed nibbles have 0 as their zero point.
    let want: Vec<f32> = (0..rows * k).map(|at| by_block(at, nibble(half, at))).collect();
    assert_eq!(blocks(4, UINT4, half, None), want);
    let want: Vec<f32> = (0..rows * k).map(|at| by_block(at, f32::from(q[at]) - 128.0)).collect();
    assert_eq!(blocks(8, UINT8, &q, None), want);
    let zeros = &q[3..3 + rows];
    let want: Vec<f32> =
        (0..rows * k).map(|at| by_block(at, nibble(half, at) - nibble(zeros, at / 16))).collect();
    assert_eq!(blocks(4, UINT8, half, Some(zeros)), want);
}

/// A table that is looked up and multiplied with, in the layouts of both operators, is one weight.
#[test]
fn a_tied_table_is_one_weight() {
    let (rows, k) = (3, 32);
    let q = codes(rows * k / 2);
    let bits = [attribute("N", 3), attribute("K", 32), attribute("block_size", 16)];
    let model = open(
        &[
            node("Reshape", "", "q shape", "flat", &[]),
            node("Reshape", "", "s shape2", "flat_s", &[]),
            node(
                "com.microsoft:GatherBlockQuantized",
                "/emb/Gather",
                "flat ids flat_s",
                "h",
                &[attribute("block_size", 16)],
            ),
            node("com.microsoft:MatMulNBits", "/lm_head/MatMul", "h q s", "y", &bits),
        ],
        &[
            tensor("q", UINT8, &[3, 2, 8], &q),
            floats("s", &[6], &scales(6)),
            tensor("shape", 7, &[2], &[0; 16]),
            tensor("shape2", 7, &[2], &[0; 16]),
        ],
    );
    assert_eq!(left(&model), [""; 0]);
    let [weight] = model.weights() else { panic!("{model:?}") };
    assert_eq!((weight.name.as_str(), weight.op.as_str()), ("emb.weight", "GatherBlockQuantized"));
}

/// Every node that takes stored integers of two or more axes and is not understood is listed, with the
/// tensor; indices are no weights.
#[test]
fn integers_are_never_lost() {
    let microsoft = |op: &str| format!("com.microsoft:{op}");
    let weight = |name: &str, dims: &[i64]| {
        let count = dims.iter().product::<i64>() as usize;
        tensor(name, INT8, dims, &codes(count))
    };
    for (op, inputs, tensors) in [
        (
            microsoft("DynamicQuantizeLSTM"),
            "x W R",
            vec![weight("W", &[1, 6, 16]), weight("R", &[1, 4, 16])],
        ),
        (
            microsoft("QMoE"),
            "x r W ws - V vs",
            vec![weight("W", &[2, 8, 4]), weight("V", &[2, 8, 4])],
        ),
        (
            microsoft("QEmbedLayerNormalization"),
            "ids - W P",
            vec![weight("W", &[20, 8]), weight("P", &[4, 8])],
        ),
        (microsoft("QOrderedMatMul"), "xq xs W", vec![weight("W", &[8, 4])]),
        ("ConvInteger".to_owned(), "xq W", vec![weight("W", &[4, 3, 3, 3])]),
        ("org.example:Unheard".to_owned(), "x W", vec![weight("W", &[8, 4])]),
    ] {
        let model = open(&[node(&op, "n", inputs, "y", &[])], &tensors);
        let op = op.rsplit(':').next().unwrap();
        let dims = model.tensors().iter().find(|tensor| tensor.name == "W").unwrap().shape.clone();
        let want = format!(
            "{op} n: takes the integers `W` (I8 {dims:?}), and this operator is not understood"
        );
        assert_eq!(left(&model), [want]);
    }
    let bnb = node("com.microsoft:MatMulBnb4", "n", "x W a", "y", &[]);
    let model = open(&[bnb], &[tensor("W", UINT8, &[32], &[7; 32]), floats("a", &[4], &[1.0; 4])]);
    assert_eq!(left(&model), ["MatMulBnb4 n: this quantized operator is not understood"]);
    // Positions: 64-bit integers, and what a lookup takes besides its table.
    let model = open(
        &[node("Slice", "", "ids64 a b", "y", &[]), node("Gather", "", "table ids32", "z", &[])],
        &[
            tensor("ids64", 7, &[1, 2], &[0; 16]),
            tensor("ids32", INT32, &[1, 2], &[0; 8]),
            floats("table", &[2, 2], &[1.0; 4]),
        ],
    );
    assert_eq!(left(&model), [""; 0]);
}

/// A float weight of a model that was trained with quantization: `QuantizeLinear` and
/// `DequantizeLinear`, the standard's or ONNX Runtime's own. Its codes are what the nodes make.
#[test]
fn weights_that_the_graph_quantizes() {
    let w = [0.26, -1.0, 0.74, 0.125, 3.0, -3.2];
    let s = [0.01, 0.02];
    // The halfway case 0.125 / 0.02 = 6.25 is none; 0.01 · 0.125 would be.
    let want: Vec<f32> = (0..6)
        .map(|at| {
            let scale: f32 = s[at / 3];
            (w[at] / scale).round_ties_even().clamp(-128.0, 127.0) * scale
        })
        .collect();
    let axis = || [attribute("axis", 0)];
    for domain in ["", "com.microsoft:"] {
        for gemm in [false, true] {
            let mut nodes = vec![
                node(&format!("{domain}QuantizeLinear"), "q", "fc.weight s z", "c", &axis()),
                node(&format!("{domain}DequantizeLinear"), "dq", "c s z", "d", &axis()),
            ];
            if gemm {
                nodes.push(node("Gemm", "m", "x d", "y", &[attribute("transB", 1)]));
            } else {
                nodes.push(node("Transpose", "", "d", "t", &[perm()]));
                nodes.push(node("MatMul", "m", "x t", "y", &[]));
            }
            let tensors = [
                floats("fc.weight", &[2, 3], &w),
                floats("s", &[2], &s),
                tensor("z", INT8, &[2], &[0; 2]),
            ];
            let model = open(&nodes, &tensors);
            assert_eq!((left(&model), names(&model)), (vec![], vec![]));
            assert_eq!(model.weights()[0].source, "fc.weight");
            // −3.2 / 0.02 saturates at −128, which takes a zero point.
            assert_eq!(values(&model, "fc.weight"), ("int8-channel-asym".to_owned(), want.clone()));
            // If something else takes the float as well, it stays.
            nodes.push(node("Gather", "", "fc.weight ids", "e", &[]));
            let model = open(&nodes, &tensors);
            assert_eq!(names(&model), ["fc.weight"]);
            assert_eq!(model.weights()[0].name, "fc.weight.weight");
        }
    }
    // A tensor that is quantized in a way that is not understood stays a float, and both nodes are listed.
    let nodes = [
        node("QuantizeLinear", "q", "fc.weight s z", "c", &axis()),
        node("DequantizeLinear", "dq", "c s z", "d", &axis()),
        node("MatMul", "m", "x d", "y", &[]),
    ];
    let model = open(
        &nodes,
        &[
            floats("fc.weight", &[2, 3], &w),
            floats("s", &[2], &s),
            tensor("z", INT8, &[2], &[0; 2]),
        ],
    );
    let left = left(&model);
    assert!(
        left[0].starts_with("QuantizeLinear q: quantizes a weight that is not imported"),
        "{left:?}"
    );
    assert_eq!(left[2], "MatMul m: its scales are per input channel");
    assert_eq!(plain(&model, "fc.weight"), (vec![2, 3], w.to_vec()));
}

/// Parameters keep their names and order; names that exporters made are replaced; and what is called
/// `….weight` and multiplies is `[N, K]`, whether it is quantized or not.
#[test]
fn names_of_parameters() {
    let w = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let (kn, nk) = ((vec![3, 2], w.to_vec()), (vec![2, 3], turned(&w, 2)));
    for (tensor, scope, name, want) in [
        ("text.text_projection", "/text/MatMul_1", "text.text_projection", &kn),
        ("text_projection", "/text/MatMul_1", "text_projection", &kn),
        ("visual.proj", "/visual/MatMul", "visual.proj", &kn),
        ("onnx::MatMul_12", "/enc/fc/MatMul", "enc.fc.weight", &nk),
        ("val_3", "/enc/fc/MatMul", "enc.fc.weight", &nk),
        ("val_3", "node_MatMul_3", "val_3", &kn),
        ("h.0.attn.c_proj.weight", "/h.0/attn/c_proj/Gemm", "h.0.attn.c_proj.weight", &nk),
    ] {
        let op = if scope.ends_with("Gemm") { "Gemm" } else { "MatMul" };
        let nodes = [node(op, scope, &format!("x {tensor}"), "y", &[])];
        let model = open(&nodes, &[floats(tensor, &[3, 2], &w)]);
        assert_eq!(&plain(&model, name), want, "{tensor}");
        let turned = model.tensors()[0].is_transposed();
        assert_eq!(turned, want == &nk, "{tensor}");
        // A cast that keeps the values changes nothing.
        let halves: Vec<u8> = w.iter().flat_map(|&w| f16::from_f32(w).to_le_bytes()).collect();
        let nodes = [
            node("Cast", "", tensor, "f", &[attribute("to", FLOAT)]),
            node(op, scope, "x f", "y", &[]),
        ];
        let model = open(&nodes, &[crate::onnx::tensor(tensor, HALF, &[3, 2], &halves)]);
        assert_eq!(&plain(&model, name), want, "{tensor}");
    }
    // Quantized ones are `[N, K]`, which their names say.
    let q = [1, 2, 3, 4, 5, 6];
    for (codes, scope, name) in [
        ("h.0.attn.c_proj.weight_quantized", "/h.0/attn/c_proj/Gemm", "h.0.attn.c_proj.weight"),
        ("text.text_projection_quantized", "/text/Gemm", "text.text_projection.weight"),
        ("text_projection_quantized", "/text/Gemm", "text_projection.weight"),
        ("onnx::MatMul_12_quantized", "/enc/fc/Gemm", "enc.fc.weight"),
        ("W", "/enc/fc/Gemm", "enc.fc.weight"),
    ] {
        let nodes = [
            node("DequantizeLinear", "", &format!("{codes} s"), "d", &[]),
            node("Gemm", scope, "x d", "y", &[]),
        ];
        let model = open(&nodes, &[tensor(codes, INT8, &[3, 2], &q), floats("s", &[], &[1.0])]);
        assert_eq!(values(&model, name).1, nk.1, "{codes}");
    }
    // Two parameters of one module, and a bias with a name of its own.
    let model = open(
        &[
            node("MatMul", "/attn/MatMul", "x attn.A", "h", &[]),
            node("MatMul", "/attn/MatMul_1", "h attn.B", "y", &[]),
        ],
        &[floats("attn.A", &[2, 2], &[1.0; 4]), floats("attn.B", &[2, 2], &[2.0; 4])],
    );
    assert_eq!(names(&model), ["attn.A", "attn.B"]);
    let model = open(
        &[
            node("DequantizeLinear", "", "W s", "d", &[]),
            node("MatMul", "/fc/MatMul", "x d", "h", &[]),
            node("Add", "", "h eps", "y", &[]),
        ],
        &[
            tensor("W", INT8, &[3, 1], &[1, 2, 3]),
            floats("s", &[], &[1.0]),
            floats("eps", &[1], &[1e-6]),
        ],
    );
    assert_eq!(names(&model), ["eps"]);
    assert_eq!(le(&[1e-6]), *model.read_tensor("eps").unwrap());
}

/// The cache of the Hugging Face hub holds a model and its data as links to files in one folder. Links
/// that leave both folders stay refused.
#[cfg(unix)]
#[test]
fn caches_of_links() {
    use crate::onnx::{header, wire};
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (blobs, snapshot) = (path("repo/blobs"), path("repo/snapshots/0123/onnx"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let entry = |key: &str, value: &str| {
        wire::bytes(13, [wire::bytes(1, key), wire::bytes(2, value)].concat())
    };
    let stored = [header("t", FLOAT, &[2]), entry("location", "model.onnx_data"), wire::int(14, 1)];
    fs::write(blobs.join("aa11"), model(&[], &[stored.concat()])).unwrap();
    fs::write(blobs.join("bb22"), le(&[1.0, 2.0])).unwrap();
    fs::write(path("secret"), le(&[3.0, 4.0])).unwrap();
    let (file, data) = (snapshot.join("model.onnx"), snapshot.join("model.onnx_data"));
    symlink("../../../blobs/aa11", &file).unwrap();
    symlink("../../../blobs/bb22", &data).unwrap();
    let model = OnnxFile::open(&file).unwrap();
    assert_eq!(*model.read_tensor("t").unwrap(), le(&[1.0, 2.0]));
    fs::remove_file(&data).unwrap();
    symlink(path("secret"), &data).unwrap();
    let error = OnnxFile::open(&file).unwrap_err().to_string();
    assert!(error.contains("leads out of the model's folder"), "{error}");
}
