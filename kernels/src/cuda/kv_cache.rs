//! The paged key/value pool in device memory.

use std::sync::Arc;

use super::device::{Device, DeviceBuffer, DevicePtr};
use crate::{Error, KvLayout, PAGE_SIZE, Result, Storage};

/// Keys and values of all layers in 16 bits: `[layer][keys, values][page][kv head][token][head_dim]`. The tokens of one page
/// and head lie together, so that a page of a head is one run of `PAGE_SIZE * head_dim` elements.
pub struct CudaKvCache {
    buffer: DeviceBuffer,
    layout: KvLayout,
    storage: Storage,
}

/// Bytes of one page over all layers: keys and values.
pub(super) fn page_bytes(layout: KvLayout, storage: Storage) -> usize {
    2 * layout.num_layers * layout.num_kv_heads * PAGE_SIZE * layout.head_dim * storage.bytes()
}

impl CudaKvCache {
    /// Allocates the pool, its contents undefined.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn new(device: &Arc<dyn Device>, layout: KvLayout, storage: Storage) -> Result<Self> {
        let KvLayout { num_layers, num_kv_heads, head_dim, num_pages } = layout;
        let factors = [2, num_layers, num_kv_heads, PAGE_SIZE, head_dim, storage.bytes(), num_pages];
        let bytes = factors.into_iter().fold(1_usize, usize::saturating_mul);
        Ok(Self { buffer: DeviceBuffer::new(device, "the KV cache", bytes)?, layout, storage })
    }

    /// Geometry.
    pub(super) fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Elements of a page, all heads, keys or values.
    pub(super) fn page_len(&self) -> usize {
        self.layout.num_kv_heads * PAGE_SIZE * self.layout.head_dim
    }

    /// Addresses of the keys and of the values of `layer`: `[num_pages][num_kv_heads][PAGE_SIZE][head_dim]` each.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer that does not exist.
    pub(super) fn layer(&self, layer: usize) -> Result<(DevicePtr, DevicePtr)> {
        if layer >= self.layout.num_layers {
            return Err(Error::Index { what: "KV cache: layer", index: layer, len: self.layout.num_layers });
        }
        let bytes = (self.layout.num_pages * self.page_len() * self.storage.bytes()) as u64;
        let keys = self.buffer.ptr() + 2 * layer as u64 * bytes;
        Ok((keys, keys + bytes))
    }
}
