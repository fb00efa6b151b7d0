//! Pages by index: nothing is computed, so the reference is the page that was copied, read by attention.

use super::attention::poison_batch;
use crate::{
    Backend, Dtype, Heads, KvLayout, NO_SLOT, PAGE_SIZE, PagedBatch, Result, RotarySegment,
    ops::{Cost, Op, Rng, Shape, Trial, Unit, attention_of, worse},
};

const LAYERS: usize = 2;

/// The registry's row; each sequence of the shape is one page that is copied, over two layers.
pub fn op<B: Backend>() -> Op<B> {
    Op {
        name: "copy_pages",
        model_shapes: |w| {
            let sequences = vec![(PAGE_SIZE, PAGE_SIZE); w.rows.min(64)];
            vec![Shape::Attention { heads: w.model.heads, sequences, shared: 0 }]
        },
        random_shape: |rng| {
            let num_kv_heads = 1 + rng.below(3);
            let heads = Heads { num_heads: 2 * num_kv_heads, num_kv_heads, head_dim: rng.pick(&[16, 64, 80, 128]) };
            Shape::Attention { heads, sequences: vec![(PAGE_SIZE, PAGE_SIZE); rng.below(5)], shared: 0 }
        },
        streams: true,
        cost: |shape, dtype, _| {
            let (heads, sequences, _) = attention_of(shape);
            let element = if dtype == Dtype::F32 { 4 } else { 2 };
            let page = 2 * LAYERS * heads.num_kv_heads * heads.head_dim * PAGE_SIZE * element;
            Cost { bytes: (2 * sequences.len() * page) as f64, flops: 0.0, unit: Unit::F32 }
        },
        tolerance: |_, _| 0.0,
        trial: |backend, shape, seed, copies| {
            let (heads, sequences, _) = attention_of(shape);
            let Heads { num_kv_heads, head_dim, .. } = heads;
            let mut rng = Rng(seed);
            // And one page that nobody names.
            let num_pages = 2 * sequences.len() + 1;
            let mut pages = rng.permutation(num_pages);
            let to = pages.split_off(sequences.len() + 1);
            let pairs = pages.iter().copied().zip(to).collect();
            let everything = poison_batch(num_pages);
            let inv_freq = vec![0.0; head_dim / 2];
            let positions = 0..(num_pages * PAGE_SIZE) as u32;
            let table = backend.rotary_table(&[RotarySegment { inv_freq: &inv_freq, factor: 1.0, positions }])?;
            let layout = KvLayout { num_layers: LAYERS, num_kv_heads, head_dim, num_pages };
            let host = rng.stored(backend, LAYERS * everything.num_tokens() * heads.qkv_cols(), 2.0);
            let kv = (0..copies).map(|_| {
                let mut kv = backend.kv_cache(layout)?;
                let batch = backend.batch(&everything, heads, &kv)?;
                for (layer, host) in host.chunks_exact(host.len() / LAYERS).enumerate() {
                    let mut qkv = backend.upload(host, everything.num_tokens(), heads.qkv_cols())?;
                    backend.rotary_store_kv(&mut qkv, &table, &batch, layer, &mut kv)?;
                }
                Ok(kv)
            });
            let kv = kv.collect::<Result<_>>()?;
            Ok(Box::new(CopyPages { backend, heads, pages, pairs, kv }))
        },
    }
}

struct CopyPages<'a, B: Backend> {
    backend: &'a B,
    heads: Heads,
    /// Pages that are not written.
    pages: Vec<u32>,
    pairs: Vec<(u32, u32)>,
    kv: Vec<B::KvCache>,
}

impl<B: Backend> CopyPages<'_, B> {
    /// What attention makes of each of `pages`, in all layers, with the same queries for every page.
    fn read(&self, pages: impl Iterator<Item = u32>) -> Result<Vec<f32>> {
        let block_table: Vec<u32> = pages.collect();
        let seqs = block_table.len();
        let batch = PagedBatch {
            positions: vec![PAGE_SIZE as u32 - 1; seqs],
            slot_mapping: vec![NO_SLOT; seqs],
            cu_seqlens_q: (0..=seqs as u32).collect(),
            seq_lens: vec![PAGE_SIZE as u32; seqs],
            block_table,
            block_table_stride: 1,
            ..PagedBatch::default()
        };
        let batch = self.backend.batch(&batch, self.heads, &self.kv[0])?;
        let row = Rng(1).vec(self.heads.qkv_cols(), 1.0);
        let qkv = self.backend.upload(&row.repeat(seqs), seqs, row.len())?;
        let mut out = self.backend.tensor(seqs, self.heads.q_cols())?;
        self.backend.set_rows(&mut out, seqs)?;
        let mut all = Vec::new();
        for layer in 0..LAYERS {
            self.backend.attention(&qkv, &batch, layer, &self.kv[0], 0.2, &mut out)?;
            all.extend(self.backend.download(&out)?);
        }
        Ok(all)
    }
}

impl<B: Backend> Trial for CopyPages<'_, B> {
    fn run(&mut self, copy: usize) -> Result<()> {
        self.backend.copy_pages(&self.pairs, &mut self.kv[copy])
    }

    fn error(&mut self) -> Result<f64> {
        let all = || self.pages.iter().chain(self.pairs.iter().map(|(from, _)| from)).copied();
        let want = self.read(all())?;
        self.run(0)?;
        let all = self.pages.iter().chain(self.pairs.iter().map(|(_, to)| to)).copied();
        let got = self.read(all)?;
        Ok(got.iter().zip(&want).fold(0.0, |error, (got, want)| worse(f64::from((got - want).abs()), error)))
    }
}
