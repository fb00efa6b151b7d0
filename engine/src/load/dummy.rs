//! Random weights of the right shapes, for benchmarks without a checkpoint.

use super::{ModelConfig, ModelFiles, Source, hash::hash, read_json};
use crate::{
    Result,
    layers::{Part, Store},
    models::decoder::Parameters,
    rank::Rank,
};
use half::bf16;
use oc_kernels::ops::Rng;
use std::{cell::RefCell, collections::BTreeMap, path::Path, thread};

/// Numbers that one generator makes: a tensor is the same whatever the number of threads.
const PIECE: usize = 1 << 16;

impl ModelFiles {
    /// A model of the shape that `path` gives, a `config.json` or a folder with one, and random weights in bf16 that are the
    /// same every time. They are made when they are read; what weights there are in the folder is not looked at.
    ///
    /// # Errors
    /// As for [`open`](Self::open), of the configuration.
    pub fn dummy(path: &Path) -> Result<Self> {
        let config_path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        Self::dummy_of(path, &read_json(&config_path)?)
    }

    /// As [`dummy`](Self::dummy), of this `config.json`; `path` is its name in messages.
    ///
    /// # Errors
    /// As for [`open`](Self::open), of the configuration.
    pub fn dummy_of(path: &Path, config: &serde_json::Value) -> Result<Self> {
        let config = ModelConfig::from_json(path, config, None)?;
        let mut files = Self { path: path.to_owned(), config, source: Source::Dummy(BTreeMap::new()) };
        let shapes = Shapes::default();
        Parameters::load(&shapes, &files, Rank::ALONE, &mut |_, _| {})?;
        files.source = Source::Dummy(shapes.0.into_inner());
        Ok(files)
    }
}

/// Notes the names and shapes that a decoder asks for.
#[derive(Default)]
struct Shapes(RefCell<BTreeMap<String, Vec<usize>>>);

impl Store for Shapes {
    type Matrix = ();
    type Vector = ();

    fn part(&self, _: &ModelFiles, name: String, shape: &[usize]) -> Result<Part> {
        self.0.borrow_mut().insert(name.clone(), shape.to_vec());
        Ok(Part::new(name, super::WeightFormat::Bf16, shape[0]))
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

/// The bytes of the tensor `name` in bf16. A row of a matrix has the length 1 on average, so that activations stay in range
/// through any number of layers; the factors of norms are ones.
pub(super) fn values(name: &str, shape: &[usize]) -> Vec<u8> {
    let elements: usize = shape.iter().product();
    if name.ends_with("norm.weight") {
        return bf16::ONE.to_le_bytes().repeat(elements);
    }
    let scale = (3.0 / *shape.last().unwrap_or(&1) as f32).sqrt();
    let seed = hash(name.as_bytes()) as u64;
    let mut bytes = vec![0; 2 * elements];
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    let pieces = elements.div_ceil(PIECE).div_ceil(threads).max(1);
    thread::scope(|scope| {
        for (start, part) in bytes.chunks_mut(2 * PIECE * pieces).enumerate() {
            scope.spawn(move || {
                for (index, piece) in part.chunks_mut(2 * PIECE).enumerate() {
                    fill(piece, scale, &mut Rng(seed.wrapping_add((start * pieces + index) as u64 * PIECE as u64)));
                }
            });
        }
    });
    bytes
}

/// Numbers of uniform distribution between `-scale` and `scale`, four from each number of the generator.
fn fill(bytes: &mut [u8], scale: f32, rng: &mut Rng) {
    for four in bytes.chunks_mut(8) {
        let bits = rng.bits().to_le_bytes();
        for (out, bits) in four.as_chunks_mut::<2>().0.iter_mut().zip(bits.as_chunks::<2>().0) {
            let uniform = f32::from(i16::from_le_bytes(*bits)) / 32768.0;
            *out = bf16::from_f32(uniform * scale).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
    }

    #[test]
    fn tensors_are_those_of_the_real_files() {
        for name in ["llama", "llama-tied", "qwen2", "internlm"] {
            let (real, dummy) = (ModelFiles::open(&fixture(name)).unwrap(), ModelFiles::dummy(&fixture(name)).unwrap());
            let names: Vec<&str> = dummy.tensor_names().collect();
            assert_eq!(names, real.tensor_names().collect::<Vec<_>>(), "{name}");
            for tensor in names {
                let made = dummy.tensor(tensor).unwrap();
                assert_eq!(made.shape, real.shape(tensor).unwrap().0, "{name}: {tensor}");
                assert_eq!(made.data.len(), 2 * made.shape.iter().product::<usize>(), "{name}: {tensor}");
            }
        }
    }

    #[test]
    fn values_are_random_in_range_and_repeatable() {
        let shape = [300, 512];
        let bytes = values("model.layers.0.mlp.up_proj.weight", &shape);
        assert_eq!(bytes, values("model.layers.0.mlp.up_proj.weight", &shape));
        assert_ne!(bytes, values("model.layers.1.mlp.up_proj.weight", &shape));
        let numbers: Vec<f64> =
            bytes.as_chunks::<2>().0.iter().map(|b| f64::from(bf16::from_le_bytes(*b).to_f32())).collect();
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        let square = numbers.iter().map(|x| x * x).sum::<f64>() / numbers.len() as f64;
        // The mean of 153,600 numbers of variance 1/512 has a deviation of 1.1e-4.
        assert!(mean.abs() < 6e-4 && (square * 512.0 - 1.0).abs() < 0.02, "{mean}, {square}");
        let half = numbers.len() / 2;
        assert_ne!(numbers[..half], numbers[half..]);
    }
}
