//! How the quantised formats are stored once packed.
//!
//! A panel holds 64 rows of a weight matrix (64 output columns). Along `k` it is a run of blocks:
//!
//! ```text
//! block = [d: f16 x 64] [m: f16 x 64, if the format has minima]
//!         then for every sub-block (a run of `sub` weights with one scale):
//!         [scale: 8 bits x 64] [min: u8 x 64, if the format has minima]      (K-quants only)
//!         [low plane: 4 bits, or 8 for Q8_0] [high plane: 0, 1 or 2 bits]
//! weight = d * scale * (code - offset) + m        with m = -dmin * min for K-quants
//! ```
//!
//! Codes stand in the order in which the kernel eats them: `interleave` consecutive `k` of one column side by side
//! (1 for `f32` products, 2 for bf16 pairs, 4 for int8 quads), then the 64 columns, then the next `k`s.
//! Every plane keeps the number of bits of the file; K-quants store their 6-bit scales in bytes (+2.8 % for Q4_K).

use crate::WeightFormat;

/// Output columns of a panel.
pub(super) const PANEL: usize = 64;

/// The shape of one quantised format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scheme {
    /// Bits of a code: 4, 5, 6 or 8.
    pub bits: usize,
    /// Consecutive weights that share one scale.
    pub sub: usize,
    /// Consecutive weights that share one `d`.
    pub block: usize,
    /// Whether there is an additive term.
    pub has_min: bool,
    /// What is subtracted from the code. 8-bit codes are stored signed, with offset 0.
    pub offset: u8,
}

impl Scheme {
    /// The scheme of `format`, or `None` if it is not quantised.
    pub const fn of(format: WeightFormat) -> Option<Self> {
        Some(match format {
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => return None,
            WeightFormat::Q4_0 => Self { bits: 4, sub: 32, block: 32, has_min: false, offset: 8 },
            WeightFormat::Q4_1 => Self { bits: 4, sub: 32, block: 32, has_min: true, offset: 0 },
            WeightFormat::Q5_0 => Self { bits: 5, sub: 32, block: 32, has_min: false, offset: 16 },
            WeightFormat::Q5_1 => Self { bits: 5, sub: 32, block: 32, has_min: true, offset: 0 },
            WeightFormat::Q8_0 => Self { bits: 8, sub: 32, block: 32, has_min: false, offset: 0 },
            WeightFormat::Q4K => Self { bits: 4, sub: 32, block: 256, has_min: true, offset: 0 },
            WeightFormat::Q5K => Self { bits: 5, sub: 32, block: 256, has_min: true, offset: 0 },
            WeightFormat::Q6K => Self { bits: 6, sub: 16, block: 256, has_min: false, offset: 32 },
        })
    }

    /// Bytes of the `f16` fields at the head of a block.
    pub const fn head_bytes(self) -> usize {
        2 * PANEL * (1 + self.has_min as usize)
    }

    /// Whether sub-blocks have integer scales of their own.
    pub const fn has_sub_scales(self) -> bool {
        self.block > self.sub
    }

    /// Bytes of the integer scales at the head of a sub-block.
    pub const fn scale_bytes(self) -> usize {
        if self.has_sub_scales() { PANEL * (1 + self.has_min as usize) } else { 0 }
    }

    /// Bits of the low plane of codes.
    pub const fn low_bits(self) -> usize {
        if self.bits == 8 { 8 } else { 4 }
    }

    /// Bytes of a sub-block's low plane.
    pub const fn low_bytes(self) -> usize {
        PANEL * self.sub * self.low_bits() / 8
    }

    /// Bytes of a sub-block's high plane.
    pub const fn high_bytes(self) -> usize {
        PANEL * self.sub * (self.bits - self.low_bits()) / 8
    }

    /// Bytes of a sub-block.
    pub const fn sub_bytes(self) -> usize {
        self.scale_bytes() + self.low_bytes() + self.high_bytes()
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.head_bytes() + self.block / self.sub * self.sub_bytes()
    }
}
