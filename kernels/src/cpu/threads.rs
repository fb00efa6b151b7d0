//! Fork-join over a fixed set of threads that wait for the next call spinning.
//!
//! A decoder makes some two hundred short parallel calls a token. Waking a sleeping thread for each, and being woken at
//! its end, costs more than the work of a small model; so the threads look out for the next call for a while before they
//! sleep. Tasks are independent and each is run once, so how they are spread changes no bit of a result.

use std::{
    cell::UnsafeCell,
    hint::spin_loop,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

/// How often a thread looks for the next call before it sleeps: some 50 µs.
const SPINS: usize = if cfg!(miri) { 4 } else { 2000 };
/// Elements below which handing work to another thread costs more than it saves.
const MIN_ELEMENTS: usize = 1 << 13;

/// A set of threads; the calling one is among them.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a call.
    busy: Mutex<()>,
}

struct Shared {
    /// Raised for every call.
    epoch: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// Workers that are not done with the call.
    pending: AtomicUsize,
    /// By worker: it sleeps, or is about to.
    asleep: Vec<AtomicBool>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// What every thread runs, with its number.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

// SAFETY: `job` is written only while no worker reads it: by the caller that holds `busy`, after `pending` fell to zero
// for the call before and before `epoch` rises for this one. It points at a `Sync` closure that outlives the call,
// because `Threads::run` does not return, not even by a panic, before `pending` is zero.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Threads {
    /// `count` threads, of which `count - 1` are started.
    ///
    /// # Errors
    /// What the operating system says when it has no more threads.
    pub fn new(count: usize) -> std::io::Result<Self> {
        let workers = count.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            pending: AtomicUsize::new(0),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        // Dropped on an error, which stops those already started.
        let mut threads = Self { shared, workers: Vec::new(), busy: Mutex::new(()) };
        for index in 0..workers {
            let shared = Arc::clone(&threads.shared);
            let builder = thread::Builder::new().name(format!("oc-cpu-{}", index + 1));
            threads.workers.push(builder.spawn(move || shared.work(index))?);
        }
        Ok(threads)
    }

    /// How many threads there are, the caller's included.
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(0)`, …, `f(count - 1)`, each once: at the same time on all threads, or one after the other here where
    /// another call is going on.
    ///
    /// # Panics
    /// When `f` does, after all threads are done.
    pub fn run(&self, f: &(dyn Fn(usize) + Sync)) {
        let guard = match self.busy.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if guard.is_none() || self.workers.is_empty() {
            return (0..self.count()).for_each(f);
        }
        let job: *const (dyn Fn(usize) + Sync + '_) = f;
        // SAFETY: only the lifetime is forgotten; see `Shared`.
        let job: *const (dyn Fn(usize) + Sync + 'static) = unsafe { std::mem::transmute(job) };
        // SAFETY: see `Shared`.
        unsafe { *self.shared.job.get() = Some(Job(job)) };
        self.shared.pending.store(self.workers.len(), Ordering::Relaxed);
        self.shared.panicked.store(false, Ordering::Relaxed);
        self.wake();
        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        let mut spins = 0;
        while self.shared.pending.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS {
                spin_loop();
            } else {
                thread::yield_now();
            }
        }
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!self.shared.panicked.load(Ordering::Relaxed), "a worker thread panicked; its message is above");
    }

    /// Calls `task` for every number below `count`, spread over the threads as they become free.
    pub fn for_each(&self, count: usize, task: impl Fn(usize) + Sync) {
        if count <= 1 || self.workers.is_empty() {
            return (0..count).for_each(task);
        }
        let next = AtomicUsize::new(0);
        self.run(&|_| {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    break;
                }
                task(i);
            }
        });
    }

    /// Calls `task(i, part)` for the consecutive parts of `data` of `len` elements; the last may be shorter.
    pub fn for_each_part<T: Send>(&self, data: &mut [T], len: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let parts = Parts { data: data.as_mut_ptr(), len: data.len() };
        let part = len.max(1);
        self.for_each(data.len().div_ceil(part), |i| {
            let from = i * part;
            // SAFETY: `from` lies below the length as `i` is below the number of parts, parts of different numbers do
            // not overlap, each number is passed once, and `data` is borrowed exclusively meanwhile.
            let own = unsafe { std::slice::from_raw_parts_mut({ &parts }.data.add(from), part.min(parts.len - from)) };
            task(i, own);
        });
    }

    /// Calls `f(first_row, rows)` for consecutive runs of whole rows that together are `out: [_, cols]`; here, where
    /// there is little to do.
    pub fn for_rows(&self, out: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        if out.is_empty() {
            return;
        }
        if self.count() == 1 || out.len() < MIN_ELEMENTS {
            return f(0, out);
        }
        let rows_per_task = (MIN_ELEMENTS / 2).div_ceil(cols);
        self.for_each_part(out, rows_per_task * cols, |i, rows| f(i * rows_per_task, rows));
    }

    /// As [`Threads::for_rows`] with two matrices of one shape.
    pub fn for_rows_of_two(
        &self,
        a: &mut [f32],
        b: &mut [f32],
        cols: usize,
        f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        if a.is_empty() {
            return;
        }
        if self.count() == 1 || a.len() < MIN_ELEMENTS {
            return f(0, a, b);
        }
        let rows_per_task = (MIN_ELEMENTS / 2).div_ceil(cols);
        let part = rows_per_task * cols;
        let mut parts: Vec<_> = a.chunks_mut(part).zip(b.chunks_mut(part)).collect();
        self.for_each_part(&mut parts, 1, |i, own| own.iter_mut().for_each(|(a, b)| f(i * rows_per_task, a, b)));
    }

    fn wake(&self) {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers) {
            if asleep.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches its panics, so there is nothing to tell.
            drop(worker.join());
        }
    }
}

impl Shared {
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(index, seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: see `Shared`: the call whose epoch was seen has written it and waits for this thread.
            let run = || unsafe { (*self.job.get()).map(|job| (*job.0)(index + 1)) };
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.pending.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until the epoch is another one than `seen`.
    fn next_epoch(&self, index: usize, seen: usize) -> usize {
        for _ in 0..SPINS {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            spin_loop();
        }
        loop {
            // Either the epoch that rises after this is seen below, or whoever raises it sees this and wakes the thread.
            self.asleep[index].store(true, Ordering::SeqCst);
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch != seen {
                self.asleep[index].store(false, Ordering::Relaxed);
                return epoch;
            }
            thread::park();
        }
    }
}

/// Data that tasks share, each touching a part of its own.
struct Parts<T> {
    data: *mut T,
    len: usize,
}
// SAFETY: see `for_each_part`: the parts are disjoint, and `T` may be sent.
unsafe impl<T: Send> Sync for Parts<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: usize = if cfg!(miri) { 5 } else { 2000 };

    #[test]
    fn every_task_runs_once() {
        for count in [1, 2, 3, 7] {
            let threads = Threads::new(count).unwrap();
            for call in 0..CALLS {
                let mut data = vec![0_u32; call % 50];
                threads.for_each_part(&mut data, 3, |i, part| part.iter_mut().for_each(|x| *x += i as u32 + 1));
                let wanted: Vec<u32> = (0..data.len()).map(|i| i as u32 / 3 + 1).collect();
                assert_eq!(data, wanted);
            }
        }
    }

    #[test]
    fn sleeping_threads_are_woken() {
        let threads = Threads::new(3).unwrap();
        for pause in [0, 1, 5, 20] {
            thread::sleep(std::time::Duration::from_millis(pause));
            let sum = AtomicUsize::new(0);
            threads.run(&|thread| {
                sum.fetch_add(thread + 1, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 6);
        }
    }

    #[test]
    fn calls_within_and_beside_calls_work() {
        let threads = Threads::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        let add = |threads: &Threads| {
            threads.for_each(10, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
        };
        threads.for_each(4, |_| add(&threads));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| add(&threads));
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 7 * 45);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_go_on() {
        let threads = Threads::new(2).unwrap();
        for bad in [0, 1] {
            let result = catch_unwind(AssertUnwindSafe(|| threads.run(&|thread| assert_ne!(thread, bad))));
            assert!(result.is_err());
        }
        let sum = AtomicUsize::new(0);
        threads.for_each(100, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }
}
