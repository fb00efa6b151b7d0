//! Token ids and chat templates against Hugging Face's.

use oc_engine::{ChatMessage, Engine, EngineOptions, TextStream, Tokenizer};
use oc_tests::{CHECKPOINTS, checkpoint, json_lines, model, reference, shared};
use serde::Deserialize;
use std::collections::HashMap;

#[test]
fn tiny_tokenizers_give_transformers_ids() {
    for name in CHECKPOINTS {
        let tokenizer = Tokenizer::open(&checkpoint(name)).unwrap();
        for encoding in reference(name).encodings {
            assert_eq!(tokenizer.encode(&encoding.text, true).unwrap(), encoding.ids, "{name}: {:?}", encoding.text);
            let text = tokenizer.decode(&encoding.ids, true).unwrap();
            let spelt_out = encoding.text.contains("<|");
            assert!(spelt_out || name.starts_with("qwen2") || text == encoding.text, "{name}: {text:?}");
            assert_eq!(streamed(&tokenizer, &encoding.ids), text, "{name}: pieces of {text:?}");
        }
    }
}

#[test]
fn tiny_chat_templates_give_transformers_text() {
    for name in CHECKPOINTS {
        let engine = Engine::load(checkpoint(name), EngineOptions::default()).unwrap();
        let (template, chat) = (engine.chat_template(), reference(name).chat);
        assert_eq!(template.is_some(), chat.is_some(), "{name}");
        let (Some(template), Some(chat)) = (template, chat) else { continue };
        let message = |m: oc_tests::Message| ChatMessage { role: m.role, content: m.content };
        let messages: Vec<ChatMessage> = chat.messages.into_iter().map(message).collect();
        assert_eq!(template.render(&messages, true).unwrap(), chat.text, "{name}");
    }
}

/// A template that writes the beginning-of-text token, encoded as if it did not, is refused; nobody here does that.
#[test]
fn a_doubled_bos_is_an_error() {
    for (name, bos) in [("llama", "<|begin_of_text|>"), ("opt", "</s>")] {
        let engine = Engine::load(checkpoint(name), EngineOptions::default()).unwrap();
        let tokenizer = engine.tokenizer();
        let text = match engine.chat_template() {
            Some(template) => {
                let message = ChatMessage { role: "user".into(), content: "Why?".into() };
                template.render(&[message], true).unwrap()
            }
            None => format!("{bos}Why?"),
        };
        assert!(text.starts_with(bos), "{name}");
        tokenizer.check_beginning(&tokenizer.encode(&text, false).unwrap()).unwrap();
        tokenizer.check_beginning(&tokenizer.encode("Why?", true).unwrap()).unwrap();
        let error = tokenizer.check_beginning(&tokenizer.encode(&text, true).unwrap()).unwrap_err().to_string();
        assert!(error.contains(&format!("begins with {bos:?}")) && error.contains("twice"), "{error}");
    }
    // One that adds nothing has nothing to double.
    let tokenizer = Tokenizer::open(&checkpoint("qwen2")).unwrap();
    tokenizer.check_beginning(&[313, 313]).unwrap();
}

/// Characters that take several tokens arrive whole, and a cut one as U+FFFD at the end.
#[test]
fn streaming_never_splits_a_character() {
    let tokenizer = Tokenizer::open(&checkpoint("llama")).unwrap();
    let ids = tokenizer.encode("🙂é水的沸点", false).unwrap();
    for end in 0..=ids.len() {
        let mut stream = tokenizer.stream();
        let mut pieces = Vec::new();
        for id in &ids[..end] {
            pieces.push(stream.push(&tokenizer, *id).unwrap());
        }
        assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
        pieces.push(stream.finish(&tokenizer).unwrap());
        assert_eq!(pieces.concat(), tokenizer.decode(&ids[..end], true).unwrap());
    }
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream: TextStream = tokenizer.stream();
    let mut text = String::new();
    for id in ids {
        text += &stream.push(tokenizer, *id).unwrap();
    }
    text + &stream.finish(tokenizer).unwrap()
}

#[derive(Deserialize)]
struct Golden {
    config: String,
    template: String,
    subject: String,
    index: usize,
    qwen: Vec<u32>,
    smollm2: Vec<u32>,
}

#[derive(Deserialize)]
struct GoldenPrompt {
    subject: String,
    index: usize,
    prompt: String,
}

/// The tokenizers of two real GGUF files, over real prompts.
#[test]
fn gguf_vocabularies_give_the_golden_ids() {
    let Some(goldens) = shared("goldens/tokens/token_ids.jsonl.gz") else { return };
    let qwen = model("qwen2.5-coder-0.5b-instruct.q4_k_m.gguf").map(|path| Tokenizer::open(&path).unwrap());
    let smollm2 = model("smollm2-135m-instruct.q4_1.gguf").map(|path| Tokenizer::open(&path).unwrap());
    let mut prompts: HashMap<String, Vec<GoldenPrompt>> = HashMap::new();
    for golden in json_lines::<Golden>(&goldens) {
        let name = format!("{}.{}", golden.config, golden.template);
        let of_file = prompts.entry(name.clone()).or_insert_with(|| {
            json_lines(&shared(&format!("goldens/prompts/{name}.jsonl.gz")).expect("beside the ids"))
        });
        let same = |p: &&GoldenPrompt| p.subject == golden.subject && p.index == golden.index;
        let prompt = &of_file.iter().find(same).expect("a prompt for these ids").prompt;
        for (tokenizer, ids) in [(&qwen, &golden.qwen), (&smollm2, &golden.smollm2)] {
            let Some(tokenizer) = tokenizer else { continue };
            assert_eq!(tokenizer.encode(prompt, true).unwrap(), *ids, "{name} {} {}", golden.subject, golden.index);
        }
    }
}
