//! Loads, stores, atomics, `cp.async`.

use super::{Access, Address, AtomicOp, Op, Slot, lower::Lowerer, mods::Mods};
use crate::emulator::{
    counters::Class,
    ptx::{Operand, PtxError, Space, Ty},
};

type Lowered = Result<(Op, Class), PtxError>;

const SPACES: [(&str, Space); 8] = [
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("local", Space::Local),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("param::func", Space::Param),
    ("const", Space::Const),
];

pub(super) fn lower(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    match m.name {
        "ld" | "ldu" | "st" => access(l, m, o),
        "atom" | "red" => atomic(l, m, o),
        "cp" => copy(l, m, o),
        _ => {
            // Hints that change nothing that can be seen.
            for hint in ["global", "L1", "L2", "L2::evict_normal", "L2::evict_last", "tensormap"] {
                m.has(hint);
            }
            Ok((Op::Nop, Class::Global))
        }
    }
}

/// Modifiers of order and caches: what they allow, a device that does one thing after another satisfies.
fn hints(m: &mut Mods<'_>) {
    for hint in [
        "volatile",
        "relaxed",
        "acquire",
        "release",
        "acq_rel",
        "weak",
        "mmio",
        "cta",
        "gpu",
        "sys",
        "cluster",
        "ca",
        "cg",
        "cs",
        "lu",
        "cv",
        "wb",
        "wt",
        "nc",
        "L1::evict_normal",
        "L1::evict_first",
        "L1::evict_last",
        "L1::evict_unchanged",
        "L1::no_allocate",
        "L2::64B",
        "L2::128B",
        "L2::256B",
    ] {
        m.has(hint);
    }
}

fn class_of(space: Space) -> Class {
    match space {
        Space::Generic | Space::Global => Class::Global,
        Space::Shared => Class::Shared,
        Space::Local => Class::Local,
        Space::Param | Space::Const => Class::Constant,
    }
}

/// The space of the instruction, or that of the variable the address names, which must agree.
fn place(m: &Mods<'_>, stated: Option<Space>, found: Option<Space>) -> Result<Space, PtxError> {
    match (stated, found) {
        // Parameters of functions are local memory of the caller.
        (Some(Space::Param), Some(space @ (Space::Local | Space::Param))) => Ok(space),
        (Some(Space::Const), Some(Space::Global)) => Ok(Space::Const),
        (Some(stated), Some(found)) if stated != found => {
            m.error(format!("an address in {found:?} memory for an access of {stated:?} memory"))
        }
        (Some(stated), _) => Ok(stated),
        (None, Some(found)) => Ok(found),
        (None, None) => Ok(Space::Generic),
    }
}

fn access(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let load = m.name != "st";
    let space = m.one_of(&SPACES);
    hints(m);
    let count = m.one_of(&[("v2", 2_usize), ("v4", 4)]).unwrap_or(1);
    let ty = m.ty()?;
    let bytes = ty.bytes();
    if bytes == 0 || bytes * count > 16 {
        return m.error(format!("{count} elements of type {ty:?}"));
    }
    let [first, second] = l.operands(o)?;
    let (data, address) = if load { (first, second) } else { (second, first) };
    let (address, found) = l.address(address)?;
    let space = place(m, space, found)?;
    if !load && matches!(space, Space::Param | Space::Const) {
        return m.error("a store to memory that cannot be written");
    }
    let one = std::slice::from_ref(data);
    let parts = match data {
        Operand::Vector(parts) => parts.as_slice(),
        _ => one,
    };
    if parts.len() != count {
        return m.error(format!("{} registers, wanted {count}", parts.len()));
    }
    let mut regs = [Slot::R(0); 4];
    for (reg, part) in regs.iter_mut().zip(parts) {
        *reg = data_register(l, m, part, ty, load)?;
    }
    let access = Access { space, address, bytes: bytes as u8, count: count as u8, signed: ty.is_signed(), regs };
    Ok((if load { Op::Load(access) } else { Op::Store(access) }, class_of(space)))
}

/// Registers may be wider than what is loaded or stored.
fn data_register(l: &mut Lowerer<'_>, m: &Mods<'_>, operand: &Operand, ty: Ty, load: bool) -> Result<Slot, PtxError> {
    match operand {
        Operand::Sink if load => Ok(l.new_slot(ty)),
        Operand::Reg(_) => {
            let (slot, register) = l.register(operand)?;
            if register.bytes() < ty.bytes() || register == Ty::Pred {
                return m.error(format!("a register of type {register:?} for {ty:?}"));
            }
            Ok(slot)
        }
        _ if load => m.error("the result is no register"),
        _ => l.immediate(operand, ty.bytes().max(2)),
    }
}

fn atomic(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    let returns = m.name == "atom";
    let space = m.one_of(&SPACES[..3]);
    hints(m);
    let op = m.must(
        "an operation",
        &[
            ("add", AtomicOp::Add),
            ("min", AtomicOp::Min),
            ("max", AtomicOp::Max),
            ("and", AtomicOp::And),
            ("or", AtomicOp::Or),
            ("xor", AtomicOp::Xor),
            ("exch", AtomicOp::Exch),
            ("cas", AtomicOp::Cas),
            ("inc", AtomicOp::Inc),
            ("dec", AtomicOp::Dec),
        ],
    )?;
    let noftz = m.has("noftz");
    let ty = m.ty()?;
    let float = matches!(ty, Ty::F32 | Ty::F64 | Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2);
    let known = match op {
        AtomicOp::Add => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64) || float,
        AtomicOp::Min | AtomicOp::Max => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
        AtomicOp::Inc | AtomicOp::Dec => ty == Ty::U32,
        AtomicOp::Cas => returns && matches!(ty, Ty::B16 | Ty::B32 | Ty::B64),
        AtomicOp::Exch => returns && matches!(ty, Ty::B32 | Ty::B64),
        AtomicOp::And | AtomicOp::Or | AtomicOp::Xor => matches!(ty, Ty::B32 | Ty::B64),
    };
    let small = matches!(ty, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2);
    if !known || noftz != small {
        return m.error("this operation on this type is not known");
    }
    let (d, rest) = match (returns, o) {
        (true, [d, rest @ ..]) => (Some(l.target(d, ty.bytes())?), rest),
        (false, rest) => (None, rest),
        _ => return m.error("no operands"),
    };
    let (address, b, c) = match (op, rest) {
        (AtomicOp::Cas, [address, b, c]) => (address, b, c),
        (AtomicOp::Cas, _) => return m.error("wanted three operands"),
        (_, [address, b]) => (address, b, b),
        _ => return m.error(format!("{} operands", o.len())),
    };
    let (address, found) = l.address(address)?;
    let space = place(m, space, found)?;
    // The order of blocks shows in what is returned, and in the rounding of sums.
    if space != Space::Shared && (returns || float) {
        l.code.ordered = true;
    }
    let (b, c) = (l.source(b, ty.bytes())?, l.source(c, ty.bytes())?);
    Ok((Op::Atomic { op, ty, space, address, d, b, c }, Class::Atomic))
}

fn copy(l: &mut Lowerer<'_>, m: &mut Mods<'_>, o: &[Operand]) -> Lowered {
    m.must("the form", &[("async", ())])?;
    if m.has("commit_group") {
        l.operands::<0>(o)?;
        return Ok((Op::Commit, Class::Async));
    }
    if m.has("wait_all") {
        l.operands::<0>(o)?;
        return Ok((Op::Wait(None), Class::Async));
    }
    if m.has("wait_group") {
        return match l.operands(o)? {
            [Operand::Int(n)] if *n < 1 << 16 => Ok((Op::Wait(Some(*n as u32)), Class::Async)),
            _ => m.error("wanted a number"),
        };
    }
    let cg = m.must("a cache level", &[("ca", false), ("cg", true)])?;
    m.must("the target", &[("shared", ()), ("shared::cta", ())])?;
    m.must("the source", &[("global", ())])?;
    for hint in ["L2::64B", "L2::128B", "L2::256B"] {
        m.has(hint);
    }
    let (to, from, bytes, extra) = match o {
        [to, from, Operand::Int(bytes)] => (to, from, *bytes, None),
        [to, from, Operand::Int(bytes), extra] => (to, from, *bytes, Some(extra)),
        _ => return m.error("wanted `[to], [from], bytes` and a source size or an ignore predicate"),
    };
    if !(bytes == 16 || (!cg && matches!(bytes, 4 | 8))) {
        return m.error(format!("{bytes} bytes; wanted 16, or 4 or 8 with .ca"));
    }
    let (mut size, mut ignore) = (None, None);
    if let Some(extra) = extra {
        match extra {
            Operand::Reg(_) if matches!(l.register(extra)?.0, Slot::P(_)) => ignore = Some(l.p(extra)?.0),
            _ => size = Some(l.r(extra, 4)?),
        }
    }
    let (to, found) = l.address(to)?;
    if found.is_some_and(|space| space != Space::Shared) {
        return m.error("the target is not in shared memory");
    }
    let (from, found): (Address, _) = l.address(from)?;
    if found.is_some_and(|space| space != Space::Global) {
        return m.error("the source is not in global memory");
    }
    Ok((Op::CpAsync { to, from, bytes: bytes as u8, size, ignore }, Class::Async))
}
