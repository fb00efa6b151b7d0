//! Tiles of the portable kernels (mma.sync, ldmatrix, cp.async): every GPU from Ampere on.
//!
//! A choice is a function of the weight's shape alone, and of whether the rows are few enough for the skinny path, where bytes
//! of the weight decide; a row has the same bits in every tile.

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

/// Rows of a typical step of prompts, for which tiles are chosen.
const PROMPT_ROWS: usize = 1024;

const WIDE: Tile = Tile { name: "wide", rows: 128, cols: 256, threads: 256, shared_bytes: 98304 };
const SQUARE: Tile = Tile { name: "square", rows: 128, cols: 128, threads: 128, shared_bytes: 65536 };
const MEDIUM: Tile = Tile { name: "medium", rows: 128, cols: 64, threads: 128, shared_bytes: 61440 };

/// The tile of a linear layer of `n` columns: the skinny one for `m` rows up to 64, in two heights; for more the largest that
/// fills the GPU in a typical step, however many rows this one has.
pub(in crate::cuda) fn gemm(m: usize, n: usize) -> Tile {
    match m {
        0..=16 => Tile { name: "few", rows: 16, cols: 32, threads: 64, shared_bytes: 36864 },
        17..=64 => Tile { name: "some", rows: 64, cols: 32, threads: 128, shared_bytes: 61440 },
        _ => [WIDE, SQUARE].into_iter().find(|tile| tile.blocks(PROMPT_ROWS, n) >= ENOUGH_BLOCKS).unwrap_or(MEDIUM),
    }
}

/// The tile of an LM head, whose columns always are many: the skinny ones for `m` rows up to 64, else the wide one.
pub(in crate::cuda) fn log_prob(m: usize) -> Tile {
    match m {
        0..=16 => Tile { name: "few", rows: 16, cols: 128, threads: 128, shared_bytes: 73728 },
        17..=64 => Tile { name: "some", rows: 64, cols: 128, threads: 128, shared_bytes: 73728 },
        _ => WIDE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_skinny_path_only_columns_choose_the_tile() {
        for n in [1, 64, 576, 896, 1664, 1665, 2048, 3328, 3329, 4096, 6144, 28672, 92544] {
            let wanted = if n > 3328 {
                WIDE
            } else if n > 1664 {
                SQUARE
            } else {
                MEDIUM
            };
            for m in [65, 128, 300, 1024, 4096, 100_000] {
                assert_eq!(gemm(m, n), wanted, "{m} rows, {n} columns");
            }
        }
    }
}
