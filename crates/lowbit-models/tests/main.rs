//! The tests of model files and models, one program.

mod calibrate;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod fuzz_regressions;
mod hostile_files;
#[path = "../../../tools/fuzz/src/memory.rs"]
mod memory;
mod minilm;
#[path = "../examples/minilm/recipes.rs"]
mod recipes;
#[path = "../../../tools/fuzz/src/seeds.rs"]
#[allow(dead_code, reason = "what writes seeds is for fuzzing")]
mod seeds;
#[path = "../examples/minilm/sentences.rs"]
mod sentences;
#[path = "../../../tools/fuzz/src/targets/mod.rs"]
mod targets;
