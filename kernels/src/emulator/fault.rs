//! What a kernel did wrong, and where.

use std::fmt;

/// The kinds of faults the emulator tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// PTX text that does not parse.
    Malformed,
    /// An instruction, a modifier or an operand that the emulator does not know.
    Unknown,
    /// A launch that the device would refuse: arguments, block size, shared memory.
    BadLaunch,
    /// An access outside every allocation, variable or window.
    OutOfBounds,
    /// An access to memory that was freed.
    UseAfterFree,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// A read of memory that nothing wrote.
    UninitialisedMemory,
    /// A use of a register that nothing wrote.
    UninitialisedRegister,
    /// Two threads, one location of shared memory, at least one write, nothing that orders them.
    SharedRace,
    /// Two blocks, one location of global memory, at least one write, nothing that orders them.
    GlobalRace,
    /// A read of what `cp.async` copies before its thread has waited for it.
    AsyncTooEarly,
    /// A barrier that not all threads reach.
    BarrierDivergence,
    /// A warp-wide instruction whose lanes do not all come, or that reads a lane that does not take part.
    WarpDivergence,
    /// Nobody can go on.
    Deadlock,
    /// More instructions than the limit.
    Timeout,
    /// `trap`
    Trap,
}

impl FaultKind {
    /// As printed, and as the tests name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed PTX",
            Self::Unknown => "unknown instruction",
            Self::BadLaunch => "bad launch",
            Self::OutOfBounds => "out of bounds",
            Self::UseAfterFree => "use after free",
            Self::Misaligned => "misaligned address",
            Self::UninitialisedMemory => "read of memory never written",
            Self::UninitialisedRegister => "use of a register never written",
            Self::SharedRace => "race in shared memory",
            Self::GlobalRace => "race in global memory",
            Self::AsyncTooEarly => "use of cp.async data before its wait",
            Self::BarrierDivergence => "barrier divergence",
            Self::WarpDivergence => "warp divergence",
            Self::Deadlock => "deadlock",
            Self::Timeout => "timeout",
            Self::Trap => "trap",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One fault: the first of the launch's lowest block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// Name of the module, i.e. of the PTX file without its ending.
    pub module: String,
    /// Name of the kernel; empty for a module that does not load.
    pub kernel: String,
    /// Line of the PTX text; 0 where no line is to blame.
    pub line: u32,
    /// The text of that line.
    pub instruction: String,
    /// Block index `x, y, z`.
    pub block: Option<[u32; 3]>,
    /// Thread index `x, y, z`.
    pub thread: Option<[u32; 3]>,
    /// Address, as the instruction had it.
    pub address: Option<u64>,
    /// The rest, in words.
    pub detail: String,
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)?;
        if let Some(address) = self.address {
            write!(f, ", at address {address:#x}")?;
        }
        if !self.kernel.is_empty() {
            write!(f, ", in kernel `{}`", self.kernel)?;
        }
        write!(f, ", {}.ptx", self.module)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.instruction.is_empty() {
            write!(f, " `{}`", self.instruction)?;
        }
        if let Some([x, y, z]) = self.block {
            write!(f, ", block ({x}, {y}, {z})")?;
        }
        if let Some([x, y, z]) = self.thread {
            write!(f, ", thread ({x}, {y}, {z})")?;
        }
        Ok(())
    }
}

/// A fault on its way up: what the instruction knows; kernel, line, block and thread are added outside.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) kind: FaultKind,
    /// Lane of the warp.
    pub(crate) lane: usize,
    pub(crate) address: Option<u64>,
    pub(crate) detail: String,
}

impl Trouble {
    pub(crate) fn new(kind: FaultKind, lane: usize, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self { kind, lane, address: None, detail: detail.into() })
    }

    pub(crate) fn at(kind: FaultKind, lane: usize, address: u64, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self { kind, lane, address: Some(address), detail: detail.into() })
    }
}
