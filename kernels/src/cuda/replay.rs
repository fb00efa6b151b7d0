//! Steps of generated tokens, recorded once per size and replayed: a step of a small model is otherwise as long as the host
//! takes to launch its kernels.
//!
//! A recorded launch has its parameters, pointers included, forever. So rows are padded to a bucket, work lists to a power
//! of two, and all that changes from step to step is read from device memory at addresses that the key names.

use std::{collections::HashMap, sync::PoisonError};

use super::{
    CudaBackend, CudaBatch,
    device::{DevicePtr, Graph},
};
use crate::{Error, Result};

/// Steps of more rows are launched kernel by kernel: the GPU takes longer for them than the host.
const MAX_ROWS: usize = 512;
/// Recorded steps that are kept.
const MAX_GRAPHS: usize = 64;

/// What recorded launches depend on: sizes of grids, and where what changes stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Rows, those that are padding included.
    pub rows: usize,
    /// Items of the narrow and of the wide attention kernel.
    pub items: [usize; 2],
    /// The packed lists of the batch, and the partial results of attention.
    pub addresses: [DevicePtr; 3],
}

/// Recorded steps; `None` for one that was seen once and ran kernel by kernel.
pub(super) type Graphs = HashMap<Key, Option<Box<dyn Graph>>>;

/// Rows that a step of `rows` generated tokens is padded to.
pub(super) fn bucket(rows: usize) -> usize {
    match rows {
        0..=16 => rows.next_power_of_two(),
        17..=64 => rows.next_multiple_of(16),
        65..=MAX_ROWS => rows.next_multiple_of(64),
        _ => rows,
    }
}

/// Whether steps of so many rows are recorded.
pub(super) fn is_recorded(rows: usize) -> bool {
    (1..=MAX_ROWS).contains(&rows) && bucket(rows) == rows
}

impl CudaBackend {
    /// As [`crate::Backend::replay`].
    pub(super) fn run_replayable<E: From<Error>>(
        &self,
        batch: &CudaBatch,
        work: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(key) = batch.replay else { return work() };
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        match graphs.get_mut(&key) {
            Some(Some(graph)) => Ok(graph.launch()?),
            Some(recorded) => {
                let mut worked = Ok(());
                let captured = self.device().capture(&mut || {
                    worked = work();
                    let given_up = || Error::Unsupported("recording a step whose work failed".into());
                    worked.is_ok().then_some(()).ok_or_else(given_up)
                });
                worked?;
                let graph = captured?;
                graph.launch()?;
                *recorded = Some(graph);
                Ok(())
            }
            None => {
                // The first time also loads kernels, and many a step comes only once.
                if graphs.len() == MAX_GRAPHS {
                    graphs.clear();
                }
                graphs.insert(key, None);
                drop(graphs);
                work()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_rows_and_waste_less_than_half() {
        for rows in 1..=MAX_ROWS {
            let padded = bucket(rows);
            assert!(padded >= rows && padded < 2 * rows.max(1) && is_recorded(padded), "{rows} rows in {padded}");
        }
        assert!(!is_recorded(0) && !is_recorded(3) && !is_recorded(MAX_ROWS + 64));
        assert_eq!(bucket(MAX_ROWS + 1), MAX_ROWS + 1);
    }
}
