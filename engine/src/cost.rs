//! The floor of a forward pass: weights and keys and values read once, every multiplication done once.

use crate::{
    ModelFiles, Result,
    layers::{Count, Elements},
    models::decoder::Parameters,
    rank::Rank,
};
use oc_kernels::{
    Backend,
    ops::{Cost, Unit},
};

/// The share of a model's matrices in a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightCost {
    unit: Unit,
    /// Numbers of a token's queries, over all layers.
    attended: usize,
    /// Numbers that every token is multiplied with, and their bytes.
    body: (usize, usize),
    /// The same of the output matrix, which only rows with logits meet.
    output: (usize, usize),
}

impl WeightCost {
    /// On one of several devices, of its part.
    pub fn new<B: Backend>(backend: &B, files: &ModelFiles, rank: Rank) -> Result<Self> {
        let config = rank.config(files.config())?;
        let unit = Unit::of_products(backend.info().dtype);
        let numbers = Parameters::load(&Elements, files, rank, &mut |_, _| {})?;
        let bytes = Parameters::load(&Count(backend), files, rank, &mut |_, _| {})?;
        Ok(Self {
            unit,
            attended: config.num_layers * config.num_heads * config.head_dim,
            body: (numbers.body().sum(), bytes.body().sum()),
            output: (*numbers.output(), *bytes.output()),
        })
    }

    /// As [`Engine::cost`](crate::Engine::cost); `token_bytes`: of keys and values, over all layers.
    pub fn step(&self, token_bytes: usize, sequences: &[(usize, usize)], outputs: usize) -> Cost {
        let tokens: usize = sequences.iter().map(|(new, _)| new).sum();
        // A token at position p, from 0, multiplies with p + 1 keys and as many values.
        let pairs: f64 =
            sequences.iter().map(|(new, context)| *new as f64 * (*context as f64 - (*new as f64 - 1.0) / 2.0)).sum();
        let products = 4.0 * pairs * self.attended as f64;
        let linear = 2.0 * (tokens as f64 * self.body.0 as f64 + outputs as f64 * self.output.0 as f64);
        // Keys and values of the context are read, those of new tokens written.
        let kv: usize = sequences.iter().map(|(new, context)| new + context).sum();
        let output = if outputs > 0 { self.output.1 } else { 0 };
        Cost { bytes: (self.body.1 + output + kv * token_bytes) as f64, flops: linear + products, unit: self.unit }
    }
}
