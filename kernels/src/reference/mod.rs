//! Naive oracles that every backend is tested against: plain loops, `f64` where a sum is long.

pub mod dequant;
pub mod gemm;
