//! From named tensors of a model to packed weights on a device, shapes checked on the way.

use crate::{ModelFiles, Result};
use oc_kernels::Backend;

/// The tensors under one prefix.
pub(crate) struct Weights<'a, B> {
    backend: &'a B,
    files: &'a ModelFiles,
    prefix: String,
}

impl<'a, B: Backend> Weights<'a, B> {
    /// All tensors of a model.
    pub fn new(backend: &'a B, files: &'a ModelFiles) -> Self {
        Self { backend, files, prefix: String::new() }
    }

    /// The tensors of one layer.
    pub fn layer(&self, index: usize) -> Self {
        Self { prefix: format!("model.layers.{index}."), ..*self }
    }

    /// Matrices that share their input of `cols` features, stacked: `(name, rows)` each.
    pub fn matrix(&self, parts: &[(&str, usize)], cols: usize) -> Result<B::Weight> {
        let mut tensors = Vec::with_capacity(parts.len());
        for (name, rows) in parts {
            let tensor = self.files.tensor(&format!("{}{name}", self.prefix))?;
            tensor.expect_shape(&[*rows, cols])?;
            tensors.push(tensor);
        }
        let views = tensors.iter().map(|tensor| tensor.view()).collect::<Result<Vec<_>>>()?;
        let weight = self.backend.weight(&views)?;
        tensors.iter().for_each(|tensor| self.files.release(tensor));
        Ok(weight)
    }

    /// A vector of `len` parameters.
    pub fn vector(&self, name: &str, len: usize) -> Result<B::Tensor> {
        self.vectors(&[(name, len)])
    }

    /// Vectors, concatenated: `(name, len)` each.
    pub fn vectors(&self, parts: &[(&str, usize)]) -> Result<B::Tensor> {
        let mut values = Vec::new();
        for (name, len) in parts {
            let tensor = self.files.tensor(&format!("{}{name}", self.prefix))?;
            tensor.expect_shape(&[*len])?;
            values.extend(tensor.to_f32()?);
        }
        Ok(self.backend.upload(&values, 1, values.len())?)
    }
}
