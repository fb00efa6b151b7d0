//! Prompts cut to the model's context as OpenCompass does it; one for a question, or one for each of its labels.
//!
//! While a prompt is longer than `max_seq_len`, its last solved example is dropped and it is built again; nothing is
//! reserved for the output. What is still too long loses its beginning, or its middle. Without `max_seq_len` no example is
//! dropped, and only the model's own limit cuts.
//!
//! Of one class of models, with `batch_padding=True`, the prompt depends on OpenCompass's batches too: see [`Batch`].

use crate::{
    Error, EvalConfig, HfType, Inferencer, Label, Message, Model, Prompt, Result, Sample, Task, Truncation,
    prompt::Style,
};

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
    /// Tokens cut from the beginning, or from the middle.
    pub cut: usize,
    /// Tokens before the cut, as OpenCompass counts them.
    pub counted: usize,
    /// Tokens that the model's context leaves for it.
    pub room: usize,
    /// In a batch of another size it would be cut elsewhere.
    pub is_by_batch: bool,
}

/// How many prompts OpenCompass sends together. `HuggingFaceCausalLM` generates after single prompts unless it has
/// `batch_padding=True` and a batch of several; a single prompt leaves room for the output within `max_seq_len`, those of
/// a batch do not. Batches are the rows of a subset in order, so that the last may hold one row. (A resumed run there
/// begins with a batch too: what it kept are whole batches.) Here no batch changes a bit of an answer to a prompt; but what
/// is left of the prompt is what is left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batch {
    /// Nothing depends on it.
    Any,
    /// One prompt, where there are batches of several too.
    Alone,
    /// Several.
    Together,
}

impl Batch {
    /// The batch of the row at `place` of a subset.
    fn of(task: &Task, place: usize, config: &EvalConfig) -> Self {
        if !(config.is_causal_lm && config.has_batch_padding) {
            return Self::Any;
        }
        let (size, rows) = (task.batch_size(config), task.samples.len());
        let is_alone = size == 1 || (place + 1 == rows && rows % size == 1);
        if is_alone { Self::Alone } else { Self::Together }
    }
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
    /// The middle is cut above this, so that two halves of it are left.
    middle: Option<Middle>,
    /// What the model's context leaves beside the output.
    room: usize,
    /// Above this the cut depends on the batch.
    by_batch: Option<usize>,
}

impl Limits {
    /// The limits that `config` sets for the prompts of `task` in a batch of such a size: a generated output has to fit into
    /// the context of `model` too, and so has the token that `CLPInferencer` reckons with.
    ///
    /// # Errors
    /// [`Error::Config`] where nothing would be left of a prompt.
    fn new(task: &Task, batch: Batch, config: &EvalConfig, model: &dyn Model) -> Result<Self> {
        let context = model.max_seq_len();
        if config.max_seq_len == Some(0) {
            return Err(Error::Config { what: "max_seq_len is 0; a prompt needs at least one token".into() });
        }
        let output = match task.inferencer {
            Inferencer::Gen(_) => task.max_out_len(config),
            _ => 0,
        };
        if output == 0 && matches!(task.inferencer, Inferencer::Gen(_)) {
            return Err(Error::Config { what: "max_out_len is 0; at least one token must be generated".into() });
        }
        let Some(room) = context.checked_sub(output).filter(|room| *room > 0) else {
            return Err(Error::Config {
                what: format!(
                    "max_out_len is {output}, but the whole context of {} is {context} tokens\n\n\
                     hint: use a smaller --max-out-len",
                    model.name()
                ),
            });
        };
        let extra = usize::from(matches!(task.inferencer, Inferencer::Clp { .. }));
        let limit = config.max_seq_len.map_or(room, |len| len.min(room));
        // What the model's own output takes off the limit of a prompt, where its class reckons with it.
        let inner = match config.max_seq_len {
            Some(len) => len.checked_sub(output).filter(|inner| *inner > 0),
            None => Some(room),
        };
        let inner = inner.ok_or_else(|| Error::Config {
            what: format!(
                "max_out_len is {output}, and the prompt must fit beside it into max_seq_len, which is {}\n\n\
                 hint: make max_seq_len larger or max_out_len smaller",
                config.max_seq_len.unwrap_or(room)
            ),
        });
        let is_middle = config.truncation == Truncation::Middle;
        let is_generated = matches!(task.inferencer, Inferencer::Gen(_));
        let by_batch = inner.as_ref().ok().copied().filter(|_| is_generated && batch != Batch::Any);
        let (prompt, middle) = match (&task.inferencer, config.hf_type) {
            (Inferencer::Gen(_), HfType::Base) if config.is_causal_lm && batch != Batch::Together => {
                let inner = inner?.min(room);
                (inner, is_middle.then_some(Middle::Text(inner)))
            }
            (Inferencer::Gen(_), HfType::Chat) if is_middle => {
                (limit, inner.ok().map(|inner| Middle::Ids { above: inner, first: inner / 2, last: inner / 2 }))
            }
            (Inferencer::Gen(_) | Inferencer::Ppl { .. } | Inferencer::Ll { .. }, HfType::Base)
                if is_middle && !config.is_causal_lm =>
            {
                // Nothing is cut on the left then. Python rounds the negative half down, so that all of an odd limit is used.
                (usize::MAX, Some(Middle::Ids { above: limit, first: limit / 2, last: limit.div_ceil(2) }))
            }
            _ => (limit, None),
        };
        let examples = config.max_seq_len.map(|len| len.min(room).saturating_sub(extra));
        Ok(Self { examples, prompt, middle, room, by_batch })
    }
}

/// How the middle is cut out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Middle {
    /// After the cut on the left: above this many ids, the first and the last so many are left.
    Ids { above: usize, first: usize, last: usize },
    /// Before it; both halves become text, which is encoded again.
    Text(usize),
}

/// A prompt being fitted.
struct Draft<'a> {
    /// Of its question.
    place: usize,
    task: &'a Task,
    sample: &'a Sample,
    /// The answer that it states; `None`: it asks for one.
    label: Option<&'a Label>,
    limits: Limits,
    shots: usize,
    built: Result<(Prompt, String), String>,
    ids: Vec<u32>,
    /// Tokens as OpenCompass counts them.
    counted: usize,
}

impl Draft<'_> {
    /// Builds the prompt with as many examples as are left. What concerns this sample alone is kept with it.
    fn build(&mut self, style: &Style, render: &Render<'_>) -> Result<()> {
        let prompt = match self.label {
            None => self.task.prompt(self.sample, self.shots, style),
            Some(label) => self.task.candidate(self.sample, label, self.shots, style),
        };
        self.built = match prompt {
            Ok(prompt) => {
                let text = render.text(&prompt, self.label.is_none())?;
                Ok((prompt, text))
            }
            Err(Error::Sample { reason, .. }) => Err(reason),
            Err(other) => return Err(other),
        };
        Ok(())
    }

    /// Cuts what is still too long. `edges`: the ids of the empty text.
    fn finish(self, edges: &[u32], model: &dyn Model) -> Result<Result<Built, String>> {
        let (prompt, text) = match self.built {
            Ok(built) => built,
            Err(reason) => return Ok(Err(reason)),
        };
        if let Some(bos) = edges.first().filter(|bos| self.ids.starts_with(&[**bos; 2])) {
            return Ok(Err(format!(
                "the prompt begins with the token {bos} twice: the tokenizer puts it in front of every text, and the text \
                 begins with it too"
            )));
        }
        let edges = if matches!(prompt, Prompt::Text(_)) { edges } else { &[] };
        let mut ids = self.ids;
        let all = ids.len();
        if let Some(Middle::Text(limit)) = self.limits.middle
            && ids.len() > limit
        {
            let half = limit / 2;
            let halves = model.decode(&ids[..half])? + &model.decode(&ids[ids.len() - half..])?;
            ids = model.encode(&halves, true)?;
        }
        (ids, _) = cut_left(ids, self.limits.prompt, edges);
        if let Some(Middle::Ids { above, first, last }) = self.limits.middle
            && ids.len() > above
        {
            ids = cut_middle(ids, first, last);
        }
        if ids.is_empty() {
            return Ok(Err("the prompt has no tokens".to_owned()));
        }
        let (shots, all_shots, counted) = (self.shots, self.task.shots.len(), self.counted);
        let cut = all.saturating_sub(ids.len());
        let Limits { room, by_batch, .. } = self.limits;
        let is_by_batch = by_batch.is_some_and(|limit| all > limit);
        Ok(Ok(Built { prompt, text, ids, shots, all_shots, cut, counted, room, is_by_batch }))
    }
}

/// How a prompt becomes text for the tokenizer.
struct Render<'a>(&'a dyn Model);

impl Render<'_> {
    /// What is sent; `is_open`: the answer follows.
    fn text(&self, prompt: &Prompt, is_open: bool) -> Result<String> {
        match prompt {
            Prompt::Text(text) => Ok(text.clone()),
            Prompt::Messages(messages) => self.0.apply_chat_template(messages, is_open),
        }
    }

    /// What OpenCompass counts: of messages all texts, one after the other, as one message of the user.
    fn counted(&self, prompt: &Prompt) -> Result<String> {
        let Prompt::Messages(messages) = prompt else { return self.text(prompt, true) };
        let content = messages.iter().map(|message| message.content.as_str()).collect();
        self.0.apply_chat_template(&[Message { role: "user".into(), content }], true)
    }
}

/// What is asked for a question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    /// One prompt, whose answer is the model's.
    One(Built),
    /// One prompt for each label, in their order.
    Each(Vec<Built>),
}

impl Asked {
    /// All prompts.
    pub(crate) fn prompts(&self) -> &[Built] {
        match self {
            Self::One(built) => std::slice::from_ref(built),
            Self::Each(built) => built,
        }
    }

    /// Tokens as sent, of all prompts.
    pub(crate) fn tokens(&self) -> usize {
        self.prompts().iter().map(|built| built.ids.len()).sum()
    }

    /// Solved examples left in the shortest prompt.
    pub(crate) fn shots(&self) -> usize {
        self.prompts().iter().map(|built| built.shots).min().unwrap_or(0)
    }

    /// Whether a prompt depends on the size of OpenCompass's batches.
    pub(crate) fn is_by_batch(&self) -> bool {
        self.prompts().iter().any(|built| built.is_by_batch)
    }

    /// Most tokens cut from the beginning of a prompt.
    pub(crate) fn cut(&self) -> usize {
        self.prompts().iter().map(|built| built.cut).max().unwrap_or(0)
    }
}

/// The prompts of all questions, subset by subset, row by row; an inner error is the reason why one cannot be asked.
///
/// Examples that one label's prompt of a question had to drop are missing in those of its later labels too.
///
/// # Errors
/// [`Error::Config`] where a limit leaves nothing of a prompt; whatever stops all of them: no chat template, a tokenizer
/// that fails.
pub(crate) fn build(
    tasks: &[Task],
    style: &Style,
    config: &EvalConfig,
    model: &dyn Model,
) -> Result<Vec<Result<Asked, String>>> {
    let render = Render(model);
    // What the tokenizer adds stays when the beginning is cut, as in transformers.
    let edges = model.encode("", true)?;
    let mut questions = Vec::new();
    for task in tasks {
        let mut known: Vec<(Batch, Limits)> = Vec::new();
        for (place, sample) in task.samples.iter().enumerate() {
            let batch = Batch::of(task, place, config);
            let limits = match known.iter().find(|(of, _)| *of == batch) {
                Some((_, limits)) => *limits,
                None => {
                    let limits = Limits::new(task, batch, config, model)?;
                    known.push((batch, limits));
                    limits
                }
            };
            questions.push(Question { task, sample, limits, shots: task.shots.len(), built: Ok(Vec::new()) });
        }
    }
    let rounds = tasks.iter().map(|task| task.inferencer.labels().map_or(1, <[Label]>::len)).max().unwrap_or(0);
    for round in 0..rounds {
        let mut drafts: Vec<Draft<'_>> = Vec::new();
        for (place, question) in questions.iter().enumerate() {
            let Question { task, sample, limits, shots, .. } = *question;
            let label = match task.inferencer.labels() {
                None if round == 0 => None,
                Some(labels) if round < labels.len() => Some(&labels[round]),
                _ => continue,
            };
            let built = Err(String::new());
            let mut draft = Draft { place, task, sample, label, limits, shots, built, ids: Vec::new(), counted: 0 };
            draft.build(style, &render)?;
            drafts.push(draft);
        }
        encode(&mut drafts, |_| true, model)?;
        drop_examples(&mut drafts, style, &render)?;
        for draft in drafts {
            let question = &mut questions[draft.place];
            question.shots = draft.shots;
            match (draft.finish(&edges, model)?, &mut question.built) {
                (Ok(built), Ok(all)) => all.push(built),
                (Err(reason), all @ Ok(_)) => *all = Err(reason),
                (_, Err(_)) => {}
            }
        }
    }
    let asked = |question: Question<'_>| {
        let mut built = question.built?;
        Ok(match question.task.inferencer.labels() {
            None => Asked::One(built.pop().ok_or("there is no prompt")?),
            Some(_) => Asked::Each(built),
        })
    };
    Ok(questions.into_iter().map(asked).collect())
}

/// A question on its way through the rounds, one for each label.
struct Question<'a> {
    task: &'a Task,
    sample: &'a Sample,
    limits: Limits,
    /// Solved examples left.
    shots: usize,
    built: Result<Vec<Built>, String>,
}

/// Counts every prompt, and drops the last example of those that are too long, until none is.
fn drop_examples(drafts: &mut [Draft<'_>], style: &Style, render: &Render<'_>) -> Result<()> {
    count(drafts, |_| true, render)?;
    loop {
        let is_too_long =
            |draft: &Draft<'_>| draft.shots > 0 && draft.limits.examples.is_some_and(|l| draft.counted > l);
        let mut places = Vec::new();
        for (place, draft) in drafts.iter_mut().enumerate().filter(|(_, draft)| is_too_long(draft)) {
            draft.shots -= 1;
            draft.build(style, render)?;
            places.push(place);
        }
        if places.is_empty() {
            return Ok(());
        }
        let is_changed = |place: usize| places.binary_search(&place).is_ok();
        encode(drafts, is_changed, render.0)?;
        count(drafts, is_changed, render)?;
    }
}

/// Counts the tokens of the drafts at the wanted places as OpenCompass does.
fn count(drafts: &mut [Draft<'_>], is_wanted: impl Fn(usize) -> bool, render: &Render<'_>) -> Result<()> {
    let (mut texts, mut places) = (Vec::new(), Vec::new());
    for (place, draft) in drafts.iter_mut().enumerate().filter(|(place, _)| is_wanted(*place)) {
        draft.counted = draft.ids.len();
        if let (Ok((prompt @ Prompt::Messages(_), _)), None) = (&draft.built, draft.label) {
            texts.push(render.counted(prompt)?);
            places.push(place);
        }
    }
    for (place, ids) in places.into_iter().zip(render.0.encode_all(&texts, false)?) {
        drafts[place].counted = ids.len();
    }
    Ok(())
}

/// Encodes the drafts at the wanted places, all at once. A rendered chat template carries its special tokens itself.
fn encode(drafts: &mut [Draft<'_>], is_wanted: impl Fn(usize) -> bool, model: &dyn Model) -> Result<()> {
    let (mut plain, mut rendered) = (Vec::new(), Vec::new());
    for (_, draft) in drafts.iter_mut().enumerate().filter(|(place, _)| is_wanted(*place)) {
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

/// Leaves the first and the last ids. Of one token there is no half, so all stay.
fn cut_middle(mut ids: Vec<u32>, first: usize, last: usize) -> Vec<u32> {
    if first > 0 && last > 0 && ids.len() > first + last {
        ids.drain(first..ids.len() - last);
    }
    ids
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
    fn the_middle_goes_and_two_halves_stay() {
        assert_eq!(cut_middle(vec![1, 2, 3, 4], 2, 2), [1, 2, 3, 4]);
        assert_eq!(cut_middle(vec![1, 2, 3, 4, 5], 2, 2), [1, 2, 4, 5]);
        assert_eq!(cut_middle(vec![1, 2, 3, 4, 5], 1, 2), [1, 4, 5]);
        assert_eq!(cut_middle(vec![1, 2, 3], 0, 1), [1, 2, 3]);
    }

    #[test]
    fn shared_beginnings_count_once() {
        assert_eq!(unshared_tokens(&[]), 0);
        assert_eq!(unshared_tokens(&[&[1, 2, 3], &[7], &[1, 2, 4, 5], &[1, 2, 3]]), 3 + 2 + 1);
        assert_eq!(unshared_tokens(&[&[1, 2], &[1]]), 2);
    }
}
