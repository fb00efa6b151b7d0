//! A model that says what it is told to: its tokens are characters, its answers a function of the prompt.

#![allow(dead_code, reason = "each test file uses a part of it")]

use oc_engine::{FinishReason, Output, Request, Score, ScoreRequest, Stats, Tokenizer};
use oc_eval::{
    Error, EvalConfig, Event, Message, Model, ModelConfig, ModelIdentity, Observer, OnOutput, OnScore, Phase, Result,
};
use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The id that stands for "beginning of text": no character has it.
pub const BOS: u32 = 0x11_0000;

/// In which order answers are finished.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    Asked,
    Reversed,
    /// Every `n`-th first.
    Strided(usize),
}

pub struct Scripted {
    pub answer: Box<dyn Fn(&str) -> String>,
    pub order: Order,
    pub identity: ModelIdentity,
    pub max_seq_len: usize,
    pub adds_bos: bool,
    /// Ends in an error after so many answers of a call.
    pub fails_after: usize,
    /// Leaves these prompts, counted as asked, without an answer.
    pub skips: Vec<usize>,
    /// The texts of all prompts that were answered.
    pub asked: Vec<String>,
    /// Instead of characters.
    pub tokenizer: Option<Tokenizer>,
}

impl Scripted {
    pub fn new(answer: impl Fn(&str) -> String + 'static) -> Self {
        Self {
            answer: Box::new(answer),
            order: Order::Asked,
            identity: ModelIdentity {
                weights: "weights".into(),
                tokenizer: "characters".into(),
                chat_template: Some("template".into()),
                dtype: "f32".into(),
                device: "cpu".into(),
                numeric_version: "1".into(),
            },
            max_seq_len: 1 << 20,
            adds_bos: false,
            fails_after: usize::MAX,
            skips: Vec::new(),
            asked: Vec::new(),
            tokenizer: None,
        }
    }

    /// Answers that differ from prompt to prompt, in a way a file of JSON has to escape.
    pub fn varied() -> Self {
        Self::new(|prompt| {
            let sum: u32 = prompt.chars().map(u32::from).fold(0, |sum, c| sum.wrapping_mul(31).wrapping_add(c));
            let letter = ["A", "B", "C", "D"][sum as usize % 4];
            match sum % 5 {
                0 => format!(" {letter}\n以下是"),
                1 => format!("答案：\"{letter}\"\\"),
                2 => "\u{fffd}\t".into(),
                3 => format!("the answer is {letter}"),
                _ => letter.into(),
            }
        })
    }

    fn text(&self, ids: &[u32]) -> String {
        match &self.tokenizer {
            Some(tokenizer) => tokenizer.decode(ids, false).unwrap(),
            None => ids.iter().filter_map(|id| char::from_u32(*id)).collect(),
        }
    }
}

impl Model for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn identity(&self) -> Result<ModelIdentity> {
        Ok(self.identity.clone())
    }

    fn max_seq_len(&self) -> usize {
        self.max_seq_len
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        if let Some(tokenizer) = &self.tokenizer {
            return Ok(tokenizer.encode(text, add_special_tokens)?);
        }
        let bos = (self.adds_bos && add_special_tokens).then_some(BOS);
        Ok(bos.into_iter().chain(text.chars().map(u32::from)).collect())
    }

    fn apply_chat_template(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        if self.identity.chat_template.is_none() {
            return Err(Error::Config { what: "scripted has no chat template".into() });
        }
        let rendered = messages.iter().map(|m| format!("<{}>{}\n", m.role, m.content));
        let open = add_generation_prompt.then(|| "<assistant>".to_owned());
        Ok(rendered.chain(open).collect())
    }

    fn generate(&mut self, requests: Vec<Request>, on_output: &mut OnOutput<'_>) -> Result<Stats> {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        match self.order {
            Order::Asked => {}
            Order::Reversed => order.reverse(),
            Order::Strided(n) => order.sort_by_key(|i| i % n),
        }
        let mut stats = Stats::default();
        for (answered, i) in order.into_iter().filter(|i| !self.skips.contains(i)).enumerate() {
            if answered == self.fails_after {
                return Err(oc_engine::Error::InvalidRequest("scripted failure".into()).into());
            }
            let request = &requests[i];
            let prompt = self.text(&request.prompt);
            let mut text = (self.answer)(&prompt);
            self.asked.push(prompt);
            let stop = request.stop.iter().filter_map(|stop| text.find(stop)).min();
            stop.into_iter().for_each(|at| text.truncate(at));
            let tokens: Vec<u32> = text.chars().map(u32::from).collect();
            stats.prompt_tokens += request.prompt.len() as u64;
            stats.computed_prompt_tokens += request.prompt.len() as u64;
            stats.generated_tokens += tokens.len() as u64;
            let output = Output {
                request: i,
                logprobs: vec![-0.5; tokens.len()],
                tokens,
                text,
                finish: if stop.is_some() { FinishReason::Stop } else { FinishReason::Length },
                prompt_tokens: request.prompt.len(),
                cached_tokens: 0,
            };
            on_output(Some(output), stats)?;
        }
        Ok(stats)
    }

    fn score(&mut self, requests: Vec<ScoreRequest>, on_score: &mut OnScore<'_>) -> Result<Stats> {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        match self.order {
            Order::Asked => {}
            Order::Reversed => order.reverse(),
            Order::Strided(n) => order.sort_by_key(|i| i % n),
        }
        let mut stats = Stats::default();
        for (answered, i) in order.into_iter().filter(|i| !self.skips.contains(i)).enumerate() {
            if answered == self.fails_after {
                return Err(oc_engine::Error::InvalidRequest("scripted failure".into()).into());
            }
            let ScoreRequest { context, continuations, context_logprobs } = &requests[i];
            self.asked.push(self.text(context));
            let all = |ids: &[u32], from: usize| (from..ids.len()).map(|at| logprob(&ids[..at], ids[at])).collect();
            let continued = |c: &Vec<u32>| all(&[&context[..], c].concat(), context.len());
            stats.prompt_tokens += context.len() as u64;
            stats.computed_prompt_tokens += context.len() as u64;
            let score = Score {
                request: i,
                context: if *context_logprobs { all(context, 1) } else { Vec::new() },
                continuations: continuations.iter().map(continued).collect(),
                is_greedy: vec![false; continuations.len()],
            };
            on_score(Some(score), stats)?;
        }
        Ok(stats)
    }
}

/// What the scripted model gives `token` after `before`: a function of both and of nothing else.
pub fn logprob(before: &[u32], token: u32) -> f32 {
    let mix = |hash: u32, id: &u32| (hash ^ id).wrapping_mul(0x0100_0193).rotate_left(7);
    let hash = before.iter().chain([&token]).fold(0x811c_9dc5, mix);
    -((hash >> 8) as f32) / (1 << 21) as f32
}

/// Remembers what it was told, and asks to stop when it was asked often enough.
#[derive(Default)]
pub struct Recorder {
    /// Stops at this sample, counted from 1.
    pub stop_at: Option<usize>,
    asked: Cell<usize>,
    pub phases: Vec<Phase>,
    pub styles: Vec<String>,
    pub plans: Vec<oc_eval::Plan>,
    pub first: Option<(String, String, usize)>,
    /// Subset, row, done, total.
    pub samples: Vec<(String, usize, usize, usize)>,
    pub warnings: Vec<String>,
    pub folder: Option<PathBuf>,
}

impl Recorder {
    pub fn stopping_at(sample: usize) -> Self {
        Self { stop_at: Some(sample), ..Self::default() }
    }
}

impl Observer for Recorder {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Phase(phase) => self.phases.push(phase),
            Event::Style(style) => self.styles.push(style.into()),
            Event::Plan(plan) => self.plans.push(plan.clone()),
            Event::FirstPrompt { abbr, prompt, ids } => self.first = Some((abbr.into(), prompt.into(), ids.len())),
            Event::Sample { abbr, index, done, total, .. } => self.samples.push((abbr.into(), index, done, total)),
            Event::Warning(text) => self.warnings.push(text.into()),
        }
    }

    fn interrupted(&self) -> bool {
        // Once before the first sample, then once after each.
        let asked = self.asked.replace(self.asked.get() + 1);
        self.stop_at.is_some_and(|sample| asked >= sample)
    }

    fn run_folder(&mut self, folder: &Path) {
        self.folder = Some(folder.into());
    }
}

/// A folder in memory where the system has one: tests that write thousands of journals would wait for the disk.
pub fn fast_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// The demonstration questions, the first `limit` of each subject.
pub fn demo(work_dir: &Path, limit: usize) -> EvalConfig {
    EvalConfig {
        datasets: vec!["ceval_demo_gen".into()],
        work_dir: work_dir.into(),
        model: ModelConfig { abbr: "scripted_hf".into(), path: "models/scripted".into(), ..ModelConfig::default() },
        max_out_len: 16,
        limit: Some(limit),
        timestamp: Some("20260102_030405".into()),
        ..EvalConfig::default()
    }
}

/// Every file below `folder` by relative path.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, files);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    if folder.exists() {
        walk(folder, folder, &mut found);
    }
    found
}
