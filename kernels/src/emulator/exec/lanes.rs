//! `shfl`, `vote`, `match`, `redux`, `bar.warp.sync`: what the lanes of a member mask do together.

use super::{
    Flow, Machine, Step, first, lanes,
    memory::{check, uniform},
};
use crate::emulator::{
    fault::{FaultKind, Trouble},
    isa::{Inst, Op, ShflMode, Slot, VoteMode},
    warp::Warp,
};

impl Machine<'_> {
    /// Whether all members are here; if not, those who are wait.
    fn gather(&self, w: &mut Warp, row: u32, m: u32) -> Result<Option<u32>, Box<Trouble>> {
        let members = uniform(w, row, m, "the member mask")?;
        let strangers = m & !members;
        if strangers != 0 {
            let text = format!("the lane executes an instruction for the members {members:#010x}, of which it is none");
            return Err(Trouble::new(FaultKind::WarpDivergence, first(strangers), text));
        }
        if members & w.lanes & !w.exited & !m != 0 {
            w.block(m);
            return Ok(None);
        }
        Ok(Some(members))
    }

    pub(super) fn together(&mut self, w: &mut Warp, inst: &Inst, m: u32) -> Step {
        let (Op::Shfl { members, .. }
        | Op::Vote { members, .. }
        | Op::Match { members, .. }
        | Op::Redux { members, .. }
        | Op::WarpSync(members)) = inst.op
        else {
            return Ok(Flow::Next);
        };
        if self.gather(w, members, m)?.is_none() {
            return Ok(Flow::Regroup);
        }
        match inst.op {
            Op::Shfl { mode, d, p, a, b, c, .. } => shfl(w, mode, d, p, [a, b, c], m)?,
            Op::Vote { mode, d, a, .. } => {
                check(w, Slot::P(a), m, "the predicate")?;
                let yes = w.p[a as usize] & m;
                let answer = match mode {
                    VoteMode::All => yes == m,
                    VoteMode::Any => yes != 0,
                    VoteMode::Uni => yes == m || yes == 0,
                    VoteMode::Ballot => false,
                };
                match d {
                    Slot::R(d) => w.put(d, m, 0, &[yes; 32]),
                    Slot::P(d) => w.put_pred(d, m, 0, if answer { u32::MAX } else { 0 }),
                    Slot::Q(_) => {}
                }
            }
            Op::Match { all, d, p, a, .. } => {
                check(w, a, m, "the value")?;
                let mut out = [0; 32];
                for lane in lanes(m) {
                    let value = w.get(a, lane);
                    out[lane] = lanes(m).filter(|&other| w.get(a, other) == value).fold(0, |mask, i| mask | 1 << i);
                }
                let same = out[first(m)] == m;
                if all {
                    out = [if same { m } else { 0 }; 32];
                }
                w.put(d, m, 0, &out);
                if let Some(p) = p {
                    w.put_pred(p, m, 0, if same { u32::MAX } else { 0 });
                }
            }
            Op::Redux { f, d, a, .. } => {
                check(w, Slot::R(a), m, "the value")?;
                let row = &w.r[a as usize];
                let out = lanes(m).map(|lane| row[lane]).reduce(f).unwrap_or(0);
                w.put(d, m, 0, &[out; 32]);
            }
            // Only what orders all lanes counts: a part of them stays unordered, which can only report too much.
            Op::WarpSync(_) if m == w.lanes & !w.exited => self.shared.warp_sync(w.id),
            _ => {}
        }
        Ok(Flow::Next)
    }
}

/// By the ISA's definition: `c` holds the clamp in bits 0..5 and the mask of the segment in bits 8..13.
fn shfl(w: &mut Warp, mode: ShflMode, d: u32, p: Option<u32>, [a, b, c]: [u32; 3], m: u32) -> Result<(), Box<Trouble>> {
    check(w, Slot::R(b), m, "the lane")?;
    check(w, Slot::R(c), m, "the clamp")?;
    let (mut out, mut inside, mut poison) = ([0; 32], 0, 0);
    for lane in lanes(m) {
        let (b, c) = (w.r[b as usize][lane] & 31, w.r[c as usize][lane]);
        let (clamp, segment) = (c & 31, c >> 8 & 31);
        let own = lane as u32;
        let max = own & segment | clamp & !segment;
        let (source, valid) = match mode {
            ShflMode::Up => (own as i32 - b as i32, own as i32 - b as i32 >= max as i32),
            ShflMode::Down => ((own + b) as i32, own + b <= max),
            ShflMode::Bfly => ((own ^ b) as i32, own ^ b <= max),
            ShflMode::Idx => {
                let source = own & segment | b & !segment;
                (source as i32, source <= max)
            }
        };
        let source = if valid { source as usize } else { lane };
        if m >> source & 1 == 0 {
            let text = format!("shfl reads lane {source}, which does not take part ({m:#010x} do)");
            return Err(Trouble::new(FaultKind::WarpDivergence, lane, text));
        }
        out[lane] = w.r[a as usize][source];
        inside |= u32::from(valid) << lane;
        poison |= (w.xr[a as usize] >> source & 1) << lane;
    }
    w.put(d, m, poison, &out);
    if let Some(p) = p {
        w.put_pred(p, m, 0, inside);
    }
    Ok(())
}
