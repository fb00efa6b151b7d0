//! A batch in device memory: uploaded once, read by every layer.

use std::sync::Arc;

use super::{
    CudaBackend,
    attention::Attention,
    device::DevicePtr,
    kv_cache::CudaKvCache,
    replay::{self, Key},
    scratch::Scratch,
};
use crate::{Error, Heads, KvLayout, PagedBatch, Result};

/// Lists of indices and where they stand on the device.
pub(super) type Lists = Vec<(Vec<u32>, DevicePtr)>;

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
    pub(super) rotary_rows: DevicePtr,
    /// `u32 [num_tokens]`
    pub(super) slot_mapping: DevicePtr,
    /// Which recorded step it may be run as.
    pub(super) replay: Option<Key>,
    /// Indices that came along, as long as this batch lives.
    #[expect(dead_code, reason = "held, so that the backend finds it")]
    lists: Arc<Lists>,
    /// All of it, one behind the other, so that a step uploads once.
    #[expect(dead_code, reason = "held: the addresses above lie in it")]
    pack: Scratch,
}

impl CudaBatch {
    /// Checks and uploads, with `lists` of indices in the same copy.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Index`] as for [`PagedBatch::check`]; whatever the device refuses.
    pub(super) fn new(
        backend: &CudaBackend,
        batch: &PagedBatch,
        lists: &[&[u32]],
        heads: Heads,
        kv: &CudaKvCache,
    ) -> Result<Self> {
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
        let rows = batch.num_tokens();
        let all_generated = (0..batch.num_seqs()).all(|seq| batch.is_generated(seq));
        let is_recorded = backend.replays && all_generated && replay::is_recorded(rows);

        // What a recorded step reads comes first, where the sizes in its key put it; tables end it, since their length is
        // in no key.
        let mut words = Vec::new();
        let mut attention = Attention::new(backend, batch, heads, is_recorded, &mut words)?;
        let [rotary_rows, slot_mapping] = [batch.rotary_rows(), &batch.slot_mapping].map(|list| push(&mut words, list));
        if let Some(attention) = &mut attention {
            attention.push_tables(&mut words);
        }
        let places: Vec<usize> = lists.iter().map(|list| push(&mut words, list)).collect();
        let pack = backend.scratch.take("a batch", 4 * words.len())?;
        backend.device().upload(bytemuck::cast_slice(&words), pack.ptr())?;
        let at = |word: usize| pack.ptr() + 4 * word as u64;
        let lists = lists.iter().zip(places).map(|(list, place)| (list.to_vec(), at(place))).collect();
        let lists = Arc::new(lists);
        backend.set_resident(&lists);
        if let Some(attention) = &mut attention {
            attention.set_lists(pack.ptr());
        }
        let replay = attention.as_ref().filter(|_| is_recorded).map(|attention| {
            let (items, [out, stats]) = (attention.recorded_items(), attention.partials());
            Key { rows, items, addresses: [pack.ptr(), out, stats] }
        });
        Ok(Self {
            last_rotary_row: batch.rotary_rows().iter().copied().max().unwrap_or(0),
            rotary_rows: at(rotary_rows),
            slot_mapping: at(slot_mapping),
            replay,
            attention,
            paged: batch.clone(),
            heads,
            layout,
            lists,
            pack,
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

/// Appends a list; returns its place.
fn push(words: &mut Vec<u32>, list: &[u32]) -> usize {
    words.extend(list);
    words.len() - list.len()
}
