//! An embeddable inference engine for decoder-only language models.

mod engine;
mod error;
mod fingerprint;
mod load;
mod memory;
mod request;
mod text;

pub use engine::Engine;
pub use error::{Error, Result};
pub use fingerprint::Fingerprint;
pub use load::{ModelConfig, ModelFiles, RopeScaling, Tensor};
pub use memory::MemoryPlan;
pub use request::*;
pub use text::{ChatMessage, ChatTemplate, TextStream, Tokenizer};
