//! Which tokens are computed in the next step: admission, chunked prompts, continuous batching. Pure, no device.
//!
//! Sequences are admitted in order, as long as there are pages for their longest possible outcome, so nothing is ever
//! taken back. A step holds one row of every sequence that is generating and fills the rest of the token budget with
//! prompt chunks that end on page boundaries. Keys and values are written before attention reads them, so a sequence
//! may rely on pages that another one fills in the same step.

use crate::{
    Stats,
    batch::{ForwardBatch, ForwardOutput},
    kv_cache::{KvPool, Prompt, TokenLoss},
    sequence::{Job, Progress, Question, Sequence},
};
use oc_kernels::{NO_SLOT, PAGE_SIZE};
use std::collections::{BTreeMap, VecDeque};

/// Bounds on a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sequences in flight.
    pub max_seqs: usize,
    /// Rows of a step; at least a page.
    pub token_budget: usize,
    /// The longest text whose rotary frequencies do not depend on its length.
    pub unscaled_context: usize,
}

/// A step that has been put together: the batch, and whose its questions are.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub batch: ForwardBatch,
    /// Job of each of `batch.sample_rows`.
    sampled: Vec<usize>,
    /// Job of each of `batch.score_rows`, and what was asked.
    scored: Vec<(usize, Question)>,
    /// Pages of each sequence in the batch, to be laid out as one table.
    tables: Vec<Vec<u32>>,
}

/// The queue, the sequences in flight and their pages.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pool: KvPool,
    limits: Limits,
    waiting: VecDeque<(usize, Job)>,
    /// By number, which is the order of admission.
    running: BTreeMap<usize, Sequence>,
    next: usize,
    stats: Stats,
}

impl Scheduler {
    pub fn new(pool: KvPool, limits: Limits) -> Self {
        Self { pool, limits, waiting: VecDeque::new(), running: BTreeMap::new(), next: 0, stats: Stats::default() }
    }

    /// What was computed so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Pages of the pool.
    pub fn num_pages(&self) -> usize {
        self.pool.num_pages()
    }

    /// Queues a job, which must fit into the pool; returns its number.
    pub fn add(&mut self, job: Job) -> usize {
        self.next += 1;
        self.waiting.push_back((self.next, job));
        self.next
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Forgets all work. Between steps the pool's contents stay valid; after a step that failed (`is_intact` false)
    /// nothing in it is believed.
    pub fn abort(&mut self, is_intact: bool) {
        self.waiting.clear();
        for (_, sequence) in std::mem::take(&mut self.running).into_iter().rev() {
            self.pool.release(sequence.into_table());
        }
        if !is_intact {
            self.pool.clear();
        }
    }

    /// Puts the next step together, also before the results of the last one are known: then its rows may belong to sequences
    /// that turn out to have ended, whose results nobody takes. Its batch may be empty; [`advance`](Self::advance) has to be
    /// called all the same, unless that of a step before is to come.
    pub fn schedule(&mut self) -> Step {
        self.admit();
        let mut step = Step::default();
        step.batch.paged.cu_seqlens_q.push(0);
        let budget = self.limits.token_budget;
        for (id, sequence) in self.running.iter_mut().filter(|(_, s)| s.is_generating() && !s.is_full()) {
            if step.rows() < budget {
                step.push(*id, sequence, sequence.tokens().len(), &mut self.pool);
                step.batch.paged.generated.push(true);
            }
        }
        for (id, sequence) in self.running.iter_mut().filter(|(_, s)| !s.is_generating()) {
            sequence.next_fork();
            let is_new = sequence.computed() == 0;
            if step.rows() >= budget || !sequence.start(&self.pool) {
                continue;
            }
            if is_new {
                self.stats.cached_tokens += sequence.cached() as u64;
            }
            let (computed, len) = (sequence.computed(), sequence.tokens().len());
            let room = computed + budget - step.rows();
            // A chunk that is not the last one ends on a page boundary.
            let end = if room >= len { len } else { room / PAGE_SIZE * PAGE_SIZE };
            if end > computed {
                step.push(*id, sequence, end, &mut self.pool);
                step.batch.paged.generated.push(false);
                self.stats.computed_prompt_tokens += (end - computed) as u64;
            }
        }
        step.lay_out_tables();
        step
    }

    fn admit(&mut self) {
        while self.running.len() < self.limits.max_seqs
            && let Some((id, job)) = self.waiting.pop_front()
        {
            let text = job.text_len();
            let scaled_len = if text > self.limits.unscaled_context { text as u32 } else { 0 };
            let prompt = Prompt { tokens: &job.tokens, scaled_len, losses: job.wants_prompt_losses() };
            let Some(table) = self.pool.admit(prompt, job.max_len()) else {
                return self.waiting.push_front((id, job));
            };
            self.stats.prompt_tokens += job.prompt_tokens() as u64;
            self.running.insert(id, Sequence::new(job, table, scaled_len));
        }
    }

    /// Takes the results of a step. Calls `on_progress(number, progress, cached_tokens)` for every job that has some;
    /// for a token it returns whether the sequence goes on.
    ///
    /// # Errors
    /// The first that `on_progress` returns.
    pub fn advance<E>(
        &mut self,
        step: &Step,
        output: &ForwardOutput,
        mut on_progress: impl FnMut(usize, Progress, usize) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.stats.steps += u64::from(step.rows() > 0);
        let mut done = Vec::new();
        for ((id, question), scored) in step.scored.iter().zip(&output.scored) {
            let loss = TokenLoss { logprob: scored.logprob, is_greedy: scored.argmax == question.token() };
            if let Some(sequence) = self.running.get_mut(id) {
                sequence.answer(*question, loss);
            }
        }
        for (id, sampled) in step.sampled.iter().zip(&output.sampled) {
            let Some(sequence) = self.running.get_mut(id) else { continue };
            self.stats.generated_tokens += 1;
            sequence.take(sampled.token);
            if !on_progress(*id, Progress::Token(*sampled), sequence.cached())? {
                done.push(*id);
            }
        }
        for (id, sequence) in self.running.iter_mut().filter(|(_, s)| s.is_scoring()) {
            sequence.keep_losses(&mut self.pool);
            if sequence.is_scored() {
                on_progress(*id, Progress::Scored(sequence.take_scores()), sequence.cached())?;
                done.push(*id);
            }
        }
        for id in done {
            if let Some(sequence) = self.running.remove(&id) {
                self.pool.release(sequence.into_table());
            }
        }
        Ok(())
    }
}

impl Step {
    /// Whether there is anything to compute.
    pub fn has_rows(&self) -> bool {
        self.rows() > 0
    }

    fn rows(&self) -> usize {
        self.batch.ids.len()
    }

    /// Adds the rows of a sequence from where it is up to `end`.
    fn push(&mut self, id: usize, sequence: &mut Sequence, end: usize, pool: &mut KvPool) {
        let Self { batch, sampled, scored, tables } = self;
        let mut sample = None;
        for position in sequence.computed()..end {
            let row = batch.ids.len() as u32;
            batch.ids.push(sequence.tokens()[position]);
            batch.sampled_before.extend(sequence.sampled_before(position).map(|sample| (row, sample)));
            batch.paged.positions.push(position as u32);
            let page = sequence.pages()[position / PAGE_SIZE];
            let slot = page * PAGE_SIZE as u32 + (position % PAGE_SIZE) as u32;
            batch.paged.slot_mapping.push(if sequence.is_shared(position) { NO_SLOT } else { slot });
            if let Some(sampling) = sequence.sampling(position) {
                sample = Some(batch.sample_rows.len() as u32);
                batch.sample_rows.push(row);
                batch.sampling.push(sampling);
                batch.forbidden.push(sequence.forbidden());
                sampled.push(id);
            }
            for question in sequence.questions(position) {
                batch.score_rows.push(row);
                batch.targets.push(question.token());
                scored.push((id, question));
            }
        }
        batch.paged.cu_seqlens_q.push(batch.ids.len() as u32);
        batch.paged.seq_lens.push(end as u32);
        batch.scaled_lens.push(sequence.scaled_len());
        tables.push(sequence.pages()[..end.div_ceil(PAGE_SIZE)].to_vec());
        sequence.set_computed(end, pool);
        if let Some(sample) = sample {
            sequence.expect(sample);
        }
    }

    fn lay_out_tables(&mut self) {
        let stride = self.tables.iter().map(Vec::len).max().unwrap_or(0);
        let paged = &mut self.batch.paged;
        paged.block_table_stride = stride;
        for table in self.tables.drain(..) {
            let padding = stride - table.len();
            paged.block_table.extend(table);
            paged.block_table.extend(std::iter::repeat_n(0, padding));
        }
    }
}

#[cfg(test)]
mod tests;
