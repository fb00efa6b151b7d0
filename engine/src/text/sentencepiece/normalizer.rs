//! What happens to a text before it is segmented: characters replaced by rules compiled into the model, spaces.

use super::{Prefixes, SPACE, proto::Model};

/// The normalisation of one model.
pub(super) struct Normalizer {
    rules: Option<Charsmap>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl Normalizer {
    pub fn new(model: &Model) -> Result<Self, String> {
        Ok(Self {
            rules: if model.charsmap.is_empty() { None } else { Some(Charsmap::parse(&model.charsmap)?) },
            add_dummy_prefix: model.add_dummy_prefix,
            remove_extra_whitespaces: model.remove_extra_whitespaces,
            escape_whitespaces: model.escape_whitespaces,
        })
    }

    /// Whether characters are replaced by others.
    pub fn has_rules(&self) -> bool {
        self.rules.is_some()
    }

    /// Whether a space is put in front of a text, which decoding takes away again.
    pub fn adds_space(&self) -> bool {
        self.add_dummy_prefix || self.remove_extra_whitespaces
    }

    /// Whether runs of spaces become one.
    pub fn collapses_spaces(&self) -> bool {
        self.remove_extra_whitespaces
    }

    /// `add_dummy_prefix`, `remove_extra_whitespaces` and `escape_whitespaces` of the specification.
    pub fn spaces(&self) -> [bool; 3] {
        [self.add_dummy_prefix, self.remove_extra_whitespaces, self.escape_whitespaces]
    }

    /// The text that is segmented; `protected` strings are left as they are.
    pub fn normalize(&self, text: &str, protected: &Prefixes) -> String {
        let space = if self.escape_whitespaces { SPACE } else { ' ' };
        let mut out = String::with_capacity(text.len() + 8);
        // Chunk by chunk: each is one replaced stretch, or one character.
        let mut rest = text;
        let next = |rest: &mut &str| -> Option<String> {
            let first = rest.chars().next()?;
            let atom = protected.longest(rest);
            let (len, replaced) = match &self.rules {
                _ if atom > 0 => (atom, None),
                Some(rules) => rules.replace(rest).map_or((first.len_utf8(), None), |(len, by)| (len, Some(by))),
                None => (first.len_utf8(), None),
            };
            let (taken, after) = rest.split_at(len);
            *rest = after;
            Some(replaced.unwrap_or_else(|| taken.to_owned()))
        };
        let mut pending = None;
        if self.remove_extra_whitespaces {
            // Leading chunks that are nothing but one space go.
            loop {
                match next(&mut rest) {
                    Some(chunk) if chunk == " " || chunk.is_empty() => {}
                    other => break pending = other,
                }
            }
            if pending.is_none() {
                return out;
            }
        } else if rest.is_empty() {
            return out;
        }
        if self.add_dummy_prefix {
            out.push(space);
        }
        let mut after_space = self.remove_extra_whitespaces;
        while let Some(chunk) = pending.take().or_else(|| next(&mut rest)) {
            let mut chunk = chunk.as_str();
            if after_space && self.remove_extra_whitespaces {
                chunk = chunk.trim_start_matches(' ');
            }
            if !chunk.is_empty() {
                out.extend(chunk.chars().map(|c| if c == ' ' { space } else { c }));
                after_space = chunk.ends_with(' ');
            }
            if !self.remove_extra_whitespaces {
                after_space = false;
            }
        }
        if self.remove_extra_whitespaces {
            out.truncate(out.trim_end_matches(space).len());
        }
        out
    }
}

/// Rules compiled by the reference library: a double-array trie (darts-clone) from strings to places in a blob of
/// zero-terminated replacements.
struct Charsmap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl Charsmap {
    /// `[trie bytes: u32][trie][replacements]`, little-endian.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let bad = || "its normalisation rules are truncated".to_owned();
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or_else(bad)?;
        let len = u32::from_le_bytes(*len) as usize;
        if !len.is_multiple_of(4) || len > rest.len() {
            return Err(bad());
        }
        let (trie, replacements) = rest.split_at(len);
        let units = trie.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        Ok(Self { units, replacements: replacements.to_owned() })
    }

    /// The longest rule that `text` begins with: its length in bytes and its replacement.
    fn replace(&self, text: &str) -> Option<(usize, String)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let label = |unit: u32| unit & ((1 << 31) | 0xff);
        let mut node = offset(*self.units.first()?);
        let mut found = None;
        for (i, byte) in text.bytes().enumerate() {
            node ^= u32::from(byte);
            let Some(unit) = self.units.get(node as usize).copied().filter(|unit| label(*unit) == u32::from(byte))
            else {
                break;
            };
            node ^= offset(unit);
            if unit & (1 << 8) != 0 {
                let Some(value) = self.units.get(node as usize) else { break };
                found = Some((i + 1, (value & ((1 << 31) - 1)) as usize));
            }
        }
        let (len, at) = found?;
        let bytes = self.replacements.get(at..)?.split(|b| *b == 0).next()?;
        // A rule that ends inside a character, or replaces by what is no text, is no rule.
        text.is_char_boundary(len).then(|| std::str::from_utf8(bytes).ok().map(|by| (len, by.to_owned())))?
    }
}
