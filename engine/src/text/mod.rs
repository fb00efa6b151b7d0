//! Text to token ids and back, and chat templates.

mod chat_template;
mod tokenizer;

pub use chat_template::{ChatMessage, ChatTemplate};
pub use tokenizer::{TextStream, Tokenizer};
