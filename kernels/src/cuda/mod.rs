//! The CUDA backend: hand-written kernels in `src/<arch>/*.cu`, shipped as PTX, run by the driver or the emulator.
//!
//! Activations, weights and the KV cache are kept in bf16 or f16, sums and the residual stream in `f32`. Every kernel's launcher stands in the file of
//! its operation, checks its operands and chooses its shape from (operation, N, K, dtype, architecture) alone.

mod activate;
mod add;
mod all_gather;
mod answers;
mod arch;
mod attention;
mod attention_plan;
mod attention_tiles;
mod batch;
mod convert;
mod copy_pages;
pub mod device;
pub mod driver;
mod gather_rows;
mod kv_cache;
mod launch;
mod layer_norm;
mod linear;
mod log_prob;
pub mod modules;
pub mod nccl;
mod peaks;
mod rendezvous;
mod replay;
mod resident;
mod rms_norm;
mod rotary;
mod sample;
mod sampled_ids;
mod scratch;
mod tensor;
mod weight;

use std::sync::{Arc, Mutex, Weak};

pub use self::{
    all_gather::Peer, answers::CudaAnswers, batch::CudaBatch, kv_cache::CudaKvCache, tensor::CudaTensor,
    weight::CudaWeight,
};

use self::{batch::Lists, device::Device, replay::Graphs, scratch::ScratchPool};
use crate::{
    Activation, Answers, Backend, DeviceInfo, Dtype, Epilogue, Error, Heads, KvLayout, PagedBatch, Result,
    RotarySegment, Sampling, Storage, WeightFormat, WeightView, collective::kind_of_group,
};

/// The decoder's operations on one device.
pub struct CudaBackend {
    device: Arc<dyn Device>,
    dtype: Dtype,
    storage: Storage,
    /// Memory that operations need for a while.
    scratch: ScratchPool,
    /// Whether steps of generated tokens are recorded and replayed.
    replays: bool,
    /// The place among the devices that share a model.
    peer: Option<Box<dyn Peer>>,
    graphs: Mutex<Graphs>,
    /// Indices that came along with the latest batch.
    resident: Mutex<Weak<Lists>>,
}

impl CudaBackend {
    /// Computes in `dtype` on `device`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless `dtype` is bf16 or f16, or below compute capability 8.0.
    pub fn new(device: Arc<dyn Device>, dtype: Dtype) -> Result<Self> {
        let caps = device.caps();
        if caps.compute < (8, 0) {
            let (major, minor) = caps.compute;
            return Err(Error::Unsupported(format!(
                "{} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or later: use the CPU",
                caps.name
            )));
        }
        let storage = match dtype {
            Dtype::Bf16 => Storage::Bf16,
            Dtype::F16 => Storage::F16,
            Dtype::F32 | Dtype::Int8 => {
                let name = dtype.name();
                return Err(Error::Unsupported(format!("the CUDA backend computes in bf16 or f16, not in {name}")));
            }
        };
        let scratch = ScratchPool::new(&device, false);
        let (graphs, resident) = (Mutex::default(), Mutex::default());
        Ok(Self { device, dtype, storage, scratch, replays: false, peer: None, graphs, resident })
    }

    /// Keeps the memory that operations need for a while, as an engine wants it: after the largest step nothing is allocated
    /// any more. `replays`: steps of generated tokens are also recorded as graphs and replayed.
    #[must_use]
    pub fn for_engine(self, replays: bool) -> Self {
        Self { scratch: ScratchPool::new(&self.device, true), replays, ..self }
    }

    /// One of the devices that share a model.
    #[must_use]
    pub fn in_group(self, peer: Box<dyn Peer>) -> Self {
        Self { peer: Some(peer), ..self }
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Name of the instance of kernel `name` for this backend's element type.
    fn kernel_name(&self, name: &str) -> String {
        format!("{name}_{}", if self.storage == Storage::F16 { "f16" } else { "bf16" })
    }
}

/// Refuses an operand whose elements are others than those of `wanted`.
fn expect_storage(what: &'static str, found: &CudaTensor, wanted: Storage) -> Result<()> {
    if found.storage() == wanted {
        return Ok(());
    }
    Err(Error::Shape { what, found: format!("{:?}", found.storage()), wanted: format!("{wanted:?}") })
}

/// Refuses an operand that is not `[rows, cols]`.
fn expect(what: &'static str, found: (usize, usize), wanted: (usize, usize)) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let shape = |(rows, cols)| format!("[{rows}, {cols}]");
    Err(Error::Shape { what, found: shape(found), wanted: shape(wanted) })
}

impl Backend for CudaBackend {
    type Tensor = CudaTensor;
    type Weight = CudaWeight;
    type KvCache = CudaKvCache;
    type Batch = CudaBatch;
    type Answers = CudaAnswers;

    fn info(&self) -> DeviceInfo {
        let caps = self.device.caps();
        let (major, minor) = caps.compute;
        DeviceInfo {
            name: caps.name.clone(),
            kind: kind_of_group(
                format!("cuda/{major}.{minor}/compute_80"),
                self.peer.as_ref().map(|peer| peer.count()),
            ),
            dtype: self.dtype,
            storage: self.storage,
        }
    }

    fn tensor(&self, capacity: usize, cols: usize) -> Result<CudaTensor> {
        CudaTensor::new(&self.device, self.storage, capacity, cols)
    }

    fn residual(&self, capacity: usize, cols: usize) -> Result<CudaTensor> {
        CudaTensor::new(&self.device, Storage::F32, capacity, cols)
    }

    fn set_rows(&self, tensor: &mut CudaTensor, rows: usize) -> Result<()> {
        tensor.set_rows(rows)
    }

    fn upload(&self, data: &[f32], rows: usize, cols: usize) -> Result<CudaTensor> {
        CudaTensor::upload(&self.device, self.storage, data, rows, cols)
    }

    fn upload_residual(&self, data: &[f32], rows: usize, cols: usize) -> Result<CudaTensor> {
        CudaTensor::upload(&self.device, Storage::F32, data, rows, cols)
    }

    fn download(&self, tensor: &CudaTensor) -> Result<Vec<f32>> {
        tensor.download(&*self.device)
    }

    fn weight(&self, parts: &[WeightView<'_>]) -> Result<CudaWeight> {
        CudaWeight::new(&self.device, self.storage, parts)
    }

    fn gated_weight(&self, gate: &WeightView<'_>, up: &WeightView<'_>) -> Result<CudaWeight> {
        CudaWeight::gated(&self.device, self.storage, gate, up)
    }

    fn weight_bytes(&self, weight: &CudaWeight) -> usize {
        weight.bytes()
    }

    fn packed_bytes(&self, parts: &[(WeightFormat, usize)], cols: usize) -> usize {
        parts.iter().map(|(_, rows)| weight::bytes(self.storage, *rows, cols)).sum()
    }

    fn kv_cache(&self, layout: KvLayout) -> Result<CudaKvCache> {
        CudaKvCache::new(&self.device, layout, self.storage)
    }

    fn kv_page_bytes(&self, layout: KvLayout) -> usize {
        kv_cache::page_bytes(layout, self.storage)
    }

    fn batch(&self, batch: &PagedBatch, heads: Heads, kv: &CudaKvCache) -> Result<CudaBatch> {
        CudaBatch::new(self, batch, &[], heads, kv)
    }

    fn step(&self, batch: &PagedBatch, lists: &[&[u32]], heads: Heads, kv: &CudaKvCache) -> Result<CudaBatch> {
        CudaBatch::new(self, batch, lists, heads, kv)
    }

    fn padded_rows(&self, rows: usize) -> usize {
        if self.replays { replay::bucket(rows) } else { rows }
    }

    fn replay<E: From<Error>>(&self, batch: &CudaBatch, work: &mut dyn FnMut() -> Result<(), E>) -> Result<(), E> {
        self.run_replayable(batch, work)
    }

    fn embedding(&self, table: &CudaWeight, ids: &[u32], out: &mut CudaTensor) -> Result<()> {
        self.launch_embedding(table, ids, out)
    }

    fn gather_rows(&self, x: &CudaTensor, rows: &[u32], out: &mut CudaTensor) -> Result<()> {
        self.launch_gather_rows(x, rows, out)
    }

    fn all_gather(&self, x: &CudaTensor, out: &mut CudaTensor) -> Result<()> {
        self.gather_parts(x, out)
    }

    fn device_bytes_used(&self) -> Option<u64> {
        let free = self.device.free_bytes().ok()?;
        Some(self.device.caps().free_bytes.saturating_sub(free)).filter(|used| *used > 0)
    }

    fn end_group(&self) {
        if let Some(peer) = &self.peer {
            peer.end();
        }
    }

    fn convert(&self, x: &CudaTensor, out: &mut CudaTensor) -> Result<()> {
        self.launch_convert(x, out)
    }

    fn add(&self, x: &CudaTensor, residual: &mut CudaTensor) -> Result<()> {
        self.launch_add(x, residual)
    }

    fn rms_norm(&self, x: &CudaTensor, weight: &CudaTensor, eps: f32, out: &mut CudaTensor) -> Result<()> {
        self.launch_rms_norm(x, weight, eps, out)
    }

    fn add_rms_norm(
        &self,
        x: &CudaTensor,
        residual: &mut CudaTensor,
        weight: &CudaTensor,
        eps: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        self.launch_add_rms_norm(x, residual, weight, eps, out)
    }

    fn layer_norm(
        &self,
        x: &CudaTensor,
        weight: &CudaTensor,
        bias: Option<&CudaTensor>,
        eps: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        self.launch_layer_norm(x, weight, bias, eps, out)
    }

    fn linear(
        &self,
        x: &CudaTensor,
        w: &CudaWeight,
        bias: Option<&CudaTensor>,
        epilogue: Epilogue,
        out: &mut CudaTensor,
    ) -> Result<()> {
        self.launch_linear(x, w, bias, epilogue, out)
    }

    fn linear_silu_mul(&self, x: &CudaTensor, w: &CudaWeight, out: &mut CudaTensor) -> Result<()> {
        self.launch_linear_silu_mul(x, w, out)
    }

    fn rotary_table(&self, segments: &[RotarySegment<'_>]) -> Result<CudaTensor> {
        self.upload_rotary_table(segments)
    }

    fn rotary_store_kv(
        &self,
        qkv: &mut CudaTensor,
        table: &CudaTensor,
        batch: &CudaBatch,
        layer: usize,
        kv: &mut CudaKvCache,
    ) -> Result<()> {
        self.launch_rotary_store_kv(qkv, table, batch, layer, kv)
    }

    fn attention(
        &self,
        qkv: &CudaTensor,
        batch: &CudaBatch,
        layer: usize,
        kv: &CudaKvCache,
        scale: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        self.launch_attention(qkv, batch, layer, kv, scale, out)
    }

    fn copy_pages(&self, pairs: &[(u32, u32)], kv: &mut CudaKvCache) -> Result<()> {
        self.launch_copy_pages(pairs, kv)
    }

    fn activate(&self, activation: Activation, x: &CudaTensor, out: &mut CudaTensor) -> Result<()> {
        self.launch_activate(activation, x, out)
    }

    fn silu_mul(&self, gate_up: &CudaTensor, out: &mut CudaTensor) -> Result<()> {
        self.launch_silu_mul(gate_up, out)
    }

    fn answers(&self, sampled: usize, scored: usize) -> Result<CudaAnswers> {
        CudaAnswers::new(self, sampled, scored)
    }

    fn queue_log_prob(
        &self,
        hidden: &CudaTensor,
        head: &CudaWeight,
        targets: &[u32],
        answers: &mut CudaAnswers,
    ) -> Result<()> {
        self.queue_log_probs(hidden, head, targets, answers)
    }

    fn queue_sample(
        &self,
        hidden: &CudaTensor,
        head: &CudaWeight,
        how: &[Sampling],
        answers: &mut CudaAnswers,
    ) -> Result<()> {
        self.queue_samples(hidden, head, how, answers)
    }

    fn queue_collect(&self, answers: &mut CudaAnswers) -> Result<()> {
        answers.queue_download(&*self.device)
    }

    fn runs_ahead(&self) -> bool {
        true
    }

    fn sampled_ids(&self, answers: &CudaAnswers) -> Vec<u32> {
        sampled_ids::stand_ins(answers)
    }

    fn embedding_after(
        &self,
        answers: &CudaAnswers,
        table: &CudaWeight,
        ids: &[u32],
        out: &mut CudaTensor,
    ) -> Result<()> {
        self.launch_embedding_after(answers, table, ids, out)
    }

    fn collect(&self, answers: CudaAnswers) -> Result<Answers> {
        answers.collect(&*self.device)
    }
}
