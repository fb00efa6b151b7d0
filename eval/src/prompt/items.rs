//! A prompt before it becomes text: strings, what roles say, and marks around sections, as in OpenCompass's prompt
//! lists.

use crate::Row;

/// Stands for a brace of the data where placeholders in data are left alone. Unicode reserves it for such uses: it is
/// no character, so no text holds it.
const GUARD: char = '\u{fdd0}';

/// Part of a template that the parser treats alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Begin,
    Ice,
    Round,
    End,
}

/// One utterance, with what it overrides of its role's markers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// E.g. `HUMAN`.
    pub role: String,
    /// Taken where the model has no such role.
    pub fallback_role: Option<String>,
    /// What is said.
    pub prompt: Option<String>,
    /// Instead of the role's opening marker.
    pub begin: Option<String>,
    /// Instead of the role's closing marker.
    pub end: Option<String>,
}

/// An element of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// Text outside of any role.
    Text(String),
    /// A role speaks.
    Said(Said),
    /// A section begins.
    Open(Section),
    /// A section ends.
    Close(Section),
}

/// A prompt: plain text, or a list that a model's template turns into text or messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Draft {
    /// Of a string template.
    Text(String),
    /// Of a template with rounds.
    List(Vec<Item>),
}

impl Draft {
    /// Every text in it, changed.
    pub(crate) fn map(self, change: impl Fn(String) -> String) -> Self {
        let item = |item: Item| match item {
            Item::Text(text) => Item::Text(change(text)),
            Item::Said(said) => Item::Said(Said { prompt: said.prompt.map(&change), ..said }),
            mark => mark,
        };
        match self {
            Self::Text(text) => Self::Text(change(text)),
            Self::List(items) => Self::List(items.into_iter().map(item).collect()),
        }
    }

    /// `examples` in every place of `token`.
    ///
    /// # Errors
    /// Where a list would have to stand inside a string, or inside of what a role says.
    pub(crate) fn insert(self, token: &str, examples: &Self) -> Result<Self, String> {
        let examples = match examples {
            Self::Text(examples) => return Ok(self.map(|text| text.replace(token, examples))),
            Self::List(examples) => examples,
        };
        let Self::List(items) = self else {
            return Err(format!("the template is a string, but the examples for {token} are rounds"));
        };
        let mut list = Vec::with_capacity(items.len() + examples.len());
        for item in items {
            match item {
                Item::Text(text) => {
                    for (i, part) in text.split(token).enumerate() {
                        if i > 0 {
                            list.extend_from_slice(examples);
                        }
                        if !part.is_empty() {
                            list.push(Item::Text(part.to_owned()));
                        }
                    }
                }
                Item::Said(said) if said.prompt.as_ref().is_some_and(|prompt| prompt.contains(token)) => {
                    return Err(format!("{token} stands inside of what {} says", said.role));
                }
                item => list.push(item),
            }
        }
        Ok(Self::List(list))
    }

    /// Placeholders replaced by the columns of `row`.
    ///
    /// They are replaced column after column in the whole text so far, so one that stands in the data is replaced too,
    /// and one that is left in an example is filled from the question: as OpenCompass does, although a formula such as
    /// `\bar{A}` loses its letter by it. With `guarded` the braces of the data are left alone, see [`Draft::unguard`].
    pub(crate) fn fill(self, row: &Row, guarded: bool) -> Self {
        self.map(|text| filled(text, row, guarded))
    }

    /// Puts the braces back that [`Draft::fill`] guarded.
    pub(crate) fn unguard(self) -> Self {
        self.map(|text| if text.contains(GUARD) { text.replace(GUARD, "{") } else { text })
    }
}

fn filled(mut text: String, row: &Row, guarded: bool) -> String {
    for (name, value) in row {
        let placeholder = format!("{{{name}}}");
        if text.contains(&placeholder) {
            text = if guarded {
                text.replace(&placeholder, &value.replace('{', &GUARD.to_string()))
            } else {
                text.replace(&placeholder, value)
            };
        }
    }
    text
}

/// Whether the data of `row` holds a placeholder, which filling replaces.
pub(crate) fn has_placeholder(row: &Row) -> bool {
    let has = |value: &str| value.contains('{') && row.iter().any(|(name, _)| value.contains(&format!("{{{name}}}")));
    row.iter().any(|(_, value)| has(value))
}
