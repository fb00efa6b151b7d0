//! `setp`, `set`, `selp`, `slct`.

use super::{
    Combine, Op, Row, Row64, Slot,
    integer::lanes,
    lower::Lowerer,
    mods::Mods,
    num::{f, flush, widen_bf16, widen_f16},
    rows::mask,
};
use crate::emulator::{
    counters::Class,
    ptx::{Operand, PtxError, Ty},
};

type Lowered = Result<(Op, Class), PtxError>;
type Compare = fn(&Row, &Row) -> u32;
type Compare64 = fn(&Row64, &Row64) -> u32;

/// Comparisons: the unordered ones (`…u`) are also true where an operand is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

const COMPARISONS: [(&str, Cmp); 18] = [
    ("eq", Cmp::Eq),
    ("ne", Cmp::Ne),
    ("lt", Cmp::Lt),
    ("le", Cmp::Le),
    ("gt", Cmp::Gt),
    ("ge", Cmp::Ge),
    ("lo", Cmp::Lt),
    ("ls", Cmp::Le),
    ("hi", Cmp::Gt),
    ("hs", Cmp::Ge),
    ("equ", Cmp::Equ),
    ("neu", Cmp::Neu),
    ("ltu", Cmp::Ltu),
    ("leu", Cmp::Leu),
    ("gtu", Cmp::Gtu),
    ("geu", Cmp::Geu),
    ("num", Cmp::Num),
    ("nan", Cmp::Nan),
];

/// Integers as `$t`.
macro_rules! integers {
    ($m:expr, $R:ty, $bits:ty, $cmp:expr, $to:expr) => {
        match $cmp {
            Cmp::Eq => mask!($R, |a: $bits, b: $bits| a == b),
            Cmp::Ne => mask!($R, |a: $bits, b: $bits| a != b),
            Cmp::Lt => mask!($R, |a: $bits, b: $bits| ($to)(a) < ($to)(b)),
            Cmp::Le => mask!($R, |a: $bits, b: $bits| ($to)(a) <= ($to)(b)),
            Cmp::Gt => mask!($R, |a: $bits, b: $bits| ($to)(a) > ($to)(b)),
            Cmp::Ge => mask!($R, |a: $bits, b: $bits| ($to)(a) >= ($to)(b)),
            _ => return $m.error("a comparison of floats, on integers"),
        }
    };
}

macro_rules! floats {
    ($R:ty, $bits:ty, $cmp:expr, $to:expr) => {
        match $cmp {
            Cmp::Eq => mask!($R, |a: $bits, b: $bits| ($to)(a) == ($to)(b)),
            // An ordered comparison is false with a NaN.
            Cmp::Ne => mask!($R, |a: $bits, b: $bits| ($to)(a) < ($to)(b) || ($to)(a) > ($to)(b)),
            Cmp::Lt => mask!($R, |a: $bits, b: $bits| ($to)(a) < ($to)(b)),
            Cmp::Le => mask!($R, |a: $bits, b: $bits| ($to)(a) <= ($to)(b)),
            Cmp::Gt => mask!($R, |a: $bits, b: $bits| ($to)(a) > ($to)(b)),
            Cmp::Ge => mask!($R, |a: $bits, b: $bits| ($to)(a) >= ($to)(b)),
            Cmp::Equ => mask!($R, |a: $bits, b: $bits| !(($to)(a) < ($to)(b) || ($to)(a) > ($to)(b))),
            Cmp::Neu => mask!($R, |a: $bits, b: $bits| ($to)(a) != ($to)(b)),
            Cmp::Ltu => mask!($R, |a: $bits, b: $bits| !(($to)(a) >= ($to)(b))),
            Cmp::Leu => mask!($R, |a: $bits, b: $bits| !(($to)(a) > ($to)(b))),
            Cmp::Gtu => mask!($R, |a: $bits, b: $bits| !(($to)(a) <= ($to)(b))),
            Cmp::Geu => mask!($R, |a: $bits, b: $bits| !(($to)(a) < ($to)(b))),
            Cmp::Num => mask!($R, |a: $bits, b: $bits| !($to)(a).is_nan() && !($to)(b).is_nan()),
            Cmp::Nan => mask!($R, |a: $bits, b: $bits| ($to)(a).is_nan() || ($to)(b).is_nan()),
        }
    };
}

#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "that is what an unordered comparison is")]
fn compare(m: &Mods<'_>, cmp: Cmp, ty: Ty, ftz: bool) -> Result<Compare, PtxError> {
    Ok(match ty {
        Ty::U32 | Ty::U16 => integers!(m, Row, u32, cmp, |a: u32| a),
        Ty::S32 => integers!(m, Row, u32, cmp, |a: u32| a as i32),
        Ty::S16 => integers!(m, Row, u32, cmp, |a: u32| a as u16 as i16),
        Ty::B32 | Ty::B16 if matches!(cmp, Cmp::Eq | Cmp::Ne) => integers!(m, Row, u32, cmp, |a: u32| a),
        Ty::F32 if ftz => floats!(Row, u32, cmp, |a: u32| f(flush(a))),
        Ty::F32 => floats!(Row, u32, cmp, f),
        Ty::F16 => floats!(Row, u32, cmp, |a: u32| widen_f16(a & 0xffff)),
        Ty::Bf16 => floats!(Row, u32, cmp, |a: u32| widen_bf16(a & 0xffff)),
        _ => return m.bad_type(ty),
    })
}

#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "that is what an unordered comparison is")]
fn compare64(m: &Mods<'_>, cmp: Cmp, ty: Ty) -> Result<Compare64, PtxError> {
    Ok(match ty {
        Ty::U64 => integers!(m, Row64, u64, cmp, |a: u64| a),
        Ty::S64 => integers!(m, Row64, u64, cmp, |a: u64| a as i64),
        Ty::B64 if matches!(cmp, Cmp::Eq | Cmp::Ne) => integers!(m, Row64, u64, cmp, |a: u64| a),
        Ty::F64 => floats!(Row64, u64, cmp, f64::from_bits),
        _ => return m.bad_type(ty),
    })
}

#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "that is what an unordered comparison is")]
fn compare_high(cmp: Cmp, ty: Ty) -> Compare {
    if ty == Ty::F16x2 {
        floats!(Row, u32, cmp, |a: u32| widen_f16(a >> 16))
    } else {
        floats!(Row, u32, cmp, |a: u32| widen_bf16(a >> 16))
    }
}

pub(super) fn lower(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    match m.name {
        "setp" => setp(l, m, o),
        "set" => set(l, m, o),
        "selp" => selp(l, m, o),
        _ => slct(l, m, o),
    }
}

/// `d[|q], a, b[, c]`
fn setp(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let cmp = m.must("a comparison", &COMPARISONS)?;
    let joined = m.one_of(&[("and", 0b1000_u8), ("or", 0b1110), ("xor", 0b0110)]);
    let ftz = m.has("ftz");
    let ty = m.ty()?;
    let (first, second) = match o.first() {
        Some(Operand::Pair(p, q)) => (l.dp(p)?, Some(l.dp(q)?)),
        Some(p) => (l.dp(p)?, None),
        None => return m.error("no operands"),
    };
    let combine = match joined {
        None => None,
        Some(table) => {
            let Some(c) = o.get(3) else { return m.error("wanted a third operand") };
            let (other, negated) = l.p(c)?;
            // Bit 2 · compared + other: swapping neighbours negates the other.
            let table = if negated { (table & 0b0101) << 1 | (table & 0b1010) >> 1 } else { table };
            Some(Combine { table, other })
        }
    };
    if o.len() != if combine.is_some() { 4 } else { 3 } {
        return m.error(format!("{} operands", o.len()));
    }
    let bytes = ty.bytes();
    let op = match ty {
        Ty::F16x2 | Ty::Bf16x2 => {
            let (Some(q), None) = (second, combine) else {
                return m.error("wanted `p|q` and no third operand");
            };
            let low = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
            let (lo, hi) = (compare(m, cmp, low, false)?, compare_high(cmp, ty));
            Op::SetHalves { lo, hi, d: first, q, a: l.r(&o[1], 4)?, b: l.r(&o[2], 4)? }
        }
        _ if bytes == 8 => {
            let f = compare64(m, cmp, ty)?;
            Op::SetQ { f, d: first, not_d: second, a: l.q(&o[1])?, b: l.q(&o[2])?, combine }
        }
        _ => {
            let f = compare(m, cmp, ty, ftz)?;
            Op::SetR { f, d: first, not_d: second, a: l.r(&o[1], bytes)?, b: l.r(&o[2], bytes)?, combine }
        }
    };
    Ok((op, Class::Integer))
}

/// All ones or 1.0 for true: the comparison goes into a predicate of its own, which then selects.
fn set(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let cmp = m.must("a comparison", &COMPARISONS)?;
    let ftz = m.has("ftz");
    let to = m.ty()?;
    let from = m.ty()?;
    let [d, a, b] = l.operands(o)?;
    let one = match to {
        Ty::U32 | Ty::S32 => u32::MAX,
        Ty::U16 | Ty::S16 => 0xffff,
        Ty::F32 => 0x3f80_0000,
        Ty::F16 => 0x3c00,
        Ty::Bf16 => 0x3f80,
        _ => return m.bad_type(to),
    };
    let p = l.dp(&Operand::Sink)?;
    let bytes = from.bytes();
    let compared = if bytes == 8 {
        Op::SetQ { f: compare64(m, cmp, from)?, d: p, not_d: None, a: l.q(a)?, b: l.q(b)?, combine: None }
    } else {
        let f = compare(m, cmp, from, ftz)?;
        Op::SetR { f, d: p, not_d: None, a: l.r(a, bytes)?, b: l.r(b, bytes)?, combine: None }
    };
    l.push(compared, None, Class::Integer);
    let (a, b) = (l.constant(one), l.constant(0));
    Ok((Op::SelR { d: l.dr(d, to.bytes())?, a, b, p }, Class::Integer))
}

fn selp(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let ty = m.ty()?;
    let [d, a, b, p] = l.operands(o)?;
    let (p, negated) = l.p(p)?;
    let (a, b) = if negated { (b, a) } else { (a, b) };
    let op = match ty.bytes() {
        8 => Op::SelQ { d: l.dq(d)?, a: l.q(a)?, b: l.q(b)?, p },
        bytes @ (2 | 4) => Op::SelR { d: l.dr(d, bytes)?, a: l.r(a, bytes)?, b: l.r(b, bytes)?, p },
        _ => return m.bad_type(ty),
    };
    Ok((op, Class::Integer))
}

fn slct(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let ty = m.ty()?;
    let by = m.ty()?;
    let [d, a, b, c] = l.operands(o)?;
    let f: fn([u64; 4]) -> u64 = match by {
        Ty::S32 => |[a, b, c, _]| if c as i32 >= 0 { a } else { b },
        Ty::F32 => |[a, b, c, _]| if f(c as u32) >= 0.0 { a } else { b },
        _ => return m.bad_type(by),
    };
    let s: [Slot; 3] = [l.source(a, ty.bytes())?, l.source(b, ty.bytes())?, l.source(c, 4)?];
    lanes(l, f, d, ty.bytes(), &s)
}
