//! What a kernel did, counted: the numbers to hold against its floor.

/// Classes of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Integers, bits, moves, conversions, comparisons, predicates.
    Integer,
    /// Arithmetic on floats, without the next.
    Float,
    /// `ex2`, `lg2`, `rcp`, `rsqrt`, `sqrt`, `sin`, `cos`, `tanh`, divisions.
    Special,
    /// Branches, calls, returns.
    Control,
    /// Loads and stores, global or generic.
    Global,
    /// Loads and stores of shared memory.
    Shared,
    /// Loads and stores of local memory: spills and arrays.
    Local,
    /// Loads of parameters and constants.
    Constant,
    /// `atom`, `red`.
    Atomic,
    /// `cp.async` and its groups.
    Async,
    /// `ldmatrix`.
    LdMatrix,
    /// `mma`.
    Mma,
    /// `shfl`, `vote`, `match`, `redux`, `bar.warp.sync`.
    Warp,
    /// `bar`, `barrier`, fences.
    Barrier,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 14;

    /// All, in the order of [`Counters::instructions`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::Integer,
        Self::Float,
        Self::Special,
        Self::Control,
        Self::Global,
        Self::Shared,
        Self::Local,
        Self::Constant,
        Self::Atomic,
        Self::Async,
        Self::LdMatrix,
        Self::Mma,
        Self::Warp,
        Self::Barrier,
    ];
}

/// Counts of one kernel, over all its launches since the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Launches.
    pub launches: u64,
    /// Blocks.
    pub blocks: u64,
    /// Instructions that warps executed, by [`Class`].
    pub instructions: [u64; Class::COUNT],
    /// The same, counted for every active thread.
    pub thread_instructions: u64,
    /// Bytes that threads read from global memory, `cp.async` included.
    pub global_read_bytes: u64,
    /// Bytes that threads wrote to global memory.
    pub global_written_bytes: u64,
    /// 32-byte sectors that the warps' reads touched.
    pub global_read_sectors: u64,
    /// 32-byte sectors that the warps' writes touched.
    pub global_written_sectors: u64,
    /// Bytes that threads read from shared memory, `ldmatrix` included.
    pub shared_read_bytes: u64,
    /// Bytes that threads wrote to shared memory, `cp.async` included.
    pub shared_written_bytes: u64,
    /// Passes over the banks of shared memory beyond those that an access of its width needs.
    pub bank_conflicts: u64,
    /// Bytes that `cp.async` copied, zero fill not counted.
    pub async_bytes: u64,
    /// Bytes of local memory that threads read or wrote.
    pub local_bytes: u64,
}

impl Counters {
    /// Instructions of one class.
    pub fn of(&self, class: Class) -> u64 {
        self.instructions[class as usize]
    }

    /// Instructions of all classes.
    pub fn total(&self) -> u64 {
        self.instructions.iter().sum()
    }

    /// `mma` instructions of warps.
    pub fn mma(&self) -> u64 {
        self.of(Class::Mma)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, n) in self.instructions.iter_mut().zip(other.instructions) {
            *sum += n;
        }
        for (sum, n) in [
            (&mut self.launches, other.launches),
            (&mut self.blocks, other.blocks),
            (&mut self.thread_instructions, other.thread_instructions),
            (&mut self.global_read_bytes, other.global_read_bytes),
            (&mut self.global_written_bytes, other.global_written_bytes),
            (&mut self.global_read_sectors, other.global_read_sectors),
            (&mut self.global_written_sectors, other.global_written_sectors),
            (&mut self.shared_read_bytes, other.shared_read_bytes),
            (&mut self.shared_written_bytes, other.shared_written_bytes),
            (&mut self.bank_conflicts, other.bank_conflicts),
            (&mut self.async_bytes, other.async_bytes),
            (&mut self.local_bytes, other.local_bytes),
        ] {
            *sum += n;
        }
    }
}
