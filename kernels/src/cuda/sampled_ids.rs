//! Tokens that the device has sampled and the host does not know yet, as inputs of the next step. Floor and shape:
//! `src/compute_80/sampled_ids.cu`.

use super::{CudaAnswers, CudaBackend, device::Arg, modules, scratch::Scratch};
use crate::Result;

/// Marks an id that is a word of the answers; ids of tokens are smaller.
const SAMPLED: u32 = 1 << 31;
/// Threads of a block.
const THREADS: u32 = 256;

/// As [`crate::Backend::sampled_ids`].
pub(super) fn stand_ins(answers: &CudaAnswers) -> Vec<u32> {
    answers.token_words().into_iter().map(|word| SAMPLED | word).collect()
}

/// Those of `ids` that are no stand-ins.
pub(super) fn known(ids: &[u32]) -> impl Iterator<Item = u32> {
    ids.iter().copied().filter(|id| id & SAMPLED == 0)
}

impl CudaBackend {
    /// The tokens that `ids` stand for, all below `vocab`, on the device.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub(super) fn resolve_ids(&self, answers: &CudaAnswers, ids: &[u32], vocab: usize) -> Result<Scratch> {
        let resolved = self.scratch.take("token ids", 4 * ids.len())?;
        let on_device = self.indices(ids)?;
        let pointers = [on_device.ptr(), answers.ptr(), resolved.ptr()].map(Arg::Ptr);
        let sizes = [ids.len(), answers.words(), vocab].map(|n| Arg::U32(n as u32));
        let args = [&pointers[..], &sizes].concat();
        let blocks = ids.len().div_ceil(THREADS as usize);
        self.launch_blocks(&modules::SAMPLED_IDS, "sampled_ids", blocks, THREADS, &args)?;
        Ok(resolved)
    }
}
