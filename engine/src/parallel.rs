//! Tensor parallelism: every device that shares a model runs the same steps on its own part of it, at the same time.
//!
//! What they exchange is summed alike by all (`layers/residual.rs`), so that all come to the same answers, of which the
//! first device's are taken.

use crate::{
    Error, Result,
    batch::{ForwardBatch, ForwardOutput},
    runner::Runner,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    thread,
};

/// One runner for each device.
pub(crate) struct Parallel<R> {
    ranks: Vec<R>,
}

impl<R: Runner> Parallel<R> {
    /// `ranks`: at least one.
    pub fn new(ranks: Vec<R>) -> Self {
        Self { ranks }
    }
}

impl<R: Runner> Parallel<R> {
    /// Does `work` on all devices at once; what the first one says, or why one failed.
    fn on_all<T: Send>(&mut self, work: impl Fn(&mut R) -> Result<T> + Sync) -> Result<T> {
        let work = &work;
        let results: Vec<Result<T>> = thread::scope(|scope| {
            let running: Vec<_> = self.ranks.iter_mut().map(|rank| scope.spawn(move || on_one(rank, work))).collect();
            running.into_iter().map(|rank| rank.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        let (done, mut failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        // Those that waited for the one that failed have less to say.
        failed.sort_by_key(|result| matches!(result, Err(Error::Kernel(oc_kernels::Error::GroupEnded))));
        failed.into_iter().chain(done).next().unwrap_or(Err(Error::Kernel(oc_kernels::Error::GroupEnded)))
    }
}

/// Unless all devices come to the same error, none is left waiting for one that failed.
fn on_one<R: Runner, T>(rank: &mut R, work: impl Fn(&mut R) -> Result<T>) -> Result<T> {
    let result = catch_unwind(AssertUnwindSafe(|| work(rank)));
    // Logits that are not finite are found by all, after everything was exchanged.
    if !matches!(&result, Ok(Ok(_) | Err(Error::Kernel(oc_kernels::Error::NotFinite { .. })))) {
        rank.end_group();
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

impl<R: Runner> Runner for Parallel<R> {
    fn queue(&mut self, batch: &ForwardBatch) -> Result<()> {
        self.on_all(|rank| rank.queue(batch))
    }

    fn may_run_ahead(&self) -> bool {
        self.ranks.iter().all(Runner::may_run_ahead)
    }

    fn collect(&mut self) -> Result<ForwardOutput> {
        self.on_all(Runner::collect)
    }

    fn forget(&mut self) -> Result<()> {
        self.on_all(Runner::forget)
    }

    fn end_group(&self) {
        self.ranks.iter().for_each(Runner::end_group);
    }

    /// Of the device that has most of it in use.
    fn device_bytes_used(&self) -> Option<u64> {
        self.ranks.iter().filter_map(Runner::device_bytes_used).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oc_kernels::collective::Member;

    /// Exchanges one byte, or does what it is told instead.
    struct Exchange(Member, Option<fn() -> Error>);

    impl Runner for Exchange {
        fn queue(&mut self, _: &ForwardBatch) -> Result<()> {
            if let Some(fail) = self.1 {
                return Err(fail());
            }
            self.0.all_gather(vec![1], |parts| {
                assert_eq!(parts.len(), 3);
                Ok(())
            })?;
            Ok(())
        }

        fn may_run_ahead(&self) -> bool {
            false
        }

        fn collect(&mut self) -> Result<ForwardOutput> {
            Ok(ForwardOutput::default())
        }

        fn forget(&mut self) -> Result<()> {
            Ok(())
        }

        fn end_group(&self) {
            self.0.end();
        }
    }

    fn parallel(fail: fn() -> Error) -> Parallel<Exchange> {
        let members = Member::group(3).into_iter().enumerate();
        Parallel::new(members.map(|(rank, member)| Exchange(member, (rank == 2).then_some(fail))).collect())
    }

    fn broken() -> Error {
        Error::Tokenizer("broken".into())
    }

    #[test]
    fn the_error_of_one_device_comes_out_and_nobody_waits() {
        let mut ranks = parallel(broken);
        let batch = ForwardBatch::default();
        assert!(matches!(ranks.queue(&batch), Err(Error::Tokenizer(text)) if text == "broken"));
        // Nor later: what the devices hold is no longer the same.
        ranks.ranks[2].1 = None;
        let text = ranks.queue(&batch).unwrap_err().to_string();
        assert!(text.contains("another device that shares the model has failed"), "{text}");
    }

    #[test]
    #[should_panic(expected = "a bug")]
    fn nor_does_anybody_wait_for_a_device_that_panics() {
        parallel(|| panic!("a bug")).queue(&ForwardBatch::default()).ok();
    }

    #[test]
    fn an_error_that_all_find_ends_nothing() {
        let mut ranks = parallel(|| Error::Kernel(oc_kernels::Error::NotFinite { what: "sample", row: 0 }));
        for rank in &mut ranks.ranks {
            rank.1 = Some(|| Error::Kernel(oc_kernels::Error::NotFinite { what: "sample", row: 0 }));
        }
        assert!(ranks.queue(&ForwardBatch::default()).is_err());
        ranks.ranks.iter_mut().for_each(|rank| rank.1 = None);
        assert!(ranks.queue(&ForwardBatch::default()).is_ok());
    }
}
