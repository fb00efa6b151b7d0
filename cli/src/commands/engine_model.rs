//! The engine as the evaluation sees it.

use oc_engine::{ChatMessage, InputProcessor, Replicas, Request, ScoreRequest, Stats};
use oc_eval::{Error, Message, Model, ModelIdentity, OnOutput, OnScore, PadTokens, Result};

/// [`Model`] over the engines of one model, or over what it makes of text alone.
pub struct EngineModel {
    name: String,
    source: Source,
}

enum Source {
    Engines(Replicas),
    Input(Box<InputProcessor>),
}

impl EngineModel {
    /// `name` is for messages.
    pub fn new(name: String, replicas: Replicas) -> Self {
        Self { name, source: Source::Engines(replicas) }
    }

    /// A model whose prompts are wanted and no answers, so that no weights are needed.
    pub fn without_weights(name: String, input: InputProcessor) -> Self {
        Self { name, source: Source::Input(Box::new(input)) }
    }

    /// What it makes of text.
    pub fn input(&self) -> &InputProcessor {
        match &self.source {
            Source::Engines(replicas) => replicas.first().input(),
            Source::Input(input) => input,
        }
    }

    fn no_weights(&self) -> Error {
        Error::Config { what: format!("{} gives no answers: its weights were not loaded", self.name) }
    }
}

impl Model for EngineModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Result<ModelIdentity> {
        let Source::Engines(replicas) = &self.source else { return Err(self.no_weights()) };
        let f = replicas.first().fingerprint().clone();
        Ok(ModelIdentity {
            weights: f.weights,
            tokenizer: f.tokenizer,
            chat_template: f.chat_template,
            dtype: f.dtype,
            device: f.device,
            numeric_version: f.numeric_version,
        })
    }

    fn max_seq_len(&self) -> usize {
        self.input().max_seq_len()
    }

    fn unscaled_context(&self) -> usize {
        self.input().config().unscaled_context()
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        Ok(self.input().tokenizer().encode(text, add_special_tokens)?)
    }

    fn encode_all(&self, texts: &[String], add_special_tokens: bool) -> Result<Vec<Vec<u32>>> {
        Ok(self.input().tokenizer().encode_all(texts, add_special_tokens)?)
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(self.input().tokenizer().decode(ids, true)?)
    }

    fn pad_tokens(&self) -> PadTokens {
        let oc_engine::PadTokens { tokenizer, generation_config, eos } = self.input().pad_tokens();
        PadTokens { tokenizer, generation_config, eos, vocab_size: self.input().tokenizer().vocab_size() }
    }

    fn apply_chat_template(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let Some(template) = self.input().chat_template() else {
            return Err(Error::Config {
                what: format!("{} has no chat template\n\nhint: use --hf-type base", self.name),
            });
        };
        let message = |m: &Message| ChatMessage { role: m.role.clone(), content: m.content.clone() };
        Ok(template.render(&messages.iter().map(message).collect::<Vec<_>>(), add_generation_prompt)?)
    }

    fn generate(&mut self, requests: Vec<Request>, on_output: &mut OnOutput<'_>) -> Result<Stats> {
        let Source::Engines(replicas) = &mut self.source else { return Err(self.no_weights()) };
        let before = replicas.stats();
        let after = replicas.generate(requests, &mut |output, now| on_output(output, difference(now, before)))?;
        Ok(difference(after, before))
    }

    fn score(&mut self, requests: Vec<ScoreRequest>, on_score: &mut OnScore<'_>) -> Result<Stats> {
        let Source::Engines(replicas) = &mut self.source else { return Err(self.no_weights()) };
        let before = replicas.stats();
        let after = replicas.score(requests, &mut |score, now| on_score(score, difference(now, before)))?;
        Ok(difference(after, before))
    }
}

fn difference(now: Stats, before: Stats) -> Stats {
    Stats {
        prompt_tokens: now.prompt_tokens - before.prompt_tokens,
        cached_tokens: now.cached_tokens - before.cached_tokens,
        computed_prompt_tokens: now.computed_prompt_tokens - before.computed_prompt_tokens,
        generated_tokens: now.generated_tokens - before.generated_tokens,
        steps: now.steps - before.steps,
    }
}
