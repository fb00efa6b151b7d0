//! The summary: OpenCompass's table with its group averages, as text, CSV and Markdown.

use super::table;
use crate::{Summarizer, datasets::Group, python};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Metrics in the order of their importance; others come behind them as they stand in the file.
const FIRST: [&str; 12] = [
    "score",
    "auc_score",
    "accuracy",
    "humaneval_pass@1",
    "rouge1",
    "avg_toxicity_score",
    "bleurt_diff",
    "matthews_correlation",
    "truth",
    "f1",
    "exact_match",
    "extract_rate",
];

/// Entries of a results file that are no metrics.
const NO_METRICS: [&str; 4] = ["bp", "sys_len", "ref_len", "type"];

/// A subset: a row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// E.g. `ceval-law`.
    pub abbr: String,
    /// First six hex digits of the prompt configuration's hash.
    pub version: String,
    /// `gen`, `ppl`, `clp` or `ll`.
    pub mode: String,
}

/// A model's score on a subset.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// The results file without its details; a null is a NaN.
    Scored(Map<String, Value>),
    /// Why there is no score.
    Failed(String),
    /// There are no right answers to compare with.
    Unlabelled,
    /// There is no results file.
    Missing,
}

/// Scores by metric, the most important first.
type Scores = Vec<(String, f64)>;

/// All scores of a run.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    models: Vec<String>,
    /// Rows of subsets, or all rows where the summarizer names them.
    subsets: Vec<Vec<String>>,
    /// Rows of groups.
    groups: Vec<Vec<String>>,
    /// Lines of the raw section.
    raw: Vec<String>,
}

impl Summary {
    /// `cells[m]` are the scores of `models[m]` on `rows`. A group has a row when all its subsets have a score.
    pub(crate) fn new(
        models: &[String],
        rows: &[Row],
        cells: &[Vec<Cell>],
        groups: &[Group],
        summarizer: &Summarizer,
    ) -> Self {
        let mut all = All { models, rows, ..All::default() };
        all.parsed = vec![HashMap::new(); models.len()];
        all.raw = vec![Vec::new(); models.len()];
        for (model, cells) in cells.iter().enumerate() {
            for (row, cell) in rows.iter().zip(cells) {
                all.add(model, row, cell);
            }
        }
        for group in groups {
            for model in 0..models.len() {
                all.add_group(model, group);
            }
        }
        let (subsets, groups) = match &summarizer.rows {
            Some(wanted) => {
                (wanted.iter().map(|(name, metric)| all.row(name, metric.as_deref())).collect(), Vec::new())
            }
            None => {
                let is_subset = |name: &str| rows.iter().any(|row| row.abbr == name);
                let of = |name: &str| -> Vec<Vec<String>> {
                    match all.metrics.iter().find(|(known, _)| known == name) {
                        Some((_, metrics)) => metrics.iter().map(|metric| all.row(name, Some(metric))).collect(),
                        None => vec![all.row(name, None)],
                    }
                };
                let others = all.metrics.iter().filter(|(name, _)| !is_subset(name));
                (rows.iter().flat_map(|row| of(&row.abbr)).collect(), others.flat_map(|(name, _)| of(name)).collect())
            }
        };
        Self { models: models.to_vec(), subsets, groups, raw: all.raw_lines() }
    }

    fn header(&self) -> Vec<&str> {
        ["dataset", "version", "metric", "mode"].into_iter().chain(self.models.iter().map(String::as_str)).collect()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        self.subsets.iter().chain(&self.groups).cloned().collect()
    }

    /// The table of the subsets, as OpenCompass prints it.
    pub(crate) fn table(&self) -> String {
        table::tabulate(&self.header(), &self.subsets)
    }

    /// The averages of complete groups in the same form.
    pub(crate) fn averages(&self) -> Option<String> {
        (!self.groups.is_empty()).then(|| table::tabulate(&self.header(), &self.groups))
    }

    /// `summary_<time>.csv`.
    pub(crate) fn csv(&self) -> String {
        let without = |cell: &str| cell.replace(',', " ");
        let rows: Vec<Vec<String>> = self.rows().iter().map(|row| row.iter().map(|c| without(c)).collect()).collect();
        let header: Vec<String> = self.header().into_iter().map(without).collect();
        table::comma_separated(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows)
    }

    /// `summary_<time>.md`.
    pub(crate) fn markdown(&self) -> String {
        table::markdown(&self.header(), &self.rows())
    }

    /// `summary_<time>.txt`: every form, then the unrounded values and what is missing.
    pub(crate) fn text(&self, time: &str) -> String {
        let (open, close) = ("^".repeat(128), "$".repeat(128));
        let divider = |dashes: usize| format!("{0} THIS IS A DIVIDER {0}", "-".repeat(dashes));
        let section = |title: &str, body: &str| format!("{title} format\n{open}\n{body}\n{close}\n");
        let table = table::tabulate(&self.header(), &self.rows());
        [
            format!("{time}\n"),
            section("tabulate", &table),
            format!("\n{}\n\n", divider(128)),
            section("csv", table::comma_separated(&self.header(), &self.rows()).trim_end()),
            "\n".into(),
            section("markdown", &self.markdown()),
            format!("{}\n\n", divider(128)),
            section("raw", &self.raw.join("\n")),
        ]
        .concat()
    }
}

/// What is known while the table is put together.
#[derive(Default)]
struct All<'a> {
    models: &'a [String],
    rows: &'a [Row],
    /// Of each model, by subset or group.
    parsed: Vec<HashMap<String, Scores>>,
    /// Of each model: name and text.
    raw: Vec<Vec<(String, String)>>,
    /// Of each subset and group, in order.
    metrics: Vec<(String, Vec<String>)>,
    /// Of the groups.
    modes: HashMap<String, String>,
    unlabelled: Vec<String>,
}

impl All<'_> {
    fn add(&mut self, model: usize, row: &Row, cell: &Cell) {
        let raw = match cell {
            Cell::Missing => return,
            Cell::Unlabelled => {
                if !self.unlabelled.contains(&row.abbr) {
                    self.unlabelled.push(row.abbr.clone());
                }
                return self.raw[model].push((row.abbr.clone(), python::repr(&json!({ "error": "no labels" }))));
            }
            Cell::Failed(reason) => python::repr(&json!({ "error": reason })),
            Cell::Scored(results) => {
                if !results.contains_key("error") {
                    let scores = scores(results);
                    if !scores.is_empty() {
                        self.add_metrics(&row.abbr, scores.iter().map(|(metric, _)| metric.clone()));
                        self.parsed[model].insert(row.abbr.clone(), scores);
                    }
                }
                raw(results)
            }
        };
        self.raw[model].push((row.abbr.clone(), raw));
    }

    fn add_metrics(&mut self, name: &str, metrics: impl Iterator<Item = String>) {
        let place = self.metrics.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.metrics.push((name.to_owned(), Vec::new()));
            self.metrics.len() - 1
        });
        let known = &mut self.metrics[place].1;
        for metric in metrics {
            if !known.contains(&metric) {
                known.push(metric);
            }
        }
    }

    /// The mean of a model over a group, for each metric that all subsets have, and for the first of each.
    fn add_group(&mut self, model: usize, group: &Group) {
        let parsed = &self.parsed[model];
        let found: Vec<&Scores> = group.subsets.iter().filter_map(|abbr| parsed.get(abbr)).collect();
        let Some(first) = found.first() else { return };
        if found.len() < group.subsets.len() {
            let missing: Vec<&String> = group.subsets.iter().filter(|abbr| !parsed.contains_key(*abbr)).collect();
            let reason = format!("missing metrics: {}", python::repr(&json!(missing)));
            return self.raw[model].push((group.name.clone(), python::repr(&json!({ "error": reason }))));
        }
        let of = |scores: &Scores, metric: &str| scores.iter().find(|(name, _)| name == metric).map(|(_, x)| *x);
        let is_common = |metric: &&String| found.iter().all(|scores| of(scores, metric).is_some());
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            if group.weights.is_empty() {
                return values.sum::<f64>() / found.len() as f64;
            }
            let weighted = values.zip(&group.weights).filter(|(_, weight)| **weight != 0.0);
            weighted.map(|(x, weight)| x * weight).sum::<f64>() / group.weights.iter().sum::<f64>()
        };
        let mut scores: Scores = Vec::new();
        for metric in first.iter().map(|(metric, _)| metric).filter(is_common) {
            scores.push((metric.clone(), mean(&mut found.iter().filter_map(|scores| of(scores, metric)))));
        }
        let average = if group.weights.is_empty() { "naive_average" } else { "weighted_average" };
        scores.push((average.into(), mean(&mut found.iter().map(|scores| scores[0].1))));
        let mut modes: Vec<&str> = group.subsets.iter().map(|abbr| self.mode(abbr)).collect();
        modes.dedup();
        let mode = if let [mode] = modes[..] { mode } else { "mixed" }.to_owned();
        self.raw[model].push((group.name.clone(), raw_scores(&scores)));
        self.add_metrics(&group.name, scores.iter().map(|(metric, _)| metric.clone()));
        self.modes.insert(group.name.clone(), mode);
        self.parsed[model].insert(group.name.clone(), scores);
    }

    fn mode<'a>(&'a self, name: &str) -> &'a str {
        let of_row = || self.rows.iter().find(|row| row.abbr == name).map(|row| row.mode.as_str());
        self.modes.get(name).map(String::as_str).or_else(of_row).unwrap_or("-")
    }

    /// The row of a subset or group and one of its metrics; dashes where there is no such score.
    fn row(&self, name: &str, metric: Option<&str>) -> Vec<String> {
        let of_name = self.metrics.iter().find(|(known, _)| known == name).map(|(_, metrics)| metrics);
        let metric = match (of_name, metric) {
            (Some(known), Some(metric)) => known.iter().find(|known| *known == metric),
            (Some(known), None) => known.first(),
            (None, _) => None,
        };
        let row = self.rows.iter().find(|row| row.abbr == name);
        let version = || row.map_or("-", |row| &row.version).to_owned();
        let is_unlabelled = self.unlabelled.iter().any(|abbr| abbr == name);
        let Some(metric) = metric else {
            let cells = self.models.iter().map(|_| if is_unlabelled { "no labels" } else { "-" }.to_owned());
            let start = match row {
                Some(row) if is_unlabelled => [name.to_owned(), version(), "-".into(), row.mode.clone()],
                _ => [name.to_owned(), "-".into(), "-".into(), "-".into()],
            };
            return start.into_iter().chain(cells).collect();
        };
        let cell = |parsed: &HashMap<String, Scores>| {
            let score = parsed.get(name).and_then(|scores| scores.iter().find(|(known, _)| known == metric));
            score.map_or_else(|| "-".to_owned(), |(_, x)| two(*x))
        };
        let start = [name.to_owned(), version(), metric.clone(), self.mode(name).to_owned()];
        start.into_iter().chain(self.parsed.iter().map(cell)).collect()
    }

    /// Every model with all that any of them has a result of.
    fn raw_lines(&self) -> Vec<String> {
        let mut names: Vec<&String> = Vec::new();
        for (name, _) in self.raw.iter().flatten() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let of_model = |(model, raw): (&String, &Vec<(String, String)>)| {
            let text = |name: &&String| raw.iter().find(|(known, _)| known == *name).map_or("{}", |(_, text)| text);
            let lines = names.iter().map(|name| format!("{name}: {}", text(name)));
            ["-".repeat(31), format!("Model: {model}")].into_iter().chain(lines).collect::<Vec<_>>()
        };
        self.models.iter().zip(&self.raw).flat_map(of_model).collect()
    }
}

/// The metrics of a results file.
fn scores(results: &Map<String, Value>) -> Scores {
    let number = |value: &Value| if value.is_null() { Some(f64::NAN) } else { value.as_f64() };
    let numbers = results.iter().filter(|(name, _)| !NO_METRICS.contains(&name.as_str()));
    let mut scores: Scores = numbers.filter_map(|(name, value)| Some((name.clone(), number(value)?))).collect();
    scores.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    scores
}

/// A results file as Python prints it.
fn raw(results: &Map<String, Value>) -> String {
    let value = |value: &Value| if value.is_null() { "nan".into() } else { python::repr(value) };
    let pairs: Vec<String> = results.iter().map(|(k, v)| format!("{}: {}", python::string(k), value(v))).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn raw_scores(scores: &Scores) -> String {
    let pair = |(name, x): &(String, f64)| format!("{}: {}", python::string(name), python::float(*x));
    format!("{{{}}}", scores.iter().map(pair).collect::<Vec<_>>().join(", "))
}

/// Python's `'{:.2f}'`.
fn two(percent: f64) -> String {
    if percent.is_nan() { "nan".into() } else { format!("{percent:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(abbr: &str, mode: &str) -> Row {
        Row { abbr: abbr.into(), version: "abc123".into(), mode: mode.into() }
    }

    fn scored(json: Value) -> Cell {
        Cell::Scored(json.as_object().unwrap().clone())
    }

    fn csv(summary: &Summary) -> Vec<String> {
        summary.csv().lines().map(str::to_owned).collect()
    }

    #[test]
    fn models_stand_side_by_side() {
        let models = ["x".to_owned(), "y".to_owned()];
        let rows = [row("a", "gen"), row("b", "ppl"), row("c", "gen")];
        let cells = [
            vec![scored(json!({"accuracy": 50.0})), scored(json!({"accuracy": 25.5})), Cell::Missing],
            vec![scored(json!({"accuracy": 10.0})), Cell::Failed("it broke".into()), Cell::Missing],
        ];
        let groups = [Group::new("both", vec!["a".into(), "b".into()]), Group::new("none", vec!["c".into()])];
        let summary = Summary::new(&models, &rows, &cells, &groups, &Summarizer::default());
        let wanted = [
            "dataset,version,metric,mode,x,y",
            "a,abc123,accuracy,gen,50.00,10.00",
            "b,abc123,accuracy,ppl,25.50,-",
            "c,-,-,-,-,-",
            "both,-,accuracy,mixed,37.75,-",
            "both,-,naive_average,mixed,37.75,-",
        ];
        assert_eq!(csv(&summary), wanted);
        let text = summary.text("T");
        assert!(
            text.contains("Model: y\na: {'accuracy': 10.0}\nb: {'error': 'it broke'}\nboth: {'error': \"missing"),
            "{text}"
        );
        assert_eq!(summary.table().lines().count(), 2 + 3);
    }

    #[test]
    fn rows_can_be_chosen_and_weighted() {
        let models = ["m".to_owned()];
        let rows = [row("a", "gen"), row("b", "gen")];
        let cells = [vec![
            scored(json!({"z": 1.0, "accuracy": 50.0, "type": 3, "f1": null})),
            scored(json!({"accuracy": 10.0, "f1": 2})),
        ]];
        let group = Group { weights: vec![3.0, 1.0], ..Group::new("g", vec!["a".into(), "b".into()]) };
        let wanted = |name: &str, metric: Option<&str>| (name.to_owned(), metric.map(str::to_owned));
        let summarizer = Summarizer {
            rows: Some(vec![
                wanted("g", None),
                wanted("g", Some("weighted_average")),
                wanted("--- part ---", None),
                wanted("a", Some("f1")),
                wanted("a", Some("none")),
                wanted("b", None),
            ]),
            groups: None,
        };
        let summary = Summary::new(&models, &rows, &cells, &[group], &summarizer);
        let wanted = [
            "dataset,version,metric,mode,m",
            "g,-,accuracy,gen,40.00",
            "g,-,weighted_average,gen,40.00",
            "--- part ---,-,-,-,-",
            "a,abc123,f1,gen,nan",
            "a,-,-,-,-",
            "b,abc123,accuracy,gen,10.00",
        ];
        assert_eq!(csv(&summary), wanted);
        assert!(summary.text("T").contains("a: {'z': 1.0, 'accuracy': 50.0, 'type': 3, 'f1': nan}"));
    }

    #[test]
    fn no_labels_is_said() {
        let models = ["m".to_owned()];
        let summary = Summary::new(&models, &[row("a", "gen")], &[vec![Cell::Unlabelled]], &[], &Summarizer::default());
        assert_eq!(csv(&summary)[1], "a,abc123,-,gen,no labels");
        assert!(summary.text("T").contains("a: {'error': 'no labels'}"));
    }
}
