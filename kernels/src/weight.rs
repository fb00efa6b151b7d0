//! How a weight matrix is stored in a model file: the formats and their block sizes.
//!
//! The quantised formats are those of GGUF (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>):
//! a row is a run of blocks of `block_len` weights, each `block_bytes` long.

use crate::{Error, Result};

/// Storage format of a weight matrix, row-major `[rows = out_features, cols = in_features]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum WeightFormat {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl WeightFormat {
    /// Every format, in the order of this enum.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Number of consecutive weights of a row that share one block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Whether a block holds integer codes and scales rather than floats.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// The name used in GGUF listings and in our tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Bytes of one row of `cols` weights, or `None` if `cols` is not a whole number of blocks or overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

/// A borrowed weight matrix exactly as it lies in a file: little-endian, row-major `[rows, cols]`.
#[derive(Clone, Copy, Debug)]
pub struct WeightView<'a> {
    /// `rows * row_bytes(cols)` bytes, no alignment assumed.
    pub data: &'a [u8],
    /// How the bytes encode the weights.
    pub format: WeightFormat,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl<'a> WeightView<'a> {
    /// Checks that `data` holds exactly `[rows, cols]` weights of `format`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `cols` is not a multiple of the block length or the byte count differs.
    pub fn new(data: &'a [u8], format: WeightFormat, rows: usize, cols: usize) -> Result<Self> {
        let want = format.row_bytes(cols).and_then(|b| b.checked_mul(rows));
        if want != Some(data.len()) {
            return Err(Error::Shape {
                what: "weight",
                found: format!("{} bytes", data.len()),
                wanted: format!("[{rows}, {cols}] of {}", format.name()),
            });
        }
        Ok(Self { data, format, rows, cols })
    }

    /// The bytes of row `row`.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let bytes = self.data.len() / self.rows.max(1);
        &self.data[row * bytes..(row + 1) * bytes]
    }
}
