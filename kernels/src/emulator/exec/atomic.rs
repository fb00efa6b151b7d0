//! `atom` and `red`.

use super::{
    Machine, lanes,
    memory::{addresses, aligned, check, resolve},
    who,
};
use crate::emulator::{
    fault::{FaultKind, Trouble},
    isa::{
        Address, AtomicOp, Slot,
        num::{BF16, F16, Rounding, add_to_odd, canon, canon64, round_to, widen_bf16, widen_f16},
    },
    ptx::{Space, Ty},
    warp::Warp,
};

impl Machine<'_> {
    #[expect(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(super) fn atomic(
        &mut self,
        w: &mut Warp,
        op: AtomicOp,
        ty: Ty,
        space: Space,
        address: Address,
        d: Option<Slot>,
        [b, c]: [Slot; 2],
        m: u32,
        line: u32,
    ) -> Result<(), Box<Trouble>> {
        let addresses = addresses(w, address, m)?;
        check(w, b, m, "the operand")?;
        check(w, c, m, "the operand")?;
        let bytes = ty.bytes();
        for lane in lanes(m) {
            let (x, y) = (w.get(b, lane), w.get(c, lane));
            let (space, address) = resolve(space, addresses[lane]);
            let f = |old| apply(op, ty, old, x, y);
            let old = match space {
                Space::Shared => self.shared.atomic(who(w, lane, line), address, bytes as u32, f)?,
                Space::Local => {
                    let text = "an atomic operation on local memory";
                    return Err(Trouble::at(FaultKind::OutOfBounds, lane, address, text));
                }
                _ => self.atomic_global(lane, address, bytes, f)?,
            };
            if let Some(d) = d {
                w.set(d, lane, old);
            }
        }
        if let Some(d) = d {
            w.set_poison(d, m, 0);
        }
        Ok(())
    }

    fn atomic_global(
        &mut self,
        lane: usize,
        address: u64,
        bytes: usize,
        f: impl FnOnce(u64) -> u64,
    ) -> Result<u64, Box<Trouble>> {
        let _guard = self.grid.global.lock();
        aligned(lane, address, bytes as u64, "global memory")?;
        let (a, offset) = self.finder.find(lane, address, bytes as u64)?;
        let old = a
            .read_atomic(offset, bytes)
            .map_err(|kind| Trouble::at(kind, lane, address, format!("byte {offset} of `{}`", a.what)))?;
        a.write_atomic(offset, bytes, f(old));
        Ok(old)
    }
}

fn apply(op: AtomicOp, ty: Ty, old: u64, x: u64, y: u64) -> u64 {
    let (a, b) = (old as u32, x as u32);
    match (op, ty) {
        (AtomicOp::Exch, _) => x,
        (AtomicOp::Cas, _) => {
            if old == x {
                y
            } else {
                old
            }
        }
        (AtomicOp::And, _) => old & x,
        (AtomicOp::Or, _) => old | x,
        (AtomicOp::Xor, _) => old ^ x,
        (AtomicOp::Inc, _) => u64::from(if a >= b { 0 } else { a + 1 }),
        (AtomicOp::Dec, _) => u64::from(if a == 0 || a > b { b } else { a - 1 }),
        (AtomicOp::Min, Ty::S32) => u64::from((a as i32).min(b as i32) as u32),
        (AtomicOp::Max, Ty::S32) => u64::from((a as i32).max(b as i32) as u32),
        (AtomicOp::Min, Ty::S64) => (old as i64).min(x as i64) as u64,
        (AtomicOp::Max, Ty::S64) => (old as i64).max(x as i64) as u64,
        (AtomicOp::Min, _) => old.min(x),
        (AtomicOp::Max, _) => old.max(x),
        (AtomicOp::Add, Ty::F32) => u64::from(canon(f32::from_bits(a) + f32::from_bits(b))),
        (AtomicOp::Add, Ty::F64) => canon64(f64::from_bits(old) + f64::from_bits(x)),
        (AtomicOp::Add, Ty::F16) => u64::from(add_f16(a, b)),
        (AtomicOp::Add, Ty::Bf16) => u64::from(add_bf16(a, b)),
        (AtomicOp::Add, Ty::F16x2) => u64::from(add_f16(a & 0xffff, b & 0xffff) | add_f16(a >> 16, b >> 16) << 16),
        (AtomicOp::Add, Ty::Bf16x2) => u64::from(add_bf16(a & 0xffff, b & 0xffff) | add_bf16(a >> 16, b >> 16) << 16),
        (AtomicOp::Add, Ty::U64) => old.wrapping_add(x),
        (AtomicOp::Add, _) => u64::from(a.wrapping_add(b)),
    }
}

fn add_f16(a: u32, b: u32) -> u32 {
    round_to(add_to_odd(f64::from(widen_f16(a)), f64::from(widen_f16(b))), F16, Rounding::Rn)
}

fn add_bf16(a: u32, b: u32) -> u32 {
    round_to(add_to_odd(f64::from(widen_bf16(a)), f64::from(widen_bf16(b))), BF16, Rounding::Rn)
}
