//! An embeddable inference engine for decoder-only language models.

mod error;
mod load;
mod request;

pub use error::{Error, Result};
pub use load::{ModelConfig, ModelFiles, RopeScaling, Tensor};
pub use request::*;
