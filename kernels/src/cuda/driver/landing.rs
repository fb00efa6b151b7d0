//! Page-locked memory that downloads land in, so that the host can wait for one of them and not for what was queued later.

use std::{
    ffi::c_void,
    ptr::null_mut,
    sync::{Arc, PoisonError},
};

use cudarc::driver::sys::CUevent;

use super::{
    Inner,
    api::{Api, Status},
    staging::NO_TIMING,
};
use crate::{
    Result,
    cuda::device::{DevicePtr, Download},
};

/// Least bytes of a landing.
const SMALLEST: usize = 1 << 16;

/// Memory for one download at a time, and the event behind it.
pub(super) struct Landing {
    memory: *mut c_void,
    bytes: usize,
    event: CUevent,
}

// SAFETY: page-locked memory and events may be used from any thread; whoever has the landing is its only user.
unsafe impl Send for Landing {}

impl Landing {
    fn new(api: &Api, bytes: usize) -> Result<Self, Status> {
        let mut landing = Self { memory: null_mut(), bytes, event: null_mut() };
        // SAFETY: a context is current, and `memory` may be written.
        unsafe { api.host_alloc(&raw mut landing.memory, bytes, 0) }?;
        // SAFETY: as above, for the event.
        unsafe { api.event_create(&raw mut landing.event, NO_TIMING) }.inspect_err(|_| landing.free(api))?;
        Ok(landing)
    }

    /// Gives it back; no copy into it may be under way.
    pub fn free(&mut self, api: &Api) {
        if !self.event.is_null() {
            // SAFETY: made by `new`, and forgotten here. Nothing can be done about an error.
            unsafe { api.event_destroy(std::mem::replace(&mut self.event, null_mut())) }.ok();
        }
        // SAFETY: as above; nobody copies into it any more.
        unsafe { api.host_free(std::mem::replace(&mut self.memory, null_mut())) }.ok();
    }
}

/// A download that was queued.
struct Landed {
    inner: Arc<Inner>,
    /// Until it goes back to the device.
    landing: Option<Landing>,
    bytes: usize,
}

impl Inner {
    /// As [`Device::queue_download`](crate::cuda::device::Device::queue_download).
    pub(super) fn queue_download(self: &Arc<Self>, from: DevicePtr, bytes: usize) -> Result<Box<dyn Download>> {
        let mut state = self.enter("copying from the GPU", false)?;
        let what = format!("copying {bytes} bytes from the GPU");
        let kept = state.landings.iter().position(|landing| landing.bytes >= bytes);
        let landing = match kept {
            Some(index) => state.landings.swap_remove(index),
            None => {
                let size = bytes.max(SMALLEST).checked_next_power_of_two().unwrap_or(bytes);
                Landing::new(&self.api, size).map_err(|e| self.error(&state, "page-locked memory for copies", e))?
            }
        };
        let (memory, event) = (landing.memory, landing.event);
        // From here on it goes back, after the copy into it.
        let landed = Landed { inner: self.clone(), landing: Some(landing), bytes };
        // SAFETY: the landing has room for `bytes` and is nobody else's until its event was waited for.
        let queued = unsafe { self.api.copy_to_host(memory, from, bytes, self.stream) }
            // SAFETY: event and stream are alive, in the current context.
            .and_then(|()| unsafe { self.api.event_record(event, self.stream) });
        let result = queued.map_err(|status| self.error(&state, &what, status));
        drop(state);
        result.map(|()| Box::new(landed) as Box<dyn Download>)
    }
}

impl Landed {
    /// Waits until nothing more is copied into the landing.
    fn settle(&self, event: CUevent) -> Result<()> {
        let what = format!("copying {} bytes from the GPU", self.bytes);
        drop(self.inner.enter(&what, true)?);
        // SAFETY: the event is alive, in the current context; one that was never recorded is done.
        unsafe { self.inner.api.event_synchronize(event) }.map_err(|status| self.inner.late_error(&what, status))
    }
}

impl Download for Landed {
    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        let Some(Landing { memory, event, .. }) = &self.landing else { return Ok(Vec::new()) };
        self.settle(*event)?;
        // SAFETY: `bytes` of the landing were written by the copy, which is done.
        Ok(unsafe { std::slice::from_raw_parts(memory.cast::<u8>(), self.bytes) }.to_vec())
    }
}

impl Drop for Landed {
    fn drop(&mut self) {
        let Some(landing) = self.landing.take() else { return };
        // A copy whose end cannot be waited for keeps its memory for good.
        if self.settle(landing.event).is_ok() {
            self.inner.state.lock().unwrap_or_else(PoisonError::into_inner).landings.push(landing);
        }
    }
}
