//! OPT (Meta).

use super::{Model, base};

pub(super) static MODELS: [Model; 2] = [
    base("hf_opt_125m", "opt-125m-hf", "facebook/opt-125m").batch_size(64).variable("opt125m"),
    base("hf_opt_350m", "opt-350m-hf", "facebook/opt-350m").batch_size(32).variable("opt350m"),
];
