//! The numeric operations of a decoder-only transformer.
//!
//! [`Backend`] is the contract; `cpu` implements it with run-time SIMD dispatch, `reference` holds the naive
//! `f64` oracles every backend is tested against, `ops` lists each operation with its cost and its test cases, and
//! `bench` times them.
//! This crate knows nothing of models, tokenizers or files.

mod backend;
pub mod bench;
pub mod collective;
pub mod cpu;
pub mod cuda;
pub mod emulator;
mod error;
pub mod ops;
mod paged_batch;
pub mod reference;
mod rotary;
mod self_check;
mod weight;

pub use backend::{
    Activation, Answers, Backend, DeviceInfo, Dtype, Epilogue, Heads, RotarySegment, Sampled, Sampling, Storage,
    TokenLogProb,
};
pub use error::{Error, Result};
pub use paged_batch::{KvLayout, NO_SLOT, PAGE_SIZE, PagedBatch};
pub use self_check::self_check;
pub use weight::{WeightFormat, WeightView};
