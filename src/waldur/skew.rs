//! Learns how far the server's clock is from ours, from the `Date` of its answers.
//!
//! It never corrects a clock: what is billed goes by the server's, and whoever guards a month's end asks here.

use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

/// Our clock and theirs drift apart, so a good measurement does not stay good.
const KEPT: SignedDuration = SignedDuration::from_mins(10);

/// The server's clock minus ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skew {
    pub offset: SignedDuration,
    /// How wrong `offset` can be, either way.
    pub uncertainty: SignedDuration,
    /// When it was measured, by our clock.
    pub measured: Timestamp,
}

impl Skew {
    /// From a call that began and was answered at these instants of our clock. The server wrote its `Date` (whole
    /// seconds, cut off) somewhere between the two.
    fn measure(began: Timestamp, answered: Timestamp, date: Timestamp) -> Skew {
        let answered = answered.max(began);
        let least = date.duration_since(answered);
        let most = date.duration_since(began).saturating_add(SignedDuration::from_secs(1));
        let uncertainty = most.saturating_sub(least) / 2;
        Skew { offset: least.saturating_add(uncertainty), uncertainty, measured: answered }
    }

    fn agrees_with(&self, other: &Skew) -> bool {
        let apart = self.offset.saturating_sub(other.offset).abs();
        apart <= self.uncertainty.saturating_add(other.uncertainty)
    }
}

/// The best measurement so far.
#[derive(Debug, Default)]
pub struct SkewMeter(Mutex<Option<Skew>>);

impl SkewMeter {
    pub fn current(&self) -> Option<Skew> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a measurement in, unless the one at hand is sharper, still fresh, and does not contradict it.
    pub fn observe(&self, began: Timestamp, answered: Timestamp, date: Timestamp) {
        let new = Skew::measure(began, answered, date);
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = held.is_some_and(|old| {
            let age = new.measured.duration_since(old.measured);
            let fresh = !age.is_negative() && age < KEPT;
            fresh && old.uncertainty < new.uncertainty && old.agrees_with(&new)
        });
        if !keep {
            *held = Some(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_quick_answer_tells_the_skew_to_half_a_second() {
        let meter = SkewMeter::default();
        let began = at("2026-11-30T23:59:00Z");
        meter.observe(began, began, at("2026-11-30T23:59:05Z"));
        let skew = meter.current().unwrap();
        assert_eq!(skew.offset, SignedDuration::from_millis(5500));
        assert_eq!(skew.uncertainty, SignedDuration::from_millis(500));
    }

    #[test]
    fn a_slow_answer_does_not_replace_a_sharp_one_that_it_agrees_with() {
        let meter = SkewMeter::default();
        let began = at("2026-11-30T12:00:00Z");
        meter.observe(began, began, began);
        let sharp = meter.current().unwrap();
        meter.observe(began, began + SignedDuration::from_secs(40), began + SignedDuration::from_secs(39));
        assert_eq!(meter.current(), Some(sharp));
        // A clock that was set is believed at once, and an old measurement gives way.
        meter.observe(began, began + SignedDuration::from_secs(40), began + SignedDuration::from_hours(1));
        assert!(meter.current().unwrap().offset > SignedDuration::from_mins(59));
        let later = began + SignedDuration::from_hours(2);
        meter.observe(later, later + SignedDuration::from_secs(40), later);
        assert_eq!(meter.current().unwrap().uncertainty, SignedDuration::from_millis(20_500));
    }

    #[test]
    fn impossible_times_do_not_overflow() {
        let meter = SkewMeter::default();
        meter.observe(Timestamp::MAX, Timestamp::MIN, Timestamp::MIN);
        meter.observe(Timestamp::MIN, Timestamp::MAX, Timestamp::MAX);
        assert!(meter.current().is_some());
    }
}
