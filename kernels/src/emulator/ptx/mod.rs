//! PTX text → functions, variables and instructions with their names resolved; nothing is interpreted here.

mod lexer;
mod parse;

use std::collections::HashMap;

pub(crate) use parse::parse;

/// Text that is not the PTX we know, with its line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(crate) struct PtxError {
    pub(crate) line: u32,
    pub(crate) message: String,
}

impl PtxError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// A scalar type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    Tf32,
}

impl Ty {
    /// From its name without the dot.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "tf32" => Self::Tf32,
            _ => return None,
        })
    }

    /// Size in bytes; a predicate has none.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Pred => 0,
            Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B32 | Self::U32 | Self::S32 | Self::F32 | Self::F16x2 | Self::Bf16x2 | Self::Tf32 => 4,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
        }
    }

    /// Whether it is a signed integer.
    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// Whether it is an integer or untyped bits.
    pub(crate) fn is_int(self) -> bool {
        use Ty::*;
        matches!(self, B8 | B16 | B32 | B64 | U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64)
    }
}

/// A state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// A variable: of the module, of a function, or a parameter.
#[derive(Clone, Debug)]
pub(crate) struct Var {
    pub(crate) name: String,
    pub(crate) space: Space,
    pub(crate) align: usize,
    /// Of the element.
    pub(crate) ty: Ty,
    /// `None` for `name[]`.
    pub(crate) bytes: Option<usize>,
    /// Whether it was declared as an array.
    pub(crate) array: bool,
    pub(crate) init: Vec<u8>,
    pub(crate) line: u32,
}

/// What an instruction works on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// Index into [`Function::regs`].
    Reg(u32),
    /// Index into [`Function::vars`].
    Var(u32),
    Int(u64),
    F32(u32),
    F64(u64),
    /// A label, a special register, or a name of the module.
    Word(String),
    /// `[base+offset]`, or `base+offset` without brackets.
    Addr(Box<Operand>, i64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `!a`
    Not(Box<Operand>),
    /// `a|b`
    Pair(Box<Operand>, Box<Operand>),
    /// `_`
    Sink,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// Register and whether it is negated.
    pub(crate) guard: Option<(u32, bool)>,
    /// With all modifiers, e.g. `ld.global.v4.u32`.
    pub(crate) opcode: String,
    pub(crate) operands: Vec<Operand>,
    pub(crate) scope: u32,
    pub(crate) line: u32,
}

/// A kernel or a function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) entry: bool,
    /// Indices into `vars`.
    pub(crate) params: Vec<u32>,
    pub(crate) returns: Vec<u32>,
    pub(crate) vars: Vec<Var>,
    pub(crate) regs: Vec<Ty>,
    pub(crate) body: Vec<Statement>,
    /// `(scope, name)` → index into `body`.
    pub(crate) labels: HashMap<(u32, String), usize>,
    /// `(scope, name)` of `.branchtargets` → labels.
    pub(crate) targets: HashMap<(u32, String), Vec<String>>,
    /// Enclosing scope of each; that of the first is itself.
    pub(crate) scopes: Vec<u32>,
    /// `.maxntid`: threads of a block, at most.
    pub(crate) max_threads: Option<u32>,
    /// `.reqntid`
    pub(crate) required_block: Option<[u32; 3]>,
    pub(crate) line: u32,
}

impl Function {
    /// Looks `name` up in `scope` and those around it.
    pub(crate) fn scoped<'a, T>(&self, map: &'a HashMap<(u32, String), T>, scope: u32, name: &str) -> Option<&'a T> {
        let mut scope = scope;
        loop {
            if let Some(found) = map.get(&(scope, name.to_string())) {
                return Some(found);
            }
            if scope == 0 {
                return None;
            }
            scope = self.scopes[scope as usize];
        }
    }
}

/// One file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Module {
    pub(crate) vars: Vec<Var>,
    pub(crate) functions: Vec<Function>,
}
