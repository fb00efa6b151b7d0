//! The CUDA backend: hand-written kernels in `src/<arch>/*.cu`, shipped as PTX, run by the driver or the emulator.

pub mod device;
