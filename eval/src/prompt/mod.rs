//! Prompt construction as OpenCompass does it.

/// A prompt template in OpenCompass's round structure.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {}

/// How prompts reach the model: plain text, text through a meta template, or messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Style {}

impl Style {
    /// The style that the configuration asks for.
    ///
    /// # Errors
    /// [`crate::Error::UnknownMetaTemplate`].
    pub fn new(_hf_type: crate::HfType, _meta_template: Option<&str>) -> crate::Result<Self> {
        Ok(Self {})
    }
}
