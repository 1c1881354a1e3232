//! What a run leaves for the next one: up to where it has read, which jobs ran then, and what could not be read.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collectors::again::Unread;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// Where its history begins for us: nothing that ended before is asked for, however far the overlap reaches back.
    /// Checkpoints of earlier versions do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<Timestamp>,
    /// `None`: nothing of what is wanted now has been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) read_to: Option<Timestamp>,
    /// When days were read again for the last time, and not only the usual overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) days_at: Option<Timestamp>,
    /// How long a window may be, in seconds, where longer ones were refused and there is more to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<i64>,
    /// What decides which readings are made of a job.
    pub(super) scope: String,
    /// Ids of jobs that had not ended.
    pub(super) running: HashSet<String>,
    /// Jobs whose lines could not be read, in the order in which they are asked for again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) unread: Vec<Job>,
    /// Windows with lines that did not even tell which job's they are.
    #[serde(default, skip_serializing_if = "Unread::is_empty")]
    pub(super) windows: Unread,
    /// Hashes of the lines that were read at the last look.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) known: String,
}

/// A job whose line could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) number: Number,
    /// When that was noticed.
    pub(super) since: Timestamp,
}

/// A job's number; jobs that were requeued share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Number {
    /// As sacct was asked for it; empty for the cluster of its own slurm.conf.
    pub(super) cluster: String,
    pub(super) raw: u64,
}

impl Number {
    /// Of a job's id (`cluster/number/submitted`); `is_local`: sacct is asked for no cluster by name.
    pub(super) fn of_id(id: &str, is_local: bool) -> Option<Number> {
        let mut parts = id.split('/');
        let (cluster, raw) = (parts.next()?, parts.next()?);
        let cluster = if is_local { String::new() } else { cluster.to_owned() };
        Some(Number { cluster, raw: raw.parse().ok()? })
    }
}

impl Checkpoint {
    /// What is left of it for a collector that makes these readings: those of another have not been read up to anywhere. But
    /// what could not be read then is not forgotten.
    pub(super) fn parse(text: &str, scope: &str) -> Checkpoint {
        let left: Checkpoint = serde_json::from_str(text).unwrap_or_default();
        match left.scope == scope {
            true => left,
            false => Checkpoint {
                scope: scope.to_owned(),
                unread: left.unread,
                windows: left.windows,
                ..Checkpoint::default()
            },
        }
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_found_again_by_whoever_asks_for_the_same() {
        let unread = Job {
            number: Number { cluster: "alpha".to_owned(), raw: 23 },
            since: "2026-11-05T09:00:00Z".parse().unwrap(),
        };
        let left = Checkpoint {
            read_to: "2026-11-05T10:00:00Z".parse().ok(),
            running: ["alpha/21/1795307600".to_owned()].into(),
            unread: vec![unread.clone()],
            ..Checkpoint::parse("", "alpha cpu_seconds")
        };
        let text = left.text();
        assert_eq!(Checkpoint::parse(&text, "alpha cpu_seconds"), left);
        let other = Checkpoint::parse(&text, "alpha cpu_seconds,gpu_seconds");
        assert_eq!((other.read_to, other.running.len(), other.unread), (None, 0, vec![unread]));
        assert_eq!(Checkpoint::parse("2026-11-05T10:00:00Z", "alpha cpu_seconds").read_to, None);
    }

    #[test]
    fn what_an_earlier_version_left_is_read() {
        let text = r#"{"read_to":"2026-11-05T10:00:00Z","scope":"alpha cpu_seconds","running":["alpha/21/1795307600"]}"#;
        let left = Checkpoint::parse(text, "alpha cpu_seconds");
        assert_eq!(left.read_to, "2026-11-05T10:00:00Z".parse().ok());
        assert!(left.running.contains("alpha/21/1795307600") && left.known.is_empty());
    }
}
