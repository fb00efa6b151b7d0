//! Methods of text.

use crate::{Result, args::Args, heap::V, interp::Interp};

/// Those that exist.
pub(crate) const METHODS: &[&str] = &[
    "capitalize",
    "center",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isdigit",
    "islower",
    "isspace",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// Widest padding.
const MAX_WIDTH: i64 = 10_000;

impl Interp<'_> {
    pub(crate) fn text_method(&mut self, text: &str, name: &str, mut args: Args) -> Result<V> {
        // Every one of them looks at the text once or twice.
        self.step(text.len() >> 4)?;
        if name == "format" {
            return self.format_method(text, &args);
        }
        if name == "split" || name == "rsplit" {
            let separator = args.take("sep");
            args.positional.extend(separator);
            if let Some(limit) = args.take("maxsplit") {
                if args.positional.is_empty() {
                    args.positional.push(V::None);
                }
                args.positional.push(limit);
            }
        }
        if let Some((key, _)) = args.named.first() {
            return Err(self.fail(format!("{name}() does not take `{key}` here")));
        }
        let args = &args.positional[..];
        let changed: String = match (name, args) {
            ("upper", []) => text.to_uppercase(),
            ("lower", []) => text.to_lowercase(),
            ("swapcase", []) => text.chars().map(|c| if c.is_uppercase() { lower(c) } else { upper(c) }).collect(),
            ("capitalize", []) => {
                let mut chars = text.chars();
                chars.next().map_or(String::new(), |c| upper(c) + &chars.as_str().to_lowercase())
            }
            ("title", []) => {
                let mut inside = false;
                let mut out = String::new();
                for c in text.chars() {
                    out += &if inside { lower(c) } else { upper(c) };
                    inside = c.is_alphabetic();
                }
                out
            }
            ("strip" | "lstrip" | "rstrip", [] | [V::None]) => match name {
                "strip" => text.trim(),
                "lstrip" => text.trim_start(),
                _ => text.trim_end(),
            }
            .into(),
            ("strip" | "lstrip" | "rstrip", [V::Str(set)]) => {
                let is_in = |c: char| set.contains(c);
                match name {
                    "strip" => text.trim_matches(is_in),
                    "lstrip" => text.trim_start_matches(is_in),
                    _ => text.trim_end_matches(is_in),
                }
                .into()
            }
            ("removeprefix", [V::Str(part)]) => text.strip_prefix(&**part).unwrap_or(text).into(),
            ("removesuffix", [V::Str(part)]) => text.strip_suffix(&**part).unwrap_or(text).into(),
            ("replace", [V::Str(old), V::Str(new), rest @ ..]) => {
                let limit = match rest {
                    [V::Int(n)] => usize::try_from(*n).unwrap_or(usize::MAX),
                    _ => usize::MAX,
                };
                let times = if old.is_empty() { text.len() + 1 } else { text.matches(&**old).count() };
                self.charge(new.len().saturating_mul(times.min(limit)))?;
                text.replacen(&**old, new, limit)
            }
            ("join", [items]) => {
                let items = self.iterate(items)?;
                let mut out = String::new();
                for (i, item) in items.iter().enumerate() {
                    let V::Str(item) = item else {
                        return Err(self.fail(format!("join() wants text, but found {}", self.kind(item))));
                    };
                    self.charge(text.len() + item.len())?;
                    out += if i > 0 { text } else { "" };
                    out += item;
                }
                out
            }
            ("zfill", [V::Int(width)]) => return self.padded(text, *width, "0", '='),
            ("ljust" | "rjust" | "center", [V::Int(width), fill @ ..]) => {
                let fill = if let [V::Str(fill)] = fill { fill.to_string() } else { " ".into() };
                let align = match name {
                    "ljust" => '<',
                    "rjust" => '>',
                    _ => '^',
                };
                return self.padded(text, *width, &fill, align);
            }
            _ => return self.question(text, name, args),
        };
        self.str(changed)
    }

    /// Methods that do not give a changed text.
    fn question(&mut self, text: &str, name: &str, args: &[V]) -> Result<V> {
        let all = |test: fn(char) -> bool| V::Bool(!text.is_empty() && text.chars().all(test));
        let cased = |test: fn(&char) -> bool, other: fn(&char) -> bool| {
            V::Bool(text.chars().any(|c| test(&c)) && !text.chars().any(|c| other(&c)))
        };
        Ok(match (name, args) {
            ("isdigit", []) => all(|c| c.is_ascii_digit()),
            ("isalpha", []) => all(char::is_alphabetic),
            ("isalnum", []) => all(char::is_alphanumeric),
            ("isspace", []) => all(char::is_whitespace),
            ("isupper", []) => cased(|c| c.is_uppercase(), |c| c.is_lowercase()),
            ("islower", []) => cased(|c| c.is_lowercase(), |c| c.is_uppercase()),
            ("startswith" | "endswith", [V::Tuple(id)]) => {
                for part in self.items(*id).clone() {
                    if let V::Bool(true) = self.question(text, name, &[part])? {
                        return Ok(V::Bool(true));
                    }
                }
                V::Bool(false)
            }
            ("startswith", [V::Str(part)]) => V::Bool(text.starts_with(&**part)),
            ("endswith", [V::Str(part)]) => V::Bool(text.ends_with(&**part)),
            ("count", [V::Str(part)]) => V::Int(text.matches(&**part).count() as i64),
            ("find" | "rfind" | "index", [V::Str(part)]) => {
                let byte = if name == "rfind" { text.rfind(&**part) } else { text.find(&**part) };
                match byte {
                    Some(byte) => V::Int(text[..byte].chars().count() as i64),
                    None if name == "index" => return Err(self.fail("the text does not hold what is looked for")),
                    None => V::Int(-1),
                }
            }
            ("splitlines", []) => self.texts(text.lines())?,
            ("split" | "rsplit", [] | [V::None]) => self.texts(text.split_whitespace())?,
            ("split", [V::Str(by)]) if !by.is_empty() => self.texts(text.split(&**by))?,
            ("split", [V::Str(by), V::Int(n)]) if !by.is_empty() && *n >= 0 => {
                self.texts(text.splitn(usize::try_from(*n).unwrap_or(0) + 1, &**by))?
            }
            ("rsplit", [V::Str(by)]) if !by.is_empty() => self.texts(text.split(&**by))?,
            ("rsplit", [V::Str(by), V::Int(n)]) if !by.is_empty() && *n >= 0 => {
                let mut parts: Vec<&str> = text.rsplitn(usize::try_from(*n).unwrap_or(0) + 1, &**by).collect();
                parts.reverse();
                self.texts(parts.into_iter())?
            }
            ("partition", [V::Str(by)]) if !by.is_empty() => {
                let (before, middle, after) = match text.split_once(&**by) {
                    Some((before, after)) => (before, &**by, after),
                    None => (text, "", ""),
                };
                let V::List(parts) = self.texts([before, middle, after].into_iter())? else { return Ok(V::None) };
                V::Tuple(parts)
            }
            ("rpartition", [V::Str(by)]) if !by.is_empty() => {
                let (before, middle, after) = match text.rsplit_once(&**by) {
                    Some((before, after)) => (before, &**by, after),
                    None => ("", "", text),
                };
                let V::List(parts) = self.texts([before, middle, after].into_iter())? else { return Ok(V::None) };
                V::Tuple(parts)
            }
            _ => {
                let kinds: Vec<&str> = args.iter().map(|arg| self.kind(arg)).collect();
                return Err(self.fail(format!("{name}() does not take ({})", kinds.join(", "))));
            }
        })
    }

    fn texts<'a>(&mut self, texts: impl Iterator<Item = &'a str>) -> Result<V> {
        let mut items = Vec::new();
        for text in texts {
            items.push(self.str(text)?);
        }
        self.list(items)
    }

    fn padded(&mut self, text: &str, width: i64, fill: &str, align: char) -> Result<V> {
        if width > MAX_WIDTH || fill.chars().count() != 1 {
            return Err(self.fail(format!("padding wants one character and a width up to {MAX_WIDTH}")));
        }
        let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
        let fill = |n: usize| fill.repeat(n);
        let padded = match align {
            '<' => format!("{text}{}", fill(missing)),
            '^' => format!("{}{text}{}", fill(missing / 2), fill(missing - missing / 2)),
            '=' if text.starts_with(['-', '+']) => format!("{}{}{}", &text[..1], fill(missing), &text[1..]),
            _ => format!("{}{text}", fill(missing)),
        };
        self.str(padded)
    }
}

fn upper(c: char) -> String {
    c.to_uppercase().collect()
}

fn lower(c: char) -> String {
    c.to_lowercase().collect()
}
