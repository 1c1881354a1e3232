//! How long `set_usage` takes, as measured. When the closing of a month begins, and how long its guard is, depend on it.
//! And whether an answer can still be used: not if the process was suspended and reads it hours later.

use jiff::{SignedDuration, Timestamp};

use super::{Cycle, CycleError, guard};
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::{Ledger, LedgerError};
use crate::waldur::failure::Failure;

/// The fact that keeps how long calls take.
const CALL_TIME: &str = "call_time_ms";
/// A guard is never longer.
const LONGEST_GUARD: SignedDuration = SignedDuration::from_mins(5);
/// A process that takes up an answer so much later than a call may take was paused.
const PAUSED: SignedDuration = SignedDuration::from_secs(30);

/// How long `set_usage` takes, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CallTime {
    /// The recent ones count most.
    pub(super) mean: i64,
    /// The slowest, which is forgotten slowly.
    pub(super) slowest: i64,
}

impl CallTime {
    pub(super) fn learn(self, took: i64) -> CallTime {
        let mean = if self == CallTime::default() { took } else { (self.mean * 7 + took) / 8 };
        CallTime { mean, slowest: (self.slowest - self.slowest / 16).max(took) }
    }

    /// Whether it differs by enough to be worth writing down.
    pub(super) fn is_news_to(self, kept: CallTime) -> bool {
        let differs = |new: i64, old: i64| (new - old).abs() > old / 8;
        differs(self.mean, kept.mean) || differs(self.slowest, kept.slowest)
    }

    pub(super) fn of(ledger: &Ledger) -> Result<CallTime, LedgerError> {
        let fact = ledger.server_fact(CALL_TIME)?;
        let read = |text: &str| {
            let (mean, slowest) = text.split_once(' ')?;
            Some(CallTime { mean: mean.parse().ok()?, slowest: slowest.parse().ok()? })
        };
        Ok(fact.and_then(|(text, _)| read(&text)).unwrap_or_default())
    }

    pub(super) fn keep(self, ledger: &mut Ledger, now: Timestamp) -> Result<(), LedgerError> {
        ledger.put_server_fact(CALL_TIME, &format!("{} {}", self.mean, self.slowest), now)
    }
}

/// How long before the end of a month a server is sent nothing; `dated`: whether it honours dates.
pub(super) fn guard_of(call: CallTime, dated: bool) -> SignedDuration {
    if dated { dated_guard(call) } else { guard_time(call) }
}

/// How long before the server's midnight an undated call is no longer sent: longer than the slowest took lately.
pub(super) fn guard_time(call: CallTime) -> SignedDuration {
    SignedDuration::from_millis(call.slowest).clamp(guard::GUARD, LONGEST_GUARD)
}

/// How long before the server's midnight a dated call is no longer sent: so long the slowest takes, and two seconds.
pub(super) fn dated_guard(call: CallTime) -> SignedDuration {
    SignedDuration::from_millis(call.slowest.saturating_add(2_000)).min(LONGEST_GUARD)
}

impl Cycle {
    /// Makes the call and learns how long such calls take. An answer that was waited for longer than any call may take
    /// reached a process that was paused: what the server held then says nothing of what it holds now.
    pub(super) async fn timed(
        &self,
        key: StatementKey,
        call: impl Future<Output = Result<(), Failure>>,
    ) -> Result<Result<(), Failure>, CycleError> {
        let (began, since) = (self.submitter.clock.now(), tokio::time::Instant::now());
        let outcome = call.await;
        let took = i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX);
        let now = self.submitter.clock.now();
        let news = {
            let mut state = self.state();
            // What fails at once says nothing of how long it takes to be done.
            let tells = outcome.is_ok() || took > state.call_time.mean;
            let learnt = if tells { state.call_time.learn(took) } else { state.call_time };
            state.call_time = learnt;
            let news = learnt.is_news_to(state.kept_call_time);
            if news {
                state.kept_call_time = learnt;
            }
            news.then_some(learnt)
        };
        if let Some(learnt) = news {
            self.ledger(move |ledger| learnt.keep(ledger, now)).await?;
        }
        let waited = now.duration_since(began).abs();
        let patience =
            SignedDuration::try_from(self.submitter.client.timeout()).unwrap_or(SignedDuration::MAX);
        if outcome.is_err() || waited <= patience.saturating_add(PAUSED) {
            return Ok(outcome);
        }
        let call = format!("POST set_usage for resource {}", key.resource.as_simple());
        let words = format!(
            "the answer was read {} s after the call began (was this machine suspended, or its clock set?): what Waldur \
             holds now is read back",
            waited.as_secs()
        );
        Ok(Err(Failure::Unknown { call, status: None, words, retry_after: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_call_is_that_of_the_recent_ones() {
        let mut call = CallTime::default().learn(1_000);
        assert_eq!(call, CallTime { mean: 1_000, slowest: 1_000 });
        call = call.learn(41_000);
        assert_eq!(call, CallTime { mean: 6_000, slowest: 41_000 });
        assert_eq!(guard_time(call), SignedDuration::from_secs(60));
        call = call.learn(90_000);
        assert_eq!(guard_time(call), SignedDuration::from_secs(90));
        for _ in 0..200 {
            call = call.learn(1_000);
        }
        assert!(call.mean < 1_010 && call.slowest < 1_100, "{call:?}");
    }
}
