//! How many calls may be under way at once: few from the start, fewer as soon as the server is slow or in trouble.
//!
//! The server serves one token one call at a time (observed), so a second call under way is worth something only while
//! calls are quick and the way to the server is what takes the time. A call of a second is the server's own work: then
//! one after another is as fast, and nobody else's calls wait behind ours. It starts with one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// A call that takes as long is the server's work, not the way to it.
const SLOW: Duration = Duration::from_secs(1);
/// After so many quick calls in a row one more may be under way.
const QUICK_IN_A_ROW: u32 = 8;

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
    quick: u32,
}

/// Leave for one call, until it is dropped.
#[derive(Debug)]
pub(super) struct Leave<'a>(&'a Pace);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.freed.notify_one();
    }
}

impl Pace {
    /// Never more than `most`.
    pub(super) fn new(most: usize) -> Self {
        let state = State { allowed: 1, under_way: 0, quick: 0 };
        Pace { state: Mutex::new(state), freed: Notify::new(), most: most.max(1) }
    }

    /// How many calls may be under way now.
    pub(super) fn allowed(&self) -> usize {
        self.state().allowed
    }

    /// Waits until one more call may be under way.
    pub(super) async fn leave(&self) -> Leave<'_> {
        loop {
            {
                let mut state = self.state();
                if state.under_way < state.allowed {
                    state.under_way += 1;
                    return Leave(self);
                }
            }
            self.freed.notified().await;
        }
    }

    /// What a call came to: how long it took, and whether the server gave no clear answer (a time-out, 429, 5xx).
    pub(super) fn learn(&self, took: Duration, unclear: bool) {
        let mut state = self.state();
        if unclear || took >= SLOW {
            (state.allowed, state.quick) = ((state.allowed / 2).max(1), 0);
            return;
        }
        state.quick += 1;
        if state.quick >= QUICK_IN_A_ROW && state.allowed < self.most {
            (state.allowed, state.quick) = (state.allowed + 1, 0);
            drop(state);
            self.freed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(50);

    fn after(pace: &Pace, calls: &[(Duration, bool)]) -> usize {
        for (took, unclear) in calls {
            pace.learn(*took, *unclear);
        }
        pace.allowed()
    }

    #[test]
    fn it_rises_slowly_to_its_bound_and_falls_at_once_down_to_one() {
        let pace = Pace::new(4);
        assert_eq!(pace.allowed(), 1);
        assert_eq!(after(&pace, &[(QUICK, false); 7]), 1);
        assert_eq!(after(&pace, &[(QUICK, false); 1]), 2);
        assert_eq!(after(&pace, &[(QUICK, false); 100]), 4);
        assert_eq!(after(&pace, &[(SLOW, false)]), 2);
        assert_eq!(after(&pace, &[(QUICK, true)]), 1);
        assert_eq!(after(&pace, &[(QUICK, true); 10]), 1);
        // A slow call in between begins the count anew.
        assert_eq!(after(&pace, &[(QUICK, false); 7]), 1);
        assert_eq!(after(&pace, &[(SLOW, false)]), 1);
        assert_eq!(after(&pace, &[(QUICK, false); 7]), 1);
        assert_eq!(after(&pace, &[(QUICK, false); 1]), 2);
    }

    #[tokio::test]
    async fn whoever_has_no_leave_waits_until_another_gives_it_back() {
        let pace = Pace::new(2);
        let first = pace.leave().await;
        let second = tokio::time::timeout(Duration::from_millis(20), pace.leave()).await;
        assert!(second.is_err());
        drop(first);
        drop(pace.leave().await);
        after(&pace, &[(QUICK, false); 8]);
        let both = (pace.leave().await, pace.leave().await);
        drop(both);
    }
}
