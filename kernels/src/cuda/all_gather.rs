//! Exchange of activations with the other devices that share a model.

use super::{CudaBackend, CudaTensor, device::Device, expect};
use crate::{
    Result,
    collective::{Member, alone},
};

/// A device's place in a group that shares a model.
pub trait Peer: Send + Sync {
    /// Devices of the group.
    fn count(&self) -> usize;

    /// Queues that `out: [count * rows, cols]` becomes the `x: [rows, cols]` of all devices, in their order.
    ///
    /// # Errors
    /// [`crate::Error::GroupEnded`] when the group has ended; whatever the device or the library refuses.
    fn all_gather(&self, device: &dyn Device, x: &CudaTensor, out: &mut CudaTensor) -> Result<()>;

    /// Ends the group for all its devices: nobody waits for this one any more.
    fn end(&self);
}

/// By way of the host: for emulated devices.
impl Peer for Member {
    fn count(&self) -> usize {
        Self::count(self)
    }

    fn all_gather(&self, device: &dyn Device, x: &CudaTensor, out: &mut CudaTensor) -> Result<()> {
        self.all_gather(x.download_bytes(device)?, |parts| {
            parts.iter().enumerate().try_for_each(|(rank, part)| out.upload_bytes(device, rank * x.rows, part))
        })
    }

    fn end(&self) {
        Self::end(self);
    }
}

impl CudaBackend {
    /// As [`crate::Backend::all_gather`].
    pub(super) fn gather_parts(&self, x: &CudaTensor, out: &mut CudaTensor) -> Result<()> {
        let peer = self.peer.as_ref().ok_or_else(alone)?;
        expect("all_gather: output", out.shape(), (peer.count() * x.rows, x.cols))?;
        peer.all_gather(&**self.device(), x, out)
    }
}
