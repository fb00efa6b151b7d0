//! `cp.async`: the data is read at once and arrives when its thread waits for it, no earlier.

use super::{
    Machine, lanes,
    memory::{addresses, aligned, check},
    who,
};
use crate::emulator::{
    fault::{FaultKind, Trouble},
    isa::{Address, Slot},
    warp::{Copy, Warp},
};

impl Machine<'_> {
    #[expect(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(super) fn cp_async(
        &mut self,
        w: &mut Warp,
        to: Address,
        from: Address,
        bytes: u32,
        size: Option<u32>,
        ignore: Option<u32>,
        m: u32,
        line: u32,
    ) -> Result<(), Box<Trouble>> {
        let (targets, sources) = (addresses(w, to, m)?, addresses(w, from, m)?);
        if let Some(size) = size {
            check(w, Slot::R(size), m, "the source size")?;
        }
        if let Some(ignore) = ignore {
            check(w, Slot::P(ignore), m, "the predicate")?;
        }
        let mut copy = Copy { mask: m, bytes, line, group: w.commits, to: [0; 32], data: [[0; 4]; 32] };
        let mut read = 0;
        for lane in lanes(m) {
            let mut take = size.map_or(bytes, |size| w.r[size as usize][lane]);
            if take > bytes {
                let text = format!("cp.async of {take} bytes into {bytes}");
                return Err(Trouble::at(FaultKind::OutOfBounds, lane, sources[lane], text));
            }
            if ignore.is_some_and(|p| w.p[p as usize] >> lane & 1 == 1) {
                take = 0;
            }
            aligned(lane, sources[lane], u64::from(bytes), "the source of cp.async")?;
            if take == bytes {
                self.load_global(lane, sources[lane], bytes as usize, &mut copy.data[lane])?;
                read |= 1 << lane;
            } else {
                for i in 0..u64::from(take) {
                    let mut byte = [0; 4];
                    self.load_global(lane, sources[lane] + i, 1, &mut byte)?;
                    copy.data[lane][i as usize / 4] |= byte[0] << (8 * (i % 4));
                }
                self.counters.global_read_bytes += u64::from(take);
                self.counters.global_read_sectors += u64::from(take > 0);
            }
            self.counters.async_bytes += u64::from(take);
            self.shared.begin_copy(who(w, lane, line), targets[lane], bytes)?;
            copy.to[lane] = targets[lane] as u32;
        }
        self.count_global(&sources, read, u64::from(bytes), true);
        self.count_shared(&targets, m, u64::from(bytes), false);
        w.copies.push(copy);
        Ok(())
    }

    /// Lets the copies of all groups but the last `groups` arrive.
    pub(super) fn wait(&mut self, w: &mut Warp, groups: Option<u32>, m: u32) {
        let mut copies = std::mem::take(&mut w.copies);
        for copy in &mut copies {
            let words = copy.bytes as usize / 4;
            for lane in lanes(copy.mask & m) {
                if groups.is_some_and(|groups| copy.group[lane] + groups >= w.commits[lane]) {
                    continue;
                }
                let who = who(w, lane, copy.line);
                self.shared.finish_copy(who, u64::from(copy.to[lane]), &copy.data[lane][..words]);
                copy.mask &= !(1 << lane);
            }
        }
        copies.retain(|copy| copy.mask != 0);
        w.copies = copies;
    }
}
