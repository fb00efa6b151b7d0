//! Splits a product into tasks and runs them on the threads of a pool.

use std::cell::RefCell;
use std::ops::Range;

use super::kernel::{Rows, Target};
use super::scheme::PANEL;
use super::{PackedWeight, Segment, blocks};
use crate::cpu::Threads;

/// Steps of dequantised weights held at once when many rows share them: a quarter of a megabyte of second-level
/// cache.
const BLOCK_STEPS: usize = 1024;
/// Weights per column decoded at once for few rows, where a block is read back only a few times, and by the kernels of
/// `blocks.rs`, whose tiles are small and read it often: it stays in the first-level cache. Like the above a multiple of every format's block.
const SMALL_BLOCK: usize = 256;
/// Up to how many rows count as few.
const FEW_ROWS: usize = 12;
/// Most rows of one task.
const TASK_ROWS: usize = 480;

/// A cache line, so that buffers of them are aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Buffers that a thread keeps between calls.
#[derive(Default)]
struct Scratch {
    /// Decoded units.
    decoded: Vec<Line>,
    /// Sums between blocks of steps, `[rows, 64]`.
    partial: Vec<f32>,
    /// Results of a panel that is not wholly wanted, `[rows, 64]`.
    result: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static INPUTS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// A pointer that may be sent to other threads.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: the tasks of a call write disjoint parts of what it points at (see `run`).
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}

/// One panel that has wanted columns.
struct Panel<'a> {
    segment: &'a Segment,
    index: usize,
    /// Wanted columns within the panel.
    wanted: Range<usize>,
    /// Where the first wanted column goes.
    out_col: usize,
}

/// The product whose operands [`super::linear`] has checked.
#[allow(clippy::too_many_arguments)]
pub(super) fn run(
    x: &[f32],
    m: usize,
    w: &PackedWeight,
    cols: Range<usize>,
    bias: Option<&[f32]>,
    accumulate: bool,
    out: &mut [f32],
    out_stride: usize,
    threads: &Threads,
) {
    let (_, stride) = w.words.of(w.cols);
    let mut words = INPUTS.take();
    words.resize(words.len().max(m * stride), 0);
    let convert = w.segments[0].functions.convert;
    let converted = Shared(words.as_mut_ptr());
    let convert_rows = |rows: Range<usize>| {
        for r in rows {
            let x = &x[r * w.cols..(r + 1) * w.cols];
            // SAFETY: the instruction set was checked at packing; row `r < m` of `words` has room for `stride`
            // words, which are those of `w.cols` activations, and no other task touches it.
            unsafe { convert(x.as_ptr(), x.len(), { converted }.0.add(r * stride)) };
        }
    };
    if x.len() < 1 << 16 {
        convert_rows(0..m);
    } else {
        threads.for_each(m.div_ceil(32), |i| convert_rows(i * 32..m.min(i * 32 + 32)));
    }

    let panels: Vec<Panel<'_>> = w
        .segments
        .iter()
        .flat_map(|segment| {
            let wanted = cols.start.max(segment.first)..cols.end.min(segment.first + segment.rows);
            let panels = if wanted.is_empty() {
                0..0
            } else {
                (wanted.start - segment.first) / PANEL..(wanted.end - segment.first).div_ceil(PANEL)
            };
            let cols = cols.clone();
            panels.map(move |index| {
                let first = segment.first + index * PANEL;
                let (from, to) = (wanted.start.max(first), wanted.end.min(first + PANEL));
                Panel { segment, index, wanted: from - first..to - first, out_col: from - cols.start }
            })
        })
        .collect();

    // Enough tasks that a slow core does not hold up the rest, and rows enough that dequantising is cheap.
    let wanted_tasks = 8 * threads.count();
    let task_rows = (m * panels.len()).div_ceil(wanted_tasks).clamp(96, TASK_ROWS).next_multiple_of(6);
    let row_tasks = m.div_ceil(task_rows);
    let task_rows = m.div_ceil(row_tasks).next_multiple_of(6);
    let row_tasks = m.div_ceil(task_rows);
    let target = Shared(out.as_mut_ptr());
    threads.for_each(row_tasks * panels.len(), |task| {
        let panel = &panels[task % panels.len()];
        let first = task / panels.len() * task_rows;
        let rows = task_rows.min(m - first);
        SCRATCH.with_borrow_mut(|scratch| {
            // SAFETY: `first..first + rows` are rows of `words` and `out`; the task's part of `out` (these rows, the
            // wanted columns of its panel) is disjoint from every other task's.
            unsafe {
                let x = words.as_ptr().add(first * stride);
                let out = { target }.0.add(first * out_stride + panel.out_col);
                let bias = bias.map(|b| &b[panel.segment.first + panel.index * PANEL..]);
                compute(panel, x, w, rows, bias, accumulate, out, out_stride, scratch);
            }
        });
    });
    INPUTS.set(words);
}

/// `rows` rows times one panel.
///
/// # Safety
/// `x` has `rows` converted rows; `out` has room for the wanted columns of `rows` rows and nobody else touches them.
#[allow(clippy::too_many_arguments)]
unsafe fn compute(
    panel: &Panel<'_>,
    x: *const u32,
    w: &PackedWeight,
    rows: usize,
    bias: Option<&[f32]>,
    accumulate: bool,
    out: *mut f32,
    out_stride: usize,
    scratch: &mut Scratch,
) {
    if panel.wanted == (0..PANEL) {
        let bias = bias.map_or(std::ptr::null(), |b| b[..PANEL].as_ptr());
        let target =
            Target { partial: std::ptr::null_mut(), first: true, last: true, out, out_stride, bias, accumulate };
        // SAFETY: forwarded; all 64 columns are wanted.
        return unsafe { whole_panel(panel, x, w, rows, target, scratch) };
    }
    let mut result = std::mem::take(&mut scratch.result);
    result.resize(rows * PANEL, 0.0);
    let target = Target {
        partial: std::ptr::null_mut(),
        first: true,
        last: true,
        out: result.as_mut_ptr(),
        out_stride: PANEL,
        bias: std::ptr::null(),
        accumulate: false,
    };
    // SAFETY: forwarded; `result` has room for 64 columns.
    unsafe { whole_panel(panel, x, w, rows, target, scratch) };
    for (r, row) in result.chunks_exact(PANEL).enumerate().take(rows) {
        for (i, c) in panel.wanted.clone().enumerate() {
            let sum = bias.map_or(row[c], |b| row[c] + b[c]);
            // SAFETY: row `r`, wanted column `i`, as the caller promises.
            unsafe {
                let out = out.add(r * out_stride + i);
                *out = if accumulate { *out + sum } else { sum };
            }
        }
    }
    scratch.result = result;
}

/// `rows` rows times all 64 columns of a panel.
///
/// # Safety
/// As for [`compute`], with room for 64 columns.
unsafe fn whole_panel(
    panel: &Panel<'_>,
    x: *const u32,
    w: &PackedWeight,
    rows: usize,
    target: Target,
    scratch: &mut Scratch,
) {
    let functions = panel.segment.functions;
    let data = panel.segment.panel(panel.index).as_ptr();
    let k = w.cols.next_multiple_of(w.words.pad);
    let (words, stride) = w.words.of(w.cols);
    if let Some((_, dot)) = functions.source
        && rows <= functions.fused
    {
        // SAFETY: the panel holds `k` weights per column, every row has words for `k` activations, and the instruction
        // set was checked when the panel was packed.
        return unsafe { dot(data, k, Rows { words: x, sides: x.add(words), stride }, rows, target) };
    }
    let block = if rows <= FEW_ROWS || functions.in_blocks { SMALL_BLOCK } else { BLOCK_STEPS * w.words.step };
    let lines = (block * functions.bytes_per_k).div_ceil(64);
    scratch.decoded.resize(scratch.decoded.len().max(lines), Line([0; 64]));
    scratch.partial.resize(scratch.partial.len().max(rows * PANEL), 0.0);
    let mut from = 0;
    loop {
        let n = block.min(k - from);
        // SAFETY: the weights `from..from + n` exist in the panel, and their activations in every row of `x`; the
        // scratch has room for a block of them and for the sums of `rows` rows.
        unsafe {
            let weights = match functions.source {
                None => data.add(from * functions.bytes_per_k),
                Some((decode, _)) => {
                    let decoded = scratch.decoded.as_mut_ptr().cast();
                    decode(data, from, from + n, decoded);
                    decoded
                }
            };
            let x = Rows {
                words: x.add(from / w.words.step),
                sides: x.add(words + from / blocks::UNIT * w.words.side),
                stride,
            };
            let target =
                Target { partial: scratch.partial.as_mut_ptr(), first: from == 0, last: from + n == k, ..target };
            (functions.dense)(weights, x, n, rows, target);
        }
        from += n;
        if from >= k {
            break;
        }
    }
}
