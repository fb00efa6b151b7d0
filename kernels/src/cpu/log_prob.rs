//! Log-probabilities of given tokens under the LM head.

use super::{
    SimdLevel,
    linear::PackedWeight,
    threads::Threads,
    vocab::{RowStats, for_logits, update_all},
};
use crate::{Result, TokenLogProb};

/// Log-softmax of `hidden · headᵀ` at `targets`, each below `head.rows()`. `hidden: [targets.len(), head.cols()]`
pub(super) fn log_prob(
    level: SimdLevel,
    threads: &Threads,
    hidden: &[f32],
    head: &PackedWeight,
    targets: &[u32],
) -> Result<Vec<TokenLogProb>> {
    let mut stats = vec![RowStats::EMPTY; targets.len()];
    let mut target_logits = vec![f32::NAN; targets.len()];
    for_logits(threads, hidden, head, |rows, ids, logits| {
        update_all(level, threads, &mut stats[rows.clone()], &ids, logits);
        for (row, logits) in rows.zip(logits.chunks_exact(ids.len())) {
            if ids.contains(&(targets[row] as usize)) {
                target_logits[row] = logits[targets[row] as usize - ids.start];
            }
        }
        Ok(())
    })?;
    let rows = stats.iter().zip(&target_logits).enumerate();
    rows.map(|(row, (stats, target))| {
        stats.check("log_prob", row)?;
        Ok(TokenLogProb {
            logprob: stats.log_prob(*target),
            argmax: stats.argmax,
            argmax_logprob: stats.log_prob(stats.max),
        })
    })
    .collect()
}
