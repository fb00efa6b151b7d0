//! Configuration files and models by name, through the real binary.

use assert_cmd::Command;
use oc_tests::{fixture, json_lines, shared};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The binary in a folder of its own.
struct Cli {
    dir: tempfile::TempDir,
}

impl Cli {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// With a file in it.
    fn with(path: &str, content: &str) -> Self {
        let cli = Self::new();
        cli.write(path, content);
        cli
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn run(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
        command.current_dir(self.dir.path()).args(line.split_whitespace());
        for name in ["COMPASS_DATA_CACHE", "OC_LOG", "NO_COLOR", "HF_HOME", "HF_HUB_CACHE", "HOME"] {
            command.env_remove(name);
        }
        command
    }

    /// The error of a command that is refused with status 2.
    fn refusal(&self, line: &str) -> String {
        let output = self.run(line).assert().code(2).stdout("").get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked") && !stderr.contains("overflow"), "{stderr}");
        let start = stderr.find("error: ").unwrap_or_else(|| panic!("no error in {stderr:?}"));
        stderr[start + "error: ".len()..].to_owned()
    }

    /// The error of `eval x.py`, where `x.py` is `source`.
    fn refused(source: &str) -> String {
        Self::with("x.py", source).refusal("eval x.py")
    }

    /// The run folders, oldest first.
    fn runs(&self, work_dir: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join(work_dir)).unwrap();
        let mut runs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
        runs.sort();
        runs
    }

    /// A folder of models with the tiny checkpoint under the name of a model.
    fn with_weights(&self, name: &str) {
        let folder = self.dir.path().join("models").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for file in std::fs::read_dir(fixture("llama")).unwrap().map(|entry| entry.unwrap().path()) {
            std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
        }
    }
}

/// Files of a run folder that hold answers and scores, by path.
fn answers(run: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for stage in ["predictions", "results"] {
        for model in std::fs::read_dir(run.join(stage)).unwrap().map(|entry| entry.unwrap().path()) {
            for file in std::fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().path()) {
                let name = file.strip_prefix(run).unwrap().to_string_lossy().into_owned();
                files.insert(name, std::fs::read_to_string(&file).unwrap());
            }
        }
    }
    files
}

const DEMO: &str = "\
from mmengine.config import read_base

with read_base():
    from .datasets.ceval_demo_gen import ceval_demo_datasets
    from .models.opt.hf_opt_125m import opt125m
    from .summarizers.groups.ceval import ceval_summary_groups

summarizer = dict(summary_groups=sum([v for k, v in locals().items() if k.endswith('_summary_groups')], []))
datasets = sum((v for k, v in locals().items() if k.endswith('_datasets')), [])
datasets = [d for d in datasets if d['name'] in ['law', 'logic']]
for _d in datasets:
    _d['reader_cfg'].update(test_range='[:3]')
models = [dict(opt125m, max_out_len=8, abbr=f'{opt125m[\"abbr\"]}-{i}') for i in range(1)]
del _d
";

#[test]
fn a_demo_runs_and_its_saved_configuration_gives_the_same() {
    let cli = Cli::with("configs/eval_demo.py", DEMO);
    cli.with_weights("facebook/opt-125m");
    cli.run("eval configs/eval_demo.py -w out").assert().code(0);
    let first = cli.runs("out").pop().unwrap();
    let saved = std::fs::read_dir(first.join("configs")).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&saved).unwrap();
    assert!(text.contains("path='facebook/opt-125m'") && text.contains("abbr='opt-125m-hf-0'"), "{text}");
    assert!(text.contains("type='opencompass.models.HuggingFaceBaseModel'") || text.contains("HuggingFaceBaseModel'"));
    let line = format!("eval {} -w again", saved.display());
    cli.run(&line).assert().code(0);
    let second = cli.runs("again").pop().unwrap();
    let (first, second) = (answers(&first), answers(&second));
    assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>());
    assert_eq!(first.len(), 4, "two subsets, each with predictions and results");
    for (name, content) in &first {
        assert_eq!(content, &second[name], "{name}");
    }
}

#[test]
fn the_users_own_files_come_before_what_is_built_in() {
    let cli = Cli::with("configs/eval.py", DEMO);
    let own = "models = [dict(type='HuggingFaceBaseModel', abbr='mine', path='nowhere', max_out_len=1)]\nopt125m = models[0]\n";
    cli.write("configs/models/opt/hf_opt_125m.py", own);
    let error = cli.refusal("eval configs/eval.py");
    assert!(error.contains("the weights of mine-0 (`nowhere`) were not found"), "{error}");
    // It is found from other folders too, and by its absolute name from the working directory.
    cli.write(
        "configs/deep/er/eval.py",
        &DEMO.replace("from .datasets", "from ...datasets").replace("from .models", "from ...models"),
    );
    assert!(cli.refusal("eval configs/deep/er/eval.py").contains("the weights of mine-0"));
    cli.write("opencompass/configs/models/opt/hf_opt_125m.py", &own.replace("mine", "absolute"));
    cli.write("eval.py", &DEMO.replace("from .models", "from opencompass.configs.models"));
    assert!(cli.refusal("eval eval.py").contains("the weights of absolute-0"));
}

#[test]
fn names_are_looked_for_in_the_users_folder_first() {
    let cli = Cli::new();
    cli.with_weights("facebook/opt-125m");
    let mine = "from ..opt.hf_opt_125m import opt125m\nmodels = [dict(opt125m, abbr='mine', max_out_len=4)]\n";
    cli.write("configs/models/own/my_model.py", mine);
    let first = "from ...base.ceval_demo_gen import ceval_demo_datasets as _all\n\
                 first_datasets = [d for d in _all if d['name'] == 'law']\nother = [d for d in _all if d['name'] == 'logic']\n";
    cli.write("configs/datasets/deep/er/my_gen.py", first);
    let counted = |line: &str| {
        let output = cli.run(&format!("eval {line} --dry-run")).assert().code(0).get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(counted("--models my_model --datasets my_gen").starts_with("1 subsets, 10 questions"));
    assert!(counted("--models my_model --datasets my_gen/other").starts_with("1 subsets, 10 questions"));
    let both = cli.refusal("eval --models my_model --datasets my_gen ceval_demo_gen");
    assert!(both.starts_with("two datasets have a subset ceval_demo-law"), "{both}");
    cli.write(
        "elsewhere/models/hf_opt_125m.py",
        "models = [dict(type='HuggingFaceBaseModel', path='x', max_out_len=1)]\n",
    );
    let error = cli.refusal("eval --models hf_opt_125m --datasets ceval_demo_gen --config-dir elsewhere");
    assert!(error.starts_with("elsewhere/models/hf_opt_125m.py:1: the weights of HuggingFaceBaseModel_x"), "{error}");
    let error = cli.refusal("eval --models my_model --datasets my_gen/absent");
    assert!(error.contains("my_gen.py has no variable that ends in `absent`"), "{error}");
    let error = cli.refusal("eval --models my_model --datasets my_gen no_such");
    assert!(error.starts_with("unknown dataset `no_such`"), "{error}");
}

#[test]
fn flags_that_the_file_decides_are_named() {
    let cli = Cli::with("eval.py", DEMO);
    let output = cli.run("eval eval.py --datasets ceval_gen --max-out-len 3").assert().code(2).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("the weights of opt-125m-hf-0 (`facebook/opt-125m`) were not found"), "{stderr}");
    assert!(stderr.contains("at models/facebook/opt-125m, or a file at models/opt-125m.gguf"), "{stderr}");
    cli.with_weights("facebook/opt-125m");
    let output = cli.run("eval eval.py --datasets x --max-out-len 3 --dry-run").assert().code(0).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("--max-out-len, --datasets without effect, as in OpenCompass"), "{stderr}");
}

#[test]
fn prompts_of_registered_models_are_the_goldens() {
    let (Some(data), Some(_)) = (shared("data"), shared("goldens/prompts/MANIFEST.json")) else { return };
    let subjects = "computer_network,operating_system,law,high_school_chinese,physician";
    let cli = Cli::new();
    for (model, dataset, golden) in [
        ("hf_internlm2_7b", "ceval_gen", "ceval_gen_5f30c7.base"),
        ("hf_internlm_chat_7b", "ceval_gen", "ceval_gen_5f30c7.internlm_chat"),
        ("hf_internlm2_chat_7b_with_system", "ceval_gen", "ceval_gen_5f30c7.internlm2_chat"),
        ("hf_internlm2_chat_7b", "ceval_gen", "ceval_gen_5f30c7.hf_messages"),
        ("hf_internlm2_chat_7b_with_system", "ceval_ppl", "ceval_ppl_578f8d.internlm2_chat"),
    ] {
        let Some(golden) = shared(&format!("goldens/prompts/{golden}.jsonl.gz")) else { return };
        let prompts = |line: &str, file: Option<&str>| {
            if let Some(source) = file {
                cli.write("eval.py", source);
            }
            let mut command = cli.run(line);
            command.arg("--data-dir").arg(&data);
            let output = command.assert().code(0).get_output().clone();
            let lines = String::from_utf8(output.stdout).unwrap();
            lines.lines().map(|line| prompt(serde_json::from_str(line).unwrap())).collect::<Vec<_>>()
        };
        let all = format!("--subjects {subjects} --all --jsonl");
        let mut wanted: Vec<_> = json_lines::<Value>(&golden).into_iter().map(prompt).collect();
        wanted.sort();
        let mut by_name = prompts(&format!("prompt --models {model} --datasets {dataset} {all}"), None);
        by_name.sort();
        assert!(by_name == wanted, "--models {model} --datasets {dataset}");
        // The same from a configuration file.
        let source = format!(
            "from mmengine.config import read_base\nwith read_base():\n    \
             from opencompass.configs.models.hf_internlm.{model} import models\n    \
             from opencompass.configs.datasets.ceval.{dataset} import ceval_datasets as datasets\n"
        );
        let mut by_file = prompts(&format!("prompt eval.py {all}"), Some(&source));
        by_file.sort();
        assert!(by_file == wanted, "{source}");
    }
}

/// What identifies a prompt, and the prompt.
fn prompt(record: Value) -> (String, u64, String, String) {
    let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let prompt = if record["messages"].is_null() { text("prompt") } else { record["messages"].to_string() };
    (text("subject"), record["index"].as_u64().unwrap(), text("label"), prompt)
}

#[test]
fn what_does_not_exist_here_is_named_with_file_and_line() {
    let head = "from opencompass.models import HuggingFaceBaseModel, OpenAI\n\
                from opencompass.datasets import CEvalDataset, GSM8KDataset\n\
                m = dict(type=HuggingFaceBaseModel, abbr='m', path='p', max_out_len=1)\n";
    let error = Cli::refused(&format!(
        "{head}models = [m]\ndatasets = [\n    dict(abbr='gsm8k',\n         type=GSM8KDataset)]\n"
    ));
    assert!(
        error.starts_with("x.py:6: dataset gsm8k: the type `opencompass.datasets.GSM8KDataset` does not exist here"),
        "{error}"
    );
    assert!(error.contains("imported at x.py:2") && error.contains("CEvalDataset"), "{error}");
    let error = Cli::refused(&format!("{head}datasets = [dict(type=CEvalDataset)]\nmodels = [m, dict(type=OpenAI)]\n"));
    assert!(error.starts_with("x.py:5: model: the type `opencompass.models.OpenAI` does not exist here"), "{error}");
    // Also inside a dataset that exists, in a file that is imported.
    let cli = Cli::with("x.py", &format!("{head}models = [m]\nfrom .sub import datasets\n"));
    cli.write(
        "sub.py",
        "from opencompass.datasets import CEvalDataset\nfrom opencompass.openicl.icl_retriever import BM25Retriever\n\
         datasets = [dict(type=CEvalDataset, abbr='a', infer_cfg=dict(\n    retriever=dict(type=BM25Retriever)))]\n",
    );
    let error = cli.refusal("eval x.py");
    assert!(error.starts_with("sub.py:4: dataset a: the type"), "{error}");
    assert!(error.contains("`opencompass.openicl.icl_retriever.BM25Retriever` does not exist here"), "{error}");
    // A name that is only used in passing is no error.
    let error = Cli::refused(&format!("{head}models = [m]\nother = dict(type=OpenAI)\n"));
    assert!(error.starts_with("x.py has no variable `datasets`"), "{error}");
}

#[test]
fn configurations_that_make_no_sense_are_errors() {
    for (source, message) in [
        ("models = [\n", "x.py:"),
        ("models = [)\n", "x.py:1: this is not Python: "),
        ("a = 1\nb = c\n", "x.py:2: the name `c` is not defined"),
        ("from .models.opt.hf_opt_125 import models\n", "x.py:1: there is no file models/opt/hf_opt_125.py, and no"),
        ("from .models.opt.hf_opt_125 import models\n", "did you mean `hf_opt_125m`"),
        ("from .models.opt.hf_opt_125m import model\n", "x.py:1: `models.opt.hf_opt_125m` has no variable `model`"),
        ("import numpy\n", "x.py:1: the module `numpy` does not exist in configurations"),
        ("datasets = []\n", "x.py has no variable `models`"),
        ("models = dict()\n", "x.py: `models` is a dict, wanted a list"),
        ("models = []\n", "x.py: `models` is empty"),
        ("models = [3]\n", "x.py: `models` holds an int, wanted dictionaries"),
        ("models = [dict(type=lambda x: x)]\n", "x.py:1: the `type` of model is a function"),
        ("models = [dict(type='HuggingFaceBaseModel',\n f=lambda x: x)]\n", "x.py:2: model holds a function"),
        ("models = [{(1, 2): 3}]\n", "x.py:1: a key of model is a tuple"),
        ("raise ValueError('no')\n", "x.py:1: the configuration raises ValueError: no"),
        ("assert 1 == 2, 'why'\n", "x.py:1: assertion failed: why"),
        ("class A: pass\n", "x.py:1: classes are not supported in configurations"),
        ("a = {}\nb = a['k']\n", "x.py:2: there is no key 'k'"),
        ("model_dataset_combinations = []\n", "`model_dataset_combinations` is not supported"),
    ] {
        let error = Cli::refused(source);
        assert!(error.contains(message), "{source:?}: {error:?} lacks {message:?}");
    }
    let cli = Cli::new();
    assert!(cli.refusal("eval absent.py").contains("absent.py: No such file"));
    assert!(cli.refusal("eval Cargo.lock").contains("Cargo.lock: unknown kind of configuration"));
    assert!(cli.refusal("eval --models hf_opt_125 --datasets ceval_demo_gen").contains("did you mean `hf_opt_125m`"));
    let error = cli.refusal("eval --models hf_opt_125m --datasets ceval_demo_gen --models-dir elsewhere");
    assert!(error.contains("at elsewhere/facebook/opt-125m") && error.contains("nothing is downloaded"), "{error}");
}

#[test]
fn settings_of_models_are_checked_with_their_place() {
    let file = |keys: &str| {
        format!(
            "from .datasets.ceval_demo_gen import ceval_demo_datasets as datasets\n\
             from opencompass.models import HuggingFaceCausalLM\n\
             models = [dict(type=HuggingFaceCausalLM, path='p', max_out_len=1, {keys})]\n"
        )
    };
    for (keys, message) in [
        ("abbr='a', maxlen=3", "x.py:3: unknown key `maxlen` of a model"),
        ("abbr='a', peft_path='x'", "x.py:3: `peft_path` is not supported"),
        ("abbr='a', batch_size='x'", "x.py:3: `batch_size` is \"x\""),
        ("abbr='a', model_kwargs=dict(load_in_8bit=True)", "unknown key `load_in_8bit` in x.py:3: model_kwargs"),
        ("abbr='a', generation_kwargs=dict(num_beams=4)", "x.py:3: generation_kwargs num_beams=4 is not supported"),
        (
            "abbr='a', pred_postprocessor=dict(\n    type='x.general_postprocess')",
            "x.py:3: model a: the type `x.general_postprocess` does not exist here",
        ),
        (
            "abbr='a', pred_postprocessor=dict(type='first-capital', options='A')",
            "x.py:3: `options` of first-capital is not supported",
        ),
        ("abbr='a', pred_postprocessor='first-capital'", "x.py:3: `pred_postprocessor` is \"first-capital\""),
        (
            "abbr='a', pred_postprocessor=dict(type='first_option_postprocess')",
            "x.py:3: first_option_postprocess needs `options`",
        ),
        ("abbr='a', batch_padding=3", "x.py:3: `batch_padding` is 3"),
        ("abbr='a', end_str=[]", "x.py:3: `end_str` is []"),
        ("meta_template=[]", "the weights of HuggingFaceCausalLM_p (`p`) were not found"),
    ] {
        let error = Cli::refused(&file(keys));
        assert!(error.contains(message), "{keys}: {error:?} lacks {message:?}");
    }
    let cli = Cli::with("x.py", &file("abbr='a', meta_template=dict(round=[])"));
    let error = cli.refusal("prompt x.py");
    assert!(error.contains("model a: a meta template needs a `round`"), "{error}");
}

/// Keys without effect on a class are said to have none, and how answers are scored has to fit data and model.
#[test]
fn what_scores_answers_has_to_fit() {
    let cli = Cli::new();
    let file = |class: &str, keys: &str, eval: &str| {
        let source = format!(
            "from .datasets.ceval_demo_gen import ceval_demo_datasets\n\
             from opencompass.models import {class}\n\
             datasets = [d for d in ceval_demo_datasets if d['name'] == 'law']\n\
             for d in datasets:\n    d['eval_cfg'].update({eval})\n\
             models = [dict(type={class}, abbr='m', path='{}', max_out_len=1, {keys})]\n",
            fixture("llama").display()
        );
        cli.write("x.py", &source);
    };
    file("HuggingFaceBaseModel", "end_str='x', batch_padding=True", "dict()");
    let output = cli.run("eval x.py --dry-run").assert().code(0).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for key in ["end_str", "batch_padding"] {
        let note = format!("`{key}` of a model has no effect: nor has it in OpenCompass's HuggingFaceBaseModel");
        assert!(stderr.contains(&note), "{stderr}");
    }
    file(
        "HuggingFaceBaseModel",
        "meta_template=dict(round=[dict(role='HUMAN'), dict(role='BOT', generate=True)])",
        "dict()",
    );
    let output = cli.run("eval x.py --dry-run").assert().code(0).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("OpenCompass's HuggingFaceBaseModel ignores it"), "{stderr}");
    file("HuggingFaceCausalLM", "", "evaluator=dict(type='EDAccEvaluator')");
    let error = cli.refusal("eval x.py --limit 1 -w out");
    let wanted = "dataset ceval_demo-law: EDAccEvaluator compares with the candidates of a dictionary, and the column \
                  `answer` holds none";
    assert!(error.contains(wanted), "{error}");
    let roles = "meta_template=dict(round=[dict(role='HUMAN'), dict(role='BOT', generate=True)])";
    file("HuggingFaceCausalLM", roles, "pred_role='THOUGHTS'");
    let output = cli.run("eval x.py --limit 1 -w out").assert().code(1).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let wanted = "its `pred_role` is THOUGHTS, and the model's meta template has no such role";
    assert!(stderr.contains(wanted), "{stderr}");
    for (keys, role) in [(roles, "BOT"), ("", "THOUGHTS")] {
        file("HuggingFaceCausalLM", keys, &format!("pred_role='{role}'"));
        cli.run("eval x.py --limit 1 -w out").assert().code(0);
    }
    // Post-processors read text, and some perplexities choose numbers: OpenCompass has no score then either.
    for split in ["train", "dev"] {
        let row =
            "{\"context\": \"c\", \"question\": \"q\", \"answerA\": \"a\", \"answerB\": \"b\", \"answerC\": \"c\"}\n";
        cli.write(&format!("data/siqa/{split}.jsonl"), row);
        cli.write(&format!("data/siqa/{split}-labels.lst"), "1\n");
    }
    let postprocessor = "pred_postprocessor=dict(type='first-capital')";
    for (dataset, status) in [("siqa_ppl", 1), ("siqa_ppl_e8d8c5", 0)] {
        file("HuggingFaceCausalLM", postprocessor, "dict()");
        let source = std::fs::read_to_string(cli.dir.path().join("x.py")).unwrap();
        let own = format!("from .siqa.{dataset} import siqa_datasets as datasets\nmodels = ");
        cli.write("x.py", &source.replace("models = ", &own));
        let output = cli.run("eval x.py --data-dir data -w out").assert().code(status).get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.contains("siqa: its answers are numbers, and a post-processor reads only text"), status == 1);
    }
}

/// Files that try to cost too much, or to get out. Each ends soon, with one error that has a place.
#[test]
fn hostile_configurations_are_stopped() {
    let nested = format!("a = {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let signs = format!("a = {}1\n", "-".repeat(200_000));
    let calls = format!("a = f{}\n", "()".repeat(100_000));
    let lambdas = format!("a = {}1\n", "lambda a, b: ".repeat(10_000));
    let blocks: String =
        (0..200).map(|n| format!("{}if 1:\n", " ".repeat(n))).collect::<String>() + &" ".repeat(200) + "pass\n";
    let strings = format!("a = {}\n", "f'{".repeat(1000));
    let long = format!("a = '{}'\n", "x".repeat(2 << 20));
    for (source, message) in [
        ("while True: pass\n", "x.py:1: the configuration takes more than"),
        ("def f():\n    return f()\nf()\n", "x.py:2: more than 200 calls within each other: endless recursion?"),
        ("f = lambda g: g(g)\nf(f)\n", "x.py:1: more than 200 calls within each other"),
        ("a = [0]\nwhile 1: a += a\n", "x.py:2: the configuration needs more than"),
        ("a = 'x'\nwhile 1: a += a\n", "x.py:2: the configuration needs more than"),
        ("a = [0] * 10 ** 12\n", "x.py:1: the configuration needs more than"),
        ("a = 'x' * 10 ** 12\n", "x.py:1: the configuration needs more than"),
        ("a = list(range(10 ** 12))\n", "x.py:1: the configuration needs more than"),
        ("a = [i for i in range(10 ** 12)]\n", "x.py:1: the configuration needs more than"),
        ("a = '%999999999d' % 1\n", "x.py:1: widths beyond"),
        ("a = f'{1:>999999999}'\n", "x.py:1: widths beyond"),
        ("a = 'x'.ljust(10 ** 9)\n", "x.py:1: padding wants"),
        ("a = 10 ** 10 ** 10\n", "x.py:1: the number leaves 64 bits"),
        ("a = 1 << 10 ** 10\n", "x.py:1: the number leaves 64 bits"),
        ("a = 99999999999999999999\n", "x.py:1: whole numbers beyond 64 bits"),
        (
            "a = []\nfor i in range(10 ** 5): a = [a]\n",
            "x.py:1: the value of `a`: more than 4000 levels within each other",
        ),
        ("a = []\na.append(a)\nmodels = a\n", "levels within each other"),
        ("a = [1]\nfor i in range(40): a = [a] * 10\n", "the configuration needs more than"),
        ("a = {}\nfor i in range(10 ** 9): a[i] = i\n", "x.py:2: the configuration needs more than"),
        ("a = 'x' * 10 ** 6\nb = a.replace('x', a)\n", "x.py:2: the configuration needs more than"),
        ("from .x import a\n", "x.py:1: more than 32 imports within each other"),
        ("import itertools\na = itertools.product(*[range(100)] * 20)\n", "x.py:2: the configuration needs more than"),
        (&nested, "x.py:1: more than 100 brackets within each other"),
        (&signs, "x.py:1: an expression that nests too deeply"),
        (&calls, "x.py:1: an expression that nests too deeply"),
        (&lambdas, "x.py:1: an expression that nests too deeply"),
        (&blocks, "more than 50 blocks within each other"),
        (&strings, "x.py:1: "),
        (&long, "x.py: 2097159 bytes; a configuration has at most"),
        ("open('/etc/passwd').read()\n", "x.py:1: open() is refused: configurations cannot open files"),
        ("import os\nos.system('id')\n", "x.py:2: `os.system` does not exist in configurations"),
        ("import os\nos.environ['HOME']\n", "x.py:2: there is no key 'HOME'"),
        ("from os import system\n", "x.py:1: `os.system` does not exist"),
        ("import os\nos.path.exists('/')\n", "x.py:2: `os.path.exists` does not exist"),
        ("import subprocess\n", "x.py:1: the module `subprocess` does not exist in configurations"),
        ("import socket\n", "x.py:1: the module `socket` does not exist in configurations"),
        ("__import__('os')\n", "x.py:1: __import__() is refused"),
        ("eval('1')\n", "x.py:1: eval() is refused"),
        ("exec('a = 1')\n", "x.py:1: exec() is refused"),
        ("getattr(1, 'x')\n", "x.py:1: getattr() is refused"),
        (
            "().__class__.__bases__[0].__subclasses__()\n",
            "x.py:1: `__class__`: names with two underscores do not exist",
        ),
        ("a = lambda: 0\na.__globals__\n", "x.py:2: `__globals__`: names with two underscores do not exist"),
        ("globals()['__builtins__']\n", "x.py:1: there is no key '__builtins__'"),
        ("'{0.__class__}'.format(1)\n", "x.py:1: the field `{0.__class__}` of a format is not supported"),
        ("import torch\ntorch.load('x')\n", "x.py:2: torch.load cannot be called"),
        ("with open('x') as f: pass\n", "x.py:1: the only `with` of a configuration"),
        ("from ......etc.passwd import x\n", "there is no file"),
    ] {
        let started = Instant::now();
        let error = Cli::refused(source);
        let head: String = source.chars().take(80).collect();
        assert!(error.contains(message), "{head:?}: {error:?} lacks {message:?}");
        assert!(started.elapsed() < Duration::from_secs(30), "{head:?} took {:?}", started.elapsed());
    }
}

#[test]
fn a_toml_file_runs_and_its_mistakes_are_named() {
    let source = "work_dir = 'out'\ndatasets = ['ceval_demo_gen']\nsubjects = ['law']\nlimit = 2\n\n\
                  [[models]]\nname = 'hf_opt_125m'\nmax_out_len = 4\n";
    let cli = Cli::with("run.toml", source);
    cli.with_weights("facebook/opt-125m");
    cli.run("eval run.toml").assert().code(0);
    let run = cli.runs("out").pop().unwrap();
    let first = answers(&run);
    assert_eq!(first.len(), 2);
    // What is saved is OpenCompass's form, limit included, and gives the same again.
    let saved = std::fs::read_dir(run.join("configs")).unwrap().next().unwrap().unwrap().path();
    cli.run(&format!("eval {} -w again", saved.display())).assert().code(0);
    assert_eq!(answers(&cli.runs("again").pop().unwrap()), first);
    for (from, to, message) in [
        ("limit", "limt", "run.toml:4: unknown field `limt`"),
        ("max_out_len", "max_out", "run.toml:8: unknown field `max_out`"),
        ("hf_opt_125m", "hf_opt_12m", "run.toml, model 1: unknown model `hf_opt_12m` (did you mean"),
        ("ceval_demo_gen", "ceval_dmo_gen", "run.toml: unknown dataset `ceval_dmo_gen` (did you mean `ceval_demo_gen`"),
        ("limit = 2", "limit = 'x'", "run.toml:4: invalid type"),
        ("limit = 2", "limit = [", "run.toml:"),
    ] {
        cli.write("run.toml", &source.replace(from, to));
        let error = cli.refusal("eval run.toml");
        assert!(error.starts_with(message), "{error:?} is not {message:?}");
    }
}
