//! The one error type of the engine: one variant per cause, each naming the thing, what was found and what to do.

use std::path::PathBuf;

/// Everything that loading or running a model can refuse.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// Something is in the way of what shall be written.
    #[error("{} is not written: {reason}", path.display())]
    Exists {
        /// The place.
        path: PathBuf,
        /// What is there.
        reason: &'static str,
    },
    /// A model file is malformed: truncated, inconsistent, or of an unknown version.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A tensor that the architecture needs is absent.
    #[error("tensor `{name}` is missing from {}", path.display())]
    MissingTensor {
        /// The tensor's name in the file's naming scheme.
        name: String,
        /// The model.
        path: PathBuf,
    },
    /// A tensor has the wrong shape.
    #[error("tensor `{name}` has shape {found:?}, but the configuration needs {wanted:?}")]
    TensorShape {
        /// The tensor's name.
        name: String,
        /// The shape in the file, row-major.
        found: Vec<usize>,
        /// The shape that the configuration implies.
        wanted: Vec<usize>,
    },
    /// The model uses something this engine does not implement.
    #[error("{what} is not supported\n\nhint: {hint}")]
    Unsupported {
        /// Architecture, field, tokenizer or format.
        what: String,
        /// What would work.
        hint: String,
    },
    /// Tokenizer and weights disagree.
    #[error(
        "the tokenizer has ids up to {tokenizer}, but the model's embedding has only {model} rows\n\n\
         hint: check that --tokenizer-path belongs to this model"
    )]
    VocabMismatch {
        /// Largest token id + 1.
        tokenizer: usize,
        /// Rows of the embedding.
        model: usize,
    },
    /// The tokenizer refused the text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A prompt begins twice with the token that begins a text.
    #[error(
        "the prompt begins with {token:?} (id {id}) twice: the tokenizer puts it in front of every text, and the text begins \
         with it too\n\nhint: leave it out of the text; what a chat template has rendered is encoded without special tokens"
    )]
    DoubledBos {
        /// The token's id.
        id: u32,
        /// The token.
        token: String,
    },
    /// The chat template failed or exceeded its limits.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// A prompt cannot fit, together with its output, into the context.
    #[error("prompt of {tokens} tokens plus {max_new_tokens} new ones exceeds the context of {max_seq_len} tokens")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Requested output tokens.
        max_new_tokens: usize,
        /// The limit in force.
        max_seq_len: usize,
    },
    /// A request is not meaningful: empty prompt, negative temperature, top-p outside (0, 1].
    #[error("request: {0}")]
    InvalidRequest(String),
    /// The model or its cache does not fit into memory.
    #[error("{what} needs {} MiB but only {} MiB are available\n\nhint: {hint}", needed >> 20, available >> 20)]
    OutOfMemory {
        /// Weights, KV pool or workspace.
        what: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes available.
        available: usize,
        /// What would help.
        hint: String,
    },
    /// The device asked for does not exist here.
    #[error("device `{device}`: {reason}")]
    Device {
        /// As given to `EngineOptions`.
        device: String,
        /// What is missing.
        reason: String,
    },
    /// A backend operation failed.
    #[error(transparent)]
    Kernel(#[from] oc_kernels::Error),
}

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
