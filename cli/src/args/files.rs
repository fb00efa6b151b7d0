//! Arguments of the commands that are about model files.

use clap::{Args, ValueEnum};
use oc_kernels::WeightFormat;
use std::path::PathBuf;

pub const INSPECT_HELP: &str = "\
Only headers are read, however large the model is. Memory is that of the processor; the
KV cache grows with every token of every sequence in flight.

Exit status: 0 if the model runs, 1 if something of it is not supported (listed at the
end, everything that is found), 2 if there is no such file or folder.

Examples:
  oc-cli inspect model.gguf
  oc-cli inspect internlm/internlm2-7b --json";

pub const CONVERT_HELP: &str = "\
Reads whatever `eval` reads: safetensors or pytorch_model.bin (in shards or not), GGUF
(quantised weights become the numbers that they stand for). Writes config.json,
model.safetensors (or shards of at most 5 GB with their index), the tokenizer and the
chat template. Never more than about one tensor is in memory, and OUT appears only when
it is complete; what a killed run leaves behind is the hidden folder `.OUT.incomplete`,
which the next one clears.

Examples:
  oc-cli convert model.gguf model-f32
  oc-cli convert internlm2-7b internlm2-7b-bf16 --dtype bf16";

pub const PULL_HELP: &str = "\
Files go where every tool of the hub looks for them: HF_HUB_CACHE, else hub in HF_HOME,
else ~/.cache/huggingface/hub; afterwards `--hf-path org/name` finds them. Each is
checked against the hub's checksum before it gets its name, and an interrupted one is
continued where it stopped.

By default: what running the model needs, that is configuration, tokenizer, chat template
and weights, as safetensors where there are any, else pytorch_model*.bin. GGUF files only
with --include.

Environment: HF_ENDPOINT (another hub), HF_TOKEN (for gated models), HF_HUB_OFFLINE=1
(nothing is fetched), HF_HUB_CACHE, HF_HOME; HTTPS_PROXY and the like are respected.

Examples:
  oc-cli pull internlm/internlm2-chat-7b
  oc-cli pull Qwen/Qwen2.5-0.5B-Instruct-GGUF --include '*q4_k_m.gguf'
  oc-cli pull org/name --revision v1.0 --exclude '*.bin'";

/// Arguments of `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// A .gguf file, a Hugging Face folder, or the name of a model that was pulled
    pub path: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// A format of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FloatArg {
    /// 32-bit floats
    #[value(alias = "float32")]
    F32,
    /// IEEE half precision; an error where a number is too large for it
    #[value(alias = "float16")]
    F16,
    /// bfloat16
    #[value(alias = "bfloat16")]
    Bf16,
}

impl From<FloatArg> for WeightFormat {
    fn from(float: FloatArg) -> Self {
        match float {
            FloatArg::F32 => Self::F32,
            FloatArg::F16 => Self::F16,
            FloatArg::Bf16 => Self::Bf16,
        }
    }
}

/// Arguments of `convert`.
#[derive(Args, Debug)]
pub struct ConvertArgs {
    /// A .gguf file, a Hugging Face folder, or the name of a model that was pulled
    #[arg(value_name = "IN")]
    pub input: String,
    /// The folder to write
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// What to write [default: as stored; quantised weights become f32, which is exact]
    #[arg(long, value_enum)]
    pub dtype: Option<FloatArg>,
    /// Replace OUT where it is a model already, in one step and only when the new one is complete
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `pull`.
#[derive(Args, Debug)]
pub struct PullArgs {
    /// The model, as org/name
    pub name: String,
    /// A branch, a tag or a commit
    #[arg(long, value_name = "REV", default_value = "main")]
    pub revision: String,
    /// Only files whose name matches, `*`, `?` and `[abc]` as in a shell; may be given again
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// No files whose name matches; may be given again
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
}
