//! The queue: runs of collectors, durable and in the order in which they came, until they are counted.
//!
//! Appending is one transaction, with the checkpoint in it (law 1), and looks nothing up. It never judges a reading; what
//! is wrong within a run was found before it is appended.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::db::columns::micros;
use super::db::sql::{self, Connection, OptionalExtension, params};
use super::db::{Ledger, LedgerError};
use crate::collectors::spool::Spool;
use crate::collectors::{Bearing, Ended, Problem, Quarantined, texts};
use crate::metering::reading::{Reading, Span};

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

/// Quarantined lines kept for a person to look at, a collector.
const QUARANTINE_KEPT: i64 = 200;

impl Ledger {
    /// Appends a run to the queue, with the readings that were too many for memory; returns its number.
    pub fn append(&mut self, run: Run, more: &mut Spool) -> Result<i64, LedgerError> {
        let number = self.transact(|connection, _| {
            let number = append(connection, run, more)?;
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
                .query_row("SELECT checkpoint FROM collector WHERE name = ?", [collector], |row| row.get(0))
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

fn append(connection: &Connection, run: Run, more: &mut Spool) -> sql::Result<i64> {
    let Run { collector, at, finished, scope, outcome } = run;
    let (readings, quarantined, problems, checkpoint, lists_everything, ended, failed) = match outcome {
        RunOutcome::Seen { readings, quarantined, problems, checkpoint, lists_everything, ended } => {
            (readings, quarantined, problems, checkpoint, lists_everything, ended, None)
        }
        RunOutcome::Failed(message) => {
            let nothing = (Vec::new(), Vec::new(), Vec::new(), None, false, Ended::new());
            (nothing.0, nothing.1, nothing.2, nothing.3, nothing.4, nothing.5, Some(message))
        }
    };
    connection
        .prepare_cached("INSERT INTO collector (name) VALUES (?1) ON CONFLICT (name) DO NOTHING")?
        .execute([&collector])?;
    let outcome = match (&failed, problems.as_slice()) {
        (Some(_), _) => "failed",
        (None, []) => "ok",
        (None, _) => "partial",
    };
    let message = failed.clone().or_else(|| (!problems.is_empty()).then(|| texts(&problems)));
    let number = connection
        .prepare_cached(
            "INSERT INTO run (collector, at, finished, outcome, message, readings, changed, quarantined,
                              lists_everything, scope, withheld, counted, doubtful)
             VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?7, ?8, ?9, ?10, '[]')
             RETURNING id",
        )?
        .query_row(
            params![
                collector,
                micros(at),
                micros(finished),
                outcome,
                message,
                quarantined.len() as i64,
                lists_everything,
                scope,
                withheld(&problems, &quarantined),
                failed.is_some(),
            ],
            |row| row.get(0),
        )?;
    if failed.is_some() {
        return Ok(number);
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO queued (run, number, name, kind, value, unit, start, at, labels, id, epoch, began, shared)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    // A reading that can't be read back undoes the run.
    let lost = |error: std::io::Error| sql::Error::unreadable(error);
    for (place, reading) in (0_i64..).zip(readings.into_iter().map(Ok).chain(more.read().map_err(lost)?)) {
        let reading = reading.map_err(lost)?;
        let (start, end) = match reading.span {
            Span::At(at) => (0, at),
            Span::Interval { start, end } => (micros(start), end),
        };
        insert.execute(params![
            number,
            place,
            reading.name,
            reading.kind.name(),
            // 1.50 and 1.5 are the same value.
            reading.value.normalize().to_string(),
            reading.unit,
            start,
            micros(end),
            labels_text(&reading.labels),
            reading.id.unwrap_or_default(),
            reading.epoch.id,
            reading.epoch.began.map(micros),
            reading.epoch.shared,
        ])?;
    }
    for (name, ends) in &ended {
        // A row for each name says that its source tells ends, even if it tells none now.
        let ends = ends.iter().map(|(labels, at)| (labels_text(labels), micros(*at)));
        for (labels, at) in std::iter::once((String::new(), 0)).chain(ends) {
            connection
                .prepare_cached(
                    "INSERT INTO queued_end (run, name, labels, at) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (run, name, labels, at) DO NOTHING",
                )?
                .execute(params![number, name, labels, at])?;
        }
    }
    if checkpoint.is_some() {
        connection
            .prepare_cached("UPDATE collector SET checkpoint = ?2 WHERE name = ?1")?
            .execute(params![collector, checkpoint])?;
    }
    keep_quarantined(connection, &collector, at, &quarantined)?;
    Ok(number)
}

/// Labels as the ledger keeps them: one text for one set of labels.
pub(super) fn labels_text(labels: &BTreeMap<String, String>) -> String {
    serde_json::to_string(labels).unwrap_or_default()
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
    collector: &str,
    at: Timestamp,
    bad: &[Quarantined],
) -> sql::Result<()> {
    for bad in bad.iter().take(QUARANTINE_KEPT as usize) {
        connection
            .prepare_cached("INSERT INTO quarantine (collector, at, what, reason) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![collector, micros(at), bad.what, bad.reason])?;
    }
    if !bad.is_empty() {
        connection.execute(
            "DELETE FROM quarantine WHERE collector = ?1 AND id <=
                (SELECT id FROM quarantine WHERE collector = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            params![collector, QUARANTINE_KEPT],
        )?;
    }
    Ok(())
}
