//! Arithmetic on single values with PTX's rules: canonical NaNs, directed rounding, flushing, saturation.

/// The NaN that PTX's `f32` arithmetic gives.
pub(crate) const NAN32: u32 = 0x7fff_ffff;
/// The NaN that `f16` arithmetic gives.
pub(crate) const NAN16: u32 = 0x7fff;
/// The NaN that `f64` arithmetic gives.
pub(crate) const NAN64: u64 = 0x7fff_ffff_ffff_ffff;

/// Rounding modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    Rn,
    /// To nearest, ties away from zero.
    Rna,
    /// Towards zero.
    Rz,
    /// Towards minus infinity.
    Rm,
    /// Towards plus infinity.
    Rp,
}

#[inline(always)]
pub(crate) fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// Bits, NaN made canonical.
#[inline(always)]
pub(crate) fn canon(x: f32) -> u32 {
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

/// Bits, NaN made canonical.
#[inline(always)]
pub(crate) fn canon64(x: f64) -> u64 {
    if x.is_nan() { NAN64 } else { x.to_bits() }
}

/// Subnormal → zero of the same sign.
#[inline(always)]
pub(crate) fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// `.sat`: to 0..1, NaN to +0.
#[inline(always)]
pub(crate) fn saturate(bits: u32) -> u32 {
    let x = f(bits);
    // A NaN fails both comparisons, and so does -0.
    if x > 0.0 { if x < 1.0 { bits } else { 0x3f80_0000 } } else { 0 }
}

/// `a + b` in 53 bits, the last one set where bits were lost: rounding it again to fewer bits is exact in every mode.
#[inline(always)]
pub(crate) fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let other = sum - a;
    let error = (a - (sum - other)) + (b - other);
    odd(sum, error)
}

/// `sum + error`, where the error is less than an ulp, as in [`add_to_odd`].
#[inline(always)]
fn odd(sum: f64, error: f64) -> f64 {
    let bits = sum.to_bits();
    if error != 0.0 && bits & 1 == 0 && sum.is_finite() && error.is_finite() {
        // Towards the error: away from zero when the signs agree.
        let step = if (error > 0.0) == (sum > 0.0) { 1 } else { u64::MAX };
        return f64::from_bits(bits.wrapping_add(step));
    }
    sum
}

/// `a / b` as in [`add_to_odd`].
pub(crate) fn div_to_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if q == 0.0 || !q.is_finite() { q } else { odd(q, (-q).mul_add(b, a) / b) }
}

/// The square root as in [`add_to_odd`].
pub(crate) fn sqrt_to_odd(a: f64) -> f64 {
    let root = a.sqrt();
    if root == 0.0 || !root.is_finite() { root } else { odd(root, (-root).mul_add(root, a) / (2.0 * root)) }
}

/// `a * b + c` of `f32`, rounded once.
#[inline(always)]
pub(crate) fn fma_to_odd(a: f32, b: f32, c: f32) -> f64 {
    add_to_odd(f64::from(a) * f64::from(b), f64::from(c))
}

/// A binary float format of at most 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) exponent: u32,
    pub(crate) mantissa: u32,
}

/// `f32`
pub(crate) const F32: Format = Format { exponent: 8, mantissa: 23 };
/// `f16`
pub(crate) const F16: Format = Format { exponent: 5, mantissa: 10 };
/// `bf16`
pub(crate) const BF16: Format = Format { exponent: 8, mantissa: 7 };
/// `tf32`, its 19 bits without the 13 below.
pub(crate) const TF32: Format = Format { exponent: 8, mantissa: 10 };

/// Rounds to a smaller format, subnormals included. NaN becomes all ones but the sign.
pub(crate) fn round_to(x: f64, to: Format, mode: Rounding) -> u32 {
    let bits = x.to_bits();
    let sign = ((bits >> 63) as u32) << (to.exponent + to.mantissa);
    let negative = bits >> 63 == 1;
    let infinity = ((1 << to.exponent) - 1) << to.mantissa;
    if x.is_nan() {
        return (1 << (to.exponent + to.mantissa)) - 1;
    }
    if x.is_infinite() {
        return sign | infinity;
    }
    if x == 0.0 {
        return sign;
    }
    // A subnormal f64 is far below every format here; it only matters that it is not zero.
    let exponent = ((bits >> 52 & 0x7ff) as i32).max(1) - 1023;
    let significand = bits & ((1 << 52) - 1) | u64::from(bits >> 52 & 0x7ff != 0) << 52;
    let bias = (1 << (to.exponent - 1)) - 1;
    let smallest = 1 - bias;
    // How many bits of the significand are cut off.
    let cut = (52 - to.mantissa as i32 + (smallest - exponent).max(0)) as u32;
    let (kept, lost, half) =
        if cut > 63 { (0, 1, 2) } else { (significand >> cut, significand & ((1 << cut) - 1), 1_u64 << (cut - 1)) };
    let up = match mode {
        Rounding::Rn => lost > half || lost == half && kept & 1 == 1,
        Rounding::Rna => lost >= half,
        Rounding::Rz => false,
        Rounding::Rm => negative && lost > 0,
        Rounding::Rp => !negative && lost > 0,
    };
    let rounded = kept + u64::from(up);
    // With the hidden bit in it, adding the exponent less one carries over by itself.
    let biased = (exponent.max(smallest) + bias - 1) as u64;
    let value = (biased << to.mantissa) + rounded;
    if value >= u64::from(infinity) {
        let stays = match mode {
            Rounding::Rz => true,
            Rounding::Rm => !negative,
            Rounding::Rp => negative,
            Rounding::Rn | Rounding::Rna => false,
        };
        return sign | if stays { infinity - 1 } else { infinity };
    }
    sign | value as u32
}

/// Widens a value of a small format, exactly.
#[inline(always)]
pub(crate) fn widen_f16(bits: u32) -> f32 {
    let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7fff);
    // A subnormal is a count of units of 2^-24. Infinities and NaN need the largest exponent instead of a shifted one.
    let small = (magnitude as i32 as f32 * f(0x3380_0000)).to_bits();
    let offset = if magnitude >= 0x7c00 { 0x7000_0000 } else { 0x3800_0000 };
    let normal = (magnitude << 13) + offset;
    f(if magnitude < 0x400 { small } else { normal } | sign)
}

/// Widens a value of a small format, exactly.
#[inline(always)]
pub(crate) fn widen_bf16(bits: u32) -> f32 {
    f(bits << 16)
}

/// `f32` → `bf16` to nearest even.
#[inline(always)]
pub(crate) fn narrow_bf16(bits: u32) -> u32 {
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { NAN16 } else { rounded }
}

/// `f32` → `f16` to nearest even.
#[inline(always)]
pub(crate) fn narrow_f16(bits: u32) -> u32 {
    let x = f(bits);
    if x.is_nan() { NAN16 } else { u32::from(half::f16::from_f32(x).to_bits()) }
}

/// `min` (`max` with `MAX`): the other operand where one is NaN, -0 below +0.
#[inline(always)]
pub(crate) fn min_max<const MAX: bool, const NAN: bool>(a: u32, b: u32) -> u32 {
    let (x, y) = (f(a), f(b));
    if x.is_nan() || y.is_nan() {
        if NAN || (x.is_nan() && y.is_nan()) {
            return NAN32;
        }
        return if x.is_nan() { b } else { a };
    }
    // Equal: the same value, or zeros of two signs.
    let first = if x == y { (a >> 31 == 1) != MAX } else { (x < y) != MAX };
    if first { a } else { b }
}

/// As [`min_max`].
pub(crate) fn min_max64<const MAX: bool>(a: u64, b: u64) -> u64 {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => NAN64,
        (true, false) => b,
        (false, true) => a,
        _ => {
            let first = if x == y { (a >> 63 == 1) != MAX } else { (x < y) != MAX };
            if first { a } else { b }
        }
    }
}

/// `2^x`, exact to a few units of the last place of `f64`'s upper 40 bits; vectorises.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    // Beyond, every result is infinite or zero.
    let x = f64::from(x.clamp(-200.0, 200.0));
    // 1.5 · 2^52 rounds to an integer, which stands in the low bits.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    let shifted = x + MAGIC;
    let n = shifted - MAGIC;
    let y = (x - n) * std::f64::consts::LN_2;
    let mut p = 1.0 / 3_628_800.0;
    for c in
        [1.0 / 362_880.0, 1.0 / 40_320.0, 1.0 / 5_040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]
    {
        p = p * y + c;
    }
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    (p * scale) as f32
}
