//! From filled rounds to what a model reads: plain text, text with markers around each role, or messages.

use super::{Role, Turn};
use crate::{Error, HfType, Message, Prompt, Result, names};

/// The markers of one role in a meta template.
#[derive(Debug, PartialEq, Eq)]
struct Markers {
    /// `None`: a role that datasets do not fill, written empty.
    role: Option<Role>,
    begin: &'static str,
    end: &'static str,
}

/// Markers around the roles of a round, in the order they are written.
#[derive(Debug, PartialEq, Eq)]
struct MetaTemplate {
    name: &'static str,
    round: &'static [Markers],
}

const fn human(begin: &'static str, end: &'static str) -> Markers {
    Markers { role: Some(Role::Human), begin, end }
}

const fn bot(begin: &'static str, end: &'static str) -> Markers {
    Markers { role: Some(Role::Bot), begin, end }
}

/// Those of OpenCompass's InternLM configurations.
static META_TEMPLATES: [MetaTemplate; 3] = [
    // hf_internlm_chat_7b
    MetaTemplate { name: "internlm_chat", round: &[human("<|User|>:", "\n"), bot("<|Bot|>:", "<eoa>\n")] },
    // hf_internlm2_chat_7b_with_system: datasets without a system text get an empty block in every round.
    MetaTemplate {
        name: "internlm2_chat",
        round: &[
            Markers { role: None, begin: "<|im_start|>system\n", end: "<|im_end|>\n" },
            human("<|im_start|>user\n", "<|im_end|>\n"),
            bot("<|im_start|>assistant\n", "<|im_end|>\n"),
        ],
    },
    MetaTemplate {
        name: "internlm2_chat_nosys",
        round: &[human("<|im_start|>user\n", "<|im_end|>\n"), bot("<|im_start|>assistant\n", "<|im_end|>\n")],
    },
];

/// How prompts reach the model: plain text, text through a meta template, or messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Meta(&'static MetaTemplate),
    Messages,
}

impl Style {
    /// The style that the configuration asks for.
    ///
    /// # Errors
    /// [`Error::UnknownMetaTemplate`]; [`Error::Config`] for a meta template beside the model's own chat template.
    pub fn new(hf_type: HfType, meta_template: Option<&str>) -> Result<Self> {
        let kind = match (hf_type, meta_template) {
            (HfType::Chat, Some(name)) => {
                return Err(Error::Config {
                    what: format!(
                        "--hf-type chat sends messages through the model's own chat template, so the meta template \
                         `{name}` has no place\n\nhint: leave one of the two out"
                    ),
                });
            }
            (HfType::Chat, None) => Kind::Messages,
            (HfType::Base, None) => Kind::Plain,
            (HfType::Base, Some(name)) => {
                let found = META_TEMPLATES.iter().find(|meta| meta.name == name);
                Kind::Meta(found.ok_or_else(|| {
                    let known = META_TEMPLATES.iter().map(|meta| meta.name);
                    Error::UnknownMetaTemplate {
                        name: name.to_owned(),
                        near: names::near(name, known.clone()),
                        known: known.map(str::to_owned).collect(),
                    }
                })?)
            }
        };
        Ok(Self(kind))
    }

    /// The style in words, and how to change it.
    pub fn describe(&self) -> String {
        match self.0 {
            Kind::Plain => {
                "prompts are sent as plain text (--hf-type base); --hf-type chat sends messages through the \
                            model's chat template"
                    .into()
            }
            Kind::Meta(meta) => format!("prompts are sent as text with the markers of the meta template {}", meta.name),
            Kind::Messages => "prompts are sent as messages through the model's chat template (--hf-type chat); \
                               --hf-type base sends plain text"
                .into(),
        }
    }

    /// What is sent for these turns; the last one, the answer to be generated, is empty.
    pub(crate) fn render(&self, turns: &[Turn]) -> Prompt {
        match self.0 {
            Kind::Plain => Prompt::Text(plain(turns)),
            Kind::Meta(meta) => Prompt::Text(marked(turns, meta.round)),
            Kind::Messages => Prompt::Messages(messages(turns)),
        }
    }
}

/// Non-empty turns, one per line. A separator precedes every turn but the first, even where that one is empty.
fn plain(turns: &[Turn]) -> String {
    let mut text = String::new();
    for (i, turn) in turns.iter().enumerate().filter(|(_, turn)| !turn.text.is_empty()) {
        if i > 0 {
            text.push('\n');
        }
        text += &turn.text;
    }
    text
}

/// A round ends with its answer; the last answer is left to the model, after its opening marker.
fn marked(turns: &[Turn], round: &[Markers]) -> String {
    let mut text = String::new();
    let turns: Vec<&Turn> = turns.iter().filter(|turn| turn.role.is_some()).collect();
    let rounds: Vec<&[&Turn]> = turns.split_inclusive(|turn| turn.role == Some(Role::Bot)).collect();
    for (i, turns) in rounds.iter().enumerate() {
        for markers in round {
            text += markers.begin;
            if markers.role == Some(Role::Bot) && i + 1 == rounds.len() {
                return text;
            }
            let said = turns.iter().filter(|turn| markers.role.is_some() && turn.role == markers.role);
            said.for_each(|turn| text += &turn.text);
            text += markers.end;
        }
    }
    text
}

/// OpenCompass's chat models have a system role as well, which is merged into the user's message: empty, it leaves
/// the line break that joins it.
fn messages(turns: &[Turn]) -> Vec<Message> {
    let said = turns.iter().take(turns.len().saturating_sub(1));
    said.filter_map(|turn| {
        let (role, content) = match turn.role? {
            Role::Human => ("user", format!("{}\n", turn.text)),
            Role::Bot => ("assistant", turn.text.clone()),
        };
        Some(Message { role: role.into(), content })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> Vec<Turn> {
        let turn = |role, text: &str| Turn { role: Some(role), text: text.into() };
        vec![turn(Role::Human, "q1"), turn(Role::Bot, "X"), turn(Role::Human, "q2"), turn(Role::Bot, "")]
    }

    fn text(meta: Option<&str>) -> String {
        let Prompt::Text(text) = Style::new(HfType::Base, meta).unwrap().render(&turns()) else { panic!("text") };
        text
    }

    #[test]
    fn styles() {
        assert_eq!(text(None), "q1\nX\nq2");
        assert_eq!(text(Some("internlm_chat")), "<|User|>:q1\n<|Bot|>:X<eoa>\n<|User|>:q2\n<|Bot|>:");
        let Prompt::Messages(messages) = Style::new(HfType::Chat, None).unwrap().render(&turns()) else { panic!() };
        let contents: Vec<(&str, &str)> = messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(contents, [("user", "q1\n"), ("assistant", "X"), ("user", "q2\n")]);
    }

    #[test]
    fn without_examples_plain_text_begins_with_a_line_break() {
        let mut turns = turns()[2..].to_vec();
        turns.insert(0, Turn { role: None, text: String::new() });
        assert_eq!(plain(&turns), "\nq2");
    }

    #[test]
    fn unknown_or_contradictory_styles_are_errors() {
        let error = Style::new(HfType::Base, Some("internlm2_chad")).unwrap_err().to_string();
        assert!(error.contains("did you mean `internlm2_chat`"), "{error}");
        assert!(Style::new(HfType::Chat, Some("internlm_chat")).is_err());
    }
}
