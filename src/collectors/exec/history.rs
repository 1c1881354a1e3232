//! For programs that read history: lines that could not be read are asked for again, once a day for two weeks, with the
//! checkpoint that the program had been given when they first came. What is remembered for it stands before the program's
//! own checkpoint, which it never changes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collectors::again::{PATIENCE, is_due};
use crate::collectors::{Batch, Bearing};

/// No program's own checkpoint begins so.
const MARK: &str = "#waldur-usage-agent-again:";

/// What earlier runs left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct History {
    /// The program's own checkpoint.
    own: Option<String>,
    again: Option<Again>,
}

/// From where lines are asked for again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Again {
    /// What the program was given then.
    checkpoint: Option<String>,
    since: Timestamp,
    /// When a line could not be read for the first time, and when it was last asked for.
    first: Timestamp,
    tried: Timestamp,
}

/// What a program is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) checkpoint: Option<String>,
    pub(super) since: Timestamp,
    is_again: bool,
}

impl History {
    pub(super) fn read(stored: Option<&str>) -> History {
        let Some(text) = stored else { return History::default() };
        let parts = text.strip_prefix(MARK).and_then(|rest| rest.split_once('\n'));
        match parts.and_then(|(again, own)| Some((serde_json::from_str(again).ok()?, own))) {
            // A first letter tells none from an empty one.
            Some((again, own)) => {
                History { own: own.strip_prefix('=').map(str::to_owned), again: Some(again) }
            }
            None => History { own: Some(text.to_owned()), again: None },
        }
    }

    pub(super) fn text(&self) -> Option<String> {
        let Some(again) = &self.again else { return self.own.clone() };
        let own = self.own.as_ref().map(|own| format!("={own}")).unwrap_or_default();
        serde_json::to_string(again).ok().map(|again| format!("{MARK}{again}\n{own}"))
    }

    /// What the program is given now.
    pub(super) fn give(&self, since: Timestamp, now: Timestamp) -> Given {
        match self.again.as_ref().filter(|again| is_due(again.tried, now)) {
            Some(again) => {
                Given { checkpoint: again.checkpoint.clone(), since: again.since.min(since), is_again: true }
            }
            None => Given { checkpoint: self.own.clone(), since, is_again: false },
        }
    }

    /// Takes what the program said, and leaves its checkpoint in the batch.
    pub(super) fn take(
        &mut self,
        given: Given,
        now: Timestamp,
        batch: &mut Batch,
        metered: &BTreeSet<String>,
    ) {
        let own = batch.checkpoint.take();
        // Without a checkpoint it has no history: it says what there is each time.
        let has_history = own.is_some() || self.own.is_some();
        self.own = own.or(self.own.take());
        let is_bad = batch.quarantined.iter().any(|bad| !bad.bears_on.is_unmetered(metered));
        match &mut self.again {
            Some(again) if given.is_again && is_bad && now.duration_since(again.first) >= PATIENCE => {
                let text = format!(
                    "lines that could not be read since {} were asked for again for 14 days and are given up. If they are mended, \
                     read them with `collect --since`",
                    again.first
                );
                batch.problem_of(text, Bearing::nothing());
                self.again = None;
            }
            Some(again) if given.is_again && is_bad => again.tried = now,
            Some(_) if given.is_again => self.again = None,
            // Those of now lie behind those that are asked for already.
            Some(_) => {}
            None if is_bad && has_history => {
                let Given { checkpoint, since, .. } = given;
                self.again = Some(Again { checkpoint, since, first: now, tried: now });
            }
            None => {}
        }
        batch.checkpoint = self.text();
    }

    /// Keeps what another one was still to be asked for.
    pub(super) fn add(&mut self, other: History) {
        self.again = self.again.take().or(other.again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_own_checkpoint_stays_as_it_is() {
        let again = Again {
            checkpoint: Some("job 6\nand more".to_owned()),
            since: "2026-11-01T00:00:00Z".parse().unwrap(),
            first: "2026-11-05T10:00:00Z".parse().unwrap(),
            tried: "2026-11-06T10:00:00Z".parse().unwrap(),
        };
        for own in [None, Some(""), Some("job 7; ö\nand more"), Some("=")] {
            for again in [None, Some(again.clone())] {
                let history = History { own: own.map(str::to_owned), again };
                assert_eq!(History::read(history.text().as_deref()), history);
            }
            assert_eq!(History::read(own).text().as_deref(), own);
        }
    }
}
