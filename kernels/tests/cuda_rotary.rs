//! Rotary embedding on the CUDA backend under every scaling, against formulas in `f64` that are written here from the
//! published ones (HF transformers' `modeling_rope_utils`, and the papers that it cites); and what it stores.

mod device;

use std::f64::consts::TAU;

use device::backend;
use oc_kernels::{
    Backend, Dtype, Heads, KvLayout, NO_SLOT, PAGE_SIZE, PagedBatch, RotarySegment, Storage, cuda::CudaBackend,
    ops::Rng, reference,
};

const BASE: f64 = 10_000.0;
/// Context of the pre-training; some sequences are longer.
const ORIGINAL: usize = 64;
const LENGTHS: [usize; 7] = [40, 1, 15, 16, 17, 100, 150];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scaling {
    Plain,
    Linear,
    Dynamic,
    Llama3,
}

/// Angle per position of pair `i` of `pairs`, in a sequence of `len` tokens.
fn frequency(scaling: Scaling, i: usize, pairs: usize, len: usize) -> f64 {
    let dim = 2.0 * pairs as f64;
    let with_base = |base: f64| base.powf(-2.0 * i as f64 / dim);
    match scaling {
        Scaling::Plain => with_base(BASE),
        Scaling::Linear => with_base(BASE) / 4.0,
        Scaling::Dynamic => {
            let (factor, stretch) = (2.0, len.max(ORIGINAL) as f64 / ORIGINAL as f64);
            with_base(BASE * (factor * stretch - (factor - 1.0)).powf(dim / (dim - 2.0)))
        }
        Scaling::Llama3 => {
            let (factor, low, high, original) = (8.0, 1.0, 4.0, ORIGINAL as f64);
            let plain = with_base(BASE);
            let turns = original * plain / TAU;
            if turns < low {
                plain / factor
            } else if turns > high {
                plain
            } else {
                let smooth = (turns - low) / (high - low);
                plain * (smooth + (1.0 - smooth) / factor)
            }
        }
    }
}

/// One head, turned.
fn turned(scaling: Scaling, head: &[f32], position: usize, len: usize) -> Vec<f64> {
    let pairs = head.len() / 2;
    let mut out = vec![0.0; head.len()];
    for i in 0..pairs {
        let (sin, cos) = (position as f64 * frequency(scaling, i, pairs, len)).sin_cos();
        let (x, y) = (f64::from(head[i]), f64::from(head[i + pairs]));
        (out[i], out[i + pairs]) = (x * cos - y * sin, x * sin + y * cos);
    }
    out
}

/// All sequences as whole prompts, their pages scattered; and the table with a part for each sequence whose frequencies
/// depend on its length.
fn prompts(
    backend: &CudaBackend,
    scaling: Scaling,
    head_dim: usize,
) -> (PagedBatch, usize, <CudaBackend as Backend>::Tensor) {
    let stride = LENGTHS.iter().max().unwrap().div_ceil(PAGE_SIZE);
    let num_pages = LENGTHS.len() * stride + 2;
    let mut free = Rng(5).permutation(num_pages);
    let mut batch = PagedBatch { cu_seqlens_q: vec![0], block_table_stride: stride, ..PagedBatch::default() };
    let longest = *LENGTHS.iter().max().unwrap();
    let mut parts = vec![(longest, ORIGINAL)];
    let mut next_row = longest;
    for len in LENGTHS {
        let pages = free.split_off(free.len() - stride);
        let first_row = if scaling == Scaling::Dynamic && len > ORIGINAL {
            parts.push((len, len));
            next_row += len;
            next_row - len
        } else {
            0
        };
        for position in 0..len {
            batch.positions.push(position as u32);
            batch.rotary_rows.push((first_row + position) as u32);
            batch.slot_mapping.push(pages[position / PAGE_SIZE] * PAGE_SIZE as u32 + (position % PAGE_SIZE) as u32);
        }
        batch.cu_seqlens_q.push(batch.positions.len() as u32);
        batch.seq_lens.push(len as u32);
        batch.block_table.extend(pages);
    }
    let pairs = head_dim / 2;
    let frequencies: Vec<Vec<f32>> =
        parts.iter().map(|(_, len)| (0..pairs).map(|i| frequency(scaling, i, pairs, *len) as f32).collect()).collect();
    let segments: Vec<RotarySegment<'_>> = parts
        .iter()
        .zip(&frequencies)
        .map(|((rows, _), inv_freq)| RotarySegment { inv_freq, factor: 1.0, positions: 0..*rows as u32 })
        .collect();
    (batch, num_pages, backend.rotary_table(&segments).unwrap())
}

#[test]
fn every_scaling_turns_and_stores_as_published() {
    for (scaling, dtype, head_dim) in [Scaling::Plain, Scaling::Linear, Scaling::Dynamic, Scaling::Llama3]
        .into_iter()
        .flat_map(|scaling| [(scaling, Dtype::Bf16, 64), (scaling, Dtype::F16, 80), (scaling, Dtype::Bf16, 128)])
    {
        let on = format!("{scaling:?} in {}, {head_dim}", dtype.name());
        let backend = backend(dtype);
        let storage = backend.info().storage;
        let heads = Heads { num_heads: 4, num_kv_heads: 2, head_dim };
        let cols = heads.qkv_cols();
        let (batch, num_pages, table) = prompts(&backend, scaling, head_dim);
        let rows = batch.num_tokens();
        let host = Rng(9).stored(&backend, rows * cols, 1.0);
        let mut kv = backend.kv_cache(KvLayout { num_layers: 2, num_kv_heads: 2, head_dim, num_pages }).unwrap();
        let device_batch = backend.batch(&batch, heads, &kv).unwrap();
        let mut qkv = backend.upload(&host, rows, cols).unwrap();
        backend.rotary_store_kv(&mut qkv, &table, &device_batch, 1, &mut kv).unwrap();
        let got = backend.download(&qkv).unwrap();
        // What attention makes of it says what was stored.
        let scale = (head_dim as f32).sqrt().recip();
        let mut out = backend.upload(&vec![f32::NAN; rows * heads.q_cols()], rows, heads.q_cols()).unwrap();
        backend.attention(&qkv, &device_batch, 1, &kv, scale, &mut out).unwrap();
        let attended = backend.download(&out).unwrap();

        for (seq, len) in LENGTHS.into_iter().enumerate() {
            let first = batch.cu_seqlens_q[seq] as usize;
            let before =
                |position: usize, head: usize| &host[(first + position) * cols + head * head_dim..][..head_dim];
            for position in 0..len {
                for head in 0..heads.num_heads + heads.num_kv_heads {
                    let want = turned(scaling, before(position, head), position, len);
                    let got = &got[(first + position) * cols + head * head_dim..][..head_dim];
                    for i in 0..head_dim {
                        let (x, y) = (want[i % (head_dim / 2)], want[i % (head_dim / 2) + head_dim / 2]);
                        let error = (f64::from(got[i]) - want[i]).abs() / x.hypot(y).max(1e-3);
                        let most = 1.02 * storage.half_ulp() + 5e-5;
                        assert!(error <= most, "{on}, {position} of {len}, head {head}, {i}: error {error:e}");
                    }
                }
                for head in 0..heads.num_kv_heads {
                    let value = heads.num_heads + heads.num_kv_heads + head;
                    let at = (first + position) * cols + value * head_dim;
                    assert_eq!(got[at..at + head_dim], host[at..at + head_dim], "{on}: values stay");
                }
            }
            let last = len - 1;
            for head in 0..heads.num_heads {
                let kv_head = head / 2;
                let query = turned(scaling, before(last, head), last, len);
                let key = |position| turned(scaling, before(position, heads.num_heads + kv_head), position, len);
                let value = |position| before(position, heads.num_heads + heads.num_kv_heads + kv_head);
                let keys: Vec<_> = (0..len).map(key).collect();
                let values: Vec<Vec<f64>> =
                    (0..len).map(|position| value(position).iter().map(|v| f64::from(*v)).collect()).collect();
                let (want, magnitude) = reference::attention::attention(&query, &keys, &values, f64::from(scale));
                let got = &attended[(first + last) * heads.q_cols() + head * head_dim..][..head_dim];
                for i in 0..head_dim {
                    let error = (f64::from(got[i]) - want[i]).abs() / magnitude[i];
                    let most = if storage == Storage::Bf16 { 2e-2 } else { 3e-3 };
                    assert!(error <= most, "{on}, attention over {len}, head {head}, {i}: error {error:e}");
                }
            }
        }
    }
}

#[test]
fn a_row_without_a_slot_is_turned_and_not_stored() {
    const LEN: usize = 20;
    let heads = Heads { num_heads: 2, num_kv_heads: 1, head_dim: 64 };
    let cols = heads.qkv_cols();
    let backend = backend(Dtype::Bf16);
    let inv_freq: Vec<f32> = (0..32).map(|i| 0.5_f32.powi(i)).collect();
    let table = [RotarySegment { inv_freq: &inv_freq, factor: 1.0, positions: 0..LEN as u32 }];
    let table = backend.rotary_table(&table).unwrap();
    let mut kv = backend.kv_cache(KvLayout { num_layers: 1, num_kv_heads: 1, head_dim: 64, num_pages: 4 }).unwrap();
    let slots = |position: usize| [3, 1][position / PAGE_SIZE] * PAGE_SIZE as u32 + (position % PAGE_SIZE) as u32;
    let batch = PagedBatch {
        positions: (0..LEN as u32).collect(),
        slot_mapping: (0..LEN).map(slots).collect(),
        cu_seqlens_q: vec![0, LEN as u32],
        seq_lens: vec![LEN as u32],
        block_table: vec![3, 1],
        block_table_stride: 2,
        ..PagedBatch::default()
    };
    let stored = backend.batch(&batch, heads, &kv).unwrap();
    let unstored = PagedBatch { slot_mapping: vec![NO_SLOT; LEN], ..batch };
    let unstored = backend.batch(&unstored, heads, &kv).unwrap();
    let first = Rng(1).stored(&backend, LEN * cols, 1.0);
    let mut queries = backend.upload(&first, LEN, cols).unwrap();
    backend.rotary_store_kv(&mut queries, &table, &stored, 0, &mut kv).unwrap();
    let attended = |kv: &_| {
        let mut out = backend.upload(&vec![f32::NAN; LEN * 128], LEN, 128).unwrap();
        backend.attention(&queries, &stored, 0, kv, 0.125, &mut out).unwrap();
        backend.download(&out).unwrap()
    };
    let before = attended(&kv);
    let second = Rng(2).stored(&backend, LEN * cols, 1.0);
    let mut qkv = backend.upload(&second, LEN, cols).unwrap();
    backend.rotary_store_kv(&mut qkv, &table, &unstored, 0, &mut kv).unwrap();
    assert_eq!(attended(&kv), before, "something was stored");
    let got = backend.download(&qkv).unwrap();
    // Position 0 stays; of position 1 the first pair turns by one radian.
    assert_eq!(got[..cols], second[..cols]);
    let want = second[cols] * 1_f32.cos() - second[cols + 32] * 1_f32.sin();
    assert!((got[cols] - want).abs() < 1e-2, "{} is not turned to {want}", got[cols]);
    // And with slots it is stored.
    let mut qkv = backend.upload(&second, LEN, cols).unwrap();
    backend.rotary_store_kv(&mut qkv, &table, &stored, 0, &mut kv).unwrap();
    assert_ne!(attended(&kv), before);
}
