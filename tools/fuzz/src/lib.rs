//! The bodies of the fuzz targets, apart from libFuzzer: `crates/lowbit-models/tests/fuzz_regressions.rs` runs the same
//! over the inputs that once failed.

pub mod memory;
pub mod model_seeds;
pub mod seeds;
pub mod targets;

/// Writes the seeds of all targets where `LOWBIT_FUZZ_SEEDS` says, if it does: who built the targets
/// need then build nothing else.
pub fn write_seeds() {
    if let Some(folder) = std::env::var_os("LOWBIT_FUZZ_SEEDS") {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        seeds::write(&root, folder.as_ref()).expect("a folder for seeds");
    }
}
