//! Decoded kernels: every instruction once turned into a small value that a warp executes for its 32 lanes.
//!
//! Registers are rows of 32 lanes: `r` rows of 32 bits (16-bit registers too, their upper half zero), `q` rows of 64
//! bits, predicates as masks. Immediate operands and special registers are rows as well, filled before the kernel
//! starts, so every operand is an index.

mod compare;
mod control;
mod convert;
mod float;
mod half;
mod integer;
mod lower;
mod memory;
mod mods;
mod moves;
pub(crate) mod num;
mod rows;
mod special;
mod warp;

pub(crate) use convert::Conversion;
pub(crate) use lower::lower;

use super::{
    counters::Class,
    ptx::{Space, Ty},
};

/// 32 lanes of a register of up to 32 bits.
pub(crate) type Row = [u32; 32];
/// 32 lanes of a register of 64 bits.
pub(crate) type Row64 = [u64; 32];

/// A register: its row, by width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    R(u32),
    Q(u32),
    P(u32),
}

/// Where an access goes: `base + offset`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) base: Option<Slot>,
    pub(crate) offset: u64,
}

/// How the two results of a comparison are combined with a third predicate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Combine {
    /// Truth table: bit `2 * compared + other`.
    pub(crate) table: u8,
    pub(crate) other: u32,
}

/// Loads and stores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) space: Space,
    pub(crate) address: Address,
    /// Of one element.
    pub(crate) bytes: u8,
    /// Elements.
    pub(crate) count: u8,
    /// Loads: extend the sign.
    pub(crate) signed: bool,
    pub(crate) regs: [Slot; 4],
}

/// What an atomic operation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// `shfl`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// `vote`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

/// Types of the factors of `mma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MmaTy {
    F16,
    Bf16,
}

/// `mma.sync.aligned.m16n8k{8,16}.row.col`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mma {
    pub(crate) ty: MmaTy,
    /// 8 or 16.
    pub(crate) k: u8,
    /// Accumulators and results in f16, two a register.
    pub(crate) half_accumulators: bool,
    pub(crate) d: [u32; 4],
    pub(crate) a: [u32; 4],
    pub(crate) b: [u32; 2],
    pub(crate) c: [u32; 4],
}

/// What a barrier gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarKind {
    Sync,
    Arrive,
    Popc(u32),
    And(u32),
    Or(u32),
}

/// One operation. Names of fields: `d` results, `a`, `b`, `c` operands, `p` predicates.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    R1(fn(&Row) -> Row, u32, u32),
    R2(fn(&Row, &Row) -> Row, u32, u32, u32),
    R3(fn(&Row, &Row, &Row) -> Row, u32, u32, u32, u32),
    Q1(fn(&Row64) -> Row64, u32, u32),
    Q2(fn(&Row64, &Row64) -> Row64, u32, u32, u32),
    Q3(fn(&Row64, &Row64, &Row64) -> Row64, u32, u32, u32, u32),
    /// 64-bit result of two 32-bit operands.
    Wide2(fn(&Row, &Row) -> Row64, u32, u32, u32),
    /// 64-bit result of two 32-bit operands and one of 64.
    Wide3(fn(&Row, &Row, &Row64) -> Row64, u32, u32, u32, u32),
    /// 64 bits by an amount of 32.
    Shift64(fn(&Row64, &Row) -> Row64, u32, u32, u32),
    Narrow(fn(&Row64) -> Row, u32, u32),
    Widen(fn(&Row) -> Row64, u32, u32),
    /// Anything else that is a function of up to four operands, lane by lane.
    Lanes {
        f: fn([u64; 4]) -> u64,
        d: Slot,
        s: [Slot; 4],
        n: u8,
    },
    Convert {
        how: Conversion,
        d: Slot,
        a: Slot,
    },
    SetR {
        f: fn(&Row, &Row) -> u32,
        d: u32,
        not_d: Option<u32>,
        a: u32,
        b: u32,
        combine: Option<Combine>,
    },
    SetQ {
        f: fn(&Row64, &Row64) -> u32,
        d: u32,
        not_d: Option<u32>,
        a: u32,
        b: u32,
        combine: Option<Combine>,
    },
    /// Two comparisons at once, of packed halves; the results are the two.
    SetHalves {
        lo: fn(&Row, &Row) -> u32,
        hi: fn(&Row, &Row) -> u32,
        d: u32,
        q: u32,
        a: u32,
        b: u32,
    },
    SelR {
        d: u32,
        a: u32,
        b: u32,
        p: u32,
    },
    SelQ {
        d: u32,
        a: u32,
        b: u32,
        p: u32,
    },
    /// `table`: bit `2 * a + b`.
    Pred {
        table: u8,
        d: u32,
        a: u32,
        b: u32,
    },
    /// `n` parts, the first lowest, into one register.
    Pack {
        d: Slot,
        parts: [u32; 4],
        n: u8,
        bits: u8,
    },
    /// One register into `n` parts.
    Unpack {
        parts: [u32; 4],
        a: Slot,
        n: u8,
        bits: u8,
    },
    Clock(Slot),
    Load(Access),
    Store(Access),
    /// `d`: `None` for `red`.
    Atomic {
        op: AtomicOp,
        ty: Ty,
        space: Space,
        address: Address,
        d: Option<Slot>,
        b: Slot,
        c: Slot,
    },
    CpAsync {
        to: Address,
        from: Address,
        bytes: u8,
        size: Option<u32>,
        ignore: Option<u32>,
    },
    Commit,
    /// All but the last `n` groups; `None`: all copies, committed or not.
    Wait(Option<u32>),
    LdMatrix {
        address: Address,
        n: u8,
        transposed: bool,
        d: [u32; 4],
    },
    Mma(Mma),
    Shfl {
        mode: ShflMode,
        d: u32,
        p: Option<u32>,
        a: u32,
        b: u32,
        c: u32,
        members: u32,
    },
    Vote {
        mode: VoteMode,
        d: Slot,
        a: u32,
        members: u32,
    },
    Match {
        all: bool,
        d: u32,
        p: Option<u32>,
        a: Slot,
        members: u32,
    },
    Redux {
        f: fn(u32, u32) -> u32,
        d: u32,
        a: u32,
        members: u32,
    },
    ActiveMask(u32),
    WarpSync(u32),
    Bar {
        kind: BarKind,
        id: u32,
        threads: Option<u32>,
        a: u32,
    },
    Fence {
        device: bool,
    },
    Bra(u32),
    /// Table of `Code::tables`, index register.
    BranchIndexed {
        table: u32,
        a: u32,
    },
    Exit,
    Trap,
    Nop,
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    /// Predicate and whether it is negated.
    pub(crate) guard: Option<(u32, bool)>,
    pub(crate) class: Class,
    pub(crate) line: u32,
}

/// A register that the hardware sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    NTid(u8),
    CtaId(u8),
    NCtaId(u8),
    LaneId,
    WarpId,
    NWarpId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    DynamicSharedSize,
    TotalSharedSize,
    SmId,
    NSmId,
    GridId,
}

/// A parameter of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) name: String,
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
    /// `None` for a struct.
    pub(crate) ty: Option<Ty>,
}

/// A kernel, ready to run.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub(crate) name: String,
    pub(crate) insts: Vec<Inst>,
    pub(crate) tables: Vec<Vec<u32>>,
    /// Rows of each kind.
    pub(crate) rows: u32,
    pub(crate) rows64: u32,
    pub(crate) preds: u32,
    pub(crate) constants: Vec<(u32, u32)>,
    pub(crate) constants64: Vec<(u32, u64)>,
    pub(crate) constant_preds: Vec<(u32, bool)>,
    pub(crate) specials: Vec<(Special, Slot)>,
    pub(crate) params: Vec<Param>,
    pub(crate) param_bytes: u32,
    /// Static shared memory, up to where the dynamic part starts.
    pub(crate) shared_bytes: u32,
    /// Local memory of a thread.
    pub(crate) local_bytes: u32,
    pub(crate) max_threads: Option<u32>,
    pub(crate) required_block: Option<[u32; 3]>,
    /// What a block computes may depend on which came before: they run one after the other.
    pub(crate) ordered: bool,
}
