//! Data parallelism: the same bits on one device and on several, and what goes wrong on one ends all.

use oc_engine::{Device, Engine, EngineOptions, Error, Output, Replicas, Request, Score, ScoreRequest, Stats};
use oc_tests::fixture;

fn replicas(count: usize, device: Device) -> Replicas {
    let options = |gpu| EngineOptions { device, gpu, threads: Some(1), ..EngineOptions::default() };
    Replicas::new((0..count).map(|gpu| Engine::load(fixture("llama"), options(gpu)).unwrap()).collect())
}

/// Three subjects of three questions.
fn prompts() -> Vec<Vec<u32>> {
    let prompt = |i: u32| (0..40).map(|t| 5 + i % 3 * 7 + t % 11).chain([60 + i, 61 + i]).collect();
    (0..9).map(prompt).collect()
}

fn generate(replicas: &mut Replicas) -> (Vec<Output>, Stats) {
    let requests =
        prompts().into_iter().map(|prompt| Request { ignore_eos: true, ..Request::new(prompt, 5) }).collect();
    let mut outputs = Vec::new();
    let stats = replicas.generate(requests, &mut |output, _| -> Result<(), Error> {
        outputs.extend(output);
        Ok(())
    });
    outputs.sort_by_key(|output: &Output| output.request);
    (outputs, stats.unwrap())
}

fn score(replicas: &mut Replicas) -> Vec<Score> {
    let continuations = vec![vec![9, 10], vec![11]];
    let request = |context| ScoreRequest { context, continuations: continuations.clone(), context_logprobs: true };
    let mut scores = Vec::new();
    let on_step = &mut |score, _| -> Result<(), Error> {
        scores.extend(score);
        Ok(())
    };
    replicas.score(prompts().into_iter().map(request).collect(), on_step).unwrap();
    scores.sort_by_key(|score: &Score| score.request);
    scores
}

#[test]
fn several_devices_give_the_bits_of_one() {
    for device in [Device::Cpu, Device::Emulator] {
        let (outputs, stats) = generate(&mut replicas(1, device));
        assert_eq!((outputs.len(), stats.generated_tokens), (9, 45));
        for count in [2, 4] {
            let (several, sum) = generate(&mut replicas(count, device));
            for (one, other) in outputs.iter().zip(&several) {
                assert_eq!((one.request, &one.tokens), (other.request, &other.tokens), "{count} of {device:?}");
                assert_eq!(one.logprobs, other.logprobs, "{count} of {device:?}");
            }
            assert_eq!((sum.prompt_tokens, sum.generated_tokens), (stats.prompt_tokens, 45));
        }
        assert_eq!(score(&mut replicas(1, device)), score(&mut replicas(3, device)), "{device:?}");
    }
}

#[test]
fn an_error_of_one_or_of_the_caller_ends_all() {
    let mut replicas = replicas(2, Device::Cpu);
    let mut requests: Vec<Request> = prompts().into_iter().map(|prompt| Request::new(prompt, 5)).collect();
    let mut seen = 0;
    let stop = replicas.generate(requests.clone(), &mut |output, _| {
        seen += usize::from(output.is_some());
        if output.is_some() { Err(Error::Tokenizer("enough".into())) } else { Ok(()) }
    });
    assert!(matches!(stop, Err(Error::Tokenizer(text)) if text == "enough"));
    assert_eq!(seen, 1);
    requests[4].max_new_tokens = 0;
    let refused = replicas.generate(requests, &mut |_, _| Ok::<(), Error>(()));
    assert!(matches!(refused, Err(Error::InvalidRequest(_))), "{refused:?}");
    // Both go on working.
    assert_eq!(generate(&mut replicas).0.len(), 9);
}
