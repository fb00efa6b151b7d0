//! Device memory that an operation needs for a while. A backend that keeps it hands it to the next who asks for the same
//! purpose, so that nothing is allocated once the largest step has been seen, and addresses stay what they were.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::device::{Device, DeviceBuffer, DevicePtr};
use crate::Result;

/// Least bytes of a buffer that is kept.
const SMALLEST: usize = 1 << 12;

/// What was given back, by purpose.
type Shelf = Arc<Mutex<HashMap<&'static str, Vec<DeviceBuffer>>>>;

/// Where scratch memory comes from.
pub(super) struct ScratchPool {
    device: Arc<dyn Device>,
    /// `None`: every request is an allocation of its exact size, so that a device that checks accesses finds all that
    /// leave it.
    shelf: Option<Shelf>,
}

/// Memory of one's own until it is dropped. Work that was queued before may still use it then, which is why only work that
/// is queued later may get it next: one stream per device.
pub(super) struct Scratch {
    what: &'static str,
    buffer: Option<DeviceBuffer>,
    shelf: Option<Shelf>,
}

fn lock(shelf: &Shelf) -> MutexGuard<'_, HashMap<&'static str, Vec<DeviceBuffer>>> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ScratchPool {
    /// An empty pool; `keeps`: what is given back is used again.
    pub fn new(device: &Arc<dyn Device>, keeps: bool) -> Self {
        Self { device: device.clone(), shelf: keeps.then(Shelf::default) }
    }

    /// `bytes` of undefined contents for the purpose `what`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] naming `what`.
    pub fn take(&self, what: &'static str, bytes: usize) -> Result<Scratch> {
        let Some(shelf) = &self.shelf else { return Scratch::exact(&self.device, what, bytes) };
        let mut kept = lock(shelf);
        let buffers = kept.entry(what).or_default();
        let buffer = match buffers.iter().position(|buffer| buffer.bytes() >= bytes) {
            Some(index) => buffers.remove(index),
            None => {
                // What is too small now will be too small again.
                buffers.clear();
                let size = bytes.max(SMALLEST).checked_next_power_of_two().unwrap_or(bytes);
                DeviceBuffer::new(&self.device, what, size)?
            }
        };
        drop(kept);
        Ok(Scratch { what, buffer: Some(buffer), shelf: Some(shelf.clone()) })
    }
}

impl Scratch {
    /// Memory that is freed when it is dropped.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] naming `what`.
    pub fn exact(device: &Arc<dyn Device>, what: &'static str, bytes: usize) -> Result<Self> {
        Ok(Self { what, buffer: Some(DeviceBuffer::new(device, what, bytes)?), shelf: None })
    }

    /// Its address.
    pub fn ptr(&self) -> DevicePtr {
        self.buffer.as_ref().map_or(0, DeviceBuffer::ptr)
    }

    /// Its size in bytes, at least what was asked for.
    pub fn bytes(&self) -> usize {
        self.buffer.as_ref().map_or(0, DeviceBuffer::bytes)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let (Some(shelf), Some(buffer)) = (&self.shelf, self.buffer.take()) {
            lock(shelf).entry(self.what).or_default().push(buffer);
        }
    }
}
