//! One text that is being computed: what is wanted of it, how far it is, and which pages it holds.

use crate::{
    SamplingParams,
    kv_cache::{BlockTable, KvPool, TokenLoss},
};
use oc_kernels::{PAGE_SIZE, Sampled, Sampling};
use std::sync::Arc;

/// Something to compute.
#[derive(Debug)]
pub(crate) struct Job {
    /// The prompt, at least one token.
    pub tokens: Vec<u32>,
    pub work: Work,
}

#[derive(Debug)]
pub(crate) enum Work {
    /// Choose a token after the last one, again and again.
    Generate { sampling: SamplingParams, max_new_tokens: usize, forbidden: Forbidden },
    /// Find the log-probabilities of the tokens of every fork, each as if it alone followed the prompt.
    ///
    /// The forks are computed one after the other in the same pages: the next one overwrites what the one before
    /// left behind the prompt. So a prompt that ends within a page is computed once, and nothing is copied.
    Score { forks: Vec<Vec<u32>>, prompt_losses: bool },
}

/// Tokens that are not chosen at first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forbidden {
    pub tokens: Arc<[u32]>,
    /// For so many tokens.
    pub until: usize,
}

/// What a scoring job found.
#[derive(Debug, Default)]
pub(crate) struct Scores {
    /// Of the tokens of every fork.
    pub forks: Vec<Vec<TokenLoss>>,
    /// Of the prompt's tokens; empty unless wanted.
    pub prompt: Vec<TokenLoss>,
}

/// What a step brought a sequence.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The next token of a generating sequence.
    Token(Sampled),
    /// All that a scoring sequence wanted.
    Scored(Scores),
}

/// Whose log-probability a row was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Question {
    /// The next token of a fork.
    Fork { fork: usize, token: u32 },
    /// The prompt's next token.
    Prompt { token: u32 },
}

impl Question {
    pub fn token(self) -> u32 {
        match self {
            Self::Fork { token, .. } | Self::Prompt { token } => token,
        }
    }
}

impl Job {
    /// Tokens it may have in the end.
    pub fn max_len(&self) -> usize {
        match &self.work {
            Work::Generate { max_new_tokens, .. } => self.tokens.len() + max_new_tokens,
            Work::Score { forks, .. } => self.tokens.len() + forks.iter().map(|fork| rows(fork)).max().unwrap_or(0),
        }
    }

    /// Prompt tokens that go through the model if nothing of them is cached.
    pub fn prompt_tokens(&self) -> usize {
        match &self.work {
            Work::Generate { .. } => self.tokens.len(),
            Work::Score { forks, .. } => self.tokens.len() + forks.iter().map(|fork| rows(fork)).sum::<usize>(),
        }
    }

    /// Tokens of the text that its prompt is the beginning of: of a text to be continued the prompt itself, of a scored one
    /// everything. All forks are equally long where that matters.
    pub fn text_len(&self) -> usize {
        match &self.work {
            Work::Generate { .. } => self.tokens.len(),
            Work::Score { forks, .. } => self.tokens.len() + forks.iter().map(Vec::len).max().unwrap_or(0),
        }
    }

    fn num_forks(&self) -> usize {
        match &self.work {
            Work::Generate { .. } => 0,
            Work::Score { forks, .. } => forks.len(),
        }
    }

    /// Whether the log-probabilities of the prompt's own tokens are wanted.
    pub fn wants_prompt_losses(&self) -> bool {
        matches!(self.work, Work::Score { prompt_losses: true, .. })
    }
}

/// Tokens of a fork after which another one is asked for.
fn rows(fork: &[u32]) -> usize {
    fork.len().saturating_sub(1)
}

/// An admitted job.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// The prompt, and what was generated, or the rows of the present fork. The last ones may be unknown.
    tokens: Vec<u32>,
    /// How many at the end have been asked for and did not come yet.
    unknown: usize,
    /// Which of the samples of the last step it was in was for it.
    sample: u32,
    prompt_len: usize,
    work: Work,
    table: BlockTable,
    /// See [`Prompt::scaled_len`](crate::kv_cache::Prompt::scaled_len).
    scaled_len: u32,
    /// Tokens at the start whose keys and values are there; `None` until the shared pages can be read.
    computed: Option<usize>,
    /// How many tokens the prefix cache saved.
    cached: usize,
    scores: Scores,
    /// The present fork, once the prompt is computed.
    fork: Option<usize>,
    /// How many tokens of the prompt were asked for, or are known.
    asked_prompt: usize,
    /// How many pages have been given their losses.
    kept_pages: usize,
    /// Questions that were asked and not answered yet.
    unanswered: usize,
}

/// A losses' placeholder for the first token of a text, which nothing predicts.
const FIRST: TokenLoss = TokenLoss { logprob: f32::NAN, is_greedy: false };

impl Sequence {
    pub fn new(job: Job, table: BlockTable, scaled_len: u32) -> Self {
        Self {
            prompt_len: job.tokens.len(),
            scores: Scores { forks: vec![Vec::new(); job.num_forks()], prompt: Vec::new() },
            tokens: job.tokens,
            unknown: 0,
            sample: 0,
            work: job.work,
            table,
            scaled_len,
            computed: None,
            cached: 0,
            fork: None,
            asked_prompt: 0,
            kept_pages: 0,
            unanswered: 0,
        }
    }

    pub fn is_generating(&self) -> bool {
        !self.is_scoring() && self.tokens.len() > self.prompt_len
    }

    pub fn is_scoring(&self) -> bool {
        matches!(self.work, Work::Score { .. })
    }

    /// Tokens of the text that the rotary frequencies of its rows follow from, as in
    /// [`ForwardBatch::scaled_lens`](crate::batch::ForwardBatch::scaled_lens).
    pub fn scaled_len(&self) -> u32 {
        if self.is_generating() { 0 } else { self.scaled_len }
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn pages(&self) -> &[u32] {
        &self.table.pages
    }

    /// Tokens that are computed; 0 before [`start`](Self::start).
    pub fn computed(&self) -> usize {
        self.computed.unwrap_or(0)
    }

    /// Prompt tokens that the prefix cache saved.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Whether all its tokens are there, known or not, so that none is to be asked for any more.
    pub fn is_full(&self) -> bool {
        match self.work {
            Work::Generate { max_new_tokens, .. } => self.tokens.len() - self.prompt_len >= max_new_tokens,
            Work::Score { .. } => false,
        }
    }

    /// Whether everything is scored.
    pub fn is_scored(&self) -> bool {
        self.is_computed() && self.unanswered == 0 && self.following_fork().is_none()
    }

    /// Whether nothing is left to compute for now.
    fn is_computed(&self) -> bool {
        self.computed == Some(self.tokens.len())
    }

    /// Decides, once the shared pages can be read, where to start; returns whether it has been decided.
    pub fn start(&mut self, pool: &KvPool) -> bool {
        if self.computed.is_some() {
            return true;
        }
        let hits = &self.table.pages[..self.table.hits];
        if !hits.iter().all(|page| pool.is_filled(*page)) {
            return false;
        }
        // The first row whose output is wanted: it goes through the model even if its key and value are there.
        let first_row = match &self.work {
            Work::Generate { .. } => self.prompt_len - 1,
            Work::Score { forks, prompt_losses } => {
                let has_tokens = forks.iter().any(|fork| !fork.is_empty());
                let first_target = if has_tokens { self.prompt_len - 1 } else { self.prompt_len };
                if !prompt_losses {
                    first_target
                } else if hits[..self.table.scored_hits].iter().any(|page| pool.losses(*page).is_none()) {
                    return false;
                } else {
                    self.scores.prompt = hits.iter().map_while(|page| pool.losses(*page)).flatten().copied().collect();
                    if self.scores.prompt.is_empty() {
                        self.scores.prompt.push(FIRST);
                    }
                    self.asked_prompt = self.scores.prompt.len();
                    self.kept_pages = self.asked_prompt / PAGE_SIZE;
                    let unknown =
                        if self.asked_prompt < self.prompt_len { self.asked_prompt - 1 } else { self.prompt_len };
                    unknown.min(first_target)
                }
            }
        };
        self.cached = first_row.min(self.table.hits * PAGE_SIZE);
        self.computed = Some(self.cached);
        true
    }

    /// The key and value of which position are in a shared page already.
    pub fn is_shared(&self, position: usize) -> bool {
        position < self.table.hits * PAGE_SIZE
    }

    /// Says that the rows up to `end` are part of a step.
    pub fn set_computed(&mut self, end: usize, pool: &mut KvPool) {
        let full = self.computed() / PAGE_SIZE..end / PAGE_SIZE;
        self.table.pages[full].iter().for_each(|page| pool.set_filled(*page));
        self.computed = Some(end);
    }

    /// How the token after `row` is to be chosen, if one is wanted.
    pub fn sampling(&self, row: usize) -> Option<Sampling> {
        let Work::Generate { sampling, .. } = self.work else { return None };
        let SamplingParams { temperature, top_k, top_p, seed } = sampling;
        let counter = (self.tokens.len() - self.prompt_len) as u64;
        (row + 1 == self.tokens.len()).then_some(Sampling { temperature, top_k, top_p, seed, counter })
    }

    /// The tokens that must not be chosen next.
    pub fn forbidden(&self) -> Option<Arc<[u32]>> {
        let Work::Generate { forbidden, .. } = &self.work else { return None };
        let is_early = self.tokens.len() - self.prompt_len < forbidden.until;
        (is_early && !forbidden.tokens.is_empty()).then(|| forbidden.tokens.clone())
    }

    /// The log-probabilities wanted after `row`, each asked once, rows in order.
    pub fn questions(&mut self, row: usize) -> Vec<Question> {
        let questions = self.ask(row);
        self.unanswered += questions.len();
        questions
    }

    fn ask(&mut self, row: usize) -> Vec<Question> {
        let Work::Score { forks, prompt_losses } = &self.work else { return Vec::new() };
        if let Some(fork) = self.fork {
            return vec![Question::Fork { fork, token: forks[fork][row + 1 - self.prompt_len] }];
        }
        let mut questions = Vec::new();
        if *prompt_losses && row + 1 == self.asked_prompt && self.asked_prompt < self.prompt_len {
            questions.push(Question::Prompt { token: self.tokens[row + 1] });
            self.asked_prompt += 1;
        }
        if row + 1 == self.prompt_len {
            let first = |(fork, tokens): (usize, &Vec<u32>)| Some(Question::Fork { fork, token: *tokens.first()? });
            questions.extend(forks.iter().enumerate().filter_map(first));
        }
        questions
    }

    /// The next fork of several tokens.
    fn following_fork(&self) -> Option<usize> {
        let Work::Score { forks, .. } = &self.work else { return None };
        let from = self.fork.map_or(0, |fork| fork + 1);
        (from..forks.len()).find(|fork| rows(&forks[*fork]) > 0)
    }

    /// Goes on with the next fork of several tokens, if there is one and all rows so far are part of a step.
    pub fn next_fork(&mut self) {
        let Work::Score { forks, .. } = &self.work else { return };
        let Some(fork) = self.following_fork().filter(|_| self.is_computed()) else { return };
        self.tokens.truncate(self.prompt_len);
        self.tokens.extend(&forks[fork][..rows(&forks[fork])]);
        (self.fork, self.computed) = (Some(fork), Some(self.prompt_len));
    }

    /// Takes the answer to a question, in the order they were asked.
    pub fn answer(&mut self, question: Question, loss: TokenLoss) {
        self.unanswered -= 1;
        match question {
            Question::Fork { fork, .. } => self.scores.forks[fork].push(loss),
            Question::Prompt { .. } => self.scores.prompt.push(loss),
        }
    }

    /// Appends a token that is to come: the `sample`th of the step that is being put together.
    pub fn expect(&mut self, sample: u32) {
        self.tokens.push(0);
        self.unknown += 1;
        self.sample = sample;
    }

    /// Which sample of the step before the token at `position` is, if it is not known yet.
    pub fn sampled_before(&self, position: usize) -> Option<u32> {
        (position + self.unknown >= self.tokens.len()).then_some(self.sample)
    }

    /// Takes the first of the tokens that were to come.
    pub fn take(&mut self, token: u32) {
        let position = self.tokens.len() - self.unknown;
        self.tokens[position] = token;
        self.unknown -= 1;
    }

    /// Leaves the losses of full pages with the pages.
    pub fn keep_losses(&mut self, pool: &mut KvPool) {
        let pages = self.scores.prompt.as_chunks::<PAGE_SIZE>().0;
        for (losses, page) in pages.iter().zip(&self.table.pages).skip(self.kept_pages) {
            pool.set_losses(*page, *losses);
        }
        self.kept_pages = pages.len();
    }

    /// What a scoring job found.
    pub fn take_scores(&mut self) -> Scores {
        std::mem::take(&mut self.scores)
    }

    /// Gives the pages back.
    pub fn into_table(self) -> BlockTable {
        self.table
    }
}
