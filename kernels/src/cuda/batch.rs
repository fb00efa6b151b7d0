//! A batch in device memory: uploaded once, read by every layer.

use std::sync::Arc;

use super::{
    attention::Attention,
    device::{Device, DeviceBuffer},
    kv_cache::CudaKvCache,
};
use crate::{Error, Heads, KvLayout, PagedBatch, Result};

/// A checked [`PagedBatch`], its arrays in device memory, and the heads that read it.
pub struct CudaBatch {
    /// The arrays on the host.
    pub(super) paged: PagedBatch,
    /// The heads of every layer.
    pub(super) heads: Heads,
    /// The cache that it was checked against.
    pub(super) layout: KvLayout,
    /// Work lists of attention; none for heads that it has no kernel for.
    pub(super) attention: Option<Attention>,
    /// Largest row of the rotary table that a row reads.
    pub(super) last_rotary_row: u32,
    /// `u32 [num_tokens]`
    pub(super) rotary_rows: DeviceBuffer,
    /// `u32 [num_tokens]`
    pub(super) slot_mapping: DeviceBuffer,
}

impl CudaBatch {
    /// Checks and uploads.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Index`] as for [`PagedBatch::check`]; whatever the device refuses.
    pub(super) fn new(device: &Arc<dyn Device>, batch: &PagedBatch, heads: Heads, kv: &CudaKvCache) -> Result<Self> {
        let Heads { num_heads, num_kv_heads, head_dim } = heads;
        if num_kv_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) {
            return Err(Error::Shape {
                what: "attention: heads",
                found: format!("{num_heads} query heads"),
                wanted: format!("a multiple of {num_kv_heads} key/value heads"),
            });
        }
        let layout = kv.layout();
        if (num_kv_heads, head_dim) != (layout.num_kv_heads, layout.head_dim) {
            return Err(Error::Shape {
                what: "attention: heads against the KV cache",
                found: format!("[{num_kv_heads}, {head_dim}]"),
                wanted: format!("[{}, {}]", layout.num_kv_heads, layout.head_dim),
            });
        }
        batch.check(layout.num_pages)?;
        Ok(Self {
            last_rotary_row: batch.rotary_rows().iter().copied().max().unwrap_or(0),
            rotary_rows: DeviceBuffer::from_slice(device, "a batch", batch.rotary_rows())?,
            slot_mapping: DeviceBuffer::from_slice(device, "a batch", &batch.slot_mapping)?,
            attention: Attention::new(device, batch, heads)?,
            paged: batch.clone(),
            heads,
            layout,
        })
    }

    /// Refuses a cache of another geometry than the one that the batch was prepared for: pages and slots were checked against
    /// that; `what` is named in the error.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub(super) fn check(&self, what: &'static str, kv: &CudaKvCache) -> Result<()> {
        if kv.layout() == self.layout {
            return Ok(());
        }
        let wanted = format!("{:?}, for which the batch was prepared", self.layout);
        Err(Error::Shape { what, found: format!("{:?}", kv.layout()), wanted })
    }
}
