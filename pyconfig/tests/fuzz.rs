//! Random programs: every one ends with a value or an error, never with a panic.

use oc_pyconfig::{Host, Limits, Module, evaluate};
use std::time::Duration;

struct Nothing;

impl Host for Nothing {
    fn module(&self, _file: &str, _level: u32, _module: &str) -> Result<Module, String> {
        Err("there is nothing to import".into())
    }
}

const VALUES: &[&str] = &[
    "0",
    "1",
    "-1",
    "7",
    "-9223372036854775808",
    "9223372036854775807",
    "1.5",
    "-0.0",
    "1e308",
    "float('nan')",
    "float('inf')",
    "''",
    "'a'",
    "'é水x'",
    "' a,b '",
    "'{} {0} {x}'",
    "'%s %5d'",
    "[]",
    "[1, 2, 3]",
    "['b', 'a']",
    "[[1], [2]]",
    "(1,)",
    "()",
    "{}",
    "{'a': 1, 'é': 2}",
    "{0: 1}",
    "{1, 2}",
    "set()",
    "None",
    "True",
    "range(3)",
    "range(9, -9, -2)",
    "len",
    "(lambda a: a)",
    "(lambda a, b=1: b)",
    "'x' * 1000",
    "[0] * 1000",
    "os",
    "os.path",
    "torch.x",
    "'>5'",
    "'é^9.3f'",
];
const METHODS: &[&str] = &[
    "append",
    "clear",
    "copy",
    "count",
    "extend",
    "index",
    "insert",
    "pop",
    "remove",
    "reverse",
    "sort",
    "fromkeys",
    "get",
    "items",
    "keys",
    "setdefault",
    "update",
    "values",
    "deepcopy",
    "add",
    "difference",
    "discard",
    "intersection",
    "issubset",
    "issuperset",
    "symmetric_difference",
    "union",
    "capitalize",
    "center",
    "endswith",
    "find",
    "format",
    "isalnum",
    "join",
    "ljust",
    "lstrip",
    "partition",
    "removeprefix",
    "replace",
    "rfind",
    "rjust",
    "rpartition",
    "rsplit",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const FUNCTIONS: &[&str] = &[
    "abs",
    "all",
    "any",
    "bool",
    "chr",
    "dict",
    "divmod",
    "enumerate",
    "filter",
    "float",
    "int",
    "isinstance",
    "iter",
    "len",
    "list",
    "map",
    "max",
    "min",
    "next",
    "ord",
    "pow",
    "range",
    "repr",
    "reversed",
    "round",
    "set",
    "sorted",
    "str",
    "sum",
    "tuple",
    "zip",
    "copy.deepcopy",
    "copy.copy",
    "functools.reduce",
    "itertools.chain",
    "itertools.product",
    "math.ceil",
    "math.floor",
    "math.exp",
    "math.log",
    "math.sqrt",
    "math.pow",
    "os.path.join",
    "os.path.splitext",
    "os.path.basename",
    "os.path.dirname",
    "os.getenv",
];
const OPERATORS: &[&str] = &[
    "+", "-", "*", "/", "//", "%", "**", "<<", ">>", "&", "|", "^", "==", "<", ">=", "in", "not in", "is", "and", "or",
];

/// Xorshift, seeded: a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }

    fn of(&mut self, choices: &'static [&'static str]) -> &'static str {
        choices[self.below(choices.len())]
    }

    fn line(&mut self) -> String {
        const NAMES: &[&str] = &["x", "y", "z"];
        let (a, b, c, d) = (self.of(NAMES), self.of(NAMES), self.of(NAMES), self.of(NAMES));
        let other = self.of(VALUES);
        let arguments = match self.below(7) {
            0 => String::new(),
            1 => a.to_owned(),
            2 => format!("{a}, {b}"),
            3 => format!("{a}, {b}, {other}"),
            4 => format!("*{a}"),
            5 => format!("{a}, key={b}"),
            _ => format!("{a}, maxsplit={b}"),
        };
        match self.below(9) {
            0 => format!("{c} = {a}.{}({arguments})\n", self.of(METHODS)),
            1 => format!("{c} = {}({arguments})\n", self.of(FUNCTIONS)),
            2 => format!("{c} = {a} {} {b}\n", self.of(OPERATORS)),
            3 => format!("{a}[{b}] = {c}\n"),
            4 => format!("{c} = {a}[{b}:{d}:{other}]\n"),
            5 => format!("{c} = f'{{{a}:{{{b}}}}} {{{d}!r}}'\n"),
            6 => format!("{a} += {b}\n"),
            7 => format!("{c} = {a}[{b}]\n"),
            _ => format!("{c} = [{a} for _ in {b}]\n"),
        }
    }
}

#[test]
fn random_programs_end_with_a_value_or_an_error() {
    let mut random = Random(0x5eed_0123_4567_89ab);
    let limits = Limits { steps: 100_000, time: Duration::from_secs(5), memory: 32 << 20, ..Limits::default() };
    let mut evaluated = 0;
    for _ in 0..20_000 {
        let (x, y, z) = (random.of(VALUES), random.of(VALUES), random.of(VALUES));
        let mut source = format!("import os, math, copy, functools, itertools, torch\nx = {x}\ny = {y}\nz = {z}\n");
        for _ in 0..=random.below(3) {
            source += &random.line();
        }
        match evaluate("x.py", &source, &Nothing, limits) {
            Ok(_) => evaluated += 1,
            Err(error) => {
                assert!(!error.message.contains("defect"), "{source}\n{error}");
                assert!(error.place.file == "x.py" && error.place.line > 0, "{source}\n{error}");
            }
        }
    }
    // Some of them make sense.
    assert!(evaluated > 500, "{evaluated}");
}
