//! Weight matrices in device memory, in the layout that the GEMM reads.

use std::sync::Arc;

use super::{
    device::{Device, DeviceBuffer, DevicePtr},
    tensor::encode,
};
use crate::{Error, Result, Storage, WeightFormat, WeightView, reference::dequant::dequantize};

/// Rows are padded to a multiple of this many elements: 16 bytes, the unit of `cp.async`.
const ALIGN: usize = 8;
/// Bytes converted and uploaded at a time.
const PART_BYTES: usize = 8 << 20;

/// A matrix `[rows = out_features, cols = in_features]`, row-major in 16 bits, rows `stride` elements apart and zero behind
/// `cols`.
pub struct CudaWeight {
    buffer: DeviceBuffer,
    rows: usize,
    cols: usize,
    gated: bool,
}

/// Bytes of a matrix in this layout.
pub(super) fn bytes(storage: Storage, rows: usize, cols: usize) -> usize {
    rows.saturating_mul(cols.next_multiple_of(ALIGN) * storage.bytes())
}

impl CudaWeight {
    /// Converts and uploads matrices that share their input, stacked along the rows.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is no part or the parts differ in their number of columns; [`Error::OutOfMemory`].
    pub(super) fn new(device: &Arc<dyn Device>, storage: Storage, parts: &[WeightView<'_>]) -> Result<Self> {
        let Some(cols) = parts.first().map(|part| part.cols) else {
            return Err(Error::Shape { what: "weight", found: "0 parts".into(), wanted: "1 or more".into() });
        };
        if let Some(part) = parts.iter().find(|part| part.cols != cols) {
            let (found, wanted) = (format!("[{}, {}]", part.rows, part.cols), format!("[_, {cols}]"));
            return Err(Error::Shape { what: "weight: part", found, wanted });
        }
        let rows = parts.iter().map(|part| part.rows).sum();
        let order = parts.iter().flat_map(|part| (0..part.rows).map(move |row| (part, row)));
        Self::from_rows(device, storage, rows, cols, order)
    }

    /// Converts and uploads `gate` and `up`, row by row in turn, so that the GEMM finds both halves of an output element
    /// in neighbouring columns.
    ///
    /// # Errors
    /// As for [`CudaWeight::new`].
    pub(super) fn gated(
        device: &Arc<dyn Device>,
        storage: Storage,
        gate: &WeightView<'_>,
        up: &WeightView<'_>,
    ) -> Result<Self> {
        if (gate.rows, gate.cols) != (up.rows, up.cols) {
            let shape = |view: &WeightView<'_>| format!("[{}, {}]", view.rows, view.cols);
            return Err(Error::Shape { what: "gated weight: up", found: shape(up), wanted: shape(gate) });
        }
        let order = (0..gate.rows).flat_map(|row| [(gate, row), (up, row)]);
        Ok(Self { gated: true, ..Self::from_rows(device, storage, 2 * gate.rows, gate.cols, order)? })
    }

    fn from_rows<'a, 'b: 'a>(
        device: &Arc<dyn Device>,
        storage: Storage,
        rows: usize,
        cols: usize,
        order: impl Iterator<Item = (&'a WeightView<'b>, usize)>,
    ) -> Result<Self> {
        let row_bytes = bytes(storage, 1, cols);
        let buffer = DeviceBuffer::new(device, "weights", bytes(storage, rows, cols))?;
        let (mut staged, mut done) = (Vec::new(), 0);
        for (part, row) in order {
            // The fields of a view are public: check again what is read.
            let view = WeightView::new(part.data, part.format, part.rows, part.cols)?;
            let end = staged.len() + row_bytes;
            match (view.format, storage) {
                // Already what is multiplied.
                (WeightFormat::Bf16, Storage::Bf16) | (WeightFormat::F16, Storage::F16) => {
                    staged.extend_from_slice(view.row(row));
                }
                _ => encode(&dequantize(&WeightView { data: view.row(row), rows: 1, ..view }), storage, &mut staged),
            }
            staged.resize(end, 0);
            if staged.len() >= PART_BYTES {
                device.upload(&staged, buffer.ptr() + done)?;
                done += staged.len() as u64;
                staged.clear();
            }
        }
        device.upload(&staged, buffer.ptr() + done)?;
        Ok(Self { buffer, rows, cols, gated: false })
    }

    /// Output features; of a gated weight, gate and up together.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.cols.next_multiple_of(ALIGN)
    }

    /// Whether rows of a gate and of its up projection alternate.
    pub(super) fn is_gated(&self) -> bool {
        self.gated
    }

    /// Bytes in device memory.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// Address of the first row.
    pub(super) fn ptr(&self) -> DevicePtr {
        self.buffer.ptr()
    }
}
