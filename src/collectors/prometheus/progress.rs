//! How far the history of each query has been read: the collector's checkpoint.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::query::Query;
use crate::collectors::again::Unread;

/// By the name of the query.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress(BTreeMap<String, Read>);

/// What was read for one query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Read {
    /// What it was then.
    query: String,
    /// Where its history begins for us: nothing before is ever asked for.
    pub(super) from: Timestamp,
    /// Where the next run goes on. Behind the last sample that was read, because some come late.
    pub(super) resume: Timestamp,
    /// All before was read, late samples aside. What is asked for by then is asked up to here first: that sample is kept which
    /// was read last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
    /// What the server did not call whole, or could not be read.
    #[serde(default, skip_serializing_if = "Unread::is_empty")]
    pub(super) again: Unread,
}

impl Progress {
    /// What an earlier run left behind. What can't be read is as if there were none: history is read once more, and
    /// nothing counts twice.
    pub(super) fn of(checkpoint: Option<&str>) -> Progress {
        checkpoint.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// Where reading begins for a query. One that is new begins where history is wanted from; one that is another than before
    /// goes on where that was read to.
    pub(super) fn start(&self, query: &Query, since: Timestamp) -> Read {
        let identity = query.identity();
        match self.0.get(&query.name).filter(|known| known.from <= since) {
            None => {
                Read { query: identity, from: since, resume: since, until: None, again: Unread::default() }
            }
            Some(known) => {
                let is_same = known.query == identity;
                let (from, resume) = (known.from, known.resume.max(known.from));
                let again = if is_same { known.again.clone() } else { Unread::default() };
                Read { query: identity, from, resume, until: known.until.filter(|_| !is_same), again }
            }
        }
    }

    /// Notes that a query has been read up to an instant.
    pub(super) fn set(&mut self, query: &Query, read: Read) {
        self.0.insert(query.name.clone(), read);
    }

    /// Keeps what another one was still to be asked for, of queries that are the same.
    pub(super) fn add(&mut self, other: &Progress) {
        for (name, read) in &mut self.0 {
            if let Some(other) = other.0.get(name).filter(|other| other.query == read.query) {
                read.again.add(&other.again);
            }
        }
    }

    pub(super) fn text(&self) -> Option<String> {
        serde_json::to_string(&self.0).ok()
    }
}

impl Read {
    /// `until` has been read at `now`; samples may still come in late up to `overlap` behind it.
    pub(super) fn advanced(self, until: Timestamp, now: Timestamp, overlap: SignedDuration) -> Read {
        let late = now.saturating_sub(overlap).unwrap_or(Timestamp::MIN);
        Read { resume: until.min(late).max(self.from), until: Some(until), ..self }
    }
}

/// From where to where one question reaches; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    /// What has been read once it is answered. Where the present is reached, that is more than the last step.
    pub(super) end: Timestamp,
}
