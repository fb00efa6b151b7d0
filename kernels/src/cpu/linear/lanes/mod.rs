//! Sixteen `f32` or `i32` lanes on each instruction set, so that every kernel is written once.
//!
//! The methods are plain `#[inline(always)]` functions: they take on the target features of the
//! `#[target_feature]` function (see `isa.rs`) into which they are inlined.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::{Avx512, Avx512Vnni};
pub(super) use portable::Portable;

/// Arithmetic on sixteen lanes.
///
/// # Safety
/// Every method requires that the CPU has the instruction set of the implementing type, and that a pointer
/// argument is valid for the bytes named in its method (no alignment is assumed).
pub(super) trait Lanes: Copy {
    /// Sixteen `f32`.
    type F: Copy;
    /// Sixteen `u32`.
    type U: Copy;
    /// What [`Lanes::nibble`] needs to turn a code into `code - offset`.
    type Table: Copy;

    unsafe fn splat(v: f32) -> Self::F;
    /// Reads 64 bytes.
    unsafe fn load(p: *const f32) -> Self::F;
    /// Writes 64 bytes.
    unsafe fn store(p: *mut f32, v: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, fused where the instruction set can.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Nearest bf16 value, ties to even.
    unsafe fn round_bf16(v: Self::F) -> Self::F;

    /// Sixteen `f16` (32 bytes).
    unsafe fn from_f16(p: *const u8) -> Self::F;
    /// Sixteen `bf16` (32 bytes).
    unsafe fn from_bf16(p: *const u8) -> Self::F;
    /// Sixteen `u8`.
    unsafe fn from_u8(p: *const u8) -> Self::F;
    /// Sixteen `i8`.
    unsafe fn from_i8(p: *const u8) -> Self::F;

    /// Sixteen `u32` (64 bytes).
    unsafe fn load_u32(p: *const u8) -> Self::U;
    /// Sixteen `u16`, widened (32 bytes).
    unsafe fn load_u16(p: *const u8) -> Self::U;
    unsafe fn table(offset: f32) -> Self::Table;
    /// `((v >> SHIFT) & 15) - offset`.
    unsafe fn nibble<const SHIFT: u32>(v: Self::U, table: Self::Table) -> Self::F;
    /// `16 * ((v >> SHIFT) & 3)`.
    unsafe fn two_high_bits<const SHIFT: u32>(v: Self::U) -> Self::F;
    /// `v + 16` in the lanes whose bit is set.
    unsafe fn add_fifth_bit(v: Self::F, bits: u16) -> Self::F;

    /// Hints that the cache line at `p` will be read soon. Any address is allowed.
    unsafe fn prefetch(p: *const u8);
}

/// Products of four consecutive `k` of sixteen columns: 64 unsigned bytes of weights times four signed bytes of
/// activations, summed in `i32`. The sums are exact: all instruction sets agree.
///
/// # Safety
/// As for [`Lanes`].
pub(super) trait Quads: Copy {
    /// The `f32` lanes beside it.
    type L: Lanes;
    /// Sixteen `i32`.
    type I: Copy;
    /// Sixty-four bytes.
    type B: Copy;

    /// The largest magnitude; infinite or NaN if any element is.
    unsafe fn largest(v: [<Self::L as Lanes>::F; 2]) -> f32;
    /// Writes the sixteen integers nearest to `v * factor`, ties to even, as signed bytes, and returns their sum. They
    /// must fit; without any meaning if an element is NaN.
    unsafe fn quantize(v: <Self::L as Lanes>::F, factor: f32, codes: *mut i8) -> i32;

    unsafe fn splat(v: i32) -> Self::I;
    unsafe fn to_f32(v: Self::I) -> <Self::L as Lanes>::F;
    /// Reads 64 bytes.
    unsafe fn load(p: *const u8) -> Self::B;
    /// Writes 64 bytes.
    unsafe fn store(p: *mut u8, v: Self::B);
    /// Lane `i` plus the products of the bytes `4 * i..4 * i + 4` of `w` with the four signed bytes of `x`.
    unsafe fn dot(acc: Self::I, w: Self::B, x: u32) -> Self::I;

    /// The low nibbles, or the high ones.
    unsafe fn nibbles<const HIGH: bool>(v: Self::B) -> Self::B;
    /// `code | 16` in the bytes whose bit is set.
    unsafe fn or_fifth_bit(code: Self::B, bits: u64) -> Self::B;
    /// `code | ((high >> 2 * I) & 3) << 4` in every byte.
    unsafe fn or_two_bits<const I: u32>(code: Self::B, high: Self::B) -> Self::B;
}
