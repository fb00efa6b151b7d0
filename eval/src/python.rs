//! Values as Python writes them: `repr` of strings, numbers and containers, and configuration files as OpenCompass
//! dumps them (mmengine's layout: keys sorted, `dict(…)` calls, four spaces, every list element on its own line).

use serde_json::{Map, Value};

/// Marks a key that is an integer in Python: keys of JSON objects are strings. No other key begins with it.
const INTEGER: char = '\0';

/// The key of an object that stands for Python's integer `key`, as in `template={0: …, 1: …}`: everything that reads
/// or writes configurations tells it from the text of the same digits.
pub fn integer_key(key: i64) -> String {
    format!("{INTEGER}{key}")
}

/// The digits of a key that [`integer_key`] made.
pub(crate) fn integer_of_key(key: &str) -> Option<&str> {
    key.strip_prefix(INTEGER)
}

/// A key as a literal.
fn key(key: &str) -> String {
    integer_of_key(key).map_or_else(|| string(key), str::to_owned)
}

/// `repr` of a string: single quotes unless it holds some and no double ones; what Python does not call printable is
/// escaped.
pub(crate) fn string(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => match u32::from(c) {
                code @ ..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ ..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
    out
}

/// As Python's `str.strip()`, to which four control characters are spaces too.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}

/// Rust and Python agree on what is printable. Only `str::escape_debug` tells, and it treats the first character
/// specially.
fn is_printable(c: char) -> bool {
    matches!(c, '"' | '\'') || !String::from_iter(['a', c]).escape_debug().any(|c| c == '\\')
}

/// `repr` of a float.
pub(crate) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.into();
    }
    let mut text = format!("{x:e}");
    let digits = text.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
    if digits == 17 {
        // Of two texts that are equally near Rust takes the larger, Python the one that ends in an even digit.
        text = format!("{x:.16e}");
    }
    // Python writes an exponent outside 1e-4 ≤ |x| < 1e16, with a sign and two digits at least.
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return if digits == 17 { plain(&text) } else { format!("{x:?}") };
    }
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// Seventeen digits in scientific notation without an exponent.
fn plain(text: &str) -> String {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat(exponent.unsigned_abs() as usize - 1));
    }
    let (whole, fraction) = digits.split_at((exponent as usize + 1).min(digits.len()));
    format!("{sign}{whole}.{}", if fraction.is_empty() { "0" } else { fraction })
}

/// `repr` of a value, on one line.
pub(crate) fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(n) if n.is_f64() => n.as_f64().map_or_else(|| n.to_string(), float),
        Value::Number(n) => n.to_string(),
        Value::String(text) => string(text),
        Value::Array(items) => format!("[{}]", items.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{}: {}", key(k), repr(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// A configuration file: one assignment per key of `config`.
pub(crate) fn config(config: &Map<String, Value>) -> String {
    let mut assignments: Vec<(&String, &Value)> = config.iter().collect();
    assignments.sort_by_key(|(key, _)| *key);
    let lines: Vec<String> = assignments.iter().map(|(key, value)| pair(key, value, false)).collect();
    lines.join("\n")
}

/// The inside of a `dict(…)`, or a `{…}` where a key is no identifier.
fn dict(map: &Map<String, Value>) -> String {
    let quoted = !map.keys().all(|key| is_identifier(key));
    let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
    pairs.sort_by_key(|(key, _)| *key);
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| pair(key, value, quoted)).collect();
    let inside = pairs.join(",\n");
    if quoted { format!("{{{inside}}}") } else { inside }
}

fn pair(key: &str, value: &Value, quoted: bool) -> String {
    let start = match integer_of_key(key) {
        Some(digits) => format!("{digits}: "),
        None if quoted => format!("'{key}': "),
        None => format!("{key}="),
    };
    match value {
        // A nested dictionary begins on a line of its own, an element of a list does not.
        Value::Object(map) => format!("{start}dict(\n    {})", indent(&dict(map))),
        Value::Array(items) => format!("{start}{}", list(items)),
        value => format!("{start}{}", repr(value)),
    }
}

fn list(items: &[Value]) -> String {
    let mut text = "[\n".to_owned();
    for item in items {
        match item {
            Value::Object(map) => text += &format!("dict({}),\n", indent(&dict(map))),
            Value::Array(items) => text += &format!("{},\n", list(items)),
            item => text += &format!("{},\n", repr(item)),
        }
    }
    format!("{}]", indent(&text))
}

/// Four spaces before every line but the first.
fn indent(text: &str) -> String {
    text.replace('\n', "\n    ")
}

fn is_identifier(key: &str) -> bool {
    let mut chars = key.chars();
    chars.next().is_some_and(|c| c == '_' || c.is_alphabetic()) && chars.all(|c| c == '_' || c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn repr_is_pythons() {
        // Each right side is what Python 3.11 prints.
        assert_eq!(string("a'b"), r#""a'b""#);
        assert_eq!(string(r#"a'b"c"#), r#"'a\'b"c'"#);
        assert_eq!(string("答案: \n\t\\"), r"'答案: \n\t\\'");
        assert_eq!(
            string("\u{3000}\u{7f}\u{e9}\u{301}\u{a0}\u{e0001}\0"),
            "'\\u3000\\x7f\u{e9}\u{301}\\xa0\\U000e0001\\x00'"
        );
        let floats = [31.57894736842105, 100.0, 0.0, 1e-5, 0.0001, 1e16, 123456789.5, -2.5e-7, 1e22];
        let texts =
            ["31.57894736842105", "100.0", "0.0", "1e-05", "0.0001", "1e+16", "123456789.5", "-2.5e-07", "1e+22"];
        assert_eq!(floats.map(float), texts);
        // Half-way between two texts of 17 digits, and others of 17.
        for (x, text) in [
            ("3.31757354736328125", "3.3175735473632812"),
            ("-3.31757354736328125", "-3.3175735473632812"),
            ("1493.76312255859375", "1493.7631225585938"),
            ("23249332.9794921875", "23249332.979492188"),
            ("5539345.26123046875", "5539345.261230469"),
            ("0.00012345678901234567", "0.00012345678901234567"),
            ("1234567890123456.7", "1234567890123456.8"),
            ("0.30000000000000004", "0.30000000000000004"),
            ("9.536744117736817e-7", "9.536744117736817e-07"),
        ] {
            assert_eq!(float(x.parse().unwrap()), text);
        }
        let value = json!({"a": [1, 2.5, null, true], "b": {"c": "d'"}});
        assert_eq!(repr(&value), r#"{'a': [1, 2.5, None, True], 'b': {'c': "d'"}}"#);
    }

    #[test]
    fn keys_that_are_no_identifiers_make_a_literal() {
        let Value::Object(map) = json!({"b": {"x-y": 1, "z": {}}, "a": []}) else { unreachable!() };
        assert_eq!(config(&map), "a=[\n    ]\nb=dict(\n    {'x-y': 1,\n    'z': dict(\n        )})");
    }
}
