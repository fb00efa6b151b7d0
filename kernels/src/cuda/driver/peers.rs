//! Memory of one GPU that others of this process use.

use cudarc::driver::sys::{CUmemAccess_flags, CUmemAccessDesc, CUmemLocation, CUmemLocationType};

use super::{Inner, find_device};
use crate::Result;

impl Inner {
    /// As [`Device::share_memory_with`](crate::cuda::device::Device::share_memory_with).
    ///
    /// What comes from a pool is not part of the peer access that a library enables between contexts (CUDA C++ Programming
    /// Guide, "Device Accessibility for Multi-GPU Support"). Without pools there is nothing to do.
    pub(super) fn share_memory_with(&self, ordinals: &[usize]) -> Result<()> {
        let what = "sharing memory with other GPUs";
        let state = self.enter(what, false)?;
        let Some(pool) = self.pool else { return Ok(()) };
        for ordinal in ordinals {
            let peer = find_device(&self.api, *ordinal)?;
            let mut can_access = 0;
            // SAFETY: both devices exist, and the number may be written.
            unsafe { self.api.can_access_peer(&raw mut can_access, peer, self.device) }
                .map_err(|status| self.error(&state, what, status))?;
            if peer == self.device || can_access == 0 {
                continue;
            }
            let access = CUmemAccessDesc {
                location: CUmemLocation { type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: peer },
                flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
            };
            // SAFETY: the pool is this device's; one description, which is only read.
            unsafe { self.api.pool_set_access(pool, &raw const access, 1) }
                .map_err(|status| self.error(&state, what, status))?;
        }
        Ok(())
    }
}
