//! Pages of the KV cache to other pages. Floor and shape: `src/compute_80/copy_pages.cu`.

use super::{
    CudaBackend, CudaKvCache,
    device::{Arg, Launch},
    launch::CHUNK,
    modules,
};
use crate::{Result, backend::check_page_copies};

const THREADS: u32 = 256;
/// Largest extent of a grid in its third dimension.
const MAX_PAIRS: usize = 65535;

impl CudaBackend {
    /// Copies whole pages `(from, to)` over all layers, keys and values.
    pub(super) fn launch_copy_pages(&self, pairs: &[(u32, u32)], kv: &mut CudaKvCache) -> Result<()> {
        let layout = kv.layout();
        check_page_copies(pairs, layout.num_pages)?;
        let chunks = (kv.page_len() / CHUNK) as u32;
        if layout.num_layers == 0 || chunks == 0 {
            return Ok(());
        }
        let (pool, _) = kv.layer(0)?;
        for pairs in pairs.chunks(MAX_PAIRS) {
            let flat: Vec<u32> = pairs.iter().flat_map(|(from, to)| [*from, *to]).collect();
            let on_device = self.scratch.take("page numbers", 4 * flat.len())?;
            self.device().upload(bytemuck::cast_slice(&flat), on_device.ptr())?;
            let plane_chunks = layout.num_pages as u64 * u64::from(chunks);
            self.device().launch(&Launch {
                module: &modules::COPY_PAGES,
                kernel: "copy_pages",
                grid: [chunks.div_ceil(THREADS), 2 * layout.num_layers as u32, pairs.len() as u32],
                block: [THREADS, 1, 1],
                shared_bytes: 0,
                args: &[Arg::Ptr(pool), Arg::Ptr(on_device.ptr()), Arg::U32(chunks), Arg::U64(plane_chunks)],
            })?;
        }
        Ok(())
    }
}
