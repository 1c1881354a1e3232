//! How many calls may be under way at once: one from the start, more as long as more are served in the same time.
//!
//! A server that serves one token one call at a time (observed) takes twice as long for each of two: nothing is gained, and
//! it stays at one. What is compared is calls of one kind, so many in a row while all that may be under way are; a try
//! that gained nothing is not made again for a while. Trouble halves it at once: a time-out, 429, 5xx, or a call of a
//! second, which is the server's own work.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// A call that takes as long is the server's work, not the way to it.
const SLOW: Duration = Duration::from_secs(1);
/// So many calls tell how long one takes.
const TELLING: u32 = 8;
/// After a try that gained nothing, so many calls are made before the next; twice as many after each further one.
const REST: u32 = 256;
const LONGEST_REST: u32 = 16_384;

#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    freed: Notify,
    most: usize,
}

#[derive(Debug)]
struct State {
    allowed: usize,
    under_way: usize,
    /// Counts the changes of `allowed`: a call that began before one says nothing of what came after.
    era: u64,
    /// Whether more than now may be tried.
    may_try: bool,
    /// What is measured at `allowed`.
    measured: Measured,
    /// While more are tried: what was measured before, and at how many.
    before: Option<(usize, Measured)>,
    /// Calls to be made before more are tried again, and after the next try that gains nothing.
    rest: u32,
    next_rest: u32,
}

/// How long calls of one kind took.
#[derive(Debug, Clone, Default)]
struct Measured {
    kind: String,
    calls: u32,
    took: Duration,
}

/// Permit for one call, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    pace: &'a Pace,
    era: u64,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.pace.state().under_way -= 1;
        self.pace.freed.notify_one();
    }
}

impl Permit<'_> {
    /// What the call came to: its kind, how long it took, and whether the server gave no clear answer (a time-out, 429, 5xx).
    pub(super) fn learn(&self, kind: &str, took: Duration, unclear: bool) {
        let more = self.pace.state().learn((kind, took, unclear), self.era, self.pace.most);
        (0..more).for_each(|_| self.pace.freed.notify_one());
    }
}

impl Pace {
    /// Never more than `most`.
    pub(super) fn new(most: usize) -> Self {
        let state = State {
            allowed: 1,
            under_way: 0,
            era: 0,
            may_try: true,
            measured: Measured::default(),
            before: None,
            rest: 0,
            next_rest: REST,
        };
        Pace { state: Mutex::new(state), freed: Notify::new(), most: most.max(1) }
    }

    /// How many calls may be under way now.
    pub(super) fn allowed(&self) -> usize {
        self.state().allowed
    }

    /// Whether more calls at once than now may be tried.
    pub(super) fn may_try_more(&self, may: bool) {
        self.state().may_try = may;
    }

    /// Waits until one more call may be under way.
    pub(super) async fn permit(&self) -> Permit<'_> {
        loop {
            {
                let mut state = self.state();
                if state.under_way < state.allowed {
                    state.under_way += 1;
                    return Permit { pace: self, era: state.era };
                }
            }
            self.freed.notified().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns how many more may be under way than before.
    fn learn(&mut self, (kind, took, unclear): (&str, Duration, bool), era: u64, most: usize) -> usize {
        if unclear || took >= SLOW {
            self.before = None;
            self.allow((self.allowed / 2).max(1));
            return 0;
        }
        self.rest = self.rest.saturating_sub(1);
        if self.measured.kind != kind {
            // What another kind takes says nothing of a try that is going on.
            if let Some((allowed, _)) = self.before.take() {
                self.allow(allowed);
            }
            self.measured = Measured { kind: kind.to_owned(), ..Measured::default() };
        }
        // Where fewer were under way than might be, nothing shows what the others would have cost.
        if era != self.era || self.under_way < self.allowed {
            return 0;
        }
        self.measured.calls += 1;
        self.measured.took = self.measured.took.saturating_add(took);
        if self.measured.calls < TELLING {
            return 0;
        }
        let now = std::mem::take(&mut self.measured);
        self.measured.kind.clone_from(&now.kind);
        if let Some((allowed, before)) = self.before.take()
            && !gained((allowed, &before), (self.allowed, &now))
        {
            self.allow(allowed);
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
            return 0;
        }
        if self.rest > 0 || !self.may_try || self.allowed >= most {
            return 0;
        }
        let allowed = self.allowed;
        self.before = Some((allowed, now));
        self.allow((allowed * 2).min(most));
        self.allowed - allowed
    }

    fn allow(&mut self, allowed: usize) {
        self.allowed = allowed;
        self.era += 1;
        (self.measured.calls, self.measured.took) = (0, Duration::ZERO);
    }
}

/// Whether a quarter more calls, or more, are served in the same time: as many as are under way, by how long each takes.
fn gained((few, before): (usize, &Measured), (many, now): (usize, &Measured)) -> bool {
    let each = |measured: &Measured| measured.took.as_nanos() / u128::from(measured.calls.max(1));
    4 * many as u128 * each(before) >= 5 * few as u128 * each(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// So many calls, one after the other while all others that may be are under way, at a server that serves `at_once` at a
    /// time and takes 20 ms for each. The most that were allowed, and how many are in the end.
    async fn play(pace: &Pace, calls: usize, kind: &str, at_once: usize) -> (usize, usize) {
        let mut most = 0;
        for _ in 0..calls {
            let mut leaves = Vec::new();
            for _ in 0..pace.allowed() {
                leaves.push(pace.permit().await);
            }
            most = most.max(leaves.len());
            let took = 20 * MS * u32::try_from(leaves.len().div_ceil(at_once)).unwrap();
            leaves[0].learn(kind, took, false);
        }
        (most, pace.allowed())
    }

    #[tokio::test]
    async fn it_rises_while_more_are_served_and_stays_at_one_where_one_is() {
        // 8 calls at 1, at 2, at 4: then eight.
        let pace = Pace::new(8);
        assert_eq!(play(&pace, 7, "a", 8).await, (1, 1));
        assert_eq!(play(&pace, 1, "a", 8).await, (1, 2));
        assert_eq!(play(&pace, 8, "a", 8).await, (2, 4));
        assert_eq!(play(&pace, 8, "a", 8).await, (4, 8));
        assert_eq!(play(&pace, 100, "a", 8).await, (8, 8));
        // Up to its bound and no further.
        assert_eq!(play(&Pace::new(3), 100, "a", 8).await, (3, 3));
        // A server that takes one at a time is tried with two once, in 272 calls; then not for 512.
        let pace = Pace::new(8);
        assert_eq!(play(&pace, 16, "a", 1).await, (2, 1));
        assert_eq!(play(&pace, 255, "a", 1).await, (1, 1));
        assert_eq!(play(&pace, 10, "a", 1).await, (2, 1));
        assert_eq!(play(&pace, 500, "a", 1).await, (1, 1));
        // One that takes four is met with four.
        let pace = Pace::new(8);
        assert_eq!(play(&pace, 100, "a", 4).await, (8, 4));
    }

    #[tokio::test]
    async fn calls_of_another_kind_are_measured_anew_and_nothing_is_tried_where_it_may_not() {
        let pace = Pace::new(8);
        play(&pace, 8, "a", 8).await;
        assert_eq!(pace.allowed(), 2);
        // What was tried with one kind is not judged by another.
        assert_eq!(play(&pace, 1, "b", 8).await, (2, 1));
        assert_eq!(play(&pace, 8, "b", 8).await, (1, 2));
        pace.may_try_more(false);
        // What is going on may be judged; nothing more is tried.
        assert_eq!(play(&pace, 100, "b", 8).await, (2, 2));
        pace.may_try_more(true);
        assert_eq!(play(&pace, 24, "b", 8).await, (8, 8));
    }

    #[tokio::test]
    async fn trouble_halves_it_at_once() {
        let pace = Pace::new(8);
        play(&pace, 24, "a", 8).await;
        for (took, unclear, left) in [(MS, true, 4), (SLOW, false, 2), (MS, true, 1), (MS, true, 1)] {
            pace.permit().await.learn("a", took, unclear);
            assert_eq!(pace.allowed(), left);
        }
        // A call that began before says nothing of what came after.
        let pace = Pace::new(8);
        let old = pace.permit().await;
        pace.state().allow(1);
        (0..100).for_each(|_| old.learn("a", MS, false));
        assert_eq!(pace.allowed(), 1);
    }

    #[tokio::test]
    async fn whoever_has_no_leave_waits_until_another_gives_it_back() {
        let pace = Pace::new(2);
        let first = pace.permit().await;
        let second = tokio::time::timeout(Duration::from_millis(20), pace.permit()).await;
        assert!(second.is_err());
        drop(first);
        drop(pace.permit().await);
        play(&pace, 8, "a", 8).await;
        let both = (pace.permit().await, pace.permit().await);
        drop(both);
    }
}
