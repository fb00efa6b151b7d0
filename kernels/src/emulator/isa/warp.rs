//! What lanes of a warp do together: `shfl`, `vote`, `match`, `redux`, `mma`, `ldmatrix`.

use super::{Mma, MmaTy, Op, ShflMode, Slot, VoteMode, lower::Lowerer, mods::Mods};
use crate::emulator::{
    counters::Class,
    ptx::{Operand, PtxError, Space, Ty},
};

type Lowered = Result<(Op, Class), PtxError>;

pub(super) fn lower(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    if m.name == "activemask" {
        m.must("a type", &[("b32", ())])?;
        let [d] = l.operands(o)?;
        return Ok((Op::ActiveMask(l.dr(d, 4)?), Class::Warp));
    }
    m.must("the form", &[("sync", ())])?;
    match m.name {
        "shfl" => shfl(l, m, o),
        "vote" => vote(l, m, o),
        "match" => matching(l, m, o),
        "redux" => redux(l, m, o),
        "mma" => mma(l, m, o),
        "ldmatrix" => ldmatrix(l, m, o),
        _ => m.error("not known"),
    }
}

fn shfl(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let modes = [("up", ShflMode::Up), ("down", ShflMode::Down), ("bfly", ShflMode::Bfly), ("idx", ShflMode::Idx)];
    let mode = m.must("a mode", &modes)?;
    m.must("a type", &[("b32", ())])?;
    let [d, a, b, c, members] = l.operands(o)?;
    let (d, p) = match d {
        Operand::Pair(d, p) => (l.dr(d, 4)?, Some(l.dp(p)?)),
        d => (l.dr(d, 4)?, None),
    };
    Ok((Op::Shfl { mode, d, p, a: l.r(a, 4)?, b: l.r(b, 4)?, c: l.r(c, 4)?, members: l.r(members, 4)? }, Class::Warp))
}

fn vote(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let modes = [("all", VoteMode::All), ("any", VoteMode::Any), ("uni", VoteMode::Uni), ("ballot", VoteMode::Ballot)];
    let mode = m.must("a mode", &modes)?;
    let ty = m.ty()?;
    let [d, a, members] = l.operands(o)?;
    let d = match (mode, ty) {
        (VoteMode::Ballot, Ty::B32) => Slot::R(l.dr(d, 4)?),
        (VoteMode::Ballot, _) => return m.bad_type(ty),
        (_, Ty::Pred) => Slot::P(l.dp(d)?),
        _ => return m.bad_type(ty),
    };
    let (p, negated) = l.p(a)?;
    let p = if negated {
        let not = l.dp(&Operand::Sink)?;
        l.push(Op::Pred { table: 0b0011, d: not, a: p, b: p }, None, Class::Integer);
        not
    } else {
        p
    };
    Ok((Op::Vote { mode, d, a: p, members: l.r(members, 4)? }, Class::Warp))
}

fn matching(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let all = m.must("a mode", &[("any", false), ("all", true)])?;
    let ty = m.ty()?;
    if !matches!(ty, Ty::B32 | Ty::B64) {
        return m.bad_type(ty);
    }
    let [d, a, members] = l.operands(o)?;
    let (d, p) = match d {
        Operand::Pair(d, p) if all => (l.dr(d, 4)?, Some(l.dp(p)?)),
        d => (l.dr(d, 4)?, None),
    };
    Ok((Op::Match { all, d, p, a: l.source(a, ty.bytes())?, members: l.r(members, 4)? }, Class::Warp))
}

fn redux(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let operation = ["add", "min", "max", "and", "or", "xor"].into_iter().find(|name| m.has(name));
    let ty = m.ty()?;
    let f: fn(u32, u32) -> u32 = match (operation, ty) {
        (Some("add"), Ty::U32 | Ty::S32) => u32::wrapping_add,
        (Some("min"), Ty::U32) => u32::min,
        (Some("max"), Ty::U32) => u32::max,
        (Some("min"), Ty::S32) => |a, b| (a as i32).min(b as i32) as u32,
        (Some("max"), Ty::S32) => |a, b| (a as i32).max(b as i32) as u32,
        (Some("and"), Ty::B32) => |a, b| a & b,
        (Some("or"), Ty::B32) => |a, b| a | b,
        (Some("xor"), Ty::B32) => |a, b| a ^ b,
        _ => return m.error("this operation on this type is not known"),
    };
    let [d, a, members] = l.operands(o)?;
    Ok((Op::Redux { f, d: l.dr(d, 4)?, a: l.r(a, 4)?, members: l.r(members, 4)? }, Class::Warp))
}

/// The registers of `{…}`.
fn fragment<const N: usize>(
    l: &mut Lowerer<'_>,
    m: &Mods<'_>,
    operand: &Operand,
    n: usize,
    written: bool,
) -> Result<[u32; N], PtxError> {
    let one = std::slice::from_ref(operand);
    let parts = match operand {
        Operand::Vector(parts) => parts.as_slice(),
        _ => one,
    };
    if parts.len() != n {
        return m.error(format!("{} registers, wanted {n}", parts.len()));
    }
    let mut rows = [0; N];
    for (row, part) in rows.iter_mut().zip(parts) {
        *row = if written { l.dr(part, 4)? } else { l.r(part, 4)? };
    }
    Ok(rows)
}

fn mma(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    m.must("the form", &[("aligned", ())])?;
    let k = m.must("a shape", &[("m16n8k16", 16_u8), ("m16n8k8", 8)])?;
    m.must("the layout of the first factor", &[("row", ())])?;
    m.must("the layout of the second factor", &[("col", ())])?;
    let types = [m.ty()?, m.ty()?, m.ty()?, m.ty()?];
    let (ty, half_accumulators) = match types {
        [Ty::F32, Ty::F16, Ty::F16, Ty::F32] => (MmaTy::F16, false),
        [Ty::F32, Ty::Bf16, Ty::Bf16, Ty::F32] => (MmaTy::Bf16, false),
        [Ty::F16, Ty::F16, Ty::F16, Ty::F16] => (MmaTy::F16, true),
        _ => return m.error("these types are not known"),
    };
    let [d, a, b, c] = l.operands(o)?;
    let (na, nb) = if k == 16 { (4, 2) } else { (2, 1) };
    let nc = if half_accumulators { 2 } else { 4 };
    let mma = Mma {
        ty,
        k,
        half_accumulators,
        d: fragment(l, m, d, nc, true)?,
        a: fragment(l, m, a, na, false)?,
        b: fragment(l, m, b, nb, false)?,
        c: fragment(l, m, c, nc, false)?,
    };
    Ok((Op::Mma(mma), Class::Mma))
}

fn ldmatrix(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    m.must("the form", &[("aligned", ())])?;
    m.must("a shape", &[("m8n8", ())])?;
    let n = m.must("a count", &[("x1", 1_u8), ("x2", 2), ("x4", 4)])?;
    let transposed = m.has("trans");
    m.must("a state space", &[("shared", ()), ("shared::cta", ())])?;
    m.must("a type", &[("b16", ())])?;
    let [d, address] = l.operands(o)?;
    let d = fragment(l, m, d, usize::from(n), true)?;
    let (address, space) = l.address(address)?;
    if space.is_some_and(|space| space != Space::Shared) {
        return m.error("the address is not in shared memory");
    }
    Ok((Op::LdMatrix { address, n, transposed, d }, Class::LdMatrix))
}
