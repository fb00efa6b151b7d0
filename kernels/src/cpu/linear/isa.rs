//! Compiles the kernels once per instruction set and picks the functions of a storage.

use super::kernel::{self, Kernel, Single, Target};
use super::lanes;
use super::source::{self, Halves, Quantized, Source};
use crate::WeightFormat;
use crate::cpu::SimdLevel;

/// [`kernel::dense`].
pub(super) type Dense = unsafe fn(*const u8, *const u32, usize, usize, usize, Target);
/// [`Kernel::convert`].
pub(super) type Convert = unsafe fn(*const f32, usize, *mut u32);
/// [`kernel::decode`].
pub(super) type Decode = unsafe fn(*const u8, usize, usize, *mut u8);
/// [`kernel::dot`].
pub(super) type Dot = unsafe fn(*const u8, usize, *const u32, Target);

/// The functions of one storage on one instruction set.
///
/// Calling them requires what their namesakes in `kernel.rs` require; the instruction set was checked by
/// [`select`].
#[derive(Clone, Copy)]
pub(super) struct Functions {
    /// A row of activations to words.
    pub convert: Convert,
    /// Many rows times steps.
    pub dense: Dense,
    /// Panel to steps, and one row times a panel; `None` where the panel already consists of steps.
    pub source: Option<(Decode, Dot)>,
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

/// The functions for `storage` on instruction set `I` with product `K`.
fn functions<I: Isa, K: Kernel>(storage: Storage) -> Functions {
    let source = match storage {
        Storage::Steps => None,
        Storage::Bf16 => Some(I::source::<K, Halves<true>>()),
        Storage::F16 => Some(I::source::<K, Halves<false>>()),
        Storage::Quantized(format) => Some(match format {
            WeightFormat::Q4_0 => I::source::<K, Quantized<source::Q4_0>>(),
            WeightFormat::Q4_1 => I::source::<K, Quantized<source::Q4_1>>(),
            WeightFormat::Q5_0 => I::source::<K, Quantized<source::Q5_0>>(),
            WeightFormat::Q5_1 => I::source::<K, Quantized<source::Q5_1>>(),
            WeightFormat::Q8_0 => I::source::<K, Quantized<source::Q8_0>>(),
            WeightFormat::Q4K => I::source::<K, Quantized<source::Q4K>>(),
            WeightFormat::Q5K => I::source::<K, Quantized<source::Q5K>>(),
            WeightFormat::Q6K => I::source::<K, Quantized<source::Q6K>>(),
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => unreachable!("not quantised"),
        }),
    };
    Functions { convert: I::convert::<K>(), dense: I::dense::<K>(), source }
}

/// Whether products of bf16-rounded inputs run on pairs at `level`.
pub(super) const fn has_pairs(level: SimdLevel) -> bool {
    matches!(level, SimdLevel::Avx512Bf16)
}

/// The functions for `storage` at `level`, which this machine must support; `bf16` asks for bf16-rounded inputs.
pub(super) fn select(level: SimdLevel, bf16: bool, storage: Storage) -> Functions {
    match (level, bf16) {
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512Bf16, true) => functions::<IsaAvx512Bf16, kernel::Pairs>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512 | SimdLevel::Avx512Bf16, false) => {
            functions::<IsaAvx512, Single<lanes::Avx512, false>>(storage)
        }
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx512, true) => functions::<IsaAvx512, Single<lanes::Avx512, true>>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx2, false) => functions::<IsaAvx2, Single<lanes::Avx2, false>>(storage),
        #[cfg(target_arch = "x86_64")]
        (SimdLevel::Avx2, true) => functions::<IsaAvx2, Single<lanes::Avx2, true>>(storage),
        (_, false) => functions::<Baseline, Single<lanes::Portable, false>>(storage),
        (_, true) => functions::<Baseline, Single<lanes::Portable, true>>(storage),
    }
}
