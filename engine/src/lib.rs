//! An embeddable inference engine for decoder-only language models.

mod error;
mod request;

pub use error::{Error, Result};
pub use request::*;
