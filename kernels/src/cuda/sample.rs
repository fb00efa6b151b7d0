//! Tokens from rows of logits: the first maximum, or a draw after temperature, top-k and top-p. Floors and shapes:
//! `src/compute_80/{argmax,sample}.cu`.

use super::{
    CudaBackend, CudaTensor,
    answers::drawn,
    device::{Arg, DevicePtr},
    expect, modules,
};
use crate::{Error, Result, Sampled, Sampling, Storage};

/// Threads of a block, one block a row.
const THREADS: u32 = 1024;
/// Most logits of a row: their probabilities in units of 2^-44 must fit 64 bits.
const MAX_VOCAB: usize = 1 << 19;

/// Bytes of `Chosen` of `vocab.cuh`.
const CHOSEN_BYTES: usize = 24;

/// `How` of `sample.cu`, in words.
fn how_words(how: &Sampling, vocab: usize) -> [u32; 6] {
    let scale = (std::f64::consts::LOG2_E / f64::from(how.temperature)).min(f64::from(f32::MAX)) as f32;
    let top_k = if how.top_k < vocab { how.top_k as u32 } else { 0 };
    // In units of 2^-64; 0 means all, so that nothing but the first token is 1.
    let top_p = if how.top_p < 1.0 { (f64::from(how.top_p) * 2_f64.powi(64)).max(1.0) as u64 } else { 0 };
    let draw = how.random_bits() << 11;
    [scale.to_bits(), top_k, top_p as u32, (top_p >> 32) as u32, draw as u32, (draw >> 32) as u32]
}

impl CudaBackend {
    /// Uploads logits as they are, `[rows, vocab]`, for [`CudaBackend::sample_logits`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the length differs; [`Error::OutOfMemory`].
    pub fn upload_logits(&self, logits: &[f32], rows: usize, vocab: usize) -> Result<CudaTensor> {
        CudaTensor::upload(self.device(), Storage::F32, logits, rows, vocab)
    }

    /// Chooses one token for each row of `logits: [how.len(), vocab]`, which are `f32`, as [`crate::Backend::sample`] does.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Unsupported`] for parameters without a meaning, [`Error::NotFinite`] for logits that
    /// are NaN or infinite.
    pub fn sample_logits(&self, logits: &CudaTensor, how: &[Sampling]) -> Result<Vec<Sampled>> {
        expect("sample: logits", logits.shape(), (how.len(), logits.cols))?;
        for (row, how) in how.iter().enumerate() {
            how.check(row)?;
        }
        if logits.cols == 0 || logits.cols > MAX_VOCAB || logits.storage() != Storage::F32 {
            let found = format!("{} columns in {} bytes", logits.cols, logits.storage().bytes());
            let wanted = format!("1 to {MAX_VOCAB} columns in 4 bytes");
            return Err(Error::Shape { what: "sample: logits", found, wanted });
        }
        let chosen = self.scratch.take("sampled tokens", how.len() * CHOSEN_BYTES)?;
        // Runs of greedy rows and of others: each kernel takes consecutive rows.
        let mut first = 0;
        for run in how.chunk_by(|a, b| (a.temperature == 0.0) == (b.temperature == 0.0)) {
            self.choose(logits, first, run, chosen.ptr() + (first * CHOSEN_BYTES) as u64)?;
            first += run.len();
        }
        let mut words = vec![[0_u32; CHOSEN_BYTES / 4]; how.len()];
        self.device().download(chosen.ptr(), bytemuck::cast_slice_mut(&mut words))?;
        words.iter().enumerate().map(|(row, chosen)| drawn(chosen, row)).collect()
    }

    /// Queues the choice for the rows of `logits` from `first` on, all greedy or none, written to `chosen`.
    pub(super) fn choose(&self, logits: &CudaTensor, first: usize, how: &[Sampling], chosen: DevicePtr) -> Result<()> {
        let rows = logits.ptr() + (first * logits.stride() * 4) as u64;
        let sizes = [logits.cols, logits.stride()].map(|n| Arg::U32(n as u32));
        let [rows, chosen] = [rows, chosen].map(Arg::Ptr);
        if how[0].temperature == 0.0 {
            let args = [&[rows, chosen][..], &sizes].concat();
            return self.launch_blocks(&modules::ARGMAX, "argmax", how.len(), THREADS, &args);
        }
        let words: Vec<[u32; 6]> = how.iter().map(|how| how_words(how, logits.cols)).collect();
        let words = words.as_flattened();
        let on_device = self.scratch.take("sampling parameters", 4 * words.len())?;
        self.device().upload(bytemuck::cast_slice(words), on_device.ptr())?;
        let args = [&[rows, Arg::Ptr(on_device.ptr()), chosen][..], &sizes].concat();
        self.launch_blocks(&modules::SAMPLE, "sample", how.len(), THREADS, &args)
    }
}
