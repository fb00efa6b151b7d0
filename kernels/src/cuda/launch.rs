//! Launches that several operations share: one thread per piece of a matrix, and one block per row.

use super::{
    CudaBackend,
    device::{Arg, Launch, Module},
};
use crate::{Error, Result};

/// Threads of a block that works on pieces of rows.
const PIECE_THREADS: usize = 256;
/// 16-bit elements of a piece: 16 bytes.
pub(super) const CHUNK: usize = 8;
/// The same of the residual stream.
pub(super) const QUAD: usize = 4;

impl CudaBackend {
    /// One thread for each of `rows * per_row` pieces, which the kernel counts in `u32`; nothing for none.
    ///
    /// # Errors
    /// [`Error::Unsupported`] above 2^31 pieces; whatever the device refuses.
    pub(super) fn launch_pieces(
        &self,
        module: &'static Module,
        kernel: &str,
        rows: usize,
        per_row: usize,
        args: &[Arg],
    ) -> Result<()> {
        let pieces = rows.saturating_mul(per_row);
        if pieces > 1 << 31 {
            let message = format!("{kernel}: {rows} rows of {per_row} pieces; at most 2^31 pieces at once");
            return Err(Error::Unsupported(message));
        }
        self.launch_blocks(module, kernel, pieces.div_ceil(PIECE_THREADS), PIECE_THREADS as u32, args)
    }

    /// `blocks` blocks of `threads`; nothing for none.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for more blocks than a grid has; whatever the device refuses.
    pub(super) fn launch_blocks(
        &self,
        module: &'static Module,
        kernel: &str,
        blocks: usize,
        threads: u32,
        args: &[Arg],
    ) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        let Some(blocks) = i32::try_from(blocks).ok().map(|blocks| blocks as u32) else {
            return Err(Error::Unsupported(format!("{kernel}: {blocks} rows; a grid has at most 2^31 - 1")));
        };
        self.device().launch(&Launch {
            module,
            kernel,
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            shared_bytes: 0,
            args,
        })
    }
}
