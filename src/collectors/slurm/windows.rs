//! Reads a span of time in as many windows as it takes: where slurmdbd refuses one or does not answer in time, by halves,
//! forward from the beginning. What was read before a window that can't be read stays read.

use jiff::{SignedDuration, Timestamp};

use super::calls::{Calls, Refusal};
use super::reader::Reader;
use crate::collectors::CollectorError;
use crate::collectors::again::Look;

/// A window this short is not halved: it is not its length that is refused.
const SHORTEST: SignedDuration = SignedDuration::from_mins(30);
/// Tries that took as long as there is patience, one after the other, before the source is taken to be away.
const SLOW_TRIES: usize = 8;

#[derive(Debug)]
pub(super) struct Windows {
    from: Timestamp,
    to: Timestamp,
    /// Where a window ends in any case.
    cuts: Vec<Timestamp>,
    /// The longest window that is asked for, where a longer one was refused.
    length: Option<SignedDuration>,
    looks: Vec<Look>,
    /// Up to where every cluster has been read.
    reached: Timestamp,
    troubles: Vec<String>,
}

impl Windows {
    pub(super) fn new(from: Timestamp, to: Timestamp, cuts: Vec<Timestamp>, length: Option<i64>) -> Windows {
        let length = length.filter(|seconds| *seconds > 0).map(SignedDuration::from_secs);
        Windows { from, to, cuts, length, looks: Vec::new(), reached: to, troubles: Vec::new() }
    }

    /// Reads all of it for each cluster, or as much as can be.
    pub(super) async fn read(
        &mut self,
        calls: &Calls<'_>,
        clusters: &[String],
        mut reader: Reader,
    ) -> Result<Reader, CollectorError> {
        for cluster in clusters {
            reader = self.of_cluster(calls, cluster, reader).await?;
        }
        Ok(reader)
    }

    async fn of_cluster(
        &mut self,
        calls: &Calls<'_>,
        cluster: &str,
        mut reader: Reader,
    ) -> Result<Reader, CollectorError> {
        let mut at = self.from;
        let mut slow_tries = 0;
        while at < self.to {
            let end = self.end(at);
            let (with, answered) = calls.window(cluster, (at, end), reader).await?;
            reader = with;
            match answered {
                Ok(nameless) => {
                    self.looks.push(Look { from: at, to: end, whole: !nameless });
                    at = end;
                    slow_tries = 0;
                }
                Err(Refusal::TooMuch { slow, words }) => {
                    slow_tries += usize::from(slow);
                    // Whole seconds are all that sacct knows.
                    let half = SignedDuration::from_secs(end.duration_since(at).as_secs() / 2);
                    if half < SHORTEST || slow_tries > SLOW_TRIES {
                        self.troubles.push(words);
                        break;
                    }
                    self.length = Some(half);
                }
                Err(Refusal::Other(words)) => {
                    self.troubles.push(words);
                    break;
                }
            }
        }
        self.reached = self.reached.min(at);
        Ok(reader)
    }

    fn end(&self, at: Timestamp) -> Timestamp {
        let cut = self.cuts.iter().find(|cut| **cut > at).copied().unwrap_or(self.to);
        let longest = self.length.and_then(|length| at.checked_add(length).ok()).unwrap_or(cut);
        longest.min(cut).min(self.to)
    }

    pub(super) fn has_read(&self) -> bool {
        !self.looks.is_empty()
    }

    pub(super) fn reached(&self) -> Timestamp {
        self.reached
    }

    pub(super) fn troubles(&self) -> &[String] {
        &self.troubles
    }

    /// How long the windows of the next run may be, if there is more to read.
    pub(super) fn next_length(&self) -> Option<i64> {
        self.length.filter(|_| self.reached < self.to).map(|length| length.as_secs())
    }

    pub(super) fn into_looks(self) -> Vec<Look> {
        self.looks
    }
}
