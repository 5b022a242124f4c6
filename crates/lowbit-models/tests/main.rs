//! The tests of model files and models, one program.

mod architecture;
mod calibrate;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod device;
mod explore;
mod fuzz_regressions;
mod gguf;
mod hostile_files;
mod layerwise;
#[path = "../../../tools/fuzz/src/memory.rs"]
mod memory;
mod minilm;
#[path = "../../../tools/fuzz/src/model_seeds.rs"]
#[allow(dead_code, reason = "what writes seeds is for fuzzing")]
mod model_seeds;
#[path = "../../lowbit-demo/src/models.rs"]
mod models;
mod packages;
#[path = "../../lowbit-demo/src/recipes.rs"]
mod recipes;
#[path = "../../../tools/fuzz/src/seeds.rs"]
#[allow(dead_code, reason = "what writes seeds is for fuzzing")]
mod seeds;
#[path = "../../lowbit-demo/src/sentences.rs"]
mod sentences;
mod smoothing;
#[path = "../../../tools/fuzz/src/targets/mod.rs"]
mod targets;
mod tiny_bert;
mod transform;
