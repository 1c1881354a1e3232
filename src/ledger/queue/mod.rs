//! The queue: runs of collectors, durable and in the order in which they came, until they are counted.
//!
//! Appending is one transaction, with the checkpoint in it (law 1), and looks nothing up. It never judges a reading; what
//! is wrong within a run was found before it is appended.
//!
//! Readings wait many in a row (`part`), because most of what a row costs is the row. On a host of a shared ledger the queue is
//! a file of the host's `own`, and counts nothing: `outbox` sends its runs on, each packed as a `packed_run`, and `inbox` takes
//! them into the queue of the shared ledger, part by part as they are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::db::clock::of_database;
use super::db::columns::micros;
use super::db::lease;
use super::db::sql::{self, Connection, OptionalExtension, params};
use super::db::{Ledger, LedgerError};
use crate::collectors::spool::Spool;
use crate::collectors::{Bearing, Ended, History, Problem, Quarantined, texts};
use crate::config::clock::{SharedClock, Steady};
use crate::metering::reading::Reading;

pub mod inbox;
pub(super) mod levels;
pub mod outbox;
pub mod own;
pub mod packed_run;
pub(super) mod part;

use part::Parts;

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
    Seen(Seen),
    Failed(String),
}

/// What a run saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub readings: Vec<Reading>,
    pub quarantined: Vec<Quarantined>,
    /// What could not be looked at; none means that the run is complete.
    pub problems: Vec<Problem>,
    pub checkpoint: Option<String>,
    pub lists_everything: bool,
    pub ended: Ended,
    pub history: History,
}

impl Run {
    /// A run that saw these readings at this instant, and nothing odd.
    pub fn seen(collector: &str, at: Timestamp, readings: Vec<Reading>) -> Run {
        let outcome = RunOutcome::Seen(Seen { readings, ..Seen::default() });
        Run { collector: collector.to_owned(), at, finished: at, scope: String::new(), outcome }
    }
}

/// Quarantined lines kept for a person to look at, a collector.
const QUARANTINE_KEPT: i64 = 200;

impl Ledger {
    /// Appends a run to the queue, with the readings that were too many for memory; returns its number.
    pub fn append(&mut self, run: Run, more: &mut Spool) -> Result<i64, LedgerError> {
        let (agent, lock, clock) = (self.agent.clone(), self.lock.clone(), self.clock.clone());
        let number = self.transact(|connection, _| {
            let skew = match &clock {
                Some(clock) if lock.is_some() => skew_here(connection, clock)?,
                Some(clock) => skew_of_host(connection, clock)?,
                None => None,
            };
            let superseded = match &lock {
                Some((name, number)) => !lease::is_current(connection, name, *number)?,
                None => false,
            };
            let number = append(connection, (&agent, superseded, skew), run, more)?;
            crate::fail_point("before a run is committed");
            Ok(number)
        })?;
        crate::fail_point("after a run is committed");
        Ok(number)
    }

    /// What the collector's last successful run left behind.
    pub fn checkpoint(&self, collector: &str) -> Result<Option<String>, LedgerError> {
        self.look(|connection| {
            connection
                .query_row(
                    "SELECT checkpoint FROM collector WHERE name = ?1 AND agent = ?2",
                    [collector, &self.agent],
                    |row| row.get(0),
                )
                .optional()
                .map(Option::flatten)
        })
    }

    /// How many runs wait to be counted.
    pub fn queue_length(&self) -> Result<i64, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached("SELECT count(*) FROM run WHERE counted = 0")?
                .query_row([], |row| row.get(0))
        })
    }
}

/// The number of no run: a host says that it would send, and that another has its name.
const NO_RUN: i64 = 0;

/// A run as it is kept, without its readings.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    collector: String,
    at: i64,
    finished: i64,
    outcome: String,
    message: Option<String>,
    quarantined: i64,
    lists_everything: bool,
    scope: String,
    withheld: String,
    /// Windows, as microseconds.
    #[serde(default)]
    history: Spans,
    /// The database's clock less the host's when it was made, in microseconds, where that is known.
    skew: Option<i64>,
}

/// By the name of readings: from when to when, in microseconds.
pub(in crate::ledger) type Spans = BTreeMap<String, Vec<(i64, i64)>>;

/// The end of a gauge as it is queued: name, labels, and the instant.
type QueuedEnd = (String, String, i64);

/// The database's clock less this host's.
fn skew_here(connection: &Connection, clock: &SharedClock) -> sql::Result<Option<i64>> {
    if clock.steady().is_none() {
        return Ok(None);
    }
    let theirs = of_database(connection)?;
    Ok(Some(micros(theirs).saturating_sub(micros(clock.now()))))
}

/// The same, by what the database said last: however the clock was set since, the machine has been up for so long.
fn skew_of_host(connection: &Connection, clock: &SharedClock) -> sql::Result<Option<i64>> {
    let Some(Steady { boot, up }) = clock.steady() else { return Ok(None) };
    let booted: Option<Option<i64>> = connection
        .prepare_cached("SELECT booted FROM agent WHERE boot = ?")?
        .query_row([boot], |row| row.get(0))
        .optional()?;
    let theirs = booted.flatten().map(|booted| booted.saturating_add(up.as_micros() as i64));
    Ok(theirs.map(|theirs| theirs.saturating_sub(micros(clock.now()))))
}

/// `superseded`: another agent has taken over the collector since.
fn append(
    connection: &Connection,
    (agent, superseded, skew): (&str, bool, Option<i64>),
    run: Run,
    more: &mut Spool,
) -> sql::Result<i64> {
    let Run { collector, at, finished, scope, outcome } = run;
    let (seen, failed) = match outcome {
        RunOutcome::Seen(seen) => (seen, None),
        RunOutcome::Failed(message) => (Seen::default(), Some(message)),
    };
    let Seen { readings, quarantined, problems, checkpoint, lists_everything, ended, history } = seen;
    let outcome = match (&failed, problems.as_slice()) {
        (Some(_), _) => FAILED,
        (None, []) => "ok",
        (None, _) => "partial",
    };
    let head = Head {
        collector,
        at: micros(at),
        finished: micros(finished),
        outcome: outcome.to_owned(),
        message: failed.clone().or_else(|| (!problems.is_empty()).then(|| texts(&problems))),
        quarantined: quarantined.len() as i64,
        lists_everything,
        scope,
        withheld: withheld(&problems, &quarantined),
        history: spans(history),
        skew,
    };
    let number = insert_run(connection, (agent, superseded, None), &head)?;
    if failed.is_some() {
        return Ok(number);
    }
    // A reading that can't be read back undoes the run.
    let lost = |error: std::io::Error| sql::Error::unreadable(error);
    let mut parts = Parts::of(connection, number);
    for reading in readings.into_iter().map(Ok).chain(more.read().map_err(lost)?) {
        parts.push(reading.map_err(lost)?)?;
    }
    parts.end()?;
    for (name, ends) in &ended {
        // A row for each name says that its source tells ends, even if it tells none now.
        let ends = ends.iter().map(|(labels, at)| (labels_text(labels), micros(*at)));
        for (labels, at) in std::iter::once((String::new(), 0)).chain(ends) {
            insert_end(connection, number, &(name.clone(), labels, at))?;
        }
    }
    if checkpoint.is_some() && !superseded {
        connection
            .prepare_cached("UPDATE collector SET checkpoint = ?3 WHERE name = ?1 AND agent = ?2")?
            .execute(params![head.collector, agent, checkpoint])?;
    }
    keep_quarantined(connection, (agent, &head.collector), at, &quarantined)?;
    Ok(number)
}

/// The outcome of a run that saw nothing; there is nothing of it to count.
const FAILED: &str = "failed";

/// Returns the run's number. `from`: of a host's, the file that it waited in, and when it arrived.
fn insert_run(
    connection: &Connection,
    (agent, superseded, from): (&str, bool, Option<(&str, i64)>),
    head: &Head,
) -> sql::Result<i64> {
    know(connection, agent, &head.collector)?;
    connection
        .prepare_cached(
            "INSERT INTO run (agent, collector, at, finished, outcome, message, readings, changed, quarantined,
                              lists_everything, scope, withheld, counted, doubtful, superseded, skew,
                              arrived, file, history)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, ?7, ?8, ?9, ?10, ?11, '[]', ?12, ?13, ?14, ?15, ?16)
             RETURNING id",
        )?
        .query_row(
            params![
                agent,
                head.collector,
                head.at,
                head.finished,
                head.outcome,
                head.message,
                head.quarantined,
                head.lists_everything,
                head.scope,
                head.withheld,
                head.outcome == FAILED,
                superseded,
                head.skew,
                from.map(|(_, arrived)| arrived),
                from.map(|(file, _)| file),
                serde_json::to_string(&head.history).unwrap_or_default(),
            ],
            |row| row.get(0),
        )
}

fn insert_end(connection: &Connection, run: i64, (name, labels, at): &QueuedEnd) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO queued_end (run, name, labels, at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (run, name, labels, at) DO NOTHING",
        )?
        .execute(params![run, name, labels, at])
        .map(drop)
}

/// Makes the row of a collector, if it is not there.
pub(super) fn know(connection: &Connection, agent: &str, collector: &str) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO collector (agent, name) VALUES (?1, ?2) ON CONFLICT (name, agent) DO NOTHING",
        )?
        .execute([agent, collector])
        .map(drop)
}

/// Labels as the ledger keeps them: one text for one set of labels.
pub(super) fn labels_text(labels: &BTreeMap<String, String>) -> String {
    serde_json::to_string(labels).unwrap_or_default()
}

/// Windows in order; those that touch are one.
fn spans(history: History) -> Spans {
    let joined = |mut windows: Vec<(Timestamp, Timestamp)>| {
        windows.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::new();
        for (from, to) in windows.into_iter().map(|(from, to)| (micros(from), micros(to))) {
            match joined.last_mut().filter(|last| from <= last.1) {
                Some(last) => last.1 = last.1.max(to),
                None => joined.push((from, to)),
            }
        }
        joined
    };
    history.into_iter().map(|(name, windows)| (name, joined(windows))).collect()
}

/// Of which series nothing is concluded.
fn withheld(problems: &[Problem], quarantined: &[Quarantined]) -> String {
    let all = problems.iter().map(|problem| &problem.bears_on);
    let all = all.chain(quarantined.iter().map(|bad| &bad.bears_on));
    let mut kept: Vec<&Bearing> = Vec::new();
    for bearing in all.filter(|bearing| **bearing != Bearing::nothing()) {
        if *bearing == Bearing::All {
            kept = vec![bearing];
            break;
        }
        if !kept.contains(&bearing) {
            kept.push(bearing);
        }
    }
    serde_json::to_string(&kept).unwrap_or_default()
}

/// Keeps the newest quarantined lines of a collector.
pub(super) fn keep_quarantined(
    connection: &Connection,
    (agent, collector): (&str, &str),
    at: Timestamp,
    bad: &[Quarantined],
) -> sql::Result<()> {
    for bad in bad.iter().take(QUARANTINE_KEPT as usize) {
        connection
            .prepare_cached(
                "INSERT INTO quarantine (agent, collector, at, what, reason) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![agent, collector, micros(at), bad.what, bad.reason])?;
    }
    if !bad.is_empty() {
        connection.execute(
            "DELETE FROM quarantine WHERE collector = ?1 AND agent = ?2 AND id <=
                (SELECT id FROM quarantine WHERE collector = ?1 AND agent = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)",
            params![collector, agent, QUARANTINE_KEPT],
        )?;
    }
    Ok(())
}
