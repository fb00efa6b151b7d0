//! Rotary frequencies (arXiv 2104.09864) and their changes for long contexts, and the tables made of them.
//!
//! Where scaling is dynamic, frequencies follow from a length. As in Hugging Face transformers with a key/value cache, a
//! prompt beyond the original context has those of its whole length, whatever part of it is computed, and a generated token
//! those of the text up to itself; what is cached stays as it was written. So a token's frequencies follow from its own text,
//! and never from the batch.

use crate::{ModelConfig, Positions, Result, RopeScaling, batch::ForwardBatch};
use oc_kernels::{Backend, PagedBatch, RotarySegment};
use std::{borrow::Cow, ops::Range};

/// What turns queries and keys, its table kept as `T`.
pub(crate) struct Rotary<T> {
    config: ModelConfig,
    /// Row `p` turns the token at position `p` of a prompt within the original context, and a generated one anywhere.
    /// Without rotary positions there is one row, which turns nothing.
    table: T,
}

/// How the rows of one batch are turned.
pub(crate) struct Turn<'a, T> {
    /// A table for this batch alone, a row for each of its rows.
    own: Option<T>,
    common: &'a T,
    /// The batch, with the rows of the table.
    pub batch: Cow<'a, PagedBatch>,
}

impl<T> Turn<'_, T> {
    /// Whether the table is the one of all batches.
    pub fn is_common(&self) -> bool {
        self.own.is_none()
    }

    /// The table that `batch` refers to.
    pub fn table(&self) -> &T {
        self.own.as_ref().unwrap_or(self.common)
    }
}

impl<T> Rotary<T> {
    /// For contexts of up to `max_seq_len` tokens.
    pub fn new<B: Backend<Tensor = T>>(backend: &B, config: &ModelConfig, max_seq_len: usize) -> Result<Self> {
        let frequencies = match config.positions {
            Positions::Learned { .. } => vec![(vec![0.0; config.head_dim / 2], 0..1)],
            Positions::Rotary => {
                let unscaled = max_seq_len.min(config.unscaled_context());
                let beyond = (unscaled..max_seq_len).map(|p| (frequencies(config, p + 1), p as u32..p as u32 + 1));
                std::iter::once((frequencies(config, unscaled), 0..unscaled as u32)).chain(beyond).collect()
            }
        };
        Ok(Self { config: config.clone(), table: table(backend, &frequencies)? })
    }

    /// How the rows of `batch` are turned. A prompt beyond the original context needs a table of its own for each length,
    /// so a batch with a part of one brings the few rows that it refers to.
    pub fn turn<'a, B: Backend<Tensor = T>>(&'a self, backend: &B, batch: &'a ForwardBatch) -> Result<Turn<'a, T>> {
        let paged = &batch.paged;
        let with_rows = |rotary_rows| Cow::Owned(PagedBatch { rotary_rows, ..paged.clone() });
        let common = &self.table;
        if self.config.positions != Positions::Rotary {
            return Ok(Turn { own: None, common, batch: with_rows(vec![0; paged.num_tokens()]) });
        }
        if batch.scaled_lens.iter().all(|len| *len == 0) {
            return Ok(Turn { own: None, common, batch: Cow::Borrowed(paged) });
        }
        let mut segments = Vec::with_capacity(paged.num_seqs());
        for (s, (rows, scaled)) in paged.cu_seqlens_q.windows(2).zip(&batch.scaled_lens).enumerate() {
            let end = paged.seq_lens[s];
            let start = end - (rows[1] - rows[0]);
            let len = if paged.is_generated(s) { end } else { *scaled };
            segments.push((frequencies(&self.config, len as usize), start..end));
        }
        let rows = (0..paged.num_tokens() as u32).collect();
        Ok(Turn { own: Some(table(backend, &segments)?), common, batch: with_rows(rows) })
    }
}

/// The table of these frequencies, each with the positions that have them.
fn table<B: Backend>(backend: &B, frequencies: &[(Vec<f32>, Range<u32>)]) -> Result<B::Tensor> {
    let mut segments = Vec::with_capacity(frequencies.len());
    for (inv_freq, positions) in frequencies {
        segments.push(RotarySegment { inv_freq, factor: 1.0, positions: positions.clone() });
    }
    Ok(backend.rotary_table(&segments)?)
}

/// The angle per position of each pair of elements in a text of `len` tokens. `[head_dim / 2]`
fn frequencies(config: &ModelConfig, len: usize) -> Vec<f32> {
    // Rounded where Hugging Face rounds.
    let exponents = (0..config.head_dim / 2).map(|i| (2 * i) as f32 / config.head_dim as f32);
    match config.rope_scaling {
        RopeScaling::Dynamic { factor } if len > config.unscaled_context() => {
            let growth = factor as f32 * len as f32 / config.unscaled_context() as f32 - (factor - 1.0) as f32;
            let power = config.head_dim as f64 / (config.head_dim - 2) as f64;
            let base = config.rope_theta as f32 * growth.powf(power as f32);
            exponents.map(|exponent| 1.0 / base.powf(exponent)).collect()
        }
        scaling => {
            let plain = |exponent: f32| 1.0 / config.rope_theta.powf(f64::from(exponent)) as f32;
            exponents.map(|exponent| scaled(plain(exponent), scaling)).collect()
        }
    }
}

fn scaled(frequency: f32, scaling: RopeScaling) -> f32 {
    match scaling {
        RopeScaling::None | RopeScaling::Dynamic { .. } => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            let (frequency, original) = (f64::from(frequency), original_max_position as f64);
            let wavelength = std::f64::consts::TAU / frequency;
            let scaled = if wavelength < original / high_freq_factor {
                frequency
            } else if wavelength > original / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            };
            scaled as f32
        }
    }
}
