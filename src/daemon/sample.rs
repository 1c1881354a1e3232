//! One run of one collector, from the question to the ledger. Used by the daemon's tasks and by one-shot commands.

use jiff::Timestamp;

use crate::collectors::definition::Definition;
use crate::collectors::spool::Spool;
use crate::collectors::{Batch, Request};
use crate::config::clock::SharedClock;
use crate::ledger::books::ingest::{Recorded, Run, RunOutcome};
use crate::ledger::{LedgerError, SharedLedger};
use crate::metering::reading::Reading;

/// What a collector said, before it is recorded.
#[derive(Debug)]
pub struct Said {
    pub run: Run,
    /// The first thousands of readings once more, to be shown.
    pub readings: Vec<Reading>,
    /// All others.
    pub more: Spool,
    pub notes: Vec<String>,
}

/// From where a source with history is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// From where the last run left off; if there is none, from here.
    Checkpoint(Timestamp),
    /// From here, whatever was read before: a person wants it again.
    Again(Timestamp),
}

/// Asks the collector once.
pub async fn ask(
    definition: &Definition,
    ledger: &SharedLedger,
    clock: &SharedClock,
    since: Since,
    withhold: Vec<String>,
) -> Result<Said, LedgerError> {
    let name = definition.name.clone();
    let (since, checkpoint) = match since {
        Since::Checkpoint(since) => (since, ledger.with(move |ledger| ledger.checkpoint(&name)).await?),
        Since::Again(since) => (since, None),
    };
    let at = clock.now();
    let request = Request { now: at, since, checkpoint, withhold };
    let (outcome, readings, more, notes) = match definition.collector.collect(request).await {
        Ok(Batch { more, .. }) if more.trouble().is_some() => {
            let trouble = more.trouble().unwrap_or_default().to_owned();
            (RunOutcome::Failed(trouble), Vec::new(), Spool::default(), Vec::new())
        }
        Ok(Batch { readings, more, quarantined, problems, notes, checkpoint, lists_everything, ended }) => {
            let seen = readings.clone();
            let outcome =
                RunOutcome::Seen { readings, quarantined, problems, checkpoint, lists_everything, ended };
            (outcome, seen, more, notes)
        }
        Err(error) => (RunOutcome::Failed(error.to_string()), Vec::new(), Spool::default(), Vec::new()),
    };
    let run = Run {
        collector: definition.name.clone(),
        at,
        finished: clock.now().max(at),
        scope: definition.collector.scope(),
        outcome,
    };
    Ok(Said { run, readings, more, notes })
}

/// Asks the collector once and records what it says, in one transaction.
pub async fn sample(
    definition: &Definition,
    ledger: &SharedLedger,
    clock: &SharedClock,
    since: Timestamp,
    withhold: Vec<String>,
) -> Result<Recorded, LedgerError> {
    let name = definition.name.clone();
    let since = ledger.with(move |ledger| ledger.reads_from(&name, since)).await?;
    let since = Since::Checkpoint(since);
    let Said { run, mut more, .. } = ask(definition, ledger, clock, since, withhold).await?;
    ledger
        .with(move |ledger| {
            let recorded = ledger.record_all(run, &mut more)?;
            ledger.rest()?;
            Ok(recorded)
        })
        .await
}
