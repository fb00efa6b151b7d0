//! Arguments of the commands that look at the machine: `doctor` and `bench`.

use super::{ModelArgs, positive};
use clap::{Args, ValueEnum};

pub const BENCH_HELP: &str = "\
Prompts are random tokens, so that a model needs neither a tokenizer nor a checkpoint:
--shape, or --load-format dummy with the folder of a config.json, make random weights.

prefill   one prompt a sequence, computed from its first token
decode    tokens that are generated after those prompts
gen, ppl  all of C-Eval val in its sizes: --subjects prefixes of 1100 tokens, --questions
          tails of 110 each. gen generates 16 tokens a question; ppl scores four choices

`of floor`: the time that the device would need at its peaks, measured first (weights and
the KV cache read once a step at the bandwidth of memory, or every multiplication at the
peak of arithmetic, whichever is longer), over the time it took. Times are medians.

Examples:
  oc-cli bench --shape SmolLM2-135M
  oc-cli bench --shape InternLM2-7B --device cuda --what prefill,decode,gen,ppl
  oc-cli bench --hf-path model.gguf --sequences 1,16 --json";

pub const DOCTOR_HELP: &str = "\
Every operation is tried on the processor and on each GPU, and compared with a float64
reference. Exit status 1 if one is wrong, or a GPU or its driver is there and cannot be
used.

Examples:
  oc-cli doctor
  oc-cli doctor --json";

/// What `bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchWhat {
    /// Prompts
    Prefill,
    /// Generated tokens
    Decode,
    /// C-Eval's sizes, answers generated
    Gen,
    /// C-Eval's sizes, choices scored
    Ppl,
}

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "prefill,decode")]
    pub what: Vec<BenchWhat>,
    /// Random weights in the shape of a model: SmolLM2-135M, Qwen2-0.5B, InternLM2-7B, InternLM-7B or InternLM-20B
    #[arg(long, value_name = "NAME", conflicts_with = "hf_path")]
    pub shape: Option<String>,
    /// Tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive)]
    pub prompt_tokens: usize,
    /// Tokens generated after it
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    pub new_tokens: usize,
    /// Sequences at a time
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,16", value_parser = positive)]
    pub sequences: Vec<usize>,
    /// Subjects of C-Eval
    #[arg(long, value_name = "N", default_value_t = 52, value_parser = positive)]
    pub subjects: usize,
    /// Questions of a subject; 26 make 1,352, where C-Eval has 1,346
    #[arg(long, value_name = "N", default_value_t = 26, value_parser = positive)]
    pub questions: usize,
    /// Times that prefill and decode are measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    pub repeat: usize,
    /// One JSON document instead of a table
    #[arg(long)]
    pub json: bool,
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// One JSON document instead of text
    #[arg(long)]
    pub json: bool,
}
