//! Repacking a weight matrix from its file layout into panels, and reading single rows back.

use half::{bf16, f16};

use super::scheme::{PANEL, Scheme};
use super::store::Store;
use crate::{Dtype, Result, WeightFormat, WeightView, cpu::Threads};

/// How the weights of a segment lie in its panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `f32`, `[k][64]`.
    F32,
    /// 16-bit floats as in the file, `[k][64]`.
    Half { bf16: bool },
    /// bf16, `[k / 2][64][2]`.
    Bf16Pairs,
    /// Blocks as described in `scheme.rs`; float weights too, as Q8_0, where they are multiplied as 8-bit integers.
    Quantized { format: WeightFormat, interleave: usize },
}

impl Layout {
    /// The layout of weights in `format` for products of `dtype` whose kernels advance by `unit` weights.
    pub fn new(format: WeightFormat, dtype: Dtype, unit: usize) -> Self {
        match (format, dtype) {
            (WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16, Dtype::Int8) => {
                Self::Quantized { format: WeightFormat::Q8_0, interleave: 4 }
            }
            (WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16, Dtype::Bf16) if unit == 2 => Self::Bf16Pairs,
            (WeightFormat::F32, Dtype::F32) => Self::F32,
            (WeightFormat::F16, Dtype::F32) => Self::Half { bf16: false },
            (WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16, _) => Self::Half { bf16: true },
            (_, Dtype::Int8) => Self::Quantized { format, interleave: 4 },
            _ => Self::Quantized { format, interleave: unit },
        }
    }

    /// Bytes of a panel with `cols` weights per row. An odd number of float columns is padded with a zero.
    pub fn panel_bytes(self, cols: usize) -> usize {
        let k = cols.next_multiple_of(2);
        match self {
            Self::F32 => 4 * PANEL * k,
            Self::Half { .. } | Self::Bf16Pairs => 2 * PANEL * k,
            Self::Quantized { format, .. } => {
                Scheme::of(format).map_or(0, |s| cols.div_ceil(s.block) * s.block_bytes())
            }
        }
    }

    /// Packs all rows of `view`, the last panel padded with zero rows.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn pack(self, view: &WeightView<'_>, threads: &Threads) -> Result<Store> {
        let panel_bytes = self.panel_bytes(view.cols);
        let mut data = Store::zeroed(panel_bytes * view.rows.div_ceil(PANEL))?;
        threads.for_each_part(data.bytes_mut(), panel_bytes, |p, panel| {
            let first = p * PANEL;
            let rows = PANEL.min(view.rows - first);
            self.pack_panel(view, first, rows, panel);
        });
        Ok(data)
    }

    fn pack_panel(self, view: &WeightView<'_>, first: usize, rows: usize, panel: &mut [u8]) {
        for c in 0..rows {
            let row = view.row(first + c);
            let floats = |at: fn(usize, usize) -> usize, write: &mut dyn FnMut(usize, f32)| {
                for k in 0..view.cols {
                    write(at(k, c), float(view.format, row, k));
                }
            };
            match self {
                Self::F32 => floats(plain, &mut |i, v| panel[4 * i..4 * i + 4].copy_from_slice(&v.to_le_bytes())),
                Self::Bf16Pairs => floats(paired, &mut |i, v| {
                    panel[2 * i..2 * i + 2].copy_from_slice(&bf16::from_f32(v).to_le_bytes());
                }),
                Self::Half { bf16: rounded } => floats(plain, &mut |i, v| {
                    let bits = if rounded { bf16::from_f32(v).to_le_bytes() } else { f16::from_f32(v).to_le_bytes() };
                    panel[2 * i..2 * i + 2].copy_from_slice(&bits);
                }),
                Self::Quantized { .. } => {}
            }
        }
        if let Self::Quantized { format, interleave } = self
            && let Some(scheme) = Scheme::of(format)
        {
            let blocks = panel.chunks_exact_mut(scheme.block_bytes());
            for (b, block) in blocks.enumerate() {
                pack_block(scheme, interleave, block, rows, |c| {
                    if !view.format.is_quantized() {
                        return quantize(view.format, view.row(first + c), view.cols, b);
                    }
                    let bytes = format.block_bytes() * scheme.block / format.block_len();
                    parse(format, &view.row(first + c)[b * bytes..(b + 1) * bytes])
                });
            }
        }
    }

    /// Row `c` of a panel in `f32`: the value each weight has in an exact product.
    pub fn row(self, panel: &[u8], c: usize, out: &mut [f32]) {
        let half = |i: usize| [panel[2 * i], panel[2 * i + 1]];
        match self {
            Self::F32 => out.iter_mut().enumerate().for_each(|(k, v)| {
                let at = 4 * plain(k, c);
                *v = f32::from_le_bytes([panel[at], panel[at + 1], panel[at + 2], panel[at + 3]]);
            }),
            Self::Half { bf16: false } => {
                out.iter_mut().enumerate().for_each(|(k, v)| *v = f16::from_le_bytes(half(plain(k, c))).to_f32());
            }
            Self::Half { bf16: true } => {
                out.iter_mut().enumerate().for_each(|(k, v)| *v = bf16::from_le_bytes(half(plain(k, c))).to_f32());
            }
            Self::Bf16Pairs => {
                out.iter_mut().enumerate().for_each(|(k, v)| *v = bf16::from_le_bytes(half(paired(k, c))).to_f32());
            }
            Self::Quantized { format, interleave } => {
                let Some(scheme) = Scheme::of(format) else { return };
                let blocks = panel.chunks_exact(scheme.block_bytes());
                for (out, block) in out.chunks_mut(scheme.block).zip(blocks) {
                    unpack_row(scheme, interleave, block, c, out);
                }
            }
        }
    }
}

/// Index of weight `k` of column `c` in `[k][64]`.
fn plain(k: usize, c: usize) -> usize {
    k * PANEL + c
}

/// Index of weight `k` of column `c` in `[k / 2][64][2]`.
fn paired(k: usize, c: usize) -> usize {
    k / 2 * 2 * PANEL + 2 * c + k % 2
}

/// Weight `k` of a row of floats.
fn float(format: WeightFormat, row: &[u8], k: usize) -> f32 {
    match format {
        WeightFormat::F32 => f32::from_le_bytes([row[4 * k], row[4 * k + 1], row[4 * k + 2], row[4 * k + 3]]),
        WeightFormat::F16 => f16::from_le_bytes([row[2 * k], row[2 * k + 1]]).to_f32(),
        _ => bf16::from_le_bytes([row[2 * k], row[2 * k + 1]]).to_f32(),
    }
}

/// One block of the file taken apart.
struct Block {
    /// Codes as stored; the bytes of Q8_0 are signed.
    codes: [u8; 256],
    /// `f16` bits of `d`, and of `m` or `dmin`.
    heads: [[u8; 2]; 2],
    /// Integer scales of the sub-blocks.
    scales: [u8; 16],
    /// Integer minima of the sub-blocks.
    mins: [u8; 16],
}

/// Takes one block apart. Layouts: <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>.
fn parse(format: WeightFormat, b: &[u8]) -> Block {
    let mut codes = [0; 256];
    let head = |at: usize| [b[at], b[at + 1]];
    let (mut heads, mut scales, mut mins) = ([head(0), [0; 2]], [0; 16], [0; 16]);
    // 32 codes: nibbles at `low`, and bit `i` of the word at `high` is the fifth bit of code `i`.
    let mut simple = |low: &[u8], high: u32| {
        for i in 0..16 {
            codes[i] = low[i] & 15 | ((high >> i & 1) as u8) << 4;
            codes[i + 16] = low[i] >> 4 | ((high >> (i + 16) & 1) as u8) << 4;
        }
    };
    let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    match format {
        WeightFormat::Q4_0 => simple(&b[2..18], 0),
        WeightFormat::Q4_1 => simple(&b[4..20], 0),
        WeightFormat::Q5_0 => simple(&b[6..22], word(2)),
        WeightFormat::Q5_1 => simple(&b[8..24], word(4)),
        WeightFormat::Q8_0 => codes[..32].copy_from_slice(&b[2..34]),
        WeightFormat::Q6K => {
            heads[0] = head(208);
            scales.copy_from_slice(&b[192..208]);
            for (half, codes) in codes.chunks_exact_mut(128).enumerate() {
                let (low, high) = (&b[64 * half..64 * half + 64], &b[128 + 32 * half..160 + 32 * half]);
                for l in 0..32 {
                    codes[l] = low[l] & 15 | (high[l] & 3) << 4;
                    codes[l + 32] = low[l + 32] & 15 | (high[l] >> 2 & 3) << 4;
                    codes[l + 64] = low[l] >> 4 | (high[l] >> 4 & 3) << 4;
                    codes[l + 96] = low[l + 32] >> 4 | (high[l] >> 6) << 4;
                }
            }
        }
        WeightFormat::Q4K | WeightFormat::Q5K => {
            let s = &b[4..16];
            for j in 0..4 {
                scales[j] = s[j] & 63;
                mins[j] = s[j + 4] & 63;
                scales[j + 4] = s[j + 8] & 15 | (s[j] >> 6) << 4;
                mins[j + 4] = s[j + 8] >> 4 | (s[j + 4] >> 6) << 4;
            }
            let five = format == WeightFormat::Q5K;
            let low = &b[if five { 48 } else { 16 }..];
            for (g, codes) in codes.chunks_exact_mut(64).enumerate() {
                for l in 0..32 {
                    let high = if five { b[16 + l] >> (2 * g) } else { 0 };
                    codes[l] = low[32 * g + l] & 15 | (high & 1) << 4;
                    codes[l + 32] = low[32 * g + l] >> 4 | (high & 2) << 3;
                }
            }
        }
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => {}
    }
    if matches!(format, WeightFormat::Q4_1 | WeightFormat::Q5_1 | WeightFormat::Q4K | WeightFormat::Q5K) {
        heads[1] = head(2);
    }
    Block { codes, heads, scales, mins }
}

/// Block `b` of a row of `cols` floats as one of Q8_0, padded with zeros.
///
/// The scale is the largest magnitude over 127, rounded up to an `f16` so that no code exceeds 127; magnitudes beyond
/// 127 times the largest `f16` saturate. A block with a NaN or an infinity gets the scale NaN.
fn quantize(format: WeightFormat, row: &[u8], cols: usize, b: usize) -> Block {
    let mut values = [0.0f32; 32];
    let at = 32 * b;
    values.iter_mut().zip(at..cols).for_each(|(v, k)| *v = float(format, row, k));
    let mut codes = [0; 256];
    let d = if values.iter().all(|v| v.is_finite()) {
        let wanted = values.iter().fold(0.0, |a: f32, v| a.max(v.abs())) / 127.0;
        let nearest = f16::from_f32(wanted);
        let up = nearest.to_f32() < wanted;
        let d = f16::from_bits((nearest.to_bits() + u16::from(up)).min(f16::MAX.to_bits()));
        if d > f16::ZERO {
            for (code, v) in codes.iter_mut().zip(values) {
                *code = (v / d.to_f32()).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
            }
        }
        d
    } else {
        f16::NAN
    };
    Block { codes, heads: [d.to_le_bytes(), [0; 2]], scales: [0; 16], mins: [0; 16] }
}

/// Where code number `e` of a chunk stands in its planes.
struct Place {
    /// Byte and shift in the low plane.
    low: (usize, usize),
    /// Byte and shift in the high plane.
    high: (usize, usize),
}

/// Codes of a chunk: two `k` of 64 columns, or four for the int8 layout.
const fn chunk_codes(interleave: usize) -> usize {
    if interleave == 4 { 4 * PANEL } else { 2 * PANEL }
}

/// Interleave 2: 16-bit lane `e % 32` holds the nibbles of vector `e / 32` (see `pairs.rs`).
/// Interleave 1: 32-bit lane `e % 16` holds the nibbles of vector `e / 16` (see [`super::lanes::Lanes::nibble`]).
/// Int8 layout: byte `e % 64`, two vectors of 64 bytes to a register.
const fn place(scheme: Scheme, interleave: usize, e: usize) -> Place {
    let extra = scheme.bits - scheme.low_bits();
    if interleave == 4 {
        let (v, b) = (e / 64, e % 64);
        let low = if scheme.bits == 8 { (e, 0) } else { (v / 2 * 64 + b, 4 * (v % 2)) };
        let high = if extra == 2 { (b, 2 * v) } else { (e / 8, e % 8) };
        Place { low, high }
    } else if interleave == 2 {
        let (v, lane) = (e / 32, e % 32);
        let low = if scheme.bits == 8 { (e, 0) } else { (lane * 2 + v / 2, 4 * (v % 2)) };
        let high = if extra == 2 { (lane, 2 * v) } else { (e / 8, e % 8) };
        Place { low, high }
    } else {
        let (v, lane) = (e / 16, e % 16);
        let low = if scheme.bits == 8 { (e, 0) } else { (lane * 4 + v / 2, 4 * (v % 2)) };
        let high = if extra == 2 { (lane * 2 + v / 4, 2 * (v % 4)) } else { (e / 8, e % 8) };
        Place { low, high }
    }
}

/// Byte offset of sub-block `sub` in a block.
fn sub_offset(scheme: Scheme, sub: usize) -> usize {
    scheme.head_bytes() + sub * scheme.sub_bytes()
}

/// Writes one block of a panel; `column` yields the file's block of each of the first `rows` columns.
fn pack_block(scheme: Scheme, interleave: usize, out: &mut [u8], rows: usize, column: impl Fn(usize) -> Block) {
    // Codes in stored order first (`[k / interleave][64][interleave]`), then plane by plane.
    let mut codes = [0u8; 256 * PANEL];
    for c in 0..rows {
        let block = column(c);
        for (field, head) in block.heads.iter().take(1 + usize::from(scheme.has_min)).enumerate() {
            let at = 2 * (PANEL * field + c);
            out[at..at + 2].copy_from_slice(head);
        }
        if scheme.has_sub_scales() {
            for sub in 0..scheme.block / scheme.sub {
                let at = sub_offset(scheme, sub);
                out[at + c] = block.scales[sub];
                if scheme.has_min {
                    out[at + PANEL + c] = block.mins[sub];
                }
            }
        }
        for (group, four) in block.codes[..scheme.block].chunks_exact(interleave).enumerate() {
            let at = (group * PANEL + c) * interleave;
            codes[at..at + interleave].copy_from_slice(four);
        }
    }
    let n = chunk_codes(interleave);
    for sub in 0..scheme.block / scheme.sub {
        let at = sub_offset(scheme, sub) + scheme.scale_bytes();
        let (low, high) = out[at..].split_at_mut(scheme.low_bytes());
        let codes = &codes[sub * scheme.sub * PANEL..(sub + 1) * scheme.sub * PANEL];
        for (i, chunk) in codes.chunks_exact(n).enumerate() {
            let low = &mut low[i * n * scheme.low_bits() / 8..(i + 1) * n * scheme.low_bits() / 8];
            if scheme.bits == 8 {
                let flip = if interleave == 4 { 0x80 } else { 0 };
                low.iter_mut().zip(chunk).for_each(|(l, &c)| *l = c ^ flip);
                continue;
            }
            let extra = scheme.bits - 4;
            let high = &mut high[i * n * extra / 8..(i + 1) * n * extra / 8];
            for (e, &code) in chunk.iter().enumerate() {
                let place = place(scheme, interleave, e);
                low[place.low.0] |= (code & 15) << place.low.1;
                if extra > 0 {
                    high[place.high.0] |= (code >> 4) << place.high.1;
                }
            }
        }
    }
}

/// Dequantises column `c` of a packed block.
fn unpack_row(scheme: Scheme, interleave: usize, block: &[u8], c: usize, out: &mut [f32]) {
    let head = |field: usize| {
        let at = 2 * (PANEL * field + c);
        f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
    };
    let n = chunk_codes(interleave);
    let per_chunk = n / PANEL;
    for (sub, out) in out.chunks_mut(scheme.sub).enumerate() {
        let at = sub_offset(scheme, sub);
        let (mut d, mut m) = (head(0), if scheme.has_min { head(1) } else { 0.0 });
        if scheme.has_sub_scales() {
            let scale = block[at + c];
            d *= if scheme.has_min { f32::from(scale) } else { f32::from(scale as i8) };
            if scheme.has_min {
                m = -(m * f32::from(block[at + PANEL + c]));
            }
        }
        let (low, high) = block[at + scheme.scale_bytes()..].split_at(scheme.low_bytes());
        for (k, out) in out.iter_mut().enumerate() {
            let e = k % per_chunk / interleave * interleave * PANEL + c * interleave + k % interleave;
            let place = place(scheme, interleave, e);
            let base = k / per_chunk * n;
            let byte = low[base * scheme.low_bits() / 8 + place.low.0];
            let code = if scheme.bits == 8 {
                let flip = if interleave == 4 { 0x80 } else { 0 };
                f32::from((byte ^ flip) as i8)
            } else {
                let extra = scheme.bits - 4;
                let top = if extra == 0 { 0 } else { high[base * extra / 8 + place.high.0] >> place.high.1 };
                let top = top & ((1 << extra) - 1);
                f32::from(byte >> place.low.1 & 15 | top << 4) - f32::from(scheme.offset)
            };
            *out = code * d + m;
        }
    }
}
