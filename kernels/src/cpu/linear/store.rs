//! Memory for packed weights: pages of their own, in huge pages where the system gives them.

use memmap2::MmapMut;

use crate::{Error, Result};

/// Zeroed bytes, aligned to a page.
///
/// A token of decode walks through all weights once, so with pages of 4 kB every few dozen cache lines need another
/// entry of the translation buffers; pages of 2 MB cost a five-hundredth of that.
pub(super) struct Store(Option<MmapMut>);

impl Store {
    /// `bytes` of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn zeroed(bytes: usize) -> Result<Self> {
        if bytes == 0 {
            return Ok(Self(None));
        }
        let map = MmapMut::map_anon(bytes).map_err(|_| Error::OutOfMemory {
            what: "packed weights",
            bytes,
            device: "the CPU".into(),
        })?;
        // Only advice: a system without huge pages serves as well.
        #[cfg(target_os = "linux")]
        drop(map.advise(memmap2::Advice::HugePage));
        Ok(Self(Some(map)))
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}
