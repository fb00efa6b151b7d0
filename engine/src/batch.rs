//! What one forward pass computes: plain data.

use oc_kernels::{PagedBatch, Sampled, Sampling, TokenLogProb};

/// The rows of a step and what is asked of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ForwardBatch {
    /// Token of each row. `[num_tokens]`
    pub ids: Vec<u32>,
    /// Where the rows stand and where their keys and values lie.
    pub paged: PagedBatch,
    /// Rows after which a token is chosen, and how.
    pub sample_rows: Vec<u32>,
    pub sampling: Vec<Sampling>,
    /// Rows after which the log-probability of a given token is wanted; a row may occur more than once.
    pub score_rows: Vec<u32>,
    pub targets: Vec<u32>,
}

/// What came of it, in the order of the rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct ForwardOutput {
    /// `[sample_rows.len()]`
    pub sampled: Vec<Sampled>,
    /// `[score_rows.len()]`
    pub scored: Vec<TokenLogProb>,
}
