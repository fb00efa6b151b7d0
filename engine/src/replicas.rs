//! Data parallelism: one model on several devices, each of which answers a share of the requests.
//!
//! A result has the same bits on every device of a kind, so that the number of devices changes none.

use crate::{Engine, Error, Event, Output, Request, Score, ScoreEvent, ScoreRequest, Stats};
use std::{ops::Range, sync::mpsc, thread};

/// The same model on one or more devices.
#[derive(Debug)]
pub struct Replicas {
    engines: Vec<Engine>,
}

impl Replicas {
    /// `engines`: at least one, all loaded from the same files with the same options but for the device's number.
    ///
    /// # Panics
    /// Without an engine: a mistake of the caller.
    pub fn new(engines: Vec<Engine>) -> Self {
        assert!(!engines.is_empty(), "a model on no device");
        Self { engines }
    }

    /// The first engine, for what all have in common.
    pub fn first(&self) -> &Engine {
        &self.engines[0]
    }

    /// What all have computed since they were loaded.
    pub fn stats(&self) -> Stats {
        sum(&self.engines.iter().map(Engine::stats).collect::<Vec<_>>())
    }

    /// As [`Engine::stream`] on all devices. `on_step` is told after every token, with an output when one is finished, what
    /// has been computed by all of them since they were loaded; its error ends the work.
    ///
    /// # Errors
    /// As for [`Engine::generate`]; what `on_step` returns.
    pub fn generate<E: From<Error>>(
        &mut self,
        requests: Vec<Request>,
        on_step: &mut dyn FnMut(Option<Output>, Stats) -> Result<(), E>,
    ) -> Result<Stats, E> {
        let work = |engine: &mut Engine, requests, send: &mut Send<'_, Output>| {
            let mut stream = engine.stream(requests)?;
            while let Some(event) = stream.next() {
                let output = match event? {
                    Event::Finished(output) => Some((output.request, output)),
                    Event::Token { .. } | Event::Text { .. } => None,
                };
                if !send(output, stream.stats()) {
                    break;
                }
            }
            Ok(())
        };
        let rename = |output: Output, request| Output { request, ..output };
        self.run(requests, |request| &request.prompt, work, rename, on_step)
    }

    /// As [`Engine::score_stream`] on all devices; `on_step` as for [`generate`](Self::generate), after every forward pass.
    ///
    /// # Errors
    /// As for [`Engine::score`]; what `on_step` returns.
    pub fn score<E: From<Error>>(
        &mut self,
        requests: Vec<ScoreRequest>,
        on_step: &mut dyn FnMut(Option<Score>, Stats) -> Result<(), E>,
    ) -> Result<Stats, E> {
        let work = |engine: &mut Engine, requests, send: &mut Send<'_, Score>| {
            let mut stream = engine.score_stream(requests)?;
            while let Some(event) = stream.next() {
                let score = match event? {
                    ScoreEvent::Finished(score) => Some((score.request, score)),
                    ScoreEvent::Step => None,
                };
                if !send(score, stream.stats()) {
                    break;
                }
            }
            Ok(())
        };
        let rename = |score: Score, request| Score { request, ..score };
        self.run(requests, |request| &request.context, work, rename, on_step)
    }

    /// `work` sends the finished results of an engine, with their place among its requests, until it is told to stop.
    fn run<R: std::marker::Send, T: std::marker::Send, E: From<Error>>(
        &mut self,
        requests: Vec<R>,
        prompt: impl Fn(&R) -> &[u32],
        work: impl Fn(&mut Engine, Vec<R>, &mut Send<'_, T>) -> crate::Result<()> + Sync,
        rename: impl Fn(T, usize) -> T,
        on_step: &mut dyn FnMut(Option<T>, Stats) -> Result<(), E>,
    ) -> Result<Stats, E> {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by(|a, b| prompt(&requests[*a]).cmp(prompt(&requests[*b])));
        let prompts: Vec<&[u32]> = order.iter().map(|index| prompt(&requests[*index])).collect();
        let shares = shares(&prompts, self.engines.len());
        let mut requests: Vec<Option<R>> = requests.into_iter().map(Some).collect();
        let mut stats: Vec<Stats> = self.engines.iter().map(Engine::stats).collect();
        thread::scope(|scope| -> Result<(), E> {
            let (sender, receiver) = mpsc::channel();
            for (number, (engine, share)) in self.engines.iter_mut().zip(&shares).enumerate() {
                let own: Vec<R> = order[share.clone()].iter().filter_map(|index| requests[*index].take()).collect();
                let (sender, work) = (sender.clone(), &work);
                scope.spawn(move || {
                    // A receiver that is gone has seen enough.
                    let mut send = |result, stats| sender.send((number, Ok((result, stats)))).is_ok();
                    if let Err(error) = work(engine, own, &mut send) {
                        let _ = sender.send((number, Err(error)));
                    }
                });
            }
            drop(sender);
            for (number, message) in receiver {
                let (result, now) = message?;
                stats[number] = now;
                let result = result.map(|(place, result)| rename(result, order[shares[number].start + place]));
                on_step(result, sum(&stats))?;
            }
            Ok(())
        })?;
        Ok(self.stats())
    }
}

/// Takes a finished result, with its place among the engine's requests, and what the engine has computed; says whether to
/// go on.
type Send<'a, T> = dyn FnMut(Option<(usize, T)>, Stats) -> bool + 'a;

fn sum(all: &[Stats]) -> Stats {
    all.iter().fold(Stats::default(), |sum, one| Stats {
        prompt_tokens: sum.prompt_tokens + one.prompt_tokens,
        cached_tokens: sum.cached_tokens + one.cached_tokens,
        computed_prompt_tokens: sum.computed_prompt_tokens + one.computed_prompt_tokens,
        generated_tokens: sum.generated_tokens + one.generated_tokens,
        steps: sum.steps + one.steps,
    })
}

/// Cuts sorted prompts into `count` runs of about equal work, where neighbours have least in common: prompts that share their
/// beginning stay together.
fn shares(prompts: &[&[u32]], count: usize) -> Vec<Range<usize>> {
    let common = |i: usize| prompts[i - 1].iter().zip(prompts[i]).take_while(|(a, b)| a == b).count();
    // Tokens that have to be computed up to and including each prompt.
    let mut total = 0;
    let done: Vec<usize> = (0..prompts.len())
        .map(|i| {
            total += prompts[i].len() - if i == 0 { 0 } else { common(i) };
            total
        })
        .collect();
    // A cut may lie this far from where the work would be equal.
    let slack = total / count / 4;
    let mut cuts = vec![0];
    for share in 1..count {
        let ideal = total / count * share;
        let least = cuts[share - 1];
        let near = |i: &usize| done[i - 1].abs_diff(ideal) <= slack;
        let exact = done.partition_point(|done| *done < ideal).max(least);
        let best = (least + 1..prompts.len()).filter(near).min_by_key(|i| (common(*i), done[i - 1].abs_diff(ideal)));
        cuts.push(best.unwrap_or(exact));
    }
    cuts.push(prompts.len());
    cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_that_share_their_beginning_stay_together() {
        // Five subjects of six questions: 100 common tokens and 10 own ones.
        let prompts: Vec<Vec<u32>> =
            (0..30).map(|i| (0..100).map(|_| i / 6).chain((0..10).map(|_| 1000 + i)).collect()).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        assert_eq!(shares(&prompts, 1), std::slice::from_ref(&(0..30)));
        for count in [2, 3, 5] {
            let shares = shares(&prompts, count);
            assert_eq!((shares.len(), shares[0].start, shares[count - 1].end), (count, 0, 30));
            for (share, next) in shares.iter().zip(&shares[1..]) {
                assert_eq!(share.end, next.start);
                assert_eq!(share.end % 6, 0, "{count} shares: {shares:?}");
            }
            assert!(shares.iter().all(|share| !share.is_empty()), "{shares:?}");
        }
    }

    #[test]
    fn more_devices_than_prompts_and_no_prompts_at_all() {
        assert_eq!(shares(&[], 2), [0..0, 0..0]);
        let all = shares(&[&[1, 2], &[3]], 4);
        assert_eq!((all.len(), all.iter().map(ExactSizeIterator::len).sum::<usize>()), (4, 2));
    }
}
