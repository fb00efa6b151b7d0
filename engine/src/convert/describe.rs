//! What a folder says beside its tensors, from the metadata of a GGUF file.

use super::{folder::Staged, tensors::Item, write_tokenizer_json};
use crate::{
    Error, ModelConfig, ModelFiles, Result, RopeScaling, Tokenizer,
    load::gguf::Gguf,
    models::{Architecture, Biases},
    text::gguf_special_tokens,
};
use oc_kernels::WeightFormat;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Writes `config.json`, `generation_config.json` and the tokenizer's files.
pub(super) fn of_gguf(
    files: &ModelFiles,
    gguf: &Gguf,
    items: &[Item],
    staged: &Staged,
    notes: &mut Vec<String>,
) -> Result<()> {
    let mut config = config_json(files.config())?;
    set_dtype(&mut config, items);
    staged.write_json("config.json", &config)?;
    let ModelConfig { bos_token_id, eos_token_ids, .. } = files.config();
    let generation = json!({"bos_token_id": bos_token_id, "eos_token_id": eos_token_ids});
    staged.write_json("generation_config.json", &generation)?;
    let tokenizer = Tokenizer::of_gguf(gguf)?;
    let roles = gguf_special_tokens(gguf)?;
    let mut settings = tokenizer_files(&tokenizer, roles, staged, notes)?;
    if let Some(template) = gguf.str("tokenizer.chat_template")? {
        settings.insert("chat_template".into(), template.into());
    }
    settings.insert("clean_up_tokenization_spaces".into(), false.into());
    staged.write_json("tokenizer_config.json", &Value::Object(settings))
}

/// Writes the tokenizer; what `tokenizer_config.json` says of it.
fn tokenizer_files(
    tokenizer: &Tokenizer,
    roles: BTreeMap<String, String>,
    staged: &Staged,
    notes: &mut Vec<String>,
) -> Result<Map<String, Value>> {
    let roles = roles.into_iter().map(|(role, token)| (role, Value::from(token)));
    write_tokenizer_json(tokenizer, staged, notes)?;
    let Some((model, mut settings)) = tokenizer.to_sentencepiece() else {
        let class = ("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
        return Ok(roles.chain([class]).collect());
    };
    staged.write("tokenizer.model", &model)?;
    // Whatever has a role is special in a folder, but an unknown token spelt out in a text is text in a GGUF file.
    let special: Vec<&str> = settings["added_tokens_decoder"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, token)| token["content"].as_str())
        .collect();
    let roles: Vec<_> = roles.filter(|(_, token)| special.iter().any(|text| token == text)).collect();
    settings.extend(roles);
    settings.insert("tokenizer_class".into(), "LlamaTokenizer".into());
    Ok(settings)
}

/// The `config.json` of a configuration. An architecture whose folders name or fuse tensors differently is described as
/// LLaMA, which computes the same from the tensors that a GGUF file has.
fn config_json(config: &ModelConfig) -> Result<Value> {
    let own = Architecture::of_class(&config.architecture).filter(|architecture| architecture.tensors.is_empty());
    let architecture = own.or_else(|| Architecture::of_class("LlamaForCausalLM")).expect("LLaMA is registered");
    let mut json = json!({
        "architectures": [architecture.class],
        "model_type": architecture.model_type,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        // The shortest number that is this f32, not its 17 digits as f64.
        "rms_norm_eps": config.norm_eps.to_string().parse::<f64>().unwrap_or(f64::from(config.norm_eps)),
        "rope_theta": config.rope_theta,
        "rope_scaling": rope_json(config.rope_scaling),
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids.first(),
        "use_cache": true,
    });
    if config.mlp_bias {
        json["mlp_bias"] = true.into();
    }
    if let Biases::Field { name, .. } = architecture.biases {
        if config.attention_bias != config.attention_output_bias {
            return Err(Error::Unsupported {
                what: format!(
                    "biases of some projections of attention only, in a config.json of {}",
                    architecture.class
                ),
                hint: "use the GGUF file as it is".into(),
            });
        }
        json[name] = config.attention_bias.into();
    }
    Ok(json)
}

fn rope_json(scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Dynamic { factor } => json!({"rope_type": "dynamic", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position,
        }),
    }
}

/// Sets the dtype that most numbers of the tensors have.
pub(super) fn set_dtype(config: &mut Value, items: &[Item]) {
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    for item in items {
        let name = match item.format {
            WeightFormat::F16 => "float16",
            WeightFormat::Bf16 => "bfloat16",
            _ => "float32",
        };
        *bytes.entry(name).or_default() += item.bytes;
    }
    let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or("float32", |(name, _)| name);
    // Since transformers 5 the field is called `dtype`.
    let field = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[field] = most.into();
}
