//! The CPU backend: the embedded default, with run-time SIMD dispatch.

pub mod linear;
mod simd;

pub use simd::SimdLevel;
