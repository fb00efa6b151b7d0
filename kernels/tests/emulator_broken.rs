//! Kernels with a mistake in each, `broken/*.ptx`: every one is caught, with the right diagnosis.
//!
//! The lines that start with `//!` say what is wanted: the kind of the fault, the block and the thread, the address
//! (`data+4`, `scratch+4`, `shared+4`), a part of the text; the guilty line ends with `// <- here`.

use std::{collections::HashMap, fs, path::Path};

use oc_kernels::{
    cuda::device::{Arg, Device, Launch, Module},
    emulator::{Emulator, EmulatorOptions, Fault},
};

/// What a file wants.
struct Broken {
    module: &'static Module,
    wanted: HashMap<String, String>,
    /// Of the guilty line; 0 for none.
    line: u32,
}

fn read(path: &Path) -> Broken {
    let text: &'static str = Box::leak(fs::read_to_string(path).unwrap().into_boxed_str());
    let name: &'static str = Box::leak(path.file_stem().unwrap().to_str().unwrap().to_string().into_boxed_str());
    let wanted = text.lines().filter_map(|l| l.strip_prefix("//! ")).map(|l| l.split_once(" = ").unwrap());
    let line = text.lines().position(|l| l.ends_with("// <- here")).map_or(0, |line| line as u32 + 1);
    Broken {
        module: Box::leak(Box::new(Module { name, ptx: text })),
        wanted: wanted.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        line,
    }
}

/// The fault, and where `data` and `scratch` were.
fn run(broken: &Broken) -> (Fault, u64, u64) {
    let setting = |name: &str| {
        let launch = broken.wanted["launch"].split(' ').find_map(|part| part.strip_prefix(&format!("{name}=")));
        launch.map(str::to_string)
    };
    let number = |name: &str| setting(name).map_or(0, |text| text.parse().unwrap());
    let device = Emulator::new(EmulatorOptions {
        max_steps: 100_000,
        threads: number("threads") as usize,
        ..EmulatorOptions::default()
    });
    let data = device.alloc("data", 4096).unwrap();
    device.upload(&[1; 4096], data).unwrap();
    let scratch = device.alloc("scratch", 4096).unwrap();
    if setting("free").is_some() {
        device.free(scratch);
    }
    let launch = Launch {
        module: broken.module,
        kernel: broken.module.name,
        grid: [number("grid"), 1, 1],
        block: [number("block"), 1, 1],
        shared_bytes: number("shared"),
        args: &[Arg::Ptr(data), Arg::Ptr(scratch)],
    };
    let fault = *device.run(&launch).expect_err("no fault was found");
    assert_eq!(device.last_fault().as_ref(), Some(&fault));
    let message = device.launch(&launch).unwrap_err().to_string();
    assert!(message.contains(fault.kind.name()) && message.contains(broken.module.name), "{message}");
    (fault, data, scratch)
}

fn triple(text: &str) -> [u32; 3] {
    let numbers: Vec<u32> = text.split(' ').map(|n| n.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

/// What of `fault` is not as the file wants it.
fn differences(broken: &Broken, fault: &Fault, data: u64, scratch: u64) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |what: &str, ok: bool| {
        if !ok {
            found.push(format!("{}: {what}: {fault}", broken.module.name));
        }
    };
    let wanted = &broken.wanted;
    check("kind", fault.kind.name() == wanted["kind"]);
    check("line", fault.line == broken.line || (broken.line == 0 && wanted["kind"] == "timeout"));
    check("module", fault.module == broken.module.name);
    check("kernel", wanted["kind"] == "malformed PTX" || fault.kernel == broken.module.name);
    check("instruction", broken.line == 0 || fault.instruction.ends_with("// <- here"));
    if let Some(thread) = wanted.get("thread") {
        check("thread", fault.thread == Some(triple(thread)));
        check("block", fault.block == Some(triple(&wanted["block"])));
    }
    if let Some(address) = wanted.get("address") {
        let (base, offset) = address.split_once('+').unwrap();
        let base = HashMap::from([("data", data), ("scratch", scratch), ("shared", 0)])[base];
        check("address", fault.address == Some(base.wrapping_add_signed(offset.parse().unwrap())));
    }
    if let Some(detail) = wanted.get("detail") {
        check("detail", fault.detail.contains(detail));
    }
    found
}

#[test]
fn every_mistake_is_caught() {
    let mut paths: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ptx"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 40, "{} kernels", paths.len());
    let mut wrong = Vec::new();
    for path in paths {
        let broken = read(&path);
        let (fault, data, scratch) = run(&broken);
        wrong.append(&mut differences(&broken, &fault, data, scratch));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
