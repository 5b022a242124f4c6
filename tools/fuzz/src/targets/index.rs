//! Files of compressed weights whose parts are those of their formats, but for what rare bytes say:
//! what lies behind the header's checks.

use super::pick::{self, Bytes};
use lowbit::format::Scales;
use std::fmt::Write;

pub fn run(data: &[u8]) {
    super::model::run(&file(data));
}

struct File {
    index: Vec<String>,
    tensors: Vec<String>,
    data: Vec<u8>,
}

impl File {
    fn add(&mut self, u: &mut Bytes<'_>, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        // Absent where it has no elements, as the layout wants, or else by chance.
        if bytes.is_empty() != pick::rarely(u) {
            return;
        }
        let dtype = if pick::rarely(u) { "U8" } else { dtype };
        let mut shape = shape.to_vec();
        if pick::rarely(u) {
            shape.reverse();
        }
        let (start, end) = (self.data.len(), self.data.len() + bytes.len());
        self.tensors.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
        ));
        self.data.extend_from_slice(bytes);
    }
}

/// The file that an input stands for.
pub fn file(data: &[u8]) -> Vec<u8> {
    let mut u = Bytes::new(data);
    let mut file = File { index: Vec::new(), tensors: Vec::new(), data: Vec::new() };
    for name in &["w", "v", "w.codes"][..1 + pick::index(&mut u, 3)] {
        weight(&mut u, &mut file, name);
    }
    let version = pick::one_of(&mut u, &["2", "1", "2", "1", "3"]);
    // Formats have no quotes in them: those are all there are.
    let index = format!("{{{}}}", file.index.join(",")).replace('"', "\\\"");
    let mut header =
        format!(r#"{{"__metadata__":{{"lowbit.version":"{version}","lowbit.tensors":"{index}"}}"#);
    for tensor in &file.tensors {
        let _ = write!(header, ",{tensor}");
    }
    header.push('}');
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &file.data].concat()
}

fn weight(u: &mut Bytes<'_>, file: &mut File, name: &str) {
    let format = pick::format(u);
    let (n, k) = (pick::number(u) as usize, pick::number(u) as usize);
    let shape = match pick::index(u, 8) {
        0 => vec![n, 1, k],
        1 => vec![n],
        2 => vec![k, n],
        _ => vec![n, k],
    };
    let layer = match pick::index(u, 4) {
        0 => format!(r#","activations":{{"format":"{}"}}"#, pick::activation_format(u)),
        1 => {
            let scale = f32::from(pick::byte(u)) / 16.0;
            let zero = i32::from(pick::byte(u)) - 128;
            let fixed = format!(r#""static":{{"scale":{scale},"zero_point":{zero}}}"#);
            let (format, smoothed) = (pick::activation_format(u), pick::flag(u));
            format!(r#","activations":{{"format":"{format}",{fixed},"smoothed":{smoothed}}}"#)
        }
        2 => r#","activations":{"format":"int8-token","smoothed":true}"#.to_owned(),
        _ => String::new(),
    };
    file.index.push(format!(r#""{name}":{{"format":"{format}","shape":{shape:?}{layer}}}"#));
    let Some(parts) = pick::parts(u, format, n, k) else { return };
    let Ok(g) = format.geometry(n, k) else { return };
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let mut add = |part: &str, dtype: &str, shape: &[usize], bytes: &[u8]| {
        file.add(u, &format!("{name}.{part}"), dtype, shape, bytes);
    };
    let scaled = match format.granularity() {
        lowbit::format::Granularity::Tensor => vec![g.scales],
        _ => vec![n, g.groups],
    };
    add("codes", "U32", &[n, g.code_words], &words(&parts.codes));
    add("metadata", "U32", &[n, g.meta_words], &words(&parts.metadata));
    match &parts.scales {
        Scales::F32(scales) => {
            let bytes: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
            add("scales", "F32", &scaled, &bytes);
        }
        Scales::F16(scales) => {
            let bytes: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
            add("scales", "F16", &scaled, &bytes);
        }
        // `pick::parts` makes no others.
        _ => {}
    }
    add("zeros", "U8", &scaled, &parts.zeros);
    if layer.contains("true") {
        // Without rows there may be any number of columns.
        let factors: Vec<u8> = (0..k.min(1 << 12)).flat_map(|_| 1.5f32.to_le_bytes()).collect();
        add("factors", "F32", &[k], &factors);
    }
}
