//! What the program says beside its data: errors, warnings and log lines, all on stderr.

use indicatif::MultiProgress;
use std::{
    fmt,
    io::{self, IsTerminal, Write},
};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    registry::LookupSpan,
};

/// Everything that ends a command. Its text is the message, then `\n\nhint: …` where there is something to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bad usage or input, found here.
    #[error("{0}")]
    Input(String),
    /// From the evaluation.
    #[error(transparent)]
    Eval(#[from] oc_eval::Error),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] oc_engine::Error),
    /// From a backend.
    #[error(transparent)]
    Kernels(#[from] oc_kernels::Error),
    /// Standard output refused what was written; a closed pipe is not worth a message.
    #[error("cannot write to standard output: {0}")]
    Stdout(#[source] io::Error),
}

impl Error {
    /// Bad usage or input, and what to do about it.
    pub fn input(message: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self::Input(format!("{message}\n\nhint: {hint}"))
    }
}

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Standard error: plain, or a terminal with colours and progress bars.
#[derive(Clone)]
pub struct Terminal {
    /// Bars live here, so that log lines can be written above them.
    pub bars: MultiProgress,
    /// Whether bars can be drawn.
    pub is_interactive: bool,
    has_color: bool,
}

impl Terminal {
    /// Looks at stderr and at `NO_COLOR`.
    pub fn new() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_interactive = io::stderr().is_terminal() && !is_dumb;
        Self { bars: MultiProgress::new(), is_interactive, has_color: is_interactive && !is_set("NO_COLOR") }
    }

    /// Sends log lines to stderr: information and up, with `debug` also what helps to understand a run. `OC_LOG`
    /// overrides which (`tracing`'s filter syntax).
    ///
    /// # Errors
    /// `OC_LOG` does not parse.
    pub fn init_logging(&self, debug: bool) -> Result<()> {
        let level = if debug { "debug" } else { "info" };
        let default = format!("warn,oc_cli={level},oc_eval={level},oc_engine={level},oc_kernels={level}");
        let filter = match std::env::var("OC_LOG") {
            Ok(text) if !text.is_empty() => EnvFilter::builder().parse(&text).map_err(|e| {
                Error::input(
                    format!("OC_LOG=`{text}` is not a log filter: {e}"),
                    "use a level (error, warn, info, debug, trace) or module=level pairs, comma-separated",
                )
            })?,
            _ => EnvFilter::new(default),
        };
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(self.clone())
            .with_ansi(self.has_color)
            .event_format(Lines { has_color: self.has_color })
            .init();
        Ok(())
    }

    /// Writes an error as `error: …`, a blank line, `hint: …`.
    pub fn error(&self, error: &Error) {
        let text = error.to_string();
        let (message, hint) = match text.split_once("\n\nhint: ") {
            Some((message, hint)) => (message, Some(hint)),
            None => (text.as_str(), None),
        };
        let mut out = format!("{} {message}\n", paint("error:", RED, self.has_color));
        if let Some(hint) = hint {
            out += &format!("\n{} {hint}\n", paint("hint:", CYAN, self.has_color));
        }
        self.write(out.as_bytes());
    }

    /// Writes above the bars. Nobody can be told when stderr itself is gone.
    fn write(&self, bytes: &[u8]) {
        self.bars.suspend(|| io::stderr().write_all(bytes).ok());
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Terminal::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Terminal {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Log lines for people: the message, after `warning:` or `debug:` unless it is plain information.
struct Lines {
    has_color: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (label, color) = match *event.metadata().level() {
            Level::ERROR => ("error: ", RED),
            Level::WARN => ("warning: ", YELLOW),
            Level::INFO => ("", ""),
            Level::DEBUG | Level::TRACE => ("debug: ", DIM),
        };
        out.write_str(&paint(label, color, self.has_color && !label.is_empty()))?;
        ctx.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const CYAN: &str = "1;36";
const DIM: &str = "2";

fn paint(text: &str, color: &str, has_color: bool) -> String {
    if has_color { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Standard output for data: nothing but data goes there, and a reader that has seen enough ends the program quietly.
pub struct Stdout(io::StdoutLock<'static>);

impl Stdout {
    /// Locks it.
    pub fn lock() -> Self {
        Self(io::stdout().lock())
    }

    /// Writes and flushes.
    ///
    /// # Errors
    /// [`Error::Stdout`].
    pub fn print(&mut self, text: impl fmt::Display) -> Result<()> {
        write!(self.0, "{text}").and_then(|()| self.0.flush()).map_err(Error::Stdout)
    }

    /// As [`print`](Self::print), and ends the line.
    ///
    /// # Errors
    /// [`Error::Stdout`].
    pub fn line(&mut self, text: impl fmt::Display) -> Result<()> {
        self.print(format_args!("{text}\n"))
    }
}
