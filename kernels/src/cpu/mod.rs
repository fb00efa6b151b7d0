//! The CPU backend: the embedded default, with run-time SIMD dispatch.

mod simd;

pub use simd::SimdLevel;
