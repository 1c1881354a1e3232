//! Waiting for an instant or for so long, until somebody asks to run now or to stop.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::Part;

/// A clock that goes back by more was set, not adjusted.
const SET_BACK: SignedDuration = SignedDuration::from_secs(2);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WakeReason {
    Due,
    RunNow,
    Stopped,
}

impl Part {
    /// Waits for so long, whatever the wall clock says.
    pub(super) async fn pause(&mut self, time: Duration) -> WakeReason {
        let until = Instant::now() + time;
        loop {
            self.stats.tick();
            if *self.stopped.borrow() {
                return WakeReason::Stopped;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => return WakeReason::Due,
                Ok(()) = self.run_now.changed() => return WakeReason::RunNow,
                changed = self.stopped.changed() => {
                    if changed.is_err() {
                        return WakeReason::Stopped;
                    }
                }
            }
        }
    }

    /// Waits for an instant of the wall clock, however it is set meanwhile. Where it is set back, the instant was chosen by
    /// a wrong clock and may be years away: then it is due now. `planned`: when it was chosen.
    pub(super) async fn wait_until(&mut self, due: Timestamp, planned: Timestamp) -> WakeReason {
        let mut seen = planned;
        loop {
            self.stats.tick();
            if *self.stopped.borrow() {
                return WakeReason::Stopped;
            }
            let now = self.agent.clock.now();
            if now < seen.saturating_sub(SET_BACK).unwrap_or(seen) {
                return WakeReason::Due;
            }
            seen = now;
            let left = due.duration_since(now);
            let Ok(left) = Duration::try_from(left) else { return WakeReason::Due };
            if left.is_zero() {
                return WakeReason::Due;
            }
            let time = left.min(self.agent.clock.trusted_for()).max(Duration::from_millis(1));
            match self.pause(time).await {
                WakeReason::Due => {}
                woken => return woken,
            }
        }
    }
}
