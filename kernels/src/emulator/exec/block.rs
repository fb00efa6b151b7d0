//! Barriers, and the turns of a block's warps.

use super::{Flow, Grid, Machine, Step, first, lanes, uninitialised};
use crate::emulator::{
    counters::Counters,
    fault::{Fault, FaultKind, Trouble},
    isa::{BarKind, Inst, Op, Slot, Special},
    memory::{MAX_WRITERS, View},
    warp::{State, Warp},
};

/// One of a block's sixteen barriers.
#[derive(Default)]
pub(crate) struct Barrier {
    /// Warps that have arrived, and those of them that wait.
    arrived: u32,
    waiting: u32,
    /// Threads that must arrive, as the first said; `None`: all of the block.
    threads: Option<u32>,
    /// Predicates of `bar.red`: how many are true, of how many.
    count: u32,
    of: u32,
    /// Results to write, by warp.
    results: Vec<(usize, BarKind, u32)>,
    /// What those who arrived know of each other.
    joined: [u32; 32],
}

impl Machine<'_> {
    pub(super) fn barrier(&mut self, w: &mut Warp, inst: &Inst, m: u32) -> Step {
        let Op::Bar { kind, id, threads, a, .. } = inst.op else { return Ok(Flow::Next) };
        if m & w.lanes != w.lanes {
            // Others may come; when nobody else can run and they did not, that is the fault.
            w.block(m);
            return Ok(Flow::Regroup);
        }
        if w.xr[id as usize] & m != 0 {
            return Err(uninitialised(w.xr[id as usize] & m, "the barrier's number"));
        }
        let number = w.r[id as usize][first(m)] as usize;
        if number >= self.barriers.len() {
            return Err(Trouble::new(FaultKind::OutOfBounds, first(m), format!("barrier {number}; there are 16")));
        }
        let threads = match threads {
            Some(threads) => {
                let threads = w.r[threads as usize][first(m)];
                if threads == 0 || !threads.is_multiple_of(32) {
                    let text = format!("a barrier of {threads} threads, which is no multiple of the warp's size");
                    return Err(Trouble::new(FaultKind::BarrierDivergence, first(m), text));
                }
                Some(threads)
            }
            None => None,
        };
        let barrier = &mut self.barriers[number];
        if barrier.arrived != 0 && barrier.threads != threads {
            let text = format!("barrier {number} is used with different numbers of threads");
            return Err(Trouble::new(FaultKind::BarrierDivergence, first(m), text));
        }
        if barrier.arrived >> w.id & 1 == 1 {
            let text = format!("warp {} arrives twice at barrier {number}", w.id);
            return Err(Trouble::new(FaultKind::BarrierDivergence, first(m), text));
        }
        barrier.threads = threads;
        barrier.arrived |= 1 << w.id;
        if let BarKind::Popc(_) | BarKind::And(_) | BarKind::Or(_) = kind {
            if w.xp[a as usize] & m != 0 {
                return Err(uninitialised(w.xp[a as usize] & m, "the predicate"));
            }
            barrier.count += (w.p[a as usize] & m).count_ones();
            barrier.of += m.count_ones();
            barrier.results.push((w.id, kind, m));
        }
        self.shared.arrive(w.id, &mut barrier.joined);
        w.pc += 1;
        if kind == BarKind::Arrive {
            // Who only arrives may be the last one: the waiting are released by the scheduler.
            return Ok(Flow::Regroup);
        }
        barrier.waiting |= 1 << w.id;
        w.state = State::Waiting(number);
        Ok(Flow::Wait)
    }

    /// Releases who waits at a barrier that is complete; whether there was one.
    fn release(&mut self, warps: &mut [Warp]) -> bool {
        let block = self.grid.block.iter().product::<u32>().div_ceil(32) * 32;
        let mut any = false;
        for barrier in &mut self.barriers {
            let needed = barrier.threads.unwrap_or(block);
            if barrier.arrived == 0 || barrier.arrived.count_ones() * 32 < needed {
                continue;
            }
            any = true;
            let done = std::mem::take(barrier);
            for (warp, kind, mask) in done.results {
                let w = &mut warps[warp];
                match kind {
                    BarKind::Popc(d) => w.put(d, mask, 0, &[done.count; 32]),
                    BarKind::And(d) => w.put_pred(d, mask, 0, if done.count == done.of { u32::MAX } else { 0 }),
                    BarKind::Or(d) => w.put_pred(d, mask, 0, if done.count > 0 { u32::MAX } else { 0 }),
                    _ => {}
                }
            }
            self.shared.complete(done.waiting, done.joined);
            for w in lanes(done.waiting) {
                warps[w].state = State::Ready;
            }
        }
        any
    }

    /// Runs one block to its end.
    fn block(&mut self, warps: &mut [Warp], index: u64) -> Result<(), (usize, Box<Trouble>)> {
        let [gx, gy, _] = self.grid.grid.map(u64::from);
        self.cta = [(index % gx) as u32, (index / gx % gy) as u32, (index / gx / gy) as u32];
        // More blocks than there are numbers share some.
        let own = self.grid.first_writer + (index % u64::from(MAX_WRITERS - 1)) as u32;
        self.view = View { first: self.grid.first_writer, own, fenced: false };
        self.barriers = std::array::from_fn(|_| Barrier::default());
        let code = self.grid.code;
        self.shared.reset(code.shared_bytes + self.grid.dynamic_shared, warps.len());
        let threads = self.grid.block.iter().product::<u32>() as usize;
        for w in warps.iter_mut() {
            w.reset(code, threads);
            self.specials(w);
        }
        loop {
            for i in 0..warps.len() {
                if warps[i].state == State::Ready {
                    self.turn(&mut warps[i]).map_err(|trouble| (i, trouble))?;
                    self.release(warps);
                }
            }
            if warps.iter().all(|w| w.state == State::Done) {
                self.counters.blocks += 1;
                return Ok(());
            }
            if !warps.iter().any(|w| w.state == State::Ready) {
                return Err(self.stuck(warps));
            }
        }
    }

    /// Everybody waits for somebody who does not come.
    fn stuck(&self, warps: &mut [Warp]) -> (usize, Box<Trouble>) {
        let code = self.grid.code;
        let waiting = warps.iter().position(|w| matches!(w.state, State::Waiting(_))).unwrap_or(0);
        let number = match warps[waiting].state {
            State::Waiting(number) => number,
            _ => 0,
        };
        // Its program counter stands behind the barrier.
        warps[waiting].pc -= 1;
        let arrived = self.barriers[number].arrived;
        let exited = warps.iter().find(|w| w.state == State::Done && arrived >> w.id & 1 == 0);
        let elsewhere = warps.iter().find(|w| matches!(w.state, State::Waiting(other) if other != number));
        let mut text = format!("warp {waiting} waits at barrier {number}");
        let kind = if let Some(w) = exited {
            text += &format!(", but warp {} has exited (line {})", w.id, w.exit_line);
            FaultKind::BarrierDivergence
        } else if let Some(w) = elsewhere {
            let line = code.insts[w.pc.saturating_sub(1) as usize].line;
            text += &format!(", but warp {} waits at another (line {line})", w.id);
            FaultKind::Deadlock
        } else {
            text += &format!(", at which {} warps arrive and no more can", arrived.count_ones());
            FaultKind::Deadlock
        };
        (waiting, Trouble::new(kind, first(warps[waiting].lanes), text))
    }

    fn specials(&self, w: &mut Warp) {
        let grid = self.grid;
        let [bx, by, _] = grid.block;
        for &(special, slot) in &grid.code.specials {
            for lane in 0..32_u32 {
                let thread = w.id as u32 * 32 + lane;
                let value = match special {
                    Special::Tid(0) => thread % bx,
                    Special::Tid(1) => thread / bx % by,
                    Special::Tid(_) => thread / bx / by,
                    Special::NTid(axis) => grid.block[usize::from(axis)],
                    Special::CtaId(axis) => self.cta[usize::from(axis)],
                    Special::NCtaId(axis) => grid.grid[usize::from(axis)],
                    Special::LaneId => lane,
                    Special::WarpId => w.id as u32,
                    Special::NWarpId => grid.block.iter().product::<u32>().div_ceil(32),
                    Special::LaneMaskEq => 1 << lane,
                    Special::LaneMaskLe => u32::MAX >> (31 - lane),
                    Special::LaneMaskLt => (1 << lane) - 1,
                    Special::LaneMaskGe => u32::MAX << lane,
                    Special::LaneMaskGt => u32::MAX << lane & !(1 << lane),
                    Special::DynamicSharedSize => grid.dynamic_shared,
                    Special::TotalSharedSize => grid.code.shared_bytes + grid.dynamic_shared,
                    Special::SmId => 0,
                    Special::NSmId => grid.num_sms,
                    Special::GridId => grid.launch as u32,
                };
                match slot {
                    Slot::R(row) => w.r[row as usize][lane as usize] = value,
                    Slot::Q(row) => w.q[row as usize][lane as usize] = u64::from(value),
                    Slot::P(_) => {}
                }
            }
        }
    }
}

/// One host thread's block after block.
pub(crate) struct Worker<'a> {
    machine: Machine<'a>,
    warps: Vec<Warp>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(grid: &'a Grid<'a>) -> Self {
        let warps = grid.block.iter().product::<u32>().div_ceil(32) as usize;
        Self { machine: Machine::new(grid), warps: (0..warps).map(|id| Warp::new(id, grid.code)).collect() }
    }

    /// Runs block `index`. The fault has no module and no text of the line: whoever has them adds them.
    pub(crate) fn run(&mut self, index: u64) -> Result<(), Box<Fault>> {
        let result = self.machine.block(&mut self.warps, index);
        result.map_err(|(warp, trouble)| {
            let (grid, w) = (self.machine.grid, &self.warps[warp]);
            let thread = (warp * 32 + trouble.lane) as u32;
            let [bx, by, _] = grid.block;
            Box::new(Fault {
                kind: trouble.kind,
                module: String::new(),
                kernel: grid.code.name.clone(),
                line: grid.code.insts.get(w.pc as usize).map_or(0, |inst| inst.line),
                instruction: String::new(),
                block: Some(self.machine.cta),
                thread: Some([thread % bx, thread / bx % by, thread / bx / by]),
                address: trouble.address,
                detail: trouble.detail,
            })
        })
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.machine.counters
    }
}
