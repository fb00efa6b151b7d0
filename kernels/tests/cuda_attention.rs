//! CUDA attention on the emulator: against the `f64` reference element by element, bit for bit whoever shares the batch, and
//! its bytes, bank conflicts and products against what the kernels promise.

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
    device: Arc<Emulator>,
    backend: CudaBackend,
    heads: Heads,
    /// What stands in the place of tokens of this stream, if anything.
    damage: Option<(u64, f32)>,
}

impl Fixture {
    fn new(dtype: Dtype, heads: Heads) -> Self {
        let device = Arc::new(Emulator::default());
        let backend = CudaBackend::new(device.clone(), dtype).unwrap();
        Self { device, backend, heads, damage: None }
    }

    fn scale(&self) -> f32 {
        (self.heads.head_dim as f32).sqrt().recip()
    }

    /// The packed QKV row of a token.
    fn row(&self, stream: u64, position: usize) -> Vec<f32> {
        let mut rng = Rng((stream << 32) ^ position as u64);
        let mut row = rng.stored(&self.backend, self.heads.qkv_cols(), 2.0);
        match self.damage {
            Some((damaged, with)) if damaged == stream => row[position % 7..].iter_mut().step_by(5).for_each(|x| *x = with),
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
        self.device.reset_counters();
        backend.attention(&qkv, &device_batch, LAYER, &kv, self.scale(), &mut out).unwrap();
        let out = backend.download(&out).unwrap();
        let rows = batch.cu_seqlens_q.windows(2).map(|w| w[0] as usize * heads.q_cols()..w[1] as usize * heads.q_cols());
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
                    let (want, magnitude) = reference::attention::attention(&query, &keys[..sees], &values[..sees], scale);
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

    fn counters(&self, kernel: &str) -> Counters {
        self.device.counters().into_iter().filter(|(name, _)| name.starts_with(kernel)).fold(
            Counters::default(),
            |mut sum, (_, counters)| {
                sum.launches += counters.launches;
                sum.blocks += counters.blocks;
                sum.bank_conflicts += counters.bank_conflicts;
                sum.async_bytes += counters.async_bytes;
                sum.local_bytes += counters.local_bytes;
                sum
            },
        )
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
        &[(1, 1), (15, 15), (16, 16), (17, 17), (63, 63), (1, 64), (65, 65), (2, 255), (20, 257), (1, 300), (0, 7), (33, 97)]
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
