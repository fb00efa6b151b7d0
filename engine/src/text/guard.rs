//! What keeps damaged tokenizer files from doing harm: the `tokenizers` crate checks the parts of a `tokenizer.json`, but not
//! always how they fit together, and panics where they do not.

use crate::{Error, Result};
use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Calls the `tokenizers` crate; a panic in it is an error.
///
/// # Errors
/// Those of `work`, and [`Error::Tokenizer`].
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // What a panic leaves behind are caches, which that crate only reads where they are whole.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason is given");
        Err(Error::Tokenizer(format!("its parts do not fit together: {text}")))
    })
}

/// Any JSON whose every string is read, and which is then forgotten. (`IgnoredAny` skips strings that are none.)
pub(super) struct AnyJson;

impl<'de> Deserialize<'de> for AnyJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = AnyJson;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }

    fn visit_i64<E>(self, _: i64) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }

    fn visit_u64<E>(self, _: u64) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }

    fn visit_f64<E>(self, _: f64) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }

    fn visit_str<E>(self, _: &str) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }

    fn visit_unit<E>(self) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AnyJson, A::Error> {
        while seq.next_element::<AnyJson>()?.is_some() {}
        Ok(AnyJson)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyJson, A::Error> {
        while map.next_entry::<AnyJson, AnyJson>()?.is_some() {}
        Ok(AnyJson)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        std::panic::set_hook(Box::new(|_| {}));
        let error = guarded::<()>(|| panic!("no entry for {}", "x")).unwrap_err().to_string();
        let _ = std::panic::take_hook();
        assert_eq!(error, "tokenizer: its parts do not fit together: no entry for x");
        assert_eq!(guarded(|| Ok(1)).unwrap(), 1);
    }

    #[test]
    fn strings_are_read_wherever_they_stand() {
        let is_json = |text: &str| serde_json::from_str::<AnyJson>(text).is_ok();
        assert!(is_json(r#"{"a": [1, -2.5, true, null, "\ud83d\ude00"], "b\u0000": {}}"#));
        for text in [r#"["\ud800"]"#, r#"{"\ud800": 1}"#, r#"{"a": {"b": "\x"}}"#, "[1", ""] {
            assert!(!is_json(text), "{text}");
        }
    }
}
