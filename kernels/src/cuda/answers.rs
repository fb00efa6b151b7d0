//! What a step was asked, on its way back: kernels leave their results one behind the other, and one copy brings them all.

use super::{
    CudaBackend,
    device::{Device, DevicePtr, Download},
    scratch::Scratch,
};
use crate::{Answers, Error, Result, Sampled, TokenLogProb};

/// What is known of a row's logits, as `log_prob_merge` leaves it.
pub(super) struct RowStats {
    max: f32,
    sum: f32,
    argmax: u32,
}

impl RowStats {
    const WORDS: usize = 3;
    /// The word that is the first maximum.
    const ARGMAX: usize = 2;
    /// Size of a record on the device.
    pub const BYTES: usize = 4 * Self::WORDS;

    fn from_words(words: &[u32; Self::WORDS]) -> Self {
        Self { max: f32::from_bits(words[0]), sum: f32::from_bits(words[1]), argmax: words[Self::ARGMAX] }
    }

    /// `log_softmax` of a logit of this row.
    fn log_prob(&self, logit: f32) -> f32 {
        (f64::from(logit) - f64::from(self.max) - f64::from(self.sum).ln()) as f32
    }

    /// Refuses a row with NaN or infinite logits.
    fn check(&self, what: &'static str, row: usize) -> Result<()> {
        // A NaN anywhere makes the sum NaN, and so does infinity minus infinity.
        if self.max.is_finite() && self.sum.is_finite() { Ok(()) } else { Err(Error::NotFinite { what, row }) }
    }
}

/// Words of `Chosen` of `vocab.cuh`; the token is the first.
const CHOSEN: usize = 6;
/// Words that the results of a part start on a multiple of: `Chosen` holds 64-bit numbers.
const ALIGN: usize = 2;

/// How a row was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first maximum: one [`RowStats`].
    Greedy,
    /// A draw: one `Chosen`.
    Random,
    /// The log-probability of a target: one [`RowStats`] each, then one logit each.
    Scored,
}

/// Rows that a kernel answers together.
struct Part {
    kind: Kind,
    /// Of the answers of its kind.
    rows: Vec<usize>,
    /// Its first word.
    at: usize,
}

impl Part {
    /// Words of its results.
    fn words(&self) -> usize {
        let per_row = match self.kind {
            Kind::Greedy => RowStats::WORDS,
            Kind::Random => CHOSEN,
            Kind::Scored => RowStats::WORDS + 1,
        };
        per_row * self.rows.len()
    }
}

/// Answers that are being computed.
pub struct CudaAnswers {
    memory: Scratch,
    parts: Vec<Part>,
    /// Rows asked before the call that is adding parts.
    sampled: usize,
    scored: usize,
    /// The copy to the host, once it is queued.
    download: Option<Box<dyn Download>>,
}

impl CudaAnswers {
    /// Room for so many choices and log-probabilities.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn new(backend: &CudaBackend, sampled: usize, scored: usize) -> Result<Self> {
        // Every part may begin one word late, and has one row at least.
        let words = sampled * (CHOSEN + ALIGN - 1) + scored * (RowStats::WORDS + 1 + ALIGN - 1);
        let memory = backend.scratch.take("answers", 4 * words)?;
        Ok(Self { memory, parts: Vec::new(), sampled: 0, scored: 0, download: None })
    }

    /// Where the results of `rows` (of the call in progress) are to be written: records, and logits of targets.
    ///
    /// # Errors
    /// [`Error::Shape`] for more rows than there is room for.
    pub(super) fn push(&mut self, kind: Kind, rows: &[u32]) -> Result<[DevicePtr; 2]> {
        let before = if kind == Kind::Scored { self.scored } else { self.sampled };
        let at = self.parts.last().map_or(0, |last| (last.at + last.words()).next_multiple_of(ALIGN));
        let part = Part { kind, rows: rows.iter().map(|row| before + *row as usize).collect(), at };
        if 4 * (at + part.words()) > self.memory.bytes() {
            let found = format!("{} rows more", rows.len());
            return Err(Error::Shape { what: "answers", found, wanted: "as many as they were made for".into() });
        }
        let start = self.memory.ptr() + 4 * at as u64;
        self.parts.push(part);
        Ok([start, start + (RowStats::BYTES * rows.len()) as u64])
    }

    /// Says that a call has asked for `rows` rows.
    pub(super) fn end(&mut self, rows: usize, kind: Kind) {
        *if kind == Kind::Scored { &mut self.scored } else { &mut self.sampled } += rows;
    }

    /// Where the results stand.
    pub(super) fn ptr(&self) -> DevicePtr {
        self.memory.ptr()
    }

    /// How many words they are.
    pub(super) fn words(&self) -> usize {
        self.parts.last().map_or(0, |last| last.at + last.words())
    }

    /// Which word of the results is the token of each choice.
    pub(super) fn token_words(&self) -> Vec<u32> {
        let mut words = vec![0; self.sampled];
        for part in &self.parts {
            let (size, token) = match part.kind {
                Kind::Greedy => (RowStats::WORDS, RowStats::ARGMAX),
                Kind::Random => (CHOSEN, 0),
                Kind::Scored => continue,
            };
            for (i, row) in part.rows.iter().enumerate() {
                words[*row] = (part.at + i * size + token) as u32;
            }
        }
        words
    }

    /// Queues the copy to the host, behind all that was asked.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub(super) fn queue_download(&mut self, device: &dyn Device) -> Result<()> {
        if self.words() > 0 {
            self.download = Some(device.queue_download(self.memory.ptr(), 4 * self.words())?);
        }
        Ok(())
    }

    /// Waits for them.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a row whose logits are NaN or infinite; whatever the device refuses.
    pub(super) fn collect(mut self, device: &dyn Device) -> Result<Answers> {
        let mut out = Answers {
            sampled: vec![Sampled { token: 0, logprob: 0.0 }; self.sampled],
            scored: vec![TokenLogProb { logprob: 0.0, argmax: 0, argmax_logprob: 0.0 }; self.scored],
        };
        if self.download.is_none() {
            self.queue_download(device)?;
        }
        let Some(download) = self.download else { return Ok(out) };
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&download.wait()?);
        for part in &self.parts {
            let words = &words[part.at..];
            let stats = words.as_chunks::<{ RowStats::WORDS }>().0.iter().map(RowStats::from_words);
            match part.kind {
                Kind::Greedy => {
                    for (row, stats) in part.rows.iter().zip(stats) {
                        stats.check("sample", *row)?;
                        out.sampled[*row] = Sampled { token: stats.argmax, logprob: stats.log_prob(stats.max) };
                    }
                }
                Kind::Random => {
                    for (row, chosen) in part.rows.iter().zip(words.as_chunks::<CHOSEN>().0) {
                        out.sampled[*row] = drawn(chosen, *row)?;
                    }
                }
                Kind::Scored => {
                    let logits = &words[RowStats::WORDS * part.rows.len()..];
                    for ((row, stats), logit) in part.rows.iter().zip(stats).zip(logits) {
                        stats.check("log_prob", *row)?;
                        out.scored[*row] = TokenLogProb {
                            logprob: stats.log_prob(f32::from_bits(*logit)),
                            argmax: stats.argmax,
                            argmax_logprob: stats.log_prob(stats.max),
                        };
                    }
                }
            }
        }
        Ok(out)
    }
}

/// A `Chosen` of row `row`.
pub(super) fn drawn([token, is_finite, below_max, _, low, high]: &[u32; CHOSEN], row: usize) -> Result<Sampled> {
    if *is_finite == 0 {
        return Err(Error::NotFinite { what: "sample", row });
    }
    let sum = (u64::from(*high) << 32 | u64::from(*low)) as f64 / 2_f64.powi(44);
    Ok(Sampled { token: *token, logprob: (f64::from(f32::from_bits(*below_max)) - sum.ln()) as f32 })
}
