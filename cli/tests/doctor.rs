//! `oc-cli doctor` on this machine, and beside a test double of NVIDIA's driver, which computes nothing.

use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn doctor(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
    command.arg("doctor").args(args).env_remove("OC_LOG");
    command
}

fn stdout(command: &mut Command, code: i32) -> String {
    String::from_utf8(command.assert().code(code).get_output().stdout.clone()).unwrap()
}

#[test]
fn this_machine_computes_right_and_says_so() {
    let report: Value = serde_json::from_str(&stdout(&mut doctor(&["--json"]), 0)).unwrap();
    assert_eq!(report["program"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["processor"]["instructions"]["portable"], true);
    let operations = report["processor"]["operations"].as_str().unwrap();
    assert_eq!(operations, format!("all {} give the reference's results", oc_kernels::ops::all::<Cpu>().len()));
    let has_gpu = report.get("GPU 0").is_some();
    assert_eq!(report["--device auto"]["takes"], if has_gpu { "cuda" } else { "cpu" });

    let text = stdout(&mut doctor(&[]), 0);
    for part in ["processor\n", "instructions", "NVIDIA driver\n", "NCCL\n", "--device auto\n", " GiB\n"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

type Cpu = oc_kernels::cpu::CpuBackend;

/// A folder with the double in it as `libcuda.so.1`; `None`, with a notice, where there is no C compiler.
fn driver_double() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    let source: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/fake_driver/libcuda.c");
    let mut cc = std::process::Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("libcuda.so.1")).arg(source);
    match cc.output() {
        Ok(built) => {
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            std::fs::copy(dir.path().join("libcuda.so.1"), dir.path().join("libcuda.so")).unwrap();
            Some(dir)
        }
        Err(_) => {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no C compiler to build the driver's double with");
            eprintln!("skipped: there is no C compiler to build the driver's double with");
            None
        }
    }
}

#[test]
fn a_gpu_that_computes_wrong_is_named_and_not_taken() {
    let Some(dir) = driver_double() else { return };
    let json = stdout(doctor(&["--json"]).env("LD_LIBRARY_PATH", dir.path()), 1);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert!(report["NVIDIA driver"]["CUDA"].as_str().unwrap().starts_with("up to "), "{report}");
    assert!(report["GPU 0"]["memory_bytes"].as_u64().unwrap() > 0);
    let operations = report["GPU 0"]["operations"].as_str().unwrap();
    assert!(operations.contains("is not right"), "{operations}");
    assert_eq!(report["--device auto"]["takes"], "cpu");
    assert!(report["--device auto"]["because"].as_str().unwrap().starts_with("Fake GPU 0: "), "{report}");
}
