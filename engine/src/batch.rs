//! What one forward pass computes: plain data.

use oc_kernels::{PagedBatch, Sampled, Sampling, TokenLogProb};

/// The rows of a step and what is asked of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ForwardBatch {
    /// Token of each row. `[num_tokens]`
    pub ids: Vec<u32>,
    /// Where the rows stand and where their keys and values lie.
    pub paged: PagedBatch,
    /// Tokens of the text that each sequence's rotary frequencies follow from, where that is longer than the original
    /// context; 0 for the frequencies of the original context, and for generated tokens. `[num_seqs]`
    pub scaled_lens: Vec<u32>,
    /// Rows after which a token is chosen, and how.
    pub sample_rows: Vec<u32>,
    pub sampling: Vec<Sampling>,
    /// Rows after which the log-probability of a given token is wanted; a row may occur more than once.
    pub score_rows: Vec<u32>,
    pub targets: Vec<u32>,
}

impl ForwardBatch {
    /// Rows of which anything is asked, ascending, each once.
    pub fn wanted_rows(&self) -> Vec<u32> {
        let mut rows: Vec<u32> = self.sample_rows.iter().chain(&self.score_rows).copied().collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }
}

/// What came of it, in the order of the rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct ForwardOutput {
    /// `[sample_rows.len()]`
    pub sampled: Vec<Sampled>,
    /// `[score_rows.len()]`
    pub scored: Vec<TokenLogProb>,
}
