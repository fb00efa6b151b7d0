//! The compiled kernels: one [`Module`] per kernel file, embedded in the binary.

use super::device::Module;

/// `ptx/compute_80/<name>.ptx`, as a constant and a row of [`ALL`].
macro_rules! modules {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(
            #[doc = concat!("`", $file, ".cu`")]
            pub static $name: Module = Module {
                name: $file,
                ptx: include_str!(concat!("../../ptx/compute_80/", $file, ".ptx")),
            };
        )*
        /// Every module.
        pub static ALL: &[&Module] = &[$(&$name),*];
    };
}

modules! {
    ACTIVATE = "activate",
    ADD = "add",
    ARGMAX = "argmax",
    ATTENTION_128 = "attention_128",
    ATTENTION_16 = "attention_16",
    ATTENTION_256 = "attention_256",
    ATTENTION_64 = "attention_64",
    ATTENTION_80 = "attention_80",
    ATTENTION_96 = "attention_96",
    ATTENTION_MERGE = "attention_merge",
    CONVERT = "convert",
    COPY_PAGES = "copy_pages",
    GATHER_ROWS = "gather_rows",
    GEMM = "gemm",
    LAYER_NORM = "layer_norm",
    LOG_PROB = "log_prob",
    RMS_NORM = "rms_norm",
    ROTARY_STORE_KV = "rotary_store_kv",
    SAMPLE = "sample",
    SAMPLED_IDS = "sampled_ids",
    SILU_MUL = "silu_mul",
}
