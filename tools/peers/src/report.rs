//! Rows as a table, as JSON, and what they say against the goals.

use crate::catalog::{Device, Format, Shape};
use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use protocol::Activations;
use serde::Serialize;
use std::fmt::Write;

/// A peer beside lowbit. Where `peer` is lowbit itself, `peer_format` is another of its own
/// formats, which `format` is to be faster than.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub peer: &'static str,
    pub peer_version: String,
    pub peer_format: &'static str,
    pub device: Device,
    pub adapter: String,
    pub driver: String,
    pub format: Format,
    /// How the products are made.
    pub activations: Activations,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours_ms: Option<f64>,
    /// Peer ÷ ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours_kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Row {
    fn shape(&self) -> Shape {
        Shape { m: self.m, n: self.n, k: self.k }
    }

    fn is_own(&self) -> bool {
        self.peer == crate::catalog::OURS.name
    }
}

/// The name of how products are made.
pub fn name(activations: Activations) -> &'static str {
    match activations {
        Activations::F32 => "f32",
        Activations::F16 => "f16",
        Activations::Int8 => "int8",
    }
}

/// Characters of an error that the table shows; the JSON has all of them.
const ERROR: usize = 70;

pub fn table(rows: &[Row]) -> String {
    let header = ["M×N×K", "format", "X", "peer", "its format", "peer ms", "ours ms", "ratio", ""];
    let mut table = Table::new();
    let underline = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(underline)).set_header(header);
    table.set_content_arrangement(ContentArrangement::Disabled);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let ms = |ms: Option<f64>| right(ms.map_or("–".into(), |ms| format!("{ms:.2}")));
    for row in rows {
        let device = if row.device == Device::Cpu { " (CPU)" } else { "" };
        let note = match (&row.error, &row.ours_kernel) {
            (Some(error), _) => error.chars().take(ERROR).collect(),
            // The decoder repeats the format: the schedule is what one wants to see.
            (None, Some(kernel)) => kernel.split('.').next().unwrap_or_default().to_owned(),
            (None, None) => String::new(),
        };
        table.add_row([
            row.shape().to_string().into(),
            row.format.name().into(),
            name(row.activations).into(),
            format!("{}{device}", row.peer).into(),
            row.peer_format.into(),
            ms(row.peer_ms),
            ms(row.ours_ms),
            right(row.ratio.map_or("–".into(), |ratio| format!("{ratio:.2}"))),
            Cell::new(note),
        ]);
    }
    table.trim_fmt() + "\n"
}

/// Times against the fastest peer: what X is, whether M = 1, the least ratio wanted.
const GOALS: [(Activations, bool, f64); 4] = [
    (Activations::F32, true, 4.0),
    (Activations::F32, false, 2.0),
    (Activations::Int8, true, 6.0),
    (Activations::Int8, false, 3.0),
];
/// 2:4 against its dense twin at M = 1, and against numr's; int4 against lowbit's own floats.
const SPARSE: f64 = 1.3;
const NARROW: f64 = 1.0;
const NUMR: f64 = 10.0;

/// A ratio and what it is of.
struct Ratio {
    value: f64,
    of: String,
}

pub fn summary(rows: &[Row]) -> String {
    let mut text = String::from(
        "Each kernel of lowbit beside the fastest GPU peer of its class of activations and width\n\
         of weights (32, 16, 8 or 4 bits, dense or 2:4), the worst over formats and shapes.\n\
         Peers that multiply in f16 count among those for lowbit's f32. Ratios are peer ÷ ours.\n",
    );
    for (activations, vector, goal) in GOALS {
        let rows: Vec<&Row> = rows.iter().filter(|row| (row.m == 1) == vector).collect();
        let what =
            format!("{} activations, M {}", name(activations), if vector { "= 1" } else { "≥ 8" });
        let rivals = against_fastest(&rows, activations);
        verdict(&mut text, &what, goal, rivals.iter().map(Rival::ratio).collect());
    }
    let own = || rows.iter().filter(|row| row.is_own() && row.m == 1);
    let floats = [Format::F16, Format::F32].map(Format::lowbit);
    let int4 = own().filter(|row| row.format.class() == "4-bit");
    let int4 = int4.filter(|row| floats.contains(&row.peer_format));
    let what = "int4 beside lowbit's f16 and f32, M = 1";
    verdict(&mut text, what, NARROW, int4.filter_map(ratio).collect());
    for (sparse, dense, goal) in [
        (Format::SparseF32, Format::F32, SPARSE),
        (Format::SparseF16, Format::F16, SPARSE),
        (Format::SparseInt8, Format::Int8Channel, NARROW),
        (Format::SparseInt4, Format::Int4G128, NARROW),
    ] {
        let pairs = own().filter(|row| row.format == sparse);
        let pairs = pairs.filter(|row| row.peer_format == dense.lowbit());
        let what = format!("{} beside lowbit's dense {}, M = 1", sparse.name(), dense.name());
        verdict(&mut text, &what, goal, pairs.filter_map(ratio).collect());
    }
    let numr = rows.iter().filter(|row| row.peer == "numr" && row.format == Format::SparseF32);
    verdict(&mut text, "2:4-f32 beside numr's", NUMR, numr.filter_map(ratio).collect());
    text
}

fn ratio(row: &Row) -> Option<Ratio> {
    Some(Ratio { value: row.ratio?, of: described(row, row.peer_ms?, row.ours_ms?) })
}

fn described(row: &Row, peer_ms: f64, ours_ms: f64) -> String {
    let (shape, format) = (row.shape(), row.format.name());
    format!("{format} {shape}: {} {} {peer_ms:.2} ms, ours {ours_ms:.2}", row.peer, row.peer_format)
}

/// One of lowbit's times, and the fastest peer of its classes.
struct Rival<'a> {
    own: &'a Row,
    ours_ms: f64,
    rival: &'a Row,
    peer_ms: f64,
}

impl Rival<'_> {
    fn ratio(&self) -> Ratio {
        let named = Row { format: self.own.format, ..self.rival.clone() };
        let of = described(&named, self.peer_ms, self.ours_ms);
        Ratio { value: self.peer_ms / self.ours_ms, of }
    }
}

/// Ratios to the fastest peer, with f32 activations, as Markdown: formats by shapes.
pub fn markdown(rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows.iter().collect();
    let rivals = against_fastest(&rows, Activations::F32);
    let (mut shapes, mut formats): (Vec<Shape>, Vec<Format>) = (Vec::new(), Vec::new());
    for Rival { own, .. } in &rivals {
        if !shapes.contains(&own.shape()) {
            shapes.push(own.shape());
        }
        if !formats.contains(&own.format) {
            formats.push(own.format);
        }
    }
    formats.sort_by_key(|format| Format::value_variants().iter().position(|f| f == format));
    let mut text = String::from("| W |");
    for shape in &shapes {
        let _ = write!(text, " {shape} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(shapes.len()));
    for format in formats {
        let _ = write!(text, "\n| {} |", format.name());
        for shape in &shapes {
            let cell = rivals.iter().find(|r| r.own.format == format && r.own.shape() == *shape);
            let _ = match cell {
                Some(Rival { ours_ms, rival, peer_ms, .. }) => {
                    let ratio = peer_ms / ours_ms;
                    write!(text, " {ratio:.1} × ({ours_ms:.1}; {} {peer_ms:.0}) |", rival.peer)
                }
                None => write!(text, " – |"),
            };
        }
    }
    text.push('\n');
    text
}

/// For each format and shape that lowbit was timed with, the fastest peer of its classes.
fn against_fastest<'a>(rows: &[&'a Row], activations: Activations) -> Vec<Rival<'a>> {
    let competes = |peer: Activations| match activations {
        Activations::F32 => peer != Activations::Int8,
        other => peer == other,
    };
    let mut seen = Vec::new();
    let mut fastest = Vec::new();
    for own in rows.iter().filter(|row| row.activations == activations) {
        let Some(ours_ms) = own.ours_ms else { continue };
        if seen.contains(&(own.format, own.shape())) {
            continue;
        }
        seen.push((own.format, own.shape()));
        let rivals = rows.iter().filter(|row| {
            row.device == Device::Gpu
                && !row.is_own()
                && competes(row.activations)
                && row.format.class() == own.format.class()
                && row.shape() == own.shape()
        });
        let timed = rivals.filter_map(|row| Some((row.peer_ms?, row)));
        if let Some((peer_ms, rival)) = timed.min_by(|a, b| a.0.total_cmp(&b.0)) {
            fastest.push(Rival { own, ours_ms, rival, peer_ms });
        }
    }
    fastest
}

fn verdict(text: &mut String, what: &str, goal: f64, ratios: Vec<Ratio>) {
    let worst = ratios.iter().min_by(|a, b| a.value.total_cmp(&b.value));
    let line = match worst {
        None => format!("not measured  {what}: goal {goal}×, nothing to compare"),
        Some(Ratio { value, of }) => {
            let met = if *value >= goal { "met   " } else { "missed" };
            format!(
                "{met}        {what}: goal {goal}×, worst of {} {value:.2}× ({of})",
                ratios.len()
            )
        }
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(peer: &'static str, format: Format, activations: Activations, ms: (f64, f64)) -> Row {
        Row {
            peer,
            peer_version: String::new(),
            peer_format: "theirs",
            device: if peer.ends_with("cpu") { Device::Cpu } else { Device::Gpu },
            adapter: String::new(),
            driver: String::new(),
            format,
            activations,
            m: 1,
            n: 8,
            k: 256,
            peer_ms: Some(ms.0),
            ours_ms: Some(ms.1),
            ratio: Some(ms.0 / ms.1),
            ours_kernel: None,
            error: None,
        }
    }

    #[test]
    fn the_fastest_peer_of_a_class_counts() {
        let rows = [
            row("slow", Format::Int4G32, Activations::F32, (50.0, 5.0)),
            row("fast", Format::Int4G128, Activations::F32, (10.0, 4.0)),
            row("wide", Format::Int8G32, Activations::F32, (1.0, 1.0)),
            row("onnxruntime-cpu", Format::Int4G32, Activations::F32, (0.1, 5.0)),
            row("int8", Format::Int4G32, Activations::Int8, (1.0, 1.0)),
            row("lowbit", Format::Int4G32, Activations::F32, (2.0, 5.0)),
        ];
        let rows: Vec<_> = rows.iter().collect();
        let ratios = against_fastest(&rows, Activations::F32);
        let values: Vec<_> = ratios.iter().map(|rival| rival.ratio().value).collect();
        assert_eq!(values, [2.0, 2.5, 1.0]);
        let rows: Vec<Row> = rows.into_iter().cloned().collect();
        let table = markdown(&rows);
        assert!(table.contains("| int4-g32 | 2.0 × (5.0; fast 10) |"), "{table}");
    }

    #[test]
    fn verdicts_say_what_was_missed() {
        let mut rows = vec![row("numr", Format::SparseF32, Activations::F32, (100.0, 5.0))];
        assert!(summary(&rows).contains("met           2:4-f32 beside numr's: goal 10×"));
        assert!(summary(&rows).contains("not measured  int8 activations, M = 1"));
        rows[0] = row("numr", Format::SparseF32, Activations::F32, (15.0, 5.0));
        assert!(summary(&rows).contains("missed        2:4-f32 beside numr's"));
    }
}
