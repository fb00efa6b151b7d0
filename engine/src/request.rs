//! What a caller asks for and what it gets back: plain data.

pub use oc_kernels::Dtype;
use std::path::PathBuf;

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The fastest device present.
    #[default]
    Auto,
    /// The CPU backend.
    Cpu,
    /// A CUDA device; an error if there is none.
    Cuda,
    /// The CUDA kernels on a machine without a GPU, checked access by access: for tests, thousands of times slower.
    Emulator,
}

/// Where the weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadFormat {
    /// The model's files.
    #[default]
    Auto,
    /// Random numbers, of the shapes in its `config.json`: for benchmarks without a checkpoint.
    Dummy,
}

/// Sequences in flight at once where nothing else is said.
pub const DEFAULT_BATCH_SIZE: usize = 256;

/// How to load and run a model. `Default` is right for most uses.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where the weights come from.
    pub load_format: LoadFormat,
    /// Where to compute.
    pub device: Device,
    /// Which GPU, from 0, where `device` is [`Device::Cuda`].
    pub gpu: usize,
    /// Over how many devices the model is cut: GPUs from `gpu` on, or as many emulators or groups of threads. Sums of several
    /// parts have other bits than one.
    pub tensor_parallel: usize,
    /// What to compute in. `None`: bf16 where the device has it, else f32.
    pub dtype: Option<Dtype>,
    /// Worker threads of the CPU backend. `None`: one per core.
    pub threads: Option<usize>,
    /// Longest context in tokens, prompt and output together. `None`: what the model was trained for.
    pub max_seq_len: Option<usize>,
    /// Most sequences in flight at once. `None`: [`DEFAULT_BATCH_SIZE`], more on a GPU.
    pub max_batch_size: Option<usize>,
    /// Most tokens computed in one step; prompts longer than this are computed in chunks. `None`: by the memory plan.
    pub token_budget: Option<usize>,
    /// Bytes of the KV pool. `None`: decided by the memory plan.
    pub kv_cache_bytes: Option<usize>,
    /// Whether requests with a common beginning share its pages.
    pub prefix_cache: bool,
    /// Whether a CUDA device records steps of generated tokens as graphs and replays them: faster, the same results.
    pub cuda_graphs: bool,
    /// Whether the next step is put together and queued while a GPU computes the present one: faster, the same results.
    pub async_scheduling: bool,
    /// A tokenizer elsewhere than beside the weights.
    pub tokenizer_path: Option<PathBuf>,
    /// Tokens that end a generation. `None`: those of the model's files.
    pub eos_token_ids: Option<Vec<u32>>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            load_format: LoadFormat::Auto,
            device: Device::Auto,
            gpu: 0,
            tensor_parallel: 1,
            dtype: None,
            threads: None,
            max_seq_len: None,
            max_batch_size: None,
            token_budget: None,
            kv_cache_bytes: None,
            prefix_cache: true,
            cuda_graphs: true,
            async_scheduling: true,
            tokenizer_path: None,
            eos_token_ids: None,
        }
    }
}

/// How tokens are chosen. `Default` is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches `top_p`; 1 keeps all.
    pub top_p: f32,
    /// The same seed, prompt and settings give the same tokens, whatever else runs.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// One prompt to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; at least one.
    pub max_new_tokens: usize,
    /// No token that ends a generation is chosen before this many tokens; another is, greedily the likeliest.
    pub min_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Generation stops when the text contains one of these, which is cut off.
    pub stop: Vec<String>,
    /// Go on after an end-of-sequence token (benchmarks).
    pub ignore_eos: bool,
}

impl Request {
    /// A greedy request.
    pub fn new(prompt: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            prompt,
            max_new_tokens,
            min_new_tokens: 0,
            sampling: SamplingParams::default(),
            stop: Vec::new(),
            ignore_eos: false,
        }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token, which is not part of the output.
    Eos,
    /// A stop string, which is not part of the text.
    Stop,
    /// `max_new_tokens`.
    Length,
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Index of the request in the list that was passed.
    pub request: usize,
    /// The generated text, special tokens left out. Ends in U+FFFD where a character was cut.
    pub text: String,
    /// The generated ids, without the end-of-sequence token.
    pub tokens: Vec<u32>,
    /// Natural log-probability of each of `tokens`.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them came from the prefix cache.
    pub cached_tokens: usize,
}

/// What a stream yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// One more token of a request.
    Token {
        /// Index of the request.
        request: usize,
        /// The token.
        token: u32,
        /// The text it completes; empty while a character is incomplete, or may begin a stop string.
        text: String,
    },
    /// Text that was held back because it might have begun a stop string.
    Text {
        /// Index of the request.
        request: usize,
        /// The text.
        text: String,
    },
    /// A request is done.
    Finished(Output),
}

/// One context and the continuations whose likelihood is wanted.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    /// Shared beginning; at least one token.
    pub context: Vec<u32>,
    /// Each is scored as if it alone followed the context; may be empty if only the context's losses are wanted. Where
    /// context and continuation are longer than [`ModelConfig::unscaled_context`](crate::ModelConfig::unscaled_context), all
    /// must be equally long.
    pub continuations: Vec<Vec<u32>>,
    /// Also return the log-probabilities of the context's own tokens.
    pub context_logprobs: bool,
}

/// The log-probabilities of a [`ScoreRequest`].
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Index of the request in the list that was passed.
    pub request: usize,
    /// Of `context[1..]` (the first token has no predecessor); empty unless asked for.
    pub context: Vec<f32>,
    /// Of every token of every continuation.
    pub continuations: Vec<Vec<f32>>,
    /// Per continuation: whether each of its tokens is the greedy choice.
    pub is_greedy: Vec<bool>,
}

/// What a stream of scores yields.
#[derive(Clone, Debug, PartialEq)]
pub enum ScoreEvent {
    /// A forward pass is done.
    Step,
    /// A request is done.
    Finished(Score),
}

/// What has been computed since the engine was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Prompt tokens of all admitted requests; of a continuation to be scored all but the last, which predicts nothing.
    pub prompt_tokens: u64,
    /// Of these, tokens found in the prefix cache.
    pub cached_tokens: u64,
    /// Prompt tokens that went through the model (`prompt_tokens - cached_tokens` once all are done).
    pub computed_prompt_tokens: u64,
    /// Generated tokens.
    pub generated_tokens: u64,
    /// Forward passes.
    pub steps: u64,
}
