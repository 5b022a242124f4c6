//! Files made to hurt: what they cost to refuse, in bytes and in time. What each reader refuses, by
//! which name, is tested beside it (`src/checkpoint/tests`, `crates/lowbit-cli/tests/onnx.rs`, `tests/calibrate.rs`); here
//! memory is counted, files are large, and lies are such as grow while they are read.

use crate::memory::{peak, within};
use lowbit::compress::calibrate::{Observer, Statistics};
use lowbit::gpu::{AdapterClass, Caps};
use lowbit::ops::matmul::{BadTuning, TuningKey};
use lowbit_models::checkpoint::onnx::{OnnxError, OnnxFile};
use lowbit_models::checkpoint::{
    BadRanges, Content, Dtype, IoError, ModelFile, Ranges, load_tuning, read_compressed,
    write_model,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of memory for a byte of file, at most. An empty list in JSON takes three bytes of text and
/// 24 of memory, and a growing list is there twice.
const JSON: usize = 40;

/// Bytes of memory for a byte of an ONNX file, at most. An empty message takes two bytes there.
const PROTOBUF: usize = 100;

/// The longest time that refusing a file may take on a shared machine. Quadratic work takes minutes.
const SOON: Duration = Duration::from_secs(10);

/// A result, within its time.
fn soon<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    let took = start.elapsed();
    assert!(took < SOON, "{what} took {took:?}");
    result
}

/// A file from its header and its data, whatever they say.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Opens a model in proportion to its size.
fn open(what: &str, file: &[u8]) -> Result<ModelFile, IoError> {
    soon(what, || within(JSON, file.len(), || ModelFile::from_bytes(file.to_vec())))
}

fn model_error(what: &str, file: &[u8]) -> IoError {
    open(what, file).map(|_| ()).unwrap_err()
}

const MILLION: usize = 1 << 20;

/// Each is a megabyte or more of what costs the most memory for its text.
#[test]
fn headers_that_grow_while_they_are_read() {
    let zeros = vec!["0"; MILLION].join(",");
    let tensor =
        |shape: &str| format!(r#"{{"t":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,0]}}}}"#);
    assert!(open("a shape of a million zeros", &raw(&tensor(&zeros), &[])).is_ok());
    let ones = zeros.replace('0', "1");
    let error = model_error("a shape of a million ones", &raw(&tensor(&ones), &[]));
    assert!(matches!(error, IoError::WrongSize { name, have: 0, .. } if name == "t"));

    // The shortest entries there are.
    let names = |entry: &str| -> String {
        (0..MILLION / 8).map(|i| format!(r#""{i:x}":{entry}"#)).collect::<Vec<_>>().join(",")
    };
    let metadata = format!(r#"{{"__metadata__":{{{}}}}}"#, names("\"\""));
    assert_eq!(open("metadata", &raw(&metadata, &[])).unwrap().metadata().len(), MILLION / 8);
    let tensors = format!("{{{}}}", names(r#"{"dtype":"U8","shape":[],"data_offsets":[0,0]}"#));
    let error = model_error("scalars without bytes", &raw(&tensors, &[]));
    assert!(matches!(error, IoError::WrongSize { have: 0, .. }), "{error}");
    let empty = format!("{{{}}}", names(r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#));
    let file = open("tensors without elements", &raw(&empty, &[])).unwrap();
    assert_eq!(file.tensors().count(), MILLION / 8);

    // An index inside of the header, whose weights have no parts.
    let index = names(r#"{\"format\":\"f16\",\"shape\":[9,9]}"#).replace("\":{\\", "\\\":{\\");
    let index = index.replace(",\"", ",\\\"");
    let index =
        format!(r#"{{"__metadata__":{{"lowbit.version":"1","lowbit.tensors":"{{\{index}}}"}}}}"#);
    let file = open("weights without parts", &raw(&index, &[])).unwrap();
    assert_eq!(file.compressed().len(), MILLION / 8);
    let error = read_compressed(&file, "0").unwrap_err();
    assert!(matches!(error, IoError::MissingPart { name, part: "codes" } if name == "0"));
}

#[test]
fn headers_that_nest() {
    for (what, open_, close) in
        [("lists", "[", "]"), ("objects", r#"{"a":"#, "}"), ("both", r#"[{"a":"#, "}]")]
    {
        for ends in [true, false] {
            let close = if ends { close.repeat(MILLION / 4) } else { String::new() };
            let deep = format!("{}0{close}", open_.repeat(MILLION / 4));
            for header in [
                deep.clone(),
                format!(r#"{{"__metadata__":{deep}}}"#),
                format!(r#"{{"t":{deep}}}"#),
                format!(r#"{{"t":{{"dtype":"U8","shape":{deep},"data_offsets":[0,0]}}}}"#),
                format!(r#"{{"t":{{"more":{deep},"dtype":"U8"}}}}"#),
            ] {
                let error = model_error(what, &raw(&header, &[]));
                assert!(matches!(error, IoError::HeaderJson(_)), "{what}: {error}");
            }
            let deep = format!(r#"{{"version":1,"layers":{{}},"more":{deep}}}"#).into_bytes();
            let error = within(JSON, deep.len(), || Ranges::from_json(&deep)).unwrap_err();
            assert!(matches!(error, BadRanges::Json(_)), "{what}: {error}");
        }
    }
    // Inside of the text of the index, where the header itself is flat.
    let index = format!(r#"{{\"w\":{{\"format\":{}"#, "[".repeat(MILLION));
    let header =
        format!(r#"{{"__metadata__":{{"lowbit.version":"1","lowbit.tensors":"{index}"}}}}"#);
    let error = model_error("an index that nests", &raw(&header, &[]));
    assert!(matches!(error, IoError::BadMetadata { key: "lowbit.tensors", .. }), "{error}");
}

/// Rows without columns take no bytes in a file: two thousand million of them are nothing, too.
#[test]
fn rows_without_columns_cost_nothing() {
    let n = (1u64 << 31) - 1;
    for format in ["int8-channel", "int4-g64-asym", "2:4+int4-tensor", "f32", "2:4+f16"] {
        let index = format!(r#"{{\"w\":{{\"format\":\"{format}\",\"shape\":[{n},0]}}}}"#);
        let header =
            format!(r#"{{"__metadata__":{{"lowbit.version":"1","lowbit.tensors":"{index}"}}}}"#);
        let file = open(format, &raw(&header, &[])).unwrap();
        let (weights, held) = peak(|| soon(format, || read_compressed(&file, "w").unwrap()));
        assert_eq!((weights.n() as u64, weights.k()), (n, 0));
        assert!(held < 1 << 12, "{format}: {held} bytes");
        // And so is all that is made of them.
        soon(format, || {
            use lowbit::format::{DeviceLayout, RowOrder};
            for order in [RowOrder::Rows, RowOrder::Panels] {
                let layout = DeviceLayout::new(weights.format(), n as usize, 0, order).unwrap();
                let image = layout.pack(&weights, 0..n as usize);
                assert_eq!((image.codes.len(), image.side.len()), (0, 0));
                let image = layout.by_rows(&image, n as usize).unwrap();
                assert_eq!(layout.unpack(&image, &[]).unwrap(), weights);
            }
            assert!(lowbit::compress::dequantize(&weights).is_empty());
        });
    }
}

/// A file of 4 GiB of which a block or two are on disk.
fn sparse(path: &Path, start: &[u8]) -> u64 {
    let size = 1u64 << 32;
    let mut file = File::create(path).unwrap();
    file.write_all(start).unwrap();
    file.set_len(size).unwrap();
    size
}

/// What a model file of 4 GiB costs to open: its header.
#[test]
fn sparse_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let open = |start: &[u8]| {
        sparse(&path, start);
        let (file, held) = peak(|| soon("4 GiB", || ModelFile::open(&path)));
        assert!(held < 1 << 16, "{held} bytes to open a model of a short header");
        file
    };
    let header = |bytes: u64| {
        format!(r#"{{"t":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#)
    };
    let length = header(1 << 32).len() as u64;
    let data = (1 << 32) - 8 - length;
    // It is as long as any header of ten digits.
    let right = header(data);
    assert_eq!(right.len() as u64, length);
    let file = open(&raw(&right, &[])).unwrap();
    assert_eq!(file.file_bytes() as u64, 1 << 32);
    let tensor = file.tensor("t").unwrap();
    assert_eq!((tensor.bytes.len() as u64, tensor.bytes[tensor.bytes.len() - 1]), (data, 0));
    drop(file);

    let error = open(&raw(&header(data - 1), &[])).map(|_| ()).unwrap_err();
    assert!(matches!(error, IoError::Gap { .. }), "{error}");
    let error = open(&raw(&header(data + 1), &[])).map(|_| ()).unwrap_err();
    assert!(matches!(error, IoError::BadOffsets { name, .. } if name == "t"));
    let wrong = header(data).replacen(&data.to_string(), &(data / 2).to_string(), 1);
    let error = open(&raw(&format!("{wrong:length$}", length = length as usize), &[]));
    assert!(matches!(error.map(|_| ()).unwrap_err(), IoError::WrongSize { .. }));
    // 2⁶⁰ elements of four bytes are 2⁶² bytes, of 64 bits they overflow.
    let many = header(data).replacen(&format!("[{data}]"), &format!("[{}]", 1u64 << 60), 1);
    let error = open(&raw(&many, &[])).map(|_| ()).unwrap_err();
    assert!(matches!(error, IoError::BadOffsets { .. } | IoError::Overflow { .. }), "{error}");

    // Nothing but zeros: a header of no bytes, which is no JSON.
    let error = open(&[]).map(|_| ()).unwrap_err();
    assert!(matches!(error, IoError::HeaderJson(_)), "{error}");
    for length in [u64::MAX, 1 << 32, (1 << 32) - 7, 100_000_001] {
        let error = open(&length.to_le_bytes()).map(|_| ()).unwrap_err();
        assert!(matches!(error, IoError::HeaderLength { length: l, .. } if l == length), "{error}");
    }
    // The longest header that may be, of zeros: one look at it is enough.
    let error = open(&100_000_000u64.to_le_bytes()).map(|_| ()).unwrap_err();
    assert!(matches!(error, IoError::HeaderJson(_)), "{error}");
}

/// Files that are larger than any of their kind are not read to find that out.
#[test]
fn sparse_texts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    sparse(&path, b"{\"version\":1}");
    let (error, held) = peak(|| soon("ranges", || Ranges::read(&path).unwrap_err()));
    assert!(matches!(error.why, BadRanges::TooLarge(_)), "{error}");
    assert!(error.to_string().contains("file"), "{error}");
    assert!(held < 1 << 16, "{held} bytes");
    let caps = Caps::from_limits(AdapterClass::Gpu, &wgpu::Limits::defaults());
    let key = TuningKey::default();
    let (error, held) = peak(|| soon("tuning", || load_tuning(&path, &key, &caps).unwrap_err()));
    assert!(matches!(error.why, BadTuning::TooLarge(_)), "{error}");
    assert!(held < 1 << 16, "{held} bytes");
    // As an ONNX file it is mapped, and its first byte is no message.
    let (error, held) = peak(|| soon("onnx", || OnnxFile::open(&path).unwrap_err()));
    assert!(matches!(error, OnnxError::Protobuf { what: "model", .. }), "{error}");
    assert!(held < 1 << 16, "{held} bytes");
}

/// Statistics of a layer, and what a changed field of theirs costs.
fn ranges(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut statistics = Statistics::new(Observer::tensor("a", 2).with_bins(2)).unwrap();
    statistics.observe(&[1.0, -2.0]).unwrap();
    let mut ranges = Ranges::default();
    ranges.insert(statistics);
    let text = ranges.to_json().unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    change(&mut value["layers"]["a"]["statistics"]);
    value.to_string().into_bytes()
}

#[test]
fn ranges_that_claim_much() {
    let read =
        |text: &[u8]| soon("ranges", || within(JSON, text.len(), || Ranges::from_json(text)));
    read(&ranges(|_| ())).unwrap();
    let huge = 1u64 << 60;
    for (field, value) in [
        ("columns", serde_json::json!(huge)),
        ("bins", serde_json::json!(huge)),
        ("rows", serde_json::json!(huge)),
        ("rows", serde_json::json!(u64::MAX)),
        ("width_exponent", serde_json::json!([i32::MAX])),
        ("counts", serde_json::json!([[huge, huge, huge, huge]])),
        ("min", serde_json::json!(vec![0; 1000])),
    ] {
        let error = read(&ranges(|statistics| statistics[field] = value.clone()));
        let message = error.err().map(|error| error.to_string());
        // Columns of a tensor's statistics are a factor of its values only.
        let names = message.as_ref().is_some_and(|m| m.contains(field) || m.contains("counts"));
        assert!(names, "{field} = {value}: {message:?}");
    }
    // By channels there must be a range for each of so many columns.
    let error = read(&ranges(|statistics| {
        statistics["axis"] = serde_json::json!("channel");
        statistics["columns"] = serde_json::json!(huge);
    }));
    let message = error.unwrap_err().to_string();
    assert!(message.contains(&huge.to_string()) && message.contains("`a`"), "{message}");
    // Lists of nothing, a million of them.
    let text = String::from_utf8(ranges(|_| ())).unwrap();
    let lists = vec!["[]"; MILLION / 2].join(",");
    let (before, rest) = text.split_once("\"counts\":[").unwrap();
    let (_, after) = rest.split_once("]]").unwrap();
    let error = read(format!("{before}\"counts\":[{lists}]{after}").as_bytes()).unwrap_err();
    assert!(error.to_string().contains("`counts`"), "{error}");
    // Bytes that are no text.
    for at in [0, text.len() / 2, text.len() - 1] {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = 0xff;
        assert!(matches!(read(&bytes), Err(BadRanges::Json(_))), "byte {at}");
    }
}

/// A field of bytes of a message.
fn field(tag: u64, value: &[u8]) -> Vec<u8> {
    [varint(tag << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn onnx(what: &str, file: &[u8]) -> Result<OnnxFile, OnnxError> {
    soon(what, || within(PROTOBUF, file.len(), || OnnxFile::from_bytes(file.to_vec())))
}

/// A model of a graph of these fields.
fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    field(7, &graph.concat())
}

fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str], more: &[u8]) -> Vec<u8> {
    let names = |tag, names: &[&str]| -> Vec<u8> {
        names.iter().flat_map(|name| field(tag, name.as_bytes())).collect()
    };
    let texts = [field(3, name.as_bytes()), field(4, op.as_bytes())].concat();
    field(1, &[names(1, inputs), names(2, outputs), texts, more.to_vec()].concat())
}

fn attribute(name: &str, value: u64) -> Vec<u8> {
    field(5, &[field(1, name.as_bytes()), varint(3 << 3), varint(value)].concat())
}

/// A tensor of one byte an element, or of f32 where its type is 1.
fn tensor(name: &str, kind: u64, dims: &[u64], data: &[u8]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|&d| [varint(8), varint(d)].concat()).collect();
    let parts = [dims, varint(2 << 3), varint(kind), field(8, name.as_bytes()), field(9, data)];
    field(5, &parts.concat())
}

/// Messages of two bytes that are structures in memory.
#[test]
fn messages_that_grow_while_they_are_read() {
    let empty = |tag: u64, count: usize| field(tag, &[]).repeat(count);
    for (what, graph) in [
        ("inputs", field(1, &empty(1, MILLION))),
        ("attributes", field(1, &empty(5, MILLION))),
        ("attributes' lists", field(1, &field(5, &varint(8 << 3).repeat(MILLION)))),
        ("attributes' graphs", field(1, &field(5, &empty(11, MILLION)))),
        ("places of data", field(5, &empty(13, MILLION))),
        ("dimensions", field(5, &[8, 0].repeat(MILLION))),
        ("floats", field(5, &field(4, &[0; 4].repeat(MILLION)))),
        ("integers", field(5, &field(5, &[0].repeat(MILLION)))),
        ("nodes", empty(1, MILLION)),
        ("too many nodes", empty(1, MILLION + 1)),
        ("too many tensors", empty(5, MILLION + 1)),
        ("sparse tensors", empty(15, MILLION)),
    ] {
        let _ = onnx(what, &field(7, &graph));
    }
    let _ = onnx("functions", &[field(7, &[]), empty(25, MILLION)].concat());
    let error = onnx("graphs", &empty(7, MILLION)).unwrap_err();
    assert!(matches!(error, OnnxError::Graphs { have: MILLION }), "{error}");
    let error = onnx("too many nodes", &model(&[empty(1, MILLION + 1)])).unwrap_err();
    assert!(matches!(error, OnnxError::TooMany { what: "nodes", .. }), "{error}");
}

/// A file can hold a long name once and have it used by another everywhere: what is said of every
/// use would then be as large as the file squared.
#[test]
fn long_names_are_refused() {
    let long = "n".repeat(MILLION);
    let float = 1.0f32.to_le_bytes();
    let codes = tensor("c", 3, &[1, 1], &[1]);
    for graph in [
        vec![codes.clone(), tensor(&long, 1, &[1], &float)],
        vec![codes.clone(), node("MatMul", &long, &["x", "c"], &["y"], &[])],
        vec![codes.clone(), node(&long, "", &["x", "c"], &["y"], &[])],
        vec![codes.clone(), node("MatMul", "", &["x", &long], &["y"], &[])],
        vec![codes.clone(), node("MatMul", "", &["x", "c"], &[&long], &[])],
    ] {
        let error = onnx("a long name", &model(&graph)).unwrap_err();
        assert!(matches!(&error, OnnxError::LongName { length: MILLION, .. }), "{error}");
        assert!(error.to_string().len() < 200, "{error}");
    }
}

/// Names as long as may be, used by every node there is, in reasons of each and as its bias.
#[test]
fn names_in_use_everywhere() {
    let long = "s".repeat(1 << 10);
    let count = 1 << 14;
    let outputs: Vec<String> = (0..count).map(|i| format!("y{i}")).collect();
    // No plan for the sake of a scale of a long name, which nodes know as `t`.
    let mut graph = vec![
        tensor("c", 2, &[2, 32], &[7; 64]),
        tensor(&long, 1, &[3], &1.0f32.to_le_bytes().repeat(3)),
        node("Identity", "", &[&long], &["t"], &[]),
    ];
    let bits = [attribute("N", 2), attribute("K", 32), attribute("block_size", 16)].concat();
    let more = [bits, field(7, b"com.microsoft")].concat();
    graph.extend(outputs.iter().map(|y| node("MatMulNBits", "", &["x", "c", "t"], &[y], &more)));
    let file = onnx("a weight that has no plan", &model(&graph)).unwrap();
    assert_eq!((file.weights().len(), file.left_out().len()), (0, count));
    // One use of a weight by a node of a long name, and others that disagree with it.
    let mut graph = vec![
        tensor("c", 3, &[1, 1], &[1]),
        tensor("s", 1, &[1], &1.0f32.to_le_bytes()),
        node("DequantizeLinear", "", &["c", "s"], &["w"], &[]),
        node("MatMul", &long, &["x", "w"], &["first"], &[]),
    ];
    graph.extend(outputs.iter().map(|y| node("Gather", "", &["w", "x"], &[y], &[])));
    let file = onnx("uses that disagree", &model(&graph)).unwrap();
    assert_eq!(file.left_out().len(), count);
}

/// Axes by the thousand, looked at by every node.
#[test]
fn many_axes_cost_no_more() {
    let dims = vec![1; 1 << 16];
    let mut graph = vec![tensor("c", 3, &dims, &[1]), tensor("s", 1, &dims, &1.0f32.to_le_bytes())];
    let outputs: Vec<String> = (0..1 << 14).map(|i| format!("y{i}")).collect();
    let blocks = [attribute("axis", 0), attribute("block_size", 1)].concat();
    graph.extend(outputs.iter().map(|y| node("DequantizeLinear", "", &["c", "s"], &[y], &blocks)));
    let error = onnx("tensors of 65,536 axes", &model(&graph)).unwrap_err();
    assert!(matches!(error, OnnxError::BadTensor { name, .. } if name == "c"));
}

/// Numbers that do not end, or end beyond 64 bits, and lengths past the end, at every depth.
#[test]
fn numbers_and_lengths_that_lie() {
    let endless = [0xff; 11];
    let long = varint(u64::MAX);
    let wrap = |depth: usize, inner: &[u8]| match depth {
        0 => inner.to_vec(),
        1 => field(7, inner),
        2 => field(7, &field(1, inner)),
        3 => field(7, &field(5, inner)),
        _ => field(7, &field(1, &field(5, inner))),
    };
    for depth in 0..5 {
        let what = format!("at depth {depth}");
        let tag = varint(1 << 3 | 2);
        for inner in [
            [&tag[..], &endless].concat(),
            [&tag[..], &long].concat(),
            [&tag[..], &varint(1 << 40), b"short"].concat(),
            [&tag[..], &varint(6), b"short"].concat(),
            endless.to_vec(),
            vec![0],
            // A field number of more than 29 bits, and wire types that there are not.
            [varint(1 << 35), vec![0]].concat(),
            vec![1 << 3 | 6],
            vec![1 << 3 | 4],
        ] {
            let error = onnx(&what, &wrap(depth, &inner)).map(|_| ()).unwrap_err();
            assert!(matches!(error, OnnxError::Protobuf { .. }), "{what}, {inner:x?}: {error}");
        }
    }
}

/// Every cut of a model of one tensor, one weight and a side file's place gives an error, or what
/// was whole before it.
#[test]
fn places_of_data_that_escape() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), [0; 64]).unwrap();
    let inside = folder.path().join("model");
    std::fs::create_dir(&inside).unwrap();
    let path = inside.join("model.onnx");
    let entry =
        |key: &str, value: &[u8]| field(13, &[field(1, key.as_bytes()), field(2, value)].concat());
    let deep = "a/".repeat(10_000) + "../".repeat(10_001).as_str() + "secret";
    let long = "x".repeat(MILLION);
    for location in [
        "./../secret",
        "model/../../secret",
        "..",
        "/",
        "\0",
        "a\0b",
        "../model/../secret",
        &deep,
        &long,
    ] {
        let parts = [
            vec![8, 16, 16, 1],
            field(8, b"t"),
            entry("location", location.as_bytes()),
            vec![14 << 3, 1],
        ];
        let file = model(&[field(5, &parts.concat())]);
        std::fs::write(&path, &file).unwrap();
        let result = within(PROTOBUF, file.len(), || OnnxFile::open(&path));
        let error = result.map(|_| ()).unwrap_err();
        assert!(matches!(&error, OnnxError::External { name, .. } if name == "t"), "{error}");
    }
}

/// A whole small file, cut at each byte and read from disk: an error that names the file or what
/// is wrong in it, and no more memory than the file.
#[test]
fn truncated_at_each_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let weights: Vec<f32> = (0..27).map(|i| i as f32 / 4.0 - 3.0).collect();
    let format = "2:4+int4-g5-asym-f16s".parse().unwrap();
    let packed = lowbit::compress::quantize(&weights, 3, 9, &format).unwrap();
    let tensors = [
        ("w", Content::Compressed { shape: &[3, 9], weights: &packed }),
        ("bias", Content::Plain { dtype: Dtype::F16, shape: &[2], bytes: &[1, 2, 3, 4] }),
    ];
    write_model(&path, &tensors, &BTreeMap::new()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert!(ModelFile::open(&path).is_ok());
    let mut kinds = BTreeMap::new();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = within(JSON, length, || ModelFile::open(&path).map(|_| ()).unwrap_err());
        assert!(!error.to_string().is_empty());
        let kind = match error {
            IoError::TooShort { have } => {
                assert_eq!(have, length);
                "too short"
            }
            IoError::HeaderLength { limit, .. } => {
                assert_eq!(limit as usize, length - 8);
                "header"
            }
            IoError::BadOffsets { .. } => "offsets",
            other => panic!("{length}: {other}"),
        };
        *kinds.entry(kind).or_insert(0) += 1;
    }
    assert_eq!(kinds["too short"], 8);
    assert_eq!(kinds.len(), 3, "{kinds:?}");
}
