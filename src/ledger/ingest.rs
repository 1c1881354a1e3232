//! A collector's run becomes part of the ledger: its readings, what they change, and where it stopped reading.
//!
//! All of it is one transaction (law 1). A reading seen again changes nothing; seen again with another value it
//! replaces what was there and is counted as a correction (law 2). It never judges whether a value is plausible,
//! only whether its time is.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::quantify::{self, Touched};
use super::store::{Put, Store};
use super::{Ledger, LedgerError, Rulebook, instant, micros, statements};
use crate::collectors::spool::Spool;
use crate::collectors::{Ended, Problem, Quarantined, texts};
use crate::metering::measure::RunFacts;
use crate::metering::reading::{Kind, Reading, Span};

/// What a run brings.
#[derive(Debug, Clone)]
pub struct Run {
    pub collector: String,
    /// The instant that the run was asked for.
    pub at: Timestamp,
    pub finished: Timestamp,
    pub scope: String,
    pub outcome: RunOutcome,
}

#[derive(Debug, Clone)]
pub enum RunOutcome {
    Seen {
        readings: Vec<Reading>,
        quarantined: Vec<Quarantined>,
        /// What could not be looked at; none means that the run is complete.
        problems: Vec<Problem>,
        checkpoint: Option<String>,
        lists_everything: bool,
        ended: Ended,
    },
    Failed(String),
}

/// What a run changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    pub readings: usize,
    /// Readings that were not known before.
    pub new: usize,
    /// Readings whose value, interval or labels replaced known ones.
    pub corrected: usize,
    /// Readings for months that are compacted: recorded, not counted.
    pub late: usize,
    pub quarantined: Vec<Quarantined>,
    pub problems: Vec<String>,
    pub failed: Option<String>,
    /// Resources whose statements changed.
    pub restated: usize,
}

impl Recorded {
    /// Whether the collector failed, wholly or in part.
    pub fn is_failure(&self) -> bool {
        self.failed.is_some() || !self.problems.is_empty()
    }
}

/// No run takes longer; it only bounds where to look.
const LONGEST_RUN: SignedDuration = SignedDuration::from_hours(24);
/// How many of a collector's runs say what its usual distance is.
const RECENT_RUNS: usize = 11;
/// Readings of a run that are counted at once.
const POINTS_AT_ONCE: usize = if cfg!(test) { 3 } else { 10_000 };
/// Quarantined lines kept for a person to look at, a collector.
const QUARANTINE_KEPT: i64 = 200;

impl Ledger {
    /// Records a run and everything that follows from it.
    pub fn record(&mut self, run: Run) -> Result<Recorded, LedgerError> {
        self.record_all(run, &mut Spool::default())
    }

    /// Like `record`, of a run with more readings than memory should hold.
    pub fn record_all(&mut self, run: Run, more: &mut Spool) -> Result<Recorded, LedgerError> {
        let recorded = self.transact(|connection, rulebook| {
            let recorded = record(connection, rulebook, run, more)?;
            crate::fail_point("before a run is committed");
            Ok(recorded)
        })?;
        crate::fail_point("after a run is committed");
        Ok(recorded)
    }

    /// Gives back the memory that a run or a cycle needed for a while: what was looked at once need not stay for weeks.
    pub fn rest(&self) -> Result<(), LedgerError> {
        self.look(|connection| connection.execute_batch("PRAGMA shrink_memory"))
    }

    /// Records a run, looks at what the ledger then says, and takes it all back.
    pub fn rehearse_and<T>(
        &mut self,
        run: Run,
        more: &mut Spool,
        look: impl FnOnce(&mut Ledger) -> Result<T, LedgerError>,
    ) -> Result<(Recorded, T), LedgerError> {
        let wrap = |path: &std::path::Path, error| LedgerError::from_sqlite(path, error);
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(|error| wrap(&self.path, error))?;
        let recorded =
            record(&self.connection, &self.rulebook, run, more).map_err(|error| wrap(&self.path, error));
        let both = recorded.and_then(|recorded| Ok((recorded, look(self)?)));
        self.connection.execute_batch("ROLLBACK").map_err(|error| wrap(&self.path, error))?;
        both
    }

    /// Notes from where a collector is read, if that is earlier than all before, and returns from where it is to be read
    /// now: until it has succeeded once, from the earliest.
    pub fn reads_from(
        &mut self,
        collector: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Timestamp, LedgerError> {
        self.transact(|connection, rulebook| {
            let earlier: Option<Timestamp> = connection
                .query_row("SELECT since FROM collector WHERE name = ?", [collector], |row| row.get(0))
                .optional()?
                .flatten()
                .map(instant);
            if earlier.is_none_or(|earlier| since < earlier) {
                connection.execute(
                    "UPDATE collector SET since = ?2 WHERE name = ?1",
                    params![collector, micros(since)],
                )?;
                if earlier.is_some() {
                    let unstated = statements::counted_from(connection, rulebook, collector, since)?;
                    statements::restate_all(connection, rulebook, &unstated, now)?;
                }
            }
            let succeeded = connection
                .prepare("SELECT 1 FROM run WHERE collector = ? AND outcome <> 'failed'")?
                .exists([collector])?;
            Ok(earlier.filter(|earlier| !succeeded && *earlier < since).unwrap_or(since))
        })
    }

    /// What the collector's last successful run left behind.
    pub fn checkpoint(&self, collector: &str) -> Result<Option<String>, LedgerError> {
        self.look(|connection| {
            connection
                .query_row("SELECT checkpoint FROM collector WHERE name = ?", [collector], |row| row.get(0))
                .optional()
                .map(Option::flatten)
        })
    }
}

/// A run but for its outcome.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) collector: String,
    pub(super) at: Timestamp,
    pub(super) finished: Timestamp,
    scope: String,
}

fn record(
    connection: &Connection,
    rulebook: &Rulebook,
    run: Run,
    more: &mut Spool,
) -> rusqlite::Result<Recorded> {
    let mut recorded = Recorded::default();
    let Run { collector, at, finished, scope, outcome } = run;
    let run = Head { collector, at, finished, scope };
    let (readings, quarantined, mut problems, checkpoint, lists_everything, ended) = match outcome {
        RunOutcome::Seen { readings, quarantined, problems, checkpoint, lists_everything, ended } => {
            (readings, quarantined, problems, checkpoint, lists_everything, ended)
        }
        RunOutcome::Failed(message) => {
            insert_run(connection, &run, "failed", Some(&message), false, RunFacts::default())?;
            recorded.failed = Some(message);
            return Ok(recorded);
        }
    };
    recorded.quarantined = quarantined;
    let ended_later = ended_later(connection, &run)?;
    if let Some(ended) = ended_later {
        problems.push(Problem::of_all(format!(
            "the run began at {}, but an earlier run of this collector ended at {ended}: the clock was set back, or two \
             ran at once. What it saw of the moment is not used, because a counter would seem to have been reset; \
             counters catch up with the first run after {ended}",
            run.at
        )));
    }
    let complete = problems.is_empty();
    let facts = facts(connection, rulebook, &run)?;
    let outcome = if complete { "ok" } else { "partial" };
    let message = (!complete).then(|| texts(&problems));
    let run_id = insert_run(connection, &run, outcome, message.as_deref(), lists_everything, facts)?;

    let mut restate = Restate::new();
    let mut touched = Touched::new(connection)?;
    let mut uncounted = 0;
    let mut store = Store::new(connection, rulebook, &run, run_id, facts)?;
    // A reading that can't be read back undoes the run.
    let lost = |error: std::io::Error| rusqlite::Error::ToSqlConversionFailure(error.into());
    for reading in readings.into_iter().map(Ok).chain(more.read().map_err(lost)?) {
        let reading = reading.map_err(lost)?;
        if ended_later.is_some() && is_momentary(&reading, &run) {
            continue;
        }
        match store.put(reading, &mut touched)? {
            Put::New => recorded.new += 1,
            Put::Corrected => recorded.corrected += 1,
            Put::Late => recorded.late += 1,
            Put::Same => {}
            Put::Refused(bad) => {
                recorded.quarantined.push(bad);
                continue;
            }
        }
        recorded.readings += 1;
        uncounted += 1;
        if uncounted >= POINTS_AT_ONCE {
            // However many there are, memory holds only so many: amounts are the same in whatever batches they come.
            restate.extend(quantify::update(connection, rulebook, &touched)?);
            touched = Touched::new(connection)?;
            uncounted = 0;
        }
    }
    // A quarantined line may be that of a series that is missed: then nothing is concluded from what was not seen.
    if complete && recorded.quarantined.is_empty() {
        store.end_unseen(&ended, &mut touched)?;
    }
    store.end(&ended, &mut touched)?;
    restate.extend(quantify::update(connection, rulebook, &touched)?);
    recorded.restated = statements::restate_all(connection, rulebook, &restate, run.finished)?;
    if complete {
        connection.execute(
            "UPDATE collector SET checkpoint = coalesce(?2, checkpoint) WHERE name = ?1",
            params![run.collector, checkpoint],
        )?;
    }
    keep_quarantined(connection, &run, &recorded.quarantined)?;
    connection.execute(
        "UPDATE run SET readings = ?2, changed = ?3, quarantined = ?4 WHERE id = ?1",
        params![
            run_id,
            recorded.readings as i64,
            (recorded.new + recorded.corrected) as i64,
            recorded.quarantined.len() as i64
        ],
    )?;
    recorded.problems = problems.into_iter().map(|problem| problem.text).collect();
    Ok(recorded)
}

/// When a run that is already recorded ended, if that was after this one began. Then the order of their instants is
/// not the order in which they looked.
fn ended_later(connection: &Connection, run: &Head) -> rusqlite::Result<Option<Timestamp>> {
    connection
        .prepare_cached(
            "SELECT max(finished) FROM run
             WHERE collector = ?1 AND at > ?2 - ?3 AND finished > ?2 AND outcome <> 'failed'",
        )?
        .query_row(params![run.collector, micros(run.at), LONGEST_RUN.as_micros() as i64], |row| {
            Ok(row.get::<_, Option<i64>>(0)?.map(instant))
        })
}

/// Whether a reading is a look at the moment of the run, whose place among others hangs on that instant alone. What a
/// source dates itself, and deltas, which need no neighbours, stay what they are.
fn is_momentary(reading: &Reading, run: &Head) -> bool {
    reading.span == Span::At(run.at) && reading.kind != Kind::Delta
}

/// What is known now of the collector's earlier runs, to be kept with this one.
fn facts(connection: &Connection, rulebook: &Rulebook, run: &Head) -> rusqlite::Result<RunFacts> {
    let mut query = connection.prepare_cached(
        "SELECT at, lists_everything AND quarantined = 0, scope FROM run
         WHERE collector = ?1 AND outcome = 'ok' AND at < ?2 ORDER BY at DESC LIMIT ?3",
    )?;
    let earlier = query
        .query_map(params![run.collector, micros(run.at), (RECENT_RUNS - 1) as i64], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?, row.get::<_, String>(2)?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let last = earlier.first();
    let mut at = micros(run.at);
    let mut distances: Vec<i64> = Vec::new();
    for (before, _, _) in &earlier {
        distances.push(at - before);
        at = *before;
    }
    distances.sort_unstable();
    // Two distances are the least that can be called usual; before, the schedule says.
    let usual = match distances.as_slice() {
        [] | [_] => None,
        distances => Some(SignedDuration::from_micros(3 * distances[distances.len() / 2])),
    };
    let planned = rulebook.of(&run.collector).and_then(|rules| rules.default_max_gap);
    Ok(RunFacts {
        previous: last.map(|(at, _, _)| instant(*at)),
        listed: last
            .filter(|(_, everything, scope)| *everything && *scope == run.scope)
            .map(|(at, _, _)| instant(*at)),
        max_gap: usual.max(planned),
    })
}

fn insert_run(
    connection: &Connection,
    run: &Head,
    outcome: &str,
    message: Option<&str>,
    lists_everything: bool,
    facts: RunFacts,
) -> rusqlite::Result<i64> {
    connection.execute(
        "INSERT INTO run (collector, at, finished, outcome, message, readings, changed, quarantined,
                          lists_everything, scope, previous, listed, max_gap)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, 0, ?6, ?7, ?8, ?9, ?10)",
        params![
            run.collector,
            micros(run.at),
            micros(run.finished),
            outcome,
            message,
            lists_everything,
            run.scope,
            facts.previous.map(micros),
            facts.listed.map(micros),
            facts.max_gap.map(|gap| gap.as_micros() as i64),
        ],
    )?;
    Ok(connection.last_insert_rowid())
}

fn keep_quarantined(connection: &Connection, run: &Head, bad: &[Quarantined]) -> rusqlite::Result<()> {
    for bad in bad.iter().take(QUARANTINE_KEPT as usize) {
        connection
            .prepare_cached("INSERT INTO quarantine (collector, at, what, reason) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![run.collector, micros(run.at), bad.what, bad.reason])?;
    }
    if !bad.is_empty() {
        connection.execute(
            "DELETE FROM quarantine WHERE collector = ?1 AND id <=
                (SELECT id FROM quarantine WHERE collector = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            params![run.collector, QUARANTINE_KEPT],
        )?;
    }
    Ok(())
}

/// What to state anew: (resource, billing period, component).
/// In order, because what lies together in the file is then made together.
pub(super) type Restate = BTreeSet<(String, String, String)>;
