//! The memory plan: what is allocated at load, and whether it fits.

use crate::{
    DEFAULT_BATCH_SIZE, Error, MlpKind, ModelConfig, ModelFiles, Result,
    layers::{Check, Count},
    models::decoder::Parameters,
    rank::Rank,
};
use oc_kernels::{Backend, PAGE_SIZE, Storage};

/// Rows of a step on a processor: enough that every weight is read for hundreds of tokens.
const HOST_BUDGET: usize = 512;
/// Most rows of a step on a GPU: its products are bound by arithmetic long before, and partial last waves of blocks are few.
const MOST_BUDGET: usize = 1 << 14;
/// Sequences in flight on a GPU: as many as benchmarks have questions.
const GPU_BATCH_SIZE: usize = 2048;
/// KV tokens that are enough to keep a batch of long prompts in flight, and their common beginnings.
const DEFAULT_KV_TOKENS: usize = 1 << 16;
/// KV tokens that no benchmark has: a tiny model's pages, of which each is also counted by the host, would fill a GPU with
/// millions.
const MOST_KV_TOKENS: usize = 1 << 22;

/// Where the memory goes, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights in the layout that is computed with.
    pub weights: usize,
    /// The KV pool. Pages that were never used cost nothing.
    pub kv_cache: usize,
    /// Activations of one step.
    pub workspace: usize,
    /// Tokens that the KV pool holds.
    pub kv_tokens: usize,
}

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The machine's, which others need too.
    Shared,
    /// A GPU's, which nobody else wants.
    Ours,
}

impl Owner {
    /// Rows of a step: on a GPU as many as 1/32 of what weights leave of its memory has room for, at `row_bytes` of
    /// activations each.
    pub fn token_budget(self, asked: Option<usize>, left: Option<usize>, row_bytes: usize) -> usize {
        let by_memory = || match (self, left) {
            (Self::Ours, Some(left)) => {
                let rows = left / 32 / row_bytes.max(1);
                (rows / PAGE_SIZE * PAGE_SIZE).clamp(HOST_BUDGET, MOST_BUDGET)
            }
            _ => HOST_BUDGET,
        };
        asked.unwrap_or_else(by_memory).max(PAGE_SIZE)
    }

    /// Sequences in flight.
    pub fn batch_size(self, asked: Option<usize>) -> usize {
        let default = if self == Self::Ours { GPU_BATCH_SIZE } else { DEFAULT_BATCH_SIZE };
        asked.unwrap_or(default).max(1)
    }
}

impl MemoryPlan {
    /// Decides the size of the KV pool, and refuses what does not fit.
    ///
    /// `page_bytes`: KV of one page over all layers; `available`: free memory, if known; `kv_cache_bytes`: the pool as
    /// asked for. Of memory that is ours alone the pool takes all but what operations need for a while, so that a benchmark
    /// whose keys and values fit is resident as a whole.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn new(
        weights: usize,
        workspace: usize,
        page_bytes: usize,
        max_seq_len: usize,
        kv_cache_bytes: Option<usize>,
        available: Option<usize>,
        owner: Owner,
    ) -> Result<Self> {
        let out_of_memory = |what, needed: usize, available: usize, hint: &str| {
            Err(Error::OutOfMemory { what, needed, available, hint: hint.into() })
        };
        let free = available.unwrap_or(usize::MAX);
        let Some(left) = free.checked_sub(weights.saturating_add(workspace)) else {
            let hint = "use a smaller or a quantised model, or free memory";
            return out_of_memory("the model", weights.saturating_add(workspace), free, hint);
        };
        let page_bytes = page_bytes.max(1);
        let one_sequence = max_seq_len.div_ceil(PAGE_SIZE);
        let pages = match kv_cache_bytes {
            Some(bytes) => bytes / page_bytes,
            None if owner == Owner::Ours && available.is_some() => {
                ((left - left / 12) / page_bytes).min((MOST_KV_TOKENS / PAGE_SIZE).max(one_sequence))
            }
            // A quarter of what is left, but one whole context at least where that fits.
            None => (DEFAULT_KV_TOKENS / PAGE_SIZE).max(one_sequence).min((left / 4 / page_bytes).max(one_sequence)),
        };
        let kv_cache = pages.saturating_mul(page_bytes);
        if pages == 0 || kv_cache > left {
            let hint = "a shorter --max-seq-len or a smaller KV cache needs less";
            return out_of_memory(
                "the KV cache",
                kv_cache.max(page_bytes),
                left.min(kv_cache_bytes.unwrap_or(left)),
                hint,
            );
        }
        Ok(Self { weights, kv_cache, workspace, kv_tokens: pages * PAGE_SIZE })
    }

    /// Refuses a pool of fewer than `kv_tokens`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn holds(&self, kv_tokens: usize) -> Result<()> {
        if kv_tokens <= self.kv_tokens {
            return Ok(());
        }
        let needed = (self.kv_cache / self.kv_tokens.max(1)).saturating_mul(kv_tokens);
        let hint = "a shorter --max-seq-len needs less".into();
        Err(Error::OutOfMemory { what: "the KV cache of one sequence", needed, available: self.kv_cache, hint })
    }

    /// Pages of the pool.
    pub(crate) fn num_pages(&self) -> usize {
        self.kv_tokens / PAGE_SIZE
    }
}

/// Bytes that the weights of `files` will take on `backend`, or those of them that are the device's of `rank`. Every tensor
/// that the decoder needs is found and its shape and format checked, but none is read.
///
/// # Errors
/// [`Error::MissingTensor`], [`Error::TensorShape`] or [`Error::Unsupported`], naming the tensor.
pub(crate) fn weight_bytes<B: Backend>(backend: &B, files: &ModelFiles, rank: Rank) -> Result<usize> {
    let parameters = Parameters::load(&Count(backend), files, rank, &mut |_, _| {})?;
    Ok(parameters.matrices().fold(0, |sum: usize, bytes| sum.saturating_add(*bytes)))
}

/// Everything that is missing or wrong among the tensors that the decoder of `files` needs, up to a limit.
pub(crate) fn problems(files: &ModelFiles) -> Vec<Error> {
    let check = Check::default();
    let ended = Parameters::load(&check, files, Rank::ALONE, &mut |_, _| {}).err();
    check.0.into_inner().into_iter().chain(ended).collect()
}

/// Bytes of activations for steps of `token_budget` tokens; `config`: of the part that one of `devices` has.
pub(crate) fn workspace_bytes(config: &ModelConfig, devices: usize, token_budget: usize, storage: Storage) -> usize {
    let heads = config.heads();
    // The CPU keeps the products of a gated layer beside its activations; a GPU does so only before biases.
    let mlp = if config.mlp == MlpKind::Gated && (storage == Storage::F32 || config.mlp_bias) { 3 } else { 1 }
        * config.intermediate_size;
    let embedded = if config.embedding_size == config.hidden_size { 0 } else { config.embedding_size };
    let parts = if devices == 1 { 0 } else { 1 + devices };
    let cols = (1 + parts) * config.hidden_size + heads.qkv_cols() + 2 * heads.q_cols() + mlp + embedded;
    let residual = 2 * config.hidden_size * Storage::F32.bytes();
    token_budget.saturating_mul(cols * storage.bytes() + residual)
}

/// Memory that can be had without swapping, in bytes; `None` where the system does not say.
pub fn available_memory() -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let meminfo = read("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let system = line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)?;
    // A container's own limit, if there is one ("max" does not parse).
    let number = |path| read(path)?.trim().parse::<usize>().ok();
    let limit = number("/sys/fs/cgroup/memory.max")
        .map(|max| max.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    Some(limit.map_or(system, |limit| limit.min(system)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_pool_takes_a_quarter_of_what_is_left_up_to_the_default() {
        let plan = |available| MemoryPlan::new(100 * MIB, 0, 1 << 14, 2048, None, available, Owner::Shared).unwrap();
        assert_eq!(plan(None).kv_tokens, DEFAULT_KV_TOKENS);
        assert_eq!(plan(Some(100_000 * MIB)).kv_tokens, DEFAULT_KV_TOKENS);
        assert_eq!(plan(Some(140 * MIB)).kv_cache, 10 * MIB);
        // One whole context even where it is more than a quarter.
        assert_eq!(plan(Some(103 * MIB)).kv_tokens, 2048);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refused = |kv, available| {
            MemoryPlan::new(100 * MIB, 0, 1 << 14, 2048, kv, Some(available), Owner::Shared).unwrap_err()
        };
        assert!(refused(None, 99 * MIB).to_string().starts_with("the model needs 100 MiB but only 99 MiB"));
        assert!(refused(None, 101 * MIB).to_string().starts_with("the KV cache needs 2 MiB but only 1 MiB"));
        assert!(refused(Some(64 * MIB), 150 * MIB).to_string().starts_with("the KV cache needs 64 MiB but only 50"));
        assert!(refused(Some(10), 150 * MIB).to_string().starts_with("the KV cache needs"));
    }

    /// InternLM2-7B in bf16 on a GPU of 80 GB.
    #[test]
    fn a_gpu_holds_all_of_a_benchmark_beside_the_weights() {
        let (weights, page_bytes, row_bytes) = (15_500 * MIB, PAGE_SIZE * (128 << 10), 2 * 40_960);
        let free = 79_000 * MIB;
        let budget = Owner::Ours.token_budget(None, Some(free - weights), row_bytes);
        assert_eq!(budget, MOST_BUDGET);
        let plan =
            MemoryPlan::new(weights, budget * row_bytes, page_bytes, 32_768, None, Some(free), Owner::Ours).unwrap();
        // C-Eval val: 52 prefixes of 1,100 tokens, 1,346 questions of 110 and answers of 16.
        assert!(plan.kv_tokens > 52 * 1_100 + 1_346 * (110 + 16 + PAGE_SIZE), "{plan:?}");
        // Something is left for logits, statistics and the partial results of attention.
        let rest = free - plan.weights - plan.workspace - plan.kv_cache;
        assert!(rest > 4_000 * MIB && rest < 8_000 * MIB, "{rest}");
        // A tiny model does not fill it.
        let plan = |seq_len| MemoryPlan::new(MIB, MIB, 4096, seq_len, None, Some(free), Owner::Ours).unwrap();
        assert_eq!((plan(2048).kv_tokens, plan(2 * MOST_KV_TOKENS).kv_tokens), (MOST_KV_TOKENS, 2 * MOST_KV_TOKENS));
        assert!(plan(2048).holds(MOST_KV_TOKENS).is_ok());
        let refused = plan(2048).holds(2 * MOST_KV_TOKENS).unwrap_err().to_string();
        assert!(refused.starts_with("the KV cache of one sequence needs 2048 MiB but only 1024 MiB"), "{refused}");
        // A small GPU has smaller steps; who asks gets what he asks for.
        assert_eq!(Owner::Ours.token_budget(None, Some(6_000 * MIB), row_bytes), 2_400);
        assert_eq!(Owner::Ours.token_budget(Some(100), Some(free), row_bytes), 100);
        assert_eq!(Owner::Shared.token_budget(None, Some(free), row_bytes), HOST_BUDGET);
        assert_eq!((Owner::Ours.batch_size(Some(7)), Owner::Shared.batch_size(None)), (7, DEFAULT_BATCH_SIZE));
    }
}
