//! A group of devices that share one model, and what they exchange: every member's part, in the order of the members.
//!
//! Sums over members are made of gathered parts, by each member for itself and in the same order: a library's own
//! reduction adds an element in an order that depends on where in the buffer it stands, so that a row's bits would depend
//! on the rows beside it. Of `n` parts a member receives `n - 1`, where a reduction in a ring moves `2 (n - 1) / n`: the
//! same for two members, four times as much for eight.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// A place in a group whose members are threads of this process and exchange bytes of the host: for the CPU backend, and
/// for emulated devices.
pub struct Member {
    rank: usize,
    group: Arc<Group>,
}

struct Group {
    round: Mutex<Round>,
    changed: Condvar,
}

/// One exchange, from the first part that is given to the last member that has taken all of them.
struct Round {
    parts: Vec<Option<Vec<u8>>>,
    /// Members that have taken all parts.
    taken: usize,
    is_over: bool,
}

impl Member {
    /// A group of `count` members.
    pub fn group(count: usize) -> Vec<Self> {
        let round = Mutex::new(Round { parts: vec![None; count], taken: 0, is_over: false });
        let group = Arc::new(Group { round, changed: Condvar::new() });
        (0..count).map(|rank| Self { rank, group: group.clone() }).collect()
    }

    /// Members of the group.
    pub fn count(&self) -> usize {
        self.round().parts.len()
    }

    /// Waits for the parts of all members, which have the same length as `part`, and gives them to `take` in the order of
    /// the members.
    ///
    /// # Errors
    /// [`Error::GroupEnded`] when the group [has ended](Self::end); [`Error::Shape`] when the lengths differ.
    pub fn all_gather(&self, part: Vec<u8>, take: impl FnOnce(&[Vec<u8>]) -> Result<()>) -> Result<()> {
        let len = part.len();
        // The last round may not have been taken by all.
        let mut round = self.wait(self.round(), |round| round.parts[self.rank].is_none())?;
        round.parts[self.rank] = Some(part);
        self.group.changed.notify_all();
        let mut round = self.wait(round, |round| round.parts.iter().all(Option::is_some))?;
        let parts: Vec<Vec<u8>> = round.parts.iter().flatten().cloned().collect();
        round.taken += 1;
        if round.taken == parts.len() {
            round.parts.fill(None);
            round.taken = 0;
            self.group.changed.notify_all();
        }
        drop(round);
        if let Some(other) = parts.iter().find(|other| other.len() != len) {
            let (found, wanted) = (format!("{} bytes", other.len()), format!("{len} bytes of every member"));
            return Err(Error::Shape { what: "all_gather: part", found, wanted });
        }
        take(&parts)
    }

    /// Ends the group for all members: who waits, and who comes later, gets an error.
    pub fn end(&self) {
        self.round().is_over = true;
        self.group.changed.notify_all();
    }

    fn round(&self) -> MutexGuard<'_, Round> {
        self.group.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        round: MutexGuard<'a, Round>,
        is_ready: impl Fn(&Round) -> bool,
    ) -> Result<MutexGuard<'a, Round>> {
        let waits = |round: &mut Round| !round.is_over && !is_ready(round);
        let round = self.group.changed.wait_while(round, waits).unwrap_or_else(PoisonError::into_inner);
        if round.is_over { Err(Error::GroupEnded) } else { Ok(round) }
    }
}

/// The [kind](crate::DeviceInfo::kind) of a device of `kind` among `count` that share a model: sums of several parts have
/// other bits.
pub(crate) fn kind_of_group(kind: String, count: Option<usize>) -> String {
    count.map_or(kind.clone(), |count| format!("{kind}/tp{count}"))
}

/// What a backend says that is in no group.
pub(crate) fn alone() -> Error {
    Error::Unsupported("all_gather: this device shares the model with no other".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread, time::Duration};

    #[test]
    fn members_get_all_parts_in_their_order_round_after_round() {
        let members = Member::group(3);
        assert_eq!(members[0].count(), 3);
        thread::scope(|scope| {
            for member in &members {
                scope.spawn(move || {
                    for round in 0..100_u8 {
                        let rank = member.rank as u8;
                        // None is the last all the time.
                        if round % 3 == rank {
                            thread::sleep(Duration::from_micros(50));
                        }
                        let wanted: Vec<Vec<u8>> = (0..3).map(|rank| vec![round, rank]).collect();
                        let take = |parts: &[Vec<u8>]| {
                            assert_eq!(parts, wanted);
                            Ok(())
                        };
                        member.all_gather(vec![round, rank], take).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn a_member_that_ends_the_group_leaves_nobody_waiting() {
        let members = Member::group(3);
        thread::scope(|scope| {
            let waiting = members[1..].iter().map(|member| scope.spawn(|| member.all_gather(vec![1], |_| Ok(()))));
            let waiting: Vec<_> = waiting.collect();
            thread::sleep(Duration::from_millis(20));
            members[0].end();
            for one in waiting {
                assert!(matches!(one.join().unwrap(), Err(Error::GroupEnded)));
            }
        });
        assert!(matches!(members[0].all_gather(vec![], |_| Ok(())), Err(Error::GroupEnded)));
    }

    #[test]
    fn parts_of_different_lengths_are_refused() {
        let members = Member::group(2);
        thread::scope(|scope| {
            let other = scope.spawn(|| members[1].all_gather(vec![1, 2], |_| Ok(())));
            assert!(matches!(members[0].all_gather(vec![1], |_| Ok(())), Err(Error::Shape { .. })));
            assert!(matches!(other.join().unwrap(), Err(Error::Shape { .. })));
        });
    }
}
