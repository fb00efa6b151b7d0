//! Page-locked memory that uploads pass through, so that the caller's memory is free again when the call returns while
//! the copy itself waits its turn on the stream.

use std::{ffi::c_void, ptr::null_mut};

use cudarc::driver::sys::{CUevent, CUstream};

use super::api::{Api, Status};
use crate::cuda::device::DevicePtr;

/// Bytes of a half.
pub(super) const HALF: usize = 8 << 20;
/// Uploads start on multiples of this many bytes.
const ALIGN: usize = 256;
/// `CU_EVENT_DISABLE_TIMING`
pub(super) const NO_TIMING: u32 = 2;

/// Two halves, filled in turn. A half is filled again only when every copy out of it is done.
pub(super) struct Staging {
    memory: *mut u8,
    /// Recorded behind the last copy out of each half.
    events: [CUevent; 2],
    /// The half being filled.
    half: usize,
    /// Bytes of it that are taken.
    used: usize,
}

impl Staging {
    /// Allocates it.
    pub fn new(api: &Api) -> Result<Self, Status> {
        let mut memory: *mut c_void = null_mut();
        // SAFETY: the context is current, and `memory` may be written.
        unsafe { api.host_alloc(&raw mut memory, 2 * HALF, 0) }?;
        let mut staging = Self { memory: memory.cast(), events: [null_mut(); 2], half: 0, used: 0 };
        for i in 0..2 {
            // SAFETY: the context is current, and the event may be written.
            if let Err(status) = unsafe { api.event_create(&raw mut staging.events[i], NO_TIMING) } {
                staging.free(api);
                return Err(status);
            }
        }
        Ok(staging)
    }

    /// Queues the copy of `from` to `to`.
    pub fn upload(&mut self, api: &Api, stream: CUstream, mut from: &[u8], mut to: DevicePtr) -> Result<(), Status> {
        while !from.is_empty() {
            if self.used == HALF {
                // SAFETY: event and stream are alive, in the current context.
                unsafe { api.event_record(self.events[self.half], stream) }?;
                (self.half, self.used) = (1 - self.half, 0);
                // SAFETY: as above. An event that was never recorded is done.
                unsafe { api.event_synchronize(self.events[self.half]) }?;
            }
            let (now, later) = from.split_at(from.len().min(HALF - self.used));
            // SAFETY: `half` is 0 or 1 and `used` at most `HALF`, so this lies within the 2 × HALF bytes.
            let place = unsafe { self.memory.add(self.half * HALF + self.used) };
            // SAFETY: `now` fits behind `used`; no copy out of this part is queued: the half was waited for before it
            // was begun, and `used` only grows. Page-locked memory of ours overlaps no slice of the caller.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), place, now.len()) };
            // SAFETY: `place` stays valid and unchanged until the event behind this copy. That `to` has room is checked
            // by the device: a copy that leaves its allocations fails.
            unsafe { api.copy_to_device(to, place.cast_const().cast(), now.len(), stream) }?;
            self.used = (self.used + now.len()).next_multiple_of(ALIGN).min(HALF);
            (from, to) = (later, to + now.len() as DevicePtr);
        }
        Ok(())
    }

    /// Frees it; the stream must be idle.
    pub fn free(&mut self, api: &Api) {
        for event in self.events.iter_mut().filter(|event| !event.is_null()) {
            // SAFETY: made by `new`, and forgotten here. Nothing can be done about an error.
            unsafe { api.event_destroy(std::mem::replace(event, null_mut())) }.ok();
        }
        // SAFETY: made by `new`, nobody copies out of it any more.
        unsafe { api.host_free(self.memory.cast()) }.ok();
        self.memory = null_mut();
    }
}
