//! Compiles the kernels once per instruction set and picks the functions of a storage.

use super::blocks::{self, Product};
use super::kernel::{self, Computed, Kernel, Rows, STEP_BYTES, Single, Target};
use super::lanes;
#[cfg(target_arch = "x86_64")]
use super::pairs::Pairs;
use super::quads::Eight;
use super::source::{self, Format, Halves, Quantized, Source};
use crate::cpu::SimdLevel;
use crate::{Dtype, WeightFormat};

/// [`kernel::dense`] or [`blocks::dense`].
pub(super) type Dense = unsafe fn(*const u8, Rows, usize, usize, Target);
/// [`Kernel::convert`] or [`Product::convert`].
pub(super) type Convert = unsafe fn(*const f32, usize, *mut u32);
/// [`kernel::decode`] or [`blocks::decode`].
pub(super) type Decode = unsafe fn(*const u8, usize, usize, *mut u8);
/// [`kernel::dot`] or [`blocks::dot`].
pub(super) type Dot = unsafe fn(*const u8, usize, Rows, usize, Target);

/// The functions of one storage on one instruction set.
///
/// Calling them requires what their namesakes in `kernel.rs` and `blocks.rs` require; the instruction set was checked by
/// [`select`].
#[derive(Clone, Copy)]
pub(super) struct Functions {
    /// A row of activations to words.
    pub convert: Convert,
    /// Many rows times decoded weights.
    pub dense: Dense,
    /// Decoding of a panel, and up to `fused` rows times a panel; `None` where the panel already consists of decoded weights.
    pub source: Option<(Decode, Dot)>,
    /// Bytes of decoded weights of a panel per `k`.
    pub bytes_per_k: usize,
    /// Whether the kernels are those of `blocks.rs`.
    pub in_blocks: bool,
    /// For how many rows decoding and product are fused.
    pub fused: usize,
}

/// How activations are converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// Consecutive `k` per word.
    pub step: usize,
    /// Rows are padded to a multiple of this.
    pub pad: usize,
    /// Words on the side per unit of `blocks.rs`.
    pub side: usize,
}

impl Words {
    /// Words of a row of `cols` activations without those on the side, and with them.
    pub fn of(self, cols: usize) -> (usize, usize) {
        let words = cols.next_multiple_of(self.pad) / self.step;
        (words, words + cols.div_ceil(blocks::UNIT) * self.side)
    }
}

/// What a panel consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// Steps, ready to multiply.
    Steps,
    /// 16-bit floats to be widened to `f32`.
    Bf16,
    /// 16-bit floats to be widened to `f32`.
    F16,
    /// Quantised blocks.
    Quantized(WeightFormat),
}

/// An instruction set: the kernels compiled with its target features.
trait Isa {
    fn dense<K: Kernel>() -> Dense;
    fn convert<K: Kernel>() -> Convert;
    fn source<K: Computed, S: Source>() -> (Decode, Dot);
    fn blocks<P: Product, T: Format>() -> Functions;
}

macro_rules! isa {
    ($name:ident $(, $features:meta)?) => {
        struct $name;
        impl Isa for $name {
            fn dense<K: Kernel>() -> Dense {
                /// # Safety
                /// As for [`kernel::dense`].
                $(#[$features])?
                unsafe fn dense<K: Kernel>(
                    w: *const u8,
                    x: Rows,
                    k: usize,
                    rows: usize,
                    target: Target,
                ) {
                    // SAFETY: forwarded.
                    unsafe { kernel::dense::<K>(w, x, k, rows, target) }
                }
                dense::<K>
            }
            fn convert<K: Kernel>() -> Convert {
                /// # Safety
                /// As for [`Kernel::convert`].
                $(#[$features])?
                unsafe fn convert<K: Kernel>(x: *const f32, n: usize, words: *mut u32) {
                    // SAFETY: forwarded.
                    unsafe { K::convert(x, n, words) }
                }
                convert::<K>
            }
            fn source<K: Computed, S: Source>() -> (Decode, Dot) {
                /// # Safety
                /// As for [`kernel::decode`].
                $(#[$features])?
                unsafe fn decode<K: Computed, S: Source>(panel: *const u8, from: usize, to: usize, dst: *mut u8) {
                    // SAFETY: forwarded.
                    unsafe { kernel::decode::<K, S>(panel, from, to, dst) }
                }
                /// # Safety
                /// As for [`kernel::dot`].
                $(#[$features])?
                unsafe fn dot<K: Computed, S: Source>(
                    panel: *const u8,
                    k: usize,
                    x: Rows,
                    _: usize,
                    target: Target,
                ) {
                    // SAFETY: forwarded.
                    unsafe { kernel::dot::<K, S>(panel, k, x, target) }
                }
                (decode::<K, S>, dot::<K, S>)
            }
            fn blocks<P: Product, T: Format>() -> Functions {
                /// # Safety
                /// As for [`Product::convert`].
                $(#[$features])?
                unsafe fn convert<P: Product>(x: *const f32, n: usize, words: *mut u32) {
                    // SAFETY: forwarded.
                    unsafe { P::convert(x, n, words) }
                }
                /// # Safety
                /// As for [`blocks::dense`].
                $(#[$features])?
                unsafe fn dense<P: Product, T: Format>(
                    w: *const u8,
                    x: Rows,
                    k: usize,
                    rows: usize,
                    target: Target,
                ) {
                    // SAFETY: forwarded.
                    unsafe { blocks::dense::<P, T>(w, x, k, rows, target) }
                }
                /// # Safety
                /// As for [`blocks::decode`].
                $(#[$features])?
                unsafe fn decode<P: Product, T: Format>(panel: *const u8, from: usize, to: usize, dst: *mut u8) {
                    // SAFETY: forwarded.
                    unsafe { blocks::decode::<P, T>(panel, from, to, dst) }
                }
                /// # Safety
                /// As for [`blocks::dot`].
                $(#[$features])?
                unsafe fn dot<P: Product, T: Format>(
                    panel: *const u8,
                    k: usize,
                    x: Rows,
                    rows: usize,
                    target: Target,
                ) {
                    // SAFETY: forwarded.
                    unsafe { blocks::dot::<P, T>(panel, k, x, rows, target) }
                }
                Functions {
                    convert: convert::<P>,
                    dense: dense::<P, T>,
                    source: Some((decode::<P, T>, dot::<P, T>)),
                    bytes_per_k: blocks::bytes_per_k::<P>(T::SCHEME),
                    in_blocks: true,
                    fused: P::FUSED,
                }
            }
        }
    };
}

isa!(Baseline);
#[cfg(target_arch = "x86_64")]
isa!(IsaAvx2, target_feature(enable = "avx2,fma,f16c"));
#[cfg(target_arch = "x86_64")]
isa!(IsaAvx512, target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"));
#[cfg(target_arch = "x86_64")]
isa!(IsaAvx512Bf16, target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni"));

/// `$f::<.., source::$format>()` of a quantised format.
macro_rules! by_format {
    ($format:expr, $t:ident => $call:expr) => {
        match $format {
            WeightFormat::Q4_0 => {
                type $t = source::Q4_0;
                $call
            }
            WeightFormat::Q4_1 => {
                type $t = source::Q4_1;
                $call
            }
            WeightFormat::Q5_0 => {
                type $t = source::Q5_0;
                $call
            }
            WeightFormat::Q5_1 => {
                type $t = source::Q5_1;
                $call
            }
            WeightFormat::Q8_0 => {
                type $t = source::Q8_0;
                $call
            }
            WeightFormat::Q4K => {
                type $t = source::Q4K;
                $call
            }
            WeightFormat::Q5K => {
                type $t = source::Q5K;
                $call
            }
            WeightFormat::Q6K => {
                type $t = source::Q6K;
                $call
            }
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => unreachable!("not quantised"),
        }
    };
}

/// The functions for `storage` on instruction set `I` with product `K`.
fn floats<I: Isa, K: Computed>(storage: Storage) -> Functions {
    let source = match storage {
        Storage::Steps => None,
        Storage::Bf16 => Some(I::source::<K, Halves<true>>()),
        Storage::F16 => Some(I::source::<K, Halves<false>>()),
        Storage::Quantized(format) => Some(by_format!(format, T => I::source::<K, Quantized<T>>())),
    };
    Functions {
        convert: I::convert::<K>(),
        dense: I::dense::<K>(),
        source,
        bytes_per_k: STEP_BYTES,
        in_blocks: false,
        fused: 1,
    }
}

/// The functions for products of blocks with a quantised `storage` on instruction set `I`.
fn codes<I: Isa, P: Product>(storage: Storage) -> Functions {
    let Storage::Quantized(format) = storage else { unreachable!("packed as codes") };
    by_format!(format, T => I::blocks::<P, T>())
}

/// How activations are converted for products of `dtype` at `level`.
pub(super) const fn words(level: SimdLevel, dtype: Dtype) -> Words {
    match (dtype, level) {
        (Dtype::Int8, _) => Words { step: 4, pad: blocks::UNIT, side: 4 },
        (Dtype::Bf16, SimdLevel::Avx512Bf16) => Words { step: 2, pad: 2, side: 2 },
        (Dtype::F32 | Dtype::Bf16 | Dtype::F16, _) => Words { step: 1, pad: 2, side: 0 },
    }
}

/// The functions for products of bf16 pairs with `storage` on instruction set `I`.
#[cfg(target_arch = "x86_64")]
fn pairs<I: Isa>(storage: Storage) -> Functions {
    match storage {
        Storage::Quantized(_) => codes::<I, Pairs>(storage),
        Storage::Steps => Functions {
            // Parts of either storage share their activations.
            convert: I::blocks::<Pairs, source::Q8_0>().convert,
            dense: I::dense::<kernel::Pairs>(),
            source: None,
            bytes_per_k: STEP_BYTES / 2,
            in_blocks: false,
            fused: 1,
        },
        Storage::Bf16 | Storage::F16 => unreachable!("packed as steps"),
    }
}

/// The functions for products of `dtype` with `storage` at `level`, which this machine must support.
pub(super) fn select(level: SimdLevel, dtype: Dtype, storage: Storage) -> Functions {
    match (level, dtype) {
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512Bf16, Dtype::Bf16) => pairs::<IsaAvx512Bf16>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512Bf16, Dtype::Int8) => codes::<IsaAvx512Bf16, Eight<lanes::Avx512Vnni>>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512 | SimdLevel::Avx512Bf16, Dtype::F32) => {
            floats::<IsaAvx512, Single<lanes::Avx512, false>>(storage)
        }
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512, Dtype::Bf16) => floats::<IsaAvx512, Single<lanes::Avx512, true>>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512, Dtype::Int8) => codes::<IsaAvx512, Eight<lanes::Avx512>>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx2, Dtype::F32) => floats::<IsaAvx2, Single<lanes::Avx2, false>>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx2, Dtype::Bf16) => floats::<IsaAvx2, Single<lanes::Avx2, true>>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx2, Dtype::Int8) => codes::<IsaAvx2, Eight<lanes::Avx2>>(storage),
        (_, Dtype::F32) => floats::<Baseline, Single<lanes::Portable, false>>(storage),
        (_, Dtype::Bf16) => floats::<Baseline, Single<lanes::Portable, true>>(storage),
        (_, Dtype::Int8) => codes::<Baseline, Eight<lanes::Portable>>(storage),
        (_, Dtype::F16) => unreachable!("refused when packing"),
    }
}
