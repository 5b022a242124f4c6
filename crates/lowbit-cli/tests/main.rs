//! The command's tests, one program.

mod cli;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod embed;
mod explore;
mod generate;
mod isa;
mod measures;
mod methods;
mod onnx;
mod quantized;
#[path = "../../lowbit-demo/src/sentences.rs"]
#[allow(dead_code, reason = "the demo uses more of it")]
mod sentences;
mod sources;
mod targets;
#[cfg(unix)]
mod terminal;
#[path = "../../lowbit-models/tests/tiny_bert.rs"]
mod tiny_bert;
mod tiny_language;
mod wild;
