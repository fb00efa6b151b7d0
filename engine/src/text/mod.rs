//! Text to token ids and back, and chat templates.

mod chat_template;
mod gguf_vocab;
mod gpt2_files;
mod guard;
mod pad;
mod sentencepiece;
mod special_tokens;
mod tokenizer;
mod tokenizer_config;

pub(crate) use chat_template::gguf_special_tokens;
pub use chat_template::{ChatMessage, ChatTemplate};
pub use pad::PadTokens;
pub use tokenizer::{TextStream, Tokenizer};
