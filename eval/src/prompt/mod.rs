//! Prompt construction as OpenCompass does it: a template's rounds are filled with the solved examples and the
//! question (`template`), then turned into plain text, text with a model's markers, or messages (`meta`).

mod meta;
mod template;
mod version;

pub use meta::Style;
pub use template::{Role, Round, Template};
pub(crate) use template::{Turn, has_placeholder};
pub(crate) use version::prompt_version;
