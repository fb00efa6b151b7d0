//! Whether a backend computes right on the machine at hand: small problems of every operation against their references.
//!
//! A device that the tests never saw is trusted after this, and only then chosen by itself.

use crate::{
    Backend, Error, Result,
    ops::{self, Rng, Shape},
};

/// Problems of each operation.
const PROBLEMS: u64 = 3;

/// Tries every operation; returns how many there are. On a device that works it takes well under a second.
///
/// # Errors
/// The first operation that is wrong or refused, as [`Error::Device`].
pub fn self_check<B: Backend>(backend: &B) -> Result<usize> {
    let ops = ops::all::<B>();
    for op in &ops {
        let fault = |shape: &Shape, what: String| Error::Device {
            device: backend.info().name,
            message: format!("{} of {shape} is not right: {what}", op.name),
        };
        for seed in 1..=PROBLEMS {
            let shape = (op.random_shape)(&mut Rng(seed));
            let tried = (op.trial)(backend, &shape, seed, 1).and_then(|mut trial| trial.error());
            let error = tried.map_err(|e| fault(&shape, e.to_string()))?;
            let tolerance = op.tolerance_on(backend, &shape);
            // Not `error > tolerance`: NaN is wrong too.
            if !matches!(error.partial_cmp(&tolerance), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)) {
                return Err(fault(&shape, format!("error {error:.1e}, where {tolerance:.1e} is allowed")));
            }
        }
    }
    Ok(ops.len())
}
