//! Compiles the kernels once per instruction set and picks the functions of a storage.

use super::kernel::{self, Kernel, STEP_BYTES, Single, Target};
use super::lanes::{self, Quads};
use super::quads;
use super::source::{self, Format, Halves, Quantized, Source};
use crate::cpu::SimdLevel;
use crate::{Dtype, WeightFormat};

/// [`kernel::dense`] or [`quads::dense`].
pub(super) type Dense = unsafe fn(*const u8, *const u32, usize, usize, usize, Target);
/// [`Kernel::convert`] or [`quads::convert`].
pub(super) type Convert = unsafe fn(*const f32, usize, *mut u32);
/// [`kernel::decode`] or [`quads::decode`].
pub(super) type Decode = unsafe fn(*const u8, usize, usize, *mut u8);
/// [`kernel::dot`] or [`quads::dot`].
pub(super) type Dot = unsafe fn(*const u8, usize, *const u32, Target);

/// The functions of one storage on one instruction set.
///
/// Calling them requires what their namesakes in `kernel.rs` and `quads.rs` require; the instruction set was checked by
/// [`select`].
#[derive(Clone, Copy)]
pub(super) struct Functions {
    /// A row of activations to words.
    pub convert: Convert,
    /// Many rows times decoded units.
    pub dense: Dense,
    /// Panel to decoded units, and one row times a panel; `None` where the panel already consists of decoded units.
    pub source: Option<(Decode, Dot)>,
    /// Bytes of a decoded unit of a panel.
    pub unit_bytes: usize,
}

/// What the product advances by: a step of the float kernels, or a unit of [`quads`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// Consecutive weights.
    pub k: usize,
    /// Words of converted activations.
    pub words: usize,
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
    fn source<K: Kernel, S: Source>() -> (Decode, Dot);
    fn quads<Q: Quads + quads::Tile, T: Format>() -> Functions;
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
                    x: *const u32,
                    x_stride: usize,
                    steps: usize,
                    rows: usize,
                    target: Target,
                ) {
                    // SAFETY: forwarded.
                    unsafe { kernel::dense::<K>(w, x, x_stride, steps, rows, target) }
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
            fn source<K: Kernel, S: Source>() -> (Decode, Dot) {
                /// # Safety
                /// As for [`kernel::decode`].
                $(#[$features])?
                unsafe fn decode<K: Kernel, S: Source>(panel: *const u8, from: usize, to: usize, dst: *mut u8) {
                    // SAFETY: forwarded.
                    unsafe { kernel::decode::<K, S>(panel, from, to, dst) }
                }
                /// # Safety
                /// As for [`kernel::dot`].
                $(#[$features])?
                unsafe fn dot<K: Kernel, S: Source>(panel: *const u8, k: usize, x: *const u32, target: Target) {
                    // SAFETY: forwarded.
                    unsafe { kernel::dot::<K, S>(panel, k, x, target) }
                }
                (decode::<K, S>, dot::<K, S>)
            }
            fn quads<Q: Quads + quads::Tile, T: Format>() -> Functions {
                /// # Safety
                /// As for [`quads::convert`].
                $(#[$features])?
                unsafe fn convert<Q: Quads>(x: *const f32, n: usize, words: *mut u32) {
                    // SAFETY: forwarded.
                    unsafe { quads::convert::<Q>(x, n, words) }
                }
                /// # Safety
                /// As for [`quads::dense`].
                $(#[$features])?
                unsafe fn dense<Q: Quads + quads::Tile, T: Format>(
                    w: *const u8,
                    x: *const u32,
                    x_stride: usize,
                    units: usize,
                    rows: usize,
                    target: Target,
                ) {
                    // SAFETY: forwarded.
                    unsafe { quads::dense::<Q, T>(w, x, x_stride, units, rows, target) }
                }
                /// # Safety
                /// As for [`quads::decode`].
                $(#[$features])?
                unsafe fn decode<Q: Quads, T: Format>(panel: *const u8, from: usize, to: usize, dst: *mut u8) {
                    // SAFETY: forwarded.
                    unsafe { quads::decode::<Q, T>(panel, from, to, dst) }
                }
                /// # Safety
                /// As for [`quads::dot`].
                $(#[$features])?
                unsafe fn dot<Q: Quads, T: Format>(panel: *const u8, k: usize, x: *const u32, target: Target) {
                    // SAFETY: forwarded.
                    unsafe { quads::dot::<Q, T>(panel, k, x, target) }
                }
                Functions {
                    convert: convert::<Q>,
                    dense: dense::<Q, T>,
                    source: Some((decode::<Q, T>, dot::<Q, T>)),
                    unit_bytes: quads::unit_bytes(T::SCHEME),
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
fn floats<I: Isa, K: Kernel>(storage: Storage) -> Functions {
    let source = match storage {
        Storage::Steps => None,
        Storage::Bf16 => Some(I::source::<K, Halves<true>>()),
        Storage::F16 => Some(I::source::<K, Halves<false>>()),
        Storage::Quantized(format) => Some(by_format!(format, T => I::source::<K, Quantized<T>>())),
    };
    Functions { convert: I::convert::<K>(), dense: I::dense::<K>(), source, unit_bytes: STEP_BYTES }
}

/// The functions for 8-bit products with a quantised `storage` on instruction set `I`.
fn bytes<I: Isa, Q: Quads + quads::Tile>(storage: Storage) -> Functions {
    let Storage::Quantized(format) = storage else { unreachable!("packed for 8-bit products as codes") };
    by_format!(format, T => I::quads::<Q, T>())
}

/// What products of `dtype` advance by at `level`.
pub(super) const fn unit(level: SimdLevel, dtype: Dtype) -> Unit {
    match (dtype, level) {
        (Dtype::Int8, _) => Unit { k: quads::UNIT, words: quads::UNIT_WORDS },
        (Dtype::Bf16, SimdLevel::Avx512Bf16) => Unit { k: 2, words: 1 },
        (Dtype::F32 | Dtype::Bf16, _) => Unit { k: 1, words: 1 },
    }
}

/// The functions for products of `dtype` with `storage` at `level`, which this machine must support.
pub(super) fn select(level: SimdLevel, dtype: Dtype, storage: Storage) -> Functions {
    match (level, dtype) {
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512Bf16, Dtype::Bf16) => floats::<IsaAvx512Bf16, kernel::Pairs>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512Bf16, Dtype::Int8) => bytes::<IsaAvx512Bf16, lanes::Avx512Vnni>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512 | SimdLevel::Avx512Bf16, Dtype::F32) => {
            floats::<IsaAvx512, Single<lanes::Avx512, false>>(storage)
        }
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512, Dtype::Bf16) => floats::<IsaAvx512, Single<lanes::Avx512, true>>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512, Dtype::Int8) => bytes::<IsaAvx512, lanes::Avx512>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx2, Dtype::F32) => floats::<IsaAvx2, Single<lanes::Avx2, false>>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx2, Dtype::Bf16) => floats::<IsaAvx2, Single<lanes::Avx2, true>>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx2, Dtype::Int8) => bytes::<IsaAvx2, lanes::Avx2>(storage),
        (_, Dtype::F32) => floats::<Baseline, Single<lanes::Portable, false>>(storage),
        (_, Dtype::Bf16) => floats::<Baseline, Single<lanes::Portable, true>>(storage),
        (_, Dtype::Int8) => bytes::<Baseline, lanes::Portable>(storage),
    }
}
