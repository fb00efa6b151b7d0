//! The parts of a decoder layer, written once over [`oc_kernels::Backend`].

mod attention;
mod mlp;
mod rotary;
mod weights;

pub(crate) use attention::{Attention, AttentionSpace};
pub(crate) use mlp::Mlp;
pub(crate) use rotary::rotary_frequencies;
pub(crate) use weights::Weights;
