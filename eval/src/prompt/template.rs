//! Templates in OpenCompass's round structure, and how rows fill them.

use crate::Row;

/// Who speaks in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The question.
    Human,
    /// The answer.
    Bot,
}

/// One utterance of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Who speaks.
    pub role: Role,
    /// Text with `{column}` placeholders.
    pub prompt: String,
}

/// A prompt template: the same rounds ask a solved example (with its answer) and the question (without).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The rounds, the answer's last.
    pub rounds: Vec<Round>,
    /// The column of the answer.
    pub answer: String,
}

/// A filled round; `role` is `None` for the place of the examples where there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub role: Option<Role>,
    pub text: String,
}

impl Template {
    /// The first column that the rounds name and `row` lacks.
    pub(crate) fn missing_column<'a>(&self, row: &'a Row, known: &[&'a str]) -> Option<&'a str> {
        let named = |column: &str| self.rounds.iter().any(|round| round.prompt.contains(&format!("{{{column}}}")));
        known.iter().copied().find(|column| named(column) && !row.iter().any(|(name, _)| name == column))
    }

    /// The rounds of `shots`, then those of `question` with its answer left empty.
    ///
    /// Placeholders are replaced column after column in the whole text so far, so one that stands in the data is
    /// replaced too, and one that is left in an example is filled from the question: as OpenCompass does, although
    /// a formula such as `\bar{A}` loses its letter by it.
    pub(crate) fn turns(&self, shots: &[Row], question: &Row) -> Vec<Turn> {
        let unanswered: Row = question
            .iter()
            .map(|(name, value)| (name.clone(), if *name == self.answer { String::new() } else { value.clone() }))
            .collect();
        let fill = |round: &Round, row: &Row| Turn { role: Some(round.role), text: filled(&round.prompt, row) };
        let mut turns: Vec<Turn> =
            shots.iter().flat_map(|row| self.rounds.iter().map(move |round| fill(round, row))).collect();
        for turn in &mut turns {
            turn.text = filled(&turn.text, &unanswered);
        }
        if shots.is_empty() {
            turns.push(Turn { role: None, text: String::new() });
        }
        turns.extend(self.rounds.iter().map(|round| fill(round, &unanswered)));
        turns
    }
}

fn filled(text: &str, row: &Row) -> String {
    let mut text = text.to_owned();
    for (name, value) in row {
        let placeholder = format!("{{{name}}}");
        if text.contains(&placeholder) {
            text = text.replace(&placeholder, value);
        }
    }
    text
}

/// Whether the data of `row` holds a placeholder, which filling replaces.
pub(crate) fn has_placeholder(row: &Row) -> bool {
    row.iter().any(|(_, value)| row.iter().any(|(name, _)| value.contains(&format!("{{{name}}}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: [&str; 3]) -> Row {
        ["question", "A", "answer"].map(str::to_owned).into_iter().zip(values.map(str::to_owned)).collect()
    }

    fn template() -> Template {
        let round = |role, prompt: &str| Round { role, prompt: prompt.into() };
        Template {
            rounds: vec![round(Role::Human, "{question}? {A}"), round(Role::Bot, "{answer}")],
            answer: "answer".into(),
        }
    }

    fn texts(turns: &[Turn]) -> Vec<&str> {
        turns.iter().map(|turn| turn.text.as_str()).collect()
    }

    #[test]
    fn examples_carry_their_answer_and_the_question_does_not() {
        let turns = template().turns(&[row(["q1", "a1", "X"])], &row(["q2", "a2", "Y"]));
        assert_eq!(texts(&turns), ["q1? a1", "X", "q2? a2", ""]);
        assert_eq!(turns[1].role, Some(Role::Bot));
    }

    #[test]
    fn no_examples_leave_an_empty_place() {
        let turns = template().turns(&[], &row(["q", "a", "Y"]));
        assert_eq!(turns[0], Turn { role: None, text: String::new() });
        assert_eq!(texts(&turns), ["", "q? a", ""]);
    }

    #[test]
    fn placeholders_in_data_are_replaced_in_column_order() {
        let question = row([r"\bar{A}", "a {question}", "Y"]);
        assert!(has_placeholder(&question));
        // `{question}` was replaced before `{A}` brought it back.
        assert_eq!(texts(&template().turns(&[], &question)), ["", r"\bara {question}? a {question}", ""]);
        // What stays in an example is filled from the question, whose answer is empty.
        let turns = template().turns(&[row(["q1", "{question}", "{answer}"])], &row(["q2", "a2", "Y"]));
        assert_eq!(texts(&turns), ["q1? q2", "", "q2? a2", ""]);
        assert!(!has_placeholder(&row(["{x}", "{ A }", "{"])));
    }

    #[test]
    fn missing_columns_are_found() {
        let row = row(["q", "a", "Y"]);
        assert_eq!(template().missing_column(&row, &["question", "A", "answer"]), None);
        assert_eq!(template().missing_column(&row[1..].to_vec(), &["question", "A"]), Some("question"));
    }
}
