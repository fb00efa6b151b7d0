//! Benchmarks: `forward.rs` times whole models; measured tables are in `results/`.
