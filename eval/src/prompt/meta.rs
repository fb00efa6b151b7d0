//! From filled templates to what a model reads: plain text, text with markers around each role, or messages.

use super::items::{Draft, Item, Said, Section};
use crate::{Error, EvalConfig, HfType, Message, Prompt, Result, names, python};
use serde_json::{Value, json};
use std::sync::Arc;

/// Whether the last answer is left to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The prompt ends where the answer begins.
    Gen,
    /// The whole prompt is scored, answer included.
    Ppl,
}

/// A role of a meta template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Speaker {
    role: String,
    begin: String,
    /// What it says where a template gives it nothing to say.
    prompt: String,
    end: String,
    /// Whether the model speaks in this role.
    generate: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Speaker(Speaker),
}

/// OpenCompass's meta template: markers around the roles of a round, in the order they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaTemplate {
    begin: String,
    end: String,
    round: Vec<Part>,
    /// Roles that only stand outside of rounds.
    reserved: Vec<Speaker>,
}

impl MetaTemplate {
    /// The meta template that a model's `meta_template=dict(round=[…], …)` describes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(config: &Value) -> Result<Self, String> {
        let Some(map) = config.as_object() else { return Err("a meta template must be a dict".into()) };
        let text = |key: &str| match map.get(key) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(format!("`{key}` of the meta template is {}, wanted a string", python::repr(other))),
        };
        let list = |key: &str| match map.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(parts)) => parts.iter().map(part).collect::<Result<Vec<Part>, String>>(),
            Some(other) => Err(format!("`{key}` of the meta template is {}, wanted a list", python::repr(other))),
        };
        const KEYS: [&str; 5] = ["begin", "end", "round", "reserved_roles", "eos_token_id"];
        if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("unknown key `{key}` of a meta template; it has {}", KEYS.join(", ")));
        }
        let round = list("round")?;
        let mut reserved = Vec::new();
        for part in list("reserved_roles")? {
            let Part::Speaker(speaker) = part else { return Err("`reserved_roles` holds a string".into()) };
            reserved.push(speaker);
        }
        let meta = Self { begin: text("begin")?, end: text("end")?, round, reserved };
        let mut roles: Vec<&str> = meta.speakers().map(|speaker| speaker.role.as_str()).collect();
        if roles.is_empty() {
            return Err("a meta template needs a `round` with roles".into());
        }
        roles.sort_unstable();
        match roles.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("the meta template has the role {} twice", pair[0])),
            None => Ok(meta),
        }
    }

    fn speakers(&self) -> impl Iterator<Item = &Speaker> {
        let of_round = self.round.iter().filter_map(|part| match part {
            Part::Speaker(speaker) => Some(speaker),
            Part::Text(_) => None,
        });
        of_round.chain(&self.reserved)
    }

    /// The speakers with what the utterances override.
    fn cast(&self, said: &[&Said]) -> Result<Vec<Speaker>, String> {
        let mut cast: Vec<Speaker> = self.speakers().cloned().collect();
        for one in said {
            let known = |role: &str| cast.iter().position(|speaker| speaker.role == role);
            let found = known(&one.role).or_else(|| known(one.fallback_role.as_deref()?));
            let Some(speaker) = found.map(|i| &mut cast[i]) else { return Err(no_role(one)) };
            let set = |field: &mut String, value: &Option<String>| {
                if let Some(value) = value {
                    field.clone_from(value);
                }
            };
            set(&mut speaker.begin, &one.begin);
            set(&mut speaker.prompt, &one.prompt);
            set(&mut speaker.end, &one.end);
        }
        Ok(cast)
    }

    /// The places of the roles in a round.
    fn place(&self, said: &Said) -> Result<usize, String> {
        let is_it = |part: &Part| matches!(part, Part::Speaker(speaker) if speaker.role == said.role);
        self.round.iter().position(is_it).ok_or_else(|| no_role(said))
    }

    /// A prompt with its markers.
    fn mark(&self, items: &[Item], mode: Mode) -> Result<String, String> {
        let mut text = self.begin.clone();
        let mut open: Vec<(Section, usize)> = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match item {
                Item::Text(part) => text += part,
                Item::Open(section) => open.push((*section, i + 1)),
                Item::Close(_) => {
                    let Some((section @ (Section::Ice | Section::Round), start)) = open.pop() else { continue };
                    let rounds = rounds(&items[start..i], |said| self.place(said))?;
                    for (n, said) in rounds.iter().enumerate() {
                        let last = mode == Mode::Gen && section == Section::Round && n + 1 == rounds.len();
                        if !self.mark_round(said, last, &mut text)? && last {
                            return Ok(text);
                        }
                    }
                }
                Item::Said(said) if matches!(open.last(), Some((Section::Begin | Section::End, _))) => {
                    let cast = self.cast(&[said])?;
                    let named = |role: &str| cast.iter().find(|speaker| speaker.role == role);
                    let found = named(&said.role).or_else(|| named(said.fallback_role.as_deref()?));
                    let Speaker { begin, prompt, end, .. } = found.ok_or_else(|| no_role(said))?;
                    text.extend([begin.as_str(), prompt, end]);
                }
                Item::Said(_) => {}
            }
        }
        Ok(text + &self.end)
    }

    /// One round; with `is_last` only up to where the model speaks. Says whether it is written to its end.
    fn mark_round(&self, said: &[&Said], is_last: bool, text: &mut String) -> Result<bool, String> {
        let cast = self.cast(said)?;
        for part in &self.round {
            match part {
                Part::Text(part) => *text += part,
                Part::Speaker(speaker) => {
                    let speaker = cast.iter().find(|one| one.role == speaker.role).unwrap_or(speaker);
                    *text += &speaker.begin;
                    if is_last && speaker.generate {
                        return Ok(false);
                    }
                    text.extend([speaker.prompt.as_str(), &speaker.end]);
                }
            }
        }
        Ok(true)
    }
}

fn part(part: &Value) -> Result<Part, String> {
    let map = match part {
        Value::String(text) => return Ok(Part::Text(text.clone())),
        Value::Object(map) => map,
        other => return Err(format!("the meta template holds {}, wanted strings and roles", python::repr(other))),
    };
    let mut speaker = Speaker::default();
    for (key, value) in map {
        match (key.as_str(), value) {
            ("role", Value::String(text)) => speaker.role.clone_from(text),
            ("begin", Value::String(text)) => speaker.begin.clone_from(text),
            ("prompt", Value::String(text)) => speaker.prompt.clone_from(text),
            ("end", Value::String(text)) => speaker.end.clone_from(text),
            ("generate", Value::Bool(generate)) => speaker.generate = *generate,
            // Of models behind an interface; here roles have no other names.
            ("api_role", Value::String(_)) => {}
            (key, value) => return Err(format!("`{key}` of a role of the meta template is {}", python::repr(value))),
        }
    }
    if speaker.role.is_empty() {
        Err("a role of the meta template has no name".into())
    } else {
        Ok(Part::Speaker(speaker))
    }
}

fn no_role(said: &Said) -> String {
    match &said.fallback_role {
        None => format!("the model's template has no role {}, and there is no fallback_role", said.role),
        Some(other) => format!("the model's template has neither a role {} nor {other}", said.role),
    }
}

/// The utterances of a section, round by round: one begins where the order of roles begins again.
fn rounds(items: &[Item], place: impl Fn(&Said) -> Result<usize, String>) -> Result<Vec<Vec<&Said>>, String> {
    let mut rounds: Vec<Vec<&Said>> = vec![Vec::new()];
    let mut last: Option<usize> = None;
    for item in items {
        let Item::Said(said) = item else { continue };
        let place = place(said)?;
        if last.is_some_and(|last| place <= last) {
            rounds.push(Vec::new());
        }
        last = Some(place);
        if let Some(round) = rounds.last_mut() {
            round.push(said);
        }
    }
    Ok(rounds)
}

/// Names of the built-in meta templates, those of OpenCompass's InternLM configurations.
const NAMES: [&str; 3] = ["internlm_chat", "internlm2_chat", "internlm2_chat_nosys"];

fn built_in(name: &str) -> Option<MetaTemplate> {
    let human = |begin: &str, end: &str| json!({"role": "HUMAN", "begin": begin, "end": end});
    let bot = |begin: &str, end: &str| json!({"role": "BOT", "begin": begin, "end": end, "generate": true});
    let (user, assistant) =
        (human("<|im_start|>user\n", "<|im_end|>\n"), bot("<|im_start|>assistant\n", "<|im_end|>\n"));
    let round = match name {
        // hf_internlm_chat_7b
        "internlm_chat" => json!([human("<|User|>:", "\n"), bot("<|Bot|>:", "<eoa>\n")]),
        // hf_internlm2_chat_7b_with_system: datasets without a system text get an empty block in every round.
        "internlm2_chat" => {
            json!([{"role": "SYSTEM", "begin": "<|im_start|>system\n", "end": "<|im_end|>\n"}, user, assistant])
        }
        "internlm2_chat_nosys" => json!([user, assistant]),
        _ => return None,
    };
    MetaTemplate::parse(&json!({ "round": round })).ok()
}

/// How prompts reach the model: plain text, text through a meta template, or messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Meta { name: String, meta: Arc<MetaTemplate> },
    Messages(Roles),
}

/// The roles that become messages, in the order of a round, then those that only stand outside of rounds; with the
/// role of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Roles {
    round: Vec<(String, &'static str)>,
    reserved: Vec<(String, &'static str)>,
}

impl Default for Roles {
    /// Those of OpenCompass's chat models. Systems are merged into the user's message: empty, they leave the line
    /// break that joins them.
    fn default() -> Self {
        let round = [("HUMAN", "user"), ("SYSTEM", "user"), ("BOT", "assistant")];
        Self { round: round.map(|(role, message)| (role.to_owned(), message)).to_vec(), reserved: Vec::new() }
    }
}

impl Roles {
    /// The roles of a chat model's `meta_template`, whose `api_role`s say what they become.
    fn parse(config: &Value) -> Result<Self, String> {
        // What is wrong with it otherwise is wrong here too.
        MetaTemplate::parse(config)?;
        let roles = |key: &str| {
            let list = config[key].as_array().map_or(&[][..], Vec::as_slice);
            let role = |role: &Value| match (&role["role"], role["api_role"].as_str()) {
                (Value::String(name), Some("HUMAN")) => Ok((name.clone(), "user")),
                (Value::String(name), Some("BOT")) => Ok((name.clone(), "assistant")),
                (Value::String(name), Some("SYSTEM")) => Ok((name.clone(), "system")),
                _ => Err(format!(
                    "a role of a chat model's meta template needs `api_role` HUMAN, BOT or SYSTEM, but {} has none",
                    python::repr(role)
                )),
            };
            list.iter().map(role).collect::<Result<Vec<_>, String>>()
        };
        Ok(Self { round: roles("round")?, reserved: roles("reserved_roles")? })
    }

    /// The number of the role that speaks, and the role of its messages.
    fn find(&self, said: &Said) -> Result<(usize, &'static str), String> {
        let known = |role: &str| {
            let mut roles = self.round.iter().chain(&self.reserved).enumerate();
            roles.find(|(_, (name, _))| name == role).map(|(number, (_, message))| (number, *message))
        };
        known(&said.role).or_else(|| known(said.fallback_role.as_deref()?)).ok_or_else(|| no_role(said))
    }
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
            (HfType::Chat, None) => Kind::Messages(Roles::default()),
            (HfType::Base, None) => Kind::Plain,
            (HfType::Base, Some(name)) => {
                let meta = built_in(name).ok_or_else(|| Error::UnknownMetaTemplate {
                    name: name.to_owned(),
                    near: names::near(name, NAMES.into_iter()),
                    known: NAMES.map(str::to_owned).to_vec(),
                })?;
                Kind::Meta { name: name.to_owned(), meta: Arc::new(meta) }
            }
        };
        Ok(Self(kind))
    }

    /// The style that an evaluation's configuration asks for.
    ///
    /// # Errors
    /// As [`new`](Self::new), and what is wrong with the model's own meta template.
    pub fn of(config: &EvalConfig) -> Result<Self> {
        let Some(meta) = &config.meta_template_config else {
            return Self::new(config.hf_type, config.meta_template.as_deref());
        };
        let name = &config.model.abbr;
        let wrong = |reason| Error::Config { what: format!("model {name}: {reason}") };
        match config.hf_type {
            HfType::Base => Ok(Self::of_meta_template(name, MetaTemplate::parse(meta).map_err(wrong)?)),
            HfType::Chat => Ok(Self(Kind::Messages(Roles::parse(meta).map_err(wrong)?))),
        }
    }

    /// Whether `config` has a meta template, and that none of its roles is `role`.
    pub(crate) fn lacks_role(config: &EvalConfig, role: &str) -> bool {
        let is_it = |known: &Value| known["role"] == role;
        match (&config.meta_template_config, &config.meta_template) {
            (Some(meta), _) => {
                let mut roles =
                    ["round", "reserved_roles"].into_iter().filter_map(|key| meta[key].as_array()).flatten();
                !roles.any(is_it)
            }
            (None, Some(name)) => built_in(name).is_some_and(|meta| !meta.speakers().any(|known| known.role == role)),
            (None, None) => false,
        }
    }

    /// Text through the meta template of a model's configuration; `name` is for messages.
    pub fn of_meta_template(name: &str, meta: MetaTemplate) -> Self {
        Self(Kind::Meta { name: name.to_owned(), meta: Arc::new(meta) })
    }

    /// The style in words, and how to change it.
    pub fn describe(&self) -> String {
        match &self.0 {
            Kind::Plain => {
                "prompts are sent as plain text (--hf-type base); --hf-type chat sends messages through the \
                            model's chat template"
                    .into()
            }
            Kind::Meta { name, .. } => format!("prompts are sent as text with the markers of the meta template {name}"),
            Kind::Messages(_) => "prompts are sent as messages through the model's chat template (--hf-type chat); \
                               --hf-type base sends plain text"
                .into(),
        }
    }

    /// What is sent for `draft`. A string template goes as it is, and as one message of the user.
    ///
    /// # Errors
    /// A role that the model's template does not have.
    pub(crate) fn render(&self, draft: &Draft, mode: Mode) -> Result<Prompt, String> {
        let items = match (draft, &self.0) {
            (Draft::List(items), _) => items,
            (Draft::Text(text), Kind::Messages(_)) => return Ok(Prompt::Messages(vec![message("user", text.clone())])),
            (Draft::Text(text), _) => return Ok(Prompt::Text(text.clone())),
        };
        match &self.0 {
            Kind::Plain => Ok(Prompt::Text(plain(items))),
            Kind::Meta { meta, .. } => meta.mark(items, mode).map(Prompt::Text),
            Kind::Messages(roles) => messages(items, mode, roles).map(Prompt::Messages),
        }
    }
}

fn message(role: &str, content: String) -> Message {
    Message { role: role.to_owned(), content }
}

/// Non-empty texts, one per line. A separator precedes every text but the first, even where that one is empty.
fn plain(items: &[Item]) -> String {
    let mut text = String::new();
    let mut separator = "";
    for item in items {
        let part = match item {
            Item::Text(part) => part.as_str(),
            Item::Said(said) => said.prompt.as_deref().unwrap_or_default(),
            Item::Open(_) | Item::Close(_) => continue,
        };
        if !part.is_empty() {
            text.extend([separator, part]);
        }
        separator = "\n";
    }
    text
}

/// Messages: text outside of roles is dropped, and neighbours of the same role are joined.
fn messages(items: &[Item], mode: Mode, roles: &Roles) -> Result<Vec<Message>, String> {
    let place = |said: &Said| roles.find(said).map(|(number, _)| number);
    let content = |said: &Said| {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        part(&said.begin) + &part(&said.prompt) + &part(&said.end)
    };
    let mut said: Vec<Message> = Vec::new();
    let mut open: Vec<(Section, usize)> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        match item {
            Item::Text(_) => {}
            Item::Open(section) => open.push((*section, i + 1)),
            Item::Close(_) => {
                let Some((section @ (Section::Ice | Section::Round), start)) = open.pop() else { continue };
                let rounds = rounds(&items[start..i], place)?;
                for (n, round) in rounds.iter().enumerate() {
                    let last = mode == Mode::Gen && section == Section::Round && n + 1 == rounds.len();
                    for (number, (_, role)) in roles.round.iter().enumerate() {
                        if last && *role == "assistant" {
                            break;
                        }
                        let mut text = String::new();
                        for one in round {
                            if place(one)? == number {
                                text = content(one);
                            }
                        }
                        said.push(message(role, text));
                    }
                }
            }
            Item::Said(one) if matches!(open.last(), Some((Section::Begin | Section::End, _))) => {
                said.push(message(roles.find(one)?.1, content(one)));
            }
            Item::Said(_) => {}
        }
    }
    let said = joined(said).into_iter().filter(|message| !message.content.is_empty()).collect();
    Ok(joined(said))
}

fn joined(messages: Vec<Message>) -> Vec<Message> {
    let mut joined: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        match joined.last_mut() {
            Some(last) if last.role == message.role => last.content.extend(["\n", message.content.as_str()]),
            _ => joined.push(message),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(role: &str, prompt: &str) -> Item {
        Item::Said(Said { role: role.into(), prompt: Some(prompt.into()), ..Said::default() })
    }

    fn draft() -> Draft {
        use Section::{Ice, Round};
        Draft::List(vec![
            Item::Open(Ice),
            said("HUMAN", "q1"),
            said("BOT", "X"),
            Item::Close(Ice),
            Item::Open(Round),
            said("HUMAN", "q2"),
            said("BOT", ""),
            Item::Close(Round),
        ])
    }

    fn text(meta: Option<&str>, draft: &Draft, mode: Mode) -> String {
        let style = Style::new(HfType::Base, meta).unwrap();
        let Prompt::Text(text) = style.render(draft, mode).unwrap() else { panic!("text") };
        text
    }

    fn contents(draft: &Draft, mode: Mode) -> Vec<(String, String)> {
        let style = Style::new(HfType::Chat, None).unwrap();
        let Prompt::Messages(messages) = style.render(draft, mode).unwrap() else { panic!("messages") };
        messages.into_iter().map(|m| (m.role, m.content)).collect()
    }

    #[test]
    fn styles() {
        assert_eq!(text(None, &draft(), Mode::Gen), "q1\nX\nq2");
        let chat = Some("internlm_chat");
        assert_eq!(text(chat, &draft(), Mode::Gen), "<|User|>:q1\n<|Bot|>:X<eoa>\n<|User|>:q2\n<|Bot|>:");
        assert_eq!(text(chat, &draft(), Mode::Ppl), "<|User|>:q1\n<|Bot|>:X<eoa>\n<|User|>:q2\n<|Bot|>:<eoa>\n");
        let wanted = [("user", "q1\n"), ("assistant", "X"), ("user", "q2\n")].map(|(a, b)| (a.into(), b.into()));
        assert_eq!(contents(&draft(), Mode::Gen), wanted);
    }

    #[test]
    fn an_empty_text_still_separates_plain_text() {
        let items = vec![Item::Text(String::new()), said("HUMAN", "q2"), said("BOT", "")];
        assert_eq!(text(None, &Draft::List(items), Mode::Gen), "\nq2");
    }

    #[test]
    fn what_stands_before_the_rounds() {
        let system = Said { fallback_role: Some("HUMAN".into()), ..Said::default() };
        let system = Item::Said(Said { role: "SYSTEM".into(), prompt: Some("s".into()), ..system });
        let Draft::List(rounds) = draft() else { unreachable!() };
        let items = [vec![Item::Open(Section::Begin), system, Item::Close(Section::Begin)], rounds].concat();
        let draft = Draft::List(items);
        assert_eq!(text(None, &draft, Mode::Gen), "s\nq1\nX\nq2");
        assert!(text(Some("internlm_chat"), &draft, Mode::Gen).starts_with("<|User|>:s\n<|User|>:q1\n<|Bot|>:X"));
        assert!(
            text(Some("internlm2_chat"), &draft, Mode::Gen)
                .starts_with("<|im_start|>system\ns<|im_end|>\n<|im_start|>system\n<|im_end|>")
        );
        assert_eq!(contents(&draft, Mode::Gen)[0], ("user".into(), "s\nq1\n".into()));
    }

    #[test]
    fn a_string_goes_as_it_is() {
        let draft = Draft::Text("a\n".into());
        assert_eq!(text(Some("internlm_chat"), &draft, Mode::Ppl), "a\n");
        assert_eq!(contents(&draft, Mode::Gen), [("user".into(), "a\n".into())]);
    }

    #[test]
    fn unknown_roles_are_named() {
        let draft = Draft::List(vec![Item::Open(Section::Round), said("USER", "q"), Item::Close(Section::Round)]);
        for style in [Style::new(HfType::Base, Some("internlm_chat")), Style::new(HfType::Chat, None)] {
            let error = style.unwrap().render(&draft, Mode::Gen).unwrap_err();
            assert!(error.contains("no role USER"), "{error}");
        }
    }

    #[test]
    fn unknown_or_contradictory_styles_are_errors() {
        let error = Style::new(HfType::Base, Some("internlm2_chad")).unwrap_err().to_string();
        assert!(error.contains("did you mean `internlm2_chat`"), "{error}");
        assert!(Style::new(HfType::Chat, Some("internlm_chat")).is_err());
    }

    #[test]
    fn meta_templates_of_configurations() {
        let human = json!({"role": "HUMAN", "begin": "U:"});
        let bot = json!({"role": "BOT", "begin": "B:", "generate": true});
        let config = json!({"begin": "<s>", "round": [human, bot], "end": "</s>"});
        let style = Style::of_meta_template("mine", MetaTemplate::parse(&config).unwrap());
        assert_eq!(style.render(&draft(), Mode::Gen).unwrap(), Prompt::Text("<s>U:q1B:XU:q2B:".into()));
        assert_eq!(style.render(&draft(), Mode::Ppl).unwrap(), Prompt::Text("<s>U:q1B:XU:q2B:</s>".into()));
        for (config, wanted) in [
            (json!({}), "needs a `round`"),
            (json!({"round": [human, human]}), "the role HUMAN twice"),
            (json!({"round": [{"begin": "x"}]}), "has no name"),
            (json!({"round": [3]}), "holds 3"),
            (json!({"rounds": []}), "unknown key `rounds`"),
        ] {
            let error = MetaTemplate::parse(&config).unwrap_err();
            assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
        }
    }
}
