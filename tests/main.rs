//! The tests of the kernel crate in one program, so that wgpu is linked only once and tests share a
//! device.

mod activations;
mod common;
mod compatibility;
mod compress;
mod dequantize;
mod discipline;
mod engine;
mod fake_quant;
mod faults_driver;
mod faults_garbage;
mod integer;
mod make_kernels;
mod memory;
mod misuse;
mod observe;
mod permute_columns;
mod pipelines;
mod planted_faults;
mod positions;
mod probe;
mod properties;
mod reference;
mod repack;
mod report;
mod rotary;
mod row_order;
mod rules;
mod select;
mod shaders;
#[path = "common/shim/mod.rs"]
mod shim;
mod smooth;
mod split;
mod textures;
mod tune;
