//! How the model is asked, and what its answers mean: one file per way of asking, `fit` for what they share.

pub(crate) mod fit;
pub(crate) mod r#gen;
pub(crate) mod ppl;
