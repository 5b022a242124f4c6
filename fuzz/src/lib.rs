//! The bodies of the fuzz targets, apart from libFuzzer: `tests/fuzz_regressions.rs` runs the same
//! over the inputs that once failed.

pub mod memory;
pub mod targets;
