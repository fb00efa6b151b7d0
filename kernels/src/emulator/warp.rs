//! A warp: registers, what is known of them, and the groups its lanes have fallen into.

use super::isa::{Code, Row, Row64, Slot};

/// Lanes at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    /// It waits for lanes of other groups.
    pub(crate) blocked: bool,
}

/// What one `cp.async` of a warp will write.
pub(crate) struct Copy {
    pub(crate) mask: u32,
    pub(crate) bytes: u32,
    pub(crate) line: u32,
    /// Number of the group it belongs to, by lane.
    pub(crate) group: Row,
    pub(crate) to: Row,
    pub(crate) data: [[u32; 4]; 32],
}

/// Where a warp stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Number of the barrier.
    Waiting(usize),
    Done,
}

/// Registers and flow of a warp.
pub(crate) struct Warp {
    pub(crate) id: usize,
    pub(crate) r: Vec<Row>,
    pub(crate) q: Vec<Row64>,
    pub(crate) p: Vec<u32>,
    /// Lanes whose value was never written, by register. What is computed from one is one.
    pub(crate) xr: Vec<u32>,
    pub(crate) xq: Vec<u32>,
    pub(crate) xp: Vec<u32>,
    /// Lanes that exist.
    pub(crate) lanes: u32,
    pub(crate) exited: u32,
    /// Where lanes exited last.
    pub(crate) exit_line: u32,
    pub(crate) pc: u32,
    pub(crate) active: u32,
    /// The next place where other lanes wait to be joined.
    pub(crate) stop: u32,
    pub(crate) others: Vec<Group>,
    pub(crate) state: State,
    /// Local memory, one lane after the other, and which bytes were written.
    pub(crate) local: Vec<u8>,
    pub(crate) local_written: Vec<bool>,
    pub(crate) copies: Vec<Copy>,
    /// Groups of copies that a lane has committed.
    pub(crate) commits: Row,
    pub(crate) steps: u64,
}

impl Warp {
    pub(crate) fn new(id: usize, code: &Code) -> Self {
        let mut warp = Self {
            id,
            r: vec![[0; 32]; code.rows as usize],
            q: vec![[0; 32]; code.rows64 as usize],
            p: vec![0; code.preds as usize],
            xr: vec![0; code.rows as usize],
            xq: vec![0; code.rows64 as usize],
            xp: vec![0; code.preds as usize],
            lanes: 0,
            exited: 0,
            exit_line: 0,
            pc: 0,
            active: 0,
            stop: u32::MAX,
            others: Vec::new(),
            state: State::Ready,
            local: vec![0; code.local_bytes as usize * 32],
            local_written: vec![false; code.local_bytes as usize * 32],
            copies: Vec::new(),
            commits: [0; 32],
            steps: 0,
        };
        // Nothing writes these rows, so they are filled once.
        for &(row, value) in &code.constants {
            warp.r[row as usize] = [value; 32];
        }
        for &(row, value) in &code.constants64 {
            warp.q[row as usize] = [value; 32];
        }
        for &(row, value) in &code.constant_preds {
            warp.p[row as usize] = if value { u32::MAX } else { 0 };
        }
        warp
    }

    /// For the next block.
    pub(crate) fn reset(&mut self, code: &Code, threads: usize) {
        self.xr.fill(u32::MAX);
        self.xq.fill(u32::MAX);
        self.xp.fill(u32::MAX);
        for &(row, _) in &code.constants {
            self.xr[row as usize] = 0;
        }
        for &(row, _) in &code.constants64 {
            self.xq[row as usize] = 0;
        }
        for &(row, _) in &code.constant_preds {
            self.xp[row as usize] = 0;
        }
        for &(_, slot) in &code.specials {
            self.set_poison(slot, u32::MAX, 0);
        }
        let own = threads.saturating_sub(self.id * 32).min(32);
        self.lanes = if own == 32 { u32::MAX } else { (1 << own) - 1 };
        self.exited = 0;
        self.pc = 0;
        self.active = self.lanes;
        self.stop = u32::MAX;
        self.others.clear();
        self.state = State::Ready;
        self.local_written.fill(false);
        self.copies.clear();
        self.commits = [0; 32];
        self.steps = 0;
    }

    /// Lanes whose value was never written.
    #[inline(always)]
    pub(crate) fn poison(&self, slot: Slot) -> u32 {
        match slot {
            Slot::R(i) => self.xr[i as usize],
            Slot::Q(i) => self.xq[i as usize],
            Slot::P(i) => self.xp[i as usize],
        }
    }

    #[inline(always)]
    pub(crate) fn set_poison(&mut self, slot: Slot, mask: u32, poison: u32) {
        let x = match slot {
            Slot::R(i) => &mut self.xr[i as usize],
            Slot::Q(i) => &mut self.xq[i as usize],
            Slot::P(i) => &mut self.xp[i as usize],
        };
        *x = *x & !mask | poison & mask;
    }

    #[inline(always)]
    pub(crate) fn get(&self, slot: Slot, lane: usize) -> u64 {
        match slot {
            Slot::R(i) => u64::from(self.r[i as usize][lane]),
            Slot::Q(i) => self.q[i as usize][lane],
            Slot::P(i) => u64::from(self.p[i as usize] >> lane & 1),
        }
    }

    #[inline(always)]
    pub(crate) fn set(&mut self, slot: Slot, lane: usize, value: u64) {
        match slot {
            Slot::R(i) => self.r[i as usize][lane] = value as u32,
            Slot::Q(i) => self.q[i as usize][lane] = value,
            Slot::P(i) => {
                let p = &mut self.p[i as usize];
                *p = *p & !(1 << lane) | (value as u32 & 1) << lane;
            }
        }
    }

    /// Stores a result row for the lanes of `mask`.
    #[inline(always)]
    pub(crate) fn put(&mut self, d: u32, mask: u32, poison: u32, out: &Row) {
        let d = d as usize;
        let row = &mut self.r[d];
        if mask == u32::MAX {
            *row = *out;
            self.xr[d] = poison;
        } else {
            // Without branches, for the sake of vectors.
            for i in 0..32 {
                let pick = (mask >> i & 1).wrapping_neg();
                row[i] = out[i] & pick | row[i] & !pick;
            }
            self.xr[d] = self.xr[d] & !mask | poison & mask;
        }
    }

    /// As [`Warp::put`].
    #[inline(always)]
    pub(crate) fn put64(&mut self, d: u32, mask: u32, poison: u32, out: &Row64) {
        let d = d as usize;
        let row = &mut self.q[d];
        if mask == u32::MAX {
            *row = *out;
            self.xq[d] = poison;
        } else {
            for i in 0..32 {
                let pick = u64::from(mask >> i & 1).wrapping_neg();
                row[i] = out[i] & pick | row[i] & !pick;
            }
            self.xq[d] = self.xq[d] & !mask | poison & mask;
        }
    }

    /// As [`Warp::put`].
    #[inline(always)]
    pub(crate) fn put_pred(&mut self, d: u32, mask: u32, poison: u32, out: u32) {
        let d = d as usize;
        self.p[d] = self.p[d] & !mask | out & mask;
        self.xp[d] = self.xp[d] & !mask | poison & mask;
    }

    /// Puts the current group back among the others, joins those at one place, and takes the one that is furthest
    /// behind; false when none can run. Running what is behind first is what brings lanes together again.
    pub(crate) fn regroup(&mut self) -> bool {
        if self.active != 0 {
            self.others.push(Group { pc: self.pc, mask: self.active, blocked: false });
            self.active = 0;
        }
        self.others.sort_unstable_by_key(|g| g.pc);
        self.others.dedup_by(|next, kept| {
            let same = next.pc == kept.pc;
            if same {
                kept.mask |= next.mask;
                // Somebody came: try again.
                kept.blocked = false;
            }
            same
        });
        let Some(index) = self.others.iter().position(|g| !g.blocked) else { return false };
        let group = self.others.remove(index);
        self.pc = group.pc;
        self.active = group.mask;
        self.stop = self.others.iter().map(|g| g.pc).find(|&pc| pc > group.pc).unwrap_or(u32::MAX);
        true
    }

    /// The lanes of `mask` wait where they are; the rest of the group goes on behind the instruction.
    pub(crate) fn block(&mut self, mask: u32) {
        self.others.push(Group { pc: self.pc, mask, blocked: true });
        self.active &= !mask;
        self.pc += 1;
    }

    /// Lanes have exited: who waits for them should look again.
    pub(crate) fn unblock(&mut self) {
        for group in &mut self.others {
            group.blocked = false;
        }
    }
}
