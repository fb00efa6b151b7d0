//! Plain Rust: arrays and loops.

use std::array::from_fn;

use half::{bf16, f16};

use super::{Lanes, Quads};

/// Any CPU.
#[derive(Clone, Copy)]
pub(in crate::cpu::linear) struct Portable;

/// Reads `[T; 16]` of plain integers from `p`.
#[inline(always)]
unsafe fn read<T: Copy>(p: *const u8) -> [T; 16] {
    // SAFETY: the caller promises that `p` is valid for the size of the array; the read is unaligned.
    unsafe { p.cast::<[T; 16]>().read_unaligned() }
}

// The pointers are valid as `Lanes` demands; everything else here is safe.
impl Lanes for Portable {
    type F = [f32; 16];
    type U = [u32; 16];
    type Table = f32;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        [v; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: 64 readable bytes, as `Lanes::load` demands.
        unsafe { read(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: 64 writable bytes, as `Lanes::store` demands.
        unsafe { p.cast::<Self::F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn round_bf16(v: Self::F) -> Self::F {
        v.map(|v| bf16::from_f32(v).to_f32())
    }

    #[inline(always)]
    unsafe fn from_f16(p: *const u8) -> Self::F {
        // SAFETY: 32 readable bytes, as `Lanes::from_f16` demands.
        unsafe { read::<u16>(p) }.map(|b| f16::from_bits(u16::from_le(b)).to_f32())
    }
    #[inline(always)]
    unsafe fn from_bf16(p: *const u8) -> Self::F {
        // SAFETY: 32 readable bytes, as `Lanes::from_bf16` demands.
        unsafe { read::<u16>(p) }.map(|b| bf16::from_bits(u16::from_le(b)).to_f32())
    }
    #[inline(always)]
    unsafe fn from_u8(p: *const u8) -> Self::F {
        // SAFETY: 16 readable bytes, as `Lanes::from_u8` demands.
        unsafe { read::<u8>(p) }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn from_i8(p: *const u8) -> Self::F {
        // SAFETY: 16 readable bytes, as `Lanes::from_i8` demands.
        unsafe { read::<i8>(p) }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_u32(p: *const u8) -> Self::U {
        // SAFETY: 64 readable bytes, as `Lanes::load_u32` demands.
        unsafe { read::<u32>(p) }.map(u32::from_le)
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u8) -> Self::U {
        // SAFETY: 32 readable bytes, as `Lanes::load_u16` demands.
        unsafe { read::<u16>(p) }.map(|v| u32::from(u16::from_le(v)))
    }
    #[inline(always)]
    unsafe fn table(offset: f32) -> Self::Table {
        offset
    }
    #[inline(always)]
    unsafe fn nibble<const SHIFT: u32>(v: Self::U, table: Self::Table) -> Self::F {
        v.map(|v| (v >> SHIFT & 15) as f32 - table)
    }
    #[inline(always)]
    unsafe fn two_high_bits<const SHIFT: u32>(v: Self::U) -> Self::F {
        v.map(|v| ((v >> SHIFT & 3) << 4) as f32)
    }
    #[inline(always)]
    unsafe fn add_fifth_bit(v: Self::F, bits: u16) -> Self::F {
        from_fn(|i| v[i] + f32::from(bits >> i & 1) * 16.0)
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}

impl Quads for Portable {
    type L = Self;
    type I = [i32; 16];
    type B = [u8; 64];

    /// As integers, the bits of magnitudes are in the order of the magnitudes, NaN above all.
    #[inline(always)]
    unsafe fn largest(v: [[f32; 16]; 2]) -> f32 {
        let mut largest = 0;
        for v in v.as_flattened() {
            let bits = v.to_bits() & 0x7fff_ffff;
            largest = if bits > largest { bits } else { largest };
        }
        f32::from_bits(largest)
    }
    #[inline(always)]
    unsafe fn quantize(v: [f32; 16], factor: f32, codes: *mut i8) -> i32 {
        // Adding it leaves the nearest integer, ties to even, in the low bits.
        const ROUND: f32 = 1.5 * (1 << 23) as f32;
        let mut sum = 0;
        for (i, v) in v.iter().enumerate() {
            let code = (v * factor + ROUND).to_bits() as i8;
            // SAFETY: 16 writable bytes, as `Quads::quantize` demands.
            unsafe { *codes.add(i) = code };
            sum += i32::from(code);
        }
        sum
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> Self::I {
        [v; 16]
    }
    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> [f32; 16] {
        v.map(|v| v as f32)
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self::B {
        // SAFETY: 64 readable bytes, as `Quads::load` demands.
        unsafe { p.cast::<Self::B>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, v: Self::B) {
        // SAFETY: 64 writable bytes, as `Quads::store` demands.
        unsafe { p.cast::<Self::B>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, w: Self::B, x: u32) -> Self::I {
        let x = x.to_le_bytes().map(|x| i32::from(x as i8));
        from_fn(|i| acc[i] + (0..4).map(|j| i32::from(w[4 * i + j]) * x[j]).sum::<i32>())
    }

    #[inline(always)]
    unsafe fn nibbles<const HIGH: bool>(v: Self::B) -> Self::B {
        v.map(|v| if HIGH { v >> 4 } else { v & 15 })
    }
    #[inline(always)]
    unsafe fn or_fifth_bit(code: Self::B, bits: u64) -> Self::B {
        from_fn(|i| code[i] | ((bits >> i & 1) as u8) << 4)
    }
    #[inline(always)]
    unsafe fn or_two_bits<const I: u32>(code: Self::B, high: Self::B) -> Self::B {
        from_fn(|i| code[i] | (high[i] >> (2 * I) & 3) << 4)
    }
}
