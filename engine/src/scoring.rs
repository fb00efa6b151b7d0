//! Scoring: log-probabilities of given tokens, streamed request by request.

use crate::{
    Engine, Error, Result, Score, ScoreEvent, ScoreRequest, Stats,
    kv_cache::TokenLoss,
    sequence::{Job, Progress, Scores, Work},
};
use std::collections::{HashMap, VecDeque};

impl Engine {
    /// The log-probabilities of every request, in order. What the cache holds of a context, or another request of the
    /// same call computes, is not computed again; continuations cost their own tokens but the last.
    ///
    /// # Errors
    /// As for [`generate`](Self::generate).
    pub fn score(&mut self, requests: Vec<ScoreRequest>) -> Result<Vec<Score>> {
        let mut scores = Vec::with_capacity(requests.len());
        for event in self.score_stream(requests)? {
            if let ScoreEvent::Finished(score) = event? {
                scores.push(score);
            }
        }
        scores.sort_by_key(|score| score.request);
        Ok(scores)
    }

    /// As [`score`](Self::score), but yields every score when it is finished, in order of completion. Dropping the
    /// iterator abandons what is unfinished.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] or
    /// [`Error::PromptTooLong`] before anything is computed.
    pub fn score_stream(&mut self, requests: Vec<ScoreRequest>) -> Result<ScoreStream<'_>> {
        for (index, request) in requests.iter().enumerate() {
            self.check_tokens(index, &request.context, 0)?;
            for continuation in request.continuations.iter().filter(|c| !c.is_empty()) {
                self.check_tokens(index, continuation, request.context.len())?;
            }
            self.check_lengths(index, request)?;
        }
        let mut order: Vec<(usize, ScoreRequest)> = requests.into_iter().enumerate().collect();
        order.sort_by(|(_, a), (_, b)| a.context.cmp(&b.context));
        let (mut jobs, mut events) = (HashMap::new(), VecDeque::new());
        for (request, ScoreRequest { context, continuations, context_logprobs }) in order {
            if !context_logprobs && continuations.iter().all(Vec::is_empty) {
                let nothing = Scores { forks: vec![Vec::new(); continuations.len()], prompt: Vec::new() };
                events.push_back(ScoreEvent::Finished(score(request, nothing)));
                continue;
            }
            let work = Work::Score { forks: continuations, prompt_losses: context_logprobs };
            jobs.insert(self.scheduler.add(Job { tokens: context, work }), request);
        }
        Ok(ScoreStream { engine: self, jobs, events })
    }
}

impl Engine {
    /// Refuses continuations that cannot share a context: beyond the original context, what the model computes of it
    /// follows from the length of the whole text.
    fn check_lengths(&self, index: usize, request: &ScoreRequest) -> Result<()> {
        let unscaled = self.config().unscaled_context();
        let lens = || request.continuations.iter().map(|c| request.context.len() + c.len());
        let (shortest, longest) = (lens().min().unwrap_or(0), lens().max().unwrap_or(0));
        if longest <= unscaled || shortest == longest {
            return Ok(());
        }
        Err(Error::InvalidRequest(format!(
            "request {index}: its texts have {shortest} to {longest} tokens; beyond the original context of {unscaled} \
             tokens, texts of different lengths have no beginning in common\n\nhint: one request for each length"
        )))
    }
}

/// The scores of a call to [`Engine::score_stream`], one by one.
#[derive(Debug)]
pub struct ScoreStream<'a> {
    engine: &'a mut Engine,
    /// Which request a job belongs to.
    jobs: HashMap<usize, usize>,
    events: VecDeque<ScoreEvent>,
}

impl ScoreStream<'_> {
    /// What has been computed since the engine was loaded.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }
}

impl Iterator for ScoreStream<'_> {
    type Item = Result<ScoreEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(event) = self.events.pop_front() {
            return Some(Ok(event));
        }
        if self.engine.scheduler.is_idle() {
            return None;
        }
        let Self { engine, jobs, events } = self;
        let stepped = engine.step(|_, id, progress, _| {
            if let (Some(request), Progress::Scored(found)) = (jobs.remove(&id), progress) {
                events.push_back(ScoreEvent::Finished(score(request, found)));
            }
            Ok(true)
        });
        if stepped.is_err() {
            self.events.clear();
        }
        Some(stepped.map(|()| ScoreEvent::Step))
    }
}

impl Drop for ScoreStream<'_> {
    fn drop(&mut self) {
        self.engine.abandon(true);
    }
}

/// What a job found, as its caller sees it.
fn score(request: usize, found: Scores) -> Score {
    let logprobs = |losses: &[TokenLoss]| losses.iter().map(|loss| loss.logprob).collect::<Vec<_>>();
    Score {
        request,
        context: logprobs(found.prompt.get(1..).unwrap_or_default()),
        is_greedy: found.forks.iter().map(|fork| fork.iter().all(|loss| loss.is_greedy)).collect(),
        continuations: found.forks.iter().map(|fork| logprobs(fork)).collect(),
    }
}
