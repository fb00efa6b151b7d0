//! From the answers of one subset to its counts.

use crate::{Prompt, Task, extract::Extracted};

/// An answered question and what was read out of the answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer<'a> {
    /// 0-based row.
    pub index: usize,
    /// What was sent.
    pub prompt: &'a Prompt,
    /// What came back.
    pub prediction: &'a str,
    /// As OpenCompass reads it.
    pub extracted: Extracted,
    /// As the strict rule reads it.
    pub strict: Extracted,
    /// The right answer; empty where there is none, as OpenCompass has it.
    pub gold: &'a str,
}

impl<'a> Answer<'a> {
    /// Reads `prediction`, the answer to row `index` of `task`.
    pub(crate) fn read(task: &Task, index: usize, gold: &'a str, prompt: &'a Prompt, prediction: &'a str) -> Self {
        let (extracted, strict) = (task.extractor.extract(prediction), task.extractor.extract_strict(prediction));
        Self { index, prompt, prediction, extracted, strict, gold }
    }
}

/// Questions by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All.
    pub questions: usize,
    /// Answered right as OpenCompass reads it.
    pub correct: usize,
    /// Answered right under the strict rule.
    pub strict: usize,
    /// Answers in which no rule found a letter.
    pub unparsed: usize,
}

impl Counts {
    pub(crate) fn of(answers: &[Answer<'_>]) -> Self {
        let count = |is_it: &dyn Fn(&Answer<'_>) -> bool| answers.iter().filter(|answer| is_it(answer)).count();
        Self {
            questions: answers.len(),
            correct: count(&|a| a.extracted.answer == a.gold),
            strict: count(&|a| a.strict.answer == a.gold),
            unparsed: count(&|a| a.extracted.answer.is_empty()),
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.questions += other.questions;
        self.correct += other.correct;
        self.strict += other.strict;
        self.unparsed += other.unparsed;
    }
}
