//! From named tensors of a model to parameters, shapes checked on the way: packed on a device, or only counted.

use crate::{Error, ModelFiles, Result, Tensor, load::Share, rank::Rank};
use oc_kernels::{Backend, WeightFormat};
use std::{borrow::Cow, cell::RefCell};

/// What becomes of the parameters of a model.
pub(crate) trait Store {
    /// A weight matrix.
    type Matrix;
    /// A vector of parameters.
    type Vector;

    /// The tensor `name`, if it is there and has this shape.
    fn part(&self, files: &ModelFiles, name: String, shape: &[usize]) -> Result<Part> {
        let format = files.expect(&name, shape)?;
        Ok(Part::new(name, format, shape[0]))
    }

    /// Matrices that share their input of `cols` features, stacked.
    fn matrix(&self, files: &ModelFiles, parts: &[Part], cols: usize) -> Result<Self::Matrix>;
    /// A gate and an up projection of the same shape, for a gated linear layer.
    fn gated(&self, files: &ModelFiles, parts: &[Part; 2], cols: usize) -> Result<Self::Matrix> {
        self.matrix(files, parts, cols)
    }
    /// Vectors, concatenated.
    fn vector(&self, files: &ModelFiles, parts: &[Part]) -> Result<Self::Vector>;
    /// `len` ones.
    fn ones(&self, len: usize) -> Result<Self::Vector>;
}

/// A tensor whose shape is right: `[rows, cols]` of a matrix, `[rows]` of a vector.
pub(crate) struct Part {
    name: String,
    format: WeightFormat,
    rows: usize,
    /// Which share of the tensor it is, if not all of it; `rows` are the share's.
    share: Option<Share>,
}

impl Part {
    /// `rows`: the first number of its shape.
    pub fn new(name: String, format: WeightFormat, rows: usize) -> Self {
        Self { name, format, rows, share: None }
    }
}

/// The tensors under one prefix, on their way to a store.
pub(crate) struct Weights<'a, S> {
    store: &'a S,
    files: &'a ModelFiles,
    /// The device that the parameters are for.
    rank: Rank,
    /// The axis along which devices share what is asked for next.
    axis: Option<usize>,
    prefix: String,
}

impl<'a, S: Store> Weights<'a, S> {
    /// All tensors of a model, for the device `rank`: sizes that are asked for are those of its own part.
    pub fn new(store: &'a S, files: &'a ModelFiles, rank: Rank) -> Self {
        Self { store, files, rank, axis: None, prefix: String::new() }
    }

    /// The same, of which each device has some rows (of vectors: some numbers).
    pub fn by_rows(&self) -> Self {
        Self { axis: Some(0), prefix: self.prefix.clone(), ..*self }
    }

    /// The same, of which each device has some columns.
    pub fn by_cols(&self) -> Self {
        Self { axis: Some(1), prefix: self.prefix.clone(), ..*self }
    }

    /// The tensors of one layer.
    pub fn layer(&self, index: usize) -> Self {
        Self { prefix: format!("model.layers.{index}."), ..*self }
    }

    /// Matrices that share their input of `cols` features, stacked: `(name, rows)` each.
    pub fn matrix(&self, parts: &[(&str, usize)], cols: usize) -> Result<S::Matrix> {
        let part = |(name, rows): &(&str, usize)| self.part(name, &[*rows, cols]);
        let parts = parts.iter().map(part).collect::<Result<Vec<_>>>()?;
        self.store.matrix(self.files, &parts, cols)
    }

    /// A gate and an up projection, `[rows, cols]` each, for a gated linear layer.
    pub fn gated(&self, gate: &str, up: &str, rows: usize, cols: usize) -> Result<S::Matrix> {
        let [gate, up] = [gate, up].map(|name| self.part(name, &[rows, cols]));
        self.store.gated(self.files, &[gate?, up?], cols)
    }

    /// Vectors, concatenated: `(name, len)` each.
    pub fn vectors(&self, parts: &[(&str, usize)]) -> Result<S::Vector> {
        let part = |(name, len): &(&str, usize)| {
            let part = self.part(name, &[*len])?;
            crate::load::expect_floats(&part.name, part.format)?;
            Ok(part)
        };
        let parts = parts.iter().map(part).collect::<Result<Vec<_>>>()?;
        self.store.vector(self.files, &parts)
    }

    /// A vector of `len` parameters.
    pub fn vector(&self, name: &str, len: usize) -> Result<S::Vector> {
        self.vectors(&[(name, len)])
    }

    /// Vectors, concatenated, if the model has them.
    pub fn biases(&self, has: bool, parts: &[(&str, usize)]) -> Result<Option<S::Vector>> {
        has.then(|| self.vectors(parts)).transpose()
    }

    /// As [`biases`](Self::biases), of a product that is the sum of all devices': one of them adds the bias.
    pub fn biases_of_sum(&self, has: bool, parts: &[(&str, usize)]) -> Result<Option<S::Vector>> {
        self.biases(has && self.rank.index == 0, parts)
    }

    /// `len` ones.
    pub fn ones(&self, len: usize) -> Result<S::Vector> {
        self.store.ones(len)
    }

    /// The tensor of which this device has a part of this shape.
    fn part(&self, name: &str, shape: &[usize]) -> Result<Part> {
        let name = format!("{}{name}", self.prefix);
        let Some(axis) = self.axis.filter(|_| self.rank != Rank::ALONE) else {
            return self.store.part(self.files, name, shape);
        };
        let Rank { index, count } = self.rank;
        let mut whole = shape.to_vec();
        whole[axis] *= count;
        let part = self.store.part(self.files, name, &whole)?;
        let share = Share { axis, index, count };
        share.check(&part.name, part.format, &whole)?;
        Ok(Part { rows: shape[0], share: Some(share), ..part })
    }
}

/// The share of `whole` that `part` is.
fn own<'a>(whole: &'a Tensor<'_>, part: &Part) -> Tensor<'a> {
    match part.share {
        Some(share) => whole.share(share),
        None => Tensor {
            data: Cow::Borrowed(&whole.data),
            name: whole.name.clone(),
            shape: whole.shape.clone(),
            format: whole.format,
        },
    }
}

/// Packs parameters on a device, and gives the file's pages back to the operating system one tensor after the other.
pub(crate) struct Pack<'a, B>(pub &'a B);

impl<B: Backend> Store for Pack<'_, B> {
    type Matrix = B::Weight;
    type Vector = B::Tensor;

    fn matrix(&self, files: &ModelFiles, parts: &[Part], _: usize) -> Result<B::Weight> {
        let tensors = parts.iter().map(|part| files.tensor(&part.name)).collect::<Result<Vec<_>>>()?;
        let own: Vec<_> = tensors.iter().zip(parts).map(|(tensor, part)| own(tensor, part)).collect();
        let views = own.iter().map(|tensor| tensor.view()).collect::<Result<Vec<_>>>()?;
        let weight = self.0.weight(&views)?;
        tensors.iter().for_each(|tensor| files.release(tensor));
        Ok(weight)
    }

    fn gated(&self, files: &ModelFiles, parts: &[Part; 2], _: usize) -> Result<B::Weight> {
        let tensors = [files.tensor(&parts[0].name)?, files.tensor(&parts[1].name)?];
        let [gate, up] = [own(&tensors[0], &parts[0]), own(&tensors[1], &parts[1])];
        let weight = self.0.gated_weight(&gate.view()?, &up.view()?)?;
        tensors.iter().for_each(|tensor| files.release(tensor));
        Ok(weight)
    }

    fn vector(&self, files: &ModelFiles, parts: &[Part]) -> Result<B::Tensor> {
        let mut values = Vec::new();
        for part in parts {
            values.extend(own(&files.tensor(&part.name)?, part).to_f32()?);
        }
        Ok(self.0.upload(&values, 1, values.len())?)
    }

    fn ones(&self, len: usize) -> Result<B::Tensor> {
        Ok(self.0.upload(&vec![1.0; len], 1, len)?)
    }
}

/// Makes a list of everything that is missing or wrong, up to a limit: a configuration may claim any number of layers.
#[derive(Default)]
pub(crate) struct Check(pub RefCell<Vec<Error>>);

impl Check {
    const MOST: usize = 64;
}

impl Store for Check {
    type Matrix = ();
    type Vector = ();

    fn part(&self, files: &ModelFiles, name: String, shape: &[usize]) -> Result<Part> {
        let format = files.expect(&name, shape).or_else(|error| {
            let mut found = self.0.borrow_mut();
            if found.len() == Self::MOST {
                return Err(error);
            }
            found.push(error);
            Ok(WeightFormat::F32)
        })?;
        Ok(Part::new(name, format, shape[0]))
    }

    fn matrix(&self, _: &ModelFiles, _: &[Part], _: usize) -> Result<()> {
        Ok(())
    }

    fn vector(&self, _: &ModelFiles, _: &[Part]) -> Result<()> {
        Ok(())
    }

    fn ones(&self, _: usize) -> Result<()> {
        Ok(())
    }
}

/// Counts the bytes that matrices take once they are packed, and reads none of them.
pub(crate) struct Count<'a, B>(pub &'a B);

impl<B: Backend> Store for Count<'_, B> {
    type Matrix = usize;
    type Vector = ();

    fn matrix(&self, _: &ModelFiles, parts: &[Part], cols: usize) -> Result<usize> {
        let parts: Vec<(WeightFormat, usize)> = parts.iter().map(|part| (part.format, part.rows)).collect();
        Ok(self.0.packed_bytes(&parts, cols))
    }

    fn vector(&self, _: &ModelFiles, _: &[Part]) -> Result<()> {
        Ok(())
    }

    fn ones(&self, _: usize) -> Result<()> {
        Ok(())
    }
}

/// Counts the numbers in matrices.
pub(crate) struct Elements;

impl Store for Elements {
    type Matrix = usize;
    type Vector = ();

    fn matrix(&self, _: &ModelFiles, parts: &[Part], cols: usize) -> Result<usize> {
        Ok(parts.iter().map(|part| part.rows).sum::<usize>().saturating_mul(cols))
    }

    fn vector(&self, _: &ModelFiles, _: &[Part]) -> Result<()> {
        Ok(())
    }

    fn ones(&self, _: usize) -> Result<()> {
        Ok(())
    }
}
