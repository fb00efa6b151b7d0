//! A device among several that share a model, and what its part of the model is.
//!
//! Attention is cut by key/value heads, with the query heads that read them, and the MLP by its inner width: rows of what
//! makes them, columns of what comes back. Embeddings, norms and the output head are on every device.

use crate::{Error, ModelConfig, Result};

/// The fewest devices, of the divisors of `most`, each of which `fits` its part.
///
/// # Errors
/// Why the largest number that the model can be cut over is too small; what else `fits` refuses.
pub(crate) fn fewest(most: usize, fits: impl Fn(Rank) -> Result<()>) -> Result<usize> {
    let mut too_large = None;
    for count in (1..=most).filter(|count| most.is_multiple_of(*count)) {
        match fits(Rank::first(count)) {
            Ok(()) => return Ok(count),
            Err(error @ Error::OutOfMemory { .. }) => too_large = Some(error),
            // It cannot be cut so; over more devices it may.
            Err(Error::Unsupported { .. }) if too_large.is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Err(too_large.unwrap_or(Error::Unsupported { what: "a model on no GPU".into(), hint: "use one at least".into() }))
}

/// One of `count` devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rank {
    /// Which, from 0.
    pub index: usize,
    /// Devices that share the model.
    pub count: usize,
}

impl Rank {
    /// A device that has a model for itself.
    pub const ALONE: Self = Self { index: 0, count: 1 };

    /// The first of `count` devices.
    pub fn first(count: usize) -> Self {
        Self { index: 0, count: count.max(1) }
    }

    /// All of as many devices.
    pub fn all(self) -> impl Iterator<Item = Self> {
        (0..self.count).map(move |index| Self { index, ..self })
    }

    /// The sizes of this device's part of the model of `config`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that cannot be cut into as many equal parts.
    pub fn config(self, config: &ModelConfig) -> Result<ModelConfig> {
        let sizes = [("key/value heads", config.num_kv_heads), ("numbers inside the MLP", config.intermediate_size)];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !size.is_multiple_of(self.count)) {
            let fits = |count: &usize| sizes.iter().all(|(_, size)| size.is_multiple_of(*count));
            let fitting: Vec<String> = (1..=config.num_kv_heads).filter(fits).map(|count| count.to_string()).collect();
            return Err(Error::Unsupported {
                what: format!("a model with {size} {name} cut over {} devices", self.count),
                hint: format!("it can be cut over {} (--tensor-parallel-size)", fitting.join(" or ")),
            });
        }
        Ok(ModelConfig {
            num_heads: config.num_heads / self.count,
            num_kv_heads: config.num_kv_heads / self.count,
            intermediate_size: config.intermediate_size / self.count,
            ..config.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_cut_over_as_few_devices_as_hold_it() {
        let out_of_memory = || Error::OutOfMemory { what: "the model", needed: 2, available: 1, hint: String::new() };
        let not_so = || Error::Unsupported { what: "a model".into(), hint: String::new() };
        // Needs `least`, and cannot be cut over 3.
        let fits = |least: usize| {
            move |rank: Rank| match rank.count {
                3 => Err(not_so()),
                count if count < least => Err(out_of_memory()),
                _ => Ok(()),
            }
        };
        assert_eq!(fewest(1, fits(1)).unwrap(), 1);
        assert_eq!(fewest(8, fits(1)).unwrap(), 1);
        assert_eq!(fewest(8, fits(2)).unwrap(), 2);
        assert_eq!(fewest(8, fits(3)).unwrap(), 4);
        assert_eq!(fewest(6, fits(3)).unwrap(), 6);
        assert!(matches!(fewest(4, fits(5)), Err(Error::OutOfMemory { .. })));
        assert!(matches!(fewest(4, |_| Err(not_so())), Err(Error::Unsupported { .. })));
    }
}
