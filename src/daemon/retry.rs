//! When a collector that failed is tried again, and how many of its runs were missed. Pure: instants in, instants out, so that `status` says what the daemon will do.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::config::schedule::Schedule;
use crate::ledger::views::report::Pace;

/// The wait after a first failure; it doubles with each one more.
const FIRST: SignedDuration = SignedDuration::from_mins(1);
/// It never becomes longer than this, or than the schedule's usual distance where that is longer.
const LONGEST: SignedDuration = SignedDuration::from_mins(15);
/// More missed runs than this are not counted.
const MOST: usize = 10_000;

/// When a collector is tried again, by what the ledger knows of it.
pub fn retry_of(name: &str, schedule: &Schedule, pace: &Pace) -> Option<Timestamp> {
    retry_at(name, schedule, pace.failed_in_a_row, pace.last?.1)
}

/// When a collector is tried again that has failed so often in a row, last at `ended`; `None` if it has not. A source that
/// is away for a moment is asked again soon, however rare its schedule; one that stays away is left alone for longer and
/// longer, but never for longer than its schedule or a quarter of an hour. A collector that saw only a part does not wait:
/// what it does see is billed.
fn retry_at(name: &str, schedule: &Schedule, failures: i64, ended: Timestamp) -> Option<Timestamp> {
    let doublings = u32::try_from(failures.min(16)).ok()?.checked_sub(1)?;
    let distance = schedule.usual_distance();
    let longest = (FIRST.min(distance) * 2_i32.pow(doublings)).min(LONGEST.max(distance));
    // Of the same wait between a half and the whole: by name and instant, not by chance, so that anybody can tell it.
    let chance =
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{name} {ended}").as_bytes()).as_u64_pair().0 % 1000;
    let millis = longest.as_millis() as i64 * (500 + chance as i64 / 2) / 1000;
    let retry = ended.saturating_add(SignedDuration::from_millis(millis)).unwrap_or(Timestamp::MAX);
    match schedule.next_after(ended) {
        Some(planned) if longest < distance => Some(retry.min(planned)),
        _ => Some(retry),
    }
}

/// How many times of a schedule passed since the last run without one: all but the latest, for which the run at `now`
/// stands.
pub fn missed(schedule: &Schedule, last: Timestamp, now: Timestamp) -> usize {
    schedule.times_between(last, now, MOST).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(text: &str) -> Schedule {
        Schedule::parse(text, TimeZone::UTC).unwrap()
    }

    /// The shortest and the longest wait after each failure, over many instants, in seconds.
    fn waits(text: &str, failures: i64) -> (i64, i64) {
        let schedule = schedule(text);
        let waits = (0..500).map(|second| {
            let ended = at("2026-11-10T00:00:01Z") + SignedDuration::from_secs(second * 86_400);
            retry_at("c", &schedule, failures, ended).unwrap().duration_since(ended).as_secs()
        });
        let waits: Vec<i64> = waits.collect();
        (*waits.iter().min().unwrap(), *waits.iter().max().unwrap())
    }

    #[test]
    fn a_collector_that_fails_is_left_alone_for_longer_and_longer() {
        // From half of it to the whole of it; for hours, sooner than the schedule says and never later.
        let rules = [
            ("every 30s", [(1, 30), (2, 60), (3, 120), (5, 480), (6, 900), (60, 900)]),
            ("@hourly", [(1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (60, 3600)]),
        ];
        for (rule, steps) in rules {
            for (failures, longest) in steps {
                let (from, to) = waits(rule, failures);
                let about = |wait: i64, wanted: i64| {
                    (wanted - wanted / 20 - 1..=wanted + wanted / 20).contains(&wait)
                };
                assert!(about(from, longest / 2) && about(to, longest), "{rule}, {failures}: {from} to {to}");
                assert!(from >= longest / 2 && to <= longest, "{rule}, {failures}: {from} to {to}");
            }
        }
        assert_eq!(retry_at("c", &schedule("@hourly"), 0, at("2026-11-10T00:00:00Z")), None);
    }

    #[test]
    fn it_is_tried_when_it_would_have_been_anyway() {
        let ended = at("2026-11-10T00:59:50Z");
        assert_eq!(retry_at("c", &schedule("@hourly"), 3, ended), Some(at("2026-11-10T01:00:00Z")));
    }

    #[test]
    fn missed_runs_are_those_that_nothing_stands_for() {
        let hourly = schedule("@hourly");
        let missed = |last: &str, now: &str| missed(&hourly, at(last), at(now));
        assert_eq!(missed("2026-11-10T10:00:00Z", "2026-11-10T10:59:00Z"), 0);
        assert_eq!(missed("2026-11-10T10:00:00Z", "2026-11-10T11:00:00Z"), 0);
        assert_eq!(missed("2026-11-10T10:00:00Z", "2026-11-10T11:40:00Z"), 0);
        assert_eq!(missed("2026-11-10T10:00:00Z", "2026-11-10T14:00:00Z"), 3);
    }
}
