//! Ctrl-C and SIGTERM: the first ends a run cleanly, the second at once.

use crate::diagnostics::Terminal;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// What shells report for a program ended by Ctrl-C.
pub const EXIT_CODE: u8 = 130;

/// Becomes `true` with the first signal.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over the signals. Where the system refuses that, they keep their meaning: finished samples are on disk.
    pub fn install(terminal: &Terminal) -> Self {
        let interrupt = Self::default();
        let (flag, terminal) = (interrupt.clone(), terminal.clone());
        let installed = ctrlc::set_handler(move || {
            if flag.0.swap(true, Ordering::SeqCst) {
                // The terminal is left as it was found: without the bars.
                terminal.bars.clear().ok();
                std::process::exit(EXIT_CODE.into());
            }
            tracing::warn!("stopping after the present sample; once more stops at once (finished samples are kept)");
        });
        if let Err(error) = installed {
            tracing::debug!("Ctrl-C keeps its default meaning: {error}");
        }
        interrupt
    }

    /// Whether to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
