//! `oc-cli generate`: one prompt, its continuation as it comes.

use super::{Outcome, load};
use crate::{
    args::GenerateArgs,
    diagnostics::{Error, Result, Stdout, Terminal},
    hub, resolve,
};
use oc_engine::{ChatMessage, Engine, Event, Output, Request, SamplingParams};
use std::{
    io::{IsTerminal, Read},
    time::{Duration, Instant},
};

/// Runs the command.
///
/// # Errors
/// Bad input, and whatever the engine refuses.
pub fn run(args: &GenerateArgs, terminal: &Terminal) -> Result<Outcome> {
    let mut notes = Vec::new();
    let cache = hub::Settings::read().cache;
    let model = resolve::model(&args.model, args.max_seq_len, cache.as_deref(), &mut notes)?;
    let model = model.ok_or_else(resolve::no_model)?;
    notes.iter().for_each(|note| tracing::info!("{note}"));
    let text = prompt_text(args)?;
    let mut engine = load(&model, terminal)?;
    let prompt = encode(args, &engine, text)?;
    let left = engine.max_seq_len().saturating_sub(prompt.len()).max(1);
    let request = Request {
        max_new_tokens: args.max_out_len.unwrap_or(left.min(256)),
        sampling: SamplingParams {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            seed: args.seed,
        },
        stop: args.stop.clone(),
        ..Request::new(prompt, 1)
    };
    let started = Instant::now();
    let mut first = None;
    let mut out = Stdout::lock();
    let mut finished = None;
    for event in engine.stream(vec![request])? {
        match event? {
            Event::Token { text, .. } => {
                first.get_or_insert_with(|| started.elapsed());
                out.print(text)?;
            }
            Event::Text { text, .. } => out.print(text)?,
            Event::Finished(output) => finished = Some(output),
        }
    }
    out.line("")?;
    if let (true, Some(output)) = (args.stats, finished) {
        tracing::info!("{}", stats(&output, first, started.elapsed()));
    }
    Ok(Outcome::Complete)
}

/// The prompt as given, or all of standard input.
fn prompt_text(args: &GenerateArgs) -> Result<String> {
    if let Some(prompt) = args.prompt.as_ref().filter(|prompt| *prompt != "-") {
        return Ok(prompt.clone());
    }
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        tracing::info!("reading the prompt from standard input; end it with Ctrl-D");
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text).map_err(|e| {
        Error::input(format!("cannot read the prompt from standard input: {e}"), "it has to be UTF-8 text")
    })?;
    // The newline that ends the last line is the shell's, not the prompt's.
    text.truncate(text.strip_suffix('\n').map_or(text.len(), |t| t.strip_suffix('\r').unwrap_or(t).len()));
    Ok(text)
}

fn encode(args: &GenerateArgs, engine: &Engine, text: String) -> Result<Vec<u32>> {
    let ids = if args.chat {
        let template = engine.chat_template().ok_or_else(|| {
            Error::input("the model has no chat template", "leave --chat out to send the prompt as it is")
        })?;
        let system = args.system.iter().map(|text| ChatMessage { role: "system".into(), content: text.clone() });
        let user = ChatMessage { role: "user".into(), content: text };
        let messages: Vec<ChatMessage> = system.chain([user]).collect();
        engine.tokenizer().encode(&template.render(&messages, true)?, false)?
    } else {
        engine.tokenizer().encode(&text, true)?
    };
    engine.tokenizer().check_beginning(&ids)?;
    if ids.is_empty() {
        return Err(Error::input("the prompt is empty", "give it as an argument or on standard input"));
    }
    Ok(ids)
}

fn stats(output: &Output, first: Option<Duration>, total: Duration) -> String {
    let tokens = output.tokens.len();
    let first = first.unwrap_or(total);
    // The first token comes out of the prompt's pass.
    let decode = (total - first).as_secs_f64();
    let prefill = output.prompt_tokens as f64 / first.as_secs_f64();
    let mut text = format!(
        "prompt {} tokens, first token after {:.2} s ({prefill:.0} tokens/s)",
        output.prompt_tokens,
        first.as_secs_f64()
    );
    text += &format!("; generated {tokens} tokens");
    if tokens > 1 {
        text += &format!(", {:.1} tokens/s", (tokens - 1) as f64 / decode);
    }
    text + &format!(
        "; ended by {}",
        match output.finish {
            oc_engine::FinishReason::Eos => "an end-of-sequence token",
            oc_engine::FinishReason::Stop => "a stop string",
            oc_engine::FinishReason::Length => "--max-out-len",
        }
    )
}
