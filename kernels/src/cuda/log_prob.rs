//! Log-probabilities and greedy tokens from hidden states, without logits in memory. Floor and tiles:
//! `src/compute_80/log_prob.cu`.

use super::{
    CudaBackend, CudaTensor, CudaWeight, arch,
    device::{Arg, DeviceBuffer, Launch},
    modules,
};
use crate::{Error, Result, Sampled, Sampling, TokenLogProb};

/// Columns of one record; `GROUP` of `log_prob.cu`.
const GROUP: usize = 128;
/// Rows whose records are held at once.
const MAX_ROWS: usize = 1024;
/// Rows whose logits are held at once, to draw from.
const MAX_SAMPLED_ROWS: usize = 64;

/// What is known of a row's logits.
struct RowStats {
    max: f32,
    sum: f32,
    argmax: u32,
}

impl RowStats {
    /// `log_softmax` of a logit of this row.
    fn log_prob(&self, logit: f32) -> f32 {
        (f64::from(logit) - f64::from(self.max) - f64::from(self.sum).ln()) as f32
    }

    /// Refuses a row with NaN or infinite logits.
    fn check(&self, what: &'static str, row: usize) -> Result<()> {
        // A NaN anywhere makes the sum NaN, and so does infinity minus infinity.
        if self.max.is_finite() && self.sum.is_finite() { Ok(()) } else { Err(Error::NotFinite { what, row }) }
    }
}

impl CudaBackend {
    /// As [`crate::Backend::log_prob`].
    pub(super) fn run_log_prob(
        &self,
        hidden: &CudaTensor,
        head: &CudaWeight,
        targets: &[u32],
    ) -> Result<Vec<TokenLogProb>> {
        super::expect("log_prob: hidden", hidden.shape(), (targets.len(), head.cols()))?;
        if let Some(target) = targets.iter().find(|t| **t as usize >= head.rows()) {
            return Err(Error::Index { what: "log_prob: target", index: *target as usize, len: head.rows() });
        }
        let mut out = Vec::with_capacity(targets.len());
        for (i, targets) in targets.chunks(MAX_ROWS).enumerate() {
            let first = i * MAX_ROWS;
            let (stats, logits) = self.row_stats(hidden, first, targets.len(), head, Some(targets))?;
            for (row, (stats, logit)) in stats.iter().zip(logits).enumerate() {
                stats.check("log_prob", first + row)?;
                out.push(TokenLogProb {
                    logprob: stats.log_prob(logit),
                    argmax: stats.argmax,
                    argmax_logprob: stats.log_prob(stats.max),
                });
            }
        }
        Ok(out)
    }

    /// As [`crate::Backend::sample`].
    pub(super) fn run_sample(&self, hidden: &CudaTensor, head: &CudaWeight, how: &[Sampling]) -> Result<Vec<Sampled>> {
        super::expect("sample: hidden", hidden.shape(), (how.len(), head.cols()))?;
        if head.rows() == 0 {
            return Err(Error::Shape { what: "sample: head", found: "0 tokens".into(), wanted: "a vocabulary".into() });
        }
        for (row, how) in how.iter().enumerate() {
            how.check(row)?;
        }
        let mut out = vec![Sampled { token: 0, logprob: 0.0 }; how.len()];
        let rows = 0..how.len() as u32;
        let (greedy, random): (Vec<u32>, Vec<u32>) = rows.partition(|row| how[*row as usize].temperature == 0.0);
        for rows in greedy.chunks(MAX_ROWS) {
            let (stats, _) = match self.some_rows(hidden, rows)? {
                Some(gathered) => self.row_stats(&gathered, 0, rows.len(), head, None)?,
                None => self.row_stats(hidden, rows[0] as usize, rows.len(), head, None)?,
            };
            for (row, stats) in rows.iter().zip(stats) {
                stats.check("sample", *row as usize)?;
                out[*row as usize] = Sampled { token: stats.argmax, logprob: stats.log_prob(stats.max) };
            }
        }
        for rows in random.chunks(MAX_SAMPLED_ROWS) {
            let mut logits = self.logits(rows.len(), head.rows())?;
            match self.some_rows(hidden, rows)? {
                Some(gathered) => self.launch_logits(&gathered, 0, rows.len(), head, &mut logits)?,
                None => self.launch_logits(hidden, rows[0] as usize, rows.len(), head, &mut logits)?,
            }
            let how: Vec<Sampling> = rows.iter().map(|row| how[*row as usize]).collect();
            let chosen = self.sample_logits(&logits, &how).map_err(|e| match e {
                Error::NotFinite { what, row } => Error::NotFinite { what, row: rows[row] as usize },
                other => other,
            })?;
            rows.iter().zip(chosen).for_each(|(row, chosen)| out[*row as usize] = chosen);
        }
        Ok(out)
    }

    /// The `rows` (ascending) of `hidden` one behind the other, or `None` where they already are.
    fn some_rows(&self, hidden: &CudaTensor, rows: &[u32]) -> Result<Option<CudaTensor>> {
        if rows.last().map_or(0, |last| last - rows[0]) as usize + 1 == rows.len() {
            return Ok(None);
        }
        let mut gathered = CudaTensor::new(self.device(), hidden.storage(), rows.len(), hidden.cols)?;
        gathered.set_rows(rows.len())?;
        self.launch_gather_rows(hidden, rows, &mut gathered)?;
        Ok(Some(gathered))
    }

    /// Statistics of `rows` rows of `hidden` from `first` on, and the logits of `targets`.
    fn row_stats(
        &self,
        hidden: &CudaTensor,
        first: usize,
        rows: usize,
        head: &CudaWeight,
        targets: Option<&[u32]>,
    ) -> Result<(Vec<RowStats>, Vec<f32>)> {
        if rows == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        self.check_input("log_prob: hidden", hidden, head)?;
        let device = self.device();
        let groups = head.rows().div_ceil(GROUP);
        let records = DeviceBuffer::new(device, "statistics of logits", rows * groups * 12)?;
        let merged = DeviceBuffer::new(device, "statistics of logits", rows * 12)?;
        let targets = targets.map(|targets| DeviceBuffer::from_slice(device, "targets", targets)).transpose()?;
        let logits = DeviceBuffer::new(device, "target logits", rows * 4)?;
        let x = hidden.ptr() + (first * hidden.stride() * hidden.storage().bytes()) as u64;
        let target_ptr = targets.as_ref().map_or(0, DeviceBuffer::ptr);
        let pointers = [x, head.ptr(), target_ptr, logits.ptr(), records.ptr()].map(Arg::Ptr);
        let sizes = [rows, head.rows(), head.cols(), hidden.stride(), head.stride(), groups];
        let tile = arch::compute_80::log_prob(rows);
        device.launch(&Launch {
            module: &modules::LOG_PROB,
            kernel: &self.kernel_name(&format!("log_prob_{}", tile.name)),
            grid: [tile.blocks(rows, head.rows()) as u32, 1, 1],
            block: [tile.threads, 1, 1],
            shared_bytes: tile.shared_bytes,
            args: &[&pointers[..], &sizes.map(|n| Arg::U32(n as u32))].concat(),
        })?;
        device.launch(&Launch {
            module: &modules::LOG_PROB,
            kernel: "log_prob_merge",
            grid: [rows as u32, 1, 1],
            block: [32, 1, 1],
            shared_bytes: 0,
            args: &[Arg::Ptr(records.ptr()), Arg::Ptr(merged.ptr()), Arg::U32(groups as u32)],
        })?;
        let stats: Vec<[u32; 3]> = merged.to_vec(rows)?;
        let stats = stats.into_iter().map(|[max, sum, argmax]| RowStats {
            max: f32::from_bits(max),
            sum: f32::from_bits(sum),
            argmax,
        });
        Ok((stats.collect(), if targets.is_some() { logits.to_vec(rows)? } else { Vec::new() }))
    }
}
