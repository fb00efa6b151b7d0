//! Files of JSON objects, one a line.

use crate::{Error, Result, Row};
use serde_json::{Map, Value};
use std::path::Path;

/// The objects of a file, each with its 1-based line.
///
/// # Errors
/// [`Error::Csv`] with the line: not UTF-8, no rows, or a line that is no object.
pub(super) fn objects(file: &Path, bytes: &[u8]) -> Result<Vec<(u64, Map<String, Value>)>> {
    let lines = texts(file, bytes)?.into_iter();
    lines
        .map(|(line, text)| {
            let wrong =
                |e| Error::Csv { file: file.to_owned(), line: Some(line), reason: format!("no JSON object: {e}") };
            Ok((line, serde_json::from_str(text).map_err(wrong)?))
        })
        .collect()
}

/// The lines of a file that hold something, each with its 1-based number.
///
/// # Errors
/// [`Error::Csv`]: not UTF-8, or no such lines.
pub(super) fn texts<'a>(file: &Path, bytes: &'a [u8]) -> Result<Vec<(u64, &'a str)>> {
    let wrong = |reason: &str| Error::Csv { file: file.to_owned(), line: None, reason: reason.into() };
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("not UTF-8\n\nhint: save the file as UTF-8"))?;
    let lines = (1..).zip(text.trim_start_matches('\u{feff}').lines().map(str::trim));
    let lines: Vec<(u64, &str)> = lines.filter(|(_, line)| !line.is_empty()).collect();
    if lines.is_empty() { Err(wrong("the file is empty")) } else { Ok(lines) }
}

/// The text of `key` in the object of `line`.
///
/// # Errors
/// [`Error::Csv`] where it is missing, or no text.
pub(super) fn text<'a>(file: &Path, line: u64, object: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    object.get(key).and_then(Value::as_str).ok_or_else(|| {
        let has: Vec<&str> = object.keys().map(String::as_str).collect();
        let reason = format!("`{key}` is missing, or no text; the line has {}", has.join(", "));
        Error::Csv { file: file.to_owned(), line: Some(line), reason }
    })
}

/// The fields of an object as Python writes them into a prompt.
pub(super) fn row(object: Map<String, Value>) -> Row {
    let field = |value: Value| match value {
        Value::String(text) => text,
        other => crate::python::repr(&other),
    };
    object.into_iter().map(|(key, value)| (key, field(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_pythons() {
        let objects =
            objects(Path::new("x"), b"{\"b\": \"t\", \"a\": 1}\n\n{\"c\": [1, \"x\"], \"d\": true}\n").unwrap();
        let row = |i: usize| -> Row { row(objects[i].1.clone()) };
        assert_eq!(row(0), [("b".to_owned(), "t".to_owned()), ("a".into(), "1".into())]);
        assert_eq!(row(1), [("c".to_owned(), "[1, 'x']".to_owned()), ("d".into(), "True".into())]);
        assert_eq!(objects[1].0, 3);
    }

    #[test]
    fn wrong_lines_are_named() {
        let refused = |bytes: &[u8], wanted: &str| {
            let error = objects(Path::new("x"), bytes).unwrap_err().to_string();
            assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
        };
        refused(b"{}\n[1]\n", "x, line 2: no JSON object");
        refused(b"\n", "the file is empty");
        refused(b"\xff", "not UTF-8");
        let objects = objects(Path::new("x"), b"{\"a\": 1}").unwrap();
        let error = text(Path::new("x"), 1, &objects[0].1, "a").unwrap_err().to_string();
        assert!(error.contains("`a` is missing, or no text"), "{error}");
    }
}
