//! Runs of a collector that were due and did not take place: told once, with what becomes of what they would have seen. It
//! makes up for nothing by itself: the next run does, where its source keeps history.

use super::{Part, retry};
use crate::collectors::definition::Definition;
use crate::ledger::views::report::Pace;

/// Whether a collector has been missing runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MissedRuns {
    /// Nothing is known yet: the agent has just started.
    Away,
    None,
    Some,
}

impl Part {
    pub(super) async fn pace(&self, definition: &Definition) -> Pace {
        let (name, now) = (definition.name.clone(), self.agent.clock.now());
        // A ledger that can't be read has been told of; the schedule goes on.
        self.ledger.with(move |ledger| ledger.pace(&name, now)).await.unwrap_or_default()
    }

    /// Tells of runs that were due since the last one and did not take place, once for each time that it begins.
    pub(super) async fn note_missed(&self, definition: &Definition, before: MissedRuns) -> MissedRuns {
        let pace = self.pace(definition).await;
        // Where it failed, it was left alone.
        let Some((last, ended)) = pace.last.filter(|_| pace.failed_in_a_row == 0) else {
            return MissedRuns::None;
        };
        let took = ended.duration_since(last);
        let was_slow = took >= definition.schedule.usual_distance();
        // For what came due while it was at work, a run stands that took no longer than is between two.
        let since = if was_slow { last } else { ended };
        let missed = retry::missed(&definition.schedule, since, self.agent.clock.now());
        if missed == 0 {
            return MissedRuns::None;
        }
        self.stats.note_runs(&definition.name, |runs| runs.missed += missed as u64);
        let why = match before {
            MissedRuns::Some => return MissedRuns::Some,
            // A reload begins anew, too, but is no absence. What a clock was set to before the start is not known.
            MissedRuns::Away if self.stats.started_after(last) => {
                "the agent was not at work, or the clock was set".to_owned()
            }
            _ if was_slow => format!("that one took {took:#}"),
            _ if self.stats.runs_of(&definition.name).unrecorded => "they could not be recorded".to_owned(),
            _ => "the machine slept, or its clock was set".to_owned(),
        };
        let what = match pace.keeps_history {
            true => "its source keeps history, and this run reads on from where the last one stopped",
            false => {
                "a counter goes on from its last reading; the level of a gauge is not known for what is longer than its \
                 `max_gap`, and that is not billed"
            }
        };
        let name = &definition.name;
        let were = if missed == 1 { "was" } else { "were" };
        tracing::warn!(
            collector = %name,
            "Collector {name}: {missed} of its runs {were} missed since {last}, because {why}: {what}."
        );
        MissedRuns::Some
    }
}
