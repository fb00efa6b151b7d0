//! Steps as an engine runs them: lists that come along with the batch, padding, recorded launches, kept memory.

use std::sync::Arc;

use oc_kernels::{
    Backend, Dtype, Error, Heads, KvLayout, NO_SLOT, PAGE_SIZE, PagedBatch, RotarySegment, Sampling, WeightFormat,
    WeightView,
    cpu::{CpuBackend, CpuOptions},
    cuda::CudaBackend,
    emulator::Emulator,
    ops::Rng,
};

const HEADS: Heads = Heads { num_heads: 2, num_kv_heads: 1, head_dim: 16 };
const LAYOUT: KvLayout = KvLayout { num_layers: 1, num_kv_heads: 1, head_dim: 16, num_pages: 8 };

/// One first token for each of `pages`, and padding up to `rows`.
fn batch(pages: &[u32], rows: usize) -> PagedBatch {
    let mut batch = PagedBatch {
        positions: vec![0; pages.len()],
        slot_mapping: pages.iter().map(|page| page * PAGE_SIZE as u32).collect(),
        cu_seqlens_q: (0..=pages.len() as u32).collect(),
        seq_lens: vec![1; pages.len()],
        block_table: pages.to_vec(),
        block_table_stride: 1,
        generated: vec![true; pages.len()],
        ..PagedBatch::default()
    };
    (pages.len()..rows).for_each(|_| batch.push_padding());
    batch
}

#[test]
fn a_recorded_step_reads_what_the_present_one_brings() {
    let emulator = Emulator::default();
    let backend = CudaBackend::new(Arc::new(emulator.clone()), Dtype::Bf16).unwrap().for_engine(true);
    let mut kv = backend.kv_cache(LAYOUT).unwrap();
    let segment = RotarySegment { inv_freq: &[0.5; 8], factor: 1.0, positions: 0..4 };
    let table = backend.rotary_table(&[segment]).unwrap();
    let rows = 4;
    let data = Rng(1).stored(&backend, rows * HEADS.qkv_cols(), 1.0);
    // At position 0 the rotation changes nothing, and a lone key gives its value.
    let mut qkv = backend.upload(&data, rows, HEADS.qkv_cols()).unwrap();
    let values = |row: usize| &data[row * HEADS.qkv_cols() + 3 * 16..][..16];
    let mut out = backend.tensor(rows, HEADS.q_cols()).unwrap();
    backend.set_rows(&mut out, rows).unwrap();
    let rounds: [&[u32]; 5] = [&[0, 1, 2], &[5, 3, 4], &[1, 2, 7, 0], &[6, 1, 0], &[3, 2, 1, 4]];
    for (round, pages) in rounds.iter().enumerate() {
        assert_eq!(backend.padded_rows(pages.len()), rows);
        let step = backend.step(&batch(pages, rows), &[], HEADS, &kv).unwrap();
        let before = emulator.traffic();
        backend
            .replay::<Error>(&step, &mut || {
                backend.rotary_store_kv(&mut qkv, &table, &step, 0, &mut kv)?;
                backend.attention(&qkv, &step, 0, &kv, 0.25, &mut out)
            })
            .unwrap();
        let now = emulator.traffic();
        assert_eq!((now.graphs - before.graphs, now.launches == before.launches), (u64::from(round > 0), round > 0));
        let found = backend.download(&out).unwrap();
        for row in 0..rows {
            let wanted = if row < pages.len() { values(row).repeat(HEADS.num_heads) } else { vec![0.0; 32] };
            assert_eq!(found[row * 32..][..32], wanted, "round {round}, row {row}");
        }
        drop(step);
        if round == 2 {
            assert_eq!(emulator.traffic().allocations, before.allocations, "{:?}", emulator.traffic());
        }
    }
}

#[test]
fn indices_come_along_as_long_as_their_batch_lives() {
    let emulator = Emulator::default();
    let backend = CudaBackend::new(Arc::new(emulator.clone()), Dtype::F16).unwrap().for_engine(false);
    let kv = backend.kv_cache(LAYOUT).unwrap();
    let x = backend.upload(&Rng(2).stored(&backend, 5 * 24, 1.0), 5, 24).unwrap();
    let host = backend.download(&x).unwrap();
    let mut out = backend.tensor(3, 24).unwrap();
    backend.set_rows(&mut out, 3).unwrap();
    let (wanted, other) = ([4, 0, 2], [1, 1, 3]);
    let uploads = || emulator.traffic().uploads;
    let before = uploads();
    let mut step = Some(backend.step(&batch(&[0], 1), &[&[9], &wanted, &[]], HEADS, &kv).unwrap());
    assert_eq!(uploads(), before + 1);
    for (rows, added) in [(wanted, 1), (other, 2), (wanted, 2)] {
        backend.gather_rows(&x, &rows, &mut out).unwrap();
        assert_eq!(uploads(), before + added);
        let want: Vec<f32> = rows.iter().flat_map(|row| &host[*row as usize * 24..][..24]).copied().collect();
        assert_eq!(backend.download(&out).unwrap(), want);
    }
    step.take();
    backend.gather_rows(&x, &wanted, &mut out).unwrap();
    assert_eq!(uploads(), before + 3);
}

#[test]
fn padding_is_checked_and_is_the_gpus_affair() {
    let mut bad = batch(&[0, 1], 3);
    bad.check(8).unwrap();
    assert_eq!((bad.is_padding(1), bad.is_padding(2), bad.slot_mapping[2]), (false, true, NO_SLOT));
    let cpu = CpuBackend::new(CpuOptions { threads: 1, dtype: Dtype::F32, level: None }).unwrap();
    let kv = cpu.kv_cache(LAYOUT).unwrap();
    assert!(cpu.batch(&batch(&[0, 1], 2), HEADS, &kv).is_ok());
    assert!(matches!(cpu.batch(&bad, HEADS, &kv), Err(Error::Unsupported(_))));
    bad.slot_mapping[2] = 5;
    assert!(matches!(bad.check(8), Err(Error::Shape { what: "batch: slot_mapping", .. })));
}

/// Ids that the device has sampled and the host has not seen, greedily and at random, one of them where nothing is finite.
#[test]
fn tokens_are_looked_up_before_the_host_knows_them() {
    let emulator = Emulator::default();
    let backend = CudaBackend::new(Arc::new(emulator), Dtype::Bf16).unwrap().for_engine(false);
    let (vocab, cols) = (300, 24);
    let values = Rng(3).stored(&backend, vocab * cols, 1.0);
    let table = backend
        .weight(&[WeightView::new(bytemuck::cast_slice(&values), WeightFormat::F32, vocab, cols).unwrap()])
        .unwrap();
    let mut rows = Rng(4).stored(&backend, 5 * cols, 1.0);
    let mut out = backend.tensor(7, cols).unwrap();
    backend.set_rows(&mut out, 7).unwrap();
    let drawn = Sampling { temperature: 1.0, seed: 9, ..Sampling::GREEDY };
    let how = [Sampling::GREEDY, drawn, Sampling::GREEDY, drawn, Sampling::GREEDY];
    for is_finite in [true, false] {
        if !is_finite {
            rows[..2 * cols].fill(f32::NAN);
        }
        let hidden = backend.upload(&rows, 5, cols).unwrap();
        let mut answers = backend.answers(5, 0).unwrap();
        backend.queue_sample(&hidden, &table, &how, &mut answers).unwrap();
        backend.queue_collect(&mut answers).unwrap();
        let stand_ins = backend.sampled_ids(&answers);
        let ids = [&stand_ins[..3], &[17, 0], &stand_ins[3..]].concat();
        backend.embedding_after(&answers, &table, &ids, &mut out).unwrap();
        let found = backend.download(&out).unwrap();
        let beyond = [vocab as u32];
        let refused = backend.embedding_after(&answers, &table, &[&ids[..6], &beyond].concat(), &mut out);
        assert!(matches!(refused, Err(Error::Index { index: 300, len: 300, .. })), "{refused:?}");
        match backend.collect(answers) {
            Ok(answers) => {
                assert!(is_finite);
                let tokens: Vec<u32> = answers.sampled.iter().map(|sampled| sampled.token).collect();
                assert!(tokens.iter().any(|token| *token != tokens[0]), "{tokens:?}");
                let wanted = [&tokens[..3], &[17, 0], &tokens[3..]].concat();
                let wanted: Vec<f32> =
                    wanted.iter().flat_map(|id| &values[*id as usize * cols..][..cols]).copied().collect();
                assert_eq!(found, wanted);
            }
            // What was looked up meanwhile was some row of the table: the emulator finds every read outside.
            Err(error) => assert!(!is_finite && matches!(error, Error::NotFinite { row: 0 | 1, .. }), "{error}"),
        }
    }
}
