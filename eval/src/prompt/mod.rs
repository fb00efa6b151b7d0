//! Prompt construction as OpenCompass does it: a configuration's templates are filled with the solved examples and the
//! question (`template`, `items`), then turned into plain text, text with a model's markers, or messages (`meta`).

mod items;
mod meta;
mod template;
mod version;

pub(crate) use items::has_placeholder;
pub(crate) use meta::Mode;
pub use meta::{MetaTemplate, Style};
pub use template::Prompting;
pub(crate) use template::Template;
pub(crate) use version::prompt_version;
