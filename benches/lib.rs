//! Benchmarks: `kernels.rs` times single operations, `forward.rs` whole models; measured tables are in `results/`.
