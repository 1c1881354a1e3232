//! What a run leaves for the next one: up to where it has read, and which jobs ran then.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// Where its history begins for us: nothing that ended before is asked for, however far the overlap reaches back.
    /// Checkpoints of earlier versions do not tell.
    pub(super) from: Option<Timestamp>,
    pub(super) read_to: Timestamp,
    /// Ids of jobs that had not ended.
    pub(super) running: HashSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Timestamp>,
    read_to: Timestamp,
    scope: String,
    running: Vec<String>,
}

impl Checkpoint {
    /// `None` if there is none, or if it was left by a collector that made other readings: those of now have not been
    /// read up to anywhere.
    pub(super) fn parse(text: &str, scope: &str) -> Option<Checkpoint> {
        let written: Written = serde_json::from_str(text).ok()?;
        (written.scope == scope).then(|| Checkpoint {
            from: written.from,
            read_to: written.read_to,
            running: written.running.into_iter().collect(),
        })
    }

    pub(super) fn text(self, scope: &str) -> String {
        let mut running: Vec<String> = self.running.into_iter().collect();
        running.sort_unstable();
        let written = Written { from: self.from, read_to: self.read_to, scope: scope.to_owned(), running };
        serde_json::to_string(&written).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_found_again_by_whoever_asks_for_the_same() {
        let left = || Checkpoint {
            from: None,
            read_to: "2026-11-05T10:00:00Z".parse().unwrap(),
            running: ["alpha/21/1795307600", "alpha/22/1795307601"].map(str::to_owned).into(),
        };
        let text = left().text("alpha cpu_seconds");
        assert_eq!(
            text,
            r#"{"read_to":"2026-11-05T10:00:00Z","scope":"alpha cpu_seconds","running":["alpha/21/1795307600","alpha/22/1795307601"]}"#
        );
        assert_eq!(Checkpoint::parse(&text, "alpha cpu_seconds"), Some(left()));
        assert_eq!(Checkpoint::parse(&text, "alpha cpu_seconds,gpu_seconds"), None);
        assert_eq!(Checkpoint::parse("2026-11-05T10:00:00Z", "alpha cpu_seconds"), None);
    }
}
