//! Zeroed memory that starts on a cache line, and the activations that live in it.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, allocation::try_zeroed_vec};

use crate::{Error, Result};

const CACHE_LINE: usize = 64;

/// A fixed-length slice of zeros to begin with, aligned to 64 bytes. Untouched pages cost no memory.
pub(crate) struct Buffer<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Pod> Buffer<T> {
    /// Allocates `len` zeros; `what` names them in the error.
    pub(crate) fn new(what: &'static str, len: usize) -> Result<Self> {
        let out_of_memory =
            || Error::OutOfMemory { what, bytes: len.saturating_mul(size_of::<T>()), device: "cpu".into() };
        let padded = len.checked_add(CACHE_LINE / size_of::<T>()).ok_or_else(out_of_memory)?;
        padded.checked_mul(size_of::<T>()).ok_or_else(out_of_memory)?;
        let data = try_zeroed_vec::<T>(padded).map_err(|()| out_of_memory())?;
        let start = data.as_ptr().align_offset(CACHE_LINE);
        Ok(Self { data, start, len })
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

/// A row-major `[rows, cols]` matrix of `f32` with room for `capacity` rows.
pub struct CpuTensor {
    data: Buffer<f32>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) capacity: usize,
}

impl CpuTensor {
    /// Room for `capacity` rows of `cols`; no rows yet.
    pub(crate) fn new(capacity: usize, cols: usize) -> Result<Self> {
        // An overflowing product is refused by `Buffer` as what it is: more memory than there is.
        let data = Buffer::new("activations", capacity.saturating_mul(cols))?;
        Ok(Self { data, rows: 0, cols, capacity })
    }

    /// The rows in use.
    pub(crate) fn data(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    /// The rows in use.
    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        let len = self.rows * self.cols;
        &mut self.data[..len]
    }

    /// Row `row`.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.data()[row * self.cols..][..self.cols]
    }
}
