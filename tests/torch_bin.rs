//! `pytorch_model.bin`: both containers hold the same model, and nothing but tensors is ever made of one.

use oc_engine::ModelFiles;
use oc_tests::checkpoint;
use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

/// A folder with the configuration of `internlm` and these bytes as its weights.
fn folder(weights: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(checkpoint("internlm").join("config.json"), dir.path().join("config.json")).unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), weights).unwrap();
    let path = dir.path().to_owned();
    (dir, path)
}

/// An archive of `torch.save` with this pickle.
fn archive(pickle: &[u8], method: zip::CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, data) in [("model/data.pkl", pickle), ("model/data/0", &[0; 16])] {
        zip.start_file(name, options).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn refusal(weights: &[u8]) -> String {
    let (_dir, path) = folder(weights);
    ModelFiles::open(&path).expect_err("refused").to_string()
}

#[test]
fn both_containers_hold_the_same_model() {
    let fingerprint = |name: &str| ModelFiles::open(&checkpoint(name)).unwrap().fingerprint().unwrap();
    assert_eq!(fingerprint("internlm2"), fingerprint("internlm2-legacy"));
}

#[test]
fn a_global_that_is_no_part_of_a_tensor_is_named_and_never_run() {
    let stored = zip::CompressionMethod::Stored;
    let marker = tempfile::tempdir().unwrap();
    let touch = format!("touch {}/it-ran", marker.path().display());
    // {"w": posix.system("touch …")}, as an attacker would write it.
    let mut evil = b"\x80\x02}X\x01\x00\x00\x00wcposix\nsystem\nX".to_vec();
    evil.extend((touch.len() as u32).to_le_bytes());
    evil.extend(touch.as_bytes());
    evil.extend(b"\x85Rs.");
    for bytes in [archive(&evil, stored), evil.clone()] {
        let error = refusal(&bytes);
        assert!(error.contains("posix.system") || error.contains("not written by torch.save"), "{error}");
    }
    assert!(refusal(&archive(&evil, stored)).contains("tensor `w`: it asks for `posix.system`"));
    assert_eq!(fs::read_dir(marker.path()).unwrap().count(), 0);

    for (pickle, wanted) in [
        (&b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R."[..], "`builtins.eval`"),
        (b"\x80\x02\x8c\x02os\x8c\x06system\x93)R.", "`os.system`"),
        (b"\x80\x02K\x05.", "an integer"),
        (b"\x80\x02}X\x01\x00\x00\x00wK\x01s.", "tensor `w`: it is an integer"),
        (b"\x80\x02}q\x00h\x07.", "unknown memo"),
        (b"\x80\x02(i", "opcode 0x69"),
        (b"\x80\x02}X\xff\xff\xff\xff", "cut off"),
        (b"\x80\x02u.", "no mark"),
        (b"", "cut off"),
    ] {
        let error = refusal(&archive(pickle, stored));
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    assert!(refusal(&archive(b"\x80\x02}.", zip::CompressionMethod::Deflated)).contains("compressed"));
    assert!(refusal(b"\x80\x02}.").contains("not written by torch.save"));
    assert!(refusal(b"").contains("cut off"));
}

/// What a pickle may recall again and again is short, or a few bytes could ask for as much memory as they like.
#[test]
fn what_is_recalled_is_short() {
    let stored = zip::CompressionMethod::Stored;
    let text = |len: usize| {
        let mut text = b"X".to_vec();
        text.extend((len as u32).to_le_bytes());
        text.resize(text.len() + len, b'a');
        text
    };
    // A global of a long text, recalled as its module and as its name.
    let long = [b"\x80\x02", &text(2000)[..], b"q\x000h\x00h\x00\x93."].concat();
    assert!(refusal(&archive(&long, stored)).contains("or a long one"));
    let tensor = |key: usize, dims: usize| {
        let sizes = [&b"("[..], &b"K\x01".repeat(dims), b"t"].concat();
        let parts: [&[u8]; 9] = [
            b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n",
            &text(key),
            b"X\x03\x00\x00\x00cpuK\x04tQK\x00",
            &sizes,
            &sizes,
            b"\x89",
            b"N",
            b"tR",
            b"s.",
        ];
        parts.concat()
    };
    assert!(refusal(&archive(&tensor(1, 17), stored)).contains("17 dimensions; at most 16"));
    assert!(refusal(&archive(&tensor(300, 1), stored)).contains("has 300 bytes; at most 256"));
    assert!(refusal(&archive(&tensor(1, 16), stored)).contains("`a` is not in the file"));
}

/// A million levels of nesting overflow no stack.
#[test]
fn deep_nesting_is_only_a_value() {
    let mut pickle = b"\x80\x02N".to_vec();
    pickle.resize(1_000_000, 0x85);
    pickle.push(b'.');
    assert!(refusal(&archive(&pickle, zip::CompressionMethod::Stored)).contains("a list"));
}

/// Every file with a few bytes changed loads or is refused, without a panic.
#[test]
fn damaged_files_are_refused() {
    let files: Vec<(&str, Vec<u8>)> = [("internlm", "pytorch_model.bin"), ("internlm2-legacy", "pytorch_model.bin")]
        .into_iter()
        .map(|(name, file)| (name, fs::read(checkpoint(name).join(file)).unwrap()))
        .collect();
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut refused, rounds) = (0, 400);
    for _ in 0..rounds {
        for (name, bytes) in &files {
            let mut damaged = bytes.clone();
            // What is described lies in the first kilobytes, and in a zip archive's directory at the end.
            let ends = damaged.len().min(4000);
            for _ in 0..1 + random(4) {
                let at = if random(2) == 0 { random(ends) } else { damaged.len() - 1 - random(ends) };
                damaged[at] ^= 1 << random(8);
            }
            if random(8) == 0 {
                damaged.truncate(random(damaged.len()));
            }
            let (_dir, path) = folder(&damaged);
            fs::copy(checkpoint(name).join("config.json"), path.join("config.json")).unwrap();
            refused += usize::from(read_all(&path).is_err());
        }
    }
    assert!(refused > rounds / 4, "only {refused} of {} refused", 2 * rounds);
}

fn read_all(path: &Path) -> oc_engine::Result<()> {
    let files = ModelFiles::open(path)?;
    let names: Vec<String> = files.tensor_names().map(str::to_owned).collect();
    names.iter().try_for_each(|name| files.tensor(name).map(drop))
}
