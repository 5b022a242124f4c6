//! One file a target: `run` takes any bytes and panics where a property does not hold.

pub mod architecture;
pub mod gguf;
pub mod graph;
pub mod header;
pub mod hf;
pub mod index;
pub mod model;
pub mod names;
pub mod onnx;
pub mod ops;
pub mod pipelines;
pub mod plans;
pub mod ranges;
pub mod report;
pub mod specs;
pub mod statistics;
pub mod text;
pub mod tuning;
pub mod weights;

mod pick;

/// A target, by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 19] = [
    ("model", model::run),
    ("header", header::run),
    ("index", index::run),
    ("ranges", ranges::run),
    ("report", report::run),
    ("tuning", tuning::run),
    ("gguf", gguf::run),
    ("onnx", onnx::run),
    ("graph", graph::run),
    ("pipelines", pipelines::run),
    ("names", names::run),
    ("weights", weights::run),
    ("specs", specs::run),
    ("plans", plans::run),
    ("architecture", architecture::run),
    ("text", text::run),
    ("hf", hf::run),
    ("ops", ops::run),
    ("statistics", statistics::run),
];
