//! The parts of a decoder layer, written once over [`oc_kernels::Backend`].

mod attention;
mod mlp;
mod norm;
mod residual;
mod rotary;
mod weights;

pub(crate) use attention::{Attention, AttentionSpace};
pub(crate) use mlp::{Mlp, MlpSpace};
pub(crate) use norm::Norm;
pub(crate) use residual::{Parts, add_product};
pub(crate) use rotary::Rotary;
pub(crate) use weights::{Check, Count, Elements, Pack, Part, Store, Weights};
