//! Loads and stores.

use super::{Machine, first, lanes, uninitialised, who};
use crate::emulator::{
    fault::{FaultKind, Trouble},
    isa::{Access, Address, Row64, Slot},
    memory::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW},
    ptx::Space,
    warp::Warp,
};

type Done = Result<(), Box<Trouble>>;

/// The addresses of an access, by lane.
pub(super) fn addresses(w: &Warp, address: Address, m: u32) -> Result<Row64, Box<Trouble>> {
    let offset = address.offset;
    let mut out = [offset; 32];
    match address.base {
        Some(Slot::Q(base)) => {
            if w.xq[base as usize] & m != 0 {
                return Err(uninitialised(w.xq[base as usize] & m, "the address"));
            }
            for (out, &base) in out.iter_mut().zip(&w.q[base as usize]) {
                *out = base.wrapping_add(offset);
            }
        }
        Some(Slot::R(base)) => {
            if w.xr[base as usize] & m != 0 {
                return Err(uninitialised(w.xr[base as usize] & m, "the address"));
            }
            for (out, &base) in out.iter_mut().zip(&w.r[base as usize]) {
                *out = u64::from(base).wrapping_add(offset);
            }
        }
        _ => {}
    }
    Ok(out)
}

/// Which memory a generic address is in, and where there.
pub(super) fn resolve(space: Space, address: u64) -> (Space, u64) {
    if space != Space::Generic {
        return (space, address);
    }
    if address.wrapping_sub(SHARED_WINDOW) < WINDOW {
        (Space::Shared, address - SHARED_WINDOW)
    } else if address.wrapping_sub(LOCAL_WINDOW) < WINDOW {
        (Space::Local, address - LOCAL_WINDOW)
    } else {
        (Space::Global, address)
    }
}

pub(super) fn aligned(lane: usize, address: u64, bytes: u64, what: &str) -> Done {
    if address & (bytes - 1) == 0 {
        return Ok(());
    }
    Err(Trouble::at(FaultKind::Misaligned, lane, address, format!("{what}, {bytes} bytes")))
}

/// Element `i` of up to 16 bytes.
#[inline(always)]
fn element(words: &[u32; 4], i: usize, bytes: usize) -> u64 {
    match bytes {
        8 => u64::from(words[2 * i + 1]) << 32 | u64::from(words[2 * i]),
        4 => u64::from(words[i]),
        2 => u64::from(words[i / 2] >> (16 * (i % 2)) & 0xffff),
        _ => u64::from(words[i / 4] >> (8 * (i % 4)) & 0xff),
    }
}

#[inline(always)]
fn set_element(words: &mut [u32; 4], i: usize, bytes: usize, value: u64) {
    match bytes {
        8 => {
            words[2 * i] = value as u32;
            words[2 * i + 1] = (value >> 32) as u32;
        }
        4 => words[i] = value as u32,
        2 => words[i / 2] |= (value as u32 & 0xffff) << (16 * (i % 2)),
        _ => words[i / 4] |= (value as u32 & 0xff) << (8 * (i % 4)),
    }
}

impl Machine<'_> {
    pub(super) fn load(&mut self, w: &mut Warp, access: &Access, m: u32, line: u32) -> Done {
        let addresses = addresses(w, access.address, m)?;
        if access.bytes == 4 && matches!(access.space, Space::Global | Space::Shared) {
            match access.regs[..usize::from(access.count)] {
                [Slot::R(a)] => return self.load_rows(w, access.space, [a], &addresses, m, line),
                [Slot::R(a), Slot::R(b)] => return self.load_rows(w, access.space, [a, b], &addresses, m, line),
                [Slot::R(a), Slot::R(b), Slot::R(c), Slot::R(d)] => {
                    return self.load_rows(w, access.space, [a, b, c, d], &addresses, m, line);
                }
                _ => {}
            }
        }
        let (bytes, count) = (usize::from(access.bytes), usize::from(access.count));
        let total = bytes * count;
        let mut global = 0;
        let mut shared = 0;
        let mut poison = 0;
        for lane in lanes(m) {
            let mut words = [0; 4];
            let (space, address) = resolve(access.space, addresses[lane]);
            match space {
                Space::Global | Space::Const | Space::Generic => {
                    self.load_global(lane, address, total, &mut words)?;
                    global |= u32::from(space == Space::Global) << lane;
                }
                Space::Shared => {
                    let who = who(w, lane, line);
                    if total >= 4 {
                        self.shared.read_words(who, address, total as u32, &mut words)?;
                    } else {
                        words[0] = self.shared.read_part(who, address, total as u32)?;
                    }
                    shared |= 1 << lane;
                }
                Space::Local => {
                    aligned(lane, address, total as u64, "local memory")?;
                    let at = self.local_place(lane, address, total)?;
                    let written = w.local_written[at..at + total].iter().all(|&written| written);
                    poison |= u32::from(!written) << lane;
                    for (i, &byte) in w.local[at..at + total].iter().enumerate() {
                        words[i / 4] |= u32::from(byte) << (8 * (i % 4));
                    }
                    self.counters.local_bytes += total as u64;
                }
                Space::Param => {
                    aligned(lane, address, total as u64, "a parameter")?;
                    let params = usize::try_from(address).ok().and_then(|at| self.grid.params.get(at..at + total));
                    let Some(params) = params else {
                        let text =
                            format!("{total} bytes beyond the kernel's {} of parameters", self.grid.params.len());
                        return Err(Trouble::at(FaultKind::OutOfBounds, lane, address, text));
                    };
                    for (i, &byte) in params.iter().enumerate() {
                        words[i / 4] |= u32::from(byte) << (8 * (i % 4));
                    }
                }
            }
            for (i, &slot) in access.regs[..count].iter().enumerate() {
                let value = element(&words, i, bytes);
                if let (Slot::R(row), 4) = (slot, bytes) {
                    w.r[row as usize][lane] = value as u32;
                    continue;
                }
                let value = if access.signed { sign_extend(value, bytes, slot) } else { value };
                w.set(slot, lane, value);
            }
        }
        for &slot in &access.regs[..count] {
            w.set_poison(slot, m, poison);
        }
        self.count_global(&addresses, global, total as u64, true);
        self.count_shared(&addresses, shared, total as u64, true);
        Ok(())
    }

    /// The common loads: whole words from one space into rows of 32 bits.
    fn load_rows<const N: usize>(
        &mut self,
        w: &mut Warp,
        space: Space,
        rows: [u32; N],
        addresses: &Row64,
        m: u32,
        line: u32,
    ) -> Done {
        let bytes = 4 * N as u64;
        for lane in lanes(m) {
            let (address, mut words) = (addresses[lane], [0; N]);
            if space == Space::Shared {
                self.shared.read_words(who(w, lane, line), address, bytes as u32, &mut words)?;
            } else {
                aligned(lane, address, bytes, "global memory")?;
                let (a, offset) = self.finder.find(lane, address, bytes)?;
                a.read_words(offset, &mut words, self.view)
                    .map_err(|kind| global_fault(kind, lane, address, offset, a.what))?;
            }
            for (row, word) in rows.into_iter().zip(words) {
                w.r[row as usize][lane] = word;
            }
        }
        for row in rows {
            w.xr[row as usize] &= !m;
        }
        if space == Space::Shared {
            self.count_shared(addresses, m, bytes, true);
        } else {
            self.count_global(addresses, m, bytes, true);
        }
        Ok(())
    }

    pub(super) fn store(&mut self, w: &mut Warp, access: &Access, m: u32, line: u32) -> Done {
        let addresses = addresses(w, access.address, m)?;
        let (bytes, count) = (usize::from(access.bytes), usize::from(access.count));
        let total = bytes * count;
        let mut global = 0;
        let mut shared = 0;
        let mut poison = 0;
        for &slot in &access.regs[..count] {
            poison |= w.poison(slot) & m;
        }
        for lane in lanes(m) {
            let mut words = [0; 4];
            for (i, &slot) in access.regs[..count].iter().enumerate() {
                set_element(&mut words, i, bytes, w.get(slot, lane));
            }
            let (space, address) = resolve(access.space, addresses[lane]);
            if space != Space::Local && poison != 0 {
                return Err(uninitialised(poison, "what is stored"));
            }
            match space {
                Space::Shared => {
                    let who = who(w, lane, line);
                    if total >= 4 {
                        self.shared.write_words(who, address, total as u32, &words)?;
                    } else {
                        self.shared.write_part(who, address, total as u32, words[0])?;
                    }
                    shared |= 1 << lane;
                }
                Space::Local => {
                    aligned(lane, address, total as u64, "local memory")?;
                    let at = self.local_place(lane, address, total)?;
                    for (i, byte) in w.local[at..at + total].iter_mut().enumerate() {
                        *byte = (words[i / 4] >> (8 * (i % 4))) as u8;
                    }
                    w.local_written[at..at + total].fill(poison >> lane & 1 == 0);
                    self.counters.local_bytes += total as u64;
                }
                _ => {
                    self.store_global(lane, address, total, &words)?;
                    global |= 1 << lane;
                }
            }
        }
        self.count_global(&addresses, global, total as u64, false);
        self.count_shared(&addresses, shared, total as u64, false);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn load_global(&mut self, lane: usize, address: u64, bytes: usize, words: &mut [u32; 4]) -> Done {
        aligned(lane, address, bytes as u64, "global memory")?;
        let (a, offset) = self.finder.find(lane, address, bytes as u64)?;
        let read = if bytes >= 4 {
            a.read_words(offset, &mut words[..bytes / 4], self.view)
        } else {
            a.read_part(offset, bytes, self.view).map(|part| words[0] = part)
        };
        read.map_err(|kind| global_fault(kind, lane, address, offset, a.what))
    }

    #[inline(always)]
    fn store_global(&mut self, lane: usize, address: u64, bytes: usize, words: &[u32; 4]) -> Done {
        aligned(lane, address, bytes as u64, "global memory")?;
        let (a, offset) = self.finder.find(lane, address, bytes as u64)?;
        if bytes >= 4 {
            let written = a.write_words(offset, &words[..bytes / 4], self.view);
            return written.map_err(|kind| global_fault(kind, lane, address, offset, a.what));
        }
        a.write_part(offset, bytes, words[0]);
        Ok(())
    }

    /// Where an access of local memory is in the warp's.
    fn local_place(&self, lane: usize, address: u64, bytes: usize) -> Result<usize, Box<Trouble>> {
        let own = self.grid.code.local_bytes as usize;
        match usize::try_from(address) {
            Ok(at) if at < own && bytes <= own - at => Ok(lane * own + at),
            _ => {
                let text = format!("{bytes} bytes beyond the thread's {own} of local memory");
                Err(Trouble::at(FaultKind::OutOfBounds, lane, address, text))
            }
        }
    }

    /// Bytes and 32-byte sectors of a request.
    pub(super) fn count_global(&mut self, addresses: &Row64, m: u32, bytes: u64, read: bool) {
        if m == 0 {
            return;
        }
        let sectors = sectors(addresses, m, bytes);
        let total = bytes * u64::from(m.count_ones());
        if read {
            self.counters.global_read_bytes += total;
            self.counters.global_read_sectors += sectors;
        } else {
            self.counters.global_written_bytes += total;
            self.counters.global_written_sectors += sectors;
        }
    }

    /// Bytes and bank conflicts: an access of 8 or 16 bytes a thread goes in groups of 16 or 8 threads.
    pub(super) fn count_shared(&mut self, addresses: &Row64, m: u32, bytes: u64, read: bool) {
        if m == 0 {
            return;
        }
        let total = bytes * u64::from(m.count_ones());
        if read {
            self.counters.shared_read_bytes += total;
        } else {
            self.counters.shared_written_bytes += total;
        }
        let group = (32 / bytes.div_ceil(4)) as u32;
        let mut rest = m;
        while rest != 0 {
            let start = rest.trailing_zeros() / group * group;
            let own = (u32::MAX >> (32 - group)) << start;
            self.counters.bank_conflicts += passes(addresses, rest & own, bytes) - 1;
            rest &= !own;
        }
    }
}

#[cold]
fn global_fault(kind: FaultKind, lane: usize, address: u64, offset: u64, what: &str) -> Box<Trouble> {
    let text = match kind {
        FaultKind::GlobalRace => format!("byte {offset} of `{what}`, which another block wrote in this launch"),
        _ => format!("byte {offset} of `{what}`"),
    };
    Trouble::at(kind, lane, address, text)
}

#[inline(always)]
fn sign_extend(value: u64, bytes: usize, slot: Slot) -> u64 {
    let shift = 64 - bytes as u32 * 8;
    let extended = ((value << shift) as i64 >> shift) as u64;
    // A byte in a 16-bit register must not reach into the row's upper half; what reads it takes 16 bits.
    match slot {
        Slot::R(_) if bytes == 2 => extended & 0xffff_ffff,
        _ => extended,
    }
}

/// 32-byte sectors that the lanes touch.
fn sectors(addresses: &Row64, m: u32, bytes: u64) -> u64 {
    let mut seen = [0_u64; 32];
    let (mut n, mut sorted, mut last) = (0, true, u64::MAX);
    for lane in lanes(m) {
        // An aligned access of at most 16 bytes lies in one sector.
        let sector = addresses[lane] / 32;
        if sector != last || n == 0 {
            sorted &= n == 0 || sector > last;
            seen[n] = sector;
            n += 1;
            last = sector;
        }
    }
    let _ = bytes;
    if sorted {
        return n as u64;
    }
    let seen = &mut seen[..n];
    seen.sort_unstable();
    1 + seen.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
}

/// Passes over the banks that serve the lanes of `m`: the most different words in one bank.
fn passes(addresses: &Row64, m: u32, bytes: u64) -> u64 {
    let words = bytes.div_ceil(4);
    let mut bank = [u64::MAX; 32];
    let mut again: Vec<u64> = Vec::new();
    for lane in lanes(m) {
        let first = addresses[lane] / 4;
        for word in first..first + words {
            let slot = &mut bank[(word % 32) as usize];
            if *slot == u64::MAX {
                *slot = word;
            } else if *slot != word {
                again.push(word);
            }
        }
    }
    if again.is_empty() {
        return 1;
    }
    again.sort_unstable();
    again.dedup();
    let mut count = [1_u64; 32];
    for word in again {
        count[(word % 32) as usize] += 1;
    }
    count.into_iter().max().unwrap_or(1)
}

/// Lanes whose pointer was never written, of one of the operands of an instruction.
pub(super) fn check(w: &Warp, slot: Slot, m: u32, what: &str) -> Done {
    let poison = w.poison(slot) & m;
    if poison == 0 { Ok(()) } else { Err(uninitialised(poison, what)) }
}

/// The value that all lanes of `m` have, or the fault that they differ.
pub(super) fn uniform(w: &Warp, row: u32, m: u32, what: &str) -> Result<u32, Box<Trouble>> {
    check(w, Slot::R(row), m, what)?;
    let row = &w.r[row as usize];
    let value = row[first(m)];
    match lanes(m).find(|&lane| row[lane] != value) {
        None => Ok(value),
        Some(lane) => {
            let text = format!("{what} is {:#x} here and {value:#x} in lane {}", row[lane], first(m));
            Err(Trouble::new(FaultKind::WarpDivergence, lane, text))
        }
    }
}
