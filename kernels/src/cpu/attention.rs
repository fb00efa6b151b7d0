//! Causal grouped-query attention over the paged cache, with online softmax (arXiv 2205.14135).
//!
//! Work is cut into tiles: some consecutive query tokens of one sequence times the query heads that share one
//! key/value head; these rows are the left operand of two small matrix products per block of [`BLOCK`] keys. Blocks
//! stand at absolute positions and a row walks exactly those that hold keys it may see, so nothing it computes
//! depends on the other rows of its tile. Keys after the row's position become scores of minus infinity whatever
//! their slots hold, and contribute exact zeros; values after the tile's last position are not read.

use super::{
    SimdLevel,
    kv_cache::{CpuKvCache, Element, Pages, Pool},
    threads::Threads,
    vector::{Kernel, LANES, Simd, dispatch},
};
use crate::{Heads, KvLayout, PAGE_SIZE, PagedBatch};

/// Keys per step of the online softmax.
const BLOCK: usize = 64;
const BLOCK_PAGES: usize = BLOCK / PAGE_SIZE;
/// Rows of a tile, about: queries, scores and sums of so many rows stay in the first-level caches.
const TILE_ROWS: usize = 48;
/// Multiplications below which other threads are not woken.
const MIN_WORK: usize = 1 << 20;

/// The operation on one layer; shapes are checked by the caller. `qkv: [num_tokens, qkv_cols]`,
/// `out: [num_tokens, q_cols]`.
#[allow(clippy::too_many_arguments)]
pub(super) fn attention(
    level: SimdLevel,
    threads: &Threads,
    qkv: &[f32],
    heads: Heads,
    batch: &PagedBatch,
    layer: usize,
    kv: &CpuKvCache,
    scale: f32,
    out: &mut [f32],
) {
    match &kv.pages {
        Pages::F32(pages) => {
            run(level, threads, &Problem::new(qkv, heads, batch, layer, &kv.layout, pages, scale), out)
        }
        Pages::Bf16(pages) => {
            run(level, threads, &Problem::new(qkv, heads, batch, layer, &kv.layout, pages, scale), out)
        }
    }
}

/// One layer's inputs.
struct Problem<'a, T> {
    qkv: &'a [f32],
    heads: Heads,
    batch: &'a PagedBatch,
    keys: &'a [T],
    values: &'a [T],
    num_pages: usize,
    page_len: usize,
    scale: f32,
}

impl<'a, T: Element> Problem<'a, T> {
    fn new(
        qkv: &'a [f32],
        heads: Heads,
        batch: &'a PagedBatch,
        layer: usize,
        layout: &KvLayout,
        pages: &'a Pool<T>,
        scale: f32,
    ) -> Self {
        let range = Pool::<T>::layer_range(layout, layer);
        let (keys, values) = (&pages.keys[range.clone()], &pages.values[range]);
        let page_len = Pool::<T>::page_len(layout);
        Self { qkv, heads, batch, keys, values, num_pages: layout.num_pages, page_len, scale }
    }

    /// Page `page` of one head as vectors of lanes.
    fn page(&self, pool: &'a [T], kv_head: usize, page: u32) -> &'a [[T; LANES]] {
        let at = (kv_head * self.num_pages + page as usize) * self.page_len;
        pool[at..at + self.page_len].as_chunks().0
    }
}

/// Consecutive query tokens of one sequence, for one key/value head.
#[derive(Clone, Copy)]
struct Tile {
    seq: usize,
    kv_head: usize,
    /// First query's row in the batch.
    first_row: usize,
    /// First query's position in its sequence.
    first_position: usize,
    num_queries: usize,
}

/// The output matrix, of which every tile writes its own rows and columns.
struct Output {
    data: *mut f32,
    len: usize,
}

// SAFETY: tiles write disjoint elements, see `Output::head`.
unsafe impl Sync for Output {}

impl Output {
    /// `len` columns from element `at`.
    ///
    /// # Safety
    /// No other slice of these elements may be alive.
    #[allow(clippy::mut_from_ref)]
    unsafe fn head(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at + len <= self.len, "attention: output element {} of {}", at + len, self.len);
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(at), len) }
    }
}

fn run<T: Element>(level: SimdLevel, threads: &Threads, problem: &Problem<'_, T>, out: &mut [f32]) {
    let (batch, heads) = (problem.batch, problem.heads);
    let group = heads.num_heads / heads.num_kv_heads;
    let tile_queries = 6 * (TILE_ROWS / 6 / group).max(1);
    let mut tiles = Vec::new();
    let mut work = 0;
    for seq in 0..batch.num_seqs() {
        let (start, end) = (batch.cu_seqlens_q[seq] as usize, batch.cu_seqlens_q[seq + 1] as usize);
        let context = batch.seq_lens[seq] as usize;
        work += (end - start) * context * heads.q_cols();
        for first_row in (start..end).step_by(tile_queries) {
            let num_queries = tile_queries.min(end - first_row);
            let first_position = context - (end - first_row);
            let tile = Tile { seq, kv_head: 0, first_row, first_position, num_queries };
            tiles.extend((0..heads.num_kv_heads).map(|kv_head| Tile { kv_head, ..tile }));
        }
    }
    let out = Output { data: out.as_mut_ptr(), len: out.len() };
    let run_tile = |tile: &Tile| dispatch(level, Attend { problem, tile: *tile, group, out: &out });
    if work < MIN_WORK || threads.count() == 1 {
        tiles.iter().for_each(run_tile);
    } else {
        // Late tiles see more keys: start with them.
        threads.for_each(tiles.len(), |i| run_tile(&tiles[tiles.len() - 1 - i]));
    }
}

struct Attend<'a, T> {
    problem: &'a Problem<'a, T>,
    tile: Tile,
    group: usize,
    out: &'a Output,
}

/// Online softmax state of one row.
#[derive(Clone, Copy)]
struct RowState {
    max: f32,
    /// Sum of the exponentials, by lane.
    sum: [f32; LANES],
}

impl<T: Element> Kernel for Attend<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { problem, tile, group, out } = self;
        let head_dim = problem.heads.head_dim;
        let rows = tile.num_queries * group;
        let head_vectors = head_dim / LANES;
        let last_position = tile.first_position + tile.num_queries - 1;
        let pages = problem.batch.pages(tile.seq);

        let queries = pack_queries::<S, T>(simd, problem, &tile, group);
        let mut state = vec![RowState { max: f32::NEG_INFINITY, sum: [0.0; LANES] }; rows];
        let mut scores = vec![[[0.0_f32; LANES]; BLOCK_PAGES]; rows];
        let mut probs = vec![T::zeroed(); rows * BLOCK / T::PACK];
        let mut sums = vec![[0.0_f32; LANES]; rows * head_vectors];

        for first_key in (0..=last_position).step_by(BLOCK) {
            // Rows are ordered by position: those that see this block are the last ones.
            let first_query = first_key.saturating_sub(tile.first_position);
            let from = first_query * group;
            let block_page = |i: usize| pages[(first_key / PAGE_SIZE + i).min(pages.len() - 1)];
            let keys = std::array::from_fn(|i| problem.page(problem.keys, tile.kv_head, block_page(i)));
            let values = std::array::from_fn(|i| problem.page(problem.values, tile.kv_head, block_page(i)));

            let query_len = head_dim / T::PACK;
            score_rows::<S, T>(simd, &queries[from * query_len..], keys, &mut scores[from..]);
            for row in from..rows {
                let visible = (tile.first_position + row / group + 1 - first_key).min(BLOCK);
                let probs = &mut probs[row * BLOCK / T::PACK..][..BLOCK / T::PACK];
                let sums = &mut sums[row * head_vectors..][..head_vectors];
                softmax_row(simd, &scores[row], visible, problem.scale, &mut state[row], probs, sums);
            }
            let visible = (last_position + 1 - first_key).min(BLOCK);
            let (probs, sums) = (&probs[from * BLOCK / T::PACK..], &mut sums[from * head_vectors..]);
            accumulate_rows::<S, T>(simd, probs, values, visible, head_vectors, sums);
        }

        for row in 0..rows {
            let head = tile.kv_head * group + row % group;
            let at = (tile.first_row + row / group) * problem.heads.q_cols() + head * head_dim;
            // SAFETY: this row and head belong to no other tile, and the slice dies before the next is made.
            let out = unsafe { out.head(at, head_dim) };
            let total = simd.splat(simd.reduce_add(simd.load(&state[row].sum)));
            for (out, sum) in out.as_chunks_mut().0.iter_mut().zip(&sums[row * head_vectors..]) {
                // Adding zero makes -0 into +0: masked keys, whose products are zeros of either sign, leave no trace.
                simd.store(simd.add(simd.div(simd.load(sum), total), simd.splat(0.0)), out);
            }
        }
    }
}

/// The tile's query rows, query-major, packed. `[rows][head_dim / PACK]`
#[inline(always)]
fn pack_queries<S: Simd, T: Element>(simd: S, problem: &Problem<'_, T>, tile: &Tile, group: usize) -> Vec<T> {
    let head_dim = problem.heads.head_dim;
    let row_len = group * head_dim;
    let mut out = vec![T::zeroed(); tile.num_queries * row_len / T::PACK];
    for (i, packed) in out.chunks_exact_mut(row_len / T::PACK).enumerate() {
        let at = (tile.first_row + i) * problem.heads.qkv_cols() + tile.kv_head * row_len;
        let heads = problem.qkv[at..at + row_len].as_chunks().0;
        for (vector, packed) in heads.iter().zip(packed.chunks_exact_mut(LANES / T::PACK)) {
            T::pack(simd, simd.load(vector), packed);
        }
    }
    out
}

/// Exponentials of one row's scores, of which the first `visible` count; rescales what was summed before.
#[inline(always)]
fn softmax_row<S: Simd, T: Element>(
    simd: S,
    scores: &[[f32; LANES]; BLOCK_PAGES],
    visible: usize,
    scale: f32,
    state: &mut RowState,
    probs: &mut [T],
    sums: &mut [[f32; LANES]],
) {
    let mut x = [simd.splat(f32::NEG_INFINITY); BLOCK_PAGES];
    for i in 0..BLOCK_PAGES {
        let scaled = simd.mul(simd.load(&scores[i]), simd.splat(scale));
        x[i] = simd.select_first(visible.saturating_sub(i * LANES), scaled, x[i]);
    }
    let block_max = simd.reduce_max(simd.max(simd.max(x[0], x[1]), simd.max(x[2], x[3])));
    let old_max = state.max;
    let max = if block_max > old_max { block_max } else { old_max };
    for (i, probs) in probs.chunks_exact_mut(LANES / T::PACK).enumerate() {
        x[i] = simd.exp(simd.sub(x[i], simd.splat(max)));
        T::pack(simd, x[i], probs);
    }
    let sum = simd.add(simd.add(x[0], x[1]), simd.add(x[2], x[3]));
    let mut old_sum = simd.load(&state.sum);
    // Without a new maximum the factor is exactly 1.
    if max > old_max {
        let factor = simd.exp(simd.splat(old_max - max));
        old_sum = simd.mul(old_sum, factor);
        for v in sums {
            simd.store(simd.mul(simd.load(v), factor), v);
        }
        state.max = max;
    }
    simd.store(simd.add(old_sum, sum), &mut state.sum);
}

/// Calls a tile kernel with its row count as a constant.
macro_rules! with_rows {
    ($rows:expr, $kernel:ident::<$s:ty, $t:ty, _, $vectors:literal>($($argument:expr),*)) => {
        match $rows {
            1 => $kernel::<$s, $t, 1, $vectors>($($argument),*),
            2 => $kernel::<$s, $t, 2, $vectors>($($argument),*),
            3 => $kernel::<$s, $t, 3, $vectors>($($argument),*),
            4 => $kernel::<$s, $t, 4, $vectors>($($argument),*),
            5 => $kernel::<$s, $t, 5, $vectors>($($argument),*),
            _ => $kernel::<$s, $t, 6, $vectors>($($argument),*),
        }
    };
}

/// `scores[row] = queries[row] · keys` for every row of `scores`.
#[inline(always)]
fn score_rows<S: Simd, T: Element>(
    simd: S,
    queries: &[T],
    keys: [&[[T; LANES]]; BLOCK_PAGES],
    scores: &mut [[[f32; LANES]; BLOCK_PAGES]],
) {
    let len = keys[0].len();
    for (queries, scores) in queries.chunks(S::TILE_ROWS * len).zip(scores.chunks_mut(S::TILE_ROWS)) {
        match S::TILE_VECTORS {
            4 => with_rows!(scores.len(), score_tile::<S, T, _, 4>(simd, queries, keys, scores)),
            2 => with_rows!(scores.len(), score_tile::<S, T, _, 2>(simd, queries, keys, scores)),
            _ => with_rows!(scores.len(), score_tile::<S, T, _, 1>(simd, queries, keys, scores)),
        }
    }
}

#[inline(always)]
fn score_tile<S: Simd, T: Element, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    queries: &[T],
    keys: [&[[T; LANES]]; BLOCK_PAGES],
    scores: &mut [[[f32; LANES]; BLOCK_PAGES]],
) {
    let len = keys[0].len();
    let queries: [&[T]; ROWS] = std::array::from_fn(|i| &queries[i * len..][..len]);
    for first in (0..BLOCK_PAGES).step_by(VECTORS) {
        let keys: [&[[T; LANES]]; VECTORS] = std::array::from_fn(|j| &keys[first + j][..len]);
        let mut acc = [[simd.splat(0.0); VECTORS]; ROWS];
        for d in 0..len {
            for i in 0..ROWS {
                for j in 0..VECTORS {
                    acc[i][j] = T::dot(simd, acc[i][j], queries[i][d], &keys[j][d]);
                }
            }
        }
        for i in 0..ROWS {
            for j in 0..VECTORS {
                simd.store(acc[i][j], &mut scores[i][first + j]);
            }
        }
    }
}

/// `sums[row] += probs[row] · values` over the first `visible` keys, for every row of `sums`.
#[inline(always)]
fn accumulate_rows<S: Simd, T: Element>(
    simd: S,
    probs: &[T],
    values: [&[[T; LANES]]; BLOCK_PAGES],
    visible: usize,
    head_vectors: usize,
    sums: &mut [[f32; LANES]],
) {
    let tiles = probs.chunks(S::TILE_ROWS * BLOCK / T::PACK).zip(sums.chunks_mut(S::TILE_ROWS * head_vectors));
    for (probs, sums) in tiles {
        let rows = sums.len() / head_vectors;
        let mut first = 0;
        while first < head_vectors {
            if head_vectors - first < S::TILE_VECTORS {
                with_rows!(
                    rows,
                    accumulate_tile::<S, T, _, 1>(simd, probs, values, visible, head_vectors, first, sums)
                );
                first += 1;
                continue;
            }
            match S::TILE_VECTORS {
                4 => with_rows!(
                    rows,
                    accumulate_tile::<S, T, _, 4>(simd, probs, values, visible, head_vectors, first, sums)
                ),
                2 => with_rows!(
                    rows,
                    accumulate_tile::<S, T, _, 2>(simd, probs, values, visible, head_vectors, first, sums)
                ),
                _ => with_rows!(
                    rows,
                    accumulate_tile::<S, T, _, 1>(simd, probs, values, visible, head_vectors, first, sums)
                ),
            }
            first += S::TILE_VECTORS;
        }
    }
}

#[inline(always)]
fn accumulate_tile<S: Simd, T: Element, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    probs: &[T],
    values: [&[[T; LANES]]; BLOCK_PAGES],
    visible: usize,
    head_vectors: usize,
    first: usize,
    sums: &mut [[f32; LANES]],
) {
    let mut acc = [[simd.splat(0.0); VECTORS]; ROWS];
    for i in 0..ROWS {
        for j in 0..VECTORS {
            acc[i][j] = simd.load(&sums[i * head_vectors + first + j]);
        }
    }
    let steps_per_page = PAGE_SIZE / T::PACK;
    for (page, values) in values.into_iter().enumerate().take(visible.div_ceil(PAGE_SIZE)) {
        let visible = (visible - page * PAGE_SIZE).min(PAGE_SIZE);
        let steps = visible / T::PACK;
        let probs: [&[T]; ROWS] =
            std::array::from_fn(|i| &probs[i * BLOCK / T::PACK + page * steps_per_page..][..steps_per_page]);
        for t in 0..steps {
            let values = &values[t * head_vectors + first..][..VECTORS];
            for i in 0..ROWS {
                for j in 0..VECTORS {
                    acc[i][j] = T::dot(simd, acc[i][j], probs[i][t], &values[j]);
                }
            }
        }
        if steps * T::PACK < visible {
            // The last pack is half visible: its other half may never have been written.
            let values = &values[steps * head_vectors + first..][..VECTORS];
            for i in 0..ROWS {
                for j in 0..VECTORS {
                    acc[i][j] = T::dot_first(simd, acc[i][j], probs[i][steps], &values[j]);
                }
            }
        }
    }
    for i in 0..ROWS {
        for j in 0..VECTORS {
            simd.store(acc[i][j], &mut sums[i * head_vectors + first + j]);
        }
    }
}
