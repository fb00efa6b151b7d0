//! What the device can do at most, measured with its own copies and our own product: the ceiling of benchmarks.

use super::{CudaBackend, device::DeviceBuffer};
use crate::{Backend, Epilogue, Error, Result, Storage, WeightFormat, WeightView, bench::median, ops::Peaks, ops::Rng};

/// Bytes that are copied: far more than any cache holds.
const COPY_BYTES: u64 = 1 << 30;
/// Rows, inputs and outputs of the product, on a device that has the memory.
const PRODUCT: usize = 8192;
const LAPS: usize = 20;

impl CudaBackend {
    /// Measures the ceiling: the bandwidth of a copy on the device (bytes read and bytes written both count) and the rate
    /// of the largest product, both as medians by the device's clock. What is not measured is infinite, and so never
    /// what bounds an operation.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on a device that has no clock; [`Error::OutOfMemory`]; a fault of the device.
    pub fn measure_peaks(&self) -> Result<Peaks> {
        Ok(Peaks {
            f32_gflops: f64::INFINITY,
            bf16_gflops: self.product_gflops()?,
            int8_gops: f64::INFINITY,
            read_gbps: self.copy_gbps()?,
            cache_gbps: f64::INFINITY,
        })
    }

    fn copy_gbps(&self) -> Result<f64> {
        let device = self.device();
        let bytes = COPY_BYTES.min(device.caps().free_bytes / 8) as usize;
        let (from, to) =
            (DeviceBuffer::new(device, "benchmark", bytes)?, DeviceBuffer::new(device, "benchmark", bytes)?);
        let seconds = self.median_seconds(&mut || device.copy(from.ptr(), to.ptr(), bytes))?;
        Ok(2.0 * bytes as f64 / seconds / 1e9)
    }

    fn product_gflops(&self) -> Result<f64> {
        // Inputs, weights and outputs take 6 bytes for each element of a square.
        let most = (self.device().caps().free_bytes / 24) as usize;
        let n = [PRODUCT, PRODUCT / 2, PRODUCT / 4].into_iter().find(|n| n * n <= most).unwrap_or(1024);
        let mut rng = Rng(1);
        let format = if self.info().storage == Storage::F16 { WeightFormat::F16 } else { WeightFormat::Bf16 };
        // Random numbers: what is all zeros takes less power, and then less time.
        let bytes = rng.weight(format, n, n, 1.0);
        let weight = self.weight(&[WeightView::new(&bytes, format, n, n)?])?;
        let x = self.upload(&rng.vec(n * n, 1.0), n, n)?;
        let mut out = self.tensor(n, n)?;
        self.set_rows(&mut out, n)?;
        let seconds = self.median_seconds(&mut || self.linear(&x, &weight, None, Epilogue::Store, &mut out))?;
        Ok(2.0 * (n as f64).powi(3) / seconds / 1e9)
    }

    fn median_seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        for _ in 0..3 {
            work()?;
        }
        let no_clock = || Error::Unsupported(format!("{} has no clock to measure with", self.info().name));
        let laps = (0..LAPS).map(|_| self.device().time(work)?.ok_or_else(no_clock));
        Ok(median(&mut laps.collect::<Result<Vec<_>>>()?))
    }
}
