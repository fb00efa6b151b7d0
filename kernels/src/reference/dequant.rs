//! Naive dequantisation of every [`WeightFormat`], element by element, straight from the GGUF block definitions
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; block layouts as published in `ggml-common.h`).

use half::{bf16, f16};

use crate::{WeightFormat, WeightView};

/// Little-endian `f16` at byte `at`.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Bit `i` of a little-endian bit string.
fn bit(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 8] >> (i % 8) & 1
}

/// Nibble of element `i` in a 32-element block: elements 0..16 in the low halves, 16..32 in the high halves.
fn nibble32(codes: &[u8], i: usize) -> u8 {
    codes[i % 16] >> (4 * (i / 16)) & 15
}

/// Nibble of element `i` in a K-quant block: each 32 bytes hold 64 elements, the first 32 in the low halves.
fn nibble_k(codes: &[u8], i: usize) -> u8 {
    codes[i / 64 * 32 + i % 32] >> (4 * (i % 64 / 32)) & 15
}

/// Scale and minimum (6 bits each) of sub-block `j` out of the 12 packed bytes of Q4_K and Q5_K.
fn scale_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}

/// Weight `i` of one block.
fn element(format: WeightFormat, b: &[u8], i: usize) -> f32 {
    match format {
        WeightFormat::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        WeightFormat::F16 => half_at(b, 0),
        WeightFormat::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        WeightFormat::Q4_0 => half_at(b, 0) * (f32::from(nibble32(&b[2..], i)) - 8.0),
        WeightFormat::Q4_1 => half_at(b, 0) * f32::from(nibble32(&b[4..], i)) + half_at(b, 2),
        WeightFormat::Q5_0 => {
            let q = nibble32(&b[6..], i) | bit(&b[2..6], i) << 4;
            half_at(b, 0) * (f32::from(q) - 16.0)
        }
        WeightFormat::Q5_1 => {
            let q = nibble32(&b[8..], i) | bit(&b[4..8], i) << 4;
            half_at(b, 0) * f32::from(q) + half_at(b, 2)
        }
        WeightFormat::Q8_0 => half_at(b, 0) * f32::from(b[2 + i] as i8),
        WeightFormat::Q4K => {
            let (scale, min) = scale_min(&b[4..16], i / 32);
            let q = nibble_k(&b[16..], i);
            half_at(b, 0) * f32::from(scale) * f32::from(q) - half_at(b, 2) * f32::from(min)
        }
        WeightFormat::Q5K => {
            let (scale, min) = scale_min(&b[4..16], i / 32);
            let q = nibble_k(&b[48..], i) | (b[16 + i % 32] >> (i / 32) & 1) << 4;
            half_at(b, 0) * f32::from(scale) * f32::from(q) - half_at(b, 2) * f32::from(min)
        }
        WeightFormat::Q6K => {
            // Two halves of 128; in each, quarters of 32 take the low halves of bytes 0..32 and 32..64, then the
            // high halves of the same, and two bits each of the 32 `qh` bytes.
            let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
            let low = b[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
            let high = b[128 + 32 * half + l] >> (2 * quarter) & 3;
            let scale = f32::from(b[192 + i / 16] as i8);
            half_at(b, 208) * scale * (f32::from(low | high << 4) - 32.0)
        }
    }
}

/// All weights of `view` in `f32`, row-major `[rows, cols]`.
pub fn dequantize(view: &WeightView<'_>) -> Vec<f32> {
    let len = view.format.block_len();
    let blocks = view.data.chunks_exact(view.format.block_bytes());
    blocks.flat_map(|block| (0..len).map(move |i| element(view.format, block, i))).collect()
}
