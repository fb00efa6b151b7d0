//! Arithmetic on `f32` and `f64`.
//!
//! Results are rounded once. What PTX calls approximate is computed in `f64` and rounded, so its error is at most half a
//! unit of the last place (plus rounding noise far below): always within the stated bound, never the hardware's bits.

use super::{
    Op, Row, Row64, Slot,
    lower::Lowerer,
    mods::Mods,
    num::{
        F32, Rounding, add_to_odd, canon, canon64, div_to_odd, exp2, f, flush, fma_to_odd, min_max, min_max64,
        round_to, saturate, sqrt_to_odd,
    },
    rows::{row1, row2, row3, rows},
};
use crate::emulator::{
    counters::Class,
    ptx::{Operand, PtxError, Ty},
};

type Lowered = Result<(Op, Class), PtxError>;

const ROUNDINGS: [(&str, Rounding); 4] =
    [("rn", Rounding::Rn), ("rz", Rounding::Rz), ("rm", Rounding::Rm), ("rp", Rounding::Rp)];

/// A row function of bits, with and without flushing of operands and result, with and without saturation.
macro_rules! flushed {
    ($row:ident, $ftz:expr, $sat:expr, |$($x:ident),+| $e:expr) => {
        match ($ftz, $sat) {
            (false, false) => $row!(|$($x: u32),+| { $(let $x = f($x);)+ canon($e) }),
            (false, true) => $row!(|$($x: u32),+| { $(let $x = f($x);)+ saturate(canon($e)) }),
            (true, false) => $row!(|$($x: u32),+| { $(let $x = f(flush($x));)+ flush(canon($e)) }),
            (true, true) => $row!(|$($x: u32),+| { $(let $x = f(flush($x));)+ saturate(flush(canon($e))) }),
        }
    };
}

/// The same in a directed rounding; `$e` is exact, or rounded to odd.
macro_rules! directed {
    ($row:ident, $mode:expr, |$($x:ident),+| $e:expr) => {
        match $mode {
            Rounding::Rz => $row!(|$($x: u32),+| { $(let $x = f($x);)+ round_to($e, F32, Rounding::Rz) }),
            Rounding::Rm => $row!(|$($x: u32),+| { $(let $x = f($x);)+ round_to($e, F32, Rounding::Rm) }),
            _ => $row!(|$($x: u32),+| { $(let $x = f($x);)+ round_to($e, F32, Rounding::Rp) }),
        }
    };
}

pub(super) fn lower(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    if m.name == "testp" {
        return property(l, m, o);
    }
    let approx = m.has("approx");
    let full = m.has("full");
    let rounding = m.one_of(&ROUNDINGS);
    let ftz = m.has("ftz");
    let sat = m.has("sat");
    let nan = matches!(m.name, "min" | "max") && m.has("NaN");
    let ty = m.ty()?;
    if ty == Ty::F64 {
        return double(l, m, o, rounding, approx, ftz);
    }
    match m.name {
        "add" | "sub" | "mul" | "min" | "max" | "div" | "copysign" => {
            let [d, a, b] = l.operands(o)?;
            let (f, class) = binary(m, rounding, ftz, sat, nan, approx || full)?;
            Ok((Op::R2(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?), class))
        }
        "fma" | "mad" => {
            let [d, a, b, c] = l.operands(o)?;
            let f = match rounding {
                Some(Rounding::Rn) => match (ftz, sat) {
                    (false, false) => fma_rows as fn(&Row, &Row, &Row) -> Row,
                    (ftz, sat) => flushed!(row3, ftz, sat, |a, b, c| a.mul_add(b, c)),
                },
                None => return m.error("wanted a rounding"),
                Some(_) if ftz || sat => return m.error("a directed rounding with .ftz or .sat is not known"),
                Some(mode) => directed!(row3, mode, |a, b, c| fma_to_odd(a, b, c)),
            };
            Ok((Op::R3(f, l.dr(d, 4)?, l.r(a, 4)?, l.r(b, 4)?, l.r(c, 4)?), Class::Float))
        }
        _ => {
            let [d, a] = l.operands(o)?;
            let (f, class) = unary(m, rounding, ftz, sat, approx)?;
            Ok((Op::R1(f, l.dr(d, 4)?, l.r(a, 4)?), class))
        }
    }
}

/// `testp`: what kind of value it is.
fn property(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    use std::num::FpCategory::{self, Infinite, Nan, Normal, Subnormal, Zero};
    const KINDS: [(&str, &[FpCategory]); 6] = [
        ("finite", &[Zero, Subnormal, Normal]),
        ("infinite", &[Infinite]),
        ("number", &[Zero, Subnormal, Normal, Infinite]),
        ("notanumber", &[Nan]),
        ("normal", &[Normal]),
        ("subnormal", &[Subnormal]),
    ];
    let kinds = m.must("a property", &KINDS)?;
    let ty = m.ty()?;
    let [d, a] = l.operands(o)?;
    // By lane, with the set of kinds as bits of a second operand.
    let bit = |kind: FpCategory| 1 << kind as u64;
    let set = kinds.iter().fold(0, |set, &kind| set | bit(kind));
    let f: fn([u64; 4]) -> u64 = match ty {
        Ty::F32 => |[a, set, ..]| set >> f(a as u32).classify() as u64 & 1,
        Ty::F64 => |[a, set, ..]| set >> f64::from_bits(a).classify() as u64 & 1,
        _ => return m.bad_type(ty),
    };
    let (a, set) = (l.source(a, ty.bytes())?, Slot::Q(l.constant64(set)));
    Ok((Op::Lanes { f, d: Slot::P(l.dp(d)?), s: [a, set, a, a], n: 2 }, Class::Integer))
}

type Binary = fn(&Row, &Row) -> Row;
type Unary = fn(&Row) -> Row;

fn binary(
    m: &Mods<'_>,
    rounding: Option<Rounding>,
    ftz: bool,
    sat: bool,
    nan: bool,
    approx: bool,
) -> Result<(Binary, Class), PtxError> {
    let mode = rounding.unwrap_or(Rounding::Rn);
    if mode != Rounding::Rn && (ftz || sat) {
        return m.error("a directed rounding with .ftz or .sat is not known");
    }
    let near = mode == Rounding::Rn;
    let f = match m.name {
        "add" if near => flushed!(row2, ftz, sat, |a, b| a + b),
        "sub" if near => flushed!(row2, ftz, sat, |a, b| a - b),
        "mul" if near => flushed!(row2, ftz, sat, |a, b| a * b),
        "add" => directed!(row2, mode, |a, b| add_to_odd(f64::from(a), f64::from(b))),
        "sub" => directed!(row2, mode, |a, b| add_to_odd(f64::from(a), -f64::from(b))),
        "mul" => directed!(row2, mode, |a, b| f64::from(a) * f64::from(b)),
        "div" if rounding.is_none() && !approx => return m.error("wanted .rn, .approx or .full"),
        "div" if near => return Ok((flushed!(row2, ftz, sat, |a, b| a / b), Class::Special)),
        "div" => {
            return Ok((directed!(row2, mode, |a, b| div_to_odd(f64::from(a), f64::from(b))), Class::Special));
        }
        "min" | "max" if sat || rounding.is_some() => return m.error("no rounding, no .sat"),
        "min" => match (ftz, nan) {
            (false, false) => row2!(min_max::<false, false>),
            (false, true) => row2!(min_max::<false, true>),
            (true, false) => row2!(|a, b| min_max::<false, false>(flush(a), flush(b))),
            (true, true) => row2!(|a, b| min_max::<false, true>(flush(a), flush(b))),
        },
        "max" => match (ftz, nan) {
            (false, false) => row2!(min_max::<true, false>),
            (false, true) => row2!(min_max::<true, true>),
            (true, false) => row2!(|a, b| min_max::<true, false>(flush(a), flush(b))),
            (true, true) => row2!(|a, b| min_max::<true, true>(flush(a), flush(b))),
        },
        // The sign of the first, the magnitude of the second.
        "copysign" => row2!(|a: u32, b: u32| a & 1 << 31 | b & !(1 << 31)),
        _ => return m.error("not known"),
    };
    Ok((f, Class::Float))
}

fn unary(
    m: &Mods<'_>,
    rounding: Option<Rounding>,
    ftz: bool,
    sat: bool,
    approx: bool,
) -> Result<(Unary, Class), PtxError> {
    if sat {
        return m.error("no .sat");
    }
    let f = match m.name {
        "abs" if ftz => row1!(|a| flush(a) & !(1 << 31)),
        "abs" => row1!(|a: u32| a & !(1 << 31)),
        "neg" if ftz => row1!(|a| flush(a) ^ 1 << 31),
        "neg" => row1!(|a: u32| a ^ 1 << 31),
        name => {
            let f = match (name, approx, rounding) {
                ("rcp", true, None) | ("rcp", false, Some(Rounding::Rn)) => flushed!(row1, ftz, false, |a| 1.0 / a),
                ("sqrt", true, None) | ("sqrt", false, Some(Rounding::Rn)) => {
                    flushed!(row1, ftz, false, |a| a.sqrt())
                }
                ("rcp", false, Some(mode)) if !ftz => directed!(row1, mode, |a| div_to_odd(1.0, f64::from(a))),
                ("sqrt", false, Some(mode)) if !ftz => directed!(row1, mode, |a| sqrt_to_odd(f64::from(a))),
                ("rsqrt", true, None) => flushed!(row1, ftz, false, |a| (1.0 / f64::from(a).sqrt()) as f32),
                ("ex2", true, None) => flushed!(row1, ftz, false, |a| exp2(a)),
                ("lg2", true, None) => flushed!(row1, ftz, false, |a| f64::from(a).log2() as f32),
                ("sin", true, None) => flushed!(row1, ftz, false, |a| f64::from(a).sin() as f32),
                ("cos", true, None) => flushed!(row1, ftz, false, |a| f64::from(a).cos() as f32),
                ("tanh", true, None) => row1!(|a| canon(f64::from(f(a)).tanh() as f32)),
                _ => return m.error("wanted .approx or a rounding"),
            };
            return Ok((f, Class::Special));
        }
    };
    Ok((f, Class::Float))
}

fn double(
    l: &mut Lowerer<'_>,
    m: &mut Mods<'_>,
    o: &[Operand],
    rounding: Option<Rounding>,
    approx: bool,
    ftz: bool,
) -> Lowered {
    if rounding.is_some_and(|mode| mode != Rounding::Rn) {
        return m.error("only .rn is known for .f64");
    }
    let f = match m.name {
        "add" => rows!((Row64, Row64) -> Row64, |a, b| canon64(f64::from_bits(a) + f64::from_bits(b))),
        "sub" => rows!((Row64, Row64) -> Row64, |a, b| canon64(f64::from_bits(a) - f64::from_bits(b))),
        "mul" => rows!((Row64, Row64) -> Row64, |a, b| canon64(f64::from_bits(a) * f64::from_bits(b))),
        "div" => rows!((Row64, Row64) -> Row64, |a, b| canon64(f64::from_bits(a) / f64::from_bits(b))),
        "min" => rows!((Row64, Row64) -> Row64, min_max64::<false>),
        "max" => rows!((Row64, Row64) -> Row64, min_max64::<true>),
        "copysign" => rows!((Row64, Row64) -> Row64, |a: u64, b: u64| a & 1 << 63 | b & !(1 << 63)),
        "fma" | "mad" => {
            let [d, a, b, c] = l.operands(o)?;
            let f = rows!((Row64, Row64, Row64) -> Row64, |a, b, c| {
                canon64(f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)))
            });
            return Ok((Op::Q3(f, l.dq(d)?, l.q(a)?, l.q(b)?, l.q(c)?), Class::Float));
        }
        name => {
            let [d, a] = l.operands(o)?;
            let f = match (name, approx, ftz) {
                ("abs", ..) => rows!((Row64) -> Row64, |a: u64| a & !(1 << 63)),
                ("neg", ..) => rows!((Row64) -> Row64, |a: u64| a ^ 1 << 63),
                ("sqrt", false, false) => rows!((Row64) -> Row64, |a| canon64(f64::from_bits(a).sqrt())),
                ("rcp", false, false) => rows!((Row64) -> Row64, |a| canon64(1.0 / f64::from_bits(a))),
                ("rsqrt", true, _) => rows!((Row64) -> Row64, |a| canon64(1.0 / f64::from_bits(a).sqrt())),
                ("rcp", true, true) => rows!((Row64) -> Row64, |a| canon64(1.0 / f64::from_bits(a))),
                _ => return m.error("not known"),
            };
            let class = if matches!(name, "abs" | "neg") { Class::Float } else { Class::Special };
            return Ok((Op::Q1(f, l.dq(d)?, l.q(a)?), class));
        }
    };
    let [d, a, b] = l.operands(o)?;
    let class = if m.name == "div" { Class::Special } else { Class::Float };
    Ok((Op::Q2(f, l.dq(d)?, l.q(a)?, l.q(b)?), class))
}

/// `fma.rn.f32`: one instruction a few lanes where the processor has it.
fn fma_rows(a: &Row, b: &Row, c: &Row) -> Row {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has both, as was just asked.
        return unsafe { fma_rows_avx2(a, b, c) };
    }
    fma_loop(a, b, c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fma_rows_avx2(a: &Row, b: &Row, c: &Row) -> Row {
    fma_loop(a, b, c)
}

#[inline(always)]
fn fma_loop(a: &Row, b: &Row, c: &Row) -> Row {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = canon(f(a[i]).mul_add(f(b[i]), f(c[i])));
    }
    out
}
