//! The device: memory, launches that are refused, graphs, counters, and text that is no PTX.

use oc_kernels::{
    Error,
    cuda::{
        device::{Arg, Device, Launch, Module},
        modules,
    },
    emulator::{Class, Emulator, EmulatorOptions, FaultKind},
};

use super::harness::{Random, kernel_text, module};

fn launch<'a>(module: &'static Module, args: &'a [Arg]) -> Launch<'a> {
    Launch { module, kernel: "k", grid: [1; 3], block: [32, 1, 1], shared_bytes: 0, args }
}

fn copy_kernel() -> &'static Module {
    module(kernel_text(
        "",
        "mad.wide.u32 %rd1, %tid, 4, %in;\nld.global.u32 %r1, [%rd1];\nadd.s32 %r1, %r1, 1;\n\
        mad.wide.u32 %rd2, %tid, 4, %out;\nst.global.u32 [%rd2], %r1;",
    ))
}

#[test]
fn memory_is_checked_from_the_host_too() {
    let device = Emulator::new(EmulatorOptions { total_bytes: 1 << 20, ..EmulatorOptions::default() });
    let a = device.alloc("a", 100).unwrap();
    let b = device.alloc("b", 100).unwrap();
    assert!(a.is_multiple_of(256) && b.is_multiple_of(256) && b >= a + 256);
    assert!(matches!(device.alloc("much", 1 << 20), Err(Error::OutOfMemory { what: "much", .. })));
    device.upload(&[1; 50], a + 3).unwrap();
    let mut out = [0; 50];
    device.download(a + 3, &mut out).unwrap();
    assert_eq!(out, [1; 50]);
    // What was not written cannot be read, before a copy or after it.
    assert!(device.download(a, &mut out).unwrap_err().to_string().contains("byte 0 of `a`"));
    device.upload(&[9; 100], b).unwrap();
    device.copy(a, b, 60).unwrap();
    assert!(device.download(b, &mut out).is_err());
    device.download(b + 3, &mut out).unwrap();
    assert_eq!(out, [1; 50]);
    assert!(device.upload(&[0; 100], a + 1).is_err());
    assert!(device.copy(a, b + 90, 20).is_err());
    device.free(a);
    assert!(device.upload(&[0; 4], a).unwrap_err().to_string().contains("freed"));
    assert_eq!(device.last_fault().unwrap().kind, FaultKind::UseAfterFree);
}

#[test]
fn launches_are_refused() {
    let device = Emulator::default();
    let ptr = device.alloc("data", 256).unwrap();
    device.upload(&[0; 256], ptr).unwrap();
    let good = [Arg::Ptr(ptr), Arg::Ptr(ptr)];
    let module = copy_kernel();
    let refused = |launch: &Launch<'_>, text: &str| {
        let fault = device.run(launch).unwrap_err();
        assert_eq!(fault.kind, FaultKind::BadLaunch);
        assert!(fault.detail.contains(text), "{fault}");
        assert!(matches!(device.launch(launch), Err(Error::Device { .. })));
    };
    device.launch(&launch(module, &good)).unwrap();
    refused(&launch(module, &good[..1]), "1 arguments; the kernel has 2 parameters");
    refused(&launch(module, &[Arg::Ptr(ptr), Arg::U32(1)]), "argument 1 (`out`): found U32(1), wanted a U64");
    refused(&launch(module, &[Arg::F32(1.0), Arg::Ptr(ptr)]), "argument 0");
    refused(&Launch { kernel: "other", ..launch(module, &good) }, "no such kernel; it has k");
    refused(&Launch { grid: [1, 0, 1], ..launch(module, &good) }, "a grid of 1 x 0 x 1");
    refused(&Launch { grid: [1, 1, 70_000], ..launch(module, &good) }, "a grid of");
    refused(&Launch { block: [1025, 1, 1], ..launch(module, &good) }, "at most 1024");
    refused(&Launch { block: [u32::MAX, u32::MAX, 2], ..launch(module, &good) }, "at most 1024");
    refused(&Launch { block: [0, 1, 1], ..launch(module, &good) }, "at most 1024");
    refused(&Launch { shared_bytes: 167_000, ..launch(module, &good) }, "167000 of dynamic shared memory");
    refused(&Launch { shared_bytes: u32::MAX, ..launch(module, &good) }, "dynamic shared memory");
}

#[test]
fn graphs_replay_and_time_is_unknown() {
    let device = Emulator::default();
    let (a, b) = (device.alloc("a", 128).unwrap(), device.alloc("b", 128).unwrap());
    device.upload(&[0; 128], a).unwrap();
    let module = copy_kernel();
    let graph = device
        .capture(&mut || {
            device.launch(&launch(module, &[Arg::Ptr(a), Arg::Ptr(b)]))?;
            device.launch(&launch(module, &[Arg::Ptr(b), Arg::Ptr(a)]))
        })
        .unwrap();
    let mut out = [0; 128];
    device.download(a, &mut out).unwrap();
    assert_eq!(out, [0; 128], "a capture runs nothing");
    graph.launch().unwrap();
    graph.launch().unwrap();
    device.download(a, &mut out).unwrap();
    assert!(out.as_chunks::<4>().0.iter().all(|x| u32::from_le_bytes(*x) == 4));
    assert!(device.capture(&mut || device.upload(&[0; 4], a)).is_err());
    assert!(device.capture(&mut || device.synchronize()).is_err());
    device.upload(&[0; 4], a).unwrap();
    assert_eq!(device.time(&mut || device.launch(&launch(module, &[Arg::Ptr(a), Arg::Ptr(b)]))).unwrap(), None);
    assert_eq!(device.caps().compute, (8, 0));
}

#[test]
fn counters_count() {
    let device = Emulator::default();
    let data = device.alloc("data", 8192).unwrap();
    device.upload(&[0; 8192], data).unwrap();
    let count = |declarations: &str, body: &str| {
        device.reset_counters();
        device.launch(&launch(module(kernel_text(declarations, body)), &[Arg::Ptr(data), Arg::Ptr(data)])).unwrap();
        device.counters()["k"].clone()
    };
    // Neighbours read neighbours: 128 bytes are 4 sectors. With a stride of 32 bytes each thread has its own.
    for (stride, sectors) in [(4, 4), (8, 8), (32, 32), (128, 32), (0, 1)] {
        let c = count("", &format!("mad.wide.u32 %rd1, %tid, {stride}, %in;\nld.global.u32 %r1, [%rd1];"));
        assert_eq!((c.global_read_bytes, c.global_read_sectors, c.of(Class::Global)), (128, sectors, 1), "{stride}");
    }
    // Backwards is as good as forwards.
    let c = count("", "xor.b32 %r1, %tid, 31;\nmad.wide.u32 %rd1, %r1, 4, %out;\nst.global.u32 [%rd1], %tid;");
    assert_eq!((c.global_written_bytes, c.global_written_sectors), (128, 4));
    // Words of a stride: 32 different rows of one bank go one after the other.
    for (stride, conflicts) in [(4, 0), (8, 1), (16, 3), (128, 31), (132, 0)] {
        let c = count(
            ".shared .align 16 .b8 tile[8192];",
            &format!("mov.u32 %r1, tile;\nmad.lo.u32 %r2, %tid, {stride}, %r1;\nst.shared.u32 [%r2], %tid;"),
        );
        assert_eq!((c.bank_conflicts, c.shared_written_bytes), (conflicts, 128), "{stride}");
    }
    // Vectors of 16 bytes go in groups of eight threads.
    for (stride, conflicts) in [(16, 0), (32, 4), (128, 28), (144, 0)] {
        let c = count(
            ".shared .align 16 .b8 tile[8192];",
            &format!(
                "mov.u32 %r1, tile;\nmad.lo.u32 %r2, %tid, {stride}, %r1;\nst.shared.v4.u32 [%r2], {{%tid, %tid, %tid, %tid}};"
            ),
        );
        assert_eq!(c.bank_conflicts, conflicts, "{stride}");
    }
    let c = count("", "setp.lt.u32 %p1, %tid, 5;\n@%p1 add.s32 %r1, %tid, 1;\nbar.sync 0;");
    assert_eq!((c.launches, c.blocks, c.of(Class::Barrier)), (1, 1, 1));
    // Three before, the comparison, the predicated one for five threads, the barrier, and the return.
    assert_eq!((c.total(), c.thread_instructions), (7, 6 * 32 + 5));
}

#[test]
fn results_do_not_depend_on_threads() {
    let text = kernel_text(
        "",
        "mov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %ctaid.y;\nmov.u32 %r3, %nctaid.x;\nmad.lo.u32 %r4, %r2, %r3, %r1;\n\
        mad.lo.u32 %r5, %r4, 32, %tid;\nmad.wide.u32 %rd1, %r5, 4, %out;\nst.global.u32 [%rd1], %r5;\nsetp.gt.u32 %p1, %r4, 40;\n@%p1 trap;",
    );
    let module = module(text);
    for threads in [1, 2, 5] {
        let device = Emulator::new(EmulatorOptions { threads, ..EmulatorOptions::default() });
        let out = device.alloc("out", 7 * 9 * 128).unwrap();
        let args = [Arg::Ptr(out), Arg::Ptr(out)];
        let fault = device.run(&Launch { grid: [7, 9, 1], ..launch(module, &args) }).unwrap_err();
        // The lowest block that fails, whoever ran it.
        assert_eq!((fault.kind, fault.block), (FaultKind::Trap, Some([6, 5, 0])));
        device.launch(&Launch { grid: [8, 5, 1], ..launch(module, &args) }).unwrap();
        let mut bytes = vec![0; 40 * 128];
        device.download(out, &mut bytes).unwrap();
        let found: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        assert!((0..).zip(found).all(|(i, x)| i == x));
    }
}

#[test]
fn every_shipped_kernel_is_known() {
    let device = Emulator::default();
    assert!(!modules::ALL.is_empty());
    for module in modules::ALL {
        if let Err(fault) = device.check(module) {
            panic!("{fault}");
        }
    }
}

#[test]
fn damaged_text_is_an_error_and_no_panic() {
    let device = Emulator::default();
    let mut random = Random(1);
    for text in [include_str!("gemm.ptx"), include_str!("math.ptx")] {
        let lines: Vec<&str> = text.lines().collect();
        assert!(device.check(module(text.to_string())).is_ok());
        for round in 0..300 {
            let mut bytes = text.as_bytes().to_vec();
            match round % 4 {
                // Cut off, a byte changed, a piece missing, two lines exchanged.
                0 => bytes.truncate(random.next() as usize % bytes.len()),
                1 => {
                    let at = random.next() as usize % bytes.len();
                    bytes[at] = b" ;,.{}[]()%0-!@|+:x\"/*_<>\n"[random.next() as usize % 26];
                }
                2 => {
                    let at = random.next() as usize % (bytes.len() - 40);
                    bytes.drain(at..at + random.next() as usize % 40);
                }
                _ => {
                    let mut lines = lines.clone();
                    let (a, b) = (random.next() as usize % lines.len(), random.next() as usize % lines.len());
                    lines.swap(a, b);
                    bytes = lines.join("\n").into_bytes();
                }
            }
            // It may still be right, but whatever it is, it is told.
            if let Err(fault) = device.check(module(String::from_utf8(bytes).unwrap())) {
                assert!(matches!(fault.kind, FaultKind::Malformed | FaultKind::Unknown), "{fault}");
                assert!(!fault.detail.is_empty());
            }
        }
    }
    for text in [
        "",
        "\0",
        "é",
        ".version",
        ".visible .entry",
        "{{{{{{",
        ".entry k() { .reg .b32 %r<4294967295>; }",
        ".global .b8 x[99999999999999999999];",
    ] {
        assert!(device.check(module(text.to_string())).is_err(), "{text:?}");
    }
}
