//! Rows of prompts in tiles: what a block of `attention_prompt` computes.
//!
//! A sequence's rows fill tiles of its own; its last ones, fewer than a tile holds, share a tile with those of sequences that
//! begin alike: five-shot questions have some hundred rows each behind a thousand common keys. A warp has rows of one sequence
//! only, so that nothing of another, NaN included, comes near them.

use std::cmp::Reverse;

use super::attention_plan::{TABLE_ALIGN, Tables};
use crate::{PAGE_SIZE, PagedBatch};

/// Warps of a block.
const WARPS: usize = 4;
/// Fewest common keys for which sequences share a tile: below, walking one another's own keys costs as much as it saves.
const LEAST_COMMON: usize = 256;
/// Common keys are a multiple of this: of the blocks of every head size, and of aligned tables.
const COMMON_ALIGN: usize = TABLE_ALIGN * PAGE_SIZE;

/// `Tile` of `attention_prompt.cuh`: `[place in tables, keys, common keys, unused]`, then for each warp `[first token of its
/// sequence here, that token's place among the tile's keys, first row | rows << 16, others' keys behind the common ones]`.
pub(super) type Tile = [[u32; 4]; 1 + WARPS];

/// Neighbouring tokens of one sequence.
#[derive(Clone, Copy)]
struct Run {
    seq: usize,
    /// Of the batch.
    token: usize,
    tokens: usize,
    /// Of the first.
    position: usize,
}

impl Run {
    fn end(&self) -> usize {
        self.position + self.tokens
    }
}

/// Tiles of up to `rows` rows (tokens × `group`), the longest walk first. Tables that several sequences share are added to
/// `tables`, in which those of the sequences have their `places`.
pub(super) fn tiles(batch: &PagedBatch, places: &[u32], tables: &mut Tables, group: usize, rows: usize) -> Vec<Tile> {
    let warps = |run: &Run| (run.tokens * group).div_ceil(rows / WARPS);
    let (mut whole, mut rests) = (Vec::new(), Vec::new());
    for seq in (0..batch.num_seqs()).filter(|seq| !batch.is_generated(*seq)) {
        let (start, end) = (batch.cu_seqlens_q[seq] as usize, batch.cu_seqlens_q[seq + 1] as usize);
        for token in (start..end).step_by(rows / group) {
            let run =
                Run { seq, token, tokens: (rows / group).min(end - token), position: batch.positions[token] as usize };
            if warps(&run) < WARPS { rests.push(run) } else { whole.push(vec![run]) }
        }
    }
    // Neighbours then have most in common.
    rests.sort_by(|a, b| batch.pages(a.seq).cmp(batch.pages(b.seq)));
    let mut sharing: Vec<(Vec<Run>, usize)> = Vec::new();
    for run in rests {
        if let Some((open, common)) = sharing.last_mut() {
            let now = (*common).min(common_keys(batch, open[open.len() - 1], run));
            if now >= LEAST_COMMON && open.iter().map(warps).sum::<usize>() + warps(&run) <= WARPS {
                open.push(run);
                *common = now;
                continue;
            }
        }
        sharing.push((vec![run], usize::MAX));
    }
    let all = whole.into_iter().map(|runs| (runs, 0)).chain(sharing);
    let mut tiles: Vec<Tile> = all
        .map(|(runs, common)| match &runs[..] {
            [run] => tile(&runs, places[run.seq], 0, group, rows),
            _ => tile(&runs, push_shared(tables, batch, &runs, common), common, group, rows),
        })
        .collect();
    tiles.sort_by_key(|tile| Reverse(tile[0][1]));
    tiles
}

/// Keys that both see with every row, in the same pages.
fn common_keys(batch: &PagedBatch, a: Run, b: Run) -> usize {
    let pages = batch.pages(a.seq).iter().zip(batch.pages(b.seq)).take_while(|(a, b)| a == b).count();
    (pages * PAGE_SIZE).min(a.position).min(b.position) / COMMON_ALIGN * COMMON_ALIGN
}

/// The common pages, then everybody's own, each from the beginning of a block.
fn push_shared(tables: &mut Tables, batch: &PagedBatch, runs: &[Run], common: usize) -> u32 {
    let shared = common / PAGE_SIZE;
    let place = tables.push(&batch.pages(runs[0].seq)[..shared], common);
    for run in runs {
        let own = &batch.pages(run.seq)[shared..run.end().div_ceil(PAGE_SIZE)];
        tables.push(own, run.end() - common);
    }
    place
}

fn tile(runs: &[Run], place: u32, common: usize, group: usize, rows: usize) -> Tile {
    let warp_rows = rows / WARPS;
    let (mut gap, mut end, mut parts) = (0, 0, Vec::with_capacity(WARPS));
    for (i, run) in runs.iter().enumerate() {
        let own_rows = run.tokens * group;
        // What is left of the warps is the last one's, and has no rows.
        let warps = if i + 1 == runs.len() { WARPS - parts.len() } else { own_rows.div_ceil(warp_rows) };
        parts.extend((0..warps).map(|warp| {
            let packed = (warp * warp_rows) | (own_rows << 16);
            [run.token, run.position + gap, packed, gap].map(|x| x as u32)
        }));
        end = run.end() + gap;
        gap += (run.end() - common).next_multiple_of(COMMON_ALIGN);
    }
    let mut tile = [[place, end as u32, common as u32, 0]; 1 + WARPS];
    tile[1..].copy_from_slice(&parts);
    tile
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(shared pages, first own page, new tokens, context)` of each sequence, all prompts.
    fn batch(sequences: &[(u32, u32, u32, u32)]) -> PagedBatch {
        let stride = sequences.iter().map(|s| s.3.div_ceil(16)).max().unwrap() as usize;
        let mut batch = PagedBatch { cu_seqlens_q: vec![0], block_table_stride: stride, ..PagedBatch::default() };
        for (i, (shared, own, new, context)) in sequences.iter().enumerate() {
            batch.positions.extend(context - new..*context);
            batch.cu_seqlens_q.push(batch.positions.len() as u32);
            batch.seq_lens.push(*context);
            batch
                .block_table
                .extend((0..context.div_ceil(16)).map(|page| if page < *shared { page } else { own + page }));
            batch.block_table.resize((i + 1) * stride, 0);
        }
        batch.slot_mapping = vec![crate::NO_SLOT; batch.positions.len()];
        batch.check(100_000).unwrap();
        batch
    }

    fn plan(batch: &PagedBatch, group: usize, rows: usize) -> (Vec<Tile>, Tables) {
        let mut tables = Tables::default();
        let places: Vec<u32> =
            (0..batch.num_seqs()).map(|seq| tables.push(batch.pages(seq), batch.seq_lens[seq] as usize)).collect();
        (tiles(batch, &places, &mut tables, group, rows), tables)
    }

    #[test]
    fn prompts_are_cut_at_tokens_and_the_longest_walk_comes_first() {
        let batch = batch(&[(0, 100, 50, 60), (0, 200, 20, 20), (0, 300, 1, 101)]);
        // 42 tokens of 3 rows.
        let (tiles, _) = plan(&batch, 3, 128);
        let heads: Vec<_> = tiles.iter().map(|tile| (tile[0], tile[1])).collect();
        let rows = |tokens: u32| (tokens * 3) << 16;
        assert_eq!(
            heads,
            [
                ([8, 101, 0, 0], [70, 100, rows(1), 0]),
                ([0, 60, 0, 0], [42, 52, rows(8), 0]),
                ([0, 52, 0, 0], [0, 10, rows(42), 0]),
                ([4, 20, 0, 0], [50, 0, rows(20), 0]),
            ]
        );
        assert_eq!(tiles[2].map(|part| part[2] & 0xffff)[1..], [0, 32, 64, 96]);
    }

    /// Every row of every prompt is computed once, sees the keys of its own sequence up to itself and no others, and no more
    /// keys are walked than are in the table.
    #[test]
    fn every_row_sees_its_own_keys_whoever_shares_the_tile() {
        let cases: [&[(u32, u32, u32, u32)]; 4] = [
            &[(20, 1000, 100, 420), (20, 2000, 101, 421), (20, 3000, 5, 333), (16, 4000, 60, 321), (0, 5000, 40, 340)],
            &[(64, 1000, 1100, 1124), (64, 2000, 110, 1134), (64, 3000, 97, 1121), (64, 4000, 1, 1025)],
            &[(15, 1000, 7, 247), (15, 2000, 7, 248), (16, 3000, 7, 300), (16, 4000, 44, 300)],
            &[(40, 1000, 3, 643), (40, 2000, 3, 660), (40, 3000, 3, 643), (40, 4000, 3, 643), (30, 5000, 3, 643)],
        ];
        for sequences in cases {
            let batch = batch(sequences);
            for (group, rows) in [(1, 128), (4, 128), (7, 128), (20, 64)] {
                let (tiles, Tables(words)) = plan(&batch, group, rows);
                let mut computed = vec![0; batch.num_tokens() * group];
                for [[place, end, common, _], parts @ ..] in &tiles {
                    let key = |virtual_key: usize| {
                        let entry = words[*place as usize + virtual_key / 16];
                        ((entry >> 27) as usize > virtual_key % 16).then_some(entry & ((1 << 27) - 1))
                    };
                    for (warp, [token, position, packed, gap]) in parts.iter().enumerate() {
                        let own_rows = (packed >> 16) as usize;
                        for row in (packed & 0xffff) as usize..own_rows.min((packed & 0xffff) as usize + rows / WARPS) {
                            computed[*token as usize * group + row] += 1;
                            let seq = batch.cu_seqlens_q.partition_point(|start| start <= token) - 1;
                            let visible = *position as usize + row / group + 1;
                            assert!(visible <= *end as usize, "warp {warp}");
                            let seen: Vec<_> = (0..visible)
                                .filter(|key| key.wrapping_sub(*common as usize) >= *gap as usize)
                                .map(key)
                                .collect();
                            let real = batch.positions[*token as usize + row / group] as usize + 1;
                            let wanted: Vec<_> = (0..real).map(|key| Some(batch.pages(seq)[key / 16])).collect();
                            assert_eq!(seen, wanted, "{sequences:?}, group {group}");
                        }
                    }
                }
                assert!(computed.iter().all(|n| *n == 1), "{computed:?}");
            }
        }
    }

    #[test]
    fn questions_behind_a_common_prefix_share_tiles() {
        // 30 tokens of their own behind 1,104: 120 rows of four heads fill a tile, 20 tokens a whole number of warps.
        let tiles = |own: u32| {
            let sequences: Vec<_> = (0..8).map(|i| (69, 1000 * (i + 1), own, 1104 + own)).collect();
            plan(&batch(&sequences), 4, 128).0
        };
        assert_eq!(tiles(30).len(), 8);
        // Two warps each.
        assert_eq!(tiles(16).len(), 4);
        assert!(tiles(16).iter().all(|tile| tile[0][1..3] == [1120 + 64, 1088]), "{:?}", tiles(16)[0]);
        assert_eq!(tiles(5).len(), 2);
    }
}
