//! Every instruction of the emulator against the PTX ISA's definition, written down here a second time.

#[path = "emulator/barriers.rs"]
mod barriers;
#[path = "emulator/conversions.rs"]
mod conversions;
#[path = "emulator/device.rs"]
mod device;
#[path = "emulator/floats.rs"]
mod floats;
#[path = "emulator/flow.rs"]
mod flow;
#[path = "emulator/harness.rs"]
mod harness;
#[path = "emulator/integers.rs"]
mod integers;
#[path = "emulator/matrices.rs"]
mod matrices;
#[path = "emulator/memory.rs"]
mod memory;
#[path = "emulator/warps.rs"]
mod warps;
