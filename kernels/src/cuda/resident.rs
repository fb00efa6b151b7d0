//! Lists of indices on the device: those that came along with the batch of the step, and others.

use std::sync::{Arc, PoisonError};

use super::{CudaBackend, batch::Lists, device::DevicePtr, log_prob::MAX_ROWS, scratch::Scratch};
use crate::Result;

/// A list of indices on the device.
pub(super) enum Indices {
    /// Came along with a batch that is still there.
    Resident(DevicePtr),
    /// Was uploaded by itself.
    Own(Scratch),
}

impl Indices {
    /// Its address.
    pub fn ptr(&self) -> DevicePtr {
        match self {
            Self::Resident(ptr) => *ptr,
            Self::Own(buffer) => buffer.ptr(),
        }
    }
}

impl CudaBackend {
    /// From now on `lists` are found as long as somebody holds them.
    pub(super) fn set_resident(&self, lists: &Arc<Lists>) {
        *self.resident.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(lists);
    }

    /// `indices` on the device, found by what they are, else uploaded.
    ///
    /// # Errors
    /// Whatever the device refuses.
    pub(super) fn indices(&self, indices: &[u32]) -> Result<Indices> {
        let lists = self.resident.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(lists) = lists
            && let Some(ptr) = lists.iter().find_map(|list| find(list, indices))
        {
            return Ok(Indices::Resident(ptr));
        }
        let own = self.scratch.take("indices", 4 * indices.len())?;
        self.device().upload(bytemuck::cast_slice(indices), own.ptr())?;
        Ok(Indices::Own(own))
    }
}

/// Where `indices` stand if they are a whole list, or that part of it which the head takes at once.
fn find((list, ptr): &(Vec<u32>, DevicePtr), indices: &[u32]) -> Option<DevicePtr> {
    if list == indices {
        return Some(*ptr);
    }
    let part = list.chunks(MAX_ROWS).position(|part| part == indices)?;
    Some(ptr + (4 * part * MAX_ROWS) as u64)
}
