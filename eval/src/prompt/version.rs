//! The version of a prompt: OpenCompass's hash of the inference configuration, shown in its tables.

use crate::python::integer_of_key;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// First six hex digits of the SHA-256 of `infer_cfg` as Python's `json.dumps(…, sort_keys=True)` writes it, after
/// `fix_id_list` moved from the retriever to the inferencer.
pub(crate) fn prompt_version(infer_cfg: &Value) -> String {
    let mut config = infer_cfg.clone();
    let fixed = config["retriever"].as_object_mut().and_then(|retriever| retriever.shift_remove("fix_id_list"));
    if let (Some(fixed), Some(inferencer)) = (fixed, config["inferencer"].as_object_mut()) {
        inferencer.insert("fix_id_list".into(), fixed);
    }
    let mut text = String::new();
    write_sorted(&config, &mut text);
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}

fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_sorted(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            // Python sorts integers as such, and text as text; the two do not mix.
            entries.sort_by_key(|(key, _)| (integer_of_key(key).and_then(|digits| digits.parse::<i64>().ok()), *key));
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_ascii(integer_of_key(key).unwrap_or(key), out);
                out.push_str(": ");
                write_sorted(item, out);
            }
            out.push('}');
        }
        Value::String(text) => write_ascii(text, out),
        other => out.push_str(&other.to_string()),
    }
}

/// A JSON string with everything beyond ASCII as UTF-16 escapes, which Python writes in lower case.
fn write_ascii(text: &str, out: &mut String) {
    let quoted = Value::from(text).to_string();
    for c in quoted.chars() {
        if c.is_ascii() {
            out.push(c);
            continue;
        }
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_is_pythons() {
        let mut text = String::new();
        write_sorted(&json!({"b": ["水", 1, null, true], "a": "\n\"🙂\u{7f}"}), &mut text);
        assert_eq!(text, "{\"a\": \"\\n\\\"\\ud83d\\ude42\u{7f}\", \"b\": [\"\\u6c34\", 1, null, true]}");
    }
}
