//! The memory plan: what is allocated at load, and whether it fits.

/// Where the memory goes, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights in the layout that is computed with.
    pub weights: usize,
    /// The KV pool.
    pub kv_cache: usize,
    /// Activations of one step.
    pub workspace: usize,
    /// Tokens that the KV pool holds.
    pub kv_tokens: usize,
}
