//! Pages of the KV cache to other pages.

use super::kv_cache::{CpuKvCache, Element, Pages, Pool};
use crate::KvLayout;

/// Copies the checked pages `(from, to)` in all layers.
pub(super) fn copy_pages(pairs: &[(u32, u32)], kv: &mut CpuKvCache) {
    let layout = kv.layout;
    match &mut kv.pages {
        Pages::F32(pool) => copy(pairs, &layout, pool),
        Pages::Bf16(pool) => copy(pairs, &layout, pool),
    }
}

fn copy<T: Element>(pairs: &[(u32, u32)], layout: &KvLayout, pool: &mut Pool<T>) {
    let page_len = Pool::<T>::page_len(layout);
    let head_len = layout.num_pages * page_len;
    let heads = pool.keys.chunks_exact_mut(head_len.max(1)).chain(pool.values.chunks_exact_mut(head_len.max(1)));
    for head in heads {
        for (from, to) in pairs {
            let from = *from as usize * page_len;
            head.copy_within(from..from + page_len, *to as usize * page_len);
        }
    }
}
