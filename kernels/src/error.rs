//! The one error type of this crate.

/// What a kernel, a backend or a packed weight can refuse.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two shapes that must agree do not. `what` names the operation and the operand.
    #[error("{what}: found shape {found}, wanted {wanted}")]
    Shape {
        /// Operation and operand, e.g. `linear: input`.
        what: &'static str,
        /// The shape that was passed.
        found: String,
        /// The shape that the operation needs.
        wanted: String,
    },
    /// An index (token id, slot, page) lies outside its table.
    #[error("{what}: index {index} is outside 0..{len}")]
    Index {
        /// Operation and operand.
        what: &'static str,
        /// The offending index.
        index: usize,
        /// The length of the table.
        len: usize,
    },
    /// The backend cannot run what was asked (a dtype, a head size, a missing CPU feature).
    #[error("{0}")]
    Unsupported(String),
    /// Logits that are NaN or infinite: the weights or the inputs are broken.
    #[error("{what}: row {row} has logits that are not finite; the weights or the input are damaged")]
    NotFinite {
        /// Operation.
        what: &'static str,
        /// The row.
        row: usize,
    },
    /// The device refused or failed: a launch, a copy, a kernel that does not load.
    #[error("{device}: {message}")]
    Device {
        /// Name of the device.
        device: String,
        /// What happened, where, and what to do where something can be done.
        message: String,
    },
    /// A device that shares a model with others was waited for in vain, or would be.
    #[error("another device that shares the model has failed\n\nhint: load the model again")]
    GroupEnded,
    /// An allocation failed or would exceed the device's memory.
    #[error("{what} needs {bytes} bytes, which cannot be allocated on {device}")]
    OutOfMemory {
        /// What was to be allocated.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// Where.
        device: String,
    },
}

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
