//! The operations: one file an op.

pub mod dequantize;
pub mod make;
