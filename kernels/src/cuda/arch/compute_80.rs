//! Tiles of the portable kernels (mma.sync, ldmatrix, cp.async): every GPU from Ampere on.
//!
//! A table's choice may look at M only between tiles that give a row the same bits.

/// The tile of an instance of a product kernel. It must agree with the `Tile` of that name in `src/compute_80/*.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) struct Tile {
    /// Middle part of the kernel's name.
    pub name: &'static str,
    /// Rows of a block.
    pub rows: usize,
    /// Columns of a block.
    pub cols: usize,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory, in bytes.
    pub shared_bytes: u32,
}

impl Tile {
    /// Blocks that cover `[m, n]`.
    pub fn blocks(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.rows) * n.div_ceil(self.cols)
    }
}

/// Fewer blocks than this leave processors of a data-centre GPU idle.
const ENOUGH_BLOCKS: usize = 108;

const WIDE: Tile = Tile { name: "wide", rows: 128, cols: 256, threads: 256, shared_bytes: 98304 };
const SQUARE: Tile = Tile { name: "square", rows: 128, cols: 128, threads: 128, shared_bytes: 65536 };
const MEDIUM: Tile = Tile { name: "medium", rows: 128, cols: 64, threads: 128, shared_bytes: 61440 };

/// The tile of a linear layer of `m` rows and `n` columns: of those for many rows the largest that fills the GPU.
pub(in crate::cuda) fn gemm(m: usize, n: usize) -> Tile {
    match m {
        0..=16 => Tile { name: "few", rows: 16, cols: 32, threads: 64, shared_bytes: 36864 },
        17..=64 => Tile { name: "some", rows: 64, cols: 32, threads: 128, shared_bytes: 61440 },
        _ => [WIDE, SQUARE].into_iter().find(|tile| tile.blocks(m, n) >= ENOUGH_BLOCKS).unwrap_or(MEDIUM),
    }
}

/// The tile of an LM head for `m` rows.
pub(in crate::cuda) fn log_prob(m: usize) -> Tile {
    match m {
        0..=16 => Tile { name: "few", rows: 16, cols: 128, threads: 128, shared_bytes: 73728 },
        17..=64 => Tile { name: "some", rows: 64, cols: 128, threads: 128, shared_bytes: 73728 },
        _ => WIDE,
    }
}
