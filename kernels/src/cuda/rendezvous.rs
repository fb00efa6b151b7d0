//! A point that threads pass only together.

use std::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::yield_now,
};

use crate::{Error, Result};

/// Looks for the others before the processor is offered to them: some microseconds, since they are at the same work.
const SPINS: u32 = 1 << 12;

/// The meeting point of `count` threads. Who waits keeps looking, as waking a thread takes longer than it waits.
pub(super) struct Rendezvous {
    count: usize,
    /// Who is there.
    arrived: AtomicUsize,
    /// How often all have met.
    meetings: AtomicUsize,
    is_over: AtomicBool,
}

impl Rendezvous {
    pub fn new(count: usize) -> Self {
        let zero = || AtomicUsize::new(0);
        Self { count, arrived: zero(), meetings: zero(), is_over: AtomicBool::new(false) }
    }

    /// Waits until all are there.
    ///
    /// # Errors
    /// [`Error::GroupEnded`] when the group [has ended](Self::end).
    pub fn meet(&self) -> Result<()> {
        // Cannot change before this thread has arrived.
        let meeting = self.meetings.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            self.arrived.store(0, Ordering::Relaxed);
            self.meetings.store(meeting.wrapping_add(1), Ordering::Release);
        }
        let mut spins = 0;
        loop {
            if self.is_over.load(Ordering::Acquire) {
                return Err(Error::GroupEnded);
            }
            if self.meetings.load(Ordering::Acquire) != meeting {
                return Ok(());
            }
            if spins < SPINS {
                spins += 1;
                spin_loop();
            } else {
                yield_now();
            }
        }
    }

    /// Nobody waits any more, now or later.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread, time::Duration};

    #[test]
    fn nobody_is_a_meeting_ahead() {
        let (point, passed) = (Rendezvous::new(3), [const { AtomicUsize::new(0) }; 3]);
        thread::scope(|scope| {
            for rank in 0..3 {
                let (point, passed) = (&point, &passed);
                scope.spawn(move || {
                    for round in 1..=200 {
                        // None is the last all the time.
                        if round % 3 == rank {
                            thread::sleep(Duration::from_micros(30));
                        }
                        passed[rank].store(round, Ordering::Release);
                        point.meet().unwrap();
                        let least = passed.iter().map(|count| count.load(Ordering::Acquire)).min();
                        assert!(least >= Some(round), "{least:?} in round {round}");
                    }
                });
            }
        });
    }

    #[test]
    fn an_end_leaves_nobody_waiting() {
        let point = Rendezvous::new(3);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..2).map(|_| scope.spawn(|| point.meet())).collect();
            thread::sleep(Duration::from_millis(20));
            point.end();
            for one in waiting {
                assert!(matches!(one.join().unwrap(), Err(Error::GroupEnded)));
            }
        });
        assert!(matches!(point.meet(), Err(Error::GroupEnded)));
    }
}
