//! Launches that are recorded once and run many times.

use std::{
    ffi::c_int,
    ptr::null_mut,
    sync::{Arc, PoisonError},
};

use cudarc::driver::sys::{CUgraph, CUgraphExec};

use super::{Inner, api::Status};
use crate::{Result, cuda::device::Graph};

/// `CU_STREAM_CAPTURE_MODE_RELAXED`: a kernel may be loaded while it is recorded.
const RELAXED: c_int = 2;

impl Inner {
    /// As [`Device::capture`](crate::cuda::device::Device::capture).
    pub(super) fn capture(self: &Arc<Self>, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Graph>> {
        let inner = self;
        let mut state = inner.enter("recording a graph", false)?;
        // SAFETY: the context is current, and the stream alive and not recording.
        unsafe { inner.api.stream_begin_capture(inner.stream, RELAXED) }
            .map_err(|status| inner.error(&state, "recording a graph", status))?;
        state.recorder = Some(std::thread::current().id());
        drop(state);
        let mut recording = Recording { inner, graph: null_mut(), is_open: true };
        let worked = work();
        let closed = recording.close();
        worked?;
        closed.map_err(|status| inner.late_error("recording a graph", status))?;
        let mut exec: CUgraphExec = null_mut();
        // SAFETY: the graph was recorded whole; `exec` may be written.
        unsafe { inner.api.graph_instantiate(&raw mut exec, recording.graph, 0) }
            .map_err(|status| inner.late_error("preparing a graph", status))?;
        Ok(Box::new(CudaGraph { inner: inner.clone(), exec }))
    }
}

/// A graph being recorded: the stream records nothing more when this is dropped, also by a panic.
struct Recording<'a> {
    inner: &'a Inner,
    graph: CUgraph,
    is_open: bool,
}

impl Recording<'_> {
    fn close(&mut self) -> Result<(), Status> {
        if !std::mem::take(&mut self.is_open) {
            return Ok(());
        }
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let api = &self.inner.api;
        // SAFETY: the context is retained; the stream records since `capture`; the graph may be written.
        let result = unsafe {
            api.context_set_current(self.inner.context)
                .and_then(|()| api.stream_end_capture(self.inner.stream, &raw mut self.graph))
        };
        state.recorder = None;
        for ptr in std::mem::take(&mut state.freed) {
            self.inner.release(ptr);
        }
        result
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.close().ok();
        if !self.graph.is_null() {
            // SAFETY: made by `close`; what was instantiated from it is a copy.
            unsafe { self.inner.api.graph_destroy(self.graph) }.ok();
        }
    }
}

/// A graph that can be run.
struct CudaGraph {
    inner: Arc<Inner>,
    exec: CUgraphExec,
}

// SAFETY: the handle is the driver's, which takes it from any thread; launches happen under the device's lock.
unsafe impl Send for CudaGraph {}
// SAFETY: as above.
unsafe impl Sync for CudaGraph {}

impl Graph for CudaGraph {
    fn launch(&self) -> Result<()> {
        let mut state = self.inner.enter("launching a graph", false)?;
        // SAFETY: the graph and the stream are alive, in the current context.
        unsafe { self.inner.api.graph_launch(self.exec, self.inner.stream) }
            .map_err(|status| self.inner.error(&state, "launching a graph", status))?;
        "a recorded graph".clone_into(&mut state.last_kernel);
        Ok(())
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: the context is retained by `inner`; the graph is not launched any more, and the driver keeps what
        // runs of it until it is done.
        unsafe {
            if self.inner.api.context_set_current(self.inner.context).is_ok() {
                self.inner.api.graph_exec_destroy(self.exec).ok();
            }
        }
    }
}
