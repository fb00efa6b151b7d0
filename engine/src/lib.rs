//! An embeddable inference engine for decoder-only language models.

mod batch;
mod engine;
mod error;
mod fingerprint;
mod generation;
mod kv_cache;
mod layers;
mod load;
mod memory;
mod models;
mod request;
mod runner;
mod scheduler;
mod sequence;
mod text;

pub use engine::{Engine, Stream};
pub use error::{Error, Result};
pub use fingerprint::Fingerprint;
pub use load::{ModelConfig, ModelFiles, RopeScaling, Tensor};
pub use memory::MemoryPlan;
pub use request::*;
pub use text::{ChatMessage, ChatTemplate, TextStream, Tokenizer};
