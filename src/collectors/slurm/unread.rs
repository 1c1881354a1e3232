//! Jobs whose lines could not be read: they are asked for again by their numbers, until they can be, or for sixty days.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::checkpoint::{Job, Number};
use super::reader::Reader;
use crate::collectors::again::Unread;
use crate::collectors::{Batch, Bearing};

/// As many are asked for in one run: SLURM is asked for little each time.
const A_RUN: usize = 1_000;
/// As many are remembered.
const MOST: usize = 10_000;
/// So long.
const PATIENCE: SignedDuration = SignedDuration::from_hours(60 * 24);
/// Jobs that are named one by one.
const NAMED: usize = 20;

/// Which to ask for now: those that no window listed, the longest not asked for first.
pub(super) fn to_ask(unread: &[Job], reader: &Reader, all_was_read: bool) -> BTreeSet<Number> {
    if !all_was_read {
        return BTreeSet::new();
    }
    let numbers = unread.iter().map(|job| &job.number);
    let unlisted = numbers.filter(|number| !reader.bad.contains(number) && !reader.mended.contains(number));
    unlisted.take(A_RUN).cloned().collect()
}

/// What is asked for again by the next runs. `gone`: those that slurmdbd does not know any more.
pub(super) fn after(
    before: Vec<Job>,
    reader: &mut Reader,
    gone: &BTreeSet<Number>,
    now: Timestamp,
) -> Vec<Job> {
    let mut bad = std::mem::take(&mut reader.bad);
    let mut left = Vec::with_capacity(before.len() + bad.len());
    let mut again = Vec::new();
    let mut given_up = Vec::new();
    for job in before {
        let is_old = now.duration_since(job.since) >= PATIENCE;
        if bad.remove(&job.number) {
            // Behind the others: they come first next time.
            if is_old { given_up.push(job) } else { again.push(job) }
        } else if gone.contains(&job.number) || (is_old && !reader.mended.contains(&job.number)) {
            given_up.push(job);
        } else if !reader.mended.contains(&job.number) {
            left.push(job);
        }
    }
    left.append(&mut again);
    left.extend(bad.into_iter().map(|number| Job { number, since: now }));
    if left.len() > MOST {
        given_up.extend(left.drain(..left.len() - MOST));
    }
    if !given_up.is_empty() {
        let named = given_up.iter().take(NAMED).map(|job| job.number.raw.to_string());
        let named = named.collect::<Vec<_>>().join(", ");
        let more = match given_up.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        reader.batch.problem_of(
            format!(
                "jobs that could not be read are given up and not billed: {named}{more}. slurmdbd no longer knows them, or they \
                 were asked for again for 60 days, or there were more than {MOST}; if their records are mended, read them \
                 with `collect --since`"
            ),
            Bearing::nothing(),
        );
    }
    left
}

/// Tells of windows that have been read often enough in vain.
pub(super) fn give_up(windows: &mut Unread, batch: &mut Batch, now: Timestamp) {
    for (from, to) in windows.give_up(now) {
        let text = format!(
            "between {from} and {to} there are lines that do not tell which job's they are; they were read again for 14 days \
             and are given up: what they say is not billed. If they are mended, read them with `collect --since {from}`"
        );
        batch.problem_of(text, Bearing::nothing());
    }
}
