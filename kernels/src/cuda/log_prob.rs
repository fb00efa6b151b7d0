//! Log-probabilities and greedy tokens from hidden states, without logits in memory. Floor and tiles:
//! `src/compute_80/log_prob.cu`.

use super::{
    CudaBackend, CudaTensor, CudaWeight,
    answers::{CudaAnswers, Kind, RowStats},
    arch,
    device::{Arg, DevicePtr, Launch},
    modules,
};
use crate::{Error, Result, Sampling, Storage};

/// Columns of one record; `GROUP` of `log_prob.cu`.
const GROUP: usize = 128;
/// Rows whose records are held at once.
pub(super) const MAX_ROWS: usize = 1024;
/// Rows whose logits are held at once, to draw from.
const MAX_SAMPLED_ROWS: usize = 64;

impl CudaBackend {
    /// As [`crate::Backend::queue_log_prob`].
    pub(super) fn queue_log_probs(
        &self,
        hidden: &CudaTensor,
        head: &CudaWeight,
        targets: &[u32],
        answers: &mut CudaAnswers,
    ) -> Result<()> {
        super::expect("log_prob: hidden", hidden.shape(), (targets.len(), head.cols()))?;
        if let Some(target) = targets.iter().find(|t| **t as usize >= head.rows()) {
            return Err(Error::Index { what: "log_prob: target", index: *target as usize, len: head.rows() });
        }
        for (i, part) in targets.chunks(MAX_ROWS).enumerate() {
            let rows: Vec<u32> = (0..part.len()).map(|row| (i * MAX_ROWS + row) as u32).collect();
            let [stats, logits] = answers.push(Kind::Scored, &rows)?;
            self.row_stats(hidden, i * MAX_ROWS, part.len(), head, Some((part, logits)), stats)?;
        }
        answers.end(targets.len(), Kind::Scored);
        Ok(())
    }

    /// As [`crate::Backend::queue_sample`].
    pub(super) fn queue_samples(
        &self,
        hidden: &CudaTensor,
        head: &CudaWeight,
        how: &[Sampling],
        answers: &mut CudaAnswers,
    ) -> Result<()> {
        super::expect("sample: hidden", hidden.shape(), (how.len(), head.cols()))?;
        if head.rows() == 0 {
            return Err(Error::Shape { what: "sample: head", found: "0 tokens".into(), wanted: "a vocabulary".into() });
        }
        for (row, how) in how.iter().enumerate() {
            how.check(row)?;
        }
        let rows = 0..how.len() as u32;
        let (greedy, random): (Vec<u32>, Vec<u32>) = rows.partition(|row| how[*row as usize].temperature == 0.0);
        for rows in random.chunks(MAX_SAMPLED_ROWS) {
            let mut logits = self.logits(rows.len(), head.rows())?;
            match self.some_rows(hidden, rows)? {
                Some(gathered) => self.launch_logits(&gathered, 0, rows.len(), head, &mut logits)?,
                None => self.launch_logits(hidden, rows[0] as usize, rows.len(), head, &mut logits)?,
            }
            let how: Vec<Sampling> = rows.iter().map(|row| how[*row as usize]).collect();
            let [chosen, _] = answers.push(Kind::Random, rows)?;
            self.choose(&logits, 0, &how, chosen)?;
        }
        for rows in greedy.chunks(MAX_ROWS) {
            let [stats, _] = answers.push(Kind::Greedy, rows)?;
            match self.some_rows(hidden, rows)? {
                Some(gathered) => self.row_stats(&gathered, 0, rows.len(), head, None, stats)?,
                None => self.row_stats(hidden, rows[0] as usize, rows.len(), head, None, stats)?,
            }
        }
        answers.end(how.len(), Kind::Greedy);
        Ok(())
    }

    /// The `rows` (ascending) of `hidden` one behind the other, or `None` where they already are.
    fn some_rows(&self, hidden: &CudaTensor, rows: &[u32]) -> Result<Option<CudaTensor>> {
        if rows.last().map_or(0, |last| last - rows[0]) as usize + 1 == rows.len() {
            return Ok(None);
        }
        let storage: Storage = hidden.storage();
        let mut gathered = CudaTensor::scratch(&self.scratch, "some hidden rows", storage, rows.len(), hidden.cols)?;
        self.launch_gather_rows(hidden, rows, &mut gathered)?;
        Ok(Some(gathered))
    }

    /// Queues the statistics of `rows` (at least one) rows of `hidden` from `first` on, written to `stats`, and the logits of
    /// targets, written to where those say.
    fn row_stats(
        &self,
        hidden: &CudaTensor,
        first: usize,
        rows: usize,
        head: &CudaWeight,
        targets: Option<(&[u32], DevicePtr)>,
        stats: DevicePtr,
    ) -> Result<()> {
        self.check_input("log_prob: hidden", hidden, head)?;
        let groups = head.rows().div_ceil(GROUP);
        let records = self.scratch.take("statistics of logits", rows * groups * RowStats::BYTES)?;
        let x = hidden.ptr() + (first * hidden.stride() * hidden.storage().bytes()) as u64;
        let on_device = targets.map(|(targets, _)| self.indices(targets)).transpose()?;
        let target_ptr = on_device.as_ref().map_or(0, |targets| targets.ptr());
        let logits = targets.map_or(0, |(_, logits)| logits);
        let pointers = [x, head.ptr(), target_ptr, logits, records.ptr()].map(Arg::Ptr);
        let sizes = [rows, head.rows(), head.cols(), hidden.stride(), head.stride(), groups];
        let tile = arch::compute_80::log_prob(rows);
        self.device().launch(&Launch {
            module: &modules::LOG_PROB,
            kernel: &self.kernel_name(&format!("log_prob_{}", tile.name)),
            grid: [tile.blocks(rows, head.rows()) as u32, 1, 1],
            block: [tile.threads, 1, 1],
            shared_bytes: tile.shared_bytes,
            args: &[&pointers[..], &sizes.map(|n| Arg::U32(n as u32))].concat(),
        })?;
        self.device().launch(&Launch {
            module: &modules::LOG_PROB,
            kernel: "log_prob_merge",
            grid: [rows as u32, 1, 1],
            block: [32, 1, 1],
            shared_bytes: 0,
            args: &[Arg::Ptr(records.ptr()), Arg::Ptr(stats), Arg::U32(groups as u32)],
        })
    }
}
