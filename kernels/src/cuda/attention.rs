//! Causal grouped-query attention over the paged cache. Floors and shapes: `src/compute_80/attention_{prompt,decode,merge}`.
//!
//! Prompt rows and generated rows (a sequence's role, not its number of rows) go through different kernels. Whatever the
//! batch, a row has the same bits: see `attention_plan.rs` for who shares reads, `attention.cuh` for what a row computes.

use super::{
    CudaBackend, CudaBatch, CudaKvCache, CudaTensor,
    attention_plan::Plan,
    attention_tiles::Tile,
    device::{Arg, DevicePtr, Launch, Module},
    expect, expect_storage, modules,
    scratch::Scratch,
};
use crate::{Error, Heads, PagedBatch, Result};

/// Threads of a block of the attention kernels and of the merge.
const THREADS: u32 = 128;
/// Columns that a thread of the merge has.
const MERGE_COLUMNS: usize = 4;
/// Most blocks in a grid's y dimension.
const MAX_ITEMS: usize = 65_535;
/// An item that the kernels of generated tokens skip.
const NO_ITEM: [u32; 4] = [0; 4];
/// Bytes of the kernels' keys and values in shared memory: two stages of one block each.
const STAGE_BYTES: fn(usize) -> usize = |head_dim| 2 * 2 * key_block(head_dim) * head_dim * 2;

/// Keys of a block: `BLOCK` in `attention.cuh`.
const fn key_block(head_dim: usize) -> usize {
    if head_dim <= 128 { 64 } else { 32 }
}

/// The kernels of one head size.
#[derive(Clone, Copy, Debug)]
struct Kernels {
    module: &'static Module,
    /// Rows of a block of `attention_prompt` and `attention_wide`: `ROWS` in `attention.cuh`.
    rows: usize,
    head_dim: usize,
}

impl Kernels {
    /// # Errors
    /// [`Error::Unsupported`] for heads that no kernel has been compiled for.
    fn of(heads: Heads) -> Result<Self> {
        let Heads { num_heads, num_kv_heads, head_dim } = heads;
        let (module, rows) = match head_dim {
            16 => (&modules::ATTENTION_16, 128),
            64 => (&modules::ATTENTION_64, 128),
            80 => (&modules::ATTENTION_80, 128),
            96 => (&modules::ATTENTION_96, 128),
            128 => (&modules::ATTENTION_128, 128),
            256 => (&modules::ATTENTION_256, 64),
            _ => {
                return Err(Error::Unsupported(format!(
                    "attention: heads of {head_dim} elements; the CUDA kernels have 16, 64, 80, 96, 128 or 256: use the CPU"
                )));
            }
        };
        let group = num_heads / num_kv_heads;
        if group > rows {
            return Err(Error::Unsupported(format!(
                "attention: {group} query heads share a key/value head; the CUDA kernels for heads of {head_dim} elements \
                 take at most {rows}: use the CPU"
            )));
        }
        Ok(Self { module, rows, head_dim })
    }

    /// Dynamic shared memory of a block of `rows` rows, in bytes.
    fn shared_bytes(self, rows: usize) -> u32 {
        (rows * self.head_dim * 2 + STAGE_BYTES(self.head_dim)) as u32
    }
}

/// The work lists of a batch in device memory, and room for what its kernels leave for one another.
pub(super) struct Attention {
    kernels: Kernels,
    plan: Plan,
    /// Where the lists of `plan` begin, as the kernels read them: items of four words, members of two.
    lists: DevicePtr,
    /// Words from there to the tables.
    tables: usize,
    /// `f32 [slots, num_heads, head_dim]`
    partial_out: Scratch,
    /// `f32 [slots, num_heads, 2]`
    partial_stats: Scratch,
}

impl Attention {
    /// Plans, and appends all lists but the tables to the empty `words`; `None` for heads that have no kernel, which only
    /// attention needs to know. For a step that `is_recorded`, the lists of generated tokens get room for a power of two.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(
        backend: &CudaBackend,
        batch: &PagedBatch,
        heads: Heads,
        is_recorded: bool,
        words: &mut Vec<u32>,
    ) -> Result<Option<Self>> {
        let Ok(kernels) = Kernels::of(heads) else { return Ok(None) };
        let mut plan = Plan::new(batch, heads.num_heads / heads.num_kv_heads, kernels.rows);
        if is_recorded {
            for list in [&mut plan.narrow, &mut plan.wide] {
                let room = if list.is_empty() { 0 } else { list.len().next_power_of_two() };
                list.resize(room, NO_ITEM);
            }
        }
        words.extend(plan.prompt.as_flattened().as_flattened());
        for items in [&plan.narrow, &plan.wide] {
            words.extend(items.as_flattened());
        }
        words.extend(plan.members.as_flattened());
        let rows = plan.num_slots() * heads.num_heads;
        Ok(Some(Self {
            kernels,
            lists: 0,
            tables: 0,
            partial_out: backend.scratch.take("attention of generated tokens", rows * heads.head_dim * 4)?,
            partial_stats: backend.scratch.take("attention of generated tokens: sums", rows * 2 * 4)?,
            plan,
        }))
    }

    /// Appends the tables of pages to the words that the other lists begin.
    pub fn push_tables(&mut self, words: &mut Vec<u32>) {
        self.tables = words.len();
        words.extend(&self.plan.tables.0);
    }

    /// Says where those words are on the device.
    pub fn set_lists(&mut self, lists: DevicePtr) {
        self.lists = lists;
    }

    /// Items of the narrow and of the wide kernel, their padding included.
    pub fn recorded_items(&self) -> [usize; 2] {
        [self.plan.narrow.len(), self.plan.wide.len()]
    }

    /// Addresses of the partial results.
    pub fn partials(&self) -> [DevicePtr; 2] {
        [self.partial_out.ptr(), self.partial_stats.ptr()]
    }

    /// Where word `at` of the lists stands.
    fn word(&self, at: usize) -> Arg {
        Arg::Ptr(self.lists + 4 * at as u64)
    }

    /// Item `first` of a list that begins behind `before` other items.
    fn item(&self, before: usize, first: usize) -> Arg {
        self.word(4 * (before + first))
    }

    /// Items' worth of tiles.
    fn num_prompt(&self) -> usize {
        self.plan.prompt.as_flattened().len()
    }

    fn num_items(&self) -> usize {
        self.num_prompt() + self.plan.narrow.len() + self.plan.wide.len()
    }

    fn tile(&self, first: usize) -> Arg {
        self.item(0, first * size_of::<Tile>() / size_of::<[u32; 4]>())
    }

    fn members(&self) -> Arg {
        self.word(4 * self.num_items())
    }

    fn tables(&self) -> Arg {
        self.word(self.tables)
    }
}

impl CudaBackend {
    /// `out = softmax(q · kᵀ · scale) · v` of every row over its sequence's pages.
    pub(super) fn launch_attention(
        &self,
        qkv: &CudaTensor,
        batch: &CudaBatch,
        layer: usize,
        kv: &CudaKvCache,
        scale: f32,
        out: &mut CudaTensor,
    ) -> Result<()> {
        let heads = batch.heads;
        let tokens = batch.paged.num_tokens();
        expect("attention: qkv", qkv.shape(), (tokens, heads.qkv_cols()))?;
        expect("attention: output", out.shape(), (tokens, heads.q_cols()))?;
        expect_storage("attention: qkv", qkv, self.storage)?;
        expect_storage("attention: output", out, self.storage)?;
        batch.check("attention: KV cache", kv)?;
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(Error::Unsupported(format!("attention: a scale of {scale}; wanted a positive number")));
        }
        let (keys, values) = kv.layer(layer)?;
        let Some(work) = &batch.attention else { return Kernels::of(heads).map(|_| ()) };
        let (group, stride) = (heads.num_heads / heads.num_kv_heads, qkv.stride());
        let scale_log2 = Arg::F32(scale * std::f32::consts::LOG2_E);
        let sizes = [heads.num_kv_heads, group, stride].map(|n| Arg::U32(n as u32));
        let pool = [Arg::Ptr(keys), Arg::Ptr(values), work.tables()];

        let rows = work.kernels.rows;
        // Behind the stages, the prompt kernel notes which keys each row and each of four warps sees, and where they stand.
        let shared_bytes = work.kernels.shared_bytes(rows) + rows as u32 * 4 + 4 * 16 + 8;
        for (first, items) in grids(work.plan.prompt.len()) {
            let pointers = [qkv.ptr(), out.ptr()].map(Arg::Ptr);
            let tail = [Arg::U32(out.stride() as u32), scale_log2];
            let args = [&pointers[..], &pool, &[work.tile(first)], &sizes, &tail].concat();
            self.attend(work, "attention_prompt", [heads.num_kv_heads, items], shared_bytes, &args)?;
        }
        let partials = [work.partial_out.ptr(), work.partial_stats.ptr()].map(Arg::Ptr);
        let (prompts, narrow) = (work.num_prompt(), work.plan.narrow.len());
        let kinds = [
            ("attention_wide", &work.plan.wide, prompts + narrow, work.kernels.shared_bytes(rows)),
            ("attention_narrow", &work.plan.narrow, prompts, work.kernels.shared_bytes(16)),
        ];
        for (kernel, list, before, shared_bytes) in kinds {
            for (first, items) in grids(list.len()) {
                let lists = [work.item(before, first), work.members()];
                let args = [&[Arg::Ptr(qkv.ptr())], &partials[..], &pool, &lists, &sizes, &[scale_log2]].concat();
                self.attend(work, kernel, [heads.num_kv_heads, items], shared_bytes, &args)?;
            }
        }
        let members = work.plan.num_members();
        if members == 0 {
            return Ok(());
        }
        let threads = (members * heads.num_heads * heads.head_dim / MERGE_COLUMNS) as u64;
        let sizes = [members, heads.num_heads, heads.head_dim, out.stride()].map(|n| Arg::U32(n as u32));
        let pointers = [Arg::Ptr(out.ptr()), work.members()];
        self.device().launch(&Launch {
            module: &modules::ATTENTION_MERGE,
            kernel: &self.kernel_name("attention_merge"),
            grid: [threads.div_ceil(u64::from(THREADS)) as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            args: &[&partials[..], &pointers, &sizes, &[scale_log2]].concat(),
        })
    }

    fn attend(&self, work: &Attention, kernel: &str, grid: [usize; 2], shared_bytes: u32, args: &[Arg]) -> Result<()> {
        self.device().launch(&Launch {
            module: work.kernels.module,
            kernel: &self.kernel_name(kernel),
            grid: [grid[0] as u32, grid[1] as u32, 1],
            block: [THREADS, 1, 1],
            shared_bytes,
            args,
        })
    }
}

/// `(first item, items)` of the launches that a list of `len` items takes.
fn grids(len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(MAX_ITEMS).map(move |first| (first, MAX_ITEMS.min(len - first)))
}
