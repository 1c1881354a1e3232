//! One run of one collector, from the question to the ledger. Used by the daemon's tasks and by one-shot commands.

use jiff::Timestamp;

use crate::collectors::definition::Definition;
use crate::collectors::silence::Kept;
use crate::collectors::spool::Spool;
use crate::collectors::{Batch, CollectorError, Request};
use crate::config::clock::SharedClock;
use crate::ledger::books::ingest::{Recorded, Run, RunOutcome, Seen};
use crate::ledger::{LedgerError, SharedLedger};
use crate::metering::reading::Reading;

/// What a collector said, before it is recorded.
#[derive(Debug)]
pub struct CollectedRun {
    pub run: Run,
    /// The first thousands of readings once more, to be shown.
    pub readings: Vec<Reading>,
    /// All others.
    pub more: Spool,
    pub notes: Vec<String>,
    /// Lines and values that could not be read, of a run that failed for it.
    pub refused: usize,
    /// It saw nothing at all for the second time, so that what there was has ended.
    pub fell_silent: bool,
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
pub async fn collect_once(
    definition: &Definition,
    ledger: &SharedLedger,
    clock: &SharedClock,
    since: Since,
    withhold: Vec<String>,
) -> Result<CollectedRun, LedgerError> {
    let name = definition.name.clone();
    let mut kept = Kept::read(ledger.with(move |ledger| ledger.checkpoint(&name)).await?);
    let (since, checkpoint, unseen) = match since {
        Since::Checkpoint(since) => (since, kept.own.clone(), None),
        Since::Again(since) => (since, None, kept.own.clone()),
    };
    let at = clock.now();
    let request = Request { now: at, since, checkpoint, withhold };
    let answer = definition.collector.collect(request).await;
    let finished = clock.now().max(at);
    let (mut refused, mut fell_silent) = (0, false);
    let judged = answer.and_then(|mut batch| {
        if let Some(trouble) = batch.more.trouble() {
            return Err(CollectorError(trouble.to_owned()));
        }
        let metered = definition.metered();
        if let Err(error) = batch.finish(finished, &metered) {
            refused = batch.quarantined.len();
            return Err(error);
        }
        if definition.collector.offers().is_empty() {
            batch.note_unwanted(&metered);
        }
        if definition.collector.may_fall_silent() && !definition.allow_empty {
            fell_silent = kept.judge(&mut batch);
        }
        let own = match (unseen, batch.checkpoint.take()) {
            (Some(old), Some(new)) => Some(definition.collector.carry_over(&old, new)),
            (_, new) => new,
        };
        batch.checkpoint = kept.text(own);
        Ok(batch)
    });
    let (outcome, readings, more, notes) = match judged {
        Ok(Batch {
            readings,
            more,
            quarantined,
            problems,
            notes,
            checkpoint,
            lists_everything,
            ended,
            history,
            ..
        }) => {
            let seen = readings.clone();
            let outcome = RunOutcome::Seen(Seen {
                readings,
                quarantined,
                problems,
                checkpoint,
                lists_everything,
                ended,
                history,
            });
            (outcome, seen, more, notes)
        }
        Err(error) => (RunOutcome::Failed(error.to_string()), Vec::new(), Spool::default(), Vec::new()),
    };
    let run = Run {
        collector: definition.name.clone(),
        at,
        finished,
        scope: definition.collector.scope(),
        outcome,
    };
    Ok(CollectedRun { run, readings, more, notes, refused, fell_silent })
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
    let CollectedRun { run, mut more, notes, refused, fell_silent, .. } =
        collect_once(definition, ledger, clock, since, withhold).await?;
    let name = &definition.name;
    for note in notes {
        tracing::debug!("Collector {name}: {note}");
    }
    let collector = name.clone();
    let (recorded, ended) = ledger
        .with(move |ledger| {
            let ended = if fell_silent { ledger.open_series(&collector)? } else { Vec::new() };
            let mut recorded = ledger.record_all(run, &mut more)?;
            (recorded.refused, recorded.fell_silent) = (refused, fell_silent);
            ledger.release_memory()?;
            Ok((recorded, ended))
        })
        .await?;
    if fell_silent {
        let ended: Vec<String> =
            ended.into_iter().map(|(name, series)| format!("`{name}` ({series} series)")).collect();
        let ended = if ended.is_empty() { "what it saw before".to_owned() } else { ended.join(", ") };
        tracing::warn!(
            collector = %name,
            "Collector {name} saw nothing at all twice in a row: {ended} ended with this run, and is not billed after it. See \
             whether its source still answers."
        );
    }
    Ok(recorded)
}
