//! A whole benchmark on a GPU that holds all its keys and values: how many steps, and what each computes.

use super::*;
use crate::{
    SamplingParams,
    sequence::{Forbidden, Work},
};
use oc_kernels::Sampled;

/// C-Eval val: 52 subjects, 1,346 questions under prefixes of about 1,100 tokens, 110 of their own.
const SUBJECTS: u32 = 52;
const QUESTIONS: u32 = 1_346;
const PREFIX: u32 = 1_104;
const TAIL: u32 = 110;
const ANSWER: usize = 16;
/// What `MemoryPlan` gives a 7B model on 80 GB.
const BUDGET: usize = 1 << 14;
const PAGES: usize = 28_000;

fn prompt(question: u32) -> Vec<u32> {
    let subject = question * SUBJECTS / QUESTIONS;
    let prefix = (0..PREFIX).map(|i| subject * 10_000 + i);
    prefix.chain((0..TAIL).map(|i| 1_000_000 + question * 1_000 + i)).collect()
}

fn scheduler() -> Scheduler {
    let limits = Limits { max_seqs: 2_048, token_budget: BUDGET, unscaled_context: 32_768 };
    let mut scheduler = Scheduler::new(KvPool::new(PAGES, true), limits);
    for question in 0..QUESTIONS {
        let forbidden = Forbidden { tokens: [].into(), until: 0 };
        let work = Work::Generate { sampling: SamplingParams::default(), max_new_tokens: ANSWER, forbidden };
        scheduler.add(Job { tokens: prompt(question), work });
    }
    scheduler
}

/// Rows of prompts and of generated tokens in every step, where answers have `answer` tokens.
fn run(answer: usize) -> (Vec<(usize, usize)>, Stats) {
    let (mut scheduler, mut steps) = (scheduler(), Vec::new());
    let mut lengths = vec![0; QUESTIONS as usize + 1];
    while !scheduler.is_idle() {
        let step = scheduler.schedule();
        let generated = step.batch.paged.generated.iter().filter(|generated| **generated).count();
        assert!(step.rows() > 0 && step.rows() <= BUDGET);
        steps.push((step.rows() - generated, generated));
        let sampled = vec![Sampled { token: 7, logprob: 0.0 }; step.batch.sample_rows.len()];
        let output = ForwardOutput { sampled, scored: Vec::new() };
        let progress = |id: usize, _: Progress, _: usize| {
            lengths[id] += 1;
            Ok::<_, std::convert::Infallible>(lengths[id] < answer)
        };
        scheduler.advance(&step, &output, progress).unwrap();
    }
    assert!(lengths[1..].iter().all(|len| *len == answer));
    (steps, scheduler.stats())
}

#[test]
fn a_resident_benchmark_takes_few_large_steps() {
    let computed = SUBJECTS * PREFIX + QUESTIONS * TAIL;
    let prompt_steps = (computed as usize).div_ceil(BUDGET);
    for answer in [1, 2, ANSWER] {
        let (steps, stats) = run(answer);
        // Every prefix once, every question once, nothing twice.
        assert_eq!(stats.computed_prompt_tokens, u64::from(computed));
        // The rows of generated tokens and chunks that end on pages cost one step more at most.
        let most = prompt_steps + 1 + answer - 1;
        assert!(steps.len() <= most, "{} steps for answers of {answer}: {steps:?}", steps.len());
        // Prompts first, in full steps; generated tokens ride along and never wait.
        let full = &steps[..prompt_steps - 1];
        assert!(full.iter().all(|(prompt, generated)| prompt + generated + PAGE_SIZE > BUDGET), "{steps:?}");
        let generated: usize = steps.iter().map(|step| step.1).sum();
        assert_eq!(generated, QUESTIONS as usize * (answer - 1));
    }
}

#[test]
fn a_prefix_and_its_questions_share_a_step() {
    let mut scheduler = scheduler();
    let step = scheduler.schedule();
    // Whole subjects fit: the first has its prefix and all its questions in the first step.
    let of_first = (0..QUESTIONS).filter(|question| question * SUBJECTS / QUESTIONS == 0).count();
    let paged = &step.batch.paged;
    let ends: Vec<usize> = paged.cu_seqlens_q.windows(2).map(|rows| (rows[1] - rows[0]) as usize).collect();
    assert_eq!(ends[0], (PREFIX + TAIL) as usize);
    assert!(ends[1..of_first].iter().all(|rows| *rows == TAIL as usize), "{ends:?}");
    assert_eq!(step.batch.sample_rows.len(), ends.len() - usize::from(step.rows() + PAGE_SIZE > BUDGET));
}

/// Each step is put together before the results of the one before are known.
#[test]
fn running_ahead_computes_the_same_tokens_in_the_same_steps() {
    for answer in [1, 2, ANSWER] {
        let (wanted, stats) = run(answer);
        let (mut scheduler, mut lengths) = (scheduler(), vec![0; QUESTIONS as usize + 1]);
        let (mut current, mut steps) = (scheduler.schedule(), Vec::new());
        while current.has_rows() {
            let next = scheduler.schedule();
            // A token that is to come is the sample of the same sequence in the step before.
            for (row, sample) in &next.batch.sampled_before {
                assert_eq!(next.sampled[*row as usize], current.sampled[*sample as usize]);
                assert_eq!(next.batch.ids[*row as usize], 0);
            }
            let generated = next.batch.paged.generated.iter().filter(|generated| **generated).count();
            assert_eq!(next.batch.sampled_before.len(), generated);
            let sampled = (0..current.batch.sample_rows.len()).map(|_| Sampled { token: 7, logprob: 0.0 }).collect();
            let output = ForwardOutput { sampled, scored: Vec::new() };
            let progress = |id: usize, _: Progress, _: usize| {
                lengths[id] += 1;
                Ok::<_, std::convert::Infallible>(lengths[id] < answer)
            };
            scheduler.advance(&current, &output, progress).unwrap();
            steps.push(current.rows());
            current = next;
        }
        assert!(scheduler.is_idle() && lengths[1..].iter().all(|len| *len == answer));
        let now = scheduler.stats();
        assert_eq!(now.computed_prompt_tokens, stats.computed_prompt_tokens);
        assert_eq!(now.generated_tokens, stats.generated_tokens);
        // Answers that end before their limit have ended one step before that is known.
        let late = usize::from(answer < ANSWER);
        assert!(steps.len() <= wanted.len() + late, "{} steps, not {}", steps.len(), wanted.len());
        if answer == ANSWER {
            assert_eq!(steps, wanted.iter().map(|(prompt, generated)| prompt + generated).collect::<Vec<_>>());
        }
    }
}
