//! Activations and parameter vectors in device memory.

use std::sync::Arc;

use super::{
    device::{Device, DevicePtr},
    scratch::{Scratch, ScratchPool},
};
use crate::{Error, Result, Storage};

/// Rows are padded to a multiple of this many elements, so that each starts on 16 bytes whatever its element type.
const ALIGN: usize = 8;

/// A row-major `[rows, cols]` matrix whose rows are `stride` elements apart. What lies behind `cols` is unspecified.
pub struct CudaTensor {
    buffer: Scratch,
    storage: Storage,
    pub(super) rows: usize,
    pub(super) cols: usize,
    capacity: usize,
}

impl CudaTensor {
    /// Room for `capacity` rows of undefined contents, and no row.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn new(device: &Arc<dyn Device>, storage: Storage, capacity: usize, cols: usize) -> Result<Self> {
        let buffer = Scratch::exact(device, "activations", bytes(storage, capacity, cols))?;
        Ok(Self { buffer, storage, rows: 0, cols, capacity })
    }

    /// `rows` rows of undefined contents, for a while.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] naming `what`.
    pub(super) fn scratch(
        pool: &ScratchPool,
        what: &'static str,
        storage: Storage,
        rows: usize,
        cols: usize,
    ) -> Result<Self> {
        let buffer = pool.take(what, bytes(storage, rows, cols))?;
        Ok(Self { buffer, storage, rows, cols, capacity: rows })
    }

    /// Uploads `data: [rows, cols]`, rounded to `storage`, and zeros behind each row.
    ///
    /// # Errors
    /// [`Error::Shape`] when the length differs; [`Error::OutOfMemory`].
    pub(super) fn upload(
        device: &Arc<dyn Device>,
        storage: Storage,
        data: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<Self> {
        if rows.checked_mul(cols) != Some(data.len()) {
            let (found, wanted) = (format!("[{}]", data.len()), format!("[{rows}, {cols}]"));
            return Err(Error::Shape { what: "upload", found, wanted });
        }
        let mut tensor = Self::new(device, storage, rows, cols)?;
        tensor.rows = rows;
        let mut bytes = Vec::with_capacity(tensor.buffer.bytes());
        for row in data.chunks_exact(cols.max(1)) {
            encode(row, storage, &mut bytes);
            bytes.resize(bytes.len() + (tensor.stride() - cols) * storage.bytes(), 0);
        }
        device.upload(&bytes, tensor.ptr())?;
        Ok(tensor)
    }

    /// The rows, without what lies behind them.
    ///
    /// # Errors
    /// As for [`Device::download`].
    pub(super) fn download(&self, device: &dyn Device) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(self.rows * self.cols);
        decode(&self.download_bytes(device)?, self.storage, &mut out);
        Ok(out)
    }

    /// As [`Self::download`], as they are kept.
    ///
    /// # Errors
    /// As for [`Device::download`].
    pub(super) fn download_bytes(&self, device: &dyn Device) -> Result<Vec<u8>> {
        let (width, stride) = (self.cols * self.storage.bytes(), self.stride_bytes());
        let mut bytes = vec![0; self.rows * width];
        if width == stride {
            device.download(self.ptr(), &mut bytes)?;
        } else {
            // Row by row: the padding may never have been written.
            for (row, bytes) in bytes.chunks_exact_mut(width).enumerate() {
                device.download(self.ptr() + (row * stride) as u64, bytes)?;
            }
        }
        Ok(bytes)
    }

    /// Replaces the rows from `first` on by what [`Self::download_bytes`] gave of rows as long.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows that are not there; as for [`Device::upload`].
    pub(super) fn upload_bytes(&self, device: &dyn Device, first: usize, bytes: &[u8]) -> Result<()> {
        let (width, stride) = (self.cols * self.storage.bytes(), self.stride_bytes());
        if first * width + bytes.len() > self.rows * width {
            let found = format!("{} bytes from row {first} on", bytes.len());
            return Err(Error::Shape {
                what: "upload",
                found,
                wanted: format!("part of [{}, {}]", self.rows, self.cols),
            });
        }
        if width == stride {
            return device.upload(bytes, self.ptr() + (first * stride) as u64);
        }
        for (row, bytes) in bytes.chunks_exact(width).enumerate() {
            device.upload(bytes, self.ptr() + ((first + row) * stride) as u64)?;
        }
        Ok(())
    }

    /// Bytes from one row to the next.
    pub(super) fn stride_bytes(&self) -> usize {
        self.stride() * self.storage.bytes()
    }

    /// Sets the row count.
    ///
    /// # Errors
    /// [`Error::Shape`] above the capacity.
    pub(super) fn set_rows(&mut self, rows: usize) -> Result<()> {
        if rows > self.capacity {
            let wanted = format!("at most {} rows, the capacity", self.capacity);
            return Err(Error::Shape { what: "set_rows", found: format!("{rows} rows"), wanted });
        }
        self.rows = rows;
        Ok(())
    }

    /// `(rows, cols)`
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Elements from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.cols.next_multiple_of(ALIGN)
    }

    /// What an element is.
    pub(super) fn storage(&self) -> Storage {
        self.storage
    }

    /// Address of the first row.
    pub(super) fn ptr(&self) -> DevicePtr {
        self.buffer.ptr()
    }
}

/// Bytes of a matrix, its padding included; more than fits an address is refused by any device.
fn bytes(storage: Storage, rows: usize, cols: usize) -> usize {
    let elements = cols.checked_next_multiple_of(ALIGN).and_then(|stride| stride.checked_mul(rows));
    elements.and_then(|n| n.checked_mul(storage.bytes())).unwrap_or(usize::MAX)
}

/// Appends `row` in `storage`, little-endian.
pub(super) fn encode(row: &[f32], storage: Storage, out: &mut Vec<u8>) {
    match storage {
        Storage::F32 => out.extend(row.iter().flat_map(|x| x.to_le_bytes())),
        Storage::Bf16 => out.extend(row.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())),
        Storage::F16 => out.extend(row.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes())),
    }
}

/// The inverse of [`encode`].
fn decode(bytes: &[u8], storage: Storage, out: &mut Vec<f32>) {
    match storage {
        Storage::F32 => out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        Storage::Bf16 => out.extend(bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())),
        Storage::F16 => out.extend(bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())),
    }
}
