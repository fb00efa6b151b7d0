//! Branches, barriers, fences.

use super::{BarKind, Op, lower::Lowerer, mods::Mods};
use crate::emulator::{
    counters::Class,
    ptx::{Operand, PtxError, Statement, Ty},
};

type Lowered = Result<(Op, Class), PtxError>;

pub(super) fn lower(l: &mut Lowerer<'_>, m: &mut Mods<'_>, s: &Statement) -> Lowered {
    let o = &s.operands;
    let op = match m.name {
        "bra" => {
            m.has("uni");
            match l.operands::<1>(o)? {
                [Operand::Word(label)] => l.branch(s.scope, label),
                _ => return m.error("wanted a label"),
            }
        }
        "brx" => {
            m.must("the kind of branch", &[("idx", ())])?;
            m.has("uni");
            match l.operands::<2>(o)? {
                [index, Operand::Word(name)] => {
                    Op::BranchIndexed { a: l.r(index, 4)?, table: l.branch_table(s.scope, name) }
                }
                _ => return m.error("wanted an index and a table"),
            }
        }
        "ret" => {
            m.has("uni");
            l.ret()
        }
        "exit" => Op::Exit,
        "trap" | "brkpt" => Op::Trap,
        "nanosleep" => {
            m.has("u32");
            Op::Nop
        }
        "griddepcontrol" => {
            // One grid runs after the other, so whatever it waits for is done.
            m.must("an action", &[("launch_dependents", ()), ("wait", ())])?;
            Op::Nop
        }
        "pmevent" => {
            m.has("mask");
            Op::Nop
        }
        "membar" | "fence" => return fence(m),
        _ => return barrier(l, m, o),
    };
    Ok((op, Class::Control))
}

fn fence(m: &mut Mods<'_>) -> Lowered {
    let device = if m.name == "membar" {
        m.must("a level", &[("cta", false), ("gl", true), ("sys", true)])?
    } else {
        m.must("semantics", &[("sc", ()), ("acq_rel", ())])?;
        m.must("a scope", &[("cta", false), ("cluster", false), ("gpu", true), ("sys", true)])?
    };
    Ok((Op::Fence { device }, Class::Barrier))
}

/// `bar{.cta}`, `barrier{.cta}`, `bar.warp.sync`.
fn barrier(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    if m.has("warp") {
        m.must("an action", &[("sync", ())])?;
        let [members] = l.operands(o)?;
        return Ok((Op::WarpSync(l.r(members, 4)?), Class::Warp));
    }
    m.has("cta");
    let action = m.must("an action", &[("sync", 's'), ("arrive", 'a'), ("red", 'r')])?;
    // Without .aligned too, the lanes of a warp must come together.
    m.has("aligned");
    let reduce = if action == 'r' {
        let what = m.must("an operation", &[("popc", 'p'), ("and", 'a'), ("or", 'o')])?;
        let ty = m.ty()?;
        if ty != if what == 'p' { Ty::U32 } else { Ty::Pred } {
            return m.bad_type(ty);
        }
        Some(what)
    } else {
        None
    };
    let (kind, a, rest) = match (reduce, o) {
        (Some(what), [d, rest @ .., p]) => {
            let (p, negated) = l.p(p)?;
            if negated {
                return m.error("a negated predicate is not known here");
            }
            let kind = match what {
                'p' => BarKind::Popc(l.dr(d, 4)?),
                'a' => BarKind::And(l.dp(d)?),
                _ => BarKind::Or(l.dp(d)?),
            };
            (kind, p, rest)
        }
        (None, rest) => (if action == 'a' { BarKind::Arrive } else { BarKind::Sync }, 0, rest),
        _ => return m.error("too few operands"),
    };
    let (id, threads) = match rest {
        [id] if kind != BarKind::Arrive => (l.r(id, 4)?, None),
        [id, threads] => (l.r(id, 4)?, Some(l.r(threads, 4)?)),
        _ => return m.error(format!("{} operands", o.len())),
    };
    Ok((Op::Bar { kind, id, threads, a }, Class::Barrier))
}
