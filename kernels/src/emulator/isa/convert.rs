//! `cvt`: between integers and floats of every width.

use super::{
    Op, Row, Row64, Slot,
    lower::Lowerer,
    mods::Mods,
    num::{
        BF16, F16, F32, NAN16, NAN32, NAN64, Rounding, TF32, canon, f, flush, narrow_bf16, narrow_f16, round_to,
        saturate, widen_bf16, widen_f16,
    },
    rows::{row1, row2, rows},
};
use crate::emulator::{
    counters::Class,
    ptx::{Operand, PtxError, Ty},
};

type Lowered = Result<(Op, Class), PtxError>;

/// One conversion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Conversion {
    pub(crate) from: Ty,
    pub(crate) to: Ty,
    pub(crate) rounding: Option<Rounding>,
    /// Round to an integer, in the mode above.
    pub(crate) integral: bool,
    pub(crate) sat: bool,
    pub(crate) ftz: bool,
    pub(crate) relu: bool,
}

const ROUNDINGS: [(&str, (Rounding, bool)); 9] = [
    ("rn", (Rounding::Rn, false)),
    ("rna", (Rounding::Rna, false)),
    ("rz", (Rounding::Rz, false)),
    ("rm", (Rounding::Rm, false)),
    ("rp", (Rounding::Rp, false)),
    ("rni", (Rounding::Rn, true)),
    ("rzi", (Rounding::Rz, true)),
    ("rmi", (Rounding::Rm, true)),
    ("rpi", (Rounding::Rp, true)),
];

fn is_float(ty: Ty) -> bool {
    matches!(ty, Ty::F16 | Ty::Bf16 | Ty::F32 | Ty::F64)
}

/// Bits of the mantissa: what decides whether a conversion must round.
fn precision(ty: Ty) -> u32 {
    match ty {
        Ty::F64 => 52,
        Ty::F32 => 23,
        Ty::F16 | Ty::Tf32 => 10,
        _ => 7,
    }
}

pub(super) fn lower(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let (rounding, integral) = match m.one_of(&ROUNDINGS) {
        Some((mode, integral)) => (Some(mode), integral),
        None => (None, false),
    };
    let ftz = m.has("ftz");
    let relu = m.has("relu");
    let sat = m.has("sat");
    let (to, from) = (m.ty()?, m.ty()?);
    let how = Conversion { from, to, rounding, integral, sat, ftz, relu };
    check(m, how)?;
    if matches!(to, Ty::F16x2 | Ty::Bf16x2) {
        let [d, a, b] = l.operands(o)?;
        return Ok((Op::R2(pair(m, how)?, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?), Class::Integer));
    }
    let [d, a] = l.operands(o)?;
    // Registers may be wider than the types, for integers.
    let a = match a {
        Operand::Reg(_) => wide_register(l, m, a, from)?,
        _ => l.immediate(a, from.bytes().max(2))?,
    };
    let d = if *d == Operand::Sink { l.new_slot(to) } else { wide_register(l, m, d, to)? };
    Ok((fast(how, d, a).unwrap_or(Op::Convert { how, d, a }), Class::Integer))
}

fn wide_register(l: &mut Lowerer<'_>, m: &Mods<'_>, operand: &Operand, ty: Ty) -> Result<Slot, PtxError> {
    let (slot, register) = l.register(operand)?;
    let fits = if ty.is_int() { register.bytes() >= ty.bytes() } else { register.bytes() == ty.bytes() };
    if fits && register != Ty::Pred { Ok(slot) } else { m.error(format!("a register of type {register:?} for {ty:?}")) }
}

/// Whether the ISA has this combination.
fn check(m: &Mods<'_>, how: Conversion) -> Result<(), PtxError> {
    let Conversion { from, to, rounding, integral, sat, ftz, relu } = how;
    let narrow = matches!(to, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 | Ty::Tf32);
    if relu && !(narrow && from == Ty::F32) {
        return m.error("modifier `.relu` is not known here");
    }
    if ftz && from != Ty::F32 && to != Ty::F32 {
        return m.error("modifier `.ftz` is not known here");
    }
    let known = match (from, to) {
        (Ty::F32, Ty::F16x2 | Ty::Bf16x2) => {
            return match rounding {
                Some(Rounding::Rn | Rounding::Rz) if !integral && !sat && !ftz => Ok(()),
                _ => m.error("wanted .rn or .rz"),
            };
        }
        (Ty::F32, Ty::Tf32) => matches!(rounding, Some(Rounding::Rna | Rounding::Rn | Rounding::Rz)) && !integral,
        _ if rounding == Some(Rounding::Rna) => false,
        _ if from.is_int() && to.is_int() => rounding.is_none(),
        _ if from.is_int() && is_float(to) => rounding.is_some() && !integral,
        _ if is_float(from) && to.is_int() => rounding.is_some() && integral,
        _ if is_float(from) && is_float(to) => match precision(to).cmp(&precision(from)) {
            std::cmp::Ordering::Less => rounding.is_some() && !integral,
            std::cmp::Ordering::Equal => from == to && (rounding.is_none() || integral),
            std::cmp::Ordering::Greater => rounding.is_none(),
        },
        _ => false,
    };
    if known { Ok(()) } else { m.error("this conversion with this rounding is not known") }
}

/// The first operand becomes the upper half.
fn pair(m: &Mods<'_>, how: Conversion) -> Result<fn(&Row, &Row) -> Row, PtxError> {
    Ok(match (how.to, how.rounding, how.relu) {
        (Ty::Bf16x2, Some(Rounding::Rn), false) => row2!(|a, b| narrow_bf16(a) << 16 | narrow_bf16(b)),
        (Ty::F16x2, Some(Rounding::Rn), false) => row2!(|a, b| narrow_f16(a) << 16 | narrow_f16(b)),
        (Ty::Bf16x2, Some(Rounding::Rn), true) => row2!(|a, b| narrow_bf16(relu(a)) << 16 | narrow_bf16(relu(b))),
        (Ty::F16x2, Some(Rounding::Rn), true) => row2!(|a, b| narrow_f16(relu(a)) << 16 | narrow_f16(relu(b))),
        (Ty::Bf16x2, Some(Rounding::Rz), false) => row2!(|a, b| zero_bf16(a) << 16 | zero_bf16(b)),
        (Ty::F16x2, Some(Rounding::Rz), false) => row2!(|a, b| zero_f16(a) << 16 | zero_f16(b)),
        (Ty::Bf16x2, Some(Rounding::Rz), true) => row2!(|a, b| zero_bf16(relu(a)) << 16 | zero_bf16(relu(b))),
        (Ty::F16x2, Some(Rounding::Rz), true) => row2!(|a, b| zero_f16(relu(a)) << 16 | zero_f16(relu(b))),
        _ => return m.error("not known"),
    })
}

/// Negative → +0; NaN stays.
fn relu(bits: u32) -> u32 {
    if f(bits) <= 0.0 { 0 } else { bits }
}

fn zero_bf16(bits: u32) -> u32 {
    round_to(f64::from(f(bits)), BF16, Rounding::Rz)
}

fn zero_f16(bits: u32) -> u32 {
    round_to(f64::from(f(bits)), F16, Rounding::Rz)
}

/// The common ones as row functions, where the registers are as wide as the types.
fn fast(how: Conversion, d: Slot, a: Slot) -> Option<Op> {
    let Conversion { from, to, rounding, sat: false, relu: false, ftz: false, .. } = how else { return None };
    Some(match (d, a, to, from, rounding) {
        (Slot::Q(d), Slot::R(a), Ty::U64 | Ty::S64, Ty::U32, _) => {
            Op::Widen(rows!((Row) -> Row64, |a: u32| u64::from(a)), d, a)
        }
        (Slot::Q(d), Slot::R(a), Ty::U64 | Ty::S64, Ty::S32, _) => {
            Op::Widen(rows!((Row) -> Row64, |a: u32| i64::from(a as i32) as u64), d, a)
        }
        (Slot::R(d), Slot::Q(a), Ty::U32 | Ty::S32, Ty::U64 | Ty::S64, _) => {
            Op::Narrow(rows!((Row64) -> Row, |a: u64| a as u32), d, a)
        }
        (Slot::R(d), Slot::R(a), Ty::U16, Ty::U16 | Ty::S16 | Ty::U32 | Ty::S32, _)
        | (Slot::R(d), Slot::R(a), Ty::U32 | Ty::S32, Ty::U16, _) => Op::R1(row1!(|a: u32| a & 0xffff), d, a),
        (Slot::R(d), Slot::R(a), Ty::U32 | Ty::S32, Ty::S16, _) => {
            Op::R1(row1!(|a: u32| i32::from(a as u16 as i16) as u32), d, a)
        }
        (Slot::Q(d), Slot::R(a), Ty::U64 | Ty::S64, Ty::U16, _) => {
            Op::Widen(rows!((Row) -> Row64, |a: u32| u64::from(a & 0xffff)), d, a)
        }
        (Slot::R(d), Slot::R(a), Ty::F32, Ty::S32, Some(Rounding::Rn)) => {
            Op::R1(row1!(|a: u32| (a as i32 as f32).to_bits()), d, a)
        }
        (Slot::R(d), Slot::R(a), Ty::F32, Ty::U32, Some(Rounding::Rn)) => {
            Op::R1(row1!(|a: u32| (a as f32).to_bits()), d, a)
        }
        (Slot::R(d), Slot::R(a), Ty::F32, Ty::F16, _) => Op::R1(row1!(|a| canon(widen_f16(a))), d, a),
        (Slot::R(d), Slot::R(a), Ty::F16, Ty::F32, Some(Rounding::Rn)) => Op::R1(row1!(narrow_f16), d, a),
        (Slot::R(d), Slot::R(a), Ty::Bf16, Ty::F32, Some(Rounding::Rn)) => Op::R1(row1!(narrow_bf16), d, a),
        (Slot::R(d), Slot::R(a), Ty::S32, Ty::F32, Some(Rounding::Rz)) => {
            Op::R1(row1!(|a: u32| f(a) as i32 as u32), d, a)
        }
        _ => return None,
    })
}

impl Conversion {
    /// Of the register's bits.
    pub(crate) fn apply(&self, bits: u64) -> u64 {
        if self.from.is_int() { self.of_int(bits) } else { self.of_float(bits) }
    }

    fn of_int(&self, bits: u64) -> u64 {
        let width = self.from.bytes() as u32 * 8;
        let shift = 64 - width;
        let value = if self.from.is_signed() {
            i128::from((bits << shift) as i64 >> shift)
        } else {
            i128::from(bits << shift >> shift)
        };
        if self.to.is_int() {
            let value = if self.sat { clamp(value, self.to) } else { value };
            return self.extend(value);
        }
        let mode = self.rounding.unwrap_or(Rounding::Rn);
        let rounded = round_int(value, mode, self.to != Ty::F64);
        let out = self.float_result(rounded, mode);
        if self.sat { self.saturate(out) } else { out }
    }

    /// A result narrower than its register is extended by its own sign; the writer cuts what is too much.
    fn extend(&self, value: i128) -> u64 {
        let shift = 64 - self.to.bytes() as u32 * 8;
        let bits = value as u64;
        if self.to.is_signed() { ((bits << shift) as i64 >> shift) as u64 } else { bits << shift >> shift }
    }

    fn of_float(&self, bits: u64) -> u64 {
        let bits32 = if self.ftz && self.from == Ty::F32 { flush(bits as u32) } else { bits as u32 };
        let value = match self.from {
            Ty::F16 => f64::from(widen_f16(bits32 & 0xffff)),
            Ty::Bf16 => f64::from(widen_bf16(bits32 & 0xffff)),
            Ty::F32 => f64::from(f(bits32)),
            _ => f64::from_bits(bits),
        };
        let mode = self.rounding.unwrap_or(Rounding::Rn);
        let value = if self.integral { to_integral(value, mode) } else { value };
        if self.to.is_int() {
            if value.is_nan() {
                let wide = self.from == Ty::F64 || self.to.bytes() == 8;
                return if wide { 1 << (self.to.bytes() * 8 - 1) } else { 0 };
            }
            // `as` saturates, so the value fits whatever it was.
            return self.extend(clamp(value as i128, self.to));
        }
        let value = if self.relu && value <= 0.0 { 0.0 } else { value };
        let out = self.float_result(value, mode);
        if self.sat { self.saturate(out) } else { out }
    }

    /// `value`, exact or rounded to odd, in the result's format.
    fn float_result(&self, value: f64, mode: Rounding) -> u64 {
        u64::from(match self.to {
            Ty::F16 => round_to(value, F16, mode),
            Ty::Bf16 => round_to(value, BF16, mode),
            Ty::Tf32 if value.is_nan() => NAN32,
            Ty::Tf32 => round_to(value, TF32, mode) << 13,
            Ty::F32 if self.ftz => flush(round_to(value, F32, mode)),
            Ty::F32 => round_to(value, F32, mode),
            _ if value.is_nan() => return NAN64,
            _ => return value.to_bits(),
        })
    }

    fn saturate(&self, bits: u64) -> u64 {
        match self.to {
            Ty::F32 => u64::from(saturate(bits as u32)),
            Ty::F64 => {
                let x = f64::from_bits(bits);
                (if x > 0.0 { x.min(1.0) } else { 0.0 }).to_bits()
            }
            to => {
                let one = if to == Ty::F16 { 0x3c00 } else { 0x3f80 };
                let negative = bits >> 15 & 1 == 1;
                if negative || bits == u64::from(NAN16) { 0 } else { bits.min(one) }
            }
        }
    }
}

fn clamp(value: i128, to: Ty) -> i128 {
    let bits = to.bytes() as u32 * 8;
    if to.is_signed() {
        value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        value.clamp(0, (1 << bits) - 1)
    }
}

/// An integer as `f64`; where that is not exact, rounded to odd for a narrower result or by the mode for `f64` itself.
fn round_int(value: i128, mode: Rounding, to_odd: bool) -> f64 {
    let near = value as f64;
    let back = near as i128;
    if back == value {
        return near;
    }
    let (below, above) = if back < value { (near, near.next_up()) } else { (near.next_down(), near) };
    if to_odd {
        return if below.to_bits() & 1 == 1 { below } else { above };
    }
    match mode {
        Rounding::Rm => below,
        Rounding::Rp => above,
        Rounding::Rz if value > 0 => below,
        Rounding::Rz => above,
        Rounding::Rn | Rounding::Rna => near,
    }
}

fn to_integral(x: f64, mode: Rounding) -> f64 {
    match mode {
        Rounding::Rn => x.round_ties_even(),
        Rounding::Rna => x.round(),
        Rounding::Rz => x.trunc(),
        Rounding::Rm => x.floor(),
        Rounding::Rp => x.ceil(),
    }
}
