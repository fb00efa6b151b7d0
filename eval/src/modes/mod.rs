//! How questions become requests, one file per mode.

pub(crate) mod r#gen;
