//! An embeddable inference engine for decoder-only language models.
//!
//! Load a `.gguf` file or a Hugging Face folder once, then generate from it and score with it:
//!
//! ```no_run
//! use oc_engine::{Engine, EngineOptions, Request, ScoreRequest};
//!
//! # fn main() -> oc_engine::Result<()> {
//! let mut engine = Engine::load("model.gguf", EngineOptions::default())?;
//! let prompt = engine.tokenizer().encode("The capital of France is", true)?;
//!
//! let outputs = engine.generate(vec![Request::new(prompt.clone(), 16)])?;
//! println!("{}", outputs[0].text);
//!
//! let continuations = vec![engine.tokenizer().encode(" Paris", false)?, engine.tokenizer().encode(" London", false)?];
//! let scores = engine.score(vec![ScoreRequest { context: prompt, continuations, context_logprobs: false }])?;
//! println!("{:?}", scores[0].continuations);
//! # Ok(())
//! # }
//! ```
//!
//! - Requests given together run together: continuous batching over a paged KV cache, in which common beginnings are
//!   computed once. [`Engine::stream`] yields tokens as they come.
//! - [`Engine::score`] gives the log-probability of every token of a context and of its continuations; choices that
//!   differ only in their ends cost one prompt. [`Engine::score_stream`] yields scores as they are finished.
//! - A request's result is the same to the bit whatever runs beside it; see [`Engine`].
//! - The engine prints nothing, reads no environment variables, opens no connection, and runs no code from model files.

mod backends;
mod batch;
mod convert;
mod cost;
mod device;
mod engine;
mod error;
mod fingerprint;
mod generation;
mod input_processor;
mod kv_cache;
mod layers;
mod load;
mod memory;
mod models;
mod parallel;
mod rank;
mod replicas;
mod request;
mod runner;
mod scheduler;
mod scoring;
mod sequence;
mod text;

pub use convert::{ConvertOptions, Converted, convert};
pub use device::DeviceChoice;
pub use engine::{Engine, Stream};
pub use error::{Error, Result};
pub use fingerprint::Fingerprint;
pub use input_processor::InputProcessor;
pub use load::{
    FormatShare, MemoryNeed, MlpKind, ModelCard, ModelConfig, ModelFiles, Norm, Positions, RopeScaling, Tensor,
    TokenizerCard,
};
pub use memory::{MemoryPlan, available_memory};
pub use replicas::Replicas;
pub use request::*;
pub use scoring::ScoreStream;
pub use text::{ChatMessage, ChatTemplate, PadTokens, TextStream, Tokenizer};
