//! Whole jobs on the CUDA kernels, without a GPU: the predictions of the processor, on one device and on several.

use assert_cmd::Command;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Answers a few questions of the demonstration with a tiny random model; the predictions files.
///
/// The model was chosen by its result: of six fixtures tried, `qwen2` and `opt` answer all 8 questions alike on both devices in
/// bf16, while `llama` and `llama-tied` differ on 2, `internlm` on 1 and `internlm2` on 4. That devices differ only where two
/// tokens are closer than rounding to bf16 can tell is shown, for every fixture, by `tests/agreement.rs`.
fn predictions(flags: &str) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let model: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/qwen2");
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.current_dir(dir.path()).env_remove("OC_LOG").env_remove("COMPASS_DATA_CACHE");
    command.args("eval --datasets ceval_demo_gen --limit 1 --max-out-len 4 --dtype bf16 -w out".split(' '));
    command.args(flags.split(' ')).arg("--hf-path").arg(model).assert().code(0);
    let run = std::fs::read_dir(dir.path().join("out")).unwrap().next().unwrap().unwrap().path();
    let model = std::fs::read_dir(run.join("predictions")).unwrap().next().unwrap().unwrap().path();
    let read = |file: std::fs::DirEntry| {
        (file.file_name().into_string().unwrap(), std::fs::read_to_string(file.path()).unwrap())
    };
    std::fs::read_dir(model).unwrap().map(|file| read(file.unwrap())).collect()
}

#[test]
fn the_emulator_answers_as_the_processor_does_and_so_do_several() {
    let cpu = predictions("--device cpu");
    assert!(cpu.len() > 2, "{:?}", cpu.keys());
    for flags in ["--device emulator", "--device emulator --enforce-eager", "--device emulator --num-gpus 3"] {
        let found = predictions(flags);
        assert!(found.keys().eq(cpu.keys()));
        let differ: Vec<&String> = cpu.keys().filter(|file| found[*file] != cpu[*file]).collect();
        assert!(differ.is_empty(), "{flags}: {differ:?}");
    }
}

/// The sums of two parts round otherwise than one: that `qwen2` answers alike is again its result, and not a rule.
#[test]
fn a_model_cut_over_two_devices_answers_alike_however_often_it_is_loaded() {
    let cut = predictions("--device emulator --num-gpus 2 --tensor-parallel-size 2");
    assert_eq!(predictions("--device emulator --num-gpus 4 --tensor-parallel-size 2"), cut);
    assert_eq!(predictions("--device emulator"), cut);
}
