//! The geometry of the paged KV cache, and a batch of sequences in it: plain data.

use crate::{Error, Result};

/// Geometry of the paged KV cache: one pool for all layers, allocated once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Decoder layers.
    pub num_layers: usize,
    /// Key/value heads per layer.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Pages in the pool. Page ids are `0..num_pages`.
    pub num_pages: usize,
}

/// Tokens per KV page. Attention walks keys in blocks at absolute positions that are multiples of this.
pub const PAGE_SIZE: usize = 16;

/// A slot that is not written: the row's key and value stand in a shared page already.
pub const NO_SLOT: u32 = u32::MAX;

/// A packed batch of sequences: plain data, no padding anywhere.
///
/// Sequence `s` owns the rows `cu_seqlens_q[s]..cu_seqlens_q[s + 1]`, which are the *last* tokens of a context of
/// `seq_lens[s]` tokens; row `r` of it stands at `positions[r]`.
#[derive(Clone, Debug, Default)]
pub struct PagedBatch {
    /// Absolute position of each row. `[num_tokens]`
    pub positions: Vec<u32>,
    /// Row of the rotary table that turns each row: its position, unless the scaling depends on the length of the
    /// sequence (dynamic NTK), where each such sequence has a table of its own behind the common one. Empty means
    /// `positions`. `[num_tokens]`
    pub rotary_rows: Vec<u32>,
    /// Where each row's key and value go: `page * PAGE_SIZE + offset`, or [`NO_SLOT`]. `[num_tokens]`
    pub slot_mapping: Vec<u32>,
    /// Row offsets of the sequences. `[num_seqs + 1]`
    pub cu_seqlens_q: Vec<u32>,
    /// Tokens in each sequence's context, this batch's rows included. `[num_seqs]`
    pub seq_lens: Vec<u32>,
    /// Page ids of each sequence, `block_table_stride` entries per sequence. `[num_seqs, block_table_stride]`
    pub block_table: Vec<u32>,
    /// Entries per sequence in `block_table`.
    pub block_table_stride: usize,
    /// Whether a sequence's one row is a generated token rather than a chunk of a prompt. A backend may compute the two in
    /// different orders, so a token keeps its role for life. Empty means all are prompts. `[num_seqs]`
    ///
    /// A generated token whose context is 0 is padding ([`PagedBatch::push_padding`]).
    pub generated: Vec<bool>,
}

impl PagedBatch {
    /// Number of sequences.
    pub fn num_seqs(&self) -> usize {
        self.seq_lens.len()
    }

    /// Number of rows.
    pub fn num_tokens(&self) -> usize {
        self.positions.len()
    }

    /// Checks that the parts agree with one another and with a pool of `num_pages` pages. Backends call it before
    /// they use a batch.
    ///
    /// # Errors
    /// [`Error::Shape`] when lengths, offsets, contexts or positions disagree; [`Error::Index`] for a page or slot
    /// outside the pool.
    pub fn check(&self, num_pages: usize) -> Result<()> {
        let shape = |what, found: String, wanted: String| Err(Error::Shape { what, found, wanted });
        let (tokens, seqs) = (self.num_tokens(), self.num_seqs());
        if self.slot_mapping.len() != tokens {
            return shape("batch: slot_mapping", format!("[{}]", self.slot_mapping.len()), format!("[{tokens}]"));
        }
        if !self.rotary_rows.is_empty() && self.rotary_rows.len() != tokens {
            return shape("batch: rotary_rows", format!("[{}]", self.rotary_rows.len()), format!("[{tokens}] or none"));
        }
        if !self.generated.is_empty() && self.generated.len() != seqs {
            return shape("batch: generated", format!("[{}]", self.generated.len()), format!("[{seqs}] or none"));
        }
        if self.cu_seqlens_q.len() != seqs + 1 {
            return shape("batch: cu_seqlens_q", format!("[{}]", self.cu_seqlens_q.len()), format!("[{}]", seqs + 1));
        }
        if self.cu_seqlens_q[0] != 0 || self.cu_seqlens_q[seqs] as usize != tokens {
            let ends = format!("offsets {}..{}", self.cu_seqlens_q[0], self.cu_seqlens_q[seqs]);
            return shape("batch: cu_seqlens_q", ends, format!("offsets 0..{tokens}"));
        }
        if seqs.checked_mul(self.block_table_stride) != Some(self.block_table.len()) {
            let wanted = format!("[{seqs}, {}]", self.block_table_stride);
            return shape("batch: block_table", format!("[{}]", self.block_table.len()), wanted);
        }
        for seq in 0..seqs {
            let (start, end) = (self.cu_seqlens_q[seq], self.cu_seqlens_q[seq + 1]);
            let context = self.seq_lens[seq];
            if self.is_padding(seq) {
                if end != start + 1 || self.slot_mapping.get(start as usize) != Some(&NO_SLOT) {
                    let wanted = "padding of one row without a slot".into();
                    return shape("batch: slot_mapping", format!("rows {start}..{end} of sequence {seq}"), wanted);
                }
                continue;
            }
            if start > end || end as usize > tokens || end - start > context {
                let wanted = format!("rows in order, at most the context of {context}");
                return shape("batch: cu_seqlens_q", format!("rows {start}..{end} of sequence {seq}"), wanted);
            }
            if self.is_generated(seq) && end - start != 1 {
                let found = format!("{} rows of sequence {seq}", end - start);
                return shape("batch: generated", found, "one generated token".into());
            }
            if (context as usize).div_ceil(PAGE_SIZE) > self.block_table_stride {
                let wanted = format!("pages for a context of {context} (sequence {seq})");
                return shape("batch: block_table", format!("{} pages", self.block_table_stride), wanted);
            }
            let first = context - (end - start);
            let positions = &self.positions[start as usize..end as usize];
            if let Some((i, found)) = positions.iter().enumerate().find(|(i, p)| **p != first + *i as u32) {
                let wanted = format!("{} (sequence {seq}, context {context})", first + i as u32);
                return shape("batch: positions", format!("position {found}"), wanted);
            }
            if let Some(page) = self.pages(seq).iter().find(|page| **page as usize >= num_pages) {
                return Err(Error::Index { what: "batch: block_table", index: *page as usize, len: num_pages });
            }
        }
        let slots = num_pages * PAGE_SIZE;
        match self.slot_mapping.iter().find(|slot| **slot != NO_SLOT && **slot as usize >= slots) {
            Some(slot) => Err(Error::Index { what: "batch: slot_mapping", index: *slot as usize, len: slots }),
            None => Ok(()),
        }
    }

    /// Row of the rotary table for each row.
    pub fn rotary_rows(&self) -> &[u32] {
        if self.rotary_rows.is_empty() { &self.positions } else { &self.rotary_rows }
    }

    /// Whether sequence `seq` is one generated token.
    pub fn is_generated(&self, seq: usize) -> bool {
        self.generated.get(seq).copied().unwrap_or(false)
    }

    /// Whether sequence `seq` stands for none.
    pub fn is_padding(&self, seq: usize) -> bool {
        self.is_generated(seq) && self.seq_lens[seq] == 0
    }

    /// Appends a row that belongs to no sequence, to a batch of generated tokens: it stores nothing, attends to nothing, and
    /// its output means nothing.
    pub fn push_padding(&mut self) {
        self.generated.resize(self.num_seqs(), false);
        if !self.rotary_rows.is_empty() {
            self.rotary_rows.push(0);
        }
        self.positions.push(0);
        self.slot_mapping.push(NO_SLOT);
        self.cu_seqlens_q.push(self.positions.len() as u32);
        self.seq_lens.push(0);
        self.block_table.resize(self.block_table.len() + self.block_table_stride, 0);
        self.generated.push(true);
    }

    /// Page ids of sequence `seq`, enough for its context.
    pub fn pages(&self, seq: usize) -> &[u32] {
        let start = seq * self.block_table_stride;
        &self.block_table[start..start + (self.seq_lens[seq] as usize).div_ceil(PAGE_SIZE)]
    }
}
