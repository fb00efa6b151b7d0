//! Times every operation of a backend on the shapes of real models, against its cost model and its reference.
//!
//! A row of the result says how long an operation took, what share of the time its floor would have been (bytes over
//! the measured bandwidth or operations over the measured peak, whichever is longer), and whether it was right.

use std::time::{Duration, Instant};

use crate::{
    Backend, Dtype, Error, Result, WeightFormat,
    ops::{self, Bound, Cost, MODELS, ModelShape, Op, Peaks, Shape, Workload},
};

/// Input sets together fill at least this much memory, beyond the caches, where memory bandwidth is the floor.
const COLD_BYTES: f64 = 128e6;
/// Most input sets of one problem.
const MAX_COPIES: usize = 1024;
/// Activations up to this size are still in the caches when they are read.
const CACHED_BYTES: f64 = 16e6;

/// How many input sets of a problem of `cost` fill more memory than the caches hold.
pub fn cold_copies(cost: &Cost) -> usize {
    ((COLD_BYTES / cost.bytes.max(1.0)) as usize + 1).min(MAX_COPIES)
}

/// What to time. The default takes about a minute on two cores: every operation, the two small models, one row and a
/// prompt chunk, and the formats of common files.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Operations by the names of [`ops::all`]; empty takes every one.
    pub ops: Vec<String>,
    /// Models by the names of [`MODELS`]; empty takes [`DEFAULT_MODELS`], and `all` every one.
    pub models: Vec<String>,
    /// Storage formats of the weights.
    pub formats: Vec<WeightFormat>,
    /// Tokens of a step.
    pub rows: Vec<usize>,
    /// How long to repeat each problem.
    pub time: Duration,
}

/// The models that are timed unless others are named.
pub const DEFAULT_MODELS: [&str; 2] = ["SmolLM2-135M", "Qwen2-0.5B"];

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            ops: Vec::new(),
            models: Vec::new(),
            formats: vec![
                WeightFormat::Bf16,
                WeightFormat::Q8_0,
                WeightFormat::Q5_0,
                WeightFormat::Q4_1,
                WeightFormat::Q4K,
                WeightFormat::Q6K,
            ],
            rows: vec![1, 512],
            time: Duration::from_millis(150),
        }
    }
}

impl BenchOptions {
    /// Whether there is anything that the options ask for; said before peaks are measured for it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when an option names an operation or model that does not exist, or is empty where it may
    /// not be.
    pub fn check<B: Backend>(&self) -> Result<()> {
        let names: Vec<&str> = ops::all::<B>().iter().map(|op| op.name).collect();
        known("operation", &self.ops, &names)?;
        models(&self.models)?;
        if self.formats.is_empty() || self.rows.is_empty() || self.rows.contains(&0) {
            return Err(Error::Unsupported("bench: name at least one weight format and one positive row count".into()));
        }
        Ok(())
    }
}

/// One problem, timed and checked.
#[derive(Clone, Debug)]
pub struct BenchRow {
    /// Method of [`Backend`].
    pub op: &'static str,
    /// The model whose shape it is: the first, where several have it.
    pub model: &'static str,
    /// The sizes; its `Display` is one table cell.
    pub shape: Shape,
    /// What was computed with.
    pub dtype: Dtype,
    /// Time of one call, in microseconds: the best, for the peaks too are what the machine does undisturbed.
    pub micros: f64,
    /// Bytes the cost model counts, over the time: 10^9 a second.
    pub gbps: f64,
    /// Operations the cost model counts, over the time: 10^9 a second.
    pub gflops: f64,
    /// The floor over the time: 1 is perfect.
    pub share_of_floor: f64,
    /// What sets the floor.
    pub bound: Bound,
    /// [`ops::Trial::error`] before timing.
    pub error: f64,
    /// The largest acceptable error.
    pub tolerance: f64,
    /// Whether the error is acceptable.
    pub ok: bool,
}

/// Checks and times every problem that `options` select, calling `on_row` after each.
///
/// `peaks` are those of the device that `backend` runs on (for the CPU,
/// [`crate::cpu::CpuBackend::measure_peaks`]). A wrong result is a row that is not `ok`, not an error.
///
/// # Errors
/// As for [`BenchOptions::check`]; whatever the backend refuses.
pub fn run<B: Backend>(
    backend: &B,
    peaks: &Peaks,
    options: &BenchOptions,
    on_row: &mut dyn FnMut(BenchRow),
) -> Result<()> {
    options.check::<B>()?;
    let models = models(&options.models)?;
    for op in
        ops::all::<B>().iter().filter(|op| options.ops.is_empty() || options.ops.iter().any(|name| name == op.name))
    {
        let mut seen: Vec<Shape> = Vec::new();
        for rows in &options.rows {
            for model in &models {
                for shape in (op.model_shapes)(&Workload { model, rows: *rows, formats: &options.formats }) {
                    if !seen.contains(&shape) {
                        on_row(row(backend, peaks, op, model.name, &shape, options.time)?);
                        seen.push(shape);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Refuses a name that is not among `known`.
fn known(what: &str, names: &[String], known: &[&str]) -> Result<()> {
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => {
            Err(Error::Unsupported(format!("bench: there is no {what} {name:?}; there are {}", known.join(", "))))
        }
        None => Ok(()),
    }
}

fn models(names: &[String]) -> Result<Vec<ModelShape>> {
    let mut choices: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
    choices.push("all");
    known("model", names, &choices)?;
    let wanted = |model: &&ModelShape| {
        if names.is_empty() {
            DEFAULT_MODELS.contains(&model.name)
        } else {
            names.iter().any(|name| name == model.name || name == "all")
        }
    };
    Ok(MODELS.iter().filter(wanted).copied().collect())
}

/// Checks one problem, then times it.
fn row<B: Backend>(
    backend: &B,
    peaks: &Peaks,
    op: &Op<B>,
    model: &'static str,
    shape: &Shape,
    time: Duration,
) -> Result<BenchRow> {
    let dtype = backend.info().dtype;
    let cost = op.cost_on(backend, shape);
    let (floor, bound) = peaks.floor(&cost, op.streams || cost.bytes > CACHED_BYTES);
    let copies = if op.streams && bound == Bound::Memory { cold_copies(&cost) } else { 1 };
    let mut trial = (op.trial)(backend, shape, 1, copies)?;
    let error = trial.error()?;
    let seconds = best_seconds(time, copies, &mut |copy| trial.run(copy))?;
    let tolerance = op.tolerance_on(backend, shape);
    Ok(BenchRow {
        op: op.name,
        model,
        shape: shape.clone(),
        dtype,
        micros: seconds * 1e6,
        gbps: cost.bytes / seconds / 1e9,
        gflops: cost.flops / seconds / 1e9,
        share_of_floor: floor / seconds,
        bound,
        error,
        tolerance,
        ok: error <= tolerance,
    })
}

/// Best of the times of single calls, or of batches of calls where one is too short for the clock, over at least `time`
/// after a warm-up of one round of the input sets.
fn best_seconds(time: Duration, copies: usize, run: &mut dyn FnMut(usize) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    for copy in 0..copies {
        run(copy)?;
    }
    let estimate = start.elapsed().as_secs_f64() / copies as f64;
    // A batch lasts at least 20 µs: a hundred times what reading the clock costs.
    let batch = (20e-6 / estimate.max(1e-9)).ceil().max(1.0) as usize;
    let (mut best, mut laps, mut next) = (f64::INFINITY, 0, 0);
    let start = Instant::now();
    while start.elapsed() < time || laps < 3 {
        let lap = Instant::now();
        for _ in 0..batch {
            run(next % copies)?;
            next += 1;
        }
        best = best.min(lap.elapsed().as_secs_f64() / batch as f64);
        laps += 1;
    }
    Ok(best)
}
