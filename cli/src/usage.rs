//! clap's complaints in our form, and OpenCompass's flags that mean nothing here, each with its own answer.

use crate::{args::Cli, diagnostics::Error};
use clap::{
    CommandFactory,
    error::{ContextKind, ErrorKind},
};

/// Flags of OpenCompass's `run.py` that are refused: what they are, and what to do.
const NOT_SUPPORTED: &[(&[&str], &str, &str)] = &[
    (
        &["--slurm", "-p", "--partition", "-q", "--quotatype", "--qos", "--dlc", "--aliyun-cfg", "--retry"],
        "cluster runners",
        "one process on this machine does all the work; start it from your own job script",
    ),
    (&["-a", "--accelerator"], "other inference engines", "oc-cli is its own inference engine; leave it out"),
    (&["--config-verbose"], "printed configurations", "the run folder holds the whole configuration"),
    (&["--peft-path", "--peft-kwargs"], "adapters", "merge the adapter into the weights first, and give that folder"),
    (
        &["-s", "-sp", "--station-path", "--station-overwrite", "--read-from-station"],
        "result stations",
        "run folders can be copied; -r goes on with one",
    ),
    (
        &[
            "--custom-dataset-path",
            "--custom-dataset-meta-path",
            "--custom-dataset-data-type",
            "--custom-dataset-infer-method",
        ],
        "custom datasets",
        "bring the questions into C-Eval's layout, see data/README.md, and give its folder with --data-dir",
    ),
    (&["--dataset-num-runs"], "repeated runs", "decoding is greedy and repeats itself exactly; leave it out"),
    (
        &["--dump-only-message-path"],
        "dumping prompts from `eval`",
        "use `oc-cli prompt --all --jsonl` with the same flags",
    ),
    (
        &["--dump-res-length", "--dump-extract-rate", "--analysis-repeat"],
        "extra columns in the results",
        "the last line of the report counts tokens and unreadable answers; leave it out",
    ),
    (&["-l", "--lark"], "Lark reports", "leave it out"),
];

/// What clap found wrong, as an error of ours. Not for help and version. `subcommand`: the first argument, for the
/// complaints that do not say where they belong.
pub fn explain(error: &clap::Error, subcommand: Option<&str>) -> Error {
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(arg) = error.get(ContextKind::InvalidArg)
    {
        let arg = arg.to_string();
        let flag = arg.split('=').next().unwrap_or(&arg);
        if let Some((_, what, hint)) = NOT_SUPPORTED.iter().find(|(flags, _, _)| flags.contains(&flag)) {
            return Error::input(format!("{flag}: {what} are not supported", what = what), hint);
        }
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let message = text.split("\n\n").next().unwrap_or(text).trim();
    let tips = text.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    let command = text.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or_default();
    let command: Vec<&str> =
        command.split(' ').take_while(|w| w.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    let command = match subcommand.filter(|name| Cli::command().find_subcommand(name).is_some()) {
        Some(name) if command.len() < 2 => format!("oc-cli {name}"),
        _ if command.is_empty() => "oc-cli".to_owned(),
        _ => command.join(" "),
    };
    let hints: Vec<String> = tips.map(str::to_owned).chain([format!("see `{command} --help`")]).collect();
    Error::input(message, hints.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn message(line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        explain(&Cli::try_parse_from(&words).unwrap_err(), words.get(1).copied()).to_string()
    }

    #[test]
    fn flags_of_opencompass_are_refused_by_name() {
        let text = message("oc-cli eval --datasets d --hf-path m --slurm -p part");
        assert_eq!(text.lines().next(), Some("--slurm: cluster runners are not supported"));
        assert!(message("oc-cli eval --datasets d -a vllm").starts_with("-a: other inference engines"));
        assert!(message("oc-cli eval --datasets d -sp x").contains("result stations"));
        assert!(message("oc-cli eval --datasets d --peft-path=x").starts_with("--peft-path: adapters"));
    }

    #[test]
    fn other_mistakes_keep_claps_words() {
        let text = message("oc-cli eval --datasets d --max-seq-len x");
        assert!(
            text.starts_with("invalid value 'x' for '--max-seq-len <N>': a whole number above 0 is wanted"),
            "{text}"
        );
        assert!(text.ends_with("see `oc-cli eval --help`"), "{text}");
        let text = message("oc-cli eval --datasets d --work-dri x");
        assert!(
            text.starts_with("unexpected argument '--work-dri' found\n\nhint: a similar argument exists"),
            "{text}"
        );
        let text = message("oc-cli eval --hf-path m");
        assert!(text.contains("--datasets <NAME>..."), "{text}");
        assert!(text.ends_with("hint: see `oc-cli eval --help`"), "{text}");
    }
}
