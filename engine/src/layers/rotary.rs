//! Rotary frequencies (arXiv 2104.09864) and their changes for long contexts.

use crate::{ModelConfig, RopeScaling};

/// The angle per position of each pair of elements. `[head_dim / 2]`
pub(crate) fn rotary_frequencies(config: &ModelConfig) -> Vec<f32> {
    let base = |i: usize| {
        // As Hugging Face computes it: exponent, power and reciprocal each rounded to f32.
        let exponent = (2 * i) as f32 / config.head_dim as f32;
        1.0 / config.rope_theta.powf(f64::from(exponent)) as f32
    };
    (0..config.head_dim / 2).map(|i| scaled(base(i), config.rope_scaling)).collect()
}

fn scaled(frequency: f32, scaling: RopeScaling) -> f32 {
    match scaling {
        RopeScaling::None | RopeScaling::Dynamic { .. } => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            let (frequency, original) = (f64::from(frequency), original_max_position as f64);
            let wavelength = std::f64::consts::TAU / frequency;
            let scaled = if wavelength < original / high_freq_factor {
                frequency
            } else if wavelength > original / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            };
            scaled as f32
        }
    }
}
