//! The paged key/value pool, in the layouts attention reads.
//!
//! A page holds [`PAGE_SIZE`] tokens of one head of one layer; pages lie in the order (layer, head, page). Keys are
//! transposed, `[head_dim][token]`, so that the lanes of a vector are sixteen keys; values are `[token][head_dim]`.
//! In bf16 two neighbours along the summed index share a `u32`, as `vdpbf16ps` reads them: keys
//! `[head_dim / 2][token]`, values `[token / 2][head_dim]`, the even one in the lower half.

use std::ops::Range;

use bytemuck::Pod;

use super::{
    buffer::Buffer,
    vector::{LANES, Simd, bf16_bits},
};
use crate::{Dtype, Error, KvLayout, PAGE_SIZE, Result};

const _: () = assert!(PAGE_SIZE == LANES, "a vector of scores is a page of keys");

/// What keys, values, queries and probabilities are stored as: `f32`, or `u32` for a pair of bf16.
pub(crate) trait Element: Pod + Send + Sync {
    /// Numbers per element.
    const PACK: usize;
    /// `acc + a * b`, summed over the pack.
    fn dot<S: Simd>(simd: S, acc: S::V, a: Self, b: &[Self; LANES]) -> S::V;
    /// As [`Element::dot`], reading only the first number of each pack of `b`.
    fn dot_first<S: Simd>(simd: S, acc: S::V, a: Self, b: &[Self; LANES]) -> S::V;
    /// Packs neighbouring lanes. `to: [LANES / PACK]`
    fn pack<S: Simd>(simd: S, v: S::V, to: &mut [Self]);
    /// Writes the key of `token` into its page. `key: [head_dim]`
    fn store_key(page: &mut [Self], token: usize, key: &[f32]);
    /// Writes the value of `token` into its page. `value: [head_dim]`
    fn store_value(page: &mut [Self], token: usize, value: &[f32]);
}

impl Element for f32 {
    const PACK: usize = 1;

    #[inline(always)]
    fn dot<S: Simd>(simd: S, acc: S::V, a: f32, b: &[f32; LANES]) -> S::V {
        simd.mul_add(simd.splat(a), simd.load(b), acc)
    }

    #[inline(always)]
    fn dot_first<S: Simd>(simd: S, acc: S::V, a: f32, b: &[f32; LANES]) -> S::V {
        Self::dot(simd, acc, a, b)
    }

    #[inline(always)]
    fn pack<S: Simd>(simd: S, v: S::V, to: &mut [f32]) {
        if let Some(to) = to.first_chunk_mut() {
            simd.store(v, to);
        }
    }

    fn store_key(page: &mut [f32], token: usize, key: &[f32]) {
        for (lanes, k) in page.chunks_exact_mut(PAGE_SIZE).zip(key) {
            lanes[token] = *k;
        }
    }

    fn store_value(page: &mut [f32], token: usize, value: &[f32]) {
        page[token * value.len()..][..value.len()].copy_from_slice(value);
    }
}

impl Element for u32 {
    const PACK: usize = 2;

    #[inline(always)]
    fn dot<S: Simd>(simd: S, acc: S::V, a: u32, b: &[u32; LANES]) -> S::V {
        simd.dot_bf16_pairs(acc, a, b)
    }

    #[inline(always)]
    fn dot_first<S: Simd>(simd: S, acc: S::V, a: u32, b: &[u32; LANES]) -> S::V {
        simd.dot_bf16_low(acc, a, b)
    }

    #[inline(always)]
    fn pack<S: Simd>(simd: S, v: S::V, to: &mut [u32]) {
        if let Some(to) = to.first_chunk_mut() {
            simd.pack_bf16(v, to);
        }
    }

    fn store_key(page: &mut [u32], token: usize, key: &[f32]) {
        for (lanes, k) in page.chunks_exact_mut(PAGE_SIZE).zip(key.chunks_exact(2)) {
            lanes[token] = bf16_bits(k[0]) | bf16_bits(k[1]) << 16;
        }
    }

    fn store_value(page: &mut [u32], token: usize, value: &[f32]) {
        let row = &mut page[token / 2 * value.len()..][..value.len()];
        let (shift, keep) = if token.is_multiple_of(2) { (0, 0xffff_0000) } else { (16, 0xffff) };
        for (pair, v) in row.iter_mut().zip(value) {
            *pair = (*pair & keep) | bf16_bits(*v) << shift;
        }
    }
}

/// The pool of all layers.
pub struct CpuKvCache {
    pub(super) layout: KvLayout,
    pub(super) pages: Pages,
}

/// The pool by element type.
pub(super) enum Pages {
    F32(Pool<f32>),
    Bf16(Pool<u32>),
}

/// Keys and values, each `[layer][head][page][page_len]`.
pub(super) struct Pool<T> {
    pub(super) keys: Buffer<T>,
    pub(super) values: Buffer<T>,
}

impl<T: Element> Pool<T> {
    fn new(layout: KvLayout) -> Result<Self> {
        let KvLayout { num_layers, num_kv_heads, head_dim, num_pages } = layout;
        let len = [num_layers, num_kv_heads, head_dim, num_pages].into_iter().fold(PAGE_SIZE, usize::saturating_mul);
        Ok(Self { keys: Buffer::new("KV cache", len / T::PACK)?, values: Buffer::new("KV cache", len / T::PACK)? })
    }

    /// Elements of one page of one head.
    pub(super) fn page_len(layout: &KvLayout) -> usize {
        PAGE_SIZE * layout.head_dim / T::PACK
    }

    /// Where the pages of `layer` lie in `keys` and `values`.
    pub(super) fn layer_range(layout: &KvLayout, layer: usize) -> Range<usize> {
        let len = layout.num_kv_heads * layout.num_pages * Self::page_len(layout);
        layer * len..(layer + 1) * len
    }
}

impl CpuKvCache {
    /// Allocates the pool: `f32` for [`Dtype::F32`], bf16 otherwise.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless `head_dim` is a positive multiple of 16; [`Error::OutOfMemory`].
    pub(super) fn new(layout: KvLayout, dtype: Dtype) -> Result<Self> {
        if layout.head_dim == 0 || !layout.head_dim.is_multiple_of(LANES) {
            return Err(Error::Unsupported(format!(
                "the CPU backend's attention needs a head size that is a multiple of {LANES}; found {}",
                layout.head_dim
            )));
        }
        let pages = match dtype {
            Dtype::F32 => Pages::F32(Pool::new(layout)?),
            Dtype::Bf16 | Dtype::F16 | Dtype::Int8 => Pages::Bf16(Pool::new(layout)?),
        };
        Ok(Self { layout, pages })
    }
}

/// Bytes of one page over all layers: keys and values.
pub(super) fn page_bytes(layout: KvLayout, dtype: Dtype) -> usize {
    let bytes = if dtype == Dtype::F32 { 4 } else { 2 };
    2 * layout.num_layers * layout.num_kv_heads * layout.head_dim * PAGE_SIZE * bytes
}
