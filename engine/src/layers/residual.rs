//! Products that are added to the residual stream, whole or as the parts that several devices have of them.

use crate::Result;
use oc_kernels::{Backend, Epilogue};

/// Where the parts of several devices meet. `T` is the number of rows.
pub(crate) struct Parts<T> {
    /// This device's. `[T, hidden_size]`
    own: T,
    /// Those of all devices, below one another. `[devices * T, hidden_size]`
    all: T,
    devices: usize,
}

impl<T> Parts<T> {
    /// Room for `capacity` rows.
    pub fn new<B: Backend<Tensor = T>>(
        backend: &B,
        hidden_size: usize,
        capacity: usize,
        devices: usize,
    ) -> Result<Self> {
        let (own, all) = (backend.tensor(capacity, hidden_size)?, backend.tensor(devices * capacity, hidden_size)?);
        Ok(Self { own, all, devices })
    }

    pub fn set_rows<B: Backend<Tensor = T>>(&mut self, backend: &B, rows: usize) -> Result<()> {
        backend.set_rows(&mut self.own, rows)?;
        Ok(backend.set_rows(&mut self.all, self.devices * rows)?)
    }
}

/// Adds `x · wᵀ + bias` to `hidden`. With `parts` the product is the sum of all devices', of which one has the bias; every
/// device adds them in the same order.
pub(crate) fn add_product<B: Backend>(
    backend: &B,
    x: &B::Tensor,
    w: &B::Weight,
    bias: Option<&B::Tensor>,
    parts: Option<&mut Parts<B::Tensor>>,
    hidden: &mut B::Tensor,
) -> Result<()> {
    let Some(Parts { own, all, .. }) = parts else {
        return Ok(backend.linear(x, w, bias, Epilogue::Accumulate, hidden)?);
    };
    backend.linear(x, w, bias, Epilogue::Store, own)?;
    backend.all_gather(own, all)?;
    Ok(backend.add(all, hidden)?)
}
