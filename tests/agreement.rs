//! The emulator against the processor in bf16: they give the same tokens, but where two tokens are closer to one another than
//! rounding to bf16 can tell.

use oc_engine::{Device, Dtype, Engine, EngineOptions, Request, ScoreRequest};
use oc_tests::{CHECKPOINTS, checkpoint, reference};

fn load(name: &str, device: Device, dtype: Dtype) -> Engine {
    let options = EngineOptions { device, dtype: Some(dtype), max_seq_len: Some(256), ..EngineOptions::default() };
    Engine::load(checkpoint(name), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What is asked: the beginnings of the reference's texts, of many lengths.
fn prompts(name: &str) -> Vec<Vec<u32>> {
    let texts = reference(name).prompts;
    let beginnings =
        |ids: &[u32]| (1..=4).map(|part| ids[..(ids.len() * part / 4).max(1)].to_vec()).collect::<Vec<_>>();
    texts.iter().flat_map(|prompt| beginnings(&prompt.ids[..prompt.ids.len().min(120)])).collect()
}

fn greedy(engine: &mut Engine, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let request = |prompt: &Vec<u32>| Request { ignore_eos: true, ..Request::new(prompt.clone(), 6) };
    engine.generate(prompts.iter().map(request).collect()).unwrap().into_iter().map(|output| output.tokens).collect()
}

/// The log-probabilities of the tokens of `prompts`.
fn losses(engine: &mut Engine, prompts: &[Vec<u32>]) -> Vec<f32> {
    let request =
        |prompt: &Vec<u32>| ScoreRequest { context: prompt.clone(), continuations: Vec::new(), context_logprobs: true };
    engine.score(prompts.iter().map(request).collect()).unwrap().into_iter().flat_map(|score| score.context).collect()
}

/// By how much `tokens[0]` is likelier than `tokens[1]` after `text`.
fn gap(engine: &mut Engine, text: &[u32], tokens: [u32; 2]) -> f32 {
    let continuations = tokens.map(|token| vec![token]).to_vec();
    let request = ScoreRequest { context: text.to_vec(), continuations, context_logprobs: false };
    let score = engine.score(vec![request]).unwrap().swap_remove(0);
    score.continuations[0][0] - score.continuations[1][0]
}

#[test]
fn devices_differ_only_where_rounding_decides() {
    let (mut tokens, mut differ) = (0, 0);
    for name in CHECKPOINTS {
        let prompts = prompts(name);
        let mut exact = load(name, Device::Cpu, Dtype::F32);
        let mut devices = [Device::Emulator, Device::Cpu].map(|device| load(name, device, Dtype::Bf16));
        // What rounding to bf16 does to a log-probability, at its worst, on each device.
        let wanted = losses(&mut exact, &prompts);
        let noise = devices.each_mut().map(|engine| {
            let found = losses(engine, &prompts);
            found.iter().zip(&wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f32::max)
        });
        let [emulator, cpu] = devices.each_mut().map(|engine| greedy(engine, &prompts));
        for ((prompt, emulator), cpu) in prompts.iter().zip(&emulator).zip(&cpu) {
            let same = emulator.iter().zip(cpu).take_while(|(a, b)| a == b).count();
            tokens += (same + 1).min(emulator.len());
            if same == emulator.len() {
                continue;
            }
            differ += 1;
            let text = [prompt, &emulator[..same]].concat();
            let gap = gap(&mut exact, &text, [emulator[same], cpu[same]]);
            eprintln!("{name}: {} tokens, gap {gap:.4}, noise {noise:.4?}", text.len());
            // Both of the two tokens may be off, on either device.
            assert!(gap.abs() <= 2.0 * noise[0].max(noise[1]), "{name}: a gap of {gap} with a noise of {noise:?}");
        }
    }
    eprintln!("{differ} of {tokens} tokens differ");
    assert!(differ * 20 <= tokens, "{differ} of {tokens} tokens differ");
}
