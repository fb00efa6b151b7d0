//! The engine as the evaluation sees it.

use oc_engine::{ChatMessage, Engine, Replicas, Request, ScoreRequest, Stats};
use oc_eval::{Error, Message, Model, ModelIdentity, OnOutput, OnScore, PadTokens, Result};

/// [`Model`] over the engines of one model.
pub struct EngineModel {
    name: String,
    replicas: Replicas,
}

impl EngineModel {
    /// `name` is for messages.
    pub fn new(name: String, replicas: Replicas) -> Self {
        Self { name, replicas }
    }

    /// The engine, or the first of several.
    pub fn engine(&self) -> &Engine {
        self.replicas.first()
    }
}

impl Model for EngineModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> ModelIdentity {
        let f = self.engine().fingerprint().clone();
        ModelIdentity {
            weights: f.weights,
            tokenizer: f.tokenizer,
            chat_template: f.chat_template,
            dtype: f.dtype,
            device: f.device,
            numeric_version: f.numeric_version,
        }
    }

    fn max_seq_len(&self) -> usize {
        self.engine().max_seq_len()
    }

    fn unscaled_context(&self) -> usize {
        self.engine().config().unscaled_context()
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        Ok(self.engine().tokenizer().encode(text, add_special_tokens)?)
    }

    fn encode_all(&self, texts: &[String], add_special_tokens: bool) -> Result<Vec<Vec<u32>>> {
        Ok(self.engine().tokenizer().encode_all(texts, add_special_tokens)?)
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(self.engine().tokenizer().decode(ids, true)?)
    }

    fn pad_tokens(&self) -> PadTokens {
        let oc_engine::PadTokens { tokenizer, generation_config, eos } = self.engine().pad_tokens();
        PadTokens { tokenizer, generation_config, eos, vocab_size: self.engine().tokenizer().vocab_size() }
    }

    fn apply_chat_template(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let Some(template) = self.engine().chat_template() else {
            return Err(Error::Config {
                what: format!("{} has no chat template\n\nhint: use --hf-type base", self.name),
            });
        };
        let message = |m: &Message| ChatMessage { role: m.role.clone(), content: m.content.clone() };
        Ok(template.render(&messages.iter().map(message).collect::<Vec<_>>(), add_generation_prompt)?)
    }

    fn generate(&mut self, requests: Vec<Request>, on_output: &mut OnOutput<'_>) -> Result<Stats> {
        let before = self.replicas.stats();
        let after = self.replicas.generate(requests, &mut |output, now| on_output(output, difference(now, before)))?;
        Ok(difference(after, before))
    }

    fn score(&mut self, requests: Vec<ScoreRequest>, on_score: &mut OnScore<'_>) -> Result<Stats> {
        let before = self.replicas.stats();
        let after = self.replicas.score(requests, &mut |score, now| on_score(score, difference(now, before)))?;
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
