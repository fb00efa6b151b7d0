//! `oc-cli list-configs`: the models and datasets that have a name, in the tables of OpenCompass's
//! `tools/list_configs.py`.

use super::Outcome;
use crate::{
    args::ListConfigsArgs,
    diagnostics::{Result, Stdout},
};
use oc_eval::{datasets, models, names};

/// Runs the command.
///
/// # Errors
/// Standard output that refuses what is written.
pub fn run(args: &ListConfigsArgs) -> Result<Outcome> {
    let mut out = Stdout::lock();
    for (title, rows) in [("Model", models()), ("Dataset", datasets())] {
        let rows = chosen(rows, &args.patterns);
        if !rows.is_empty() {
            out.line(table([title, "Config Path"], &rows))?;
        }
    }
    Ok(Outcome::Complete)
}

/// Name and path of every model.
fn models() -> Vec<[String; 2]> {
    models::all().map(|model| [model.name.into(), format!("opencompass/configs/models/{}", model.file())]).collect()
}

/// Name and path of every dataset configuration and every collection of them; what OpenCompass does not have is built in.
fn datasets() -> Vec<[String; 2]> {
    let mut rows = Vec::new();
    for family in datasets::families() {
        for dataset in family.datasets {
            for name in std::iter::once(dataset.name).chain(dataset.aliases.iter().copied()) {
                let path = match family.folder {
                    "" => "(built in)".into(),
                    folder => format!("opencompass/configs/datasets/{folder}/{name}.py"),
                };
                rows.push([name.to_owned(), path]);
            }
        }
    }
    let collection = |(name, file): (&str, String)| [name.to_owned(), format!("opencompass/configs/datasets/{file}")];
    rows.extend(datasets::collections().map(collection));
    rows
}

/// The rows whose file name holds one of the patterns, or all rows where none is given; sorted by name.
fn chosen(mut rows: Vec<[String; 2]>, patterns: &[String]) -> Vec<[String; 2]> {
    let is_match = |pattern: &String, name: &str| names::matches(&format!("*{pattern}*"), &format!("{name}.py"));
    rows.retain(|[name, _]| patterns.is_empty() || patterns.iter().any(|pattern| is_match(pattern, name)));
    rows.sort_by(|a, b| a[0].cmp(&b[0]));
    rows
}

/// A table as Python's tabulate draws it in the style `psql`.
fn table(header: [&str; 2], rows: &[[String; 2]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(header[column].len())
    };
    let (left, right) = (width(0), width(1));
    let (dashes, more) = ("-".repeat(left + 2), "-".repeat(right + 2));
    let line = |a: &str, b: &str| format!("| {a:left$} | {b:right$} |");
    let mut lines = vec![format!("+{dashes}+{more}+"), line(header[0], header[1]), format!("|{dashes}+{more}|")];
    lines.extend(rows.iter().map(|row| line(&row[0], &row[1])));
    lines.push(format!("+{dashes}+{more}+"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_is_part_of_what_is_matched() {
        let rows = |pattern: &str| chosen(models(), &[pattern.into()]).len();
        assert_eq!(rows(".PY"), models().len());
        assert_eq!(rows("hf_OPT"), 2);
        assert_eq!(rows("gpt"), 0);
    }
}
