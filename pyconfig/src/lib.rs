//! Evaluates configuration files written in Python: the part of the language that such files use, and nothing else.
//!
//! There is no Python here and no way out: the evaluator knows literals, comprehensions, f-strings, loops, functions
//! and some forty functions and methods of the standard library, all of them pure. Files, the environment, the network
//! and other processes do not exist in it, attributes are looked up in fixed tables, and steps, time, memory and depth
//! are limited. Only the [`Host`] reads files, and only for `import` lines.
//!
//! Imports are mmengine's: inside `with read_base():` another configuration is evaluated and its variables are taken;
//! any other import of a package gives a [`Name`], which a configuration can hold but not use.

mod args;
mod builtins;
mod depth;
mod error;
mod expr;
mod format;
mod heap;
mod import;
mod interp;
mod methods;
mod ops;
mod stmt;
mod text;
mod value;

pub use error::{Error, Place, Result};
pub use value::{Dict, Name, Value};

use std::time::Duration;

/// Where imported configurations come from.
pub trait Host: Sync {
    /// What `from <level dots><module> import …` in `file` names: dots 0 is an absolute import.
    ///
    /// # Errors
    /// Why there is nothing, for people; it is reported with the place of the import.
    fn module(&self, file: &str, level: u32, module: &str) -> Result<Module, String>;
}

/// A configuration that is imported.
#[derive(Clone, Debug)]
pub enum Module {
    /// A file.
    File {
        /// For messages, and for [`Host::module`] when it imports others.
        name: String,
        /// What is in it.
        source: String,
    },
    /// Variables that are known already.
    Values(Vec<(String, Value)>),
}

/// What an evaluation may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Expressions and statements evaluated.
    pub steps: u64,
    /// Wall-clock time.
    pub time: Duration,
    /// Bytes allocated in all, also of values that are no longer used.
    pub memory: usize,
    /// Bytes of one source file.
    pub source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: 20_000_000, time: Duration::from_secs(10), memory: 512 << 20, source: 1 << 20 }
    }
}

/// The variables of an evaluated file.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    /// In the order of their first assignment, without those that begin with two underscores.
    pub variables: Vec<(String, Value)>,
    /// What is worth telling: names that stand for nothing here.
    pub notes: Vec<String>,
}

impl Evaluated {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }
}

/// Stack of the thread that evaluates: more than [`interp::MAX_DEPTH`] levels need in any build.
const STACK: usize = 256 << 20;

/// Evaluates `source`, called `name` in messages, on a thread of its own.
///
/// # Errors
/// Whatever is wrong with the file or with one that it imports, and exceeding a limit: with file and line.
pub fn evaluate(name: &str, source: &str, host: &dyn Host, limits: Limits) -> Result<Evaluated> {
    let failed = |message: String| Error { place: Place { file: name.to_owned(), line: 1 }, message };
    std::thread::scope(|scope| {
        let run = || interp::Interp::new(host, limits).run(name, source);
        let thread = std::thread::Builder::new().name("config".into()).stack_size(STACK).spawn_scoped(scope, run);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(failed("the evaluator failed; this is a defect of it".into())),
            Err(error) => Err(failed(format!("cannot start a thread with {} MiB of stack: {error}", STACK >> 20))),
        }
    })
}
