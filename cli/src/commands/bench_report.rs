//! What `bench-kernels` prints: a table line by line, or one JSON document; with a comparison to an earlier run.

use crate::diagnostics::{Error, Result};
use oc_kernels::{
    DeviceInfo,
    bench::{BenchRow, Measured, Meter, Outcome, Timing},
    emulator::Counters,
    ops::{Peaks, Unit},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write, path::Path};

/// A row is slower than before when it takes this much longer.
const SLOWER: f64 = 1.1;
/// Bytes of a sector, the least that memory moves.
const SECTOR: u64 = 32;
/// Operations of one `mma.m16n8k16`.
const MMA_FLOPS: f64 = 2.0 * 16.0 * 8.0 * 16.0;

/// An earlier `--json` output.
pub struct Baseline {
    name: String,
    device: String,
    dtype: String,
    /// Microseconds by operation and shape.
    micros: BTreeMap<(String, String), f64>,
}

impl Baseline {
    /// Reads it.
    ///
    /// # Errors
    /// A file that cannot be read, or is no such output.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let hint = "--baseline takes what `oc-cli bench-kernels --json` wrote";
        let odd = |what: String| Error::input(format!("--baseline {name}: {what}"), hint);
        let text = std::fs::read_to_string(path).map_err(|e| odd(format!("cannot be read: {e}")))?;
        let document: Value = serde_json::from_str(&text).map_err(|e| odd(format!("is not JSON: {e}")))?;
        let field = |key: &str| {
            let text = document[key].as_str().map(str::to_owned);
            text.ok_or_else(|| odd(format!("has no `{key}`")))
        };
        let rows = document["rows"].as_array().ok_or_else(|| odd("has no `rows`".into()))?;
        let mut micros = BTreeMap::new();
        for (i, row) in rows.iter().enumerate() {
            let (Some(op), Some(shape)) = (row["op"].as_str(), row["shape"].as_str()) else {
                return Err(odd(format!("row {i} has no `op` or no `shape`")));
            };
            // A problem that was refused has no time.
            if let Some(time) = row["micros"].as_f64().filter(|time| *time > 0.0) {
                micros.insert((op.to_owned(), shape.to_owned()), time);
            }
        }
        if micros.is_empty() {
            return Err(odd("has no times".into()));
        }
        Ok(Self { device: field("device")?, dtype: field("dtype")?, name, micros })
    }

    /// The time of `row` over the time of the same problem then.
    fn ratio(&self, row: &BenchRow) -> Option<f64> {
        let before = self.micros.get(&(row.op.to_owned(), row.shape.to_string()))?;
        Some(row.timing()?.micros / before)
    }
}

/// Collects rows, and says how they look.
pub struct Report<'a> {
    device: String,
    dtype: &'static str,
    peaks: Option<Peaks>,
    baseline: Option<&'a Baseline>,
    is_json: bool,
    rows: Vec<BenchRow>,
}

impl<'a> Report<'a> {
    /// Nothing yet.
    pub fn new(info: &DeviceInfo, meter: &Meter<'_>, baseline: Option<&'a Baseline>, is_json: bool) -> Self {
        let peaks = match meter {
            Meter::Host(peaks) | Meter::Device(_, peaks) => Some(*peaks),
            Meter::Counts(_) => None,
        };
        let (device, dtype) = (info.name.clone(), info.dtype.name());
        if let Some(before) = baseline.filter(|before| before.device != device || before.dtype != dtype) {
            let Baseline { name, device, dtype, .. } = before;
            tracing::warn!("--baseline {name} is of another device or dtype: {device}, {dtype}");
        }
        Self { device, dtype, peaks, baseline, is_json, rows: Vec::new() }
    }

    /// What stands above the rows.
    pub fn heading(&self) -> String {
        if self.is_json {
            return String::new();
        }
        let mut text = format!("{}, dtype {}\n", self.device, self.dtype);
        match &self.peaks {
            Some(peaks) => {
                let compared = if self.baseline.is_some() { "   before" } else { "" };
                let _ = write!(text, "{}\n\n{TIMES}{compared}  result\n", peaks_text(peaks));
            }
            None => {
                let _ = write!(text, "{REDUCED}\n\n{COUNTS}  result\n");
            }
        }
        text
    }

    /// The lines of `row`, which is kept.
    pub fn row(&mut self, row: BenchRow) -> String {
        let text = if self.is_json { String::new() } else { self.line(&row) };
        self.rows.push(row);
        text
    }

    /// What stands below the rows.
    pub fn ending(&self) -> String {
        if self.is_json {
            return format!("{}\n", serde_json::to_string_pretty(&self.document()).expect("strings and numbers"));
        }
        let Some(before) = self.baseline else { return String::new() };
        let (slower, percent) = (self.slower(), 100.0 * (SLOWER - 1.0));
        let matched = self.rows.iter().filter(|row| before.ratio(row).is_some()).count();
        let name = &before.name;
        let mut text = format!("\n{matched} of {} rows are in {name}; ", self.rows.len());
        if slower.is_empty() {
            let _ = writeln!(text, "none is slower by more than {percent:.0} %");
            return text;
        }
        let _ = writeln!(text, "slower by more than {percent:.0} %:");
        for (row, ratio) in slower {
            let _ = writeln!(text, "  {} {}: {ratio:.2} times as long", row.op, row.shape);
        }
        text
    }

    /// How many rows are wrong or refused.
    pub fn failed(&self) -> usize {
        self.rows.iter().filter(|row| !row.is_right()).count()
    }

    /// The rows that are slower than in the baseline, and how many times.
    fn slower(&self) -> Vec<(&BenchRow, f64)> {
        let ratio = |row| self.baseline.and_then(|before| before.ratio(row));
        self.rows.iter().filter_map(|row| Some((row, ratio(row)?))).filter(|(_, ratio)| *ratio > SLOWER).collect()
    }

    fn line(&self, row: &BenchRow) -> String {
        let mut text = format!("{:<15} {:<12} {:<27}", row.op, row.model, row.shape.to_string());
        match &row.outcome {
            Outcome::Refused(_) => {}
            Outcome::Done { measured: Measured::Time(timing), .. } => {
                let Timing { micros, gbps, gflops, share_of_floor, bound } = timing;
                let share = 100.0 * share_of_floor;
                let _ = write!(text, " {micros:>9.1} {gbps:>8.1} {gflops:>8.1} {share:>8.0}%  {:<10}", bound.name());
                if let Some(before) = self.baseline {
                    let ratio = before.ratio(row).map_or("new".into(), |ratio| format!("{ratio:.2}×"));
                    let _ = write!(text, "{ratio:>9}");
                }
            }
            Outcome::Done { measured: Measured::Counts(counters), .. } => {
                let Sums { instructions, sectors, mma, conflicts } = Sums::of(counters);
                let bytes = format!("{:.2}×", sectors / row.cost.bytes);
                let mma = match row.cost.unit {
                    Unit::F32 => "-".into(),
                    _ => format!("{:.2}×", mma * MMA_FLOPS / row.cost.flops),
                };
                let _ = write!(text, " {instructions:>12} {bytes:>10} {mma:>9} {conflicts:>10}");
            }
        }
        text + "  " + &result(row) + "\n"
    }

    fn document(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(|row| self.json_row(row)).collect();
        let mut document = json!({ "device": self.device, "dtype": self.dtype });
        if let Some(Peaks { f32_gflops, bf16_gflops, int8_gops, read_gbps, cache_gbps }) = self.peaks {
            // What was not measured is infinite, and becomes null.
            document["peaks"] = json!({
                "f32_gflops": f32_gflops,
                "bf16_gflops": bf16_gflops,
                "int8_gops": int8_gops,
                "read_gbps": read_gbps,
                "cache_gbps": cache_gbps,
            });
        }
        if let Some(before) = self.baseline {
            let slower: Vec<String> =
                self.slower().iter().map(|(row, _)| format!("{} {}", row.op, row.shape)).collect();
            document["baseline"] = json!({ "file": before.name, "slower": slower });
        }
        document["rows"] = rows.into();
        document
    }

    fn json_row(&self, row: &BenchRow) -> Value {
        let mut value = json!({
            "op": row.op,
            "model": row.model,
            "shape": row.shape.to_string(),
            "dtype": row.dtype.name(),
            "floor_bytes": row.cost.bytes,
            "floor_flops": row.cost.flops,
            "ok": row.is_right(),
        });
        match &row.outcome {
            Outcome::Refused(message) => value["refused"] = message.as_str().into(),
            Outcome::Done { error, tolerance, measured } => {
                (value["error"], value["tolerance"]) = ((*error).into(), (*tolerance).into());
                match measured {
                    Measured::Time(Timing { micros, gbps, gflops, share_of_floor, bound }) => {
                        (value["micros"], value["gbps"], value["gflops"]) =
                            ((*micros).into(), (*gbps).into(), (*gflops).into());
                        (value["share_of_floor"], value["bound_by"]) = ((*share_of_floor).into(), bound.name().into());
                    }
                    Measured::Counts(counters) => {
                        let kernels = counters.iter().map(|(name, counters)| (name.clone(), json_counters(counters)));
                        value["kernels"] = Value::Object(kernels.collect());
                    }
                }
                if let Some(ratio) = self.baseline.and_then(|before| before.ratio(row)) {
                    value["times_baseline"] = ratio.into();
                }
            }
        }
        value
    }
}

const TIMES: &str =
    "operation       model        shape                              µs     GB/s  GFLOP/s  of floor  bound by  ";
const COUNTS: &str =
    "operation       model        shape                       instructions      bytes       mma  conflicts";
const REDUCED: &str = "not timed: counts of the kernels on shapes cut to what an emulator does in seconds (rows, outputs, contexts);\n\
                       bytes of the memory sectors that warps touch, as if there were no cache, and tensor-core instructions: as multiples of\n\
                       the least that the problem needs";

/// The ceilings in one line.
pub fn peaks_text(peaks: &Peaks) -> String {
    let Peaks { f32_gflops, bf16_gflops, int8_gops, read_gbps, cache_gbps } = peaks;
    if f32_gflops.is_infinite() {
        return format!(
            "peaks measured now: largest product {:.1} TFLOP/s, copies {read_gbps:.0} GB/s (read and written)",
            bf16_gflops / 1e3
        );
    }
    format!(
        "peaks measured now: f32 {f32_gflops:.0} GFLOP/s, bf16 {bf16_gflops:.0} GFLOP/s, int8 {int8_gops:.0} Gop/s, \
         read {read_gbps:.1} GB/s from memory, {cache_gbps:.0} GB/s from the caches"
    )
}

fn result(row: &BenchRow) -> String {
    match &row.outcome {
        Outcome::Refused(message) => format!("REFUSED: {}", message.replace("\n\nhint: ", "; ").replace('\n', " ")),
        Outcome::Done { .. } if row.is_right() => "right".into(),
        Outcome::Done { error, tolerance, .. } => format!("WRONG: error {error:.1e}, at most {tolerance:.1e}"),
    }
}

/// Counts of all kernels of a problem.
struct Sums {
    instructions: u64,
    /// Bytes.
    sectors: f64,
    mma: f64,
    conflicts: u64,
}

impl Sums {
    fn of(counters: &BTreeMap<String, Counters>) -> Self {
        let sum = |count: fn(&Counters) -> u64| counters.values().map(count).sum::<u64>();
        Self {
            instructions: sum(Counters::total),
            sectors: (SECTOR * sum(|c| c.global_read_sectors + c.global_written_sectors)) as f64,
            mma: sum(Counters::mma) as f64,
            conflicts: sum(|c| c.bank_conflicts),
        }
    }
}

fn json_counters(counters: &Counters) -> Value {
    json!({
        "launches": counters.launches,
        "blocks": counters.blocks,
        "instructions": counters.total(),
        "mma": counters.mma(),
        "global_read_bytes": counters.global_read_bytes,
        "global_written_bytes": counters.global_written_bytes,
        "global_read_sectors": counters.global_read_sectors,
        "global_written_sectors": counters.global_written_sectors,
        "async_bytes": counters.async_bytes,
        "shared_read_bytes": counters.shared_read_bytes,
        "shared_written_bytes": counters.shared_written_bytes,
        "bank_conflicts": counters.bank_conflicts,
        "local_bytes": counters.local_bytes,
    })
}
