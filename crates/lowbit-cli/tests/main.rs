//! The command's tests, one program.

mod cli;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod isa;
mod onnx;
#[path = "../../lowbit-demo/src/sentences.rs"]
#[allow(dead_code, reason = "the demo uses more of it")]
mod sentences;
mod targets;
#[path = "../../lowbit-models/tests/tiny_bert.rs"]
mod tiny_bert;
mod wild;
