//! One run of one collector, from the question to the ledger. Used by the daemon's tasks and by one-shot commands.

use jiff::Timestamp;

use crate::collectors::definition::Definition;
use crate::collectors::{Batch, Request};
use crate::config::clock::SharedClock;
use crate::ledger::ingest::{Recorded, Run, RunOutcome};
use crate::ledger::{LedgerError, SharedLedger};
use crate::metering::reading::Reading;

/// What a collector said, before it is recorded.
#[derive(Debug)]
pub struct Said {
    pub run: Run,
    pub readings: Vec<Reading>,
    pub notes: Vec<String>,
}

/// Asks the collector once.
pub async fn ask(
    definition: &Definition,
    ledger: &SharedLedger,
    clock: &SharedClock,
    since: Timestamp,
    withhold: Vec<String>,
) -> Result<Said, LedgerError> {
    let name = definition.name.clone();
    let checkpoint = ledger.with(move |ledger| ledger.checkpoint(&name)).await?;
    let at = clock.now();
    let request = Request { now: at, since, checkpoint, withhold };
    let (outcome, readings, notes) = match definition.collector.collect(request).await {
        Ok(Batch { readings, quarantined, problems, notes, checkpoint, lists_everything, ended }) => {
            let seen = readings.clone();
            let outcome =
                RunOutcome::Seen { readings, quarantined, problems, checkpoint, lists_everything, ended };
            (outcome, seen, notes)
        }
        Err(error) => (RunOutcome::Failed(error.to_string()), Vec::new(), Vec::new()),
    };
    let run = Run {
        collector: definition.name.clone(),
        at,
        finished: clock.now().max(at),
        scope: definition.collector.scope(),
        outcome,
    };
    Ok(Said { run, readings, notes })
}

/// Asks the collector once and records what it says, in one transaction.
pub async fn sample(
    definition: &Definition,
    ledger: &SharedLedger,
    clock: &SharedClock,
    since: Timestamp,
    withhold: Vec<String>,
) -> Result<Recorded, LedgerError> {
    let Said { run, .. } = ask(definition, ledger, clock, since, withhold).await?;
    ledger.with(move |ledger| ledger.record(run)).await
}
