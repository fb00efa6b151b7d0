//! Templates of OpenCompass's configurations, and how rows fill them.

use super::items::{Draft, Item, Said, Section};
use crate::{Row, python, task::Label};
use serde_json::{Map, Value};

/// What one prompt is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    /// Text with `{column}` placeholders.
    Text(String),
    /// Rounds, with what stands before and after them.
    Rounds { begin: Vec<Item>, round: Vec<Item>, end: Vec<Item> },
}

impl Body {
    /// As an example: without what stands around the rounds.
    fn example(&self) -> Draft {
        match self {
            Self::Text(text) => Draft::Text(text.clone()),
            Self::Rounds { round, .. } => Draft::List(section(Section::Ice, round)),
        }
    }

    /// As the question.
    fn question(&self) -> Draft {
        match self {
            Self::Text(text) => Draft::Text(text.clone()),
            Self::Rounds { begin, round, end } => {
                let mut items = section(Section::Begin, begin);
                items.extend(section(Section::Round, round));
                items.extend(section(Section::End, end));
                Draft::List(items)
            }
        }
    }

    fn texts(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => vec![text],
            Self::Rounds { begin, round, end } => begin.iter().chain(round).chain(end).filter_map(item_text).collect(),
        }
    }
}

fn item_text(item: &Item) -> Option<&str> {
    match item {
        Item::Text(text) => Some(text),
        Item::Said(said) => said.prompt.as_deref(),
        Item::Open(_) | Item::Close(_) => None,
    }
}

fn section(section: Section, items: &[Item]) -> Vec<Item> {
    if items.is_empty() {
        return Vec::new();
    }
    [&[Item::Open(section)], items, &[Item::Close(section)]].concat()
}

/// A `PromptTemplate` of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    bodies: Bodies,
    /// Where the examples go.
    ice_token: Option<String>,
    /// Removed from what is sent.
    sep_token: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bodies {
    /// The same for every answer.
    One(Body),
    /// One for each answer, in order.
    Each(Vec<(Label, Body)>),
}

impl Template {
    /// The template that a configuration's `dict(type=PromptTemplate, …)` describes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(config: &Value) -> Result<Self, String> {
        let Some(map) = config.as_object() else { return Err("it is not a dict".into()) };
        let optional = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(other) => Err(format!("{key} is {}, wanted a string", python::repr(other))),
        };
        if let Some(key) =
            map.keys().find(|key| !["type", "template", "ice_token", "sep_token"].contains(&key.as_str()))
        {
            return Err(format!("unknown key `{key}`; it has type, template, ice_token and sep_token"));
        }
        let bodies = match map.get("template") {
            Some(Value::String(text)) => Bodies::One(Body::Text(text.clone())),
            Some(Value::Object(rounds)) if is_rounds(rounds) => Bodies::One(parse_rounds(rounds)?),
            Some(Value::Object(each)) if !each.is_empty() => {
                let body = |(key, body): (&String, &Value)| match body {
                    Value::String(text) => Ok((Label::of_key(key), Body::Text(text.clone()))),
                    Value::Object(rounds) if is_rounds(rounds) => Ok((Label::of_key(key), parse_rounds(rounds)?)),
                    other => Err(format!(
                        "the template of {} is {}, wanted a string or rounds",
                        Label::of_key(key).text,
                        python::repr(other)
                    )),
                };
                Bodies::Each(each.iter().map(body).collect::<Result<_, _>>()?)
            }
            _ => return Err("its template must be a string, rounds, or one of these for each answer".into()),
        };
        let template = Self { bodies, ice_token: optional("ice_token")?, sep_token: optional("sep_token")? };
        if let Some(token) = &template.ice_token
            && !template.texts().iter().any(|text| text.contains(token.as_str()))
        {
            return Err(format!("the ice_token {token} does not stand in it"));
        }
        Ok(template)
    }

    /// The answers it has a body for, in order; none where one body serves all.
    pub(crate) fn labels(&self) -> Option<Vec<Label>> {
        match &self.bodies {
            Bodies::One(_) => None,
            Bodies::Each(each) => Some(each.iter().map(|(label, _)| label.clone()).collect()),
        }
    }

    /// Whether the examples of it are joined without separators: it is rounds, and the same for every answer.
    fn is_rounds(&self) -> bool {
        matches!(self.bodies, Bodies::One(Body::Rounds { .. }))
    }

    /// The body for the answer `label`; the first one for none.
    fn body(&self, label: Option<&str>) -> Result<&Body, String> {
        match (&self.bodies, label) {
            (Bodies::One(body), _) => Ok(body),
            (Bodies::Each(each), None) => each.first().map(|(_, body)| body).ok_or_else(|| "it has no body".into()),
            (Bodies::Each(each), Some(label)) => {
                let found = each.iter().find(|(one, _)| one.text == label);
                found.map(|(_, body)| body).ok_or_else(|| {
                    let has: Vec<&str> = each.iter().map(|(one, _)| one.text.as_str()).collect();
                    format!("the template has bodies for {}, but none for the answer {label:?}", has.join(", "))
                })
            }
        }
    }

    fn texts(&self) -> Vec<&str> {
        match &self.bodies {
            Bodies::One(body) => body.texts(),
            Bodies::Each(each) => each.iter().flat_map(|(_, body)| body.texts()).collect(),
        }
    }
}

/// Whether a dict is one template of rounds, and not one template for each answer.
fn is_rounds(map: &Map<String, Value>) -> bool {
    !map.is_empty() && map.keys().all(|key| ["begin", "round", "end"].contains(&key.as_str()))
}

fn parse_rounds(map: &Map<String, Value>) -> Result<Body, String> {
    let part = |key: &str| match map.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(|item| parse_item(key, item)).collect(),
        Some(item) => Ok(vec![parse_item(key, item)?]),
    };
    let round = part("round")?;
    if round.is_empty() {
        return Err("a template of rounds without a `round`".into());
    }
    Ok(Body::Rounds { begin: part("begin")?, round, end: part("end")? })
}

fn parse_item(part: &str, item: &Value) -> Result<Item, String> {
    let map = match item {
        Value::String(text) => return Ok(Item::Text(text.clone())),
        Value::Object(map) => map,
        other => return Err(format!("`{part}` holds {}, wanted strings and roles", python::repr(other))),
    };
    let mut said = Said::default();
    for (key, value) in map {
        let Value::String(text) = value else {
            return Err(format!("`{key}` in `{part}` is {}, wanted a string", python::repr(value)));
        };
        let text = text.clone();
        match key.as_str() {
            "role" => said.role = text,
            "fallback_role" => said.fallback_role = Some(text),
            "prompt" => said.prompt = Some(text),
            "begin" => said.begin = Some(text),
            "end" => said.end = Some(text),
            other => return Err(format!("unknown key `{other}` of a role in `{part}`")),
        }
    }
    if said.role.is_empty() {
        return Err(format!("an utterance in `{part}` without a role"));
    }
    Ok(Item::Said(said))
}

/// How the prompts of a task are made: OpenCompass's templates and the separators of its retriever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompting {
    /// `ice_template`: of the examples, and of the question where there is no other.
    pub(crate) ice: Option<Template>,
    /// `prompt_template`: of the question.
    pub(crate) prompt: Option<Template>,
    /// Between two examples.
    pub(crate) separator: String,
    /// After the examples.
    pub(crate) eos: String,
    /// The column of the answer.
    pub(crate) output_column: String,
    /// Whether braces of the data are left alone.
    pub(crate) strict_braces: bool,
}

impl Prompting {
    /// Checks what does not depend on the data.
    ///
    /// # Errors
    /// What is wrong: no template at all, or no place for the examples.
    pub(crate) fn check(&self) -> Result<(), String> {
        match (&self.ice, &self.prompt) {
            (None, None) => Err("there is neither an ice_template nor a prompt_template".into()),
            (Some(_), Some(prompt)) if prompt.ice_token.is_none() => {
                Err("the prompt_template has no ice_token, so the examples have no place in it".into())
            }
            (Some(ice), None) if ice.ice_token.is_none() => {
                Err("the ice_template has no ice_token, and there is no prompt_template".into())
            }
            _ => Ok(()),
        }
    }

    /// That of the question.
    fn question_template(&self) -> Result<&Template, String> {
        self.prompt.as_ref().or(self.ice.as_ref()).ok_or_else(|| "there is no template".into())
    }

    /// The answers that the templates distinguish, in order.
    pub(crate) fn labels(&self) -> Option<Vec<Label>> {
        self.question_template().ok()?.labels()
    }

    /// The first of `columns` that a template names and `row` lacks.
    pub(crate) fn missing_column<'a>(&self, row: &Row, columns: &'a [String]) -> Option<&'a str> {
        let texts: Vec<&str> = self.ice.iter().chain(&self.prompt).flat_map(Template::texts).collect();
        let named = |column: &str| texts.iter().any(|text| text.contains(&format!("{{{column}}}")));
        columns.iter().map(String::as_str).find(|column| !row.iter().any(|(name, _)| name == column) && named(column))
    }

    /// The solved examples.
    ///
    /// # Errors
    /// Examples without a template, or whose answer has none.
    pub(crate) fn examples(&self, shots: &[Row]) -> Result<Draft, String> {
        let template = match &self.ice {
            Some(template) => template,
            None if shots.is_empty() => return Ok(Draft::Text(self.eos.clone())),
            None => return Err("there are examples, but no ice_template".into()),
        };
        let (separator, eos) =
            if template.is_rounds() { ("", "") } else { (self.separator.as_str(), self.eos.as_str()) };
        let example = |row: &Row| -> Result<Draft, String> {
            let answer = row.iter().find(|(name, _)| *name == self.output_column).map(|(_, answer)| answer.as_str());
            let draft = template.body(Some(answer.unwrap_or_default()))?.example();
            let draft = match &template.ice_token {
                Some(token) => draft.map(|text| text.replace(token.as_str(), "")),
                None => draft,
            };
            Ok(draft.fill(row, self.strict_braces))
        };
        let mut list: Option<Vec<Item>> = None;
        let mut texts = Vec::new();
        for row in shots {
            match example(row)? {
                Draft::Text(text) => texts.push(text),
                Draft::List(items) => {
                    let list = list.get_or_insert_default();
                    list.extend(items);
                    list.extend((!separator.is_empty()).then(|| Item::Text(separator.to_owned())));
                }
            }
        }
        match list {
            Some(_) if !texts.is_empty() => Err("some answers have a template of rounds, others a string".into()),
            Some(mut items) => {
                items.push(Item::Text(eos.to_owned()));
                Ok(Draft::List(items))
            }
            None => Ok(Draft::Text(texts.join(separator) + eos)),
        }
    }

    /// The prompt that asks `question`: its answer is left empty.
    ///
    /// # Errors
    /// Examples that have no place in the template.
    pub(crate) fn question(&self, examples: &Draft, question: &Row) -> Result<Draft, String> {
        let template = self.question_template()?;
        let blank = |(name, value): &(String, String)| {
            (name.clone(), if *name == self.output_column { String::new() } else { value.clone() })
        };
        self.finish(template, template.body(None)?, examples, &question.iter().map(blank).collect())
    }

    /// The prompt that states the answer `label` to `question`.
    ///
    /// # Errors
    /// An answer without a template; examples that have no place in it.
    pub(crate) fn statement(&self, examples: &Draft, question: &Row, label: &str) -> Result<Draft, String> {
        let template = self.question_template()?;
        self.finish(template, template.body(Some(label))?, examples, question)
    }

    fn finish(&self, template: &Template, body: &Body, examples: &Draft, row: &Row) -> Result<Draft, String> {
        let mut draft = body.question();
        if let Some(token) = &template.sep_token {
            draft = draft.map(|text| text.replace(token.as_str(), ""));
        }
        if let Some(token) = &template.ice_token {
            draft = draft.insert(token, examples)?;
        }
        Ok(draft.fill(row, self.strict_braces).unguard())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(values: [&str; 3]) -> Row {
        ["question", "A", "answer"].map(str::to_owned).into_iter().zip(values.map(str::to_owned)).collect()
    }

    fn prompting(strict_braces: bool) -> Prompting {
        let template = json!({
            "template": {
                "begin": "</E>",
                "round": [{"role": "HUMAN", "prompt": "{question}? {A}"}, {"role": "BOT", "prompt": "{answer}"}],
            },
            "ice_token": "</E>",
        });
        let (separator, eos, output_column) = ("\n".into(), "\n".into(), "answer".into());
        let ice = Some(Template::parse(&template).unwrap());
        Prompting { ice, prompt: None, separator, eos, output_column, strict_braces }
    }

    fn asked(prompting: &Prompting, shots: &[Row], question: &Row) -> Vec<String> {
        let examples = prompting.examples(shots).unwrap();
        let Draft::List(items) = prompting.question(&examples, question).unwrap() else { panic!("a list") };
        items.iter().filter_map(item_text).map(str::to_owned).collect()
    }

    #[test]
    fn examples_carry_their_answer_and_the_question_does_not() {
        let texts = asked(&prompting(false), &[row(["q1", "a1", "X"])], &row(["q2", "a2", "Y"]));
        assert_eq!(texts, ["q1? a1", "X", "", "q2? a2", ""]);
        // Without examples their place is an empty text.
        assert_eq!(asked(&prompting(false), &[], &row(["q", "a", "Y"])), ["", "q? a", ""]);
    }

    #[test]
    fn placeholders_in_data_are_replaced_in_column_order() {
        let question = row([r"\bar{A}", "a {question}", "Y"]);
        assert!(super::super::has_placeholder(&question));
        // `{question}` was replaced before `{A}` brought it back.
        assert_eq!(asked(&prompting(false), &[], &question), ["", r"\bara {question}? a {question}", ""]);
        // What stays in an example is filled from the question, whose answer is empty.
        let shots = [row(["q1", "{question}", "{answer}"])];
        assert_eq!(asked(&prompting(false), &shots, &row(["q2", "a2", "Y"])), ["q1? q2", "", "", "q2? a2", ""]);
        assert!(!super::super::has_placeholder(&row(["{x}", "{ A }", "{"])));
    }

    #[test]
    fn strict_braces_leave_the_data_alone() {
        let shots = [row(["q1", "{question}", "{answer}"])];
        let texts = asked(&prompting(true), &shots, &row([r"\bar{A}", "a {question}", "Y"]));
        assert_eq!(texts, ["q1? {question}", "{answer}", "", r"\bar{A}? a {question}", ""]);
    }

    #[test]
    fn missing_columns_are_found() {
        let columns = ["question", "A", "answer"].map(str::to_owned);
        let row = row(["q", "a", "Y"]);
        assert_eq!(prompting(false).missing_column(&row, &columns), None);
        assert_eq!(prompting(false).missing_column(&row[1..].to_vec(), &columns), Some("question"));
    }

    #[test]
    fn a_template_for_each_answer_has_separators() {
        let each = |answer: &str| json!({"begin": "</E>", "round": [{"role": "HUMAN", "prompt": "{question}"}, {"role": "BOT", "prompt": answer}]});
        let template = json!({"template": {"X": each("X"), "Y": each("Y")}, "ice_token": "</E>"});
        let prompting = Prompting { ice: Some(Template::parse(&template).unwrap()), ..prompting(false) };
        let labels: Vec<String> = prompting.labels().unwrap().into_iter().map(|label| label.text).collect();
        assert_eq!(labels, ["X", "Y"]);
        let examples = prompting.examples(&[row(["q1", "", "Y"]), row(["q2", "", "X"])]).unwrap();
        let Draft::List(items) = prompting.statement(&examples, &row(["q3", "", "X"]), "Y").unwrap() else { panic!() };
        let texts: Vec<&str> = items.iter().filter_map(item_text).collect();
        assert_eq!(texts, ["q1", "Y", "\n", "q2", "X", "\n", "\n", "q3", "Y"]);
        assert!(prompting.examples(&[row(["q", "", "Z"])]).unwrap_err().contains("none for the answer \"Z\""));
    }

    #[test]
    fn malformed_templates_are_errors() {
        for (template, wanted) in [
            (json!({"template": 3}), "must be a string"),
            (json!({"template": "q", "ice_token": "</E>"}), "</E> does not stand in it"),
            (json!({"template": {"begin": "</E>"}}), "without a `round`"),
            (json!({"template": {"round": [{"prompt": "q"}]}}), "without a role"),
            (json!({"template": {"round": [{"role": "HUMAN", "prompt": 1}]}}), "`prompt` in `round` is 1"),
            (json!({"template": {"A": 1}}), "the template of A is 1"),
            (json!({"template": "q", "token": "x"}), "unknown key `token`"),
        ] {
            let error = Template::parse(&template).unwrap_err();
            assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
        }
    }

    #[test]
    fn rounds_of_examples_have_no_place_in_a_string() {
        let mut prompting = prompting(false);
        prompting.prompt = Some(Template::parse(&json!({"template": "</E>{question}", "ice_token": "</E>"})).unwrap());
        let examples = prompting.examples(&[row(["q1", "a1", "X"])]).unwrap();
        assert!(prompting.question(&examples, &row(["q", "a", "Y"])).unwrap_err().contains("the template is a string"));
    }
}
