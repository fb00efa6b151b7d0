//! The command line as written, with its help. `resolve.rs` turns it into settings.

mod files;
mod machine;

pub use files::{ConvertArgs, InspectArgs, PullArgs};
pub use machine::{BenchArgs, BenchWhat, DoctorArgs};

use clap::{Args, Parser, Subcommand, ValueEnum};
use oc_engine::{Device, Dtype, LoadFormat};
use oc_eval::HfType;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  # the built-in demonstration set, with a GGUF file
  oc-cli eval --datasets ceval_demo_gen --hf-path model.gguf --max-out-len 16

  # the real C-Eval, with a Hugging Face folder
  oc-cli eval --datasets ceval_gen --data-dir data --hf-path internlm2-7b \\
      --max-seq-len 2048 --max-out-len 16

  # fetch a model, see what it is and what it takes, and use it by its name
  oc-cli pull internlm/internlm2-chat-1_8b
  oc-cli inspect internlm/internlm2-chat-1_8b

  # see what would be sent, without computing anything
  oc-cli prompt --datasets ceval_demo_gen --subjects law --index 3";

const EXIT_CODES: &str = "\
Exit status:
  0    everything was scored
  1    finished, but some samples or subsets have no score: stderr says which, and why
  2    bad usage or input, or an error that ended the command: one `error:` on stderr
  130  interrupted; finished samples are kept, go on with -r

Environment:
  NO_COLOR            no colours
  OC_LOG              which log lines to show, e.g. debug or oc_engine=trace
  COMPASS_DATA_CACHE  data is looked for in its subfolder data, as OpenCompass does;
                      --data-dir wins
  HF_HUB_CACHE        where models called org/name are looked for, and `pull` puts them
                      [default: hub in HF_HOME, or ~/.cache/huggingface/hub]";

const EVAL_HELP: &str = "\
Command lines of OpenCompass's run.py work after `oc-cli eval`; flags of it that mean
nothing here are refused by name. So do its configuration files: they are evaluated
without Python, files, network or processes; what they import and is not beside them
comes from what is built in, see `oc-cli list-configs`.

Data goes to stdout: OpenCompass's table, the group averages, and one line with accuracy
± standard error and costs. Progress and log lines go to stderr. All files are in
WORK_DIR/<YYYYmmdd_HHMMSS>, laid out as OpenCompass's.

Examples:
  oc-cli eval --datasets ceval_demo_gen --hf-path model.gguf --max-out-len 16
  oc-cli eval --datasets ceval_gen --data-dir data --hf-path internlm2-7b \\
      --max-seq-len 2048 --max-out-len 16
  oc-cli eval --models hf_opt_125m --models-dir models --datasets ceval_gen
  oc-cli eval configs/eval_demo.py
  oc-cli eval ... --subjects law,logic --limit 5
  oc-cli eval ... --dry-run            # count prompts and tokens, compute nothing
  oc-cli eval ... -r                   # go on with the newest run";

const PROMPT_HELP: &str = "\
Takes the flags of `eval`, so that changing one word of a command line shows what it sends.

With --jsonl one JSON object a line: {\"subject\",\"index\",\"label\",\"prompt\",\"ids\"};
label only in ppl mode, ids only with a model, messages instead of prompt for
--hf-type chat without one.

Examples:
  oc-cli prompt --datasets ceval_demo_gen --subject law --index 3
  oc-cli prompt --datasets ceval_demo_gen --hf-path model.gguf --all --jsonl";

const LIST_HELP: &str = "\
The tables of OpenCompass's tools/list_configs.py, of what exists here: --models takes
the names of the first, --datasets those of the second.

Examples:
  oc-cli list-configs
  oc-cli list-configs internlm ceval";

const BENCH_HELP: &str = "\
The peaks of the machine are measured first. `of floor` is the time that the bytes would
take at the measured bandwidth, or the operations at the measured arithmetic peak, over
the time it took. Every problem is checked against a float64 reference; exit status 1 if
a result is wrong, or the backend cannot do a problem.

cpu        times by the host's clock, the best of many
cuda       times by the GPU's own events, the median of many; inputs and outputs are rotated
           through more memory than its caches hold; the ceilings are a copy's bandwidth
           (bytes read plus bytes written) and the largest product of our own
emulator   runs the GPU's kernels without a GPU and prints what they do instead of times:
           instructions of warps, bytes of memory sectors and tensor-core instructions as
           multiples of the floor, bank conflicts. Shapes are cut to what it does in seconds

Examples:
  oc-cli bench-kernels --device cuda --json > before.json
  oc-cli bench-kernels --device cuda --baseline before.json --op linear --shape 4096x
  oc-cli bench-kernels --device emulator --op rms_norm,attention --models all";

/// Scores language models as OpenCompass does, faster, without Python.
#[derive(Debug, Parser)]
#[command(name = "oc-cli", version, max_term_width = 110, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log more: the first prompt, the memory plan, the phases
    #[arg(long, global = true, help_heading = "General")]
    pub debug: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Evaluate a model on datasets
    #[command(after_help = format!("{EVAL_HELP}\n\n{EXIT_CODES}"))]
    Eval(Box<EvalArgs>),
    /// Continue one prompt
    Generate(Box<GenerateArgs>),
    /// Show the prompts of an evaluation: exact text, token ids, special tokens
    #[command(after_help = PROMPT_HELP)]
    Prompt(Box<PromptArgs>),
    /// List the models and datasets that have a name
    #[command(after_help = LIST_HELP)]
    ListConfigs(ListConfigsArgs),
    /// Show what a model is, what running it takes, and what of it is not supported
    #[command(after_help = files::INSPECT_HELP)]
    Inspect(InspectArgs),
    /// Write a model of any format as a Hugging Face folder with safetensors
    #[command(after_help = files::CONVERT_HELP)]
    Convert(ConvertArgs),
    /// Fetch a model from the Hugging Face hub: the one command that uses the network
    #[command(after_help = files::PULL_HELP)]
    Pull(PullArgs),
    /// Say what this machine can compute on, what is missing for more, and what --device auto takes
    #[command(after_help = machine::DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Time a whole model: prefill, decode, C-Eval
    #[command(after_help = machine::BENCH_HELP)]
    Bench(Box<BenchArgs>),
    /// Time every operation of a backend on the shapes of real models
    BenchKernels(BenchKernelsArgs),
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    /// The first GPU, where every operation is right on it; else the processor
    Auto,
    /// The processor
    Cpu,
    /// An NVIDIA GPU
    Cuda,
    /// The GPU's kernels without a GPU: for tests, thousands of times slower
    Emulator,
}

/// What to benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchDeviceArg {
    /// The processor
    Cpu,
    /// An NVIDIA GPU
    Cuda,
    /// The GPU's kernels without a GPU: checked and counted, not timed
    Emulator,
}

impl From<DeviceArg> for Device {
    fn from(device: DeviceArg) -> Self {
        match device {
            DeviceArg::Auto => Self::Auto,
            DeviceArg::Cpu => Self::Cpu,
            DeviceArg::Cuda => Self::Cuda,
            DeviceArg::Emulator => Self::Emulator,
        }
    }
}

/// What to compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// bf16 on a GPU and where the processor has it, else f32
    Auto,
    /// 32-bit floats: reference quality
    #[value(alias = "float32")]
    F32,
    /// bfloat16 products with f32 sums
    #[value(alias = "bfloat16")]
    Bf16,
    /// 8-bit activations times 8-bit weights: fastest, changes results slightly, and is named beside them
    Int8,
    /// IEEE half precision, as bf16; on a GPU only
    #[value(alias = "float16")]
    F16,
}

impl DtypeArg {
    /// `None`: the engine chooses.
    pub fn dtype(self) -> Option<Dtype> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(Dtype::F32),
            Self::Bf16 => Some(Dtype::Bf16),
            Self::Int8 => Some(Dtype::Int8),
            Self::F16 => Some(Dtype::F16),
        }
    }
}

/// Where the weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadFormatArg {
    /// The model's files
    Auto,
    /// Random numbers of the shapes in its config.json: for benchmarks
    Dummy,
}

impl From<LoadFormatArg> for LoadFormat {
    fn from(format: LoadFormatArg) -> Self {
        match format {
            LoadFormatArg::Auto => Self::Auto,
            LoadFormatArg::Dummy => Self::Dummy,
        }
    }
}

/// How prompts reach the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HfTypeArg {
    /// Plain text
    Base,
    /// Messages through the model's chat template
    Chat,
}

impl From<HfTypeArg> for HfType {
    fn from(hf_type: HfTypeArg) -> Self {
        match hf_type {
            HfTypeArg::Base => Self::Base,
            HfTypeArg::Chat => Self::Chat,
        }
    }
}

/// The model and how to run it.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model: a .gguf file, a Hugging Face folder with config.json, weights and tokenizer, or the org/name of one that
    /// `pull` fetched
    #[arg(long, value_name = "PATH")]
    pub hf_path: Option<String>,
    /// Tokenizer elsewhere: tokenizer.json, a folder with one, or a .gguf file
    #[arg(long, value_name = "PATH")]
    pub tokenizer_path: Option<String>,
    /// As in OpenCompass: torch_dtype, device_map, trust_remote_code …
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    pub model_kwargs: Vec<String>,
    /// As in OpenCompass: padding_side, truncation_side, trust_remote_code …
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    pub tokenizer_kwargs: Vec<String>,
    /// Where the weights come from; random ones answer nothing, but as fast as real ones
    #[arg(long, value_enum, default_value = "auto")]
    pub load_format: LoadFormatArg,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceArg,
    /// What to compute in [default: auto, or torch_dtype of --model-kwargs]
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeArg>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub threads: Option<usize>,
    /// Upper bound on sequences in flight [default: 256, more on a GPU]; never changes results
    #[arg(long, value_name = "N", value_parser = positive)]
    pub batch_size: Option<usize>,
    /// Memory for the KV cache in MiB [default: by the memory free at load]
    #[arg(long, value_name = "MIB", value_parser = positive)]
    pub kv_cache_mib: Option<usize>,
    /// Compute every prompt from its first token; never changes results
    #[arg(long)]
    pub no_prefix_cache: bool,
    /// On a GPU, launch every kernel by itself instead of replaying recorded steps; never changes results
    #[arg(long)]
    pub enforce_eager: bool,
    /// On a GPU, wait for each step before the next one is prepared; never changes results
    #[arg(long)]
    pub no_async_scheduling: bool,
    /// GPUs that share the questions [default: 1]. A model too large for one is cut over as few of them as hold it, and with
    /// `eval` the rest hold further copies. On the processor the number is only recorded
    #[arg(long, visible_alias = "hf-num-gpus", value_name = "N")]
    pub num_gpus: Option<usize>,
    /// GPUs that one copy of the model is cut over [default: as few as hold it]. Sums of several parts are rounded differently,
    /// so results record the number
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tensor_parallel_size: Option<usize>,
}

/// Which questions, in which form.
#[derive(Args, Debug)]
#[command(next_help_heading = "Questions")]
pub struct QuestionArgs {
    /// Datasets by name, e.g. ceval_gen (the C-Eval val split) or ceval_demo_gen (built in)
    #[arg(long, value_name = "NAME", num_args = 1.., required_unless_present = "config")]
    pub datasets: Vec<String>,
    /// Folder or downloaded archive with the data [default: data, if there is any in it]
    #[arg(long, value_name = "PATH")]
    pub data_dir: Option<PathBuf>,
    /// Only these subjects
    #[arg(long, visible_alias = "subject", value_name = "A,B", value_delimiter = ',')]
    pub subjects: Vec<String>,
    /// Only the first N questions of each subject
    #[arg(long, value_name = "N", value_parser = positive)]
    pub limit: Option<usize>,
    /// Plain text, or messages through the model's chat template [default: base]
    #[arg(long, value_enum)]
    pub hf_type: Option<HfTypeArg>,
    /// Wrap the rounds of a plain-text prompt in a named meta template
    #[arg(long, value_name = "NAME")]
    pub meta_template: Option<String>,
    /// Leave placeholders such as {A} alone where they stand in the questions themselves; OpenCompass replaces them
    #[arg(long)]
    pub strict_braces: bool,
    /// Prompts with more tokens lose in-context examples, then their beginning; both are counted [default: only the
    /// model's own limit, which cuts the beginning]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_seq_len: Option<usize>,
    /// Most tokens to generate [default: 256]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_out_len: Option<usize>,
    /// Extra stop strings, cut from the answer
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    pub stop_words: Vec<String>,
    /// As in OpenCompass: do_sample, temperature, top_k, top_p, seed [default: greedy]
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    pub generation_kwargs: Vec<String>,
}

/// Arguments of `eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// A configuration: OpenCompass's .py (evaluated in a sandbox, without Python), or our .toml
    #[arg(value_name = "CONFIG")]
    pub config: Option<PathBuf>,
    /// Models by OpenCompass's names, e.g. hf_internlm2_chat_7b; see `oc-cli list-configs`
    #[arg(long, value_name = "NAME", num_args = 1.., help_heading = "Model")]
    pub models: Vec<String>,
    /// Where the weights of --models and of a configuration are looked for, by the name they have on the hub
    #[arg(long, value_name = "DIR", default_value = "models", help_heading = "Model")]
    pub models_dir: PathBuf,
    /// Where --models and --datasets look for configurations of your own before those that are built in: DIR/models and
    /// DIR/datasets, as in OpenCompass
    #[arg(long, value_name = "DIR", default_value = "configs", help_heading = "Questions")]
    pub config_dir: PathBuf,
    /// Which questions.
    #[command(flatten)]
    pub questions: QuestionArgs,
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Where it goes.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The run folder and what of a run to do.
#[derive(Args, Debug)]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// Run folders are created in it; wins over a configuration's [default: outputs/default]
    #[arg(short, long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Go on with an earlier run, by default the newest in the work dir: answered questions are not asked again
    #[arg(short, long, visible_alias = "resume", value_name = "YYYYmmdd_HHMMSS", num_args = 0..=1,
          default_missing_value = "latest")]
    pub reuse: Option<String>,
    /// Build and count every prompt, then stop: nothing is computed or written
    #[arg(long)]
    pub dry_run: bool,
    /// `False` leaves the details of each question out of the results files
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value = "True", default_missing_value = "True",
          value_parser = python_bool, action = clap::ArgAction::Set)]
    pub dump_eval_details: bool,
    /// all; infer: only ask; eval: score the predictions of an earlier run (-r), ours or OpenCompass's; viz: only show
    /// the table of its results
    #[arg(short, long, value_name = "MODE", default_value = "all")]
    pub mode: String,
    /// Group averages of one dataset only: ceval, cmmlu, mmlu … [default: example, those of all datasets of the run]
    #[arg(long, value_name = "NAME")]
    pub summarizer: Option<String>,
    /// Accepted for OpenCompass's command lines, where it has no effect either
    #[arg(long, value_name = "N", hide = true)]
    pub min_out_len: Option<usize>,
    /// As in OpenCompass: the token whose losses perplexities leave out [default: the model's own padding token]
    #[arg(long, value_name = "ID")]
    pub pad_token_id: Option<u32>,
    /// Accepted: one process does all the work
    #[arg(long, value_name = "N", hide = true)]
    pub max_num_workers: Option<usize>,
    /// Accepted: one process does all the work
    #[arg(long, value_name = "N", hide = true)]
    pub max_workers_per_gpu: Option<usize>,
}

/// Arguments of `prompt`.
#[derive(Args, Debug)]
pub struct PromptArgs {
    /// Everything that decides a prompt, and the rest of what `eval` takes.
    #[command(flatten)]
    pub eval: EvalArgs,
    /// Which question of the (first) subject, from 0
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Prompt")]
    pub index: usize,
    /// Every question of every subject
    #[arg(long, conflicts_with = "index", help_heading = "Prompt")]
    pub all: bool,
    /// One JSON object a line
    #[arg(long, help_heading = "Prompt")]
    pub jsonl: bool,
}

/// Arguments of `generate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  oc-cli generate --hf-path model.gguf 'The capital of France is' --max-out-len 16
  echo 'Why is the sky blue?' | oc-cli generate --hf-path model.gguf --chat --stats")]
pub struct GenerateArgs {
    /// The prompt; without it, or as `-`, standard input
    pub prompt: Option<String>,
    /// Send it as a user's message through the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// A system message before it
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Most tokens to generate [default: 256, or what is left of the context]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_out_len: Option<usize>,
    /// Longest context, prompt and output together [default: the model's]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_seq_len: Option<usize>,
    /// Stop before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Randomness; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Sample from the K likeliest tokens only; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Sample from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// The same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Tokens and speed to stderr
    #[arg(long)]
    pub stats: bool,
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Arguments of `list-configs`.
#[derive(Args, Debug)]
pub struct ListConfigsArgs {
    /// Only names that hold one of these; `*`, `?` and `[abc]` as in a shell
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
}

/// Arguments of `bench-kernels`.
#[derive(Args, Debug)]
#[command(after_help = BENCH_HELP)]
pub struct BenchKernelsArgs {
    /// Which backend
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: BenchDeviceArg,
    /// Which GPU, of several
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpu: usize,
    /// What to compute in
    #[arg(long, value_enum, default_value = "auto")]
    pub dtype: DtypeArg,
    /// Worker threads of the processor or the emulator [default: one per core]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub threads: Option<usize>,
    /// Only these operations
    #[arg(long = "op", visible_alias = "ops", value_name = "A,B", value_delimiter = ',')]
    pub ops: Vec<String>,
    /// Only shapes whose printed form contains this, with x for ×; may be given again
    #[arg(long = "shape", value_name = "TEXT")]
    pub shapes: Vec<String>,
    /// Shapes of these models, or `all` [default: all on a GPU, else the two small ones]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub models: Vec<String>,
    /// Tokens of a step [default: 1,512; on a GPU 1,16,512,4096]
    #[arg(long, value_name = "N,M", value_delimiter = ',', value_parser = positive)]
    pub rows: Vec<usize>,
    /// How long to repeat each problem, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 150)]
    pub time: u64,
    /// One JSON document instead of a table
    #[arg(long)]
    pub json: bool,
    /// An earlier --json output: each row also says its time over the time there
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
}

/// A whole number above 0.
fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a whole number above 0 is wanted".into())
}

fn python_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("True or False is wanted".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_tutorials_command_line_parses() {
        let line = "oc-cli eval --datasets ceval_gen --hf-path DIR --tokenizer-path DIR --tokenizer-kwargs \
                    padding_side=left truncation=left trust_remote_code=True --model-kwargs trust_remote_code=True \
                    device_map=auto --max-seq-len 2048 --max-out-len 16 --batch-size 4 --num-gpus 1 --debug";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        assert!(cli.debug);
        let Command::Eval(eval) = cli.command else { panic!("eval") };
        assert_eq!(eval.questions.datasets, ["ceval_gen"]);
        assert_eq!(eval.model.tokenizer_kwargs.len(), 3);
        assert_eq!(eval.model.model_kwargs.len(), 2);
        assert_eq!((eval.questions.max_seq_len, eval.questions.max_out_len), (Some(2048), Some(16)));
        assert_eq!((eval.model.batch_size, eval.model.num_gpus), (Some(4), Some(1)));
        assert!(eval.run.dump_eval_details && eval.run.reuse.is_none());
    }

    #[test]
    fn reuse_takes_a_name_or_nothing() {
        let reuse = |tail: &str| {
            let line = format!("oc-cli eval --datasets d {tail}");
            let Command::Eval(eval) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
                panic!("eval")
            };
            eval.run.reuse
        };
        assert_eq!(reuse("-r").as_deref(), Some("latest"));
        assert_eq!(reuse("-r 20260102_030405 --debug").as_deref(), Some("20260102_030405"));
        assert_eq!(reuse("--resume 20260102_030405").as_deref(), Some("20260102_030405"));
        assert_eq!(reuse("-r -w x").as_deref(), Some("latest"));
        assert_eq!(reuse(""), None);
    }
}
