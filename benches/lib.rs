//! Benchmarks live in `kernels.rs`; measured tables in `results/`.
