//! Attention of one query over its keys.

use crate::{
    Backend, Dtype, Heads, KvLayout, NO_SLOT, PAGE_SIZE, PagedBatch, Result, RotarySegment,
    ops::{Cost, Op, Rng, Shape, Trial, Unit, attention_of, rounded, subset, worse},
};

/// `softmax(q·kᵀ * scale)·v` and, element by element, the same sum of magnitudes `softmax(..)·|v|`, which is what
/// rounding errors are proportional to. `keys`, `values`: one `[head_dim]` row per visible position.
pub fn attention(query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>], scale: f64) -> (Vec<f64>, Vec<f64>) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let scores: Vec<f64> = keys.iter().map(|key| dot(query, key) * scale).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    let mut out = vec![0.0; query.len()];
    let mut magnitude = vec![0.0; query.len()];
    for (score, value) in scores.iter().zip(values) {
        let p = (score - max).exp() / total;
        for (i, v) in value.iter().enumerate() {
            out[i] += p * v;
            magnitude[i] += p * v.abs();
        }
    }
    (out, magnitude)
}

/// A batch of sequences `(new tokens, context)` whose pages lie scattered in a pool of the returned size, with pages
/// of nobody between them; the first `shared` tokens of all stand in the same pages. A single new token is a generated one.
pub fn batch(rng: &mut Rng, sequences: &[(usize, usize)], shared: usize) -> (PagedBatch, usize) {
    let stride = sequences.iter().map(|s| s.1.div_ceil(PAGE_SIZE)).max().unwrap_or(0) + rng.below(2);
    let num_pages = sequences.len() * stride + 3;
    let mut free = rng.permutation(num_pages);
    let mut batch = PagedBatch { cu_seqlens_q: vec![0], block_table_stride: stride, ..PagedBatch::default() };
    for (seq, (new, context)) in sequences.iter().enumerate() {
        let mut pages = free.split_off(free.len() - stride);
        if seq > 0 {
            pages[..shared / PAGE_SIZE].copy_from_slice(&batch.block_table[..shared / PAGE_SIZE]);
        }
        for position in context - new..*context {
            batch.positions.push(position as u32);
            batch.slot_mapping.push(pages[position / PAGE_SIZE] * PAGE_SIZE as u32 + (position % PAGE_SIZE) as u32);
        }
        batch.cu_seqlens_q.push(batch.positions.len() as u32);
        batch.seq_lens.push(*context as u32);
        batch.generated.push(*new == 1);
        batch.block_table.extend(pages);
    }
    (batch, num_pages)
}

/// The same sequences with their whole contexts as new tokens; what they share is written by the first alone.
fn whole(batch: &PagedBatch, shared: usize) -> PagedBatch {
    let mut all = PagedBatch { positions: vec![], slot_mapping: vec![], cu_seqlens_q: vec![0], ..batch.clone() };
    for seq in 0..batch.num_seqs() {
        for position in 0..batch.seq_lens[seq] {
            let page = batch.pages(seq)[position as usize / PAGE_SIZE];
            all.positions.push(position);
            let is_written = seq > 0 && (position as usize) < shared;
            let slot = page * PAGE_SIZE as u32 + position % PAGE_SIZE as u32;
            all.slot_mapping.push(if is_written { NO_SLOT } else { slot });
        }
        all.cu_seqlens_q.push(all.positions.len() as u32);
    }
    all.generated.clear();
    all
}

/// Small heads, contexts around the edges of pages and blocks.
pub fn random_shape(rng: &mut Rng) -> Shape {
    let num_kv_heads = 1 + rng.below(3);
    let num_heads = num_kv_heads * rng.pick(&[1, 2, 3, 7]);
    let head_dim = rng.pick(&[16, 64, 80, 96, 128, 256]);
    let sequences = (0..rng.below(5)).map(|_| {
        let long = 1 + rng.below(200);
        let context = rng.pick(&[1, 2, 15, 16, 17, 63, 64, 65, long]);
        let some = 1 + rng.below(context);
        (rng.pick(&[1, context, some]), context)
    });
    let mut sequences: Vec<_> = sequences.collect();
    let shared = rng.pick(&[0, 0, 16, 112]);
    sequences.iter_mut().for_each(|(_, context)| *context += shared);
    Shape::Attention { sequences, heads: Heads { num_heads, num_kv_heads, head_dim }, shared }
}

/// The registry's row.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "attention",
        model_shapes: |w| {
            let shape = |sequences, shared| Shape::Attention { heads: w.model.heads, sequences, shared };
            match w.rows {
                1 => vec![shape(vec![(1, 1200)], 0), shape(vec![(1, 1200); 64], 0), shape(vec![(1, 1200); 64], 1104)],
                rows if rows < 2048 => vec![shape(vec![(rows, rows)], 0), shape(vec![(rows, 2048)], 0)],
                rows => vec![shape(vec![(rows, rows)], 0)],
            }
        },
        random_shape,
        streams: true,
        cost: |shape, dtype, storage| {
            let (heads, sequences, shared) = attention_of(shape);
            let kv_bytes = heads.num_kv_heads * heads.head_dim * if dtype == Dtype::F32 { 8 } else { 4 };
            let (mut bytes, mut flops) = (0.0, 0.0);
            for (new, context) in sequences {
                bytes += (context * kv_bytes + 2 * new * heads.q_cols() * storage.bytes()) as f64;
                // Row i of the new ones sees context - new + i + 1 keys.
                let pairs = new * (context - new) + new * (new + 1) / 2;
                flops += 4.0 * (pairs * heads.q_cols()) as f64;
            }
            bytes -= (sequences.len().saturating_sub(1) * shared * kv_bytes) as f64;
            Cost { bytes, flops, unit: if dtype == Dtype::F32 { Unit::F32 } else { Unit::Bf16 } }
        },
        // In bf16 the probabilities are rounded too: half an ulp, 2^-8 of each.
        tolerance: |_, dtype| if dtype == Dtype::F32 { 3e-6 } else { 4e-3 },
        trial: |backend, shape, seed, copies| {
            let (heads, sequences, shared) = attention_of(shape);
            let Heads { num_kv_heads, head_dim, .. } = heads;
            let mut rng = Rng(seed);
            let (batch, num_pages) = batch(&mut rng, sequences, shared);
            let all = whole(&batch, shared);
            let cols = heads.qkv_cols();
            let mut host = rng.stored(backend, all.num_tokens() * cols, 2.0);
            for first in &all.cu_seqlens_q[..sequences.len()] {
                host.copy_within(..shared * cols, *first as usize * cols);
            }
            // An angle of zero: keys are stored as they are.
            let inv_freq = vec![0.0; head_dim / 2];
            let positions = 0..(num_pages * PAGE_SIZE) as u32;
            let table = backend.rotary_table(&[RotarySegment { inv_freq: &inv_freq, factor: 1.0, positions }])?;
            let kv = (0..copies).map(|_| {
                let mut kv = backend.kv_cache(KvLayout { num_layers: 2, num_kv_heads, head_dim, num_pages })?;
                let everything = poison_batch(num_pages);
                let nan = vec![f32::NAN; everything.num_tokens() * cols];
                let mut nan = backend.upload(&nan, everything.num_tokens(), cols)?;
                let mut qkv = backend.upload(&host, all.num_tokens(), cols)?;
                let poison = backend.batch(&everything, heads, &kv)?;
                let all = backend.batch(&all, heads, &kv)?;
                for layer in 0..2 {
                    backend.rotary_store_kv(&mut nan, &table, &poison, layer, &mut kv)?;
                }
                backend.rotary_store_kv(&mut qkv, &table, &all, LAYER, &mut kv)?;
                Ok(kv)
            });
            let kv = kv.collect::<Result<Vec<_>>>()?;
            let device_batch = backend.batch(&batch, heads, &kv[0])?;
            // The new rows: the last ones of each context.
            let new = (0..sequences.len()).flat_map(|seq| {
                let rows = all.cu_seqlens_q[seq + 1] as usize - sequences[seq].0..all.cu_seqlens_q[seq + 1] as usize;
                host[rows.start * cols..rows.end * cols].iter().copied()
            });
            let qkv = backend.upload(&new.collect::<Vec<_>>(), batch.num_tokens(), cols)?;
            let nan = vec![f32::NAN; batch.num_tokens() * heads.q_cols()];
            let out = backend.upload(&nan, batch.num_tokens(), heads.q_cols())?;
            Ok(Box::new(Attention { backend, heads, batch, device_batch, all, host, qkv, kv, out }))
        },
    }
}

const LAYER: usize = 1;

/// One sequence that fills every slot of the pool.
pub(super) fn poison_batch(num_pages: usize) -> PagedBatch {
    let slots: Vec<u32> = (0..(num_pages * PAGE_SIZE) as u32).collect();
    PagedBatch {
        positions: slots.clone(),
        cu_seqlens_q: vec![0, slots.len() as u32],
        seq_lens: vec![slots.len() as u32],
        slot_mapping: slots,
        block_table: (0..num_pages as u32).collect(),
        block_table_stride: num_pages,
        ..PagedBatch::default()
    }
}

struct Attention<'a, B: Backend> {
    backend: &'a B,
    heads: Heads,
    batch: PagedBatch,
    device_batch: B::Batch,
    /// The whole contexts, of which `host` holds the QKV rows.
    all: PagedBatch,
    host: Vec<f32>,
    qkv: B::Tensor,
    kv: Vec<B::KvCache>,
    out: B::Tensor,
}

impl<B: Backend> Attention<'_, B> {
    fn scale(&self) -> f32 {
        (self.heads.head_dim as f32).sqrt().recip()
    }
}

impl<B: Backend> Trial for Attention<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        let (kv, scale) = (&self.kv[copy], self.scale());
        self.backend.attention(&self.qkv, &self.device_batch, LAYER, kv, scale, &mut self.out)
    }

    fn error(&mut self) -> Result<f64> {
        self.run(0)?;
        let got = self.backend.download(&self.out)?;
        let Heads { num_heads, num_kv_heads, head_dim } = self.heads;
        let dtype = self.backend.info().dtype;
        let mut error = 0.0;
        for seq in 0..self.batch.num_seqs() {
            let (start, end) = (self.batch.cu_seqlens_q[seq] as usize, self.batch.cu_seqlens_q[seq + 1] as usize);
            let first = self.all.cu_seqlens_q[seq] as usize;
            // `head` counts query, key and value heads in the order of a QKV row.
            let head = |token: usize, head: usize| -> Vec<f64> {
                let row = &self.host[(first + token) * self.heads.qkv_cols() + head * head_dim..][..head_dim];
                row.iter().map(|x| rounded(*x, dtype)).collect()
            };
            for pair in subset((end - start) * num_heads, 400) {
                let (row, query_head) = (start + pair / num_heads, pair % num_heads);
                let position = self.batch.positions[row] as usize;
                let kv_head = num_heads + query_head / (num_heads / num_kv_heads);
                let keys: Vec<_> = (0..=position).map(|t| head(t, kv_head)).collect();
                let values: Vec<_> = (0..=position).map(|t| head(t, kv_head + num_kv_heads)).collect();
                let (want, magnitude) = attention(&head(position, query_head), &keys, &values, f64::from(self.scale()));
                let got = &got[row * self.heads.q_cols() + query_head * head_dim..][..head_dim];
                for i in 0..head_dim {
                    error = worse((f64::from(got[i]) - want[i]).abs() / magnitude[i], error);
                }
            }
        }
        Ok(error)
    }
}
