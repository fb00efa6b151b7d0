//! Test doubles of NVIDIA's libraries: compiled and loaded, so that whoever asks for the library gets the double.

use std::{path::PathBuf, process::Command};

use libloading::Library;

/// Compiles `tests/<source>` and loads it before anything looks for `soname`: whoever does then gets this one. `None`, with a
/// notice, where there is no C compiler.
///
/// # Panics
/// When `CI` is `true` and there is no compiler; when the source does not compile.
pub fn load(source: &str, soname: &str) -> Option<Library> {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("double-{}-{soname}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&target).arg(format!("-Wl,-soname,{soname}"));
    cc.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(source));
    let Ok(built) = cc.output() else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no C compiler to build {source} with");
        eprintln!("skipped: there is no C compiler to build {source} with");
        return None;
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    // SAFETY: the initialisers of the doubles set their own variables.
    let library = unsafe { Library::new(&target) }.unwrap();
    std::fs::remove_file(target).unwrap();
    Some(library)
}
