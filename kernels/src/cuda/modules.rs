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
    ATTENTION_16 = "attention_16",
    ATTENTION_64 = "attention_64",
    ATTENTION_80 = "attention_80",
    ATTENTION_96 = "attention_96",
    ATTENTION_128 = "attention_128",
    ATTENTION_256 = "attention_256",
    ATTENTION_MERGE = "attention_merge",
    RMS_NORM = "rms_norm",
}
