//! Answer rules: from a generated text to an answer, each rule with an id.

use crate::python;
use regex::Regex;
use serde_json::{Map, Value};
use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex},
};

/// A post-processor of OpenCompass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extractor {
    /// None: the prediction is the answer, as of perplexities.
    Verbatim,
    /// `match_answer_pattern(answer_pattern)`: the first group of a regular expression.
    Pattern(Pattern),
    /// `first_capital_postprocess`: the first uppercase character of any script.
    FirstCapital,
    /// `first_option_postprocess(options, cushion)`.
    FirstOption {
        /// E.g. `ABCD`.
        options: String,
        /// Whether the looser patterns are tried too.
        cushion: bool,
    },
    /// `extract_non_reasoning_content(think_start_token, think_end_token)`: what is said beside the reasoning.
    NonReasoning {
        /// E.g. `<think>`.
        start: String,
        /// E.g. `</think>`.
        end: String,
        /// From the one to the other.
        reasoning: Pattern,
    },
}

/// The functions that a post-processor's dictionary can name.
pub const POSTPROCESSORS: [&str; 6] = [
    "first_capital_postprocess",
    "first-capital",
    "first_option_postprocess",
    "match_answer_pattern",
    "extract_non_reasoning_content",
    "extract-non-reasoning-content",
];

/// A compiled regular expression with one group at least.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles Python's pattern.
    ///
    /// # Errors
    /// A pattern without a group, or one that this crate's regular expressions do not have, e.g. with look-ahead.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let regex = Regex::new(pattern).map_err(|e| format!("the pattern {pattern:?} is not supported: {e}"))?;
        if regex.captures_len() < 2 { Err(format!("the pattern {pattern:?} has no group")) } else { Ok(Self(regex)) }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// An extracted answer and the rule that found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// Empty if no rule found one.
    pub answer: String,
    /// Id of the rule, e.g. `first-capital`; `none` if no rule found one.
    pub rule: String,
}

impl Extracted {
    fn none() -> Self {
        Self { answer: String::new(), rule: "none".into() }
    }
}

impl Extractor {
    /// The post-processor of a dictionary: its function as `type`, and what the function is given.
    ///
    /// # Errors
    /// A function that does not exist here, and arguments that it does not have, miss, or that are of the wrong kind.
    pub fn parse(config: &Map<String, Value>) -> Result<Self, String> {
        let name = config.get("type").and_then(Value::as_str).unwrap_or_default();
        let function = name.rsplit('.').next().unwrap_or(name);
        let keys: &[&str] = match function {
            "first_capital_postprocess" | "first-capital" => &[],
            "first_option_postprocess" => &["options", "cushion"],
            "match_answer_pattern" => &["answer_pattern"],
            "extract_non_reasoning_content" | "extract-non-reasoning-content" => {
                &["think_start_token", "think_end_token"]
            }
            _ => {
                let (found, known) = (config.get("type").map(python::repr), POSTPROCESSORS.join(", "));
                let found = found.unwrap_or_else(|| "None".into());
                return Err(format!("a pred_postprocessor of type {found} does not exist here; known are {known}"));
            }
        };
        if let Some(key) = config.keys().find(|key| *key != "type" && !keys.contains(&key.as_str())) {
            let known = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
            return Err(format!("`{key}` of {function} is not supported; known are {known}"));
        }
        let text = |key: &str| match config.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(format!("`{key}` of {function} is {}, wanted a string", python::repr(other))),
        };
        match function {
            "first_option_postprocess" => {
                let options = text("options")?.filter(|options| !options.is_empty());
                let options = options.ok_or("first_option_postprocess needs `options`")?;
                let cushion = match config.get("cushion") {
                    None => true,
                    Some(Value::Bool(cushion)) => *cushion,
                    Some(other) => {
                        let found = python::repr(other);
                        return Err(format!("`cushion` of {function} is {found}, wanted True or False"));
                    }
                };
                Ok(Self::FirstOption { options, cushion })
            }
            "match_answer_pattern" => {
                let pattern = text("answer_pattern")?.ok_or("match_answer_pattern needs an `answer_pattern`")?;
                Pattern::new(&pattern).map(Self::Pattern)
            }
            "first_capital_postprocess" | "first-capital" => Ok(Self::FirstCapital),
            _ => {
                let start = text("think_start_token")?.unwrap_or_else(|| "<think>".into());
                let end = text("think_end_token")?.unwrap_or_else(|| "</think>".into());
                // They are patterns there too.
                let reasoning = Pattern::new(&format!("(?s){start}(.*?){end}"))?;
                Ok(Self::NonReasoning { start, end, reasoning })
            }
        }
    }

    /// What OpenCompass reads out of `text`.
    pub fn extract(&self, text: &str) -> Extracted {
        match self {
            Self::Verbatim => Extracted { answer: text.to_owned(), rule: "verbatim".into() },
            Self::Pattern(Pattern(regex)) => {
                let group = regex.captures(text).and_then(|captures| captures.get(1));
                group.map_or_else(Extracted::none, |group| Extracted {
                    answer: group.as_str().to_owned(),
                    rule: "pattern".into(),
                })
            }
            // Rust's and Python's `isupper` are both Unicode's derived property Uppercase.
            Self::FirstCapital => text
                .chars()
                .find(|c| c.is_uppercase())
                .map_or_else(Extracted::none, |c| Extracted { answer: c.to_string(), rule: "first-capital".into() }),
            Self::FirstOption { options, cushion } => first_option(text, options, *cushion),
            Self::NonReasoning { start, end, reasoning } => {
                let rest = if text.contains(start.as_str()) { None } else { text.rsplit_once(end.as_str()) };
                let answer = match rest {
                    Some((_, rest)) => python::strip(rest).to_owned(),
                    None => python::strip(&reasoning.0.replace_all(text, "")).to_owned(),
                };
                Extracted { answer, rule: "non-reasoning".into() }
            }
        }
    }

    /// Our strict reading beside it: the first line that is not blank has to begin with exactly one option letter,
    /// bare or in brackets or emphasis, and go on with nothing or with a mark that ends it.
    ///
    /// `C`, `(C)`, `**C**`, `C. text` and `C、文` are answers; `CPU`, `C语言`, `A or B` and `A、B` are none.
    pub fn extract_strict(&self, text: &str) -> Extracted {
        let options = match self {
            Self::Verbatim | Self::NonReasoning { .. } => return self.extract(text),
            Self::FirstCapital | Self::Pattern(_) => "ABCD",
            Self::FirstOption { options, .. } => options,
        };
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let line = line.trim_start_matches(['(', '（', '[', '【', '*', '"', '“']);
        let mut chars = line.chars();
        let Some(letter) = chars.next().filter(|letter| options.contains(*letter)) else { return Extracted::none() };
        let rest = chars.as_str().trim_start_matches([')', '）', ']', '】', '*', '"', '”']);
        let closed = rest.len() < chars.as_str().len();
        let ends =
            rest.is_empty() || closed || rest.starts_with(['.', '。', '．', '、', ',', '，', ':', '：', ';', '；']);
        if ends && !goes_on_with_option(rest, options) {
            Extracted { answer: letter.to_string(), rule: "strict-letter".into() }
        } else {
            Extracted::none()
        }
    }
}

/// Whether a list goes on in `rest`: after marks, spaces and perhaps a conjunction another option letter stands alone.
fn goes_on_with_option(rest: &str, options: &str) -> bool {
    let marks = |c: char| !c.is_alphanumeric();
    let rest = rest.trim_start_matches(marks);
    let conjunction = ["or ", "and ", "或", "和", "与", "及"].iter().find_map(|word| rest.strip_prefix(word));
    let mut chars = conjunction.unwrap_or(rest).trim_start_matches(marks).chars();
    chars.next().is_some_and(|letter| options.contains(letter)) && chars.next().is_none_or(marks)
}

/// The patterns of `first_option_postprocess` in OpenCompass 0.5.4, in order, `@` for the class of option letters. The
/// fourteenth is two patterns in one, as a missing comma made it there.
const PATTERNS: [&str; 50] = [
    r"答案是?\s*([@])",
    r"答案是?\s*：\s*([@])",
    r"答案是?\s*:\s*([@])",
    r"答案选项应?该?是\s*([@])",
    r"答案选项应?该?为\s*([@])",
    r"答案应该?是\s*([@])",
    r"答案应该?选\s*([@])",
    r"答案选项为?\s*：\s*([@])",
    r"答案选项为?\s+\(?\*?\*?([@])\*?\*?\)?",
    r"答案选项是?\s*:\s*([@])",
    r"答案为\s*([@])",
    r"答案选\s*([@])",
    r"选择?\s*([@])",
    r"故选?\s*([@])只有选?项?\s?([@])\s?是?对",
    r"只有选?项?\s?([@])\s?是?错",
    r"只有选?项?\s?([@])\s?不?正确",
    r"只有选?项?\s?([@])\s?错误",
    r"说法不?对选?项?的?是\s?([@])",
    r"说法不?正确选?项?的?是\s?([@])",
    r"说法错误选?项?的?是\s?([@])",
    r"([@])\s?是正确的",
    r"([@])\s?是正确答案",
    r"选项\s?([@])\s?正确",
    r"所以答\s?([@])",
    r"所以\s?([@][.。$]?$)",
    r"所有\s?([@][.。$]?$)",
    r"[\s，：:,]([@])[。，,.]?$",
    r"[\s，,：:][故即]([@])[。.]?$",
    r"[\s，,：:]因此([@])[。.]?$",
    r"[是为。]\s?([@])[。.]?$",
    r"因此\s?([@])[。.]?$",
    r"显然\s?([@])[。.]?$",
    r"答案是\s?(\S+)(?:。|$)",
    r"答案应该是\s?(\S+)(?:。|$)",
    r"答案为\s?(\S+)(?:。|$)",
    r"(?i)ANSWER\s*:\s*([@])",
    r"[Tt]he answer is:?\s+\(?([@])\)?",
    r"[Tt]he answer is:?\s+\(?\*?\*?([@])\*?\*?\)?",
    r"[Tt]he answer is option:?\s+\(?([@])\)?",
    r"[Tt]he correct answer is:?\s+\(?([@])\)?",
    r"[Tt]he correct answer is option:?\s+\(?([@])\)?",
    r"[Tt]he correct answer is:?.*?boxed\{([@])\}",
    r"[Tt]he correct option is:?.*?boxed\{([@])\}",
    r"[Tt]he correct answer option is:?.*?boxed\{([@])\}",
    r"[Tt]he answer to the question is:?\s+\(?([@])\)?",
    r"^选项\s?([@])",
    r"^([@])\s?选?项",
    r"(\s|^)[@][\s。，,：:.$]",
    r"1.\s?(.*?)$",
    r"1.\s?([@])[.。$]?$",
];
/// Tried after those with `cushion`.
const CUSHION: [&str; 2] = ["([@]):", "([@])"];

fn first_option(text: &str, options: &str, cushion: bool) -> Extracted {
    let text = python::strip(text);
    let patterns = compiled(options);
    let tried = patterns.iter().enumerate().take(if cushion { patterns.len() } else { PATTERNS.len() });
    for (i, pattern) in tried {
        let Some(captures) = pattern.captures(text) else { continue };
        let group = captures.get(1).filter(|group| !group.is_empty());
        let found = group.unwrap_or_else(|| captures.get(0).expect("the whole match")).as_str();
        if let Some(option) = options.chars().find(|option| found.contains(*option)) {
            let name = if i < PATTERNS.len() { format!("first-option-{}", i + 1) } else { "cushion".into() };
            return Extracted { answer: option.to_string(), rule: name };
        }
    }
    Extracted::none()
}

/// All patterns for a set of options. A set is compiled once; there are as many as datasets have kinds of choices.
fn compiled(options: &str) -> &'static [Regex] {
    static COMPILED: LazyLock<Mutex<HashMap<String, &'static [Regex]>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    compiled.entry(options.to_owned()).or_insert_with(|| {
        let class: String = options.chars().map(|c| regex::escape(&c.to_string())).collect();
        // As with Python's DOTALL, a dot matches line breaks.
        let regex = |pattern: &&str| {
            let pattern = format!("(?s){}", pattern.replace("[@", &format!("[{class}")));
            Regex::new(&pattern).expect("patterns are valid for escaped letters")
        };
        PATTERNS.iter().chain(&CUSHION).map(regex).collect::<Vec<_>>().leak()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitals_of_any_script() {
        let extract = |text: &str| Extractor::FirstCapital.extract(text).answer;
        assert_eq!(
            (extract("the TCP"), extract("答案　Ａ"), extract("第Ⅳ项"), extract("无")),
            ("T".into(), "Ａ".into(), "Ⅳ".into(), String::new())
        );
        assert_eq!(Extractor::FirstCapital.extract("b").rule, "none");
    }

    #[test]
    fn rules_have_ids() {
        let extractor = Extractor::FirstOption { options: "ABCD".into(), cushion: true };
        assert_eq!(extractor.extract("答案是 B"), Extracted { answer: "B".into(), rule: "first-option-1".into() });
        assert_eq!(extractor.extract("xxDxx").rule, "cushion");
    }

    #[test]
    fn patterns_and_verbatim_answers() {
        let pattern = Pattern::new(r"(?i)ANSWER\s*:\s*([A-D])").unwrap();
        assert_eq!(Extractor::Pattern(pattern.clone()).extract("so\nanswer : b").answer, "b");
        assert_eq!(Extractor::Pattern(pattern).extract("none").rule, "none");
        assert!(Pattern::new("A|B").unwrap_err().contains("no group"));
        assert!(Pattern::new("(?=A)(B)").unwrap_err().contains("not supported"));
        assert_eq!(Extractor::Verbatim.extract_strict("1").answer, "1");
    }

    #[test]
    fn strict_takes_only_the_unmistakable() {
        let strict = |text: &str| Extractor::FirstCapital.extract_strict(text).answer;
        for text in ["C", "\n C \n以下是", "(C) x", "（C）", "**C**", "C. 网桥", "C、文", "C：文", "\"C\""] {
            assert_eq!(strict(text), "C", "{text}");
        }
        for text in ["C. CPU", "C、D触发器", "C: a or B", "(C) 和平", "C.\nD."] {
            assert_eq!(strict(text), "C", "{text}");
        }
        for text in ["", "CPU", "C语言", "A or B", "E", "答案是C", "c"] {
            assert_eq!(strict(text), "", "{text}");
        }
        for text in ["C、D", "C,D", "C, D。", "(C)(D)", "**C** or **D**", "C), and D)", "（C）或（D）", "C；D；A"]
        {
            assert_eq!(strict(text), "", "{text}");
        }
    }
}
