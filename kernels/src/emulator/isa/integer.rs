//! Integer arithmetic and bit operations.

use super::{
    Op, Row, Row64, Slot,
    lower::Lowerer,
    mods::Mods,
    rows::{row1, row2, row3, rows},
};
use crate::emulator::{
    counters::Class,
    ptx::{Operand, PtxError, Ty},
};

type Lowered = Result<(Op, Class), PtxError>;

/// The low 16 bits, sign extended.
#[inline(always)]
fn s16(x: u32) -> i32 {
    i32::from(x as u16 as i16)
}

const LOW: u32 = 0xffff;

/// Arithmetic on 16, 32 or 64 bits.
pub(super) fn arithmetic(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let name = m.name;
    match name {
        "mul" => {
            let part = m.must("the part of the product", &[("lo", 'l'), ("hi", 'h'), ("wide", 'w')])?;
            let ty = m.ty()?;
            return multiply(l, m, o, part, ty);
        }
        "mad" => {
            let part = m.must("the part of the product", &[("lo", 'l'), ("hi", 'h'), ("wide", 'w')])?;
            let ty = m.ty()?;
            return multiply_add(l, m, o, part, ty);
        }
        _ => {}
    }
    let sat = m.has("sat");
    let ty = m.ty()?;
    if sat && !(matches!(name, "add" | "sub") && ty == Ty::S32) {
        return m.error(".sat is for .s32 only");
    }
    let op = match (name, ty.bytes()) {
        ("abs" | "neg", bytes) if ty.is_signed() => {
            let [d, a] = l.operands(o)?;
            match bytes {
                8 => {
                    let f = if name == "abs" {
                        rows!((Row64) -> Row64, |a: u64| (a as i64).wrapping_abs() as u64)
                    } else {
                        rows!((Row64) -> Row64, |a: u64| a.wrapping_neg())
                    };
                    Op::Q1(f, l.dq(d)?, l.q(a)?)
                }
                4 => {
                    let f = if name == "abs" {
                        row1!(|a: u32| (a as i32).wrapping_abs() as u32)
                    } else {
                        row1!(|a: u32| a.wrapping_neg())
                    };
                    Op::R1(f, l.dr(d, 4)?, l.r(a, 4)?)
                }
                _ => {
                    let f = if name == "abs" {
                        row1!(|a: u32| s16(a).wrapping_abs() as u32 & LOW)
                    } else {
                        row1!(|a: u32| a.wrapping_neg() & LOW)
                    };
                    Op::R1(f, l.dr(d, 2)?, l.r(a, 2)?)
                }
            }
        }
        (_, 8) => {
            let f = match (name, ty.is_signed()) {
                ("add", _) => rows!((Row64, Row64) -> Row64, |a: u64, b: u64| a.wrapping_add(b)),
                ("sub", _) => rows!((Row64, Row64) -> Row64, |a: u64, b: u64| a.wrapping_sub(b)),
                ("min", true) => rows!((Row64, Row64) -> Row64, |a: u64, b: u64| (a as i64).min(b as i64) as u64),
                ("min", false) => rows!((Row64, Row64) -> Row64, |a: u64, b: u64| a.min(b)),
                ("max", true) => rows!((Row64, Row64) -> Row64, |a: u64, b: u64| (a as i64).max(b as i64) as u64),
                ("max", false) => rows!((Row64, Row64) -> Row64, |a: u64, b: u64| a.max(b)),
                ("div" | "rem", _) => return divide(l, m, o, ty),
                _ => return m.error("not known for integers"),
            };
            let [d, a, b] = l.operands(o)?;
            Op::Q2(f, l.dq(d)?, l.q(a)?, l.q(b)?)
        }
        (_, 4) => {
            let f = match (name, ty.is_signed()) {
                ("add", _) if sat => row2!(|a: u32, b: u32| (a as i32).saturating_add(b as i32) as u32),
                ("sub", _) if sat => row2!(|a: u32, b: u32| (a as i32).saturating_sub(b as i32) as u32),
                ("add", _) => row2!(|a: u32, b: u32| a.wrapping_add(b)),
                ("sub", _) => row2!(|a: u32, b: u32| a.wrapping_sub(b)),
                ("min", true) => row2!(|a: u32, b: u32| (a as i32).min(b as i32) as u32),
                ("min", false) => row2!(|a: u32, b: u32| a.min(b)),
                ("max", true) => row2!(|a: u32, b: u32| (a as i32).max(b as i32) as u32),
                ("max", false) => row2!(|a: u32, b: u32| a.max(b)),
                ("div" | "rem", _) => return divide(l, m, o, ty),
                _ => return m.error("not known for integers"),
            };
            let [d, a, b] = l.operands(o)?;
            Op::R2(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?)
        }
        (_, 2) => {
            let f = match (name, ty.is_signed()) {
                ("add", _) => row2!(|a: u32, b: u32| a.wrapping_add(b) & LOW),
                ("sub", _) => row2!(|a: u32, b: u32| a.wrapping_sub(b) & LOW),
                ("min", true) => row2!(|a: u32, b: u32| s16(a).min(s16(b)) as u32 & LOW),
                ("min", false) => row2!(|a: u32, b: u32| a.min(b)),
                ("max", true) => row2!(|a: u32, b: u32| s16(a).max(s16(b)) as u32 & LOW),
                ("max", false) => row2!(|a: u32, b: u32| a.max(b)),
                ("div" | "rem", _) => return divide(l, m, o, ty),
                _ => return m.error("not known for integers"),
            };
            let [d, a, b] = l.operands(o)?;
            Op::R2(f, l.dr(d, 2)?, l.r(a, 2)?, l.r(b, 2)?)
        }
        _ => return m.bad_type(ty),
    };
    Ok((op, Class::Integer))
}

/// Division by zero has no specified result; all bits set is what the hardware gives.
fn divide(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand], ty: Ty) -> Lowered {
    let [d, a, b] = l.operands(o)?;
    let f: fn([u64; 4]) -> u64 = match (m.name, ty) {
        ("div", Ty::U16 | Ty::U32 | Ty::U64) => |[a, b, ..]| a.checked_div(b).unwrap_or(u64::MAX),
        ("rem", Ty::U16 | Ty::U32 | Ty::U64) => |[a, b, ..]| a.checked_rem(b).unwrap_or(u64::MAX),
        ("div", Ty::S64) => |[a, b, ..]| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 },
        ("rem", Ty::S64) => |[a, b, ..]| if b == 0 { u64::MAX } else { (a as i64).wrapping_rem(b as i64) as u64 },
        ("div", Ty::S32) => |[a, b, ..]| if b == 0 { u64::MAX } else { (a as i32).wrapping_div(b as i32) as u64 },
        ("rem", Ty::S32) => |[a, b, ..]| if b == 0 { u64::MAX } else { (a as i32).wrapping_rem(b as i32) as u64 },
        ("div", Ty::S16) => |[a, b, ..]| if b == 0 { u64::MAX } else { (a as i16).wrapping_div(b as i16) as u64 },
        ("rem", Ty::S16) => |[a, b, ..]| if b == 0 { u64::MAX } else { (a as i16).wrapping_rem(b as i16) as u64 },
        _ => return m.bad_type(ty),
    };
    let bytes = ty.bytes();
    let s = [l.source(a, bytes)?, l.source(b, bytes)?];
    lanes(l, f, d, bytes, &s)
}

/// An operation lane by lane.
pub(super) fn lanes(
    l: &mut Lowerer<'_>,
    f: fn([u64; 4]) -> u64,
    d: &Operand,
    bytes: usize,
    sources: &[Slot],
) -> Lowered {
    let mut s = [sources[0]; 4];
    s[..sources.len()].copy_from_slice(sources);
    let d = l.target(d, bytes)?;
    // Rows of 16-bit registers keep their upper half zero.
    Ok((Op::Lanes { f, d, s, n: sources.len() as u8 | if bytes == 2 { 0x10 } else { 0 } }, Class::Integer))
}

fn multiply(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand], part: char, ty: Ty) -> Lowered {
    let [d, a, b] = l.operands(o)?;
    let op = match (part, ty) {
        ('l', Ty::U32 | Ty::S32) => {
            Op::R2(row2!(|a: u32, b: u32| a.wrapping_mul(b)), l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?)
        }
        ('l', Ty::U16 | Ty::S16) => {
            Op::R2(row2!(|a: u32, b: u32| a.wrapping_mul(b) & LOW), l.dr(d, 2)?, l.r(a, 2)?, l.r(b, 2)?)
        }
        ('l', Ty::U64 | Ty::S64) => {
            Op::Q2(rows!((Row64, Row64) -> Row64, |a: u64, b: u64| a.wrapping_mul(b)), l.dq(d)?, l.q(a)?, l.q(b)?)
        }
        ('h', Ty::U32) => {
            let f = row2!(|a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32);
            Op::R2(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?)
        }
        ('h', Ty::S32) => {
            let f = row2!(|a: u32, b: u32| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
            Op::R2(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?)
        }
        ('h', Ty::U16) => Op::R2(row2!(|a: u32, b: u32| (a * b) >> 16), l.dr(d, 2)?, l.r(a, 2)?, l.r(b, 2)?),
        ('h', Ty::S16) => {
            let f = row2!(|a: u32, b: u32| ((s16(a) * s16(b)) >> 16) as u32 & LOW);
            Op::R2(f, l.dr(d, 2)?, l.r(a, 2)?, l.r(b, 2)?)
        }
        ('h', Ty::U64) => {
            let f = rows!((Row64, Row64) -> Row64, |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64);
            Op::Q2(f, l.dq(d)?, l.q(a)?, l.q(b)?)
        }
        ('h', Ty::S64) => {
            let f = rows!((Row64, Row64) -> Row64, |a: u64, b: u64| {
                ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
            });
            Op::Q2(f, l.dq(d)?, l.q(a)?, l.q(b)?)
        }
        ('w', Ty::U32) => {
            let f = rows!((Row, Row) -> Row64, |a: u32, b: u32| u64::from(a) * u64::from(b));
            Op::Wide2(f, l.dq(d)?, l.r(a, 4)?, l.r(b, 4)?)
        }
        ('w', Ty::S32) => {
            let f = rows!((Row, Row) -> Row64, |a: u32, b: u32| (i64::from(a as i32) * i64::from(b as i32)) as u64);
            Op::Wide2(f, l.dq(d)?, l.r(a, 4)?, l.r(b, 4)?)
        }
        ('w', Ty::U16) => Op::R2(row2!(|a: u32, b: u32| a * b), l.dr(d, 4)?, l.r(a, 2)?, l.r(b, 2)?),
        ('w', Ty::S16) => Op::R2(row2!(|a: u32, b: u32| (s16(a) * s16(b)) as u32), l.dr(d, 4)?, l.r(a, 2)?, l.r(b, 2)?),
        _ => return m.bad_type(ty),
    };
    Ok((op, Class::Integer))
}

fn multiply_add(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand], part: char, ty: Ty) -> Lowered {
    let [d, a, b, c] = l.operands(o)?;
    let op = match (part, ty) {
        ('l', Ty::U32 | Ty::S32) => {
            let f = row3!(|a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c));
            Op::R3(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?, l.r(c, 4)?)
        }
        ('l', Ty::U16 | Ty::S16) => {
            let f = row3!(|a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c) & LOW);
            Op::R3(f, l.dr(d, 2)?, l.r(a, 2)?, l.r(b, 2)?, l.r(c, 2)?)
        }
        ('l', Ty::U64 | Ty::S64) => {
            let f = rows!((Row64, Row64, Row64) -> Row64, |a: u64, b: u64, c: u64| a.wrapping_mul(b).wrapping_add(c));
            Op::Q3(f, l.dq(d)?, l.q(a)?, l.q(b)?, l.q(c)?)
        }
        ('h', Ty::U32) => {
            let f = row3!(|a: u32, b: u32, c: u32| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c));
            Op::R3(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?, l.r(c, 4)?)
        }
        ('h', Ty::S32) => {
            let f = row3!(|a: u32, b: u32, c: u32| {
                (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c)
            });
            Op::R3(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?, l.r(c, 4)?)
        }
        ('w', Ty::U32) => {
            let f = rows!((Row, Row, Row64) -> Row64, |a: u32, b: u32, c: u64| {
                (u64::from(a) * u64::from(b)).wrapping_add(c)
            });
            Op::Wide3(f, l.dq(d)?, l.r(a, 4)?, l.r(b, 4)?, l.q(c)?)
        }
        ('w', Ty::S32) => {
            let f = rows!((Row, Row, Row64) -> Row64, |a: u32, b: u32, c: u64| {
                ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)
            });
            Op::Wide3(f, l.dq(d)?, l.r(a, 4)?, l.r(b, 4)?, l.q(c)?)
        }
        ('w', Ty::U16) => {
            let f = row3!(|a: u32, b: u32, c: u32| (a * b).wrapping_add(c));
            Op::R3(f, l.dr(d, 4)?, l.r(a, 2)?, l.r(b, 2)?, l.r(c, 4)?)
        }
        ('w', Ty::S16) => {
            let f = row3!(|a: u32, b: u32, c: u32| ((s16(a) * s16(b)) as u32).wrapping_add(c));
            Op::R3(f, l.dr(d, 4)?, l.r(a, 2)?, l.r(b, 2)?, l.r(c, 4)?)
        }
        _ => return m.bad_type(ty),
    };
    Ok((op, Class::Integer))
}

/// Bits: logic, shifts, fields, counts.
pub(super) fn bits(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    match m.name {
        "and" | "or" | "xor" | "not" | "cnot" => logic(l, m, o),
        "shl" | "shr" => shift(l, m, o),
        "shf" => funnel_shift(l, m, o),
        _ => fields(l, m, o),
    }
}

fn logic(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let ty = m.ty()?;
    let name = m.name;
    let op = match (name, ty) {
        ("not", Ty::Pred) => {
            let [d, a] = l.operands(o)?;
            let (a, negated) = l.p(a)?;
            Op::Pred { table: if negated { 0b1100 } else { 0b0011 }, d: l.dp(d)?, a, b: a }
        }
        (_, Ty::Pred) => {
            let [d, a, b] = l.operands(o)?;
            let ((a, not_a), (b, not_b)) = (l.p(a)?, l.p(b)?);
            let mut table = 0;
            for (x, y) in [(false, false), (false, true), (true, false), (true, true)] {
                let (u, v) = (x ^ not_a, y ^ not_b);
                let out = match name {
                    "and" => u & v,
                    "or" => u | v,
                    "xor" => u ^ v,
                    _ => return m.bad_type(ty),
                };
                table |= u8::from(out) << (2 * u8::from(x) + u8::from(y));
            }
            Op::Pred { table, d: l.dp(d)?, a, b }
        }
        ("not" | "cnot", Ty::B32 | Ty::B16) => {
            let [d, a] = l.operands(o)?;
            let f = match (name, ty) {
                ("not", Ty::B32) => row1!(|a: u32| !a),
                ("not", _) => row1!(|a: u32| !a & LOW),
                _ => row1!(|a: u32| u32::from(a == 0)),
            };
            Op::R1(f, l.dr(d, ty.bytes())?, l.r(a, ty.bytes())?)
        }
        ("not" | "cnot", Ty::B64) => {
            let [d, a] = l.operands(o)?;
            let f = if name == "not" {
                rows!((Row64) -> Row64, |a: u64| !a)
            } else {
                rows!((Row64) -> Row64, |a: u64| u64::from(a == 0))
            };
            Op::Q1(f, l.dq(d)?, l.q(a)?)
        }
        (_, Ty::B16 | Ty::B32) => {
            let [d, a, b] = l.operands(o)?;
            let f = match name {
                "and" => row2!(|a: u32, b: u32| a & b),
                "or" => row2!(|a: u32, b: u32| a | b),
                _ => row2!(|a: u32, b: u32| a ^ b),
            };
            Op::R2(f, l.dr(d, ty.bytes())?, l.r(a, ty.bytes())?, l.r(b, ty.bytes())?)
        }
        (_, Ty::B64) => {
            let [d, a, b] = l.operands(o)?;
            let f = match name {
                "and" => rows!((Row64, Row64) -> Row64, |a: u64, b: u64| a & b),
                "or" => rows!((Row64, Row64) -> Row64, |a: u64, b: u64| a | b),
                _ => rows!((Row64, Row64) -> Row64, |a: u64, b: u64| a ^ b),
            };
            Op::Q2(f, l.dq(d)?, l.q(a)?, l.q(b)?)
        }
        _ => return m.bad_type(ty),
    };
    Ok((op, Class::Integer))
}

/// Amounts beyond the width count as the width.
fn shift(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let ty = m.ty()?;
    let [d, a, b] = l.operands(o)?;
    let left = m.name == "shl";
    let op = match (ty.bytes(), left, ty.is_signed()) {
        (2, true, _) => {
            Op::R2(row2!(|a: u32, b: u32| if b > 15 { 0 } else { a << b & LOW }), l.dr(d, 2)?, l.r(a, 2)?, l.r(b, 4)?)
        }
        (2, false, false) => {
            Op::R2(row2!(|a: u32, b: u32| if b > 15 { 0 } else { a >> b }), l.dr(d, 2)?, l.r(a, 2)?, l.r(b, 4)?)
        }
        (2, false, true) => {
            Op::R2(row2!(|a: u32, b: u32| (s16(a) >> b.min(15)) as u32 & LOW), l.dr(d, 2)?, l.r(a, 2)?, l.r(b, 4)?)
        }
        (4, true, _) => {
            Op::R2(row2!(|a: u32, b: u32| if b > 31 { 0 } else { a << (b & 31) }), l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?)
        }
        (4, false, false) => {
            Op::R2(row2!(|a: u32, b: u32| if b > 31 { 0 } else { a >> (b & 31) }), l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?)
        }
        (4, false, true) => {
            Op::R2(row2!(|a: u32, b: u32| (a as i32 >> b.min(31)) as u32), l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?)
        }
        (8, true, _) => {
            let f = rows!((Row64, Row) -> Row64, |a: u64, b: u32| if b > 63 { 0 } else { a << (b & 63) });
            Op::Shift64(f, l.dq(d)?, l.q(a)?, l.r(b, 4)?)
        }
        (8, false, false) => {
            let f = rows!((Row64, Row) -> Row64, |a: u64, b: u32| if b > 63 { 0 } else { a >> (b & 63) });
            Op::Shift64(f, l.dq(d)?, l.q(a)?, l.r(b, 4)?)
        }
        (8, false, true) => {
            let f = rows!((Row64, Row) -> Row64, |a: u64, b: u32| (a as i64 >> b.min(63)) as u64);
            Op::Shift64(f, l.dq(d)?, l.q(a)?, l.r(b, 4)?)
        }
        _ => return m.bad_type(ty),
    };
    Ok((op, Class::Integer))
}

fn funnel_shift(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let left = m.must("a direction", &[("l", true), ("r", false)])?;
    let wrap = m.must("a mode", &[("wrap", true), ("clamp", false)])?;
    if m.ty()? != Ty::B32 {
        return m.error("only .b32 is known");
    }
    let [d, a, b, c] = l.operands(o)?;
    let f = match (left, wrap) {
        (true, true) => row3!(|a, b, c: u32| ((join(a, b) << (c & 31)) >> 32) as u32),
        (true, false) => row3!(|a, b, c: u32| ((join(a, b) << c.min(32)) >> 32) as u32),
        (false, true) => row3!(|a, b, c: u32| (join(a, b) >> (c & 31)) as u32),
        (false, false) => row3!(|a, b, c: u32| (join(a, b) >> c.min(32)) as u32),
    };
    Ok((Op::R3(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?, l.r(c, 4)?), Class::Integer))
}

#[inline(always)]
fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn fields(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let name = m.name;
    match name {
        "popc" | "clz" | "brev" => {
            let ty = m.ty()?;
            let [d, a] = l.operands(o)?;
            let f: fn([u64; 4]) -> u64 = match (name, ty) {
                ("popc", Ty::B32 | Ty::B64) => |[a, ..]| u64::from(a.count_ones()),
                ("clz", Ty::B32) => |[a, ..]| u64::from((a as u32).leading_zeros()),
                ("clz", Ty::B64) => |[a, ..]| u64::from(a.leading_zeros()),
                ("brev", Ty::B32) => |[a, ..]| u64::from((a as u32).reverse_bits()),
                ("brev", Ty::B64) => |[a, ..]| a.reverse_bits(),
                _ => return m.bad_type(ty),
            };
            let a = l.source(a, ty.bytes())?;
            lanes(l, f, d, if name == "brev" { ty.bytes() } else { 4 }, &[a])
        }
        "bfind" => {
            let amount = m.has("shiftamt");
            let ty = m.ty()?;
            let [d, a] = l.operands(o)?;
            let f: fn([u64; 4]) -> u64 = match (ty, amount) {
                (Ty::U32, false) => |[a, ..]| find(a, 32, false),
                (Ty::U32, true) => |[a, ..]| find(a, 32, true),
                (Ty::U64, false) => |[a, ..]| find(a, 64, false),
                (Ty::U64, true) => |[a, ..]| find(a, 64, true),
                (Ty::S32, false) => |[a, ..]| find(u64::from(a as u32 ^ (a as i32 >> 31) as u32), 32, false),
                (Ty::S32, true) => |[a, ..]| find(u64::from(a as u32 ^ (a as i32 >> 31) as u32), 32, true),
                (Ty::S64, false) => |[a, ..]| find(a ^ (a as i64 >> 63) as u64, 64, false),
                (Ty::S64, true) => |[a, ..]| find(a ^ (a as i64 >> 63) as u64, 64, true),
                _ => return m.bad_type(ty),
            };
            let a = l.source(a, ty.bytes())?;
            lanes(l, f, d, 4, &[a])
        }
        "bfe" => {
            let ty = m.ty()?;
            let [d, a, b, c] = l.operands(o)?;
            let f: fn([u64; 4]) -> u64 = match ty {
                Ty::U32 => |[a, b, c, _]| extract(a, b, c, 32, false),
                Ty::S32 => |[a, b, c, _]| extract(a, b, c, 32, true),
                Ty::U64 => |[a, b, c, _]| extract(a, b, c, 64, false),
                Ty::S64 => |[a, b, c, _]| extract(a, b, c, 64, true),
                _ => return m.bad_type(ty),
            };
            let s = [l.source(a, ty.bytes())?, l.source(b, 4)?, l.source(c, 4)?];
            lanes(l, f, d, ty.bytes(), &s)
        }
        "bfi" => {
            let ty = m.ty()?;
            let [d, a, b, c, len] = l.operands(o)?;
            let f: fn([u64; 4]) -> u64 = match ty {
                Ty::B32 => |[a, b, c, len]| insert(a, b, c, len, 32),
                Ty::B64 => |[a, b, c, len]| insert(a, b, c, len, 64),
                _ => return m.bad_type(ty),
            };
            let s = [l.source(a, ty.bytes())?, l.source(b, ty.bytes())?, l.source(c, 4)?, l.source(len, 4)?];
            lanes(l, f, d, ty.bytes(), &s)
        }
        "prmt" => {
            if m.ty()? != Ty::B32 {
                return m.error("only .b32 is known");
            }
            let [d, a, b, c] = l.operands(o)?;
            let f = row3!(permute);
            Ok((Op::R3(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?, l.r(c, 4)?), Class::Integer))
        }
        "lop3" => {
            if m.ty()? != Ty::B32 {
                return m.error("only .b32 is known");
            }
            let [d, a, b, c, table] = l.operands(o)?;
            if !matches!(table, Operand::Int(0..=255)) {
                return m.error("the table must be a number of 8 bits");
            }
            let f: fn([u64; 4]) -> u64 = |[a, b, c, table]| {
                (0..8).filter(|i| table >> i & 1 == 1).fold(0, |out, i| {
                    let pick = |x: u64, bit: u64| if i >> bit & 1 == 1 { x } else { !x };
                    out | pick(a, 2) & pick(b, 1) & pick(c, 0)
                })
            };
            let s = [l.source(a, 4)?, l.source(b, 4)?, l.source(c, 4)?, l.source(table, 4)?];
            lanes(l, f, d, 4, &s)
        }
        "sad" => {
            let ty = m.ty()?;
            let [d, a, b, c] = l.operands(o)?;
            let f = match ty {
                Ty::U32 => row3!(|a: u32, b: u32, c: u32| a.abs_diff(b).wrapping_add(c)),
                Ty::S32 => row3!(|a: u32, b: u32, c: u32| (a as i32).abs_diff(b as i32).wrapping_add(c)),
                _ => return m.bad_type(ty),
            };
            Ok((Op::R3(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?, l.r(c, 4)?), Class::Integer))
        }
        _ => m.error("not known"),
    }
}

/// Position of the highest bit, or the shift that brings it to the top; all ones for none.
fn find(a: u64, width: u64, amount: bool) -> u64 {
    match a.checked_ilog2() {
        None => u64::from(u32::MAX),
        Some(bit) if amount => width - 1 - u64::from(bit),
        Some(bit) => u64::from(bit),
    }
}

fn extract(a: u64, start: u64, len: u64, width: u64, signed: bool) -> u64 {
    let (start, len) = (start & 255, len & 255);
    let sign_at = (start + len).saturating_sub(1).min(width - 1);
    let sign = signed && len > 0 && a >> sign_at & 1 == 1;
    let kept = len.min(width.saturating_sub(start));
    let low = if kept == 0 { 0 } else { a >> start & (u64::MAX >> (64 - kept)) };
    let above = if kept >= 64 { 0 } else { u64::MAX << kept };
    if sign { low | above } else { low }
}

fn insert(a: u64, b: u64, start: u64, len: u64, width: u64) -> u64 {
    let (start, len) = (start & 255, len & 255);
    let len = len.min(width.saturating_sub(start));
    if len == 0 {
        return b;
    }
    let mask = (u64::MAX >> (64 - len)) << start;
    b & !mask | a << start & mask
}

#[inline(always)]
fn permute(a: u32, b: u32, c: u32) -> u32 {
    let bytes = join(a, b);
    let mut out = 0;
    for i in 0..4 {
        let pick = c >> (4 * i) & 15;
        let byte = (bytes >> (8 * (pick & 7))) as u8;
        let byte = if pick & 8 == 8 { (byte as i8 >> 7) as u8 } else { byte };
        out |= u32::from(byte) << (8 * i);
    }
    out
}
