//! The registry: one row per operation, from which tests and benchmarks follow.
//!
//! A row says which problems to try, what they cost at least, and how to run and check one on any [`Backend`]. The
//! reference of an operation, and its row, live in `reference/<op>.rs`.

use crate::{Backend, DeviceInfo, Dtype, Heads, Result, Storage, WeightFormat, reference};

/// One operation. `B` is the backend it is tried on.
pub struct Op<B: Backend> {
    /// Method of [`Backend`] that it exercises.
    pub name: &'static str,
    /// Problems of a real model, for benchmarks.
    pub model_shapes: fn(&Workload<'_>) -> Vec<Shape>,
    /// A small random problem, edge cases included, for tests.
    pub random_shape: fn(&mut Rng) -> Shape,
    /// Whether a step of a model reads the main input from memory (weights, KV cache) rather than from the caches, where
    /// the operation before left it (activations).
    pub streams: bool,
    /// The least that a problem costs where activations are kept in `Storage`; see [`Op::cost_on`].
    pub cost: fn(&Shape, Dtype, Storage) -> Cost,
    /// Largest acceptable [`Trial::error`] where activations are `f32`; see [`Op::tolerance_on`].
    pub tolerance: fn(&Shape, Dtype) -> f64,
    /// Uploads random inputs: `copies` equal-sized sets, so that a benchmark can walk past the caches.
    pub trial: for<'a> fn(&'a B, &Shape, seed: u64, copies: usize) -> Result<BoxedTrial<'a>>,
}

impl<B: Backend> Op<B> {
    /// The least that a problem costs on `backend`.
    pub fn cost_on(&self, backend: &B, shape: &Shape) -> Cost {
        let DeviceInfo { dtype, storage, .. } = backend.info();
        (self.cost)(shape, dtype, storage)
    }

    /// Largest acceptable [`Trial::error`] on `backend`: where activations are kept in 16 bits, results are rounded.
    pub fn tolerance_on(&self, backend: &B, shape: &Shape) -> f64 {
        let DeviceInfo { dtype, storage, .. } = backend.info();
        let rounding = if storage == Storage::F32 { 0.0 } else { 1.02 * storage.half_ulp() };
        (self.tolerance)(shape, dtype) + rounding
    }
}

/// Every operation of [`Backend`] that computes.
pub fn all<B: Backend>() -> Vec<Op<B>> {
    vec![
        reference::embedding::op(),
        reference::gather_rows::op(),
        reference::convert::op(),
        reference::add::op(),
        reference::add::parts_op(),
        reference::rms_norm::op(),
        reference::add_rms_norm::op(),
        reference::layer_norm::op(),
        reference::linear::op(),
        reference::linear_silu_mul::op(),
        reference::rotary::op(),
        reference::attention::op(),
        reference::silu_mul::op(),
        reference::activate::gelu_op(),
        reference::activate::relu_op(),
        reference::copy_pages::op(),
        reference::log_prob::op(),
        reference::sample::op(),
    ]
}

/// A trial on a borrowed backend.
pub type BoxedTrial<'a> = Box<dyn Trial + 'a>;

/// Inputs of one problem on a device.
pub trait Trial {
    /// Runs the operation once on input set `copy`.
    ///
    /// # Errors
    /// Whatever the backend refuses.
    fn run(&mut self, copy: usize) -> Result<()>;

    /// Runs input set 0 and compares with the `f64` reference, on a subset of a large problem: the largest error of
    /// an element, relative to the magnitude of what was summed. NaN when the output has a NaN.
    ///
    /// # Errors
    /// Whatever the backend refuses.
    fn error(&mut self) -> Result<f64>;
}

/// The sizes of a problem.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A matrix of activations `[rows, cols]`.
    Rows {
        /// Tokens.
        rows: usize,
        /// Elements of an output row.
        cols: usize,
    },
    /// A product with a weight `[cols, inner]`: linear layer, embedding table or LM head.
    Matrix {
        /// Tokens.
        rows: usize,
        /// Input features.
        inner: usize,
        /// Output features, or the vocabulary.
        cols: usize,
        /// Storage of the weight.
        format: WeightFormat,
    },
    /// Sequences `(new tokens, context)` over the paged cache.
    Attention {
        /// Heads of the layer.
        heads: Heads,
        /// New tokens, and tokens in the context, the new ones included.
        sequences: Vec<(usize, usize)>,
        /// Leading tokens that all sequences have in common, in the same pages: a multiple of the page size, and less
        /// than what any sequence has before its new tokens.
        shared: usize,
    },
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rows { rows, cols } => write!(f, "{rows}×{cols}"),
            Self::Matrix { rows, inner, cols, format } => write!(f, "{rows}×{inner}×{cols} {}", format.name()),
            Self::Attention { heads, sequences, shared } => {
                let Heads { num_heads, num_kv_heads, head_dim } = heads;
                write!(f, "{num_heads}/{num_kv_heads}×{head_dim}")?;
                match sequences.as_slice() {
                    [(new, context), rest @ ..] if rest.iter().all(|s| s == &sequences[0]) => {
                        write!(f, " {}×{new}@{context}", sequences.len())?;
                    }
                    _ => write!(f, " {sequences:?}")?,
                }
                if *shared > 0 { write!(f, " ({shared} shared)") } else { Ok(()) }
            }
        }
    }
}

/// What a problem needs at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Bytes read once and written once.
    pub bytes: f64,
    /// Floating-point (or integer) operations.
    pub flops: f64,
    /// Which arithmetic does them.
    pub unit: Unit,
}

/// Arithmetic with a peak of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `f32` multiply-add.
    F32,
    /// bf16 (or f16) products, `f32` sums.
    Bf16,
    /// 8-bit products, `i32` sums.
    Int8,
}

impl Unit {
    /// What matrix products of `dtype` with a weight run on.
    pub const fn of_products(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 | Dtype::F16 => Self::Bf16,
            Dtype::Int8 => Self::Int8,
        }
    }
}

/// What the device can do at most, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// `f32` multiply-add, 10^9 operations a second (an addition and a multiplication count two).
    pub f32_gflops: f64,
    /// bf16 products with `f32` sums.
    pub bf16_gflops: f64,
    /// 8-bit products with `i32` sums.
    pub int8_gops: f64,
    /// Streaming read from memory, 10^9 bytes a second.
    pub read_gbps: f64,
    /// The same from the second-level caches.
    pub cache_gbps: f64,
}

/// What sets the floor of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Bandwidth of the memory.
    Memory,
    /// Bandwidth of the caches.
    Cache,
    /// Arithmetic.
    Arithmetic,
}

impl Bound {
    /// The word used in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cache => "cache",
            Self::Arithmetic => "arithmetic",
        }
    }
}

impl Peaks {
    /// Seconds below which a problem cannot be done whose bytes come from memory or else from the caches, and why.
    pub fn floor(&self, cost: &Cost, from_memory: bool) -> (f64, Bound) {
        let (gbps, bound) = if from_memory { (self.read_gbps, Bound::Memory) } else { (self.cache_gbps, Bound::Cache) };
        let (transfer, arithmetic) = (cost.bytes / gbps * 1e-9, self.arithmetic_seconds(cost));
        if transfer > arithmetic { (transfer, bound) } else { (arithmetic, Bound::Arithmetic) }
    }

    fn arithmetic_seconds(&self, cost: &Cost) -> f64 {
        let gflops = match cost.unit {
            Unit::F32 => self.f32_gflops,
            Unit::Bf16 => self.bf16_gflops,
            Unit::Int8 => self.int8_gops,
        };
        cost.flops / gflops * 1e-9
    }
}

/// The numbers of a model that decide its shapes.
#[derive(Clone, Copy, Debug)]
pub struct ModelShape {
    /// Name.
    pub name: &'static str,
    /// `hidden_size`.
    pub hidden: usize,
    /// `intermediate_size`.
    pub intermediate: usize,
    /// Attention heads.
    pub heads: Heads,
    /// `vocab_size`.
    pub vocab: usize,
}

const fn heads(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Heads {
    Heads { num_heads, num_kv_heads, head_dim }
}

/// The models whose shapes are benchmarked, from their `config.json`.
#[rustfmt::skip]
pub const MODELS: [ModelShape; 5] = [
    ModelShape { name: "SmolLM2-135M", hidden: 576, intermediate: 1536, heads: heads(9, 3, 64), vocab: 49152 },
    ModelShape { name: "Qwen2-0.5B", hidden: 896, intermediate: 4864, heads: heads(14, 2, 64), vocab: 151_936 },
    ModelShape { name: "InternLM2-7B", hidden: 4096, intermediate: 14336, heads: heads(32, 8, 128), vocab: 92544 },
    ModelShape { name: "InternLM-7B", hidden: 4096, intermediate: 11008, heads: heads(32, 32, 128), vocab: 103_168 },
    ModelShape { name: "InternLM-20B", hidden: 5120, intermediate: 13824, heads: heads(40, 40, 128), vocab: 103_168 },
];

/// What a benchmark asks of an operation: the shapes that one step of a model makes it run.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// The model.
    pub model: &'a ModelShape,
    /// Tokens of the step: 1 is the decode step of one sequence.
    pub rows: usize,
    /// Storage formats of its weights.
    pub formats: &'a [WeightFormat],
}

impl Workload<'_> {
    /// `[rows, inner]` times `[cols, inner]` in every format that can store rows of `inner` weights.
    pub fn products(&self, rows: usize, inner: usize, cols: usize) -> impl Iterator<Item = Shape> {
        let formats = self.formats.iter().filter(move |format| inner.is_multiple_of(format.block_len()));
        formats.map(move |format| Shape::Matrix { rows, inner, cols, format: *format })
    }
}

/// Random numbers for test inputs: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`, `n > 0`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// One of `options`.
    pub fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())]
    }

    /// Uniform in `[-1, 1)`.
    pub fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `n` numbers in `[-scale, scale)`.
    pub fn vec(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.signed() * scale).collect()
    }

    /// `n` numbers in `[-scale, scale)` that `backend` keeps as they are.
    pub fn stored<B: Backend>(&mut self, backend: &B, n: usize, scale: f32) -> Vec<f32> {
        let storage = backend.info().storage;
        (0..n).map(|_| storage.round(self.signed() * scale)).collect()
    }

    /// `0..n` in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut out: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            out.swap(i, self.below(i + 1));
        }
        out
    }

    /// The bytes of a random weight `[rows, cols]` whose elements are about `scale`.
    pub fn weight(&mut self, format: WeightFormat, rows: usize, cols: usize, scale: f32) -> Vec<u8> {
        use half::{bf16, f16};
        let n = rows * cols;
        match format {
            WeightFormat::F32 => return (0..n).flat_map(|_| (self.signed() * scale).to_le_bytes()).collect(),
            WeightFormat::F16 => {
                return (0..n).flat_map(|_| f16::from_f32(self.signed() * scale).to_le_bytes()).collect();
            }
            WeightFormat::Bf16 => {
                return (0..n).flat_map(|_| bf16::from_f32(self.signed() * scale).to_le_bytes()).collect();
            }
            _ => {}
        }
        // Quantised blocks: random codes, then scales that bring the largest code to about `scale`.
        let (block_len, block_bytes) = (format.block_len(), format.block_bytes());
        let mut out: Vec<u8> =
            (0..(n / block_len * block_bytes).div_ceil(8)).flat_map(|_| self.bits().to_le_bytes()).collect();
        out.truncate(n / block_len * block_bytes);
        // (byte of the scale, largest code, byte of the minimum and its factor)
        let (at, largest, minimum) = match format {
            WeightFormat::Q4_0 => (0, 8.0, None),
            WeightFormat::Q4_1 => (0, 8.0, Some((2, -8.0))),
            WeightFormat::Q5_0 => (0, 16.0, None),
            WeightFormat::Q5_1 => (0, 16.0, Some((2, -16.0))),
            WeightFormat::Q8_0 => (0, 128.0, None),
            WeightFormat::Q4K => (0, 63.0 * 8.0, Some((2, 8.0))),
            WeightFormat::Q5K => (0, 63.0 * 16.0, Some((2, 16.0))),
            _ => (208, 128.0 * 32.0, None),
        };
        for block in out.chunks_exact_mut(block_bytes) {
            let step = scale * (0.75 + 0.25 * self.signed()) / largest;
            block[at..at + 2].copy_from_slice(&f16::from_f32(step).to_le_bytes());
            if let Some((at, factor)) = minimum {
                block[at..at + 2].copy_from_slice(&f16::from_f32(step * factor).to_le_bytes());
            }
        }
        out
    }
}

/// An output `[rows, cols]` full of NaN, which whatever is not written leaves.
///
/// # Errors
/// Whatever the backend refuses.
pub fn poisoned<B: Backend>(backend: &B, rows: usize, cols: usize) -> Result<B::Tensor> {
    backend.upload(&vec![f32::NAN; rows * cols], rows, cols)
}

/// As [`poisoned`], of a residual stream.
///
/// # Errors
/// Whatever the backend refuses.
pub fn poisoned_residual<B: Backend>(backend: &B, rows: usize, cols: usize) -> Result<B::Tensor> {
    backend.upload_residual(&vec![f32::NAN; rows * cols], rows, cols)
}

/// An error of the residual stream, which is `f32` on every backend: what is allowed for the rounding of activations is no
/// excuse above `tolerance`.
pub fn unrounded(error: f64, tolerance: f64) -> f64 {
    if error <= tolerance { error } else { f64::INFINITY }
}

/// At most `limit` of `0..n`, spread evenly, the first and the last among them.
pub fn subset(n: usize, limit: usize) -> impl Iterator<Item = usize> {
    let count = n.min(limit);
    (0..count).map(move |i| if count == n { i } else { i * (n - 1) / (count - 1).max(1) })
}

/// The larger error; NaN wins.
pub fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The least bytes that a weight of `format` takes, ready for products of `dtype`: floats may be kept in the type they
/// are multiplied in, and a backend with 16-bit activations keeps all weights like them.
pub fn stored_bytes(format: WeightFormat, dtype: Dtype, storage: Storage) -> f64 {
    if storage != Storage::F32 {
        return storage.bytes() as f64;
    }
    let format = match dtype {
        Dtype::Bf16 | Dtype::F16 if !format.is_quantized() => WeightFormat::Bf16,
        Dtype::Int8 if !format.is_quantized() => WeightFormat::Q8_0,
        _ => format,
    };
    format.block_bytes() as f64 / format.block_len() as f64
}

/// What the inputs of a product of floats become in `dtype`; for a linear layer in 8 bits see
/// [`reference::int8::rounded_row`].
pub fn rounded(x: f32, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => f64::from(x),
        Dtype::Bf16 | Dtype::Int8 => half::bf16::from_f32(x).to_f64(),
        Dtype::F16 => half::f16::from_f32(x).to_f64(),
    }
}

/// Largest difference, relative to the element wanted, or to the smallest number that `storage` keeps to full precision.
pub fn relative_error(got: &[f32], want: &[f64], storage: Storage) -> f64 {
    let smallest = storage.smallest_normal();
    let errors = got.iter().zip(want).map(|(got, want)| (f64::from(*got) - want).abs() / want.abs().max(smallest));
    errors.fold(0.0, |a, b| worse(b, a))
}

/// The sizes of a [`Shape::Rows`].
///
/// # Panics
/// For another shape: an operation's row makes its own shapes.
pub fn rows_of(shape: &Shape) -> (usize, usize) {
    match shape {
        Shape::Rows { rows, cols } => (*rows, *cols),
        _ => panic!("{shape} is no matrix of activations"),
    }
}

/// `rows, inner, cols, format` of a [`Shape::Matrix`].
///
/// # Panics
/// For another shape: an operation's row makes its own shapes.
pub fn matrix_of(shape: &Shape) -> (usize, usize, usize, WeightFormat) {
    match shape {
        Shape::Matrix { rows, inner, cols, format } => (*rows, *inner, *cols, *format),
        _ => panic!("{shape} is no product with a weight"),
    }
}

/// The heads, sequences and shared tokens of a [`Shape::Attention`].
///
/// # Panics
/// For another shape: an operation's row makes its own shapes.
pub fn attention_of(shape: &Shape) -> (Heads, &[(usize, usize)], usize) {
    match shape {
        Shape::Attention { heads, sequences, shared } => (*heads, sequences, *shared),
        _ => panic!("{shape} is no attention"),
    }
}

/// Cost of an operation on a [`Shape::Rows`] that reads and writes, per element of its output, `moved` elements of activations and
/// `residual` of the residual stream.
pub fn row_cost(shape: &Shape, storage: Storage, moved: f64, residual: f64, flops: f64) -> Cost {
    let (rows, cols) = rows_of(shape);
    let elements = (rows * cols) as f64;
    let bytes = moved * storage.bytes() as f64 + residual * Storage::F32.bytes() as f64;
    Cost { bytes: elements * bytes, flops: elements * flops, unit: Unit::F32 }
}
