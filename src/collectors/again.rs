//! Windows of a source with history that could not be read whole: they are read again once a day for two weeks, and then
//! told as given up. It asks nobody; it only keeps the account, in the collector's checkpoint.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// How long something is asked for again.
pub(super) const PATIENCE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Whether what was tried then is to be tried again: once a day.
pub(super) fn is_due(tried: Timestamp, now: Timestamp) -> bool {
    // A look in the future was one of a clock that was wrong.
    tried > now || now.duration_since(tried) >= DAY
}

/// What has not been read whole yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Unread(Vec<Part>);

/// A part of one day, so that a long window need not be read again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    from: Timestamp,
    to: Timestamp,
    /// When it was read for the first time.
    since: Timestamp,
    /// And for the last.
    tried: Timestamp,
}

/// A window as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) whole: bool,
}

impl Unread {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what another account has.
    pub(super) fn add(&mut self, other: &Unread) {
        let new: Vec<Part> = other.0.iter().filter(|part| !self.0.contains(part)).copied().collect();
        self.0.extend(new);
    }

    /// What is to be read again now, from the earliest.
    pub(super) fn due(&self, now: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let parts = self.0.iter().filter(|part| is_due(part.tried, now));
        let mut due: Vec<_> = parts.map(|part| (part.from, part.to)).collect();
        due.sort_unstable();
        due.dedup();
        due
    }

    /// Where parts begin or end between two instants: whoever reads all of it stops there, so that each part is judged by
    /// itself.
    pub(super) fn cuts(&self, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
        let ends = self.0.iter().flat_map(|part| [part.from, part.to]);
        let mut cuts: Vec<_> = ends.filter(|at| from < *at && *at < to).collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    /// Takes what a run has read. What is whole now is done with; what is not is asked for again.
    pub(super) fn looked(&mut self, looks: &[Look], now: Timestamp) {
        let mut looks = looks.to_vec();
        looks.sort_unstable_by_key(|look| (look.from, look.to));
        let known = self.0.clone();
        self.0.retain_mut(|part| {
            let (mut reached, mut whole) = (part.from, true);
            for look in looks.iter().filter(|look| look.to > part.from && look.from < part.to) {
                if look.from <= reached {
                    reached = reached.max(look.to);
                }
                whole &= look.whole;
            }
            if reached < part.to {
                return true;
            }
            part.tried = now;
            !whole
        });
        for look in looks.iter().filter(|look| !look.whole) {
            if !known.iter().any(|part| part.from <= look.from && look.to <= part.to) {
                self.note(look.from, look.to, now);
            }
        }
    }

    fn note(&mut self, from: Timestamp, to: Timestamp, now: Timestamp) {
        let mut from = from;
        while from < to {
            let midnight = Timestamp::from_second((day(from) + 1) * DAY.as_secs()).unwrap_or(to);
            let end = midnight.min(to);
            // Of a day there is one part: what is found beside it later is asked for as long as that is.
            let same = |part: &&mut Part| day(part.from) == day(from);
            match self.0.iter_mut().find(same) {
                Some(part) => {
                    part.from = part.from.min(from);
                    part.to = part.to.max(end);
                    part.tried = now;
                }
                None => self.0.push(Part { from, to: end, since: now, tried: now }),
            }
            from = end;
        }
    }

    /// What has been asked for long enough, and is not any more.
    pub(super) fn give_up(&mut self, now: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let (left, old) = self.0.drain(..).partition(|part| now.duration_since(part.since) < PATIENCE);
        self.0 = left;
        old.into_iter().map(|part: Part| (part.from, part.to)).collect()
    }
}

/// The day of UTC, counted from 1970.
fn day(at: Timestamp) -> i64 {
    at.as_second().div_euclid(DAY.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn look(from: &str, to: &str, whole: bool) -> Look {
        Look { from: at(from), to: at(to), whole }
    }

    fn shown(windows: Vec<(Timestamp, Timestamp)>) -> Vec<String> {
        windows.iter().map(|(from, to)| format!("{from}/{to}")).collect()
    }

    #[test]
    fn what_was_not_whole_is_asked_for_once_a_day_until_it_is() {
        let mut unread = Unread::default();
        let now = at("2026-11-05T10:00:00Z");
        unread.looked(&[look("2026-11-04T22:00:00Z", "2026-11-05T10:00:00Z", false)], now);
        assert_eq!(shown(unread.due(at("2026-11-06T09:59:59Z"))), Vec::<String>::new());
        let parts =
            ["2026-11-04T22:00:00Z/2026-11-05T00:00:00Z", "2026-11-05T00:00:00Z/2026-11-05T10:00:00Z"];
        let day_later = at("2026-11-06T10:00:00Z");
        assert_eq!(shown(unread.due(day_later)), parts);
        assert_eq!(
            unread.cuts(at("2026-11-04T22:00:00Z"), day_later),
            [at("2026-11-05T00:00:00Z"), at("2026-11-05T10:00:00Z")]
        );
        // The first half is whole by now, the second half in two pieces of which one is not.
        unread.looked(
            &[
                look("2026-11-04T22:00:00Z", "2026-11-05T00:00:00Z", true),
                look("2026-11-05T00:00:00Z", "2026-11-05T05:00:00Z", false),
                look("2026-11-05T05:00:00Z", "2026-11-05T10:00:00Z", true),
                look("2026-11-05T10:00:00Z", "2026-11-06T10:00:00Z", true),
            ],
            day_later,
        );
        assert_eq!(shown(unread.due(day_later)), Vec::<String>::new());
        assert_eq!(shown(unread.due(at("2026-11-07T10:00:00Z"))), parts[1..]);
        // A clock that was ahead holds nothing up.
        assert_eq!(shown(unread.due(at("2026-11-06T09:00:00Z"))), parts[1..]);
        unread.looked(
            &[look("2026-11-05T00:00:00Z", "2026-11-07T10:00:00Z", true)],
            at("2026-11-07T10:00:00Z"),
        );
        assert!(unread.is_empty());
    }

    #[test]
    fn after_two_weeks_it_is_given_up_and_said() {
        let mut unread = Unread::default();
        let bad = [look("2026-11-05T00:00:00Z", "2026-11-05T10:00:00Z", false)];
        unread.looked(&bad, at("2026-11-05T10:00:00Z"));
        for day in 6..19 {
            let now = at(&format!("2026-11-{day:02}T10:00:00Z"));
            assert_eq!(shown(unread.give_up(now)), Vec::<String>::new());
            assert_eq!(unread.due(now).len(), 1);
            unread.looked(&bad, now);
        }
        let told = shown(unread.give_up(at("2026-11-19T10:00:00Z")));
        assert_eq!(told, ["2026-11-05T00:00:00Z/2026-11-05T10:00:00Z"]);
        assert!(unread.is_empty());
    }

    #[test]
    fn what_is_read_in_part_is_neither_done_with_nor_tried() {
        let mut unread = Unread::default();
        unread.looked(
            &[look("2026-11-05T00:00:00Z", "2026-11-05T10:00:00Z", false)],
            at("2026-11-05T10:00:00Z"),
        );
        let now = at("2026-11-06T12:00:00Z");
        unread.looked(&[look("2026-11-05T00:00:00Z", "2026-11-05T04:00:00Z", true)], now);
        assert_eq!(unread.due(now).len(), 1);
    }
}
