//! Choosing the next token: greedy, or temperature, top-k and top-p in that order (as in HF transformers).

use super::{
    SimdLevel,
    linear::PackedWeight,
    threads::Threads,
    vocab::{RowStats, for_logits, update_all},
};
use crate::{Result, Sampled, Sampling};

/// Rows whose logits are kept whole at once while sampling with a temperature.
const MAX_SAMPLED_ROWS: usize = 16;

/// One token per row. `hidden: [how.len(), head.cols()]`
pub(super) fn sample(
    level: SimdLevel,
    threads: &Threads,
    hidden: &[f32],
    head: &PackedWeight,
    how: &[Sampling],
) -> Result<Vec<Sampled>> {
    let mut out = vec![Sampled { token: 0, logprob: 0.0 }; how.len()];
    let (greedy, random): (Vec<usize>, Vec<usize>) = (0..how.len()).partition(|row| how[*row].temperature == 0.0);
    for (row, how) in how.iter().enumerate() {
        how.check(row)?;
    }
    let gather = |rows: &[usize]| -> Vec<f32> {
        rows.iter().flat_map(|row| &hidden[row * head.cols()..][..head.cols()]).copied().collect()
    };

    let mut stats = vec![RowStats::EMPTY; greedy.len()];
    for_logits(threads, &gather(&greedy), head, |rows, ids, logits| {
        update_all(level, threads, &mut stats[rows], &ids, logits);
        Ok(())
    })?;
    for (row, stats) in greedy.into_iter().zip(stats) {
        stats.check("sample", row)?;
        out[row] = Sampled { token: stats.argmax, logprob: stats.log_prob(stats.max) };
    }

    let vocab = head.rows();
    for rows in random.chunks(MAX_SAMPLED_ROWS) {
        let mut whole = vec![0.0; rows.len() * vocab];
        let mut stats = vec![RowStats::EMPTY; rows.len()];
        for_logits(threads, &gather(rows), head, |block, ids, logits| {
            update_all(level, threads, &mut stats[block.clone()], &ids, logits);
            for (row, logits) in block.zip(logits.chunks_exact(ids.len())) {
                whole[row * vocab..][ids.clone()].copy_from_slice(logits);
            }
            Ok(())
        })?;
        for ((row, stats), logits) in rows.iter().zip(stats).zip(whole.chunks_exact(vocab)) {
            stats.check("sample", *row)?;
            let token = choose(logits, &how[*row]);
            out[*row] = Sampled { token, logprob: stats.log_prob(logits[token as usize]) };
        }
    }
    Ok(out)
}

/// Draws a token from `logits`, of which some may be negative infinity, with a positive temperature.
pub(crate) fn choose(logits: &[f32], how: &Sampling) -> u32 {
    let more_likely = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| ((f64::from(logit) - f64::from(max)) / f64::from(how.temperature)).exp();
    let mut kept: Vec<(u32, f64)> = logits.iter().enumerate().map(|(id, logit)| (id as u32, weight(*logit))).collect();
    if how.top_k > 0 && how.top_k < kept.len() {
        kept.select_nth_unstable_by(how.top_k - 1, more_likely);
        kept.truncate(how.top_k);
    }
    if how.top_p < 1.0 {
        kept.sort_unstable_by(more_likely);
        let enough = f64::from(how.top_p) * kept.iter().map(|k| k.1).sum::<f64>();
        let mut sum = 0.0;
        // A token stays while those before it do not suffice: the first always does.
        let reached = |k: &(u32, f64)| {
            let before = sum;
            sum += k.1;
            before >= enough
        };
        let len = kept.iter().position(reached).unwrap_or(kept.len());
        kept.truncate(len.max(1));
    }
    kept.sort_unstable_by_key(|k| k.0);
    let mut rest = uniform(how) * kept.iter().map(|k| k.1).sum::<f64>();
    for (id, weight) in &kept {
        rest -= weight;
        if rest < 0.0 {
            return *id;
        }
    }
    // Rounding left something over: it belongs to the last token that can be drawn.
    kept.iter().rfind(|k| k.1 > 0.0).map_or(0, |k| k.0)
}

/// The random number of a row, in `[0, 1)`.
fn uniform(how: &Sampling) -> f64 {
    how.random_bits() as f64 / (1_u64 << 53) as f64
}
