//! The backends that an engine is loaded on: one, or one for each device that the model is cut over.

use crate::{Device, EngineOptions, Result, memory::Owner};
use oc_kernels::{
    Dtype,
    collective::Member,
    cpu::{CpuBackend, CpuOptions, SimdLevel},
    cuda::{CudaBackend, Peer, device::Device as CudaDevice, driver, nccl},
    emulator::{Emulator, EmulatorOptions},
};
use std::{sync::Arc, thread};

/// The backends of one model, and the memory of each in bytes, if that is known.
pub(crate) struct Backends<B> {
    pub all: Vec<B>,
    pub memory: (Option<usize>, Owner),
}

/// On processors: in bf16 where the processor has it, unless something else is asked for. Several share its threads, and
/// `available` memory.
pub(crate) fn cpu(options: &EngineOptions, available: Option<usize>) -> Result<Backends<CpuBackend>> {
    let count = options.tensor_parallel.max(1);
    let best = if SimdLevel::detect() == SimdLevel::Avx512Bf16 { Dtype::Bf16 } else { Dtype::F32 };
    let dtype = options.dtype.unwrap_or(best);
    let backend = |threads| CpuBackend::new(CpuOptions { threads, dtype, level: None });
    let all = if count == 1 {
        vec![backend(options.threads.unwrap_or(0))?]
    } else {
        let threads = options.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, |n| n.get()));
        let members = Member::group(count).into_iter();
        members.map(|member| Ok(backend((threads / count).max(1))?.in_group(member))).collect::<Result<_>>()?
    };
    Ok(Backends { all, memory: (available.map(|available| available / count), Owner::Shared) })
}

/// The devices that `options` name, which run CUDA kernels.
///
/// # Errors
/// A GPU that is not there or cannot be used.
pub(crate) fn cuda_devices(options: &EngineOptions) -> Result<Vec<Arc<dyn CudaDevice>>> {
    let emulator = || Arc::new(Emulator::new(EmulatorOptions::default())) as Arc<dyn CudaDevice>;
    let open = |index| match options.device {
        Device::Emulator => Ok(emulator()),
        Device::Auto | Device::Cpu | Device::Cuda => Ok(driver::open(options.gpu + index)?),
    };
    (0..options.tensor_parallel.max(1)).map(open).collect()
}

/// The CUDA kernels on `devices`: in bf16 unless f16 is asked for.
///
/// # Errors
/// What a device cannot do; several GPUs without NCCL.
pub(crate) fn cuda(devices: Vec<Arc<dyn CudaDevice>>, options: &EngineOptions) -> Result<Backends<CudaBackend>> {
    let count = devices.len();
    let is_emulated = options.device == Device::Emulator;
    let peers: Vec<Box<dyn Peer>> = match count {
        1 => Vec::new(),
        _ if is_emulated => Member::group(count).into_iter().map(|member| Box::new(member) as Box<dyn Peer>).collect(),
        _ => nccl::group(&devices, options.gpu)?.into_iter().map(|rank| Box::new(rank) as Box<dyn Peer>).collect(),
    };
    // Less what NCCL has taken.
    let free =
        devices.iter().map(|device| device.free_bytes()).collect::<oc_kernels::Result<Vec<_>>>()?.into_iter().min();
    let free = free.and_then(|bytes| usize::try_from(bytes).ok());
    // The emulator's memory is the machine's.
    let memory = if is_emulated { (free.map(|free| free / count), Owner::Shared) } else { (free, Owner::Ours) };
    let mut peers = peers.into_iter();
    let backend = |device| {
        // An exchange is not recorded with the kernels around it: that would tie graphs to the lives of communicators.
        let backend = cuda_alone(device, options)?.for_engine(options.cuda_graphs && count == 1);
        Ok(match peers.next() {
            Some(peer) => backend.in_group(peer),
            None => backend,
        })
    };
    Ok(Backends { all: devices.into_iter().map(backend).collect::<Result<_>>()?, memory })
}

/// As [`cuda`], on one device, for questions that need no other.
pub(crate) fn cuda_alone(device: Arc<dyn CudaDevice>, options: &EngineOptions) -> Result<CudaBackend> {
    Ok(CudaBackend::new(device, options.dtype.unwrap_or(Dtype::Bf16))?)
}
