//! Damaged files of every kind that is read: none may panic, none may take memory that its size does not account for, none
//! may take long.
//!
//! What is done to a file follows from the loader and a number alone, so a failure's number repeats it:
//!
//!     cargo test -p oc-tests --test fuzz                                 some seconds, as in CI
//!     OC_FUZZ=1000000 cargo test -p oc-tests --test fuzz -- --nocapture  a million per loader
//!     OC_FUZZ=gguf:12345 cargo test -p oc-tests --test fuzz gguf         one again
//!
//! A file that ends the process is left where it was written (`/dev/shm/.tmp*`, or the temporary folder). Files that once
//! failed lie in `tests/fixtures/fuzz/<loader>` and are seeds like the others.

mod alloc;
mod mutate;
mod seeds;

use oc_engine::{ModelFiles, Tokenizer};
use std::{
    cell::Cell,
    env, fs,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::Once,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// Mutations of each loader's files where nobody asks for another number.
const SHORT_RUN: u64 = 2_000;
/// Far more than any needs.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of memory for each byte of a file: a value of a pickle takes 40, and lists grow by doubling.
const PER_BYTE: usize = 256;

/// A loader under test.
struct Target {
    name: &'static str,
    /// Where the damaged bytes go, in a folder made by [`seeds::folder`].
    file: &'static str,
    /// Memory that a file may take whatever its size: tables of regular expressions, buffers.
    base_bytes: usize,
    /// Reads all that there is to read; whether it was accepted.
    read: fn(&Path) -> bool,
}

const SAFETENSORS: Target =
    Target { name: "safetensors", file: "model.safetensors", base_bytes: 64 << 10, read: read_model };
const PICKLE: Target = Target { name: "pickle", file: "pytorch_model.bin", base_bytes: 64 << 10, read: read_model };
const CONFIG: Target = Target { name: "config", file: "config.json", base_bytes: 64 << 10, read: read_model };
const GGUF: Target = Target { name: "gguf", file: "model.gguf", base_bytes: 4 << 20, read: read_gguf };
const SENTENCEPIECE: Target =
    Target { name: "sentencepiece", file: "tokenizer.model", base_bytes: 64 << 10, read: read_tokenizer };
const TOKENIZER: Target =
    Target { name: "tokenizer", file: "tokenizer.json", base_bytes: 16 << 20, read: read_tokenizer };

/// Opens the model and reads every tensor.
fn read_model(file: &Path) -> bool {
    let path = if file.extension().is_some_and(|e| e == "gguf") { file } else { file.parent().expect("in a folder") };
    let Ok(files) = ModelFiles::open(path) else { return false };
    let names: Vec<&str> = files.tensor_names().collect();
    let mut accepted = true;
    for name in names {
        match files.tensor(name) {
            Ok(tensor) => {
                let _ = (tensor.view().is_ok(), tensor.to_f32().is_ok(), files.shape(name).is_ok());
            }
            Err(_) => accepted = false,
        }
    }
    let _ = files.config().heads();
    accepted
}

/// Opens the tokenizer, encodes and decodes.
fn read_tokenizer(file: &Path) -> bool {
    let Ok(tokenizer) = Tokenizer::open(file) else { return false };
    let mut accepted = true;
    for text in ["", "a b  <s>ab 12\n", "é\u{301}\u{0}🙂<unk>▁x"] {
        match tokenizer.encode(text, true) {
            Ok(ids) => drop((tokenizer.decode(&ids, true), tokenizer.decode(&ids, false))),
            Err(_) => accepted = false,
        }
    }
    let size = tokenizer.vocab_size() as u32;
    for id in (0..8).chain(size.saturating_sub(4)..size.saturating_add(2)) {
        let _ = (tokenizer.token(id), tokenizer.is_special(id), tokenizer.decode(&[id], false));
    }
    accepted
}

fn read_gguf(file: &Path) -> bool {
    read_model(file) & read_tokenizer(file)
}

thread_local! {
    /// Where the last panic of this thread was.
    static PANICKED_AT: Cell<Option<String>> = const { Cell::new(None) };
}

/// Panics are told of once, by the test that fails.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let at = info.location().map(|at| at.to_string()).unwrap_or_default();
            // Those of this file are the tests' own.
            if at.starts_with("fuzz/") || at.starts_with("tests/fuzz/") {
                default(info);
            }
            let message = info.payload_as_str().unwrap_or_default();
            PANICKED_AT.set(Some(format!("{at}: {message}")));
        }));
    });
}

/// Reads `bytes`; the error says what went wrong other than a refusal.
fn attempt(target: &Target, file: &Path, bytes: &[u8]) -> Result<bool, String> {
    fs::write(file, bytes).expect("the test's folder can be written");
    let started = Instant::now();
    let (result, peak) = alloc::peak_of(|| panic::catch_unwind(AssertUnwindSafe(|| (target.read)(file))));
    let accepted = result.map_err(|_| format!("panicked at {}", PANICKED_AT.take().unwrap_or_default()))?;
    let limit = target.base_bytes + PER_BYTE * bytes.len();
    if peak > limit {
        return Err(format!("took {peak} bytes of memory for a file of {}, more than {limit}", bytes.len()));
    }
    if started.elapsed() > TIME_LIMIT {
        return Err(format!("took {:.1} s", started.elapsed().as_secs_f64()));
    }
    Ok(accepted)
}

/// How many mutations to try, from which number.
fn rounds(target: &Target) -> (u64, u64) {
    let Ok(text) = env::var("OC_FUZZ") else { return (0, SHORT_RUN) };
    match text.split_once(':') {
        Some((name, number)) if name == target.name => (number.parse().expect("a number after the colon"), 1),
        Some(_) => (0, 0),
        None => (0, text.parse().expect("OC_FUZZ is a number, or loader:number")),
    }
}

fn fuzz(target: &Target) {
    keep_panics_quiet();
    // In memory where there is such a place: writing the files would take longer than reading them.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    seeds::folder(target.name, dir.path());
    let file = dir.path().join(target.file);
    let seeds = seeds::of(target.name);
    for (i, seed) in seeds.iter().enumerate() {
        let accepted = attempt(target, &file, &seed.bytes).unwrap_or_else(|e| panic!("{}, seed {i}: {e}", target.name));
        assert!(accepted || !seed.is_valid, "{}, seed {i} is refused", target.name);
    }
    let (first, count) = rounds(target);
    let started = Instant::now();
    let (mut accepted, mut failures) = (0, Vec::new());
    for number in first..first + count {
        let bytes = mutate::mutation(target.name, &seeds, number);
        match attempt(target, &file, &bytes) {
            Ok(true) => accepted += 1,
            Ok(false) => {}
            Err(what) => {
                let place = env::temp_dir().join(format!("oc-fuzz-{}-{number}", target.name));
                fs::write(&place, &bytes).unwrap();
                failures.push(format!("{}:{number} {what} (kept as {})", target.name, place.display()));
                if failures.len() >= 10 {
                    break;
                }
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{}: {count} mutations, {accepted} accepted, {} failed, {seconds:.0} s", target.name, failures.len());
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    // Mutations that nothing survives, or everything, would find nothing.
    if count >= SHORT_RUN {
        assert!(accepted * 200 > count && accepted * 100 < count * 99, "{}: {accepted} of {count}", target.name);
    }
}

#[test]
fn safetensors() {
    fuzz(&SAFETENSORS);
}

#[test]
fn pickle() {
    fuzz(&PICKLE);
}

#[test]
fn config() {
    fuzz(&CONFIG);
}

#[test]
fn gguf() {
    fuzz(&GGUF);
}

#[test]
fn sentencepiece() {
    fuzz(&SENTENCEPIECE);
}

#[test]
fn tokenizer() {
    fuzz(&TOKENIZER);
}
