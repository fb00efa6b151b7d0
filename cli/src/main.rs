//! `oc-cli`: the only crate that reads arguments and the environment, prints, and decides the exit status.

mod args;
mod commands;
mod config;
mod diagnostics;
mod hub;
mod interrupt;
mod kwargs;
mod progress;
mod resolve;
mod usage;

use args::{Cli, Command};
use clap::{Parser, error::ErrorKind};
use commands::Outcome;
use diagnostics::{Error, Result, Terminal};
use std::{io::ErrorKind::BrokenPipe, process::ExitCode};

fn main() -> ExitCode {
    let terminal = Terminal::new();
    // The engine makes errors of that crate's panics, so they are no panics of this program.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|at| at.file().contains("/tokenizers-")) {
            default(info);
        }
    }));
    let result = run(&terminal);
    match &result {
        // Whoever reads our output has seen enough.
        Err(Error::Stdout(error)) if error.kind() == BrokenPipe => return ExitCode::SUCCESS,
        Err(error) => terminal.error(error),
        Ok(_) => {}
    }
    exit_code(&result)
}

/// The one place that decides the exit status.
fn exit_code(result: &Result<Outcome>) -> ExitCode {
    ExitCode::from(match result {
        Ok(Outcome::Complete) => 0,
        Ok(Outcome::WithFailures) => 1,
        Err(Error::Eval(oc_eval::Error::Interrupted { .. })) => interrupt::EXIT_CODE,
        Err(_) => 2,
    })
}

fn run(terminal: &Terminal) -> Result<Outcome> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            error.print().map_err(Error::Stdout)?;
            return Ok(Outcome::Complete);
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Err(Error::input("a command is missing", "`oc-cli --help` lists them"));
        }
        Err(error) => return Err(usage::explain(&error, std::env::args().nth(1).as_deref())),
    };
    terminal.init_logging(cli.debug)?;
    match cli.command {
        Command::Eval(args) => commands::eval::run(&args, terminal),
        Command::Generate(args) => commands::generate::run(&args, terminal),
        Command::Prompt(args) => commands::prompt::run(&args),
        Command::ListConfigs(args) => commands::list_configs::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Convert(args) => commands::convert::run(&args, terminal),
        Command::Pull(args) => commands::pull::run(&args, terminal),
        Command::Bench(args) => commands::bench::run(&args, terminal),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::BenchKernels(args) => commands::bench_kernels::run(&args),
    }
}
