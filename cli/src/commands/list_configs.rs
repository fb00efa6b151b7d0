//! `oc-cli list-configs`: the models and datasets that have a name, in the tables of OpenCompass's
//! `tools/list_configs.py`.

use super::Outcome;
use crate::{
    args::ListConfigsArgs,
    diagnostics::{Result, Stdout},
};
use oc_eval::{datasets, models};

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

/// Name and path of every dataset configuration; what OpenCompass does not have is built in.
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
    rows
}

/// The rows whose file name holds one of the patterns, or all rows where none is given; sorted by name.
fn chosen(mut rows: Vec<[String; 2]>, patterns: &[String]) -> Vec<[String; 2]> {
    let patterns: Vec<Vec<char>> =
        patterns.iter().map(|pattern| format!("*{}*", pattern.to_lowercase()).chars().collect()).collect();
    rows.retain(|[name, _]| {
        let file: Vec<char> = format!("{}.py", name.to_lowercase()).chars().collect();
        patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, &file))
    });
    rows.sort_by(|a, b| a[0].cmp(&b[0]));
    rows
}

/// Whether `text` matches a shell pattern as Python's `fnmatch` reads it; `*` matches slashes too.
pub fn glob(pattern: &str, text: &str) -> bool {
    matches(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

/// Shell patterns as Python's `fnmatch` reads them: `*`, `?`, `[abc]`, `[a-c]`, `[!abc]`.
fn matches(pattern: &[char], text: &[char]) -> bool {
    // Where the last `*` stands, and what of the text it has swallowed.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => one_of(&pattern[p..], text[t]),
            Some(c) => (*c == text[t]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(step), _) => (p, t) = (p + step, t + 1),
            (None, Some((at, swallowed))) => {
                star = Some((at, swallowed + 1));
                (p, t) = (at + 1, swallowed + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The length of the set that `pattern` begins with, if `c` is in it. A bracket that is not closed stands for itself.
fn one_of(pattern: &[char], c: char) -> Option<usize> {
    let is_negated = pattern.get(1) == Some(&'!');
    let first = if is_negated { 2 } else { 1 };
    // A closing bracket that comes first is a member.
    let Some(close) = pattern.iter().skip(first + 1).position(|c| *c == ']').map(|at| at + first + 1) else {
        return (c == '[').then_some(1);
    };
    let set = &pattern[first..close];
    let (mut i, mut found) = (0, false);
    while i < set.len() {
        if i + 2 < set.len() && set[i + 1] == '-' {
            found |= (set[i]..=set[i + 2]).contains(&c);
            i += 3;
        } else {
            found |= set[i] == c;
            i += 1;
        }
    }
    (found != is_negated).then_some(close + 1)
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
    fn patterns_are_fnmatchs() {
        // Each is what `fnmatch.fnmatch(text, pattern)` says in Python 3.11.
        let is_match = glob;
        for (pattern, text) in [
            ("*opt*", "hf_opt_125m.py"),
            ("*", ""),
            ("*a*b*", "xaxbx"),
            ("*llama[23]_7b*", "hf_llama2_7b_chat.py"),
            ("*[!0-9]b.py", "x_b.py"),
            ("a?c", "abc"),
            ("[]]", "]"),
            ("[a", "[a"),
            ("*1_8b*", "hf_internlm2_1_8b.py"),
        ] {
            assert!(is_match(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("a?c", "ac"), ("*[!0-9]b.py", "x7b.py"), ("*opt", "hf_opt_125m.py"), ("", "x"), ("[a-c]", "d")]
        {
            assert!(!is_match(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn the_ending_is_part_of_what_is_matched() {
        let rows = |pattern: &str| chosen(models(), &[pattern.into()]).len();
        assert_eq!(rows(".PY"), models().len());
        assert_eq!(rows("hf_OPT"), 2);
        assert_eq!(rows("gpt"), 0);
    }
}
