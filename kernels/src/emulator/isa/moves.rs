//! `mov` with packing and unpacking, `cvta`, `isspacep`.

use super::{
    Op, Row, Row64, Slot,
    lower::Lowerer,
    mods::Mods,
    rows::{row1, row2, rows},
};
use crate::emulator::{
    counters::Class,
    memory::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW},
    ptx::{Operand, PtxError, Ty},
};

type Lowered = Result<(Op, Class), PtxError>;

pub(super) fn lower(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    match m.name {
        "mov" => mov(l, m, o),
        "cvta" => cvta(l, m, o),
        _ => {
            let window =
                m.must("a state space", &[("global", 0), ("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW)])?;
            let [d, a] = l.operands(o)?;
            let f = match window {
                0 => super::rows::mask!(Row64, |a: u64, _: u64| a >= LOCAL_WINDOW + WINDOW),
                SHARED_WINDOW => super::rows::mask!(Row64, |a: u64, _: u64| a.wrapping_sub(SHARED_WINDOW) < WINDOW),
                _ => super::rows::mask!(Row64, |a: u64, _: u64| a.wrapping_sub(LOCAL_WINDOW) < WINDOW),
            };
            let a = l.q(a)?;
            Ok((Op::SetQ { f, d: l.dp(d)?, not_d: None, a, b: a, combine: None }, Class::Integer))
        }
    }
}

fn mov(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let ty = m.ty()?;
    let [d, a] = l.operands(o)?;
    let bytes = ty.bytes();
    let op = match (d, a) {
        (Operand::Vector(parts), _) => {
            let a = l.source(a, bytes)?;
            let (parts, n) = self::parts(l, m, parts, bytes, true)?;
            Op::Unpack { parts, a, n, bits: (bytes * 8) as u8 / n }
        }
        (_, Operand::Vector(parts)) => {
            let (parts, n) = self::parts(l, m, parts, bytes, false)?;
            match l.target(d, bytes)? {
                Slot::R(d) => Op::R2(row2!(|a: u32, b: u32| a | b << 16), d, parts[0], parts[1]),
                Slot::Q(d) if n == 2 => {
                    let join = rows!((Row, Row) -> Row64, |a: u32, b: u32| u64::from(a) | u64::from(b) << 32);
                    Op::Wide2(join, d, parts[0], parts[1])
                }
                d => Op::Pack { d, parts, n, bits: (bytes * 8) as u8 / n },
            }
        }
        (_, Operand::Word(name)) if matches!(name.as_str(), "%clock" | "%clock64" | "%globaltimer" | "%clock_hi") => {
            Op::Clock(l.target(d, bytes)?)
        }
        _ if ty == Ty::Pred => {
            let (a, negated) = l.p(a)?;
            Op::Pred { table: if negated { 0b0011 } else { 0b1100 }, d: l.dp(d)?, a, b: a }
        }
        _ if bytes == 8 => Op::Q1(rows!((Row64) -> Row64, |a: u64| a), l.dq(d)?, l.q(a)?),
        _ if bytes == 4 || bytes == 2 => Op::R1(row1!(|a: u32| a), l.dr(d, bytes)?, l.r(a, bytes)?),
        _ => return m.bad_type(ty),
    };
    Ok((op, Class::Integer))
}

/// Registers of `{a, b}`; `_` is allowed where they are written.
fn parts(
    l: &mut Lowerer<'_>,
    m: &Mods<'_>,
    parts: &[Operand],
    bytes: usize,
    written: bool,
) -> Result<([u32; 4], u8), PtxError> {
    let n = parts.len();
    let part = bytes / n.max(1);
    if !matches!(n, 2 | 4) || !matches!(part, 2 | 4) {
        return m.error(format!("{n} parts of {bytes} bytes"));
    }
    let mut rows = [0; 4];
    for (row, operand) in rows.iter_mut().zip(parts) {
        *row = if written { l.dr(operand, part)? } else { l.r(operand, part)? };
    }
    Ok((rows, n as u8))
}

/// Generic addresses: shared and local memory are windows, the rest is as it is.
fn cvta(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let to = m.has("to");
    let window = m.must(
        "a state space",
        &[
            ("global", 0),
            ("const", 0),
            ("param", 0),
            ("shared", SHARED_WINDOW),
            ("shared::cta", SHARED_WINDOW),
            ("local", LOCAL_WINDOW),
        ],
    )?;
    if m.ty()? != Ty::U64 {
        return m.error("only .u64 is known");
    }
    let [d, a] = l.operands(o)?;
    let a = match a {
        Operand::Reg(_) => l.q(a)?,
        _ => {
            let address = l.symbol(a, false)?;
            l.constant64(address)
        }
    };
    let offset = l.constant64(if to { window.wrapping_neg() } else { window });
    let f = rows!((Row64, Row64) -> Row64, |a: u64, b: u64| a.wrapping_add(b));
    Ok((Op::Q2(f, l.dq(d)?, a, offset), Class::Integer))
}
