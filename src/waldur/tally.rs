//! What became of the requests of one client, for metrics: how many, by outcome, and how long they took. Counts only.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::failure::Failure;

/// Every outcome there is: what was wanted, and the names of failures.
pub const OUTCOMES: [&str; 10] = [
    "ok",
    "not_sent",
    "unknown",
    "token",
    "forbidden",
    "certificate",
    "endpoint",
    "missing",
    "redirected",
    "refused",
];

#[derive(Debug, Default)]
pub(super) struct Tally {
    outcomes: [AtomicU64; OUTCOMES.len()],
    milliseconds: AtomicU64,
}

impl Tally {
    pub(super) fn note<T>(&self, took: Duration, ended: &Result<T, Failure>) {
        let name = ended.as_ref().err().map_or("ok", Failure::name);
        if let Some(place) = OUTCOMES.iter().position(|outcome| *outcome == name) {
            self.outcomes[place].fetch_add(1, Ordering::Relaxed);
        }
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.milliseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// By outcome, in the order of [`OUTCOMES`].
    pub(super) fn outcomes(&self) -> Vec<(&'static str, u64)> {
        OUTCOMES
            .iter()
            .zip(&self.outcomes)
            .map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
            .collect()
    }

    /// How many of them the server itself answered, whatever it said.
    pub(super) fn answered(&self) -> u64 {
        let says_nothing = ["not_sent", "unknown", "certificate", "redirected"];
        let answers = OUTCOMES.iter().zip(&self.outcomes).filter(|(name, _)| !says_nothing.contains(name));
        answers.map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn waited(&self) -> Duration {
        Duration::from_millis(self.milliseconds.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_counted_under_its_name() {
        let tally = Tally::default();
        let text = || String::new();
        let failures = [
            Failure::NotSent { call: text(), words: text() },
            Failure::Unknown { call: text(), status: None, words: text(), retry_after: None },
            Failure::Token { call: text(), words: text() },
            Failure::Forbidden { call: text(), words: text() },
            Failure::Certificate { call: text(), words: text() },
            Failure::Endpoint { call: text(), words: text() },
            Failure::Missing { call: text(), words: text() },
            Failure::Redirected { call: text(), words: text() },
        ];
        for failure in failures {
            tally.note::<()>(Duration::from_millis(250), &Err(failure));
        }
        tally.note(Duration::from_secs(1), &Ok(()));
        let counted = tally.outcomes();
        assert_eq!(counted.iter().filter(|(_, count)| *count == 1).count(), 9, "{counted:?}");
        assert_eq!(counted[9], ("refused", 0));
        assert_eq!(tally.answered(), 5, "ok, token, forbidden, endpoint, missing");
        assert_eq!(tally.waited(), Duration::from_secs(3));
    }
}
