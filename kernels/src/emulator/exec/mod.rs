//! Runs one block: its warps take turns, each until a barrier, its end, or its turn is over.

mod atomic;
mod block;
mod copy;
mod lanes;
mod matrix;
mod memory;

pub(crate) use block::{Barrier, Worker};

use super::{
    counters::Counters,
    fault::{FaultKind, Trouble},
    isa::{Code, Combine, Inst, Op, Slot},
    memory::{Finder, Global, View},
    shared::{Shared, Who},
    warp::{State, Warp},
};

/// Instructions of a warp before another has its turn.
const TURN: u32 = 1 << 16;

/// What all blocks of a launch share.
pub(crate) struct Grid<'a> {
    pub(crate) code: &'a Code,
    pub(crate) global: &'a Global<'a>,
    pub(crate) params: &'a [u8],
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared: u32,
    pub(crate) num_sms: u32,
    pub(crate) launch: u64,
    /// Instructions a warp may execute.
    pub(crate) max_steps: u64,
    /// Number of the first block as a writer of memory.
    pub(crate) first_writer: u32,
}

/// One block, and the thread that runs it.
pub(crate) struct Machine<'a> {
    grid: &'a Grid<'a>,
    finder: Finder<'a>,
    shared: Shared,
    pub(crate) counters: Counters,
    view: View,
    cta: [u32; 3],
    barriers: [Barrier; 16],
    clock: u64,
}

type Step = Result<Flow, Box<Trouble>>;

/// What comes after an instruction.
enum Flow {
    /// The next one.
    Next,
    /// Groups changed, or all go elsewhere: look for the one that is furthest behind.
    Regroup,
    /// The warp waits at a barrier.
    Wait,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(grid: &'a Grid<'a>) -> Self {
        Self {
            grid,
            finder: Finder::new(grid.global.memory),
            shared: Shared::new(),
            counters: Counters::default(),
            view: View { first: grid.first_writer, own: 0, fenced: false },
            cta: [0; 3],
            barriers: std::array::from_fn(|_| Barrier::default()),
            clock: 0,
        }
    }

    /// Runs a warp's turn.
    fn turn(&mut self, w: &mut Warp) -> Result<(), Box<Trouble>> {
        let code = self.grid.code;
        for _ in 0..TURN {
            if (w.active == 0 || w.pc == w.stop) && !w.regroup() {
                return self.finish(w);
            }
            let inst = &code.insts[w.pc as usize];
            let mut mask = w.active;
            if let Some((p, negated)) = inst.guard {
                if w.xp[p as usize] & mask != 0 {
                    return Err(uninitialised(w.xp[p as usize] & mask, "the guard"));
                }
                let p = w.p[p as usize];
                mask &= if negated { !p } else { p };
            }
            self.counters.instructions[inst.class as usize] += 1;
            self.counters.thread_instructions += u64::from(mask.count_ones());
            w.steps += 1;
            if mask == 0 {
                w.pc += 1;
                continue;
            }
            match self.step(w, inst, mask)? {
                Flow::Next => w.pc += 1,
                Flow::Regroup => {
                    if (w.active == 0 || !w.others.is_empty()) && !w.regroup() {
                        return self.finish(w);
                    }
                }
                Flow::Wait => return Ok(()),
            }
        }
        if w.steps > self.grid.max_steps {
            let text = format!("a warp executed more than {} instructions", self.grid.max_steps);
            return Err(Trouble::new(FaultKind::Timeout, first(w.active), text));
        }
        Ok(())
    }

    /// No group can run: all have exited, or those left wait for one another.
    fn finish(&mut self, w: &mut Warp) -> Result<(), Box<Trouble>> {
        let Some(group) = w.others.first().copied() else {
            w.state = State::Done;
            return Ok(());
        };
        let code = self.grid.code;
        w.pc = group.pc;
        let inst = &code.insts[group.pc as usize];
        let missing = w.lanes & !group.mask;
        let elsewhere: Vec<u32> = w.others[1..].iter().map(|g| code.insts[g.pc as usize].line).collect();
        let mut text = format!("lanes {:#010x} of warp {} wait here", group.mask, w.id);
        if missing & w.exited != 0 {
            text += &format!(", lanes {:#010x} have exited (line {})", missing & w.exited, w.exit_line);
        }
        if !elsewhere.is_empty() {
            text += &format!(", lanes {:#010x} wait at line {}", w.others[1].mask, elsewhere[0]);
        }
        let kind =
            if matches!(inst.op, Op::Bar { .. }) { FaultKind::BarrierDivergence } else { FaultKind::WarpDivergence };
        Err(Trouble::new(kind, first(group.mask), text))
    }

    /// Executes one instruction for the lanes of `m`.
    #[inline(always)]
    fn step(&mut self, w: &mut Warp, inst: &Inst, m: u32) -> Step {
        match inst.op {
            Op::R1(f, d, a) => {
                let out = f(&w.r[a as usize]);
                w.put(d, m, w.xr[a as usize], &out);
            }
            Op::R2(f, d, a, b) => {
                let out = f(&w.r[a as usize], &w.r[b as usize]);
                w.put(d, m, w.xr[a as usize] | w.xr[b as usize], &out);
            }
            Op::R3(f, d, a, b, c) => {
                let out = f(&w.r[a as usize], &w.r[b as usize], &w.r[c as usize]);
                w.put(d, m, w.xr[a as usize] | w.xr[b as usize] | w.xr[c as usize], &out);
            }
            Op::Q1(f, d, a) => {
                let out = f(&w.q[a as usize]);
                w.put64(d, m, w.xq[a as usize], &out);
            }
            Op::Q2(f, d, a, b) => {
                let out = f(&w.q[a as usize], &w.q[b as usize]);
                w.put64(d, m, w.xq[a as usize] | w.xq[b as usize], &out);
            }
            Op::Q3(f, d, a, b, c) => {
                let out = f(&w.q[a as usize], &w.q[b as usize], &w.q[c as usize]);
                w.put64(d, m, w.xq[a as usize] | w.xq[b as usize] | w.xq[c as usize], &out);
            }
            Op::Wide2(f, d, a, b) => {
                let out = f(&w.r[a as usize], &w.r[b as usize]);
                w.put64(d, m, w.xr[a as usize] | w.xr[b as usize], &out);
            }
            Op::Wide3(f, d, a, b, c) => {
                let out = f(&w.r[a as usize], &w.r[b as usize], &w.q[c as usize]);
                w.put64(d, m, w.xr[a as usize] | w.xr[b as usize] | w.xq[c as usize], &out);
            }
            Op::Shift64(f, d, a, b) => {
                let out = f(&w.q[a as usize], &w.r[b as usize]);
                w.put64(d, m, w.xq[a as usize] | w.xr[b as usize], &out);
            }
            Op::Narrow(f, d, a) => {
                let out = f(&w.q[a as usize]);
                w.put(d, m, w.xq[a as usize], &out);
            }
            Op::Widen(f, d, a) => {
                let out = f(&w.r[a as usize]);
                w.put64(d, m, w.xr[a as usize], &out);
            }
            Op::SetR { f, d, not_d, a, b, combine } => {
                let out = f(&w.r[a as usize], &w.r[b as usize]);
                set(w, d, not_d, combine, m, out, w.xr[a as usize] | w.xr[b as usize]);
            }
            Op::SetQ { f, d, not_d, a, b, combine } => {
                let out = f(&w.q[a as usize], &w.q[b as usize]);
                set(w, d, not_d, combine, m, out, w.xq[a as usize] | w.xq[b as usize]);
            }
            Op::SetHalves { lo, hi, d, q, a, b } => {
                let (a, b) = (a as usize, b as usize);
                let (x, low, high) = (w.xr[a] | w.xr[b], lo(&w.r[a], &w.r[b]), hi(&w.r[a], &w.r[b]));
                w.put_pred(d, m, x, low);
                w.put_pred(q, m, x, high);
            }
            Op::SelR { d, a, b, p } => {
                let (x, y, p) = (&w.r[a as usize], &w.r[b as usize], p as usize);
                let mut out = [0; 32];
                for i in 0..32 {
                    let pick = (w.p[p] >> i & 1).wrapping_neg();
                    out[i] = x[i] & pick | y[i] & !pick;
                }
                let poison = w.xp[p] | w.xr[a as usize] & w.p[p] | w.xr[b as usize] & !w.p[p];
                w.put(d, m, poison, &out);
            }
            Op::SelQ { d, a, b, p } => {
                let (x, y, p) = (&w.q[a as usize], &w.q[b as usize], p as usize);
                let mut out = [0; 32];
                for i in 0..32 {
                    out[i] = if w.p[p] >> i & 1 == 1 { x[i] } else { y[i] };
                }
                let poison = w.xp[p] | w.xq[a as usize] & w.p[p] | w.xq[b as usize] & !w.p[p];
                w.put64(d, m, poison, &out);
            }
            Op::Pred { table, d, a, b } => {
                let out = apply_table(table, w.p[a as usize], w.p[b as usize]);
                w.put_pred(d, m, w.xp[a as usize] | w.xp[b as usize], out);
            }
            Op::Bra(target) => return Ok(branch(w, m, target)),
            Op::Load(ref access) => self.load(w, access, m, inst.line)?,
            Op::Store(ref access) => self.store(w, access, m, inst.line)?,
            Op::Mma(ref mma) => return self.mma(w, mma, m),
            Op::LdMatrix { address, n, transposed, d } => {
                return self.ldmatrix(w, address, n, transposed, d, m, inst.line);
            }
            Op::Bar { .. } => return self.barrier(w, inst, m),
            Op::Exit => {
                w.exited |= m;
                w.exit_line = inst.line;
                w.active &= !m;
                w.pc += 1;
                w.unblock();
                return Ok(Flow::Regroup);
            }
            _ => return self.rare(w, inst, m),
        }
        Ok(Flow::Next)
    }

    /// The instructions that are no part of inner loops, or cost much more than finding them here.
    #[inline(never)]
    fn rare(&mut self, w: &mut Warp, inst: &Inst, m: u32) -> Step {
        match inst.op {
            Op::Lanes { f, d, s, n } => {
                let (n, short) = (usize::from(n & 15), n & 16 != 0);
                let mut poison = 0;
                for &slot in &s[..n] {
                    poison |= w.poison(slot);
                }
                for lane in lanes(m) {
                    let out = f(s.map(|slot| w.get(slot, lane)));
                    w.set(d, lane, if short { out & 0xffff } else { out });
                }
                w.set_poison(d, m, poison);
            }
            Op::Convert { how, d, a } => {
                for lane in lanes(m) {
                    let out = how.apply(w.get(a, lane));
                    // A register of 16 bits keeps the upper half of its row zero.
                    let out = if how.to.bytes() <= 2 && matches!(d, Slot::R(_)) && !how.to.is_signed() {
                        out & 0xffff
                    } else {
                        out
                    };
                    w.set(d, lane, out);
                }
                let poison = w.poison(a);
                w.set_poison(d, m, poison);
            }
            Op::Pack { d, parts, n, bits } => {
                let mut poison = 0;
                for &part in &parts[..usize::from(n)] {
                    poison |= w.xr[part as usize];
                }
                for lane in lanes(m) {
                    let mut out = 0;
                    for (i, &part) in parts[..usize::from(n)].iter().enumerate() {
                        out |= u64::from(w.r[part as usize][lane]) << (i * usize::from(bits));
                    }
                    w.set(d, lane, out);
                }
                w.set_poison(d, m, poison);
            }
            Op::Unpack { parts, a: Slot::R(a), n: 2, .. } => {
                let (row, poison) = (w.r[a as usize], w.xr[a as usize]);
                w.put(parts[0], m, poison, &row.map(|x| x & 0xffff));
                w.put(parts[1], m, poison, &row.map(|x| x >> 16));
            }
            Op::Unpack { parts, a: Slot::Q(a), n: 2, .. } => {
                let (row, poison) = (w.q[a as usize], w.xq[a as usize]);
                w.put(parts[0], m, poison, &row.map(|x| x as u32));
                w.put(parts[1], m, poison, &row.map(|x| (x >> 32) as u32));
            }
            Op::Unpack { parts, a, n, bits } => {
                let (poison, keep) = (w.poison(a), u64::MAX >> (64 - u32::from(bits)));
                for lane in lanes(m) {
                    let value = w.get(a, lane);
                    for (i, &part) in parts[..usize::from(n)].iter().enumerate() {
                        w.r[part as usize][lane] = (value >> (i * usize::from(bits)) & keep) as u32;
                    }
                }
                for &part in &parts[..usize::from(n)] {
                    w.set_poison(Slot::R(part), m, poison);
                }
            }
            Op::Clock(d) => {
                self.clock += 1;
                for lane in lanes(m) {
                    w.set(d, lane, self.clock);
                }
                w.set_poison(d, m, 0);
            }
            Op::CpAsync { to, from, bytes, size, ignore } => {
                self.cp_async(w, to, from, u32::from(bytes), size, ignore, m, inst.line)?;
            }
            Op::Commit => {
                for lane in lanes(m) {
                    w.commits[lane] += 1;
                }
            }
            Op::Wait(groups) => self.wait(w, groups, m),
            Op::Atomic { op, ty, space, address, d, b, c } => {
                self.atomic(w, op, ty, space, address, d, [b, c], m, inst.line)?;
            }
            Op::Shfl { .. } | Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } | Op::WarpSync(_) => {
                return self.together(w, inst, m);
            }
            Op::ActiveMask(d) => {
                w.put(d, m, 0, &[m; 32]);
            }
            Op::Fence { device } => self.view.fenced |= device,
            Op::BranchIndexed { table, a } => {
                if w.xr[a as usize] & m != 0 {
                    return Err(uninitialised(w.xr[a as usize] & m, "the index of the branch"));
                }
                let table = &self.grid.code.tables[table as usize];
                let mut rest = w.active & !m;
                let pc = w.pc;
                for lane in lanes(m) {
                    let index = w.r[a as usize][lane] as usize;
                    let Some(&target) = table.get(index) else {
                        let text = format!("a branch with index {index} into a table of {}", table.len());
                        return Err(Trouble::new(FaultKind::OutOfBounds, lane, text));
                    };
                    w.others.push(super::warp::Group { pc: target, mask: 1 << lane, blocked: false });
                }
                std::mem::swap(&mut rest, &mut w.active);
                w.pc = pc + 1;
                return Ok(Flow::Regroup);
            }
            Op::Trap => return Err(Trouble::new(FaultKind::Trap, first(m), "the kernel gave up")),
            _ => {}
        }
        Ok(Flow::Next)
    }
}

/// Lanes of a mask, lowest first.
#[inline(always)]
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            lane
        })
    })
}

/// The lowest lane of a mask.
pub(crate) fn first(mask: u32) -> usize {
    (mask.trailing_zeros() as usize).min(31)
}

#[cold]
pub(crate) fn uninitialised(mask: u32, what: &str) -> Box<Trouble> {
    Trouble::new(
        FaultKind::UninitialisedRegister,
        first(mask),
        format!("{what} depends on a register that nothing wrote"),
    )
}

fn who(w: &Warp, lane: usize, line: u32) -> Who {
    Who { thread: (w.id * 32 + lane) as u16, line }
}

fn apply_table(table: u8, a: u32, b: u32) -> u32 {
    let pick = |bit: u8, mask: u32| if table >> bit & 1 == 1 { mask } else { 0 };
    pick(0, !a & !b) | pick(1, !a & b) | pick(2, a & !b) | pick(3, a & b)
}

#[inline(always)]
fn set(w: &mut Warp, d: u32, not_d: Option<u32>, combine: Option<Combine>, m: u32, out: u32, poison: u32) {
    let (mut yes, mut no, mut poison) = (out, !out, poison);
    if let Some(Combine { table, other }) = combine {
        let c = w.p[other as usize];
        (yes, no) = (apply_table(table, yes, c), apply_table(table, no, c));
        poison |= w.xp[other as usize];
    }
    w.put_pred(d, m, poison, yes);
    if let Some(q) = not_d {
        w.put_pred(q, m, poison, no);
    }
}

#[inline(always)]
fn branch(w: &mut Warp, m: u32, target: u32) -> Flow {
    if m == w.active {
        w.pc = target;
    } else {
        w.others.push(super::warp::Group { pc: target, mask: m, blocked: false });
        w.active &= !m;
        w.pc += 1;
    }
    Flow::Regroup
}
