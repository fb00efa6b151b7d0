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
    RMS_NORM = "rms_norm",
}
