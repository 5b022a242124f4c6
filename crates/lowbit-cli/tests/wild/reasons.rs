//! The command gives the true reason for each node and tensor of an ONNX file that it does not import.

use crate::cli::{Scratch, refused};
use crate::onnx::{
    FLOAT, INT8, INT32, attribute, floats, header, le, left, model, names, node, open, tensor, wire,
};
use lowbit::compress::dequantize;
use std::fs;

/// Each reason says what is so.
#[test]
fn reasons_are_true() {
    let q = || tensor("q", INT8, &[2, 3], &[1, 2, 3, 4, 5, 6]);
    let dq = |inputs: &str, axis: i64| {
        node("DequantizeLinear", "d", inputs, "w", &[attribute("axis", axis)])
    };
    let double = tensor("s", 11, &[3], &[0; 24]);
    let s = || floats("s", &[3], &[1.0; 3]);
    for (nodes, tensors, want) in [
        (vec![dq("x s", 1)], vec![s()], "dequantizes activations: only weights are imported"),
        (vec![dq("q s", 1)], vec![q(), double], "its scales are F64, which is not understood"),
        (vec![dq("q x", 1)], vec![q()], "its scales are computed by the graph"),
        (vec![dq("q s x", 1)], vec![q(), s()], "its zero points are computed by the graph"),
        (
            vec![dq("q s", 0)],
            vec![q(), s()],
            "its scales of shape [3] do not fit axis 0 of the shape [2, 3]",
        ),
        (vec![dq("q s", 2)], vec![q(), s()], "its axis 2 is none of [2, 3]"),
        (
            vec![dq("q s", 1)],
            vec![q(), s()],
            "its output is no weight of a layer; no node of the graph takes it",
        ),
        (
            vec![dq("q s", 1), node("Softmax", "soft", "w", "y", &[])],
            vec![q(), s()],
            "its output is no weight of a layer; Softmax `soft` takes it",
        ),
        (
            vec![dq("q s", 1), node("Gemm", "g", "x w", "y", &[attribute("transA", 1)])],
            vec![q(), s()],
            "its output is no weight of a layer; Gemm `g` takes it, which is left out",
        ),
    ] {
        let model = open(&nodes, &tensors);
        assert_eq!(left(&model)[0], format!("DequantizeLinear d: {want}"));
        assert_eq!(model.weights().len(), 0);
    }
}

/// Each reason why the codes of a float weight are not known is given for the node that makes them, and for
/// the one that takes them.
#[test]
fn reasons_of_quantizers_are_true() {
    let w = |values: &[f32]| floats("w", &[2, 3], values);
    let ok = [1.0, -2.0, 0.5, 3.0, -1.0, 0.0];
    let zeros = |kind, count: usize| tensor("z", kind, &[count as i64], &vec![0; count]);
    let fp8 = header("z", 17, &[2]);
    let s = || floats("s", &[2], &[0.5; 2]);
    let quantize = |inputs: &str, axis: i64| {
        node("QuantizeLinear", "q", inputs, "c", &[attribute("axis", axis)])
    };
    let integers = tensor("w", INT32, &[2, 3], &[0; 24]);
    let mut nan = ok;
    nan[4] = f32::NAN;
    for (first, tensors, why) in [
        (
            quantize("w s z", 0),
            vec![w(&ok), s(), fp8],
            "its codes are FLOAT8E4M3FN, and only those of 4 and 8 bits are understood",
        ),
        (
            quantize("w s z", 0),
            vec![w(&ok), s(), zeros(INT8, 3)],
            "it has 3 zero points for 2 scales",
        ),
        (quantize("w s z", 7), vec![w(&ok), s(), zeros(INT8, 2)], "its axis 7 is none of [2, 3]"),
        (
            quantize("w s z", 1),
            vec![w(&ok), s(), zeros(INT8, 2)],
            "its scales of shape [2] do not fit axis 1 of the shape [2, 3]",
        ),
        (
            quantize("w s z", 0),
            vec![integers, s(), zeros(INT8, 2)],
            "its input is I32, which is not understood",
        ),
        (
            quantize("w x z", 0),
            vec![w(&ok), zeros(INT8, 2)],
            "its scales are computed by the graph",
        ),
        (quantize("w s x", 0), vec![w(&ok), s()], "its zero points are computed by the graph"),
        (
            quantize("w s z", 0),
            vec![w(&nan), s(), zeros(INT8, 2)],
            "element 4 of the weight is NaN, with the scale 0.5",
        ),
    ] {
        let nodes = [
            first,
            node("DequantizeLinear", "d", "c s z", "f", &[attribute("axis", 0)]),
            node("Gemm", "g", "x f", "y", &[attribute("transB", 1)]),
        ];
        let model = open(&nodes, &tensors);
        let lines: Vec<String> =
            left(&model).into_iter().filter(|line| !line.starts_with("initializer")).collect();
        assert_eq!(
            lines,
            [
                format!("QuantizeLinear q: quantizes a weight, and {why}"),
                format!(
                    "DequantizeLinear d: dequantizes what QuantizeLinear `q` makes, which is left out: {why}"
                ),
            ]
        );
        assert!(names(&model).contains(&"w"));
    }
    // A weight behind another node is no activation, and codes of a stated type are those.
    let turned = [
        node("Identity", "i", "w", "v", &[]),
        node("QuantizeLinear", "q", "v s z", "c", &[attribute("axis", 0)]),
    ];
    let model = open(&turned, &[w(&ok), s(), zeros(INT8, 2)]);
    assert_eq!(
        left(&model),
        [
            "QuantizeLinear q: quantizes a weight, and its input is what Identity `i` makes of a tensor \
             of the file"
        ]
    );
}

/// A channel of zeros has the scale 0, under which 0/0 is the code of zero; and `output_dtype` says the type of
/// codes where no zero point does.
#[test]
fn quantizers_of_zeros_and_of_stated_types() {
    let w = [0.0, 0.0, 0.0, 3.0, -1.0, 0.5];
    let nodes = |attributes: &[Vec<u8>]| {
        let axis = || attribute("axis", 0);
        [
            node("QuantizeLinear", "q", "w s", "c", &[&[axis()], attributes].concat()),
            node("DequantizeLinear", "d", "c s", "f", &[axis()]),
            node("Gemm", "g", "x f", "y", &[attribute("transB", 1)]),
        ]
    };
    let tensors = [floats("w", &[2, 3], &w), floats("s", &[2], &[0.0, 0.5])];
    let model = open(&nodes(&[attribute("output_dtype", INT8)]), &tensors);
    assert_eq!(left(&model), [""; 0]);
    let weight = model.read_weight("w").unwrap();
    assert_eq!(weight.format().to_string(), "int8-channel");
    assert_eq!(dequantize(&weight), w);
    // Unsigned codes, which are the default, stop at 0.
    let unsigned = open(&nodes(&[]), &tensors).read_weight("w").unwrap();
    assert_eq!(dequantize(&unsigned), [0.0, 0.0, 0.0, 3.0, 0.0, 0.5]);
}

/// A tensor that has the name of any part of a weight is left out by name, and does not sink the file.
#[test]
fn names_of_parts_are_taken() {
    let parts = [
        "codes",
        "metadata",
        "scales",
        "upper_scales",
        "zeros",
        "minima",
        "upper_minima",
        "codebook",
        "order",
        "factors",
    ];
    let mut tensors =
        vec![tensor("x.weight", INT8, &[2, 2], &[1, 2, 3, 4]), floats("s", &[], &[1.0])];
    tensors.extend(parts.map(|part| floats(&format!("x.weight.{part}"), &[1], &[1.0])));
    tensors.push(floats("x.weight.other", &[1], &[1.0]));
    let nodes =
        [node("DequantizeLinear", "", "x.weight s", "d", &[]), node("MatMul", "", "x d", "y", &[])];
    let model = open(&nodes, &tensors);
    assert_eq!(names(&model), ["x.weight.other"]);
    let want = |part: &str| {
        format!(
            "initializer x.weight.{part}: a part of the weight `x.weight` has this name in the new file"
        )
    };
    let mut want = parts.map(want);
    want.sort();
    assert_eq!(left(&model), want);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    lowbit_models::checkpoint::source::import(&model, &path, &mut |_| ()).unwrap();
    lowbit_models::checkpoint::ModelFile::open(&path).unwrap();
}

/// A `Constant` of integers that a node takes which is not understood is listed and copied, with its scales.
/// Those of nodes that are understood, and shapes, are not copied.
#[test]
fn constants_of_lost_nodes_are_copied() {
    let constant = |name: &str, value: Vec<u8>| {
        let value = [wire::bytes(1, "value"), wire::bytes(5, value), wire::int(20, 4)].concat();
        node("Constant", "", "", name, &[wire::bytes(5, value)])
    };
    let nodes = |op: &str, inputs: &str| {
        [
            constant("c", tensor("", INT8, &[2, 2], &[1, 2, 3, 4])),
            constant("s", floats("", &[], &[0.5])),
            constant("shape", tensor("", 7, &[2], &[0; 16])),
            node("Reshape", "", "x shape", "r", &[]),
            node(op, "n", inputs, "y", &[]),
        ]
    };
    let model = open(&nodes("org.example:Unheard", "r c s"), &[]);
    assert_eq!(
        left(&model),
        ["Unheard n: takes the integers `c` (I8 [2, 2]), and this operator is not understood"]
    );
    assert_eq!(names(&model), ["c", "s"]);
    assert_eq!(*model.read_tensor("c").unwrap(), [1, 2, 3, 4]);
    let model = open(
        &[&nodes("DequantizeLinear", "c s")[..], &[node("MatMul", "", "x y", "z", &[])]].concat(),
        &[],
    );
    assert_eq!((left(&model), names(&model)), (vec![], vec![]));
}

/// No command writes over the file of tensor data of the model that it reads.
#[test]
fn data_beside_the_model_is_kept() {
    let scratch = Scratch::new();
    let entry = |key: &str, value: &str| {
        wire::bytes(13, [wire::bytes(1, key), wire::bytes(2, value)].concat())
    };
    fs::create_dir(scratch.path("in")).unwrap();
    let [input, data, own] =
        ["in/model.onnx", "in/model.onnx_data", "in/own"].map(|n| scratch.text(n));
    let stored =
        [header("w", FLOAT, &[2, 1]), entry("location", "model.onnx_data"), wire::int(14, 1)];
    fs::write(&input, model(&[], &[stored.concat()])).unwrap();
    fs::write(&data, le(&[1.0, 2.0])).unwrap();
    for args in [
        &["import", &input, "-o", &data][..],
        &["compress", &input, "-o", &data, "--scheme", "int8", "--host", "--tensors", "*"],
    ] {
        let message = refused(args);
        assert!(message.contains("OUT would replace a file of IN"), "{message}");
        assert_eq!(fs::read(&data).unwrap(), le(&[1.0, 2.0]));
    }
    crate::cli::fine(&["import", &input, "-o", &own]);
}
