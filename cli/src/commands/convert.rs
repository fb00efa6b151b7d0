//! `oc-cli convert`: any format that is read, as a Hugging Face folder.

use super::Outcome;
use crate::{
    args::ConvertArgs,
    diagnostics::{Error, Result, Stdout, Terminal},
    hub, progress, resolve,
};
use oc_engine::ConvertOptions;
use std::time::Instant;

/// Runs the command.
///
/// # Errors
/// Bad input, and whatever the engine refuses.
pub fn run(args: &ConvertArgs, terminal: &Terminal) -> Result<Outcome> {
    let input = resolve::exists("IN", &args.input, hub::Settings::read().cache.as_deref())?;
    let options =
        ConvertOptions { format: args.dtype.map(Into::into), replace: args.force, ..ConvertOptions::default() };
    let started = Instant::now();
    let bar = progress::bytes(terminal, &format!("writing {}", args.output.display()));
    let converted = oc_engine::convert(&input, &args.output, &options, &mut |done, total| {
        if let Some(bar) = &bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let converted = converted.map_err(|error| match error {
        oc_engine::Error::Exists { .. } if !args.force => Error::input(error, "--force replaces it"),
        error => error.into(),
    })?;
    converted.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let (size, files) = (progress::size(converted.bytes as u64), converted.weights.len());
    let plural = if files == 1 { "" } else { "s" };
    tracing::info!("{size} of tensors in {files} file{plural}, {:.1} s", started.elapsed().as_secs_f64());
    Stdout::lock().line(args.output.display())?;
    Ok(Outcome::Complete)
}
