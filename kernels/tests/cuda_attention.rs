//! CUDA attention: against the `f64` reference element by element; bit for bit the same whoever shares the batch; and, on the
//! emulator, its bytes, bank conflicts and products exactly as the kernels promise.

mod device;

use std::sync::Arc;

use oc_kernels::{
    Backend, Dtype, Heads, KvLayout, NO_SLOT, PAGE_SIZE, PagedBatch,
    cuda::CudaBackend,
    emulator::{Counters, Emulator},
    ops::{Rng, worse},
    reference,
};

const LAYER: usize = 1;
const DTYPES: [Dtype; 2] = [Dtype::Bf16, Dtype::F16];

/// One sequence: its token at a position has the same query, key and value in every batch.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seq {
    /// Whose tokens stand behind the shared ones.
    stream: u64,
    /// Leading tokens of stream 0, in common pages: a multiple of the page size.
    shared: usize,
    new: usize,
    context: usize,
    generated: bool,
}

impl Seq {
    fn stream_at(&self, position: usize) -> u64 {
        if position < self.shared { 0 } else { self.stream }
    }
}

fn prompt(stream: u64, new: usize, context: usize) -> Seq {
    Seq { stream, shared: 0, new, context, generated: false }
}

fn generated(stream: u64, context: usize) -> Seq {
    Seq { stream, shared: 0, new: 1, context, generated: true }
}

const fn heads(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Heads {
    Heads { num_heads, num_kv_heads, head_dim }
}

/// What is in slots that hold no token of the context.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rest {
    /// Nothing was ever written: the emulator reports whoever reads it.
    Unwritten,
    /// NaN.
    Poison,
}

struct Fixture {
    /// Where it counts what kernels do.
    emulator: Option<Emulator>,
    backend: CudaBackend,
    heads: Heads,
    /// What stands in the place of tokens of this stream, if anything.
    damage: Option<(u64, f32)>,
}

impl Fixture {
    fn new(dtype: Dtype, heads: Heads) -> Self {
        Self { emulator: None, backend: device::backend(dtype), heads, damage: None }
    }

    /// On the emulator, whatever device tests run on.
    fn counting(dtype: Dtype, heads: Heads) -> Self {
        let emulator = Emulator::default();
        let backend = CudaBackend::new(Arc::new(emulator.clone()), dtype).unwrap();
        Self { emulator: Some(emulator), backend, heads, damage: None }
    }

    fn scale(&self) -> f32 {
        (self.heads.head_dim as f32).sqrt().recip()
    }

    /// The packed QKV row of a token.
    fn row(&self, stream: u64, position: usize) -> Vec<f32> {
        let mut rng = Rng((stream << 32) ^ position as u64);
        let mut row = rng.stored(&self.backend, self.heads.qkv_cols(), 2.0);
        match self.damage {
            Some((damaged, with)) if damaged == stream => {
                row[position % 7..].iter_mut().step_by(5).for_each(|x| *x = with)
            }
            _ => {}
        }
        row
    }

    /// Attention of the new rows, `[rows][q_cols]` per sequence, from a cache whose pages lie as `layout` says.
    fn run(&self, seqs: &[Seq], layout: u64, rest: Rest) -> Vec<Vec<f32>> {
        let (backend, heads) = (&self.backend, self.heads);
        let cols = heads.qkv_cols();
        let mut rng = Rng(layout);
        let stride = seqs.iter().map(|s| s.context.div_ceil(PAGE_SIZE)).max().unwrap_or(0) + rng.below(2);
        let longest_shared = seqs.iter().map(|s| s.shared).max().unwrap_or(0) / PAGE_SIZE;
        let num_pages = seqs.len() * stride + longest_shared + 3;
        let mut free = rng.permutation(num_pages);
        let common = free.split_off(free.len() - longest_shared);

        let Heads { num_heads, num_kv_heads, head_dim } = heads;
        let mut kv = backend.kv_cache(KvLayout { num_layers: 2, num_kv_heads, head_dim, num_pages }).unwrap();
        let places = |page: u32| (0..num_kv_heads).map(move |head| (page as usize, head));
        if rest == Rest::Poison {
            let nan = vec![f32::NAN; PAGE_SIZE * head_dim];
            for (page, head) in (0..num_pages as u32).flat_map(places) {
                (0..2).for_each(|layer| kv.write(backend.device(), (layer, page, head), &nan, &nan).unwrap());
            }
        }
        let mut batch = PagedBatch { cu_seqlens_q: vec![0], block_table_stride: stride, ..PagedBatch::default() };
        let mut qkv = Vec::new();
        for seq in seqs {
            let mut pages = free.split_off(free.len() - stride);
            pages[..seq.shared / PAGE_SIZE].copy_from_slice(&common[..seq.shared / PAGE_SIZE]);
            let rows: Vec<_> = (0..seq.context).map(|p| self.row(seq.stream_at(p), p)).collect();
            for (rows, &page) in rows.chunks(PAGE_SIZE).zip(&pages) {
                for (page, head) in places(page) {
                    let of = |head: usize| -> Vec<f32> {
                        rows.iter().flat_map(|row| &row[head * head_dim..][..head_dim]).copied().collect()
                    };
                    let (keys, values) = (of(num_heads + head), of(num_heads + num_kv_heads + head));
                    kv.write(backend.device(), (LAYER, page, head), &keys, &values).unwrap();
                }
            }
            let first = seq.context - seq.new;
            batch.positions.extend((first..seq.context).map(|p| p as u32));
            qkv.extend(rows[first..].concat());
            batch.cu_seqlens_q.push(batch.positions.len() as u32);
            batch.seq_lens.push(seq.context as u32);
            batch.generated.push(seq.generated);
            batch.block_table.extend(pages);
        }
        batch.slot_mapping = vec![NO_SLOT; batch.num_tokens()];

        let tokens = batch.num_tokens();
        let qkv = backend.upload(&qkv, tokens, cols).unwrap();
        let out = vec![f32::NAN; tokens * heads.q_cols()];
        let mut out = backend.upload(&out, tokens, heads.q_cols()).unwrap();
        let device_batch = backend.batch(&batch, heads, &kv).unwrap();
        self.emulator.iter().for_each(Emulator::reset_counters);
        backend.attention(&qkv, &device_batch, LAYER, &kv, self.scale(), &mut out).unwrap();
        let out = backend.download(&out).unwrap();
        let rows =
            batch.cu_seqlens_q.windows(2).map(|w| w[0] as usize * heads.q_cols()..w[1] as usize * heads.q_cols());
        rows.map(|rows| out[rows].to_vec()).collect()
    }

    /// The largest error of an element of `got`, a sequence's rows, relative to the magnitude of what was summed.
    fn error(&self, seq: &Seq, got: &[f32]) -> f64 {
        let Heads { num_heads, num_kv_heads, head_dim } = self.heads;
        let rows: Vec<Vec<f32>> = (0..seq.context).map(|p| self.row(seq.stream_at(p), p)).collect();
        let head = |row: &[f32], head: usize| -> Vec<f64> {
            row[head * head_dim..][..head_dim].iter().map(|x| f64::from(*x)).collect()
        };
        let mut error = 0.0;
        for kv_head in 0..num_kv_heads {
            let keys: Vec<_> = rows.iter().map(|row| head(row, num_heads + kv_head)).collect();
            let values: Vec<_> = rows.iter().map(|row| head(row, num_heads + num_kv_heads + kv_head)).collect();
            let group = num_heads / num_kv_heads;
            for query_head in kv_head * group..(kv_head + 1) * group {
                for i in 0..seq.new {
                    let sees = seq.context - seq.new + i + 1;
                    let query = head(&rows[sees - 1], query_head);
                    let scale = f64::from(self.scale());
                    let (want, magnitude) =
                        reference::attention::attention(&query, &keys[..sees], &values[..sees], scale);
                    let got = &got[i * self.heads.q_cols() + query_head * head_dim..][..head_dim];
                    for (got, (want, magnitude)) in got.iter().zip(want.iter().zip(&magnitude)) {
                        error = worse((f64::from(*got) - want).abs() / magnitude, error);
                    }
                }
            }
        }
        error
    }

    /// The tolerance of the registry: what rounding the probabilities and the output may cost.
    fn tolerance(&self) -> f64 {
        4e-3 + 1.02 * self.backend.info().storage.half_ulp()
    }

    fn check(&self, seqs: &[Seq], layout: u64, rest: Rest) {
        let (heads, dtype) = (self.heads, self.backend.info().dtype.name());
        for (seq, got) in seqs.iter().zip(self.run(seqs, layout, rest)) {
            let error = self.error(seq, &got);
            let tolerance = self.tolerance();
            assert!(error <= tolerance, "{seq:?} of {heads:?} in {dtype}: error {error:e} above {tolerance:e}");
        }
    }

    /// What the instances of a kernel did in the last run.
    fn counters(&self, kernel: &str) -> Counters {
        let name = format!("{kernel}_{}", self.backend.info().dtype.name());
        self.emulator.as_ref().expect("a counting fixture").counters().remove(&name).unwrap_or_default()
    }
}

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|x| x.to_bits()).collect()
}

/// Every sequence of a kind: contexts around the edges of pages, blocks and ranges.
fn edges(generated_ones: bool) -> Vec<Seq> {
    let sequences: &[(usize, usize)] = if generated_ones {
        &[(1, 1), (1, 15), (1, 16), (1, 17), (1, 63), (1, 64), (1, 65), (1, 255), (1, 256), (1, 257), (1, 530)]
    } else {
        &[
            (1, 1),
            (15, 15),
            (16, 16),
            (17, 17),
            (63, 63),
            (1, 64),
            (65, 65),
            (2, 255),
            (20, 257),
            (1, 300),
            (0, 7),
            (33, 97),
        ]
    };
    let seq = |(i, (new, context)): (usize, &(usize, usize))| Seq {
        stream: i as u64 + 1,
        shared: 0,
        new: *new,
        context: *context,
        generated: generated_ones,
    };
    sequences.iter().enumerate().map(seq).collect()
}

#[test]
fn prompts_agree_with_the_reference() {
    for (i, heads) in HEADS.into_iter().enumerate() {
        let fixture = Fixture::new(DTYPES[i % 2], heads);
        fixture.check(&edges(false), i as u64, if i % 2 == 0 { Rest::Unwritten } else { Rest::Poison });
    }
}

#[test]
fn generated_tokens_agree_with_the_reference() {
    for (i, heads) in HEADS.into_iter().enumerate() {
        let fixture = Fixture::new(DTYPES[(i + 1) % 2], heads);
        fixture.check(&edges(true), i as u64, if i % 2 == 1 { Rest::Unwritten } else { Rest::Poison });
    }
}

/// All head sizes; 1, 4, 7 and 8 query heads a key/value head, and more than a narrow tile has rows.
const HEADS: [Heads; 9] = [
    heads(1, 1, 16),
    heads(7, 1, 64),
    heads(4, 4, 64),
    heads(8, 2, 80),
    heads(7, 1, 96),
    heads(8, 2, 128),
    heads(8, 1, 128),
    heads(4, 1, 256),
    heads(20, 1, 64),
];

/// 16 others of every kind, for company.
fn company() -> Vec<Seq> {
    let mut seqs = Vec::new();
    for i in 0..8 {
        seqs.push(prompt(100 + i, 1 + 9 * i as usize, 3 + 21 * i as usize));
        seqs.push(generated(200 + i, 1 + 67 * i as usize));
    }
    seqs
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_among_others() {
    for (heads, dtype) in
        [(heads(8, 2, 128), Dtype::Bf16), (heads(7, 1, 64), Dtype::F16), (heads(4, 1, 256), Dtype::Bf16)]
    {
        let fixture = Fixture::new(dtype, heads);
        for seq in [prompt(7, 70, 150), prompt(7, 1, 129), generated(7, 1), generated(7, 300)] {
            let alone = fixture.run(&[seq], 1, Rest::Unwritten);
            for at in [0, 5, 16] {
                let mut all = company();
                all.insert(at, seq);
                let among = fixture.run(&all, 2 + at as u64, Rest::Poison);
                assert_eq!(bits(&among[at]), bits(&alone[0]), "{seq:?} of {heads:?} at {at}");
            }
        }
    }
}

#[test]
fn a_prompt_has_the_same_bits_whole_and_in_chunks() {
    for (heads, dtype) in
        [(heads(8, 2, 128), Dtype::F16), (heads(3, 1, 80), Dtype::Bf16), (heads(2, 2, 256), Dtype::F16)]
    {
        let fixture = Fixture::new(dtype, heads);
        let whole = fixture.run(&[prompt(3, 150, 150)], 1, Rest::Unwritten);
        for edges in [&[16, 32, 112, 150][..], &[48, 64, 150], &[128, 150], &[144, 150]] {
            let starts = std::iter::once(&0).chain(edges);
            let chunks = starts.zip(edges).map(|(start, end)| prompt(3, end - start, *end));
            let chunked: Vec<f32> =
                chunks.flat_map(|seq| fixture.run(&[seq], 2, Rest::Poison).swap_remove(0)).collect();
            assert_eq!(bits(&chunked), bits(&whole[0]), "{heads:?} cut at {edges:?}");
        }
    }
}

#[test]
fn a_generated_token_has_the_same_bits_with_a_prefix_of_its_own_and_a_shared_one() {
    for (heads, dtype) in
        [(heads(4, 1, 128), Dtype::Bf16), (heads(14, 2, 64), Dtype::F16), (heads(4, 2, 256), Dtype::Bf16)]
    {
        let fixture = Fixture::new(dtype, heads);
        // Prefixes of several lengths, contexts that end within the last common range and behind it.
        let seqs: Vec<_> = (0..65)
            .map(|i| {
                let shared = [528, 528, 256, 240, 0][i % 5];
                Seq { shared, ..generated(10 + i as u64, shared + 1 + 37 * i % 300) }
            })
            .collect();
        let together = fixture.run(&seqs, 1, Rest::Poison);
        for i in (0..65).step_by(6) {
            let alone = fixture.run(&seqs[i..=i], 2, Rest::Unwritten);
            assert_eq!(bits(&together[i]), bits(&alone[0]), "{:?} of {heads:?}", seqs[i]);
        }
        // Few enough to share the narrow kernel.
        let few = fixture.run(&seqs[..2], 3, Rest::Unwritten);
        assert_eq!(few.iter().map(|x| bits(x)).collect::<Vec<_>>(), [bits(&together[0]), bits(&together[1])]);
    }
}

#[test]
fn what_is_not_finite_stays_in_its_sequence() {
    let heads = heads(8, 2, 64);
    let seqs = [prompt(1, 40, 100), generated(2, 300), prompt(3, 40, 100), generated(4, 300), generated(5, 301)];
    let mut fixture = Fixture::new(Dtype::Bf16, heads);
    let sound = fixture.run(&seqs, 1, Rest::Unwritten);
    for with in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for damaged in [3, 4] {
            fixture.damage = Some((damaged, with));
            let got = fixture.run(&seqs, 2, Rest::Unwritten);
            for (i, seq) in seqs.iter().enumerate() {
                if seq.stream == damaged {
                    assert!(got[i].iter().all(|x| x.is_nan()), "{seq:?} with {with}");
                } else {
                    assert_eq!(bits(&got[i]), bits(&sound[i]), "{seq:?} beside {with} in stream {damaged}");
                }
            }
        }
    }
}

#[test]
fn prompts_read_each_visible_key_once_per_tile_without_bank_conflicts() {
    for heads in HEADS {
        let fixture = Fixture::counting(Dtype::Bf16, heads);
        let Heads { num_heads, num_kv_heads, head_dim } = heads;
        fixture.run(&[prompt(1, 90, 200), prompt(2, 5, 5)], 1, Rest::Unwritten);
        let counters = fixture.counters("attention_prompt");
        let (tile_rows, block, warp_rows) = if head_dim == 256 { (64, 32, 16) } else { (128, 64, 32) };
        let group = num_heads / num_kv_heads;
        let (mut bytes, mut mma, mut blocks) = (0, 0, 0);
        for (first, end) in [(110, 200), (0, 5)] {
            for start in (first..end).step_by(tile_rows / group) {
                let tile_end = end.min(start + tile_rows / group);
                let rows = (tile_end - start) * group;
                // Blocks are brought whole, as far as the context goes.
                let keys = tile_end.next_multiple_of(block).min(end);
                bytes += rows * head_dim * 2 + keys * 2 * head_dim * 2;
                blocks += 1;
                // A warp multiplies up to the block that its last row ends in.
                for first_row in (0..rows).step_by(warp_rows) {
                    let last_row = rows.min(first_row + warp_rows) - 1;
                    let walked = (start + last_row / group + 1usize).div_ceil(block);
                    mma += walked * 2 * (warp_rows / 16) * (block / 8) * (head_dim / 16);
                }
            }
        }
        let kv_heads = num_kv_heads as u64;
        assert_eq!((counters.launches, counters.blocks), (1, blocks * kv_heads), "{heads:?}");
        assert_eq!(counters.async_bytes, bytes as u64 * kv_heads, "{heads:?}");
        assert_eq!(counters.mma(), mma as u64 * kv_heads, "{heads:?}");
        assert_eq!(counters.global_written_bytes, (95 * num_heads * head_dim * 2) as u64, "{heads:?}");
        assert_eq!((counters.bank_conflicts, counters.local_bytes), (0, 0), "{heads:?}");
    }
}

/// Questions behind a common prefix: the last rows of several share a tile, and each has the bits that it has alone.
#[test]
fn prompts_that_share_a_tile_have_the_bits_they_have_alone() {
    for heads in HEADS {
        for dtype in DTYPES {
            let mut fixture = Fixture::new(dtype, heads);
            let question = |stream: u64, shared, own: usize| Seq { shared, ..prompt(stream, own, shared + own) };
            let seqs = [
                question(1, 320, 3),
                question(2, 320, 2),
                question(3, 304, 5),
                question(4, 272, 1),
                question(5, 320, 67),
                question(6, 0, 3),
            ];
            let alone: Vec<_> = seqs.iter().map(|seq| fixture.run(&[*seq], 1, Rest::Poison).remove(0)).collect();
            for (seq, alone) in seqs.iter().zip(&alone) {
                let (error, tolerance) = (fixture.error(seq, alone), fixture.tolerance());
                assert!(error <= tolerance, "{seq:?} of {heads:?}: error {error:e} above {tolerance:e}");
            }
            let together = fixture.run(&seqs, 2, Rest::Poison);
            for ((seq, alone), together) in seqs.iter().zip(&alone).zip(&together) {
                assert_eq!(bits(together), bits(alone), "{seq:?} of {heads:?} in {}", dtype.name());
            }
            // Nor does one that is damaged reach the others.
            for with in [f32::NAN, f32::INFINITY] {
                fixture.damage = Some((2, with));
                let together = fixture.run(&seqs, 3, Rest::Poison);
                for ((seq, alone), together) in
                    seqs.iter().zip(&alone).zip(&together).filter(|((seq, _), _)| seq.stream != 2)
                {
                    assert_eq!(bits(together), bits(alone), "{seq:?} of {heads:?} beside {with}");
                }
            }
        }
    }
}

#[test]
fn a_common_prefix_is_brought_once_for_all_rows_of_a_tile() {
    let heads = heads(8, 2, 128);
    let fixture = Fixture::counting(Dtype::Bf16, heads);
    // Four times 6 tokens of four heads: one warp each. 320 common keys, and a page's worth of one's own.
    let seqs: Vec<_> = (0..4).map(|i| Seq { shared: 320, ..prompt(1 + i, 6, 326) }).collect();
    fixture.run(&seqs, 1, Rest::Unwritten);
    let counters = fixture.counters("attention_prompt");
    let (key, query) = (2 * 128 * 2, 4 * 128 * 2);
    assert_eq!((counters.blocks, counters.async_bytes), (2, 2 * ((320 + 4 * 6) * key + 4 * 6 * query)));
    // Every warp multiplies the blocks of its own sequence only.
    let products = 6 * 2 * 2 * 8 * 8;
    assert_eq!(counters.mma(), 2 * 4 * products);
    assert_eq!((counters.bank_conflicts, counters.local_bytes), (0, 0));
}

#[test]
fn a_shared_range_is_read_once_for_all_its_rows() {
    let heads = heads(8, 2, 128);
    let fixture = Fixture::counting(Dtype::Bf16, heads);
    // 32 sequences, 600 tokens of which 560 are common: two whole ranges together, the rest alone.
    let seqs: Vec<_> = (0..32).map(|i| Seq { shared: 560, ..generated(1 + i, 600) }).collect();
    fixture.run(&seqs, 1, Rest::Unwritten);
    let (key, query) = (2 * 128 * 2, 4 * 128 * 2);
    let (wide, narrow) = (fixture.counters("attention_wide"), fixture.counters("attention_narrow"));
    assert_eq!((wide.blocks, wide.async_bytes), (2 * 2, 2 * (512 * key + 2 * 32 * query)));
    assert_eq!((narrow.blocks, narrow.async_bytes), (2 * 32, 2 * 32 * (88 * key + query)));
    // Three partial results a row, each its output, maximum and sum.
    let partial = (128 + 2) * 4;
    assert_eq!(wide.global_written_bytes + narrow.global_written_bytes, 32 * 8 * 3 * partial);
    let merge = fixture.counters("attention_merge");
    assert_eq!(merge.global_written_bytes, 32 * 8 * 128 * 2);
    for counters in [wide, narrow, merge] {
        assert_eq!((counters.launches, counters.bank_conflicts, counters.local_bytes), (1, 0, 0));
    }
}

#[test]
fn nothing_to_do_is_done() {
    let fixture = Fixture::counting(Dtype::F16, heads(8, 2, 64));
    assert!(fixture.run(&[], 1, Rest::Unwritten).is_empty());
    assert_eq!(fixture.run(&[prompt(1, 0, 0), prompt(2, 0, 40)], 1, Rest::Unwritten), [vec![], vec![]]);
    assert!(fixture.emulator.unwrap().counters().is_empty());
}

#[test]
fn what_cannot_be_computed_is_refused() {
    let fixture = |heads: Heads| {
        let Heads { num_kv_heads, head_dim, .. } = heads;
        let fixture = Fixture::new(Dtype::Bf16, heads);
        let layout = KvLayout { num_layers: 2, num_kv_heads, head_dim, num_pages: 1 };
        (fixture.backend.kv_cache(layout).unwrap(), fixture)
    };
    let try_with = |heads: Heads, layer: usize, scale: f32, columns: usize| {
        let (kv, fixture) = fixture(heads);
        let backend = &fixture.backend;
        let batch = PagedBatch { cu_seqlens_q: vec![0], ..PagedBatch::default() };
        let batch = backend.batch(&batch, heads, &kv).unwrap();
        let qkv = backend.tensor(0, columns).unwrap();
        let mut out = backend.tensor(0, heads.q_cols()).unwrap();
        backend.attention(&qkv, &batch, layer, &kv, scale, &mut out).map_err(|e| e.to_string())
    };
    assert_eq!(try_with(heads(8, 2, 64), 1, 0.125, 768), Ok(()));
    let refused = |result: Result<(), String>| result.unwrap_err();
    assert!(refused(try_with(heads(8, 2, 72), 1, 0.125, 864)).contains("heads of 72 elements"));
    assert!(refused(try_with(heads(129, 1, 64), 1, 0.125, 8384)).contains("129 query heads"));
    assert!(refused(try_with(heads(8, 2, 64), 2, 0.125, 768)).contains("layer: index 2"));
    assert!(refused(try_with(heads(8, 2, 64), 1, f32::NAN, 768)).contains("scale of NaN"));
    assert!(refused(try_with(heads(8, 2, 64), 1, -1.0, 768)).contains("scale of -1"));
    assert!(refused(try_with(heads(8, 2, 64), 1, 0.125, 760)).contains("attention: qkv"));
    // A batch is prepared for one cache.
    let (kv, fixture) = fixture(heads(8, 2, 64));
    let backend = &fixture.backend;
    let batch =
        backend.batch(&PagedBatch { cu_seqlens_q: vec![0], ..PagedBatch::default() }, heads(8, 2, 64), &kv).unwrap();
    let other = backend.kv_cache(KvLayout { num_layers: 2, num_kv_heads: 2, head_dim: 64, num_pages: 2 }).unwrap();
    let (qkv, mut out) = (backend.tensor(0, 768).unwrap(), backend.tensor(0, 512).unwrap());
    let error = backend.attention(&qkv, &batch, 1, &other, 0.125, &mut out).unwrap_err().to_string();
    assert!(error.contains("attention: KV cache"), "{error}");
}
