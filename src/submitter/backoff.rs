//! How long to leave something alone after it failed: exponential, with full jitter, without an upper age.
//!
//! Pure: the caller brings the randomness.

use jiff::{SignedDuration, Timestamp};

use crate::ledger::sent::server::Retry;
use crate::waldur::failure::Failure;

const FIRST: SignedDuration = SignedDuration::from_secs(5);
const LONGEST: SignedDuration = SignedDuration::from_mins(15);

/// When something that failed now is tried again, and why it failed; `before`: the same of its last failure. Failures of
/// another cause are counted anew.
pub(super) fn retry(before: Option<Retry>, failure: &Failure, chance: u64, now: Timestamp) -> Retry {
    let (cause, asked) = (failure.cause(), failure.retry_after());
    let failures = before.filter(|retry| retry.cause == cause).map_or(0, |retry| retry.failures) + 1;
    let after = |time| now.saturating_add(time).unwrap_or(now);
    let next = after(wait(failures, chance, asked));
    Retry { cause, failures, next, words: failure.to_string(), asked: asked.map(after), unread: false }
}

/// The wait after the `failures`th failure in a row (from 1). `chance` is uniform in 0..1,000. What the server asked
/// for is a lower bound.
fn wait(failures: i64, chance: u64, asked: Option<SignedDuration>) -> SignedDuration {
    let doublings = u32::try_from(failures.clamp(1, 16) - 1).unwrap_or(0);
    let ceiling = (FIRST * 2_i32.pow(doublings)).min(LONGEST);
    let millis = ceiling.as_millis() as i64 * (chance.min(999) as i64 + 1) / 1000;
    let wait = SignedDuration::from_millis(millis.max(100));
    asked.map_or(wait, |asked| asked.max(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_a_quarter_of_an_hour_and_honours_what_the_server_asks() {
        let longest = |failures| wait(failures, 999, None).as_secs();
        assert_eq!([1, 2, 3, 4, 8, 9, 1000].map(longest), [5, 10, 20, 40, 640, 900, 900]);
        assert_eq!(wait(1, 0, None).as_millis(), 100);
        assert_eq!(wait(1, 499, None).as_millis(), 2500);
        assert_eq!(wait(1, 999, Some(SignedDuration::from_secs(120))).as_secs(), 120);
        assert_eq!(wait(9, 999, Some(SignedDuration::from_secs(120))).as_secs(), 900);
    }
}
