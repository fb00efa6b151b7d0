//! What one forward pass computes: plain data.

use oc_kernels::{Answers, PagedBatch, Sampling};
use std::sync::Arc;

/// The rows of a step and what is asked of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ForwardBatch {
    /// Token of each row; 0 in those of `sampled_before`. `[num_tokens]`
    pub ids: Vec<u32>,
    /// Rows whose tokens the step before has sampled and nobody knows yet, and which of its samples each is.
    pub sampled_before: Vec<(u32, u32)>,
    /// Where the rows stand and where their keys and values lie.
    pub paged: PagedBatch,
    /// Tokens of the text that each sequence's rotary frequencies follow from, where that is longer than the original
    /// context; 0 for the frequencies of the original context, and for generated tokens. `[num_seqs]`
    pub scaled_lens: Vec<u32>,
    /// Rows after which a token is chosen, and how.
    pub sample_rows: Vec<u32>,
    pub sampling: Vec<Sampling>,
    /// Tokens that must not be chosen after each of them. `[sample_rows.len()]`
    pub forbidden: Vec<Option<Arc<[u32]>>>,
    /// Rows after which the log-probability of a given token is wanted; a row may occur more than once.
    pub score_rows: Vec<u32>,
    pub targets: Vec<u32>,
}

/// What came of it, in the order of the rows.
pub(crate) type ForwardOutput = Answers;

/// Rows of a step that are asked something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Of the batch, ascending, each once.
    pub rows: Vec<u32>,
    /// Place among `rows` of each of the batch's `sample_rows`.
    pub sampled: Vec<u32>,
    /// Place among `rows` of each of its `score_rows`.
    pub scored: Vec<u32>,
}

impl ForwardBatch {
    /// Whether an answer may have to be replaced by another, for which the activations must still be there.
    pub fn may_be_corrected(&self) -> bool {
        self.forbidden.iter().any(Option::is_some)
    }

    /// Whether every row is a generated token after which another is chosen.
    pub fn is_decode(&self) -> bool {
        self.sample_rows.len() == self.ids.len()
            && self.score_rows.is_empty()
            && (0..self.paged.num_seqs()).all(|seq| self.paged.is_generated(seq))
    }

    /// Appends rows that belong to nobody, up to `rows` in all.
    pub fn pad(&mut self, rows: usize) {
        for _ in self.ids.len()..rows {
            self.ids.push(0);
            self.paged.push_padding();
            self.scaled_lens.push(0);
        }
    }

    /// The rows of which anything is asked. Padding counts as asked, so that it costs no step a gathering of rows.
    pub fn asked(&self) -> Asked {
        let padding = (0..self.paged.num_seqs()).filter(|seq| self.paged.is_padding(*seq));
        let padding = padding.map(|seq| self.paged.cu_seqlens_q[seq]);
        let mut rows: Vec<u32> = self.sample_rows.iter().chain(&self.score_rows).copied().chain(padding).collect();
        rows.sort_unstable();
        rows.dedup();
        let place = |row: &u32| rows.binary_search(row).map_or(0, |place| place as u32);
        let [sampled, scored] = [&self.sample_rows, &self.score_rows].map(|list| list.iter().map(place).collect());
        Asked { rows, sampled, scored }
    }
}
