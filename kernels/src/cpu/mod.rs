//! The CPU backend: the embedded default, with run-time SIMD dispatch.

mod activate;
mod add;
mod add_rms_norm;
mod attention;
mod buffer;
mod copy_pages;
mod embedding;
mod gather_rows;
mod kv_cache;
mod layer_norm;
pub mod linear;
mod log_prob;
mod peaks;
mod rms_norm;
mod rotary;
mod sample;
mod silu_mul;
mod simd;
mod threads;
mod vector;
mod vocab;

pub use buffer::CpuTensor;
pub use kv_cache::CpuKvCache;
pub(crate) use sample::choose;
pub use simd::SimdLevel;
pub use threads::Threads;

use std::sync::{Mutex, PoisonError};

use crate::{
    Activation, Answers, Backend, DeviceInfo, Dtype, Epilogue, Error, Heads, KvLayout, PagedBatch, Result,
    RotarySegment, Sampling, Storage, WeightFormat, WeightView,
    backend::{check_page_copies, parts},
    collective::{Member, alone, kind_of_group},
};
use linear::PackedWeight;

/// How to run on the CPU.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads; 0 takes one per available core.
    pub threads: usize,
    /// What is computed with.
    pub dtype: Dtype,
    /// Vector instructions; `None` takes the best there are.
    pub level: Option<SimdLevel>,
}

/// The decoder's operations on the CPU, on threads of its own.
///
/// ```
/// use oc_kernels::{Backend, Dtype, cpu::{CpuBackend, CpuOptions}};
///
/// let cpu = CpuBackend::new(CpuOptions { threads: 1, dtype: Dtype::F32, level: None })?;
/// let x = cpu.upload(&[3.0, 4.0], 1, 2)?;
/// let weight = cpu.upload(&[1.0, 1.0], 1, 2)?;
/// let mut out = cpu.tensor(1, 2)?;
/// cpu.set_rows(&mut out, 1)?;
/// cpu.rms_norm(&x, &weight, 0.0, &mut out)?;
/// assert!((cpu.download(&out)?[0] - 3.0 / 12.5_f32.sqrt()).abs() < 1e-6);
/// # Ok::<(), oc_kernels::Error>(())
/// ```
pub struct CpuBackend {
    level: SimdLevel,
    dtype: Dtype,
    threads: Threads,
    /// Products of gate and up, kept from one layer to the next.
    products: Mutex<Vec<f32>>,
    /// The place among the backends that share a model.
    member: Option<Member>,
}

impl CpuBackend {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the CPU lacks `level` or the threads cannot be started.
    pub fn new(options: CpuOptions) -> Result<Self> {
        let level = options.level.unwrap_or_else(SimdLevel::detect);
        if !level.is_supported() {
            return Err(Error::Unsupported(format!(
                "this CPU cannot run the {} kernels; the best it can is {}",
                level.name(),
                SimdLevel::detect().name()
            )));
        }
        if options.dtype == Dtype::F16 {
            return Err(Error::Unsupported("the CPU backend computes in f32, bf16 or int8, not in f16".into()));
        }
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if options.threads == 0 { available() } else { options.threads };
        let threads =
            Threads::new(threads).map_err(|e| Error::Unsupported(format!("cannot start {threads} threads: {e}")))?;
        Ok(Self { level, dtype: options.dtype, threads, products: Mutex::default(), member: None })
    }

    /// One of the backends that share a model.
    #[must_use]
    pub fn in_group(self, member: Member) -> Self {
        Self { member: Some(member), ..self }
    }

    /// The vector instructions in use.
    pub fn level(&self) -> SimdLevel {
        self.level
    }

    /// The threads in use.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }
}

/// Refuses an operand that is not `[rows, cols]`.
fn expect(what: &'static str, found: (usize, usize), wanted: (usize, usize)) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let shape = |(rows, cols)| format!("[{rows}, {cols}]");
    Err(Error::Shape { what, found: shape(found), wanted: shape(wanted) })
}

impl CpuTensor {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
}

/// A checked batch and the heads that read it.
pub struct CpuBatch {
    paged: PagedBatch,
    heads: Heads,
}

/// Checks what does not depend on the layer.
fn check_batch(batch: &PagedBatch, heads: Heads, kv: &CpuKvCache) -> Result<()> {
    let Heads { num_heads, num_kv_heads, head_dim } = heads;
    if num_kv_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) {
        return Err(Error::Shape {
            what: "attention: heads",
            found: format!("{num_heads} query heads"),
            wanted: format!("a multiple of {num_kv_heads} key/value heads"),
        });
    }
    expect(
        "attention: heads against the KV cache",
        (num_kv_heads, head_dim),
        (kv.layout.num_kv_heads, kv.layout.head_dim),
    )?;
    batch.check(kv.layout.num_pages)?;
    match (0..batch.num_seqs()).find(|seq| batch.is_padding(*seq)) {
        Some(seq) => Err(Error::Unsupported(format!("sequence {seq} of a batch is padding; the CPU backend has none"))),
        None => Ok(()),
    }
}

/// Checks what [`Backend::rotary_store_kv`] and [`Backend::attention`] share.
fn check_attention(qkv: &CpuTensor, batch: &CpuBatch, layer: usize, kv: &CpuKvCache) -> Result<()> {
    let CpuBatch { paged, heads } = batch;
    if layer >= kv.layout.num_layers {
        return Err(Error::Index { what: "attention: layer", index: layer, len: kv.layout.num_layers });
    }
    // The pool may be another than the one that the batch was made for.
    check_batch(paged, *heads, kv)?;
    expect("attention: qkv", qkv.shape(), (paged.num_tokens(), heads.qkv_cols()))
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Weight = PackedWeight;
    type KvCache = CpuKvCache;
    type Batch = CpuBatch;
    type Answers = Answers;

    fn info(&self) -> DeviceInfo {
        let level = self.level.name();
        DeviceInfo {
            name: format!("cpu ({level}, {} threads)", self.threads()),
            kind: kind_of_group(format!("cpu/{level}"), self.member.as_ref().map(Member::count)),
            dtype: self.dtype,
            storage: Storage::F32,
        }
    }

    fn tensor(&self, capacity: usize, cols: usize) -> Result<CpuTensor> {
        CpuTensor::new(capacity, cols)
    }

    fn residual(&self, capacity: usize, cols: usize) -> Result<CpuTensor> {
        self.tensor(capacity, cols)
    }

    fn set_rows(&self, tensor: &mut CpuTensor, rows: usize) -> Result<()> {
        if rows > tensor.capacity {
            let wanted = format!("at most {} rows, the capacity", tensor.capacity);
            return Err(Error::Shape { what: "set_rows", found: format!("{rows} rows"), wanted });
        }
        tensor.rows = rows;
        Ok(())
    }

    fn upload(&self, data: &[f32], rows: usize, cols: usize) -> Result<CpuTensor> {
        if rows.checked_mul(cols) != Some(data.len()) {
            let (found, wanted) = (format!("[{}]", data.len()), format!("[{rows}, {cols}]"));
            return Err(Error::Shape { what: "upload", found, wanted });
        }
        let mut tensor = CpuTensor::new(rows, cols)?;
        tensor.rows = rows;
        tensor.data_mut().copy_from_slice(data);
        Ok(tensor)
    }

    fn upload_residual(&self, data: &[f32], rows: usize, cols: usize) -> Result<CpuTensor> {
        self.upload(data, rows, cols)
    }

    fn download(&self, tensor: &CpuTensor) -> Result<Vec<f32>> {
        Ok(tensor.data().to_vec())
    }

    fn weight(&self, parts: &[WeightView<'_>]) -> Result<PackedWeight> {
        PackedWeight::pack(parts, self.dtype, self.level, &self.threads)
    }

    fn gated_weight(&self, gate: &WeightView<'_>, up: &WeightView<'_>) -> Result<PackedWeight> {
        expect("gated weight: up", (up.rows, up.cols), (gate.rows, gate.cols))?;
        self.weight(&[*gate, *up])
    }

    fn weight_bytes(&self, weight: &PackedWeight) -> usize {
        weight.bytes()
    }

    fn packed_bytes(&self, parts: &[(WeightFormat, usize)], cols: usize) -> usize {
        linear::packed_bytes(parts, cols, self.dtype, self.level)
    }

    fn kv_cache(&self, layout: KvLayout) -> Result<CpuKvCache> {
        CpuKvCache::new(layout, self.dtype)
    }

    fn kv_page_bytes(&self, layout: KvLayout) -> usize {
        kv_cache::page_bytes(layout, self.dtype)
    }

    fn batch(&self, batch: &PagedBatch, heads: Heads, kv: &CpuKvCache) -> Result<CpuBatch> {
        check_batch(batch, heads, kv)?;
        Ok(CpuBatch { paged: batch.clone(), heads })
    }

    fn embedding(&self, table: &PackedWeight, ids: &[u32], out: &mut CpuTensor) -> Result<()> {
        expect("embedding: output", out.shape(), (ids.len(), table.cols()))?;
        embedding::embedding(table, ids, out.data_mut())
    }

    fn gather_rows(&self, x: &CpuTensor, rows: &[u32], out: &mut CpuTensor) -> Result<()> {
        expect("gather_rows: output", out.shape(), (rows.len(), x.cols))?;
        gather_rows::gather_rows(x.data(), x.cols, rows, out.data_mut())
    }

    fn all_gather(&self, x: &CpuTensor, out: &mut CpuTensor) -> Result<()> {
        let member = self.member.as_ref().ok_or_else(alone)?;
        expect("all_gather: output", out.shape(), (member.count() * x.rows, x.cols))?;
        member.all_gather(bytemuck::cast_slice(x.data()).to_vec(), |parts| {
            let out: &mut [u8] = bytemuck::cast_slice_mut(out.data_mut());
            out.copy_from_slice(&parts.concat());
            Ok(())
        })
    }

    fn end_group(&self) {
        if let Some(member) = &self.member {
            member.end();
        }
    }

    fn convert(&self, x: &CpuTensor, out: &mut CpuTensor) -> Result<()> {
        expect("convert: output", out.shape(), x.shape())?;
        // Both are `f32`.
        out.data_mut().copy_from_slice(x.data());
        Ok(())
    }

    fn add(&self, x: &CpuTensor, residual: &mut CpuTensor) -> Result<()> {
        parts(residual.shape(), x.shape())?;
        add::add(&self.threads, x.data(), residual.data_mut());
        Ok(())
    }

    fn rms_norm(&self, x: &CpuTensor, weight: &CpuTensor, eps: f32, out: &mut CpuTensor) -> Result<()> {
        expect("rms_norm: weight", weight.shape(), (1, x.cols))?;
        expect("rms_norm: output", out.shape(), x.shape())?;
        rms_norm::rms_norm(self.level, &self.threads, x.data(), weight.data(), eps, out.data_mut());
        Ok(())
    }

    fn add_rms_norm(
        &self,
        x: &CpuTensor,
        residual: &mut CpuTensor,
        weight: &CpuTensor,
        eps: f32,
        out: &mut CpuTensor,
    ) -> Result<()> {
        expect("add_rms_norm: weight", weight.shape(), (1, x.cols))?;
        expect("add_rms_norm: residual", residual.shape(), x.shape())?;
        expect("add_rms_norm: output", out.shape(), x.shape())?;
        let (residual, out) = (residual.data_mut(), out.data_mut());
        add_rms_norm::add_rms_norm(self.level, &self.threads, x.data(), residual, weight.data(), eps, out);
        Ok(())
    }

    fn layer_norm(
        &self,
        x: &CpuTensor,
        weight: &CpuTensor,
        bias: Option<&CpuTensor>,
        eps: f32,
        out: &mut CpuTensor,
    ) -> Result<()> {
        expect("layer_norm: weight", weight.shape(), (1, x.cols))?;
        if let Some(bias) = bias {
            expect("layer_norm: bias", bias.shape(), (1, x.cols))?;
        }
        expect("layer_norm: output", out.shape(), x.shape())?;
        let bias = bias.map(CpuTensor::data);
        layer_norm::layer_norm(self.level, &self.threads, x.data(), weight.data(), bias, eps, out.data_mut());
        Ok(())
    }

    fn linear(
        &self,
        x: &CpuTensor,
        w: &PackedWeight,
        bias: Option<&CpuTensor>,
        epilogue: Epilogue,
        out: &mut CpuTensor,
    ) -> Result<()> {
        expect("linear: input", x.shape(), (x.rows, w.cols()))?;
        expect("linear: output", out.shape(), (x.rows, w.rows()))?;
        if let Some(bias) = bias {
            expect("linear: bias", bias.shape(), (1, w.rows()))?;
        }
        let (bias, accumulate) = (bias.map(CpuTensor::data), epilogue == Epilogue::Accumulate);
        linear::linear(x.data(), x.rows, w, 0..w.rows(), bias, accumulate, out.data_mut(), w.rows(), &self.threads)?;
        if let Some(activation) = epilogue.activation() {
            let products = out.data().to_vec();
            activate::activate(self.level, &self.threads, activation, &products, out.data_mut());
        }
        Ok(())
    }

    fn linear_silu_mul(&self, x: &CpuTensor, w: &PackedWeight, out: &mut CpuTensor) -> Result<()> {
        expect("linear_silu_mul: input", x.shape(), (x.rows, w.cols()))?;
        expect("linear_silu_mul: output", (out.rows, 2 * out.cols), (x.rows, w.rows()))?;
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        let len = x.rows * w.rows();
        if products.len() < len {
            products.resize(len, 0.0);
        }
        let products = &mut products[..len];
        linear::linear(x.data(), x.rows, w, 0..w.rows(), None, false, products, w.rows(), &self.threads)?;
        silu_mul::silu_mul(self.level, &self.threads, products, out.cols, out.data_mut());
        Ok(())
    }

    fn rotary_table(&self, segments: &[RotarySegment<'_>]) -> Result<CpuTensor> {
        let (table, rows, cols) = crate::rotary::table(segments)?;
        self.upload(&table, rows, cols)
    }

    fn rotary_store_kv(
        &self,
        qkv: &mut CpuTensor,
        table: &CpuTensor,
        batch: &CpuBatch,
        layer: usize,
        kv: &mut CpuKvCache,
    ) -> Result<()> {
        check_attention(qkv, batch, layer, kv)?;
        let (heads, batch) = (batch.heads, &batch.paged);
        expect("rotary_store_kv: table", table.shape(), (table.rows, heads.head_dim))?;
        if let Some(row) = batch.rotary_rows().iter().find(|row| **row as usize >= table.rows) {
            return Err(Error::Index { what: "rotary_store_kv: position", index: *row as usize, len: table.rows });
        }
        rotary::rotate(self.level, &self.threads, qkv.data_mut(), table, heads, batch.rotary_rows());
        rotary::store_kv(&self.threads, qkv.data(), heads, batch, layer, kv);
        Ok(())
    }

    fn attention(
        &self,
        qkv: &CpuTensor,
        batch: &CpuBatch,
        layer: usize,
        kv: &CpuKvCache,
        scale: f32,
        out: &mut CpuTensor,
    ) -> Result<()> {
        check_attention(qkv, batch, layer, kv)?;
        let (heads, batch) = (batch.heads, &batch.paged);
        expect("attention: output", out.shape(), (batch.num_tokens(), heads.q_cols()))?;
        attention::attention(self.level, &self.threads, qkv.data(), heads, batch, layer, kv, scale, out.data_mut());
        Ok(())
    }

    fn copy_pages(&self, pairs: &[(u32, u32)], kv: &mut CpuKvCache) -> Result<()> {
        check_page_copies(pairs, kv.layout.num_pages)?;
        copy_pages::copy_pages(pairs, kv);
        Ok(())
    }

    fn activate(&self, activation: Activation, x: &CpuTensor, out: &mut CpuTensor) -> Result<()> {
        expect("activate: output", out.shape(), x.shape())?;
        activate::activate(self.level, &self.threads, activation, x.data(), out.data_mut());
        Ok(())
    }

    fn silu_mul(&self, gate_up: &CpuTensor, out: &mut CpuTensor) -> Result<()> {
        expect("silu_mul: input", gate_up.shape(), (out.rows, 2 * out.cols))?;
        silu_mul::silu_mul(self.level, &self.threads, gate_up.data(), out.cols, out.data_mut());
        Ok(())
    }

    fn answers(&self, sampled: usize, scored: usize) -> Result<Answers> {
        Ok(Answers { sampled: Vec::with_capacity(sampled), scored: Vec::with_capacity(scored) })
    }

    fn queue_log_prob(
        &self,
        hidden: &CpuTensor,
        head: &PackedWeight,
        targets: &[u32],
        answers: &mut Answers,
    ) -> Result<()> {
        expect("log_prob: hidden", hidden.shape(), (targets.len(), head.cols()))?;
        if let Some(target) = targets.iter().find(|t| **t as usize >= head.rows()) {
            return Err(Error::Index { what: "log_prob: target", index: *target as usize, len: head.rows() });
        }
        answers.scored.extend(log_prob::log_prob(self.level, &self.threads, hidden.data(), head, targets)?);
        Ok(())
    }

    fn queue_sample(
        &self,
        hidden: &CpuTensor,
        head: &PackedWeight,
        how: &[Sampling],
        answers: &mut Answers,
    ) -> Result<()> {
        expect("sample: hidden", hidden.shape(), (how.len(), head.cols()))?;
        if head.rows() == 0 {
            return Err(Error::Shape { what: "sample: head", found: "0 tokens".into(), wanted: "a vocabulary".into() });
        }
        answers.sampled.extend(sample::sample(self.level, &self.threads, hidden.data(), head, how)?);
        Ok(())
    }

    fn collect(&self, answers: Answers) -> Result<Answers> {
        Ok(answers)
    }
}
