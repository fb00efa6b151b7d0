//! Global memory: allocations with gaps between them, and for every byte whether something wrote it.
//!
//! Blocks run in parallel and share this, so a word and what is known of it are relaxed atomics: a kernel with a race
//! between its blocks reads one of the values, never anything worse.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::fault::{FaultKind, Trouble};

/// Where device memory begins: above all that fits 32 bits, and above the windows of shared and local memory.
const HEAP: u64 = 0x7_0000_0000;
/// Kept free behind every allocation.
const GAP: u64 = 4096;
/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 0x1_0000_0000;
/// Generic addresses of local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 0x2_0000_0000;
/// Size of a window.
pub(crate) const WINDOW: u64 = 0x1_0000_0000;
/// Bits of the writing block in a word's state; the lower four say which bytes were written.
const WRITER_SHIFT: u32 = 4;
/// Blocks before the numbers start again.
pub(crate) const MAX_WRITERS: u32 = 1 << 28;

/// One allocation.
pub(crate) struct Allocation {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    pub(crate) what: &'static str,
    words: Box<[AtomicU32]>,
    /// By word: which bytes were written, and the block that wrote the whole word last (0: none of interest).
    state: Box<[AtomicU32]>,
}

impl Allocation {
    fn new(address: u64, bytes: u64, what: &'static str) -> Self {
        let words = bytes.div_ceil(4) as usize;
        let zeroed = || bytemuck::allocation::zeroed_slice_box(words);
        Self { address, bytes, what, words: zeroed(), state: zeroed() }
    }

    /// Whether the block numbered `writer` may see what is at the word.
    #[inline]
    fn check(&self, state: u32, needed: u32, view: View) -> Result<(), FaultKind> {
        if state & needed != needed {
            return Err(FaultKind::UninitialisedMemory);
        }
        let writer = state >> WRITER_SHIFT;
        if writer >= view.first && writer != view.own && !view.fenced {
            return Err(FaultKind::GlobalRace);
        }
        Ok(())
    }

    /// Reads `out.len()` whole words.
    #[inline]
    pub(crate) fn read_words(&self, offset: u64, out: &mut [u32], view: View) -> Result<(), FaultKind> {
        let first = (offset / 4) as usize;
        let (words, states) = (&self.words[first..first + out.len()], &self.state[first..first + out.len()]);
        for (out, (word, state)) in out.iter_mut().zip(words.iter().zip(states)) {
            self.check(state.load(Relaxed), 15, view)?;
            *out = word.load(Relaxed);
        }
        Ok(())
    }

    /// Writes whole words.
    #[inline]
    pub(crate) fn write_words(&self, offset: u64, data: &[u32], view: View) -> Result<(), FaultKind> {
        let first = (offset / 4) as usize;
        for (&data, (word, state)) in data.iter().zip(self.words[first..].iter().zip(&self.state[first..])) {
            let writer = state.load(Relaxed) >> WRITER_SHIFT;
            if writer >= view.first && writer != view.own && !view.fenced {
                return Err(FaultKind::GlobalRace);
            }
            word.store(data, Relaxed);
            state.store(15 | view.own << WRITER_SHIFT, Relaxed);
        }
        Ok(())
    }

    /// Reads one or two bytes within a word.
    #[inline]
    pub(crate) fn read_part(&self, offset: u64, bytes: usize, view: View) -> Result<u32, FaultKind> {
        let (index, shift) = ((offset / 4) as usize, offset % 4);
        self.check(self.state[index].load(Relaxed), ((1 << bytes) - 1) << shift, view)?;
        Ok(self.words[index].load(Relaxed) >> (shift * 8) & mask_of(bytes))
    }

    /// Writes one or two bytes within a word. The blocks of neighbouring halves may be different ones, so the word is
    /// nobody's afterwards.
    #[inline]
    pub(crate) fn write_part(&self, offset: u64, bytes: usize, data: u32) {
        let (index, shift) = ((offset / 4) as usize, offset % 4);
        let (mask, data) = (mask_of(bytes) << (shift * 8), data << (shift * 8));
        let word = &self.words[index];
        let mut old = word.load(Relaxed);
        while let Err(now) = word.compare_exchange_weak(old, old & !mask | data & mask, Relaxed, Relaxed) {
            old = now;
        }
        let written = ((1 << bytes) - 1) << shift;
        let state = &self.state[index];
        let mut old = state.load(Relaxed);
        while let Err(now) = state.compare_exchange_weak(old, (old & 15) | written, Relaxed, Relaxed) {
            old = now;
        }
    }

    /// The value of an atomic operation, 2, 4 or 8 bytes; its caller holds the lock.
    pub(crate) fn read_atomic(&self, offset: u64, bytes: usize) -> Result<u64, FaultKind> {
        let view = View::HOST;
        let mut words = [0; 2];
        if bytes == 2 {
            return self.read_part(offset, 2, view).map(u64::from);
        }
        self.read_words(offset, &mut words[..bytes / 4], view)?;
        Ok(u64::from(words[1]) << 32 | u64::from(words[0]))
    }

    /// The result of an atomic operation.
    pub(crate) fn write_atomic(&self, offset: u64, bytes: usize, value: u64) {
        if bytes == 2 {
            return self.write_part(offset, 2, value as u32);
        }
        let words = [value as u32, (value >> 32) as u32];
        // A view of the host finds no race.
        let _ = self.write_words(offset, &words[..bytes / 4], View::HOST);
    }

    fn byte(&self, offset: u64) -> Option<u8> {
        let (index, shift) = ((offset / 4) as usize, offset % 4);
        let written = self.state[index].load(Relaxed) >> shift & 1 == 1;
        written.then(|| (self.words[index].load(Relaxed) >> (shift * 8)) as u8)
    }

    fn forget_byte(&self, offset: u64) {
        self.state[(offset / 4) as usize].fetch_and(!(1 << (offset % 4)), Relaxed);
    }
}

fn mask_of(bytes: usize) -> u32 {
    if bytes == 1 { 0xff } else { 0xffff }
}

/// Who looks at memory: which writers belong to the launch, and which of them it is itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Number of the launch's first block.
    pub(crate) first: u32,
    /// Number of this block.
    pub(crate) own: u32,
    /// The block has executed a fence of the device: it may know of the others' writes.
    pub(crate) fenced: bool,
}

impl View {
    /// Of the host: it comes after everything.
    pub(crate) const HOST: Self = Self { first: u32::MAX, own: 0, fenced: true };
}

/// All allocations, sorted by address; addresses are never given twice.
pub(crate) struct Memory {
    live: Vec<Arc<Allocation>>,
    /// Address, size and name of what was freed.
    freed: Vec<(u64, u64, &'static str)>,
    next: u64,
    pub(crate) used: u64,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { live: Vec::new(), freed: Vec::new(), next: HEAP, used: 0 }
    }

    pub(crate) fn alloc(&mut self, what: &'static str, bytes: u64) -> u64 {
        let address = self.next;
        self.next = (address + bytes + GAP).next_multiple_of(256);
        self.used += bytes;
        self.live.push(Arc::new(Allocation::new(address, bytes, what)));
        address
    }

    /// Whether there was such an allocation.
    pub(crate) fn free(&mut self, address: u64) -> bool {
        let Ok(index) = self.live.binary_search_by_key(&address, |a| a.address) else { return false };
        let old = self.live.remove(index);
        self.used -= old.bytes;
        self.freed.push((old.address, old.bytes, old.what));
        true
    }

    /// Forgets who wrote what, before the numbers of blocks start again.
    pub(crate) fn forget_writers(&self) {
        for state in self.live.iter().flat_map(|a| &a.state) {
            state.fetch_and(15, Relaxed);
        }
    }

    /// The allocation that holds all of `address..address + bytes`.
    #[inline]
    pub(crate) fn find(&self, address: u64, bytes: u64) -> Result<&Arc<Allocation>, (FaultKind, String)> {
        let after = self.live.partition_point(|a| a.address <= address);
        match after.checked_sub(1).map(|i| &self.live[i]) {
            Some(a) if address - a.address < a.bytes && bytes <= a.bytes - (address - a.address) => Ok(a),
            _ => Err(self.explain(address, bytes)),
        }
    }

    #[cold]
    fn explain(&self, address: u64, bytes: u64) -> (FaultKind, String) {
        if address < WINDOW {
            return (FaultKind::OutOfBounds, format!("{bytes} bytes near the null pointer"));
        }
        let inside = |from: u64, len: u64| address >= from && address - from < len;
        if let Some((from, _, what)) = self.freed.iter().find(|(from, len, _)| inside(*from, *len)) {
            return (FaultKind::UseAfterFree, format!("byte {} of `{what}`, which was freed", address - from));
        }
        let after = self.live.partition_point(|a| a.address <= address);
        let before = after.checked_sub(1).map(|i| &self.live[i]);
        let text = match (before, self.live.get(after)) {
            (Some(a), _) if address - a.address < a.bytes + GAP => {
                format!(
                    "bytes {0}..{1} of `{2}`, which has {3}",
                    address - a.address,
                    (address - a.address).saturating_add(bytes),
                    a.what,
                    a.bytes
                )
            }
            (_, Some(a)) if a.address - address <= GAP => {
                format!("{} bytes before `{}`", a.address - address, a.what)
            }
            _ => format!("{bytes} bytes that belong to no allocation"),
        };
        (FaultKind::OutOfBounds, text)
    }

    /// Copies from the host.
    pub(crate) fn upload(&self, from: &[u8], to: u64) -> Result<(), (FaultKind, String)> {
        if from.is_empty() {
            return Ok(());
        }
        let a = self.find(to, from.len() as u64)?;
        let mut offset = to - a.address;
        let head = (offset.next_multiple_of(4) - offset).min(from.len() as u64) as usize;
        let (head, rest) = from.split_at(head);
        for &byte in head {
            a.write_part(offset, 1, u32::from(byte));
            offset += 1;
        }
        let (words, tail) = rest.as_chunks::<4>();
        let first = (offset / 4) as usize;
        for (word, (to, state)) in words.iter().zip(a.words[first..].iter().zip(&a.state[first..])) {
            to.store(u32::from_le_bytes(*word), Relaxed);
            state.store(15, Relaxed);
        }
        offset += words.len() as u64 * 4;
        for &byte in tail {
            a.write_part(offset, 1, u32::from(byte));
            offset += 1;
        }
        Ok(())
    }

    /// Copies to the host.
    pub(crate) fn download(&self, from: u64, to: &mut [u8]) -> Result<(), (FaultKind, String)> {
        if to.is_empty() {
            return Ok(());
        }
        let a = self.find(from, to.len() as u64)?;
        let start = from - a.address;
        for (i, out) in to.iter_mut().enumerate() {
            *out = a.byte(start + i as u64).ok_or_else(|| {
                let text = format!("byte {} of `{}` is copied to the host", start + i as u64, a.what);
                (FaultKind::UninitialisedMemory, text)
            })?;
        }
        Ok(())
    }

    /// Copies within the device; what was not written stays so.
    pub(crate) fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), (FaultKind, String)> {
        if bytes == 0 {
            return Ok(());
        }
        let (source, target) = (self.find(from, bytes)?, self.find(to, bytes)?);
        let (from, to) = (from - source.address, to - target.address);
        for i in 0..bytes {
            match source.byte(from + i) {
                Some(byte) => target.write_part(to + i, 1, u32::from(byte)),
                None => target.forget_byte(to + i),
            }
        }
        Ok(())
    }
}

/// What the blocks of a launch see of memory.
pub(crate) struct Global<'a> {
    pub(crate) memory: &'a Memory,
    /// Held by every atomic operation.
    atomics: Mutex<()>,
}

impl<'a> Global<'a> {
    pub(crate) fn new(memory: &'a Memory) -> Self {
        Self { memory, atomics: Mutex::new(()) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        self.atomics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds allocations for the lanes of one instruction, which mostly share one.
pub(crate) struct Finder<'a> {
    memory: &'a Memory,
    last: Option<&'a Allocation>,
}

impl<'a> Finder<'a> {
    pub(crate) fn new(memory: &'a Memory) -> Self {
        Self { memory, last: None }
    }

    /// The allocation of an access and the offset in it.
    #[inline]
    pub(crate) fn find(
        &mut self,
        lane: usize,
        address: u64,
        bytes: u64,
    ) -> Result<(&'a Allocation, u64), Box<Trouble>> {
        if let Some(a) = self.last {
            let offset = address.wrapping_sub(a.address);
            if offset < a.bytes && bytes <= a.bytes - offset {
                return Ok((a, offset));
            }
        }
        let a = self.memory.find(address, bytes).map_err(|(kind, detail)| Trouble::at(kind, lane, address, detail))?;
        self.last = Some(a);
        Ok((a, address - a.address))
    }
}
