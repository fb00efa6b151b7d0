//! How far a run is: a bar on a terminal, plain lines now and then elsewhere.

use crate::diagnostics::Terminal;
use indicatif::{ProgressBar, ProgressStyle};
use oc_engine::Stats;
use oc_eval::Plan;
use std::time::{Duration, Instant};

/// Between plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The progress of answering questions.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Answered before this run.
    resumed: usize,
    /// Prompt tokens that a perfect prefix cache computes.
    unshared_tokens: u64,
    started: Instant,
    last_line: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn start(terminal: &Terminal, plan: &Plan) -> Self {
        let bar = terminal.is_interactive.then(|| {
            let bar = terminal.bars.add(ProgressBar::new(plan.samples as u64));
            bar.set_style(style("{spinner} {bar:30} {pos}/{len} {wide_msg}"));
            bar.set_position(plan.resumed as u64);
            bar.set_message("questions");
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        Self { bar, resumed: plan.resumed, unshared_tokens: plan.unshared_tokens, started: now, last_line: now }
    }

    /// `done` of `total` questions are answered, those of a resumed run included; `stats`: of this run.
    pub fn update(&mut self, done: usize, total: usize, stats: &Stats) {
        let elapsed = self.started.elapsed();
        let text = summary(stats, elapsed, self.remaining(done, total, stats, elapsed));
        match &self.bar {
            Some(bar) => {
                bar.set_position(done as u64);
                bar.set_message(text);
            }
            None if self.last_line.elapsed() >= LINE_INTERVAL || done == total => {
                self.last_line = Instant::now();
                tracing::info!("{done}/{total} questions, {text}");
            }
            None => {}
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    /// Prompts run ahead of the answers, so neither count alone says how much of the work is done: their mean does.
    fn remaining(&self, done: usize, total: usize, stats: &Stats, elapsed: Duration) -> Option<Duration> {
        let answered = (done - self.resumed.min(done)) as f64 / (total - self.resumed.min(total)).max(1) as f64;
        let computed = (stats.computed_prompt_tokens as f64 / self.unshared_tokens.max(1) as f64).min(1.0);
        let share = (answered + computed) / 2.0;
        (share > 0.0).then(|| elapsed.mul_f64((1.0 - share).max(0.0) / share))
    }
}

/// Speed, prefix-cache hits and time left.
fn summary(stats: &Stats, elapsed: Duration, remaining: Option<Duration>) -> String {
    let tokens = stats.computed_prompt_tokens + stats.generated_tokens;
    let speed = tokens as f64 / elapsed.as_secs_f64().max(1e-3);
    let hits = 100.0 * stats.cached_tokens as f64 / stats.prompt_tokens.max(1) as f64;
    let left = remaining.map_or(String::new(), |left| format!(", {} left", clock(left)));
    format!("{speed:.0} tokens/s, prefix cache {hits:.0} %{left}")
}

/// `m:ss`, or `h:mm:ss` from an hour.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// A bar for loading a model; `None` where none can be drawn.
pub fn loading(terminal: &Terminal, name: &str) -> Option<ProgressBar> {
    terminal.is_interactive.then(|| {
        let bar = terminal.bars.add(ProgressBar::new(0));
        bar.set_style(style("{spinner} {bar:30} {pos}/{len} layers {wide_msg}"));
        bar.set_message(format!("loading {name}"));
        bar
    })
}

/// A bar for bytes that are read or written; `None` where none can be drawn.
pub fn bytes(terminal: &Terminal, what: &str) -> Option<ProgressBar> {
    terminal.is_interactive.then(|| {
        let bar = terminal.bars.add(ProgressBar::new(0));
        bar.set_style(style("{spinner} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}"));
        bar.set_message(what.to_owned());
        bar
    })
}

/// A number of bytes for people, in units of 1024.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut scaled = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{scaled:.1} {unit}") }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!([0, 1023, 1024, 5 << 30].map(size), ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]);
    }

    #[test]
    fn clocks() {
        assert_eq!(clock(Duration::from_secs(5)), "0:05");
        assert_eq!(clock(Duration::from_secs(3605)), "1:00:05");
    }

    #[test]
    fn summary_counts_what_was_computed() {
        let stats = Stats {
            prompt_tokens: 1000,
            cached_tokens: 750,
            computed_prompt_tokens: 250,
            generated_tokens: 50,
            steps: 9,
        };
        let text = summary(&stats, Duration::from_secs(2), Some(Duration::from_secs(61)));
        assert_eq!(text, "150 tokens/s, prefix cache 75 %, 1:01 left");
        assert_eq!(summary(&Stats::default(), Duration::ZERO, None), "0 tokens/s, prefix cache 0 %");
    }

    #[test]
    fn time_left_leaves_resumed_questions_out() {
        let plan = Plan { samples: 110, resumed: 10, unshared_tokens: 1000, ..Plan::default() };
        let progress = Progress::start(&Terminal::new(), &plan);
        let stats = Stats { computed_prompt_tokens: 500, ..Stats::default() };
        // Half of the prompts are computed, none of the 100 questions is answered: a quarter of the work.
        let left = progress.remaining(10, 110, &stats, Duration::from_secs(30));
        assert_eq!(left, Some(Duration::from_secs(90)));
        assert_eq!(progress.remaining(10, 110, &Stats::default(), Duration::from_secs(30)), None);
        let all = Stats { computed_prompt_tokens: 1000, ..Stats::default() };
        assert_eq!(progress.remaining(110, 110, &all, Duration::from_secs(30)), Some(Duration::ZERO));
    }
}
