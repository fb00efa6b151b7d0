//! Every operation of a backend on the shapes of real models: checked against its reference, and timed or counted.
//!
//! On a device with a clock a row says how long an operation took, and what share of the time its floor would have been
//! (bytes over the measured bandwidth or operations over the measured peak, whichever is longer). On the emulator it says
//! what the kernels did, to be held against the same floor.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    Backend, Dtype, Error, Heads, Result, WeightFormat,
    cuda::device::Device,
    emulator::{Counters, Emulator},
    ops::{self, Bound, BoxedTrial, Cost, MODELS, ModelShape, Op, Peaks, Shape, Workload},
};

/// Input sets together fill at least this much memory, beyond the caches, where memory bandwidth is the floor.
const COLD_BYTES: f64 = 128e6;
/// The same on a GPU: twice the largest second-level cache there is.
const COLD_DEVICE_BYTES: f64 = 256e6;
/// Most input sets of one problem.
const MAX_COPIES: usize = 1024;
/// Activations up to this size are still in the caches when they are read.
const CACHED_BYTES: f64 = 16e6;
/// Fewest times of which a median is taken on a GPU.
const MIN_LAPS: usize = 20;
/// Multiply-adds of a product that the emulator does in a few seconds.
const EMULATED_PRODUCTS: usize = 1 << 26;

/// How many input sets of a problem of `cost` fill more memory than the caches hold.
pub fn cold_copies(cost: &Cost) -> usize {
    ((COLD_BYTES / cost.bytes.max(1.0)) as usize + 1).min(MAX_COPIES)
}

/// What is found out about a problem beside whether the result is right.
pub enum Meter<'a> {
    /// Time by the host's clock, as a share of the host's peaks; an operation is done when its call returns.
    Host(Peaks),
    /// Time by the device's own events. Inputs and outputs are rotated through more memory than the caches hold.
    Device(&'a dyn Device, Peaks),
    /// What the kernels do, on shapes cut down to [`reduced`] ones. The backend must run on this emulator.
    Counts(&'a Emulator),
}

/// What to measure. The default takes about a minute on two cores: every operation, the two small models, one row and a
/// prompt chunk, and the formats of common files.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Operations by the names of [`ops::all`]; empty takes every one.
    pub ops: Vec<String>,
    /// Models by the names of [`MODELS`]; empty takes [`DEFAULT_MODELS`], and `all` every one.
    pub models: Vec<String>,
    /// Shapes whose printed form contains one of these; empty takes every one.
    pub shapes: Vec<String>,
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
            shapes: Vec::new(),
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
    /// The problems that the options ask for, each once; `is_reduced` cuts their shapes down to [`reduced`] ones.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when an option names an operation or model that does not exist, or is empty where it may
    /// not be, or when no problem is left.
    pub fn problems<B: Backend>(&self, is_reduced: bool) -> Result<Vec<Problem<B>>> {
        let names: Vec<&str> = ops::all::<B>().iter().map(|op| op.name).collect();
        known("operation", &self.ops, &names)?;
        let models = models(&self.models)?;
        if self.formats.is_empty() || self.rows.is_empty() || self.rows.contains(&0) {
            return Err(Error::Unsupported("bench: name at least one weight format and one positive row count".into()));
        }
        let mut problems: Vec<Problem<B>> = Vec::new();
        let is_wanted = |op: &Op<B>| self.ops.is_empty() || self.ops.iter().any(|name| name == op.name);
        for index in (0..names.len()).filter(|index| is_wanted(&ops::all::<B>()[*index])) {
            for rows in &self.rows {
                for model in &models {
                    let op = ops::all::<B>().swap_remove(index);
                    for shape in (op.model_shapes)(&Workload { model, rows: *rows, formats: &self.formats }) {
                        let shape = if is_reduced { reduced(&shape) } else { shape };
                        let text = shape.to_string();
                        let fits = self.shapes.is_empty() || self.shapes.iter().any(|part| text.contains(part));
                        let is_new = !problems.iter().any(|known| known.op.name == op.name && known.shape == shape);
                        if fits && is_new {
                            let op = ops::all::<B>().swap_remove(index);
                            problems.push(Problem { op, model: model.name, shape });
                        }
                    }
                }
            }
        }
        if problems.is_empty() {
            let shapes = self.shapes.join("` or `");
            return Err(Error::Unsupported(format!(
                "bench: no shape of these operations and models has `{shapes}` in it"
            )));
        }
        Ok(problems)
    }
}

/// One problem of the benchmark.
pub struct Problem<B: Backend> {
    op: Op<B>,
    model: &'static str,
    shape: Shape,
}

/// `shape`, cut down to what the emulator does in seconds: 96 rows (more than a tile), 4 of anything element by element;
/// products of 2^26 multiply-adds, by fewer output features and then fewer inputs; one group of heads, two sequences,
/// the last 64 of 320 tokens.
pub fn reduced(shape: &Shape) -> Shape {
    match shape {
        Shape::Rows { rows, cols } => Shape::Rows { rows: (*rows).min(4), cols: *cols },
        Shape::Matrix { rows, inner, cols, format } => {
            let rows = (*rows).min(96);
            // Never below two tiles of outputs, and whole blocks of any format.
            let cols = (*cols).min((EMULATED_PRODUCTS / (rows * inner)).max(256) / 64 * 64);
            let most = (EMULATED_PRODUCTS / (rows * cols)).max(256);
            let inner = if *inner > most { most / 256 * 256 } else { *inner };
            Shape::Matrix { rows, inner, cols, format: *format }
        }
        Shape::Attention { heads, sequences, shared } => {
            let group = heads.num_heads / heads.num_kv_heads;
            let heads = Heads { num_heads: group, num_kv_heads: 1, head_dim: heads.head_dim };
            let shared = (*shared).min(192);
            // More than `shared`, as it was before: a context is cut to more, and has new tokens.
            let cut = |(new, context): &(usize, usize)| {
                let context = (*context).min(320);
                ((*new).min(64).min(context - shared), context)
            };
            Shape::Attention { heads, sequences: sequences.iter().take(2).map(cut).collect(), shared }
        }
    }
}

/// One problem, checked and measured.
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
    /// The least that it needs.
    pub cost: Cost,
    /// What was found.
    pub outcome: Outcome,
}

/// What became of a problem.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was computed.
    Done {
        /// [`ops::Trial::error`].
        error: f64,
        /// The largest acceptable error.
        tolerance: f64,
        /// What it took.
        measured: Measured,
    },
    /// The backend cannot do it, and why.
    Refused(String),
}

/// What a problem took.
#[derive(Clone, Debug)]
pub enum Measured {
    /// Time, where there is a clock.
    Time(Timing),
    /// What each kernel did, by name, on the emulator.
    Counts(BTreeMap<String, Counters>),
}

/// How long a problem took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Time of one call, in microseconds: the best by the host's clock, for its peaks too are what the machine does
    /// undisturbed; the median by a device's events.
    pub micros: f64,
    /// Bytes the cost model counts, over the time: 10^9 a second.
    pub gbps: f64,
    /// Operations the cost model counts, over the time: 10^9 a second.
    pub gflops: f64,
    /// The floor over the time: 1 is perfect.
    pub share_of_floor: f64,
    /// What sets the floor.
    pub bound: Bound,
}

impl BenchRow {
    /// Whether it was computed, and right.
    pub fn is_right(&self) -> bool {
        matches!(self.outcome, Outcome::Done { error, tolerance, .. } if error <= tolerance)
    }

    /// How long it took, if it was timed.
    pub fn timing(&self) -> Option<&Timing> {
        match &self.outcome {
            Outcome::Done { measured: Measured::Time(timing), .. } => Some(timing),
            _ => None,
        }
    }
}

/// Checks and measures `problems`, calling `on_row` after each.
///
/// A wrong result, and a problem that the backend cannot do, are rows and not errors.
///
/// # Errors
/// A fault of the device; whatever `on_row` returns.
pub fn run<B: Backend, E: From<Error>>(
    backend: &B,
    meter: &Meter<'_>,
    problems: &[Problem<B>],
    time: Duration,
    on_row: &mut dyn FnMut(BenchRow) -> Result<(), E>,
) -> Result<(), E> {
    for Problem { op, model, shape } in problems {
        let (dtype, cost) = (backend.info().dtype, op.cost_on(backend, shape));
        let outcome = match measure(backend, meter, op, shape, &cost, time) {
            Ok(outcome) => outcome,
            Err(error @ (Error::Unsupported(_) | Error::OutOfMemory { .. })) => Outcome::Refused(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        on_row(BenchRow { op: op.name, model, shape: shape.clone(), dtype, cost, outcome })?;
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

/// Checks one problem, then measures it.
fn measure<B: Backend>(
    backend: &B,
    meter: &Meter<'_>,
    op: &Op<B>,
    shape: &Shape,
    cost: &Cost,
    time: Duration,
) -> Result<Outcome> {
    let tolerance = op.tolerance_on(backend, shape);
    let (error, measured) = match meter {
        Meter::Host(peaks) => {
            let (floor, bound) = peaks.floor(cost, op.streams || cost.bytes > CACHED_BYTES);
            let copies = if op.streams && bound == Bound::Memory { cold_copies(cost) } else { 1 };
            let mut trial = (op.trial)(backend, shape, 1, copies)?;
            let error = trial.error()?;
            let seconds = best_seconds(time, copies, &mut |copy| trial.run(copy))?;
            (error, Measured::Time(timing(seconds, floor, bound, cost)))
        }
        Meter::Device(device, peaks) => {
            let (floor, bound) = peaks.floor(cost, true);
            // Whole trials, so that outputs are rotated too: else they would stay in the cache.
            let copies = ((COLD_DEVICE_BYTES / cost.bytes.max(1.0)) as usize + 1).min(MAX_COPIES / 4);
            let trials = (0..copies).map(|_| (op.trial)(backend, shape, 1, 1));
            let mut trials = trials.collect::<Result<Vec<_>>>()?;
            let error = trials[0].error()?;
            let seconds = device_seconds(*device, time, &mut trials)?;
            (error, Measured::Time(timing(seconds, floor, bound, cost)))
        }
        Meter::Counts(emulator) => {
            let mut trial = (op.trial)(backend, shape, 1, 1)?;
            emulator.reset_counters();
            trial.run(0)?;
            let counters = emulator.counters();
            (trial.error()?, Measured::Counts(counters))
        }
    };
    Ok(Outcome::Done { error, tolerance, measured })
}

fn timing(seconds: f64, floor: f64, bound: Bound, cost: &Cost) -> Timing {
    Timing {
        micros: seconds * 1e6,
        gbps: cost.bytes / seconds / 1e9,
        gflops: cost.flops / seconds / 1e9,
        share_of_floor: floor / seconds,
        bound,
    }
}

/// Median of the device's time for one of `trials`, over at least `time` and [`MIN_LAPS`] laps after a warm-up. A lap is
/// one graph of all trials, so that the host's own time does not count, or a single one where the operation also talks
/// to the host, which a graph cannot.
fn device_seconds(device: &dyn Device, time: Duration, trials: &mut [BoxedTrial<'_>]) -> Result<f64> {
    for trial in &mut *trials {
        trial.run(0)?;
    }
    device.synchronize()?;
    let graph = device.capture(&mut || trials.iter_mut().try_for_each(|trial| trial.run(0))).ok();
    let mut laps = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time || laps.len() < MIN_LAPS {
        let (seconds, runs) = match &graph {
            Some(graph) => (device.time(&mut || graph.launch())?, trials.len()),
            None => {
                let next = laps.len() % trials.len();
                (device.time(&mut || trials[next].run(0))?, 1)
            }
        };
        let seconds = seconds.ok_or_else(|| Error::Unsupported("bench: this device has no clock".into()))?;
        laps.push(seconds / runs as f64);
    }
    Ok(median(&mut laps))
}

/// The middle one of `values`, of which there is at least one.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
