//! Who computes what in attention: the work lists of a batch, made once on the host and read by every layer.
//!
//! A list decides which rows share a read of the keys, never what a row computes: prompt rows walk blocks of keys from the
//! first, generated rows walk ranges of [`RANGE`] keys at absolute positions, whoever stands beside them.

use super::attention_tiles::{Tile, tiles};
use crate::{PAGE_SIZE, PagedBatch};

/// Keys of a range: generated tokens attend to each range on its own. `RANGE` in `attention_decode.cuh`.
pub(super) const RANGE: usize = 256;
/// Rows of the kernel whose warps share them.
const NARROW_ROWS: usize = 16;
/// Tables of pages are padded to a multiple of this: the pages of a block of 64 keys.
pub(super) const TABLE_ALIGN: usize = 4;
/// `PAGE_ID_BITS` in `attention.cuh`.
pub(super) const PAGE_ID_BITS: u32 = 27;

/// Pages one behind the other, as the kernels read them: id, and how many of its keys there are.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tables(pub Vec<u32>);

impl Tables {
    /// Appends `pages`, which hold `keys` keys, padded to a multiple of [`TABLE_ALIGN`] with pages of none; returns their place.
    pub fn push(&mut self, pages: &[u32], keys: usize) -> u32 {
        let place = self.0.len() as u32;
        let counts = (0..pages.len()).map(|page| keys.saturating_sub(page * PAGE_SIZE).min(PAGE_SIZE) as u32);
        self.0.extend(pages.iter().zip(counts).map(|(page, count)| page | count << PAGE_ID_BITS));
        self.0.resize(self.0.len().next_multiple_of(TABLE_ALIGN), 0);
        place
    }
}

/// The work of one step.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Of the sequences, and of those that share tiles.
    pub tables: Tables,
    /// Tiles of prompt rows, the longest walk first.
    pub prompt: Vec<Tile>,
    /// Ranges that serve up to [`NARROW_ROWS`] rows: `[place in tables, end of the keys, first member, members]`.
    pub narrow: Vec<[u32; 4]>,
    /// Ranges that serve more rows.
    pub wide: Vec<[u32; 4]>,
    /// Generated tokens, those with a common run of pages side by side: `[row in the batch, first slot]`. A member's ranges
    /// have the slots from its own to the next member's; the last entry is no member.
    pub members: Vec<[u32; 2]>,
}

impl Plan {
    /// Plans a checked batch for layers with `group` query heads a key/value head, whose kernels take up to `tile_rows`
    /// rows (tokens × `group`).
    pub fn new(batch: &PagedBatch, group: usize, tile_rows: usize) -> Self {
        let mut plan = Self::default();
        let place = |seq| plan.tables.push(batch.pages(seq), batch.seq_lens[seq] as usize);
        let places: Vec<u32> = (0..batch.num_seqs()).map(place).collect();
        plan.prompt = tiles(batch, &places, &mut plan.tables, group, tile_rows);
        plan.push_ranges(batch, &places, group, tile_rows / group);
        plan
    }

    /// Slots of the partial results: ranges of all members.
    pub fn num_slots(&self) -> usize {
        self.members.last().map_or(0, |[_, slot]| *slot as usize)
    }

    /// Generated tokens.
    pub fn num_members(&self) -> usize {
        self.members.len().saturating_sub(1)
    }

    /// Members and their ranges. A range whose pages are the same in several sequences, from the first page on, is one item
    /// (or as few as tiles hold).
    fn push_ranges(&mut self, batch: &PagedBatch, places: &[u32], group: usize, tile_tokens: usize) {
        let mut order: Vec<usize> = (0..batch.num_seqs()).filter(|seq| batch.is_generated(*seq)).collect();
        // Sequences with a common run of pages become neighbours, for every length of the run.
        order.sort_by(|a, b| batch.pages(*a).cmp(batch.pages(*b)));
        let context = |i: usize| batch.seq_lens[order[i]] as usize;
        let mut slots = 0;
        for (i, seq) in order.iter().enumerate() {
            self.members.push([batch.cu_seqlens_q[*seq], slots]);
            slots += context(i).div_ceil(RANGE) as u32;
        }
        if !order.is_empty() {
            self.members.push([0, slots]);
        }

        // Whole ranges, none of which the sequence shares with its predecessor or behind which it differs from it.
        let common: Vec<usize> = (0..order.len())
            .map(|i| {
                let before = if i == 0 { &[][..] } else { batch.pages(order[i - 1]) };
                let pages = before.iter().zip(batch.pages(order[i])).take_while(|(a, b)| a == b).count();
                let shortest = if i == 0 { 0 } else { context(i).min(context(i - 1)) };
                (pages * PAGE_SIZE).min(shortest) / RANGE
            })
            .collect();
        let longest = (0..order.len()).map(|i| context(i).div_ceil(RANGE)).max().unwrap_or(0);
        for range in 0..longest {
            let mut first = 0;
            while first < order.len() {
                if context(first) <= range * RANGE {
                    first += 1;
                    continue;
                }
                let shared = common[first + 1..].iter().take_while(|common| **common > range).count();
                let members = 1 + shared;
                let end = ((range + 1) * RANGE).min(context(first)) as u32;
                let place = places[order[first]];
                if members * group <= NARROW_ROWS {
                    self.narrow.push([place, end, first as u32, members as u32]);
                } else {
                    self.wide.extend(
                        (0..members)
                            .step_by(tile_tokens)
                            .map(|i| [place, end, (first + i) as u32, tile_tokens.min(members - i) as u32]),
                    );
                }
                first += members;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One generated token per `(pages, context)`.
    fn generated(sequences: &[(Vec<u32>, u32)]) -> PagedBatch {
        let stride = sequences.iter().map(|s| s.0.len()).max().unwrap();
        let mut batch = PagedBatch { cu_seqlens_q: vec![0], block_table_stride: stride, ..PagedBatch::default() };
        for (i, (pages, context)) in sequences.iter().enumerate() {
            batch.positions.push(context - 1);
            batch.slot_mapping.push(crate::NO_SLOT);
            batch.cu_seqlens_q.push(i as u32 + 1);
            batch.seq_lens.push(*context);
            batch.block_table.extend(pages);
            batch.block_table.resize((i + 1) * stride, 0);
            batch.generated.push(true);
        }
        batch.check(10_000).unwrap();
        batch
    }

    /// `shared` pages of everybody, then pages of one's own.
    fn pages(shared: u32, own: u32, context: u32) -> (Vec<u32>, u32) {
        let count = context.div_ceil(PAGE_SIZE as u32);
        ((0..count).map(|i| if i < shared { i } else { own + i }).collect(), context)
    }

    #[test]
    fn every_range_of_every_member_is_served_once() {
        let cases: [&[(u32, u32, u32)]; 4] = [
            &[(0, 100, 1), (0, 200, 256), (0, 300, 257)],
            &[(16, 100, 300), (16, 200, 256), (16, 300, 700), (16, 400, 255)],
            &[(40, 100, 1000), (40, 200, 1000), (33, 300, 1000), (15, 400, 1000), (40, 500, 641), (32, 600, 513)],
            &[(64, 0, 1024), (64, 0, 1024)],
        ];
        for sequences in cases {
            let sequences: Vec<_> =
                sequences.iter().map(|(shared, own, context)| pages(*shared, *own, *context)).collect();
            let batch = generated(&sequences);
            for (group, tile_rows) in [(1, 64), (4, 128), (7, 128), (20, 64)] {
                let plan = Plan::new(&batch, group, tile_rows);
                let mut served = vec![0; plan.num_slots()];
                for (item, most) in
                    plan.narrow.iter().map(|i| (i, NARROW_ROWS)).chain(plan.wide.iter().map(|i| (i, tile_rows)))
                {
                    let [place, end, first, members] = item.map(|x| x as usize);
                    assert!(members >= 1 && members * group <= most, "{item:?}");
                    let range = (end - 1) / RANGE;
                    for [token, slot] in &plan.members[first..first + members] {
                        served[*slot as usize + range] += 1;
                        let context = batch.seq_lens[*token as usize] as usize;
                        assert_eq!(end, context.min((range + 1) * RANGE), "{item:?}, context {context}");
                        let walked = range * RANGE / PAGE_SIZE..end.div_ceil(PAGE_SIZE);
                        let table = &plan.tables.0[place..][walked.clone()];
                        let ids = table.iter().map(|entry| entry & ((1 << PAGE_ID_BITS) - 1));
                        assert!(ids.eq(batch.pages(*token as usize)[walked].iter().copied()), "{item:?}");
                        // All keys up to the end are there, and none behind it.
                        let keys: u32 = table.iter().map(|entry| entry >> PAGE_ID_BITS).sum();
                        assert_eq!(keys as usize, end - range * RANGE, "{item:?}");
                    }
                }
                assert!(served.iter().all(|n| *n == 1), "{served:?}");
            }
        }
    }

    #[test]
    fn a_common_run_is_read_once_for_as_many_rows_as_a_tile_holds() {
        // 64 sequences, 1104 common tokens, 1200 in all: four ranges in common, the fifth for each its own.
        let sequences: Vec<_> = (0..64).map(|i| pages(69, 100 + 100 * i, 1200)).collect();
        let plan = Plan::new(&generated(&sequences), 4, 128);
        assert_eq!(plan.wide.len(), 4 * 2);
        assert!(plan.wide.iter().all(|[_, _, _, members]| *members == 32));
        assert_eq!(plan.narrow.len(), 64);
        assert!(plan.narrow.iter().all(|[_, end, _, members]| (*end, *members) == (1200, 1)));
        assert_eq!(plan.num_slots(), 64 * 5);
    }

    #[test]
    fn runs_may_branch() {
        // Two questions of two choices each under one prefix.
        let of = |question: u32, choice: u32| {
            let page = |i: u32| {
                if i < 16 {
                    i
                } else if i < 32 {
                    100 * question + i
                } else {
                    1000 * choice + i
                }
            };
            ((0..40).map(page).collect::<Vec<_>>(), 600)
        };
        let plan = Plan::new(&generated(&[of(1, 1), of(2, 2), of(1, 3), of(2, 4)]), 2, 128);
        let members = |range: usize| {
            let ends = [256, 512, 600];
            let of_range = plan.narrow.iter().filter(move |item| item[1] == ends[range]);
            of_range.map(|item| item[3]).collect::<Vec<_>>()
        };
        assert_eq!((members(0), members(1), members(2)), (vec![4], vec![2, 2], vec![1, 1, 1, 1]));
    }
}
