//! What differs between GPU generations: one file with the tile table of each target that kernels are compiled for.

pub(super) mod compute_80;
