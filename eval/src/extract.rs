//! Answer rules: from a generated text to an answer, each rule with an id.

/// A post-processor of OpenCompass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extractor {
    /// `first_capital_postprocess`: the first uppercase character of any script.
    FirstCapital,
    /// `first_option_postprocess(options, cushion)`.
    FirstOption {
        /// E.g. `ABCD`.
        options: String,
        /// Whether the looser patterns are tried too.
        cushion: bool,
    },
}

/// An extracted answer and the rule that found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// Empty if no rule found one.
    pub answer: String,
    /// Id of the rule, e.g. `first-capital`; `none` if no rule found one.
    pub rule: String,
}

impl Extractor {
    /// What OpenCompass reads out of `text`.
    pub fn extract(&self, _text: &str) -> Extracted {
        Extracted { answer: String::new(), rule: "none".into() }
    }

    /// Our strict reading beside it: only an answer that is unmistakably one of the options.
    pub fn extract_strict(&self, _text: &str) -> Extracted {
        Extracted { answer: String::new(), rule: "none".into() }
    }
}
