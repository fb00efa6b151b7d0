//! Rotary embedding and the write into the KV cache. Floor and shape: `src/compute_80/rotary_store_kv.cu`.

use super::{
    CudaBackend, CudaBatch, CudaKvCache, CudaTensor, device::Arg, expect, expect_storage, launch::CHUNK, modules,
};
use crate::{Error, Heads, Result, RotarySegment, Storage};

impl CudaBackend {
    /// The table in `f32`.
    pub(super) fn upload_rotary_table(&self, segments: &[RotarySegment<'_>]) -> Result<CudaTensor> {
        let (table, rows, cols) = crate::rotary::table(segments)?;
        CudaTensor::upload(self.device(), Storage::F32, &table, rows, cols)
    }

    /// Rotates queries and keys in place, stores keys and values.
    pub(super) fn launch_rotary_store_kv(
        &self,
        qkv: &mut CudaTensor,
        table: &CudaTensor,
        batch: &CudaBatch,
        layer: usize,
        kv: &mut CudaKvCache,
    ) -> Result<()> {
        batch.check("rotary_store_kv: KV cache", kv)?;
        let Heads { num_heads, num_kv_heads, head_dim } = batch.heads;
        expect("rotary_store_kv: qkv", qkv.shape(), (batch.paged.num_tokens(), batch.heads.qkv_cols()))?;
        expect("rotary_store_kv: table", table.shape(), (table.rows, head_dim))?;
        expect_storage("rotary_store_kv: qkv", qkv, self.storage)?;
        if !head_dim.is_multiple_of(2) {
            return Err(Error::Unsupported(format!("rotary_store_kv: head size {head_dim} is not even")));
        }
        if table.storage() != Storage::F32 {
            let (found, wanted) = ("a matrix of activations".into(), "what rotary_table made".into());
            return Err(Error::Shape { what: "rotary_store_kv: table", found, wanted });
        }
        let (keys, values) = kv.layer(layer)?;
        let last = batch.last_rotary_row as usize;
        if qkv.rows > 0 && last >= table.rows {
            return Err(Error::Index { what: "rotary_store_kv: position", index: last, len: table.rows });
        }
        let half = head_dim / 2;
        let pointers = [qkv.ptr(), table.ptr(), batch.rotary_rows, batch.slot_mapping, keys, values].map(Arg::Ptr);
        let sizes = [qkv.rows, num_heads, num_kv_heads, half, qkv.stride(), table.stride()];
        let args = [&pointers[..], &sizes.map(|n| Arg::U32(n as u32))].concat();
        let per_row = (num_heads + 2 * num_kv_heads) * half.div_ceil(CHUNK);
        self.launch_pieces(&modules::ROTARY_STORE_KV, &self.kernel_name("rotary_store_kv"), qkv.rows, per_row, &args)
    }
}
