//! The paged key/value pool in device memory.

use std::sync::Arc;

use super::{
    attention_plan::PAGE_ID_BITS,
    device::{Device, DeviceBuffer, DevicePtr},
    tensor::encode,
};
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
        if num_pages > 1 << PAGE_ID_BITS {
            let most = 1 << PAGE_ID_BITS;
            return Err(Error::Unsupported(format!(
                "a KV cache of {num_pages} pages; the CUDA kernels count to {most}"
            )));
        }
        let bytes = factors.into_iter().fold(1_usize, usize::saturating_mul);
        Ok(Self { buffer: DeviceBuffer::new(device, "the KV cache", bytes)?, layout, storage })
    }

    /// Geometry.
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Elements of a page, all heads, keys or values.
    pub(super) fn page_len(&self) -> usize {
        self.layout.num_kv_heads * PAGE_SIZE * self.layout.head_dim
    }

    /// Overwrites keys and values of the first tokens of one page and head: `[tokens, head_dim]` each. Models write through
    /// `rotary_store_kv`; this is for whoever has keys that no kernel made.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer, page or head that does not exist; [`Error::Shape`] for anything but whole tokens of one
    /// page; [`Error::Device`].
    pub fn write(
        &mut self,
        device: &Arc<dyn Device>,
        (layer, page, kv_head): (usize, usize, usize),
        keys: &[f32],
        values: &[f32],
    ) -> Result<()> {
        let KvLayout { num_kv_heads, head_dim, num_pages, .. } = self.layout;
        for (what, index, len) in [("KV cache: page", page, num_pages), ("KV cache: head", kv_head, num_kv_heads)] {
            if index >= len {
                return Err(Error::Index { what, index, len });
            }
        }
        if keys.len() != values.len()
            || keys.len() > PAGE_SIZE * head_dim
            || !keys.len().is_multiple_of(head_dim.max(1))
        {
            return Err(Error::Shape {
                what: "KV cache: tokens to write",
                found: format!("[{}] keys, [{}] values", keys.len(), values.len()),
                wanted: format!("[n, {head_dim}] of both, n at most {PAGE_SIZE}"),
            });
        }
        let at = (page * self.page_len() + kv_head * PAGE_SIZE * head_dim) * self.storage.bytes();
        let (to_keys, to_values) = self.layer(layer)?;
        for (to, data) in [(to_keys, keys), (to_values, values)] {
            let mut bytes = Vec::with_capacity(data.len() * self.storage.bytes());
            encode(data, self.storage, &mut bytes);
            device.upload(&bytes, to + at as u64)?;
        }
        Ok(())
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
