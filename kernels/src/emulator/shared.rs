//! Shared memory of a block: the words, and who touched each of them when.
//!
//! Time is a counter that every barrier advances. A warp knows of each warp the time up to which everything that it did
//! comes before (a vector clock); barriers join what the warps know. An access is stamped with the time; a later one by
//! another thread is ordered after it when its warp knows of a later time, and races with it otherwise.

use super::fault::{FaultKind, Trouble};

const NO_READER: u16 = u16::MAX;
const MANY_READERS: u16 = u16::MAX - 1;
/// The bytes of the word differ: see `Shared::split`.
const SPLIT: u16 = 0x7fff;
/// `cp.async` is under way.
const PENDING: u16 = 0x8000;

/// History of a word or byte.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// Time of the last write; 0: none.
    w_time: u32,
    w_line: u32,
    r_time: u32,
    r_line: u32,
    /// Thread, or `SPLIT`; with `PENDING`.
    w_thread: u16,
    /// The one thread that read since, or `NO_READER`, `MANY_READERS`.
    r_thread: u16,
    /// Warps that read since.
    r_warps: u32,
}

const UNTOUCHED: Cell =
    Cell { w_time: 0, w_line: 0, r_time: 0, r_line: 0, w_thread: 0, r_thread: NO_READER, r_warps: 0 };

/// Who makes an access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) thread: u16,
    /// Line of the instruction.
    pub(crate) line: u32,
}

impl Who {
    fn warp(self) -> usize {
        usize::from(self.thread) / 32
    }

    fn lane(self) -> usize {
        usize::from(self.thread) % 32
    }
}

/// What a warp knows: by warp, the time before which everything is ordered.
type Clock = [u32; 32];

/// Shared memory.
pub(crate) struct Shared {
    words: Vec<u32>,
    cells: Vec<Cell>,
    /// Histories by byte, of words whose cell is `SPLIT`; its `w_time` is the index here.
    split: Vec<[Cell; 4]>,
    /// Places in `split` that no word uses.
    unused: Vec<u32>,
    bytes: u32,
    now: u32,
    /// By warp.
    clocks: Vec<Clock>,
    /// By warp: the least of its clock.
    floors: Vec<u32>,
    warps: usize,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            words: Vec::new(),
            cells: Vec::new(),
            split: Vec::new(),
            unused: Vec::new(),
            bytes: 0,
            now: 1,
            clocks: Vec::new(),
            floors: Vec::new(),
            warps: 0,
        }
    }

    /// For the next block.
    pub(crate) fn reset(&mut self, bytes: u32, warps: usize) {
        let words = bytes.div_ceil(4) as usize;
        // Values stay: nobody may read them.
        self.words.resize(words, 0);
        self.cells.clear();
        self.cells.resize(words, UNTOUCHED);
        self.split.clear();
        self.unused.clear();
        self.bytes = bytes;
        self.now = 1;
        self.clocks.clear();
        self.clocks.resize(warps, [1; 32]);
        self.floors.clear();
        self.floors.resize(warps, 1);
        self.warps = warps;
    }

    /// `bar.warp.sync` of all lanes of a warp: what they did is ordered.
    pub(crate) fn warp_sync(&mut self, warp: usize) {
        self.now += 1;
        self.clocks[warp][warp] = self.now;
        self.refloor(warp);
    }

    /// A warp comes to a barrier: what the others will know of it goes into `joined`.
    pub(crate) fn arrive(&mut self, warp: usize, joined: &mut Clock) {
        self.now += 1;
        self.clocks[warp][warp] = self.now;
        self.refloor(warp);
        for (known, own) in joined.iter_mut().zip(self.clocks[warp]) {
            *known = own.max(*known);
        }
    }

    /// A barrier is complete: the warps in `waiting` go on. All they did is before now, whenever each of them came.
    pub(crate) fn complete(&mut self, waiting: u32, mut joined: Clock) {
        self.now += 1;
        let waits = |warp: &usize| waiting >> warp & 1 == 1;
        for warp in (0..self.warps).filter(waits) {
            joined[warp] = self.now;
        }
        for warp in (0..self.warps).filter(waits) {
            for (own, known) in self.clocks[warp].iter_mut().zip(&joined) {
                *own = (*own).max(*known);
            }
            self.refloor(warp);
        }
    }

    fn refloor(&mut self, warp: usize) {
        self.floors[warp] = self.clocks[warp][..self.warps].iter().copied().min().unwrap_or(0);
    }

    /// Address of an access, checked.
    #[inline]
    fn place(&self, who: Who, address: u64, bytes: u32) -> Result<u32, Box<Trouble>> {
        if address & u64::from(bytes - 1) != 0 {
            let text = format!("shared memory, {bytes} bytes");
            return Err(Trouble::at(FaultKind::Misaligned, who.lane(), address, text));
        }
        if address > u64::from(self.bytes) || u64::from(bytes) > u64::from(self.bytes) - address {
            let text = format!("{bytes} bytes beyond the block's {} of shared memory", self.bytes);
            return Err(Trouble::at(FaultKind::OutOfBounds, who.lane(), address, text));
        }
        Ok(address as u32)
    }

    /// Reads whole words: `bytes` is 4, 8 or 16.
    #[inline]
    pub(crate) fn read_words(
        &mut self,
        who: Who,
        address: u64,
        bytes: u32,
        out: &mut [u32],
    ) -> Result<(), Box<Trouble>> {
        let first = (self.place(who, address, bytes)? / 4) as usize;
        let (floor, now, warp) = (self.floors[who.warp()], self.now, 1 << who.warp());
        let count = bytes as usize / 4;
        let (cells, words) = (&mut self.cells[first..first + count], &self.words[first..first + count]);
        let mut slow = 0;
        for (i, ((cell, word), out)) in cells.iter_mut().zip(words).zip(out).enumerate() {
            *out = *word;
            // Mostly everybody has passed a barrier since the word was written.
            let known = cell.w_time < floor || cell.w_thread == who.thread;
            if cell.w_thread >= SPLIT || cell.w_time == 0 || !known {
                slow |= 1 << i;
                continue;
            }
            if cell.r_thread == who.thread || cell.r_warps == 0 || cell.r_time < floor {
                (cell.r_thread, cell.r_warps) = (who.thread, warp);
            } else {
                cell.r_thread = MANY_READERS;
                cell.r_warps |= warp;
            }
            (cell.r_time, cell.r_line) = (now, who.line);
        }
        if slow != 0 {
            self.read_slowly(who, first, slow)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn read_slowly(&mut self, who: Who, first: usize, slow: u32) -> Result<(), Box<Trouble>> {
        for index in (0..4).filter(|i| slow >> i & 1 == 1).map(|i| first + i) {
            let mut cell = self.cells[index];
            if cell.w_thread == SPLIT {
                self.each_byte(index, 15, |s, cell, at| s.read_cell(who, cell, at))?;
            } else {
                self.read_cell(who, &mut cell, index as u64 * 4)?;
                self.cells[index] = cell;
            }
        }
        Ok(())
    }

    /// Writes whole words.
    #[inline]
    pub(crate) fn write_words(&mut self, who: Who, address: u64, bytes: u32, data: &[u32]) -> Result<(), Box<Trouble>> {
        let first = (self.place(who, address, bytes)? / 4) as usize;
        self.write_whole(who, first, bytes as usize / 4, 0)?;
        let count = bytes as usize / 4;
        self.words[first..first + count].copy_from_slice(&data[..count]);
        Ok(())
    }

    /// Notes that `count` words are written.
    #[inline]
    fn write_whole(&mut self, who: Who, first: usize, count: usize, pending: u16) -> Result<(), Box<Trouble>> {
        let floor = self.floors[who.warp()];
        let new = Cell { w_time: self.now, w_line: who.line, w_thread: who.thread | pending, ..UNTOUCHED };
        let mut slow = 0;
        for (i, cell) in self.cells[first..first + count].iter_mut().enumerate() {
            let written = cell.w_time < floor || cell.w_thread == who.thread;
            let read = cell.r_warps == 0 || cell.r_time < floor || cell.r_thread == who.thread;
            if cell.w_thread < SPLIT && written && read {
                *cell = new;
            } else {
                slow |= 1 << i;
            }
        }
        if slow != 0 {
            self.write_slowly(who, first, slow, new)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn write_slowly(&mut self, who: Who, first: usize, slow: u32, new: Cell) -> Result<(), Box<Trouble>> {
        for index in (0..4).filter(|i| slow >> i & 1 == 1).map(|i| first + i) {
            let mut cell = self.cells[index];
            if cell.w_thread == SPLIT {
                self.each_byte(index, 15, |s, cell, at| s.write_cell(who, cell, at))?;
                self.unused.push(cell.w_time);
            } else {
                self.write_cell(who, &mut cell, index as u64 * 4)?;
            }
            self.cells[index] = new;
        }
        Ok(())
    }

    /// Reads one or two bytes.
    pub(crate) fn read_part(&mut self, who: Who, address: u64, bytes: u32) -> Result<u32, Box<Trouble>> {
        let at = self.place(who, address, bytes)?;
        let (index, shift) = ((at / 4) as usize, at % 4);
        let mask = ((1 << bytes) - 1) << shift;
        self.splitting(index);
        self.each_byte(index, mask, |s, cell, at| s.read_cell(who, cell, at))?;
        Ok(self.words[index] >> (8 * shift) & if bytes == 1 { 0xff } else { 0xffff })
    }

    /// Writes one or two bytes.
    pub(crate) fn write_part(&mut self, who: Who, address: u64, bytes: u32, data: u32) -> Result<(), Box<Trouble>> {
        let at = self.place(who, address, bytes)?;
        let (index, shift) = ((at / 4) as usize, at % 4);
        let mask = ((1 << bytes) - 1) << shift;
        self.splitting(index);
        self.each_byte(index, mask, |s, cell, at| s.write_cell(who, cell, at))?;
        let bits = if bytes == 1 { 0xff } else { 0xffff } << (8 * shift);
        self.words[index] = self.words[index] & !bits | data << (8 * shift) & bits;
        Ok(())
    }

    fn splitting(&mut self, index: usize) {
        let cell = &mut self.cells[index];
        if cell.w_thread != SPLIT {
            let place = self.unused.pop().unwrap_or_else(|| {
                self.split.push([UNTOUCHED; 4]);
                self.split.len() as u32 - 1
            });
            self.split[place as usize] = [*cell; 4];
            (cell.w_thread, cell.w_time) = (SPLIT, place);
        }
    }

    fn each_byte(
        &mut self,
        index: usize,
        mask: u32,
        f: impl Fn(&Self, &mut Cell, u64) -> Result<(), Box<Trouble>>,
    ) -> Result<(), Box<Trouble>> {
        let split = self.cells[index].w_time as usize;
        for i in (0..4).filter(|i| mask >> i & 1 == 1) {
            let mut cell = self.split[split][i];
            f(self, &mut cell, index as u64 * 4 + i as u64)?;
            self.split[split][i] = cell;
        }
        Ok(())
    }

    #[inline(always)]
    fn read_cell(&self, who: Who, cell: &mut Cell, at: u64) -> Result<(), Box<Trouble>> {
        let clock = &self.clocks[who.warp()];
        if cell.w_thread & PENDING != 0 || cell.w_time == 0 {
            return Err(self.not_there(who, cell, at));
        }
        if cell.w_thread != who.thread && cell.w_time >= clock[usize::from(cell.w_thread) / 32] {
            return Err(self.race(who, at, "reads", "wrote", cell.w_thread, cell.w_line));
        }
        if cell.r_thread == who.thread || cell.r_warps == 0 || cell.r_time < self.floors[who.warp()] {
            // Alone, or after all readers before: who is ordered after this is ordered after them.
            cell.r_thread = who.thread;
            cell.r_warps = 1 << who.warp();
        } else {
            cell.r_thread = MANY_READERS;
            cell.r_warps |= 1 << who.warp();
        }
        cell.r_time = self.now;
        cell.r_line = who.line;
        Ok(())
    }

    #[inline(always)]
    fn write_cell(&self, who: Who, cell: &mut Cell, at: u64) -> Result<(), Box<Trouble>> {
        let clock = &self.clocks[who.warp()];
        if cell.w_thread & PENDING != 0 {
            return Err(self.not_there(who, cell, at));
        }
        if cell.w_time != 0 && cell.w_thread != who.thread && cell.w_time >= clock[usize::from(cell.w_thread) / 32] {
            return Err(self.race(who, at, "writes", "wrote", cell.w_thread, cell.w_line));
        }
        if cell.r_warps != 0 && cell.r_thread != who.thread && cell.r_time >= self.floors[who.warp()] {
            let racing = (0..self.warps).any(|w| cell.r_warps >> w & 1 == 1 && cell.r_time >= clock[w]);
            if racing {
                return Err(self.race(who, at, "writes", "read", cell.r_thread, cell.r_line));
            }
        }
        *cell = Cell { w_time: self.now, w_line: who.line, w_thread: who.thread, ..UNTOUCHED };
        Ok(())
    }

    #[cold]
    fn not_there(&self, who: Who, cell: &Cell, at: u64) -> Box<Trouble> {
        if cell.w_thread & PENDING != 0 {
            let text = format!(
                "shared memory that cp.async of thread {} (line {}) is still to fill",
                cell.w_thread & !PENDING,
                cell.w_line
            );
            return Trouble::at(FaultKind::AsyncTooEarly, who.lane(), at, text);
        }
        Trouble::at(FaultKind::UninitialisedMemory, who.lane(), at, "shared memory that no thread has written so far")
    }

    #[cold]
    fn race(&self, who: Who, at: u64, does: &str, did: &str, other: u16, line: u32) -> Box<Trouble> {
        let other = if other == MANY_READERS { "several threads".into() } else { format!("thread {other}") };
        let text =
            format!("thread {} {does} what {other} {did} (line {line}) with no barrier between them", who.thread);
        Trouble::at(FaultKind::SharedRace, who.lane(), at, text)
    }

    /// `cp.async` begins: the words will be written at an unknown moment up to the wait.
    pub(crate) fn begin_copy(&mut self, who: Who, address: u64, bytes: u32) -> Result<(), Box<Trouble>> {
        let first = (self.place(who, address, bytes)? / 4) as usize;
        self.write_whole(who, first, bytes as usize / 4, PENDING)
    }

    /// Its thread has waited: the data is there.
    pub(crate) fn finish_copy(&mut self, who: Who, address: u64, data: &[u32]) {
        let first = (address / 4) as usize;
        let now = self.now;
        for (i, &data) in data.iter().enumerate() {
            self.words[first + i] = data;
            self.cells[first + i] = Cell { w_time: now, w_line: who.line, w_thread: who.thread, ..UNTOUCHED };
        }
    }

    /// For atomics: the value, without looking at who else touches it atomically.
    pub(crate) fn atomic(
        &mut self,
        who: Who,
        address: u64,
        bytes: u32,
        f: impl FnOnce(u64) -> u64,
    ) -> Result<u64, Box<Trouble>> {
        let at = self.place(who, address, bytes)?;
        let first = (at / 4) as usize;
        let count = bytes.div_ceil(4) as usize;
        for index in first..first + count {
            if self.cells[index].w_thread == SPLIT {
                let unwritten = self.split[self.cells[index].w_time as usize].iter().any(|c| c.w_time == 0);
                if unwritten && bytes >= 4 {
                    return Err(self.not_there(who, &UNTOUCHED, u64::from(at)));
                }
                continue;
            }
            let mut cell = self.cells[index];
            if cell.w_thread & PENDING != 0 || cell.w_time == 0 {
                return Err(self.not_there(who, &cell, u64::from(at)));
            }
            if cell.w_line != 0 {
                // The last writer was no atomic operation.
                self.write_cell(who, &mut cell, u64::from(at))?;
            } else if cell.r_warps != 0 {
                let mut probe = Cell { w_time: 0, ..cell };
                self.write_cell(who, &mut probe, u64::from(at))?;
            }
            // A plain access by another thread must still be ordered after this one; line 0 marks atomics.
            self.cells[index] = Cell { w_time: self.now, w_line: 0, w_thread: who.thread, ..UNTOUCHED };
        }
        let mut old = u64::from(self.words[first]);
        if bytes == 8 {
            old |= u64::from(self.words[first + 1]) << 32;
        } else if bytes == 2 {
            old = old >> (8 * (at % 4)) & 0xffff;
        }
        let new = f(old);
        match bytes {
            8 => {
                self.words[first] = new as u32;
                self.words[first + 1] = (new >> 32) as u32;
            }
            4 => self.words[first] = new as u32,
            _ => {
                let shift = 8 * (at % 4);
                self.words[first] = self.words[first] & !(0xffff << shift) | (new as u32 & 0xffff) << shift;
            }
        }
        Ok(old)
    }
}
