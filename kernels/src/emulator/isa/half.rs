//! Arithmetic on `f16`, `bf16` and pairs of them: computed in `f64`, rounded once.

use super::{
    Op, Row,
    lower::Lowerer,
    mods::Mods,
    num::{
        BF16, F16, Format, NAN16, Rounding, add_to_odd, exp2, fma_to_odd, min_max, narrow_bf16, narrow_f16, round_to,
        widen_bf16, widen_f16,
    },
};
use crate::emulator::{
    counters::Class,
    ptx::{Operand, PtxError, Ty},
};

type Lowered = Result<(Op, Class), PtxError>;

/// A format of 16 bits.
trait Small {
    const FORMAT: Format;
    fn widen(bits: u32) -> f32;
    fn narrow(x: f32) -> u32;
}

struct Half;
struct Brain;

impl Small for Half {
    const FORMAT: Format = F16;
    #[inline(always)]
    fn widen(bits: u32) -> f32 {
        widen_f16(bits)
    }
    #[inline(always)]
    fn narrow(x: f32) -> u32 {
        narrow_f16(x.to_bits())
    }
}

impl Small for Brain {
    const FORMAT: Format = BF16;
    #[inline(always)]
    fn widen(bits: u32) -> f32 {
        widen_bf16(bits)
    }
    #[inline(always)]
    fn narrow(x: f32) -> u32 {
        narrow_bf16(x.to_bits())
    }
}

pub(super) fn lower(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let rounding = m.one_of(&[("rn", Rounding::Rn)]);
    let approx = m.has("approx");
    let ftz = m.has("ftz");
    let nan = matches!(m.name, "min" | "max") && m.has("NaN");
    let relu = m.name == "fma" && m.has("relu");
    let ty = m.ty()?;
    let pair = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
    if m.name == "fma" && rounding.is_none() {
        return m.error("wanted .rn");
    }
    // Subnormals of bf16 and f16 are kept; with .ftz that would be wrong, except where the result is never one.
    if ftz && m.name != "ex2" {
        return m.error("modifier `.ftz` is not known here");
    }
    match ty {
        Ty::F16 | Ty::F16x2 => arithmetic::<Half>(l, m, o, ty, pair, nan, relu, approx),
        _ => arithmetic::<Brain>(l, m, o, ty, pair, nan, relu, approx),
    }
}

#[expect(clippy::too_many_arguments, reason = "the modifiers of one instruction")]
fn arithmetic<S: Small>(
    l: &mut Lowerer<'_>,
    m: &Mods<'_>,
    o: &[Operand],
    ty: Ty,
    pair: bool,
    nan: bool,
    relu: bool,
    approx: bool,
) -> Lowered {
    let bytes = ty.bytes();
    let class = if matches!(m.name, "ex2" | "tanh") { Class::Special } else { Class::Float };
    let op = match m.name {
        "add" | "sub" | "mul" | "min" | "max" => {
            let [d, a, b] = l.operands(o)?;
            Op::R2(binary::<S>(m, pair, nan)?, l.dr(d, bytes)?, l.r(a, bytes)?, l.r(b, bytes)?)
        }
        "fma" => {
            let [d, a, b, c] = l.operands(o)?;
            Op::R3(fused::<S>(pair, relu), l.dr(d, bytes)?, l.r(a, bytes)?, l.r(b, bytes)?, l.r(c, bytes)?)
        }
        _ => {
            let [d, a] = l.operands(o)?;
            Op::R1(unary::<S>(m, pair, approx)?, l.dr(d, bytes)?, l.r(a, bytes)?)
        }
    };
    Ok((op, class))
}

fn round<S: Small>(x: f64) -> u32 {
    round_to(x, S::FORMAT, Rounding::Rn)
}

fn add<S: Small>(a: u32, b: u32) -> u32 {
    round::<S>(add_to_odd(f64::from(S::widen(a)), f64::from(S::widen(b))))
}

fn sub<S: Small>(a: u32, b: u32) -> u32 {
    round::<S>(add_to_odd(f64::from(S::widen(a)), -f64::from(S::widen(b))))
}

fn mul<S: Small>(a: u32, b: u32) -> u32 {
    round::<S>(f64::from(S::widen(a)) * f64::from(S::widen(b)))
}

fn fma<S: Small, const RELU: bool>(a: u32, b: u32, c: u32) -> u32 {
    let x = fma_to_odd(S::widen(a), S::widen(b), S::widen(c));
    // NaN stays.
    round::<S>(if RELU && x <= 0.0 { 0.0 } else { x })
}

fn extreme<S: Small, const MAX: bool, const NAN: bool>(a: u32, b: u32) -> u32 {
    let x = f32::from_bits(min_max::<MAX, NAN>(S::widen(a).to_bits(), S::widen(b).to_bits()));
    if x.is_nan() { NAN16 } else { S::narrow(x) }
}

type Unary = fn(&Row) -> Row;
type Binary = fn(&Row, &Row) -> Row;
type Ternary = fn(&Row, &Row, &Row) -> Row;

/// Both halves of a pair, or the one value there is.
#[inline(always)]
fn halves<const PAIR: bool>(f: impl Fn(u32) -> u32) -> u32 {
    if PAIR { f(0) | f(16) << 16 } else { f(0) }
}

fn fused<S: Small>(pair: bool, relu: bool) -> Ternary {
    fn rows<S: Small, const PAIR: bool, const RELU: bool>(a: &Row, b: &Row, c: &Row) -> Row {
        std::array::from_fn(|i| {
            let part = |x: &Row, shift: u32| x[i] >> shift & 0xffff;
            halves::<PAIR>(|shift| fma::<S, RELU>(part(a, shift), part(b, shift), part(c, shift)))
        })
    }
    match (pair, relu) {
        (false, false) => rows::<S, false, false>,
        (false, true) => rows::<S, false, true>,
        (true, false) => rows::<S, true, false>,
        (true, true) => rows::<S, true, true>,
    }
}

const ADD: u8 = 0;
const SUB: u8 = 1;
const MUL: u8 = 2;
const MIN: u8 = 3;
const MAX: u8 = 4;
const MIN_NAN: u8 = 5;
const MAX_NAN: u8 = 6;

fn binary<S: Small>(m: &Mods<'_>, pair: bool, nan: bool) -> Result<Binary, PtxError> {
    fn rows<S: Small, const PAIR: bool, const OP: u8>(a: &Row, b: &Row) -> Row {
        std::array::from_fn(|i| {
            halves::<PAIR>(|shift| {
                let (a, b) = (a[i] >> shift & 0xffff, b[i] >> shift & 0xffff);
                match OP {
                    ADD => add::<S>(a, b),
                    SUB => sub::<S>(a, b),
                    MUL => mul::<S>(a, b),
                    MIN => extreme::<S, false, false>(a, b),
                    MAX => extreme::<S, true, false>(a, b),
                    MIN_NAN => extreme::<S, false, true>(a, b),
                    _ => extreme::<S, true, true>(a, b),
                }
            })
        })
    }
    fn pick<S: Small, const OP: u8>(pair: bool) -> Binary {
        if pair { rows::<S, true, OP> } else { rows::<S, false, OP> }
    }
    Ok(match (m.name, nan) {
        ("add", _) => pick::<S, ADD>(pair),
        ("sub", _) => pick::<S, SUB>(pair),
        ("mul", _) => pick::<S, MUL>(pair),
        ("min", false) => pick::<S, MIN>(pair),
        ("max", false) => pick::<S, MAX>(pair),
        ("min", true) => pick::<S, MIN_NAN>(pair),
        ("max", true) => pick::<S, MAX_NAN>(pair),
        _ => return m.error("not known"),
    })
}

const ABS: u8 = 0;
const NEG: u8 = 1;
const EX2: u8 = 2;
const TANH: u8 = 3;

fn unary<S: Small>(m: &Mods<'_>, pair: bool, approx: bool) -> Result<Unary, PtxError> {
    fn rows<S: Small, const PAIR: bool, const OP: u8>(a: &Row) -> Row {
        std::array::from_fn(|i| {
            halves::<PAIR>(|shift| {
                let a = a[i] >> shift & 0xffff;
                match OP {
                    ABS => a & 0x7fff,
                    NEG => a ^ 0x8000,
                    EX2 => S::narrow(exp2(S::widen(a))),
                    _ => round::<S>(f64::from(S::widen(a)).tanh()),
                }
            })
        })
    }
    fn pick<S: Small, const OP: u8>(pair: bool) -> Unary {
        if pair { rows::<S, true, OP> } else { rows::<S, false, OP> }
    }
    Ok(match (m.name, approx) {
        ("abs", false) => pick::<S, ABS>(pair),
        ("neg", false) => pick::<S, NEG>(pair),
        ("ex2", true) => pick::<S, EX2>(pair),
        ("tanh", true) => pick::<S, TANH>(pair),
        _ => return m.error("not known"),
    })
}
