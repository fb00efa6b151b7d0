//! From chosen tokens to text: stop rules, and what may be shown of a text that is not finished.

use crate::{FinishReason, Output, Request, Result, TextStream, Tokenizer};
use oc_kernels::Sampled;

/// A generation in progress.
#[derive(Debug)]
pub(crate) struct Generation {
    request: usize,
    prompt_tokens: usize,
    max_new_tokens: usize,
    stop: Vec<String>,
    ignore_eos: bool,
    stream: TextStream,
    text: String,
    /// Bytes of `text` that were shown.
    shown: usize,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

impl Generation {
    /// Of the request of this index.
    pub fn new(index: usize, request: &Request, tokenizer: &Tokenizer) -> Self {
        Self {
            request: index,
            prompt_tokens: request.prompt.len(),
            max_new_tokens: request.max_new_tokens,
            stop: request.stop.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
            ignore_eos: request.ignore_eos,
            stream: tokenizer.stream(),
            text: String::new(),
            shown: 0,
            tokens: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    pub fn request(&self) -> usize {
        self.request
    }

    /// Takes the next token; returns why the generation ends, if it does.
    pub fn push(&mut self, next: Sampled, eos: &[u32], tokenizer: &Tokenizer) -> Result<Option<FinishReason>> {
        if !self.ignore_eos && eos.contains(&next.token) {
            // Only special tokens are no text: a caller may end generations at any.
            if !tokenizer.is_special(next.token) {
                let piece = self.stream.push(tokenizer, next.token)?;
                self.append(&piece);
            }
            return self.end(FinishReason::Eos, tokenizer).map(Some);
        }
        self.tokens.push(next.token);
        self.logprobs.push(next.logprob);
        let piece = self.stream.push(tokenizer, next.token)?;
        if self.append(&piece) {
            return Ok(Some(FinishReason::Stop));
        }
        if self.tokens.len() == self.max_new_tokens {
            return self.end(FinishReason::Length, tokenizer).map(Some);
        }
        Ok(None)
    }

    /// Adds what was left of a cut character.
    fn end(&mut self, reason: FinishReason, tokenizer: &Tokenizer) -> Result<FinishReason> {
        let rest = std::mem::replace(&mut self.stream, tokenizer.stream()).finish(tokenizer)?;
        Ok(if self.append(&rest) { FinishReason::Stop } else { reason })
    }

    /// Appends to the text; cuts it at a stop string and returns whether there was one.
    fn append(&mut self, piece: &str) -> bool {
        // A stop string that ends in the new piece begins at most its length before it.
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.text.len().saturating_sub(longest);
        self.text.push_str(piece);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        let found = self.stop.iter().filter_map(|stop| self.text[from..].find(stop.as_str())).min();
        if let Some(at) = found {
            self.text.truncate(from + at);
        }
        found.is_some()
    }

    /// The text that can be shown since the last call: all but an end that may be the beginning of a stop string.
    pub fn show(&mut self) -> String {
        let may_begin_stop = |stop: &String| {
            let ends = stop.char_indices().map(|(at, _)| at).filter(|at| *at > 0);
            ends.filter(|at| self.text.ends_with(&stop[..*at])).max().unwrap_or(0)
        };
        let held = self.stop.iter().map(may_begin_stop).max().unwrap_or(0);
        let end = (self.text.len() - held).max(self.shown);
        let shown = self.text[self.shown..end].to_owned();
        self.shown = end;
        shown
    }

    /// The finished generation, and the text that was not shown yet.
    pub fn finish(self, reason: FinishReason, cached_tokens: usize) -> (String, Output) {
        let rest = self.text[self.shown.min(self.text.len())..].to_owned();
        let output = Output {
            request: self.request,
            text: self.text,
            tokens: self.tokens,
            logprobs: self.logprobs,
            finish: reason,
            prompt_tokens: self.prompt_tokens,
            cached_tokens,
        };
        (rest, output)
    }
}
