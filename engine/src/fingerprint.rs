//! What makes two results comparable.

/// Everything the bits of a result depend on beside the request itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of the weights' contents, 32 hex digits.
    pub weights: String,
    /// Of the tokenizer.
    pub tokenizer: String,
    /// Of the chat template; `None` where the model has none.
    pub chat_template: Option<String>,
    /// What is computed with: `f32`, `bf16`, `int8`.
    pub dtype: String,
    /// Kind of device, e.g. `cpu/avx512-bf16`.
    pub device: String,
    /// Changes whenever the same inputs may give other bits.
    pub numeric_version: String,
}
