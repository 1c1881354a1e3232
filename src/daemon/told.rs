//! What the log was told of collectors: one line a change of state, so that a fault that lasts does not fill it. `status` has
//! the rest. It decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::collectors::Quarantined;
use crate::ledger::books::ingest::Recorded;
use crate::ledger::views::report::{UnassignedSeries, Why};
use crate::submitter::left::UNMATCHED_REMEDY;
use crate::wire::numbers::count;

/// So many causes of one fault, and lines of one run, are told one by one.
const MOST: usize = 20;
/// So many backend ids are named.
const NAMED: usize = 10;

/// What was told of a collector.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Why it fails, without the numbers in it, which may differ from run to run; each once until it works again.
    causes: BTreeSet<String>,
    /// What its last run quarantined: reason and text.
    quarantined: BTreeSet<(String, String)>,
    /// It fell silent, and has not shown anything since.
    silent: bool,
}

impl Told {
    /// Tells how a run went: `problem`, why it failed or could not be recorded.
    pub(super) fn note(&mut self, name: &str, problem: Option<&str>, recorded: Option<&Recorded>) {
        if let Some(recorded) = recorded {
            self.note_quarantined(name, &recorded.quarantined);
        }
        if recorded.is_some_and(|recorded| recorded.fell_silent) {
            // Told as such; that it works again it does not show.
            self.causes.clear();
            self.silent = true;
            return;
        }
        match problem {
            Some(problem) if self.is_new_cause(problem) => {
                tracing::warn!(collector = %name, "Collector {name} {problem}");
            }
            Some(_) => {}
            None => {
                if !std::mem::take(&mut self.causes).is_empty() {
                    tracing::info!(collector = %name, "Collector {name} works again.");
                }
                if self.silent && recorded.is_some_and(|recorded| recorded.readings > 0) {
                    self.silent = false;
                    tracing::info!(collector = %name, "Collector {name} sees something again.");
                }
            }
        }
    }

    fn is_new_cause(&mut self, problem: &str) -> bool {
        let cause: String = problem.chars().filter(|c| !c.is_ascii_digit()).collect();
        self.causes.len() < MOST && self.causes.insert(cause)
    }

    /// Tells what the run before did not have.
    fn note_quarantined(&mut self, name: &str, bad: &[Quarantined]) {
        let before = std::mem::take(&mut self.quarantined);
        self.quarantined.extend(bad.iter().map(|bad| (bad.reason.clone(), bad.what.clone())));
        let new: Vec<_> = self.quarantined.difference(&before).collect();
        for (reason, what) in new.iter().take(MOST) {
            tracing::warn!(
                collector = %name,
                "Collector {name}: a reading is quarantined and not billed: {reason}: {what}"
            );
        }
        if new.len() > MOST {
            tracing::warn!(
                collector = %name,
                "Collector {name}: {} more readings are quarantined and not billed (`status --all`).",
                new.len() - MOST
            );
        }
    }
}

/// Backend ids that Waldur does not know and that were told, by collector.
#[derive(Debug, Default)]
pub(super) struct Unmatched(BTreeSet<(String, String)>);

impl Unmatched {
    /// Tells of those that are new; one that is gone and comes back is new again.
    pub(super) fn note(&mut self, unassigned: Vec<UnassignedSeries>) {
        let unmatched = unassigned.into_iter().filter(|one| one.why == Why::Unmatched);
        let now: BTreeSet<_> = unmatched.map(|one| (one.collector, one.backend_id)).collect();
        let mut new: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (collector, id) in now.difference(&self.0) {
            new.entry(collector).or_default().push(id);
        }
        for (collector, ids) in new {
            let named = ids.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
            let more = if ids.len() > NAMED { " ..." } else { "" };
            let all = count(ids.len(), "backend id");
            tracing::info!(
                collector,
                "Collector {collector}: {all} that Waldur knows no resource for: {named}{more}. What was measured of it is kept, \
                 and billed to nobody: {UNMATCHED_REMEDY}."
            );
        }
        self.0 = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_new_once_whatever_its_numbers() {
        let mut told = Told::default();
        let causes =
            ["exit code 3 after 12 ms", "exit code 3 after 9 ms", "not found", "exit code 3 after 1 ms"];
        assert_eq!(causes.map(|cause| told.is_new_cause(cause)), [true, false, true, false]);
        told.note("source", None, None);
        assert!(told.is_new_cause("not found"), "it had worked again");
    }
}
