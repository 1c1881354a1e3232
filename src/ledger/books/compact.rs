//! Compaction: readings of long past months go, and the file shrinks again.
//!
//! What they added is kept (quantities, by the month of the readings), and how far each series had been counted when the
//! next month began, so that counting goes on as if they were there. The identity of every reading that goes is kept, so
//! that history which is read again never counts twice. A month of which something waits to be sent or decided is kept.

use jiff::{SignedDuration, Timestamp};

use super::spent::spend;
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    pub series: usize,
    pub readings: usize,
}

/// How many pages of the file are given back at a time.
const PAGES: i64 = 2_000;

impl Ledger {
    /// Compacts months that ended longer than `keep` ago and have nothing left to send: one month a call, oldest first,
    /// one transaction. Does nothing most of the time.
    pub fn compact(&mut self, now: Timestamp, keep: SignedDuration) -> Result<Compacted, LedgerError> {
        let done = self.transact(|connection, in_force| {
            let Some(period) = oldest(connection, in_force, now, keep)? else {
                return Ok(Compacted::default());
            };
            compact(connection, in_force, period)
        })?;
        if done.readings > 0 {
            self.look(|connection| connection.give_back(PAGES))?;
        }
        Ok(done)
    }
}

/// The oldest month that may be compacted and is not.
fn oldest(
    connection: &Connection,
    in_force: &InForce,
    now: Timestamp,
    keep: SignedDuration,
) -> sql::Result<Option<BillingPeriod>> {
    let first: Option<i64> = connection.query_row("SELECT min(at) FROM reading", [], |row| row.get(0))?;
    let Some(first) = first else { return Ok(None) };
    let period = in_force.zone.period_of(instant(first));
    let ended = in_force.zone.end(period).saturating_add(keep).unwrap_or(Timestamp::MAX);
    let month = period.to_string();
    let waits: bool = connection
        .prepare(
            "SELECT 1 FROM statement WHERE period <= ?1 AND closed IS NULL AND period NOT IN (SELECT period FROM shadow)
             UNION ALL SELECT 1 FROM blocked WHERE period <= ?1
             UNION ALL SELECT 1 FROM unstated WHERE period <= ?1 LIMIT 1",
        )?
        .exists([&month])?;
    Ok((ended <= now && !waits).then_some(period))
}

fn compact(connection: &Connection, in_force: &InForce, period: BillingPeriod) -> sql::Result<Compacted> {
    let cut = micros(in_force.zone.end(period));
    let series: Vec<(i64, i64, String)> = connection
        .prepare(
            "SELECT DISTINCT series.id, series.source, series.agent FROM reading JOIN series ON series.id = reading.series
                  WHERE reading.at < ?",
        )?
        .query_map([cut], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<sql::Result<_>>()?;
    let mut done = Compacted::default();
    for (series, source, agent) in series {
        let mut query = connection
            .prepare_cached("SELECT at, start, id, value FROM reading WHERE series = ?1 AND at < ?2")?;
        let mut rows = query.query([series, cut])?;
        while let Some(row) = rows.next()? {
            let (at, start, id): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let Some(value) = row.get::<_, Option<String>>(3)? else { continue };
            spend(connection, ((source, &agent), series), (at, start, &id, &value))?;
        }
        drop(rows);
        done.readings += connection
            .prepare_cached("DELETE FROM reading WHERE series = ?1 AND at < ?2")?
            .execute([series, cut])?;
        connection
            // A reading that came late for a month compacted before opens none of those after it.
            .prepare_cached(
                "UPDATE series SET compacted = ?2 WHERE id = ?1 AND (compacted IS NULL OR compacted < ?2)",
            )?
            .execute([series, cut])?;
        done.series += 1;
    }
    forget_runs(connection, cut)?;
    Ok(done)
}

/// How long before what is kept begins its runs are kept, too: of a reading it counts what was known of the runs before it.
const RUNS_BEFORE: SignedDuration = SignedDuration::from_hours(31 * 24);
/// How many of a collector's runs of each outcome are kept however old: their distances say what is usual (ingest.rs).
const LAST_RUNS: i64 = 11;

/// Runs that no reading is kept of, nor waits of one that could not be counted. The first of each collector on each host
/// stays: it says since when that is reported.
fn forget_runs(connection: &Connection, cut: i64) -> sql::Result<()> {
    let before = cut.saturating_sub(RUNS_BEFORE.as_micros() as i64);
    connection
        .execute(
            "DELETE FROM run WHERE counted = 1 AND at < ?1 AND finished < ?1
                 AND id NOT IN (SELECT min(id) FROM run GROUP BY collector, agent)
                 AND id NOT IN (SELECT run FROM reading UNION SELECT run FROM late_correction
                    UNION SELECT run FROM queued UNION SELECT run FROM queued_end)
                 AND id NOT IN (
                    SELECT id FROM (
                        SELECT id, row_number() OVER (PARTITION BY collector, agent, outcome ORDER BY at DESC) AS place
                        FROM run) placed
                    WHERE place <= ?2)",
            [before, LAST_RUNS],
        )
        .map(drop)
}
