//! Generation: every question is one prompt, cut to the model's context as OpenCompass does it.
//!
//! While a prompt is longer than `max_seq_len`, its last solved example is dropped and it is built again; nothing is
//! reserved for the output. What is still too long loses its beginning. Without `max_seq_len` no example is dropped,
//! and only the model's own limit cuts.

use crate::{Error, EvalConfig, Message, Model, Prompt, Result, Sample, Task, prompt::Style};

/// A prompt that can be sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Built {
    /// What is recorded: with fewer examples perhaps, but with its beginning.
    pub prompt: Prompt,
    /// What was encoded: the text, or what the chat template made of the messages.
    pub text: String,
    /// The ids to send.
    pub ids: Vec<u32>,
    /// Solved examples left.
    pub shots: usize,
    /// Solved examples of an uncut prompt.
    pub all_shots: usize,
    /// Tokens cut from the beginning.
    pub cut: usize,
}

impl Built {
    /// Whether anything is missing.
    pub(crate) fn is_truncated(&self) -> bool {
        self.shots < self.all_shots || self.cut > 0
    }
}

/// How long a prompt may be, in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Examples are dropped above this.
    examples: Option<usize>,
    /// The beginning is cut above this.
    prompt: usize,
}

impl Limits {
    /// The limits that `config` sets for `model`: the output has to fit into its context too.
    ///
    /// # Errors
    /// [`Error::Config`] where nothing would be left of a prompt.
    pub(crate) fn new(config: &EvalConfig, model: &dyn Model) -> Result<Self> {
        let context = model.max_seq_len();
        if config.max_seq_len == Some(0) {
            return Err(Error::Config { what: "max_seq_len is 0; a prompt needs at least one token".into() });
        }
        if config.max_out_len == 0 {
            return Err(Error::Config { what: "max_out_len is 0; at least one token must be generated".into() });
        }
        let Some(room) = context.checked_sub(config.max_out_len).filter(|room| *room > 0) else {
            return Err(Error::Config {
                what: format!(
                    "max_out_len is {}, but the whole context of {} is {context} tokens\n\n\
                     hint: use a smaller --max-out-len",
                    config.max_out_len,
                    model.name()
                ),
            });
        };
        Ok(Self {
            examples: config.max_seq_len.map(|len| len.min(room)),
            prompt: config.max_seq_len.map_or(room, |len| len.min(room)),
        })
    }
}

/// A question being fitted.
struct Draft<'a> {
    task: &'a Task,
    sample: &'a Sample,
    shots: usize,
    built: Result<(Prompt, String), String>,
    ids: Vec<u32>,
}

impl Draft<'_> {
    /// Builds the prompt with as many examples as are left. What concerns this sample alone is kept with it.
    fn build(&mut self, style: &Style, render: &Render<'_>) -> Result<()> {
        self.built = match self.task.prompt(self.sample, self.shots, style) {
            Ok(prompt) => {
                let text = render.text(&prompt)?;
                Ok((prompt, text))
            }
            Err(Error::Sample { reason, .. }) => Err(reason),
            Err(other) => return Err(other),
        };
        Ok(())
    }
}

/// How a prompt becomes text for the tokenizer.
struct Render<'a>(&'a dyn Model);

impl Render<'_> {
    /// What is sent.
    fn text(&self, prompt: &Prompt) -> Result<String> {
        match prompt {
            Prompt::Text(text) => Ok(text.clone()),
            Prompt::Messages(messages) => self.0.apply_chat_template(messages),
        }
    }

    /// What OpenCompass counts: of messages all texts, one after the other, as one message of the user.
    fn counted(&self, prompt: &Prompt) -> Result<String> {
        let Prompt::Messages(messages) = prompt else { return self.text(prompt) };
        let content = messages.iter().map(|message| message.content.as_str()).collect();
        self.0.apply_chat_template(&[Message { role: "user".into(), content }])
    }
}

/// The prompts of all questions, subset by subset, row by row; an inner error is the reason why one cannot be asked.
///
/// # Errors
/// Whatever stops all of them: no chat template, a tokenizer that fails.
pub(crate) fn build(
    tasks: &[Task],
    style: &Style,
    limits: Limits,
    model: &dyn Model,
) -> Result<Vec<Result<Built, String>>> {
    let render = Render(model);
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    for task in tasks {
        for sample in &task.samples {
            let shots = task.shots.len();
            let mut draft = Draft { task, sample, shots, built: Err(String::new()), ids: Vec::new() };
            draft.build(style, &render)?;
            drafts.push(draft);
        }
    }
    let everyone = vec![true; drafts.len()];
    encode(&mut drafts, &everyone, model)?;
    if let Some(limit) = limits.examples {
        drop_examples(&mut drafts, limit, style, &render)?;
    }
    // What the tokenizer adds stays when the beginning is cut, as in transformers.
    let edges = model.encode("", true)?;
    let finish = |draft: Draft<'_>| {
        let (prompt, text) = draft.built?;
        let edges: &[u32] = if matches!(prompt, Prompt::Text(_)) { &edges } else { &[] };
        let (ids, cut) = cut_left(draft.ids, limits.prompt, edges);
        if ids.is_empty() {
            return Err("the prompt has no tokens".to_owned());
        }
        Ok(Built { prompt, text, ids, shots: draft.shots, all_shots: draft.task.shots.len(), cut })
    };
    Ok(drafts.into_iter().map(finish).collect())
}

/// Drops the last example of every prompt that is too long, until none is.
fn drop_examples(drafts: &mut [Draft<'_>], limit: usize, style: &Style, render: &Render<'_>) -> Result<()> {
    let mut counts = count(drafts, &vec![true; drafts.len()], render)?;
    loop {
        let too_long: Vec<bool> =
            drafts.iter().zip(&counts).map(|(draft, count)| *count > limit && draft.shots > 0).collect();
        if !too_long.contains(&true) {
            return Ok(());
        }
        for (draft, _) in drafts.iter_mut().zip(&too_long).filter(|(_, too_long)| **too_long) {
            draft.shots -= 1;
            draft.build(style, render)?;
        }
        encode(drafts, &too_long, render.0)?;
        counts = count(drafts, &too_long, render)?;
    }
}

/// Tokens as OpenCompass counts them; 0 where `wanted` is false.
fn count(drafts: &[Draft<'_>], wanted: &[bool], render: &Render<'_>) -> Result<Vec<usize>> {
    let mut counts: Vec<usize> = drafts.iter().zip(wanted).map(|(d, w)| if *w { d.ids.len() } else { 0 }).collect();
    let mut texts = Vec::new();
    let mut places = Vec::new();
    for (place, draft) in drafts.iter().enumerate().filter(|(place, _)| wanted[*place]) {
        if let Ok((prompt @ Prompt::Messages(_), _)) = &draft.built {
            texts.push(render.counted(prompt)?);
            places.push(place);
        }
    }
    for (place, ids) in places.into_iter().zip(render.0.encode_all(&texts, false)?) {
        counts[place] = ids.len();
    }
    Ok(counts)
}

/// Encodes the drafts that are `wanted`, all at once. A rendered chat template carries its special tokens itself.
fn encode(drafts: &mut [Draft<'_>], wanted: &[bool], model: &dyn Model) -> Result<()> {
    let (mut plain, mut rendered) = (Vec::new(), Vec::new());
    for (draft, _) in drafts.iter_mut().zip(wanted).filter(|(_, wanted)| **wanted) {
        match &draft.built {
            Ok((Prompt::Text(_), _)) => plain.push(draft),
            Ok((Prompt::Messages(_), _)) => rendered.push(draft),
            Err(_) => {}
        }
    }
    for (drafts, add_special_tokens) in [(plain, true), (rendered, false)] {
        let text = |draft: &&mut Draft<'_>| draft.built.as_ref().map(|(_, text)| text.clone()).unwrap_or_default();
        let texts: Vec<String> = drafts.iter().map(text).collect();
        let encoded = model.encode_all(&texts, add_special_tokens)?;
        drafts.into_iter().zip(encoded).for_each(|(draft, ids)| draft.ids = ids);
    }
    Ok(())
}

/// Cuts the beginning off until `limit` ids are left, and says how many went. `edges` are the ids of the empty text:
/// those of them that `ids` begins with stay.
fn cut_left(ids: Vec<u32>, limit: usize, edges: &[u32]) -> (Vec<u32>, usize) {
    let Some(cut) = ids.len().checked_sub(limit).filter(|cut| *cut > 0) else { return (ids, 0) };
    let kept = ids.iter().zip(edges).take_while(|(id, edge)| id == edge).count().min(limit);
    let mut short = ids[..kept].to_vec();
    short.extend(&ids[kept + cut..]);
    (short, cut)
}

/// Tokens of `prompts` that are not shared with the beginning of an earlier one, in the best order.
pub(crate) fn unshared_tokens(prompts: &[&[u32]]) -> u64 {
    let mut sorted = prompts.to_vec();
    sorted.sort_unstable();
    let mut previous: &[u32] = &[];
    let mut unshared = 0;
    for ids in sorted {
        let shared = ids.iter().zip(previous).take_while(|(a, b)| a == b).count();
        unshared += (ids.len() - shared) as u64;
        previous = ids;
    }
    unshared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_goes_and_what_the_tokenizer_added_stays() {
        assert_eq!(cut_left(vec![1, 2, 3], 3, &[]), (vec![1, 2, 3], 0));
        assert_eq!(cut_left(vec![1, 2, 3, 4], 2, &[]), (vec![3, 4], 2));
        assert_eq!(cut_left(vec![9, 2, 3, 4], 2, &[9]), (vec![9, 4], 2));
        assert_eq!(cut_left(vec![9, 2, 3, 8], 3, &[9, 8]), (vec![9, 3, 8], 1));
        assert_eq!(cut_left(vec![9, 2, 3, 4], 1, &[9]), (vec![9], 3));
        // A tokenizer that adds nothing to this text.
        assert_eq!(cut_left(vec![2, 3, 4], 2, &[9]), (vec![3, 4], 1));
    }

    #[test]
    fn shared_beginnings_count_once() {
        assert_eq!(unshared_tokens(&[]), 0);
        assert_eq!(unshared_tokens(&[&[1, 2, 3], &[7], &[1, 2, 4, 5], &[1, 2, 3]]), 3 + 2 + 1);
        assert_eq!(unshared_tokens(&[&[1, 2], &[1]]), 2);
    }
}
