//! Chat templates in Jinja, run by minijinja with limits on steps, memory and output.

use super::{
    gguf_vocab,
    tokenizer_config::{self, ROLES, TokenizerConfig},
};
use crate::{
    Error, Result,
    load::{ModelFiles, gguf, gguf::Gguf, hash::hash},
};
use minijinja::{
    Environment, Error as JinjaError, ErrorKind, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, from_args},
};
use serde::Serialize;
use std::{collections::BTreeMap, io, path::Path};

/// Steps that a template may take; minijinja also charges the memory it allocates, a byte a step.
const FUEL: u64 = 16 << 20;
/// Most bytes that a template may write beyond eight times its messages.
const MAX_OUTPUT: usize = 1 << 20;
/// A longer template is refused unread.
const MAX_TEMPLATE: usize = 1 << 20;
const NAME: &str = "chat template";

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and the like, as templates name them.
    special: BTreeMap<String, String>,
    fingerprint: String,
}

impl ChatTemplate {
    /// The template of a tokenizer elsewhere than beside the weights; of `files` where it has none, or where
    /// `tokenizer_path` is `None`. It stands in the GGUF metadata, or in a folder as `chat_template.jinja` or in
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when it does not parse.
    pub(crate) fn of_model(files: &ModelFiles, tokenizer_path: Option<&Path>) -> Result<Option<Self>> {
        let elsewhere = match tokenizer_path {
            Some(path) if gguf::is_gguf(path) => Self::of_gguf(&Gguf::open(path)?)?,
            Some(path) if path.is_dir() => Self::of_folder(path)?,
            Some(path) => path.parent().map(Self::of_folder).transpose()?.flatten(),
            None => None,
        };
        match (elsewhere, files.gguf()) {
            (Some(template), _) => Ok(Some(template)),
            (None, Some(gguf)) => Self::of_gguf(gguf),
            (None, None) => Self::of_folder(files.path()),
        }
    }

    /// Of a `.gguf` file or a folder.
    pub(crate) fn at(path: &Path) -> Result<Option<Self>> {
        if path.is_dir() { Self::of_folder(path) } else { Self::of_gguf(&Gguf::open(path)?) }
    }

    /// The one in the metadata of a file.
    ///
    /// # Errors
    /// As for [`at`](Self::at).
    pub(crate) fn of_gguf(gguf: &Gguf) -> Result<Option<Self>> {
        let Some(text) = gguf.str("tokenizer.chat_template")? else { return Ok(None) };
        let special = gguf_special_tokens(gguf)?;
        Self::new(text.to_owned(), special).map(Some)
    }

    fn of_folder(folder: &Path) -> Result<Option<Self>> {
        let config = TokenizerConfig::of_folder(folder)?;
        let Some(text) = tokenizer_config::chat_template(folder, config.as_ref())? else { return Ok(None) };
        let mut special = BTreeMap::new();
        for role in ROLES {
            if let Some(token) = config.as_ref().and_then(|config| config.special(role)) {
                special.insert(format!("{role}_token"), token.to_owned());
            }
        }
        Self::new(text, special).map(Some)
    }

    fn new(text: String, special: BTreeMap<String, String>) -> Result<Self> {
        if text.len() > MAX_TEMPLATE {
            return Err(Error::ChatTemplate(format!("it has {} bytes, more than {MAX_TEMPLATE}", text.len())));
        }
        let fingerprint = format!("{:032x}", hash(format!("{special:?}\n{text}").as_bytes()));
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        // The settings that transformers renders with.
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(error)?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(|_, value, method, args| python_method(value, method, args));
        environment.add_function("raise_exception", |message: String| -> Result<Value, JinjaError> {
            Err(JinjaError::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, text).map_err(error)?;
        Ok(Self { environment, special, fingerprint })
    }

    /// The text that the template makes of `messages`; with `add_generation_prompt` ending where the assistant's
    /// answer begins.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`]: what the template raised, or the limit it exceeded.
    pub fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(error)?;
        let size: usize = messages.iter().map(|message| message.content.len()).sum();
        let mut output = Limited { bytes: Vec::new(), limit: size.saturating_mul(8).saturating_add(MAX_OUTPUT) };
        let context = minijinja::context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => add_generation_prompt,
            tools => (),
            documents => (),
            ..Value::from(Serde(&self.special))
        };
        template.render_captured_to(context, &mut output).map_err(error)?;
        String::from_utf8(output.bytes).map_err(|_| Error::ChatTemplate("it wrote text that is not UTF-8".into()))
    }

    /// Fingerprint of the template's text and of its special tokens, 32 hex digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

fn error(e: JinjaError) -> Error {
    if e.kind() == ErrorKind::OutOfFuel {
        return Error::ChatTemplate(format!("it took more than {FUEL} steps or bytes of memory"));
    }
    let mut text = e.to_string();
    let mut source = std::error::Error::source(&e);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    Error::ChatTemplate(text)
}

/// The special tokens of a GGUF file, under the names that templates use.
///
/// # Errors
/// [`Error::Malformed`] for an id outside the vocabulary.
pub(crate) fn gguf_special_tokens(gguf: &Gguf) -> Result<BTreeMap<String, String>> {
    let tokens = gguf.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    let mut special = BTreeMap::new();
    for (role, key) in ROLES.into_iter().zip(["bos", "eos", "unknown", "padding"]) {
        if let Some(token) = gguf_vocab::special(gguf, key, &tokens)? {
            special.insert(format!("{role}_token"), token.to_owned());
        }
    }
    Ok(special)
}

/// A writer that refuses to grow beyond its limit.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Limited {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > self.limit {
            return Err(io::Error::other(format!("it wrote more than {} bytes", self.limit)));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Python's `json.dumps(value, ensure_ascii=False)`, as transformers' filter: minijinja's own escapes for HTML.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, JinjaError> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let failed = |e: serde_json::Error| JinjaError::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).map_err(failed)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, OneLine)).map_err(failed)?,
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// Python's separators on one line: `, ` and `: `.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The methods of Python's strings and dictionaries that published templates call.
fn python_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, JinjaError> {
    let unknown = || JinjaError::from(ErrorKind::UnknownMethod);
    if let Some(text) = value.as_str() {
        return string_method(text, method, args)?.ok_or_else(unknown);
    }
    if value.kind() != minijinja::value::ValueKind::Map {
        return Err(unknown());
    }
    let keys = || -> Result<Vec<Value>, JinjaError> { Ok(value.try_iter()?.collect()) };
    match method {
        "keys" => {
            let () = from_args(args)?;
            Ok(Value::from(keys()?))
        }
        "values" => {
            let () = from_args(args)?;
            Ok(Value::from(keys()?.iter().map(|key| value.get_item(key)).collect::<Result<Vec<_>, _>>()?))
        }
        "items" => {
            let () = from_args(args)?;
            let pair = |key: Value| Ok(Value::from(vec![key.clone(), value.get_item(&key)?]));
            Ok(Value::from(keys()?.into_iter().map(pair).collect::<Result<Vec<_>, JinjaError>>()?))
        }
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(key)?;
            Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
        }
        _ => Err(unknown()),
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, JinjaError> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(args)?;
            let strips = |c: char| set.map_or(c.is_whitespace(), |set| set.contains(c));
            let text = if method == "rstrip" { text } else { text.trim_start_matches(strips) };
            Value::from(if method == "lstrip" { text } else { text.trim_end_matches(strips) })
        }
        "startswith" | "endswith" => {
            let (affix,): (&Value,) = from_args(args)?;
            let matches = |affix: &str| {
                if method == "startswith" { text.starts_with(affix) } else { text.ends_with(affix) }
            };
            Value::from(match affix.as_str() {
                Some(affix) => matches(affix),
                None => affix.try_iter()?.any(|affix| affix.as_str().is_some_and(matches)),
            })
        }
        "upper" | "lower" | "title" | "capitalize" => {
            let () = from_args(args)?;
            Value::from(match method {
                "upper" => text.to_uppercase(),
                "lower" => text.to_lowercase(),
                _ => capitalized(text, method == "title"),
            })
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            match count.and_then(|count| usize::try_from(count).ok()) {
                Some(count) => Value::from(text.replacen(old, new, count)),
                None => Value::from(text.replace(old, new)),
            }
        }
        "split" => {
            let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
            let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX - 1) + 1;
            match separator {
                Some("") => return Err(JinjaError::new(ErrorKind::InvalidOperation, "empty separator")),
                Some(separator) => text.splitn(limit, separator).map(Value::from).collect(),
                None if limit == usize::MAX => text.split_whitespace().map(Value::from).collect(),
                None => {
                    let message = "split() with a limit needs a separator";
                    return Err(JinjaError::new(ErrorKind::InvalidOperation, message));
                }
            }
        }
        _ => return Ok(None),
    }))
}

/// The first letter in upper case and the rest in lower case: of every word, or of the text.
fn capitalized(text: &str, every_word: bool) -> String {
    let mut start = true;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        start = every_word && !c.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, contents: &[(&str, &str)]) -> Result<String> {
        let special = BTreeMap::from([("eos_token".to_owned(), "</s>".to_owned())]);
        let message = |(role, content): &(&str, &str)| ChatMessage { role: (*role).into(), content: (*content).into() };
        let messages: Vec<ChatMessage> = contents.iter().map(message).collect();
        ChatTemplate::new(template.to_owned(), special)?.render(&messages, true)
    }

    fn rendered(template: &str) -> String {
        render(template, &[("user", "hi")]).unwrap()
    }

    fn refused(template: &str) -> String {
        render(template, &[("user", "hi")]).unwrap_err().to_string()
    }

    /// Expected texts are Jinja2's with trim_blocks and lstrip_blocks.
    #[test]
    fn renders_as_transformers_does() {
        let template = "{%- for m in messages %}\n  {% if m.role == 'user' %}\n<u>{{ m['content'] | trim }}{{ eos_token }}\n  \
                        {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}<a>{% endif %}\n";
        assert_eq!(render(template, &[("user", " a "), ("x", "b")]).unwrap(), "<u>a</s>\n<a>");
    }

    #[test]
    fn knows_the_python_methods_that_templates_use() {
        assert_eq!(
            rendered("{{ ' a '.strip() }}|{{ 'xax'.strip('x') }}|{{ ' a '.rstrip() }}|{{ ' a '.lstrip() }}"),
            "a|a| a|a "
        );
        assert_eq!(rendered("{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'bc')) }}"), "True True");
        assert_eq!(
            rendered("{{ 'a-b-c'.split('-')[-1] }} {{ 'a-b-c'.split('-', 1)[1] }} {{ ' a  b '.split()|length }}"),
            "c b-c 2"
        );
        assert_eq!(
            rendered(
                "{{ 'aaa'.replace('a', 'b', 1) }} {{ 'ab cd'.title() }} {{ 'aB'.capitalize() }} {{ 'a'.upper() }}"
            ),
            "baa Ab Cd Ab A"
        );
        assert_eq!(
            rendered("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %} {{ {'a': 1}.get('b', 2) }}"),
            "a1 2"
        );
        assert_eq!(rendered("{{ {'é': [1, '<\"']} | tojson }}"), r#"{"é": [1, "<\""]}"#);
        assert!(refused("{{ 'a'.format(1) }}").contains("format"));
    }

    #[test]
    fn what_a_template_raises_is_the_error() {
        assert!(refused("{{ raise_exception('roles must alternate') }}").contains("roles must alternate"));
    }

    #[test]
    fn a_template_that_does_not_parse_is_refused_when_loaded() {
        let error = ChatTemplate::new("{% for %}".into(), BTreeMap::new()).err().unwrap().to_string();
        assert!(error.starts_with("chat template: "), "{error}");
    }

    #[test]
    fn endless_templates_hit_a_limit() {
        let steps = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(refused(steps).contains("steps"), "{}", refused(steps));
        let doubling =
            "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(90) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
        assert!(refused(doubling).contains("memory"), "{}", refused(doubling));
        let output = "{% for i in range(3000) %}{{ 'x' * 999 }}{% endfor %}";
        assert!(refused(output).contains("wrote more than"), "{}", refused(output));
    }

    #[test]
    fn templates_reach_no_files() {
        for template in ["{% include '/etc/passwd' %}", "{% extends 'a' %}", "{% import 'os' as os %}"] {
            assert!(render(template, &[("user", "hi")]).is_err(), "{template}");
        }
        assert!(render("{{ messages.__class__.__mro__ }}", &[("user", "hi")]).is_err());
    }
}
