//! `oc-cli inspect`: the card of a model.

use super::Outcome;
use crate::{
    args::InspectArgs,
    diagnostics::{Result, Stdout},
    hub, progress, resolve,
};
use oc_engine::{ModelCard, ModelConfig, Positions, RopeScaling, TokenizerCard};
use serde_json::{Value, json};

/// Width of the labels.
const LABEL: usize = 16;
/// Special tokens that are shown one by one.
const SHOWN_TOKENS: usize = 12;

/// Runs the command.
///
/// # Errors
/// A path that does not exist.
pub fn run(args: &InspectArgs) -> Result<Outcome> {
    let path = resolve::exists("PATH", &args.path, hub::Settings::read().cache.as_deref())?;
    let card = ModelCard::read(&path)?;
    let mut out = Stdout::lock();
    match args.json {
        true => out.line(format_args!("{:#}", to_json(&card)))?,
        false => out.print(describe(&card))?,
    }
    Ok(if card.problems.is_empty() { Outcome::Complete } else { Outcome::WithFailures })
}

/// Lines for people.
fn describe(card: &ModelCard) -> String {
    let mut lines = vec![row("model", card.path.display())];
    if !card.format.is_empty() {
        let bytes = card.files.iter().map(|(_, bytes)| *bytes as u64).sum();
        let files = match card.files.len() {
            1 => "one file".to_owned(),
            n => format!("{n} files"),
        };
        lines.push(row("files", format!("{}, {files}, {}", card.format, progress::size(bytes))));
    }
    if let Some(architecture) = &card.architecture {
        let known = card.config.as_ref().filter(|config| config.architecture != *architecture);
        let known = known.map_or(String::new(), |config| format!(" ({})", config.architecture));
        lines.push(row("architecture", format!("{architecture}{known}")));
    }
    if card.parameters > 0 {
        let shares: Vec<String> = card
            .formats
            .iter()
            .map(|share| {
                let percent = 100.0 * share.parameters as f64 / card.parameters as f64;
                let percent = if percent < 0.1 { "< 0.1".to_owned() } else { format!("{percent:.1}") };
                format!("{} {percent} %", share.name)
            })
            .collect();
        lines.push(row("parameters", format!("{}: {}", grouped(card.parameters), shares.join(", "))));
    }
    if let Some(config) = &card.config {
        describe_config(config, &mut lines);
    }
    if !card.memory.is_empty() {
        lines.push(String::new());
        lines.push(row("memory", format!("{:>14}  {:>14}", "weights", "KV per token")));
        for need in &card.memory {
            let kv = progress::size(need.kv_per_token as u64);
            let text = format!("{:>14}  {kv:>14}", progress::size(need.weights as u64));
            lines.push(row(&format!("  {}", need.dtype.name()), text));
        }
    }
    lines.push(String::new());
    match &card.tokenizer {
        Some(tokenizer) => describe_tokenizer(tokenizer, card.config.as_ref(), &mut lines),
        None => lines.push(row("tokenizer", "none that can be read")),
    }
    let template = card.chat_template.as_ref().map(|fingerprint| format!("yes, fingerprint {fingerprint}"));
    lines.push(row("chat template", template.as_deref().unwrap_or("none")));
    lines.push(String::new());
    if card.problems.is_empty() {
        lines.push(row("not supported", "nothing: it runs"));
    }
    for (i, problem) in card.problems.iter().enumerate() {
        let text = problem.to_string().replace("\n\n", &format!("\n{:LABEL$}", ""));
        lines.push(row(if i == 0 { "not supported" } else { "" }, text));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn describe_config(config: &ModelConfig, lines: &mut Vec<String>) {
    let ModelConfig { hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, .. } = config;
    lines.push(row("context", format!("{} tokens", grouped(config.max_position_embeddings))));
    lines.push(row("layers", format!("{num_layers}, {hidden_size} wide, {intermediate_size} inside the MLP")));
    lines.push(row("attention", format!("{num_heads} heads of {head_dim}, {num_kv_heads} for keys and values")));
    let positions = match (config.positions, config.rope_scaling) {
        (Positions::Learned { .. }, _) => "learned".to_owned(),
        (Positions::Rotary, RopeScaling::None) => format!("rotary, base {}, no scaling", config.rope_theta),
        (Positions::Rotary, scaling) => format!("rotary, base {}, scaling {scaling:?}", config.rope_theta),
    };
    lines.push(row("positions", positions));
    let head = if config.tie_word_embeddings { "the output head is the embedding" } else { "own output head" };
    lines.push(row("vocabulary", format!("{} rows, {head}", grouped(config.vocab_size))));
}

fn describe_tokenizer(tokenizer: &TokenizerCard, config: Option<&ModelConfig>, lines: &mut Vec<String>) {
    let text = |id: &u32| {
        let special = tokenizer.special_tokens.iter().find(|(special, _)| special == id);
        special.map_or_else(|| id.to_string(), |(_, text)| format!("{id} {text}"))
    };
    let texts = |ids: &[u32]| match ids {
        [] => "none".to_owned(),
        ids => ids.iter().map(text).collect::<Vec<_>>().join(", "),
    };
    let tokens = grouped(tokenizer.vocab_size);
    lines.push(row("tokenizer", format!("{}, {tokens} tokens, fingerprint {}", tokenizer.kind, tokenizer.fingerprint)));
    lines.push(row("  puts around", texts(&tokenizer.added_around)));
    if let Some(config) = config {
        lines.push(row("  begins with", texts(config.bos_token_id.as_slice())));
        lines.push(row("  ends with", texts(&config.eos_token_ids)));
    }
    let special = &tokenizer.special_tokens;
    let mut shown: Vec<String> = special.iter().take(SHOWN_TOKENS).map(|(id, text)| format!("{id} {text}")).collect();
    if special.len() > SHOWN_TOKENS {
        shown.push(format!("and {} more", special.len() - SHOWN_TOKENS));
    }
    lines.push(row("  special", if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }));
}

fn row(label: &str, text: impl std::fmt::Display) -> String {
    format!("{label:LABEL$}{text}")
}

/// `1234567` as `1,234,567`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The same for programs: sizes in bytes.
fn to_json(card: &ModelCard) -> Value {
    let config = card.config.as_ref().map(|config| {
        json!({
            "architecture": config.architecture,
            "max_position_embeddings": config.max_position_embeddings,
            "num_hidden_layers": config.num_layers,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "vocab_size": config.vocab_size,
            "rope_theta": config.rope_theta,
            "rope_scaling": format!("{:?}", config.rope_scaling),
            "tie_word_embeddings": config.tie_word_embeddings,
            "bos_token_id": config.bos_token_id,
            "eos_token_ids": config.eos_token_ids,
        })
    });
    let formats = card.formats.iter().map(|share| {
        json!({"name": share.name, "tensors": share.tensors, "parameters": share.parameters, "bytes": share.bytes})
    });
    let memory = card
        .memory
        .iter()
        .map(|need| json!({"dtype": need.dtype.name(), "weights": need.weights, "kv_per_token": need.kv_per_token}));
    let tokenizer = card.tokenizer.as_ref().map(|tokenizer| {
        let special = tokenizer.special_tokens.iter().map(|(id, text)| json!({"id": id, "text": text}));
        json!({
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "special_tokens": special.collect::<Value>(),
            "added_around": tokenizer.added_around,
            "fingerprint": tokenizer.fingerprint,
        })
    });
    let files = card.files.iter().map(|(path, bytes)| json!({"path": path, "bytes": bytes}));
    json!({
        "path": card.path,
        "format": card.format,
        "files": files.collect::<Value>(),
        "architecture": card.architecture,
        "parameters": card.parameters,
        "formats": formats.collect::<Value>(),
        "config": config,
        "memory": memory.collect::<Value>(),
        "tokenizer": tokenizer,
        "chat_template": card.chat_template,
        "unsupported": card.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
