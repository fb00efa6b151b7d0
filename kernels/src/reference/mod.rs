//! Naive oracles that every backend is tested against, plain loops, `f64` where a sum is long; and beside each its
//! row of the registry [`crate::ops`].

pub mod activate;
pub mod add;
pub mod add_rms_norm;
pub mod attention;
pub mod convert;
pub mod copy_pages;
pub mod dequant;
pub mod embedding;
pub mod gather_rows;
pub mod gemm;
pub mod int8;
pub mod layer_norm;
pub mod linear;
pub mod linear_silu_mul;
pub mod log_prob;
pub mod rms_norm;
pub mod rotary;
pub mod sample;
pub mod silu_mul;
