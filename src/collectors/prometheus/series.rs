//! What is kept of a series of samples, and where it ends.

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

/// Months begin at a multiple of this in every time zone.
pub(super) const QUARTER: SignedDuration = SignedDuration::from_mins(15);

/// Which samples of a counter are enough to meter all of them: its amount is the same to the last digit.
///
/// Kept are the first and the last, the last of each step, both sides of each fall (a restart), and both sides of each
/// quarter of an hour, so that a month's end is cut as closely as the source was scraped. Which step a sample lies in
/// does not depend on what else was asked for, so a window that is read again keeps the same ones.
pub(super) fn enough<'a, T>(
    samples: &'a [(Timestamp, T)],
    value: impl Fn(&T) -> Decimal + 'a,
    step: SignedDuration,
) -> impl Iterator<Item = &'a (Timestamp, T)> {
    let is_cut = move |one: &(Timestamp, T), next: &(Timestamp, T)| {
        multiple(one.0, QUARTER) != multiple(next.0, QUARTER) || value(&next.1) < value(&one.1)
    };
    samples.iter().enumerate().filter_map(move |(index, sample)| {
        let before = index.checked_sub(1).and_then(|before| samples.get(before));
        let (Some(before), Some(after)) = (before, samples.get(index + 1)) else { return Some(sample) };
        let is_last_of_step = multiple(sample.0, step) != multiple(after.0, step);
        (is_last_of_step || is_cut(before, sample) || is_cut(sample, after)).then_some(sample)
    })
}

/// Where a series ended that is evaluated at each multiple of `step` up to `last`: the instants at which it is not there
/// any more, having been there a step before.
pub(super) fn ends(present: &[Timestamp], step: SignedDuration, last: Timestamp) -> Vec<Timestamp> {
    let mut ends = Vec::new();
    for (index, at) in present.iter().enumerate() {
        let Ok(next) = at.checked_add(step) else { continue };
        if next <= last && present.get(index + 1).is_none_or(|there| *there > next) {
            ends.push(next);
        }
    }
    ends
}

/// How many whole lengths lie between 1970 and an instant.
fn multiple(at: Timestamp, length: SignedDuration) -> i128 {
    at.as_nanosecond().div_euclid(length.as_nanos().max(1))
}

/// The last multiple of `step` that is not after the instant.
pub(super) fn aligned(at: Timestamp, step: SignedDuration) -> Timestamp {
    let nanoseconds = multiple(at, step) * step.as_nanos();
    Timestamp::from_nanosecond(nanoseconds).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_392_000 + second).unwrap() // 2026-11-23T00:00:00Z
    }

    fn secs(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    fn kept(samples: &[(i64, i64)], step: i64) -> Vec<(i64, i64)> {
        let samples: Vec<_> = samples.iter().map(|(t, v)| (at(*t), Decimal::from(*v))).collect();
        let zero = at(0).as_second();
        enough(&samples, |value| *value, secs(step))
            .map(|(t, v)| (t.as_second() - zero, i64::try_from(*v).unwrap()))
            .collect()
    }

    #[test]
    fn the_last_of_each_step_is_kept_and_both_sides_of_a_restart() {
        let samples =
            [(1, 0), (61, 10), (121, 20), (299, 30), (301, 31), (361, 2), (421, 5), (481, 8), (541, 9)];
        // First; last of the first five minutes; before and after the fall; last.
        assert_eq!(kept(&samples, 300), [(1, 0), (299, 30), (301, 31), (361, 2), (541, 9)]);
    }

    #[test]
    fn both_sides_of_a_quarter_of_an_hour_are_kept_whatever_the_step() {
        let samples: Vec<_> = (0..100).map(|n| (n * 20 + 5, n)).collect();
        assert_eq!(kept(&samples, 3600), [(5, 0), (885, 44), (905, 45), (1785, 89), (1805, 90), (1985, 99)]);
    }

    #[test]
    fn a_series_ended_where_it_is_not_there_a_step_later() {
        let grid = |steps: &[i64]| steps.iter().map(|n| at(n * 60)).collect::<Vec<_>>();
        assert_eq!(ends(&grid(&[0, 1, 2]), secs(60), at(120)), grid(&[]));
        assert_eq!(ends(&grid(&[0, 1, 2]), secs(60), at(180)), grid(&[3]));
        assert_eq!(ends(&grid(&[0, 3, 4]), secs(60), at(300)), grid(&[1, 5]));
        assert_eq!(ends(&[], secs(60), at(300)), []);
    }

    #[test]
    fn steps_are_multiples_since_1970_whenever_they_are_asked_for() {
        assert_eq!(aligned(at(299), secs(300)), at(0));
        assert_eq!(aligned(at(300), secs(300)), at(300));
        assert_eq!(aligned("1969-12-31T23:59:59Z".parse().unwrap(), secs(60)).as_second(), -60);
    }

    /// What Prometheus would call the increase, without its guesses: the rises, and after a fall the whole value.
    fn amount(samples: &[(i64, i64)]) -> i64 {
        samples
            .windows(2)
            .map(|pair| if pair[1].1 < pair[0].1 { pair[1].1 } else { pair[1].1 - pair[0].1 })
            .sum()
    }

    proptest! {
        #[test]
        fn what_is_kept_makes_the_same_amount_as_all(
            steps in prop::collection::vec((1..400i64, 0..50i64, 0..20u8), 1..80), step in 1..4000i64, cut in 0..80usize
        ) {
            let (mut t, mut v) = (0, 100);
            let mut samples = Vec::new();
            for (distance, rise, restart) in steps {
                t += distance;
                v = if restart == 0 { rise } else { v + rise };
                samples.push((t, v));
            }
            let all = kept(&samples, step);
            prop_assert_eq!(amount(&all), amount(&samples));
            // Read in two windows that share a sample, as a run and the next do.
            let cut = cut.min(samples.len() - 1);
            let mut both = kept(&samples[..=cut], step);
            both.extend(kept(&samples[cut..], step));
            both.sort_unstable();
            both.dedup();
            prop_assert_eq!(amount(&both), amount(&samples));
            prop_assert!(all.iter().all(|sample| both.contains(sample)));
        }
    }
}
