//! The contract between the engine and a device: the operations a decoder needs, their shapes and errors.
//!
//! Every backend keeps the numeric contract of `ARCHITECTURE.md`: a row of an output is a function of that row's
//! own inputs, the weights, the dtype and the device kind. It never depends on how many other rows there are, on
//! their order, on how a prompt was chunked, or on the number of threads.

use std::{collections::HashSet, ops::Range};

use crate::{Error, KvLayout, PagedBatch, Result, WeightFormat, WeightView};

/// What is computed with. Storage of weights is a matter of the model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// Activations, weights and KV cache in `f32`: reference quality.
    F32,
    /// Matrix products on activations rounded to bf16 with f32 accumulation; weights are rounded too, but quantised ones
    /// may be multiplied at their exact values. KV cache in bf16.
    Bf16,
    /// Matrix products of 8-bit activations, quantised row by row in blocks of 32, with the integer codes of the
    /// weights (float weights are quantised too), `i32` sums within a block and `f32` sums over blocks; see
    /// [`crate::reference::int8`]. Everything else as `Bf16`.
    Int8,
    /// As `Bf16`, with IEEE half precision; on CUDA only.
    F16,
}

impl Dtype {
    /// The spelling of `--dtype`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::F16 => "f16",
        }
    }
}

/// What a backend keeps activations in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// `f32`
    F32,
    /// bfloat16
    Bf16,
    /// IEEE half precision
    F16,
}

impl Storage {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The nearest number that can be stored, ties to even.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::Bf16 => half::bf16::from_f32(x).to_f32(),
            Self::F16 => half::f16::from_f32(x).to_f32(),
        }
    }

    /// The smallest number whose significand is whole: below it, rounding errors are absolute.
    pub const fn smallest_normal(self) -> f64 {
        match self {
            Self::F32 | Self::Bf16 => f32::MIN_POSITIVE as f64,
            Self::F16 => 1.0 / (1_u64 << 14) as f64,
        }
    }

    /// Largest relative error of [`Storage::round`] for numbers of ordinary size.
    pub const fn half_ulp(self) -> f64 {
        match self {
            Self::F32 => 1.0 / (1_u64 << 24) as f64,
            Self::Bf16 => 1.0 / (1_u64 << 8) as f64,
            Self::F16 => 1.0 / (1_u64 << 11) as f64,
        }
    }
}

/// What a backend says of itself.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// E.g. `cpu (avx512-bf16, 2 threads)`.
    pub name: String,
    /// What results depend on beside the dtype, e.g. `cpu/avx512-bf16`: equal kinds give equal bits.
    pub kind: String,
    /// What is computed with.
    pub dtype: Dtype,
    /// What activations are kept in: every operation rounds its output to it, but for the residual stream, which is `f32`.
    pub storage: Storage,
}

/// The number of parts, `[rows, cols]` each as `residual` is, that `x` is made of; [`Backend::add`] asks for one or more.
pub(crate) fn parts((rows, cols): (usize, usize), x: (usize, usize)) -> Result<usize> {
    let count = x.0.checked_div(rows).unwrap_or(1);
    if count > 0 && x == (count * rows, cols) {
        return Ok(count);
    }
    let (found, wanted) = (format!("[{rows}, {cols}]"), format!("rows and columns of the parts of [{}, {}]", x.0, x.1));
    Err(Error::Shape { what: "add: residual", found, wanted })
}

/// Checks what [`Backend::copy_pages`] asks of its pairs, in a pool of `num_pages`.
pub(crate) fn check_page_copies(pairs: &[(u32, u32)], num_pages: usize) -> Result<()> {
    let mut written = HashSet::new();
    for (from, to) in pairs {
        if let Some(page) = [from, to].into_iter().find(|page| **page as usize >= num_pages) {
            return Err(Error::Index { what: "copy_pages: page", index: *page as usize, len: num_pages });
        }
        if !written.insert(*to) {
            let found = format!("two copies to page {to}");
            return Err(Error::Shape { what: "copy_pages", found, wanted: "at most one".into() });
        }
    }
    match pairs.iter().find(|(from, _)| written.contains(from)) {
        Some((from, _)) => {
            let found = format!("page {from} both read and written");
            Err(Error::Shape { what: "copy_pages", found, wanted: "one of the two".into() })
        }
        None => Ok(()),
    }
}

/// Heads of one attention layer. A QKV row is `[q: num_heads * head_dim | k: num_kv_heads * head_dim | v: same]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

impl Heads {
    /// Columns of a packed QKV row.
    pub const fn qkv_cols(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    /// Columns of an attention output row.
    pub const fn q_cols(&self) -> usize {
        self.num_heads * self.head_dim
    }
}

/// What a linear layer does with its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = y`
    Store,
    /// `out += y`, of a residual stream.
    Accumulate,
    /// `out = max(y, 0)`
    Relu,
    /// `out = gelu(y)`, as [`Activation::Gelu`].
    Gelu,
}

impl Epilogue {
    /// The activation, if it is one.
    pub const fn activation(self) -> Option<Activation> {
        match self {
            Self::Store | Self::Accumulate => None,
            Self::Relu => Some(Activation::Relu),
            Self::Gelu => Some(Activation::Gelu),
        }
    }
}

/// An activation without a gate, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * (1 + erf(x / sqrt(2))) / 2`: the exact one, torch's default (arXiv 1606.08415).
    Gelu,
    /// `max(x, 0)`; NaN stays NaN.
    Relu,
}

impl Activation {
    /// The name used in registries and kernels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::Relu => "relu",
        }
    }
}

/// Consecutive rows of a rotary table that share their frequencies.
#[derive(Clone, Debug, PartialEq)]
pub struct RotarySegment<'a> {
    /// Angle per position of each pair of elements, scaling included. `[head_dim / 2]`
    pub inv_freq: &'a [f32],
    /// What cosines and sines are multiplied with.
    pub factor: f32,
    /// Positions, one row each.
    pub positions: Range<u32>,
}

/// How the next token of one row is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 means greedy: the first maximum.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Key of the counter-based random numbers.
    pub seed: u64,
    /// Counter: the index of the generated token within its sequence.
    pub counter: u64,
}

impl Sampling {
    /// The first maximum, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0, counter: 0 };

    /// Refuses parameters without a meaning; `row` is named in the error.
    pub(crate) fn check(&self, row: usize) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::Unsupported(format!(
                "sample: row {row} has temperature {}; use 0 (greedy) or a positive number",
                self.temperature
            )));
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return Err(Error::Unsupported(format!("sample: row {row} has top_p {}; use 0 to 1", self.top_p)));
        }
        Ok(())
    }

    /// The token that it chooses on the host from all `logits`, of which some, but not all, may be negative infinity: those
    /// are not chosen.
    pub fn choose(&self, logits: &[f32]) -> u32 {
        if self.temperature > 0.0 {
            return crate::cpu::choose(logits, self);
        }
        let best = logits.iter().enumerate().reduce(|best, one| if one.1 > best.1 { one } else { best });
        best.map_or(0, |(token, _)| token as u32)
    }

    /// Output `counter` of the SplitMix64 stream of `seed` (Steele, Lea and Flood, OOPSLA 2014): 53 random bits.
    pub(crate) fn random_bits(&self) -> u64 {
        let mix = |z: u64| {
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        // The seed is mixed first: neighbouring seeds would otherwise share most of their streams.
        let key = mix(self.seed.wrapping_add(STEP));
        mix(key.wrapping_add(self.counter.wrapping_add(1).wrapping_mul(STEP))) >> 11
    }
}

/// A chosen token and its log-probability under the untempered distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Token id.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// The log-probability of a given next token, and what greedy decoding would have chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogProb {
    /// `log_softmax(logits)[target]`.
    pub logprob: f32,
    /// First maximum of the logits.
    pub argmax: u32,
    /// `log_softmax(logits)[argmax]`.
    pub argmax_logprob: f32,
}

/// What was asked of the rows of a step, in the order of asking.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Of [`Backend::queue_sample`].
    pub sampled: Vec<Sampled>,
    /// Of [`Backend::queue_log_prob`].
    pub scored: Vec<TokenLogProb>,
}

/// The operations of a decoder on one device.
///
/// Activations are row-major matrices owned by the backend, whose element type is its own affair; the residual stream, which
/// sums up over all layers, is always `f32` ([`Backend::residual`]). Every method checks its shapes and returns
/// [`crate::Error::Shape`] rather than reading or writing out of bounds.
pub trait Backend: Send + Sync {
    /// A `[rows, cols]` matrix of activations, or a `[1, cols]` vector of parameters.
    type Tensor: Send + Sync;
    /// A weight matrix in the layout the GEMM reads.
    type Weight: Send + Sync;
    /// The paged key/value pool of all layers.
    type KvCache: Send + Sync;
    /// A [`PagedBatch`] where the operations of all layers find it, with what follows from it and the heads.
    type Batch: Send + Sync;
    /// [`Answers`] that are being computed.
    type Answers: Send;

    /// What this backend is.
    fn info(&self) -> DeviceInfo;

    /// Allocates activations with room for `capacity` rows and sets the row count to 0.
    fn tensor(&self, capacity: usize, cols: usize) -> Result<Self::Tensor>;
    /// As [`Backend::tensor`], for a residual stream, kept in `f32`. Operations take one where they say so; any may be gathered,
    /// or the output of a [linear layer](Backend::linear) without an activation.
    fn residual(&self, capacity: usize, cols: usize) -> Result<Self::Tensor>;
    /// Sets the row count, at most the capacity. The contents of rows are unspecified until written.
    fn set_rows(&self, tensor: &mut Self::Tensor, rows: usize) -> Result<()>;
    /// Uploads a `[rows, cols]` matrix of parameters or inputs.
    fn upload(&self, data: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// As [`Backend::upload`], of a residual stream.
    fn upload_residual(&self, data: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// Copies a matrix back, row-major.
    fn download(&self, tensor: &Self::Tensor) -> Result<Vec<f32>>;
    /// Packs matrices that share their input, stacked along the output: `[sum(rows), cols]`.
    fn weight(&self, parts: &[WeightView<'_>]) -> Result<Self::Weight>;
    /// Packs a gate and an up projection, `[rows, cols]` each, for [`Backend::linear_silu_mul`].
    fn gated_weight(&self, gate: &WeightView<'_>, up: &WeightView<'_>) -> Result<Self::Weight>;
    /// Bytes that a packed weight occupies on the device.
    fn weight_bytes(&self, weight: &Self::Weight) -> usize;
    /// Bytes that a weight of these parts, `(format, rows)` each, would occupy on the device.
    fn packed_bytes(&self, parts: &[(WeightFormat, usize)], cols: usize) -> usize;
    /// Allocates the KV pool.
    fn kv_cache(&self, layout: KvLayout) -> Result<Self::KvCache>;
    /// Bytes of KV per page over all layers.
    fn kv_page_bytes(&self, layout: KvLayout) -> usize;
    /// Checks and uploads a batch, once for all layers, whose heads are the same.
    fn batch(&self, batch: &PagedBatch, heads: Heads, kv: &Self::KvCache) -> Result<Self::Batch>;
    /// As [`Backend::batch`], for a step that will also use `lists` of indices (ids, rows, targets): while the batch lives,
    /// operations that are given one of them find it on the device, where it came in the same copy as the batch.
    fn step(&self, batch: &PagedBatch, lists: &[&[u32]], heads: Heads, kv: &Self::KvCache) -> Result<Self::Batch> {
        let _ = lists;
        self.batch(batch, heads, kv)
    }
    /// How many rows a step of `rows` generated tokens should have, counting [`PagedBatch::push_padding`]: a backend that
    /// records steps does so for few sizes. What a row computes does not depend on it.
    fn padded_rows(&self, rows: usize) -> usize {
        rows
    }
    /// Runs `work`, or what it did at an earlier call with a batch of the same form. `work` runs operations that depend on
    /// nothing but `batch` and on tensors, weights and a pool that are the same at every call; none of them takes indices or
    /// returns numbers. What `work` refuses is refused when it runs: a batch whose rows leave the rotary table must not come to
    /// a replay.
    fn replay<E: From<Error>>(&self, batch: &Self::Batch, work: &mut dyn FnMut() -> Result<(), E>) -> Result<(), E> {
        let _ = batch;
        work()
    }

    /// `out[r] = table[ids[r]]`. `out: [ids.len(), table.cols]`
    fn embedding(&self, table: &Self::Weight, ids: &[u32], out: &mut Self::Tensor) -> Result<()>;
    /// `out[i] = x[rows[i]]`: keeps only the rows somebody asked for.
    fn gather_rows(&self, x: &Self::Tensor, rows: &[u32], out: &mut Self::Tensor) -> Result<()>;
    /// Gathers the parts of all devices that [share a model](crate::collective) below one another, in their order. `x: [rows,
    /// cols]`, `out: [devices * rows, cols]`
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] on a device that is in no group, [`crate::Error::GroupEnded`] where it has ended.
    fn all_gather(&self, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;
    /// Ends the group that this device is in, if it is in one: no device of it waits for this one any more.
    fn end_group(&self);
    /// Memory of the device taken since it was opened, by this process or others, in bytes: most that was needed at a time, where
    /// what is freed is kept for later. `None` where memory is the host's.
    fn device_bytes_used(&self) -> Option<u64> {
        None
    }
    /// `out = x`, one of which is a residual stream and the other is not; rounded where activations have fewer bits.
    /// `x`, `out: [rows, cols]`
    fn convert(&self, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;
    /// `residual[r] += x[r] + x[rows + r] + ...`, element by element, one part of `x` after the other. `residual: [rows, cols]`, a
    /// residual stream; `x: [parts * rows, cols]`
    fn add(&self, x: &Self::Tensor, residual: &mut Self::Tensor) -> Result<()>;
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row (arXiv 1910.07467). `x`, a residual stream, and
    /// `out: [rows, cols]`, `weight: [1, cols]`
    fn rms_norm(&self, x: &Self::Tensor, weight: &Self::Tensor, eps: f32, out: &mut Self::Tensor) -> Result<()>;
    /// `residual += x; out = rms_norm(residual)`, row by row. `x`, `residual`, a residual stream, and `out: [rows, cols]`,
    /// `weight: [1, cols]`
    fn add_rms_norm(
        &self,
        x: &Self::Tensor,
        residual: &mut Self::Tensor,
        weight: &Self::Tensor,
        eps: f32,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, row by row (arXiv 1607.06450). `x`, a
    /// residual stream, and `out: [rows, cols]`, `weight`, `bias: [1, cols]`
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        eps: f32,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// `y = x · wᵀ + bias`, then what `epilogue` says.
    fn linear(
        &self,
        x: &Self::Tensor,
        w: &Self::Weight,
        bias: Option<&Self::Tensor>,
        epilogue: Epilogue,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// `out = silu(x · gateᵀ) * (x · upᵀ)` for a weight of [`Backend::gated_weight`]. `out: [x.rows, gate.rows]`
    fn linear_silu_mul(&self, x: &Self::Tensor, w: &Self::Weight, out: &mut Self::Tensor) -> Result<()>;
    /// Cosines and sines of `position * inv_freq`, times `factor`, of all positions of all segments in order, in `f32`
    /// whatever activations are kept in. Row layout `[cos: half | sin: half]`; segments have the same number of
    /// frequencies.
    fn rotary_table(&self, segments: &[RotarySegment<'_>]) -> Result<Self::Tensor>;
    /// Rotates the queries and keys of `qkv` in place (half-split pairs, arXiv 2104.09864 as in GPT-NeoX), and
    /// writes keys and values into their slots of layer `layer`; a row with [`NO_SLOT`](crate::NO_SLOT) is rotated and not written.
    /// `qkv: [num_tokens, heads.qkv_cols()]`
    fn rotary_store_kv(
        &self,
        qkv: &mut Self::Tensor,
        table: &Self::Tensor,
        batch: &Self::Batch,
        layer: usize,
        kv: &mut Self::KvCache,
    ) -> Result<()>;
    /// Causal attention of every row over its sequence's pages, `softmax(q·kᵀ * scale)·v`, grouped-query.
    /// `out: [num_tokens, num_heads * head_dim]`
    fn attention(
        &self,
        qkv: &Self::Tensor,
        batch: &Self::Batch,
        layer: usize,
        kv: &Self::KvCache,
        scale: f32,
        out: &mut Self::Tensor,
    ) -> Result<()>;
    /// Copies whole pages `(from, to)` over all layers, keys and values. No page is written that is also read or written
    /// by another pair; all tokens of a page that is read have been written.
    fn copy_pages(&self, pairs: &[(u32, u32)], kv: &mut Self::KvCache) -> Result<()>;
    /// `out = activation(x)`, element by element. `x`, `out: [rows, cols]`
    fn activate(&self, activation: Activation, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;
    /// `out = silu(gate) * up` where a row of `gate_up` is `[gate | up]`. `out: [rows, cols / 2]`
    fn silu_mul(&self, gate_up: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;
    /// Room for the answers of a step: `sampled` choices and `scored` log-probabilities.
    fn answers(&self, sampled: usize, scored: usize) -> Result<Self::Answers>;
    /// Asks for the log-softmax of `hidden · headᵀ`, gathered at `targets`, one per row; the logits never exist whole. A
    /// row that is not finite is an error here or in [`Backend::collect`].
    fn queue_log_prob(
        &self,
        hidden: &Self::Tensor,
        head: &Self::Weight,
        targets: &[u32],
        answers: &mut Self::Answers,
    ) -> Result<()>;
    /// Asks for one token per row, chosen from `hidden · headᵀ`; errors as for [`Backend::queue_log_prob`].
    fn queue_sample(
        &self,
        hidden: &Self::Tensor,
        head: &Self::Weight,
        how: &[Sampling],
        answers: &mut Self::Answers,
    ) -> Result<()>;
    /// Sets the answers on their way: [`Backend::collect`] will wait for nothing that is queued later. Nothing more is asked.
    fn queue_collect(&self, answers: &mut Self::Answers) -> Result<()> {
        let _ = answers;
        Ok(())
    }
    /// Whether a step may be queued while the answers of the one before are being computed, so that the device need not wait
    /// for the host: such a backend has [`Backend::sampled_ids`].
    fn runs_ahead(&self) -> bool {
        false
    }
    /// What stands for each token that `answers` will have sampled, in the order of asking, in ids that are given to
    /// [`Backend::embedding_after`] with these answers.
    fn sampled_ids(&self, answers: &Self::Answers) -> Vec<u32> {
        let _ = answers;
        Vec::new()
    }
    /// As [`Backend::embedding`]; `ids` may be tokens that `answers` will have sampled. What such an id leads to where the
    /// logits were not finite is unspecified: collecting the answers is an error then.
    fn embedding_after(
        &self,
        answers: &Self::Answers,
        table: &Self::Weight,
        ids: &[u32],
        out: &mut Self::Tensor,
    ) -> Result<()> {
        let _ = answers;
        self.embedding(table, ids, out)
    }
    /// Waits for the answers: the only wait of a step.
    fn collect(&self, answers: Self::Answers) -> Result<Answers>;

    /// [`Backend::queue_log_prob`], waited for.
    fn log_prob(&self, hidden: &Self::Tensor, head: &Self::Weight, targets: &[u32]) -> Result<Vec<TokenLogProb>> {
        let mut answers = self.answers(0, targets.len())?;
        self.queue_log_prob(hidden, head, targets, &mut answers)?;
        Ok(self.collect(answers)?.scored)
    }
    /// [`Backend::queue_sample`], waited for.
    fn sample(&self, hidden: &Self::Tensor, head: &Self::Weight, how: &[Sampling]) -> Result<Vec<Sampled>> {
        let mut answers = self.answers(how.len(), 0)?;
        self.queue_sample(hidden, head, how, &mut answers)?;
        Ok(self.collect(answers)?.sampled)
    }
}
