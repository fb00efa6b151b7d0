//! Rotary position embedding (arXiv 2104.09864, half-split pairs as in GPT-NeoX) and the write into the KV cache.

use super::{
    SimdLevel,
    buffer::CpuTensor,
    kv_cache::{CpuKvCache, Element, Pages, Pool},
    threads::Threads,
    vector::{Kernel, Simd, dispatch},
};
use crate::{Heads, KvLayout, NO_SLOT, PAGE_SIZE, PagedBatch};

/// Rotates the query and key heads of every row. `qkv: [num_tokens, heads.qkv_cols()]`
pub(super) fn rotate(
    level: SimdLevel,
    threads: &Threads,
    qkv: &mut [f32],
    table: &CpuTensor,
    heads: Heads,
    positions: &[u32],
) {
    threads.for_rows(qkv, heads.qkv_cols(), |first, rows| {
        dispatch(level, Rotate { rows, table, heads, positions: &positions[first..] });
    });
}

struct Rotate<'a> {
    rows: &'a mut [f32],
    table: &'a CpuTensor,
    heads: Heads,
    positions: &'a [u32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Heads { num_heads, num_kv_heads, head_dim } = self.heads;
        let rotated = (num_heads + num_kv_heads) * head_dim;
        for (row, position) in self.rows.chunks_exact_mut(self.heads.qkv_cols()).zip(self.positions) {
            let (cos, sin) = self.table.row(*position as usize).split_at(head_dim / 2);
            for head in row[..rotated].chunks_exact_mut(head_dim) {
                let (first, second) = head.split_at_mut(head_dim / 2);
                for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

/// Writes the keys and values of every row into their slots of `layer`.
pub(super) fn store_kv(
    threads: &Threads,
    qkv: &[f32],
    heads: Heads,
    batch: &PagedBatch,
    layer: usize,
    kv: &mut CpuKvCache,
) {
    let layout = kv.layout;
    match &mut kv.pages {
        Pages::F32(pages) => store(threads, qkv, heads, batch, layer, layout, pages),
        Pages::Bf16(pages) => store(threads, qkv, heads, batch, layer, layout, pages),
    }
}

fn store<T: Element>(
    threads: &Threads,
    qkv: &[f32],
    heads: Heads,
    batch: &PagedBatch,
    layer: usize,
    layout: KvLayout,
    pages: &mut Pool<T>,
) {
    let page_len = Pool::<T>::page_len(&layout);
    let range = Pool::<T>::layer_range(&layout, layer);
    let Heads { num_heads, num_kv_heads, head_dim } = heads;
    let store_head = |head: usize, keys: &mut [T], values: &mut [T]| {
        for (row, slot) in qkv.chunks_exact(heads.qkv_cols()).zip(&batch.slot_mapping) {
            if *slot != NO_SLOT {
                let (page, token) = (*slot as usize / PAGE_SIZE, *slot as usize % PAGE_SIZE);
                let key = &row[(num_heads + head) * head_dim..][..head_dim];
                let value = &row[(num_heads + num_kv_heads + head) * head_dim..][..head_dim];
                T::store_key(&mut keys[page * page_len..][..page_len], token, key);
                T::store_value(&mut values[page * page_len..][..page_len], token, value);
            }
        }
    };
    // Each head's pages are one slice, so heads are written in parallel however the slots repeat.
    let head_len = layout.num_pages * page_len;
    let (keys, values) = (&mut pages.keys[range.clone()], &mut pages.values[range]);
    let mut by_head: Vec<_> = keys.chunks_exact_mut(head_len).zip(values.chunks_exact_mut(head_len)).collect();
    if batch.num_tokens() * num_kv_heads * head_dim < 1 << 14 {
        by_head.iter_mut().enumerate().for_each(|(head, (keys, values))| store_head(head, keys, values));
    } else {
        threads.for_each_part(&mut by_head, 1, |head, own| {
            own.iter_mut().for_each(|(keys, values)| store_head(head, keys, values));
        });
    }
}
