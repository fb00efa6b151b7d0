//! Rotary position embedding, half-split pairs.

use crate::{
    Backend, Dtype, Heads, KvLayout, NO_SLOT, PagedBatch, Result, RotarySegment,
    ops::{Cost, Op, Rng, Shape, Trial, Unit, attention_of, subset, worse},
};

/// One head at `position`: pair `(i, i + half)` turns by `position * inv_freq[i]`, then is scaled by `factor`.
///
/// The angle is rounded to `f32` first: that is what the models were trained with (HF transformers computes it so).
pub fn rotate(head: &[f32], inv_freq: &[f32], factor: f32, position: u32) -> Vec<f64> {
    let half = head.len() / 2;
    let mut out = vec![0.0; head.len()];
    for i in 0..half {
        let angle = f64::from(position as f32 * inv_freq[i]);
        let (sin, cos) = angle.sin_cos();
        let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
        out[i] = (a * cos - b * sin) * f64::from(factor);
        out[i + half] = (b * cos + a * sin) * f64::from(factor);
    }
    out
}

const FACTOR: f32 = 1.25;

/// The registry's row: `rotary_store_kv`. What it stores is checked by attention.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "rotary_store_kv",
        model_shapes: |w| {
            let sequences = vec![(w.rows, w.rows.max(1024))];
            vec![Shape::Attention { heads: w.model.heads, sequences, shared: 0 }]
        },
        random_shape: super::attention::random_shape,
        streams: false,
        cost: |shape, dtype, storage| {
            let (heads, sequences, _) = attention_of(shape);
            let rows: usize = sequences.iter().map(|s| s.0).sum();
            let (rotated, kv) =
                ((heads.num_heads + heads.num_kv_heads) * heads.head_dim, heads.num_kv_heads * heads.head_dim);
            let stored = if dtype == Dtype::F32 { 8 } else { 4 };
            let element = storage.bytes();
            let bytes = (rows * (2 * element * rotated + (element + stored) * kv)) as f64;
            Cost { bytes, flops: (rows * rotated * 3) as f64, unit: Unit::F32 }
        },
        tolerance: |_, _| 1e-6,
        trial: |backend, shape, seed, copies| {
            let (heads, sequences, shared) = attention_of(shape);
            let mut rng = Rng(seed);
            let (batch, num_pages) = super::attention::batch(&mut rng, sequences, shared);
            let host = rng.stored(backend, batch.num_tokens() * heads.qkv_cols(), 2.0);
            let upload = || backend.upload(&host, batch.num_tokens(), heads.qkv_cols());
            let qkv = (0..copies).map(|_| upload()).collect::<Result<_>>()?;
            let Heads { num_kv_heads, head_dim, .. } = heads;
            let kv = backend.kv_cache(KvLayout { num_layers: 1, num_kv_heads, head_dim, num_pages })?;
            let inv_freq: Vec<f32> =
                (0..head_dim / 2).map(|i| 1e4_f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
            let context = sequences.iter().map(|s| s.1).max().unwrap_or(0);
            let positions = 0..context as u32;
            let table = backend.rotary_table(&[RotarySegment { inv_freq: &inv_freq, factor: FACTOR, positions }])?;
            let device_batch = backend.batch(&batch, heads, &kv)?;
            Ok(Box::new(Rotary { backend, heads, batch, device_batch, host, inv_freq, qkv, table, kv }))
        },
    }
}

struct Rotary<'a, B: Backend> {
    backend: &'a B,
    heads: Heads,
    batch: PagedBatch,
    device_batch: B::Batch,
    host: Vec<f32>,
    inv_freq: Vec<f32>,
    qkv: Vec<B::Tensor>,
    table: B::Tensor,
    kv: B::KvCache,
}

impl<B: Backend> Trial for Rotary<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.rotary_store_kv(&mut self.qkv[copy], &self.table, &self.device_batch, 0, &mut self.kv)
    }

    fn error(&mut self) -> Result<f64> {
        let (rows, cols) = (self.batch.num_tokens(), self.heads.qkv_cols());
        self.qkv[0] = self.backend.upload(&self.host, rows, cols)?;
        // A row without a slot is rotated all the same.
        if let Some(slot) = self.batch.slot_mapping.first_mut() {
            *slot = NO_SLOT;
        }
        self.device_batch = self.backend.batch(&self.batch, self.heads, &self.kv)?;
        self.run(0)?;
        let got = self.backend.download(&self.qkv[0])?;
        let (head_dim, half) = (self.heads.head_dim, self.heads.head_dim / 2);
        let mut error = 0.0;
        for row in subset(rows, 32) {
            let heads = self.host[row * cols..][..cols].chunks_exact(head_dim);
            for (head, (before, got)) in heads.zip(got[row * cols..][..cols].chunks_exact(head_dim)).enumerate() {
                let want = if head < self.heads.num_heads + self.heads.num_kv_heads {
                    rotate(before, &self.inv_freq, FACTOR, self.batch.positions[row])
                } else {
                    before.iter().map(|v| f64::from(*v)).collect()
                };
                for i in 0..head_dim {
                    let radius = want[i % half].hypot(want[i % half + half]).max(1e-30);
                    error = worse((f64::from(got[i]) - want[i]).abs() / radius, error);
                }
            }
        }
        Ok(error)
    }
}
