//! What was recorded for times that have not come: the clock was ahead, and was set right since.
//!
//! A run believes its own clock, so while that is wrong its readings stand at wrong instants; and once it is right again,
//! they would lie ahead of all that is true. They are taken out, told, and counted no more. Only a caller who has a second
//! clock to vouch for the time may ask for it: a clock that is behind must never take out what is true.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::count::{Changed, recount_from};
use super::unstated::changed_components;
use crate::ledger::db::clock::AHEAD;
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::db::{Ledger, LedgerError};

impl Ledger {
    /// Quarantines what was recorded by runs of the future. Returns how many readings that were.
    pub fn quarantine_future(&mut self, now: Timestamp) -> Result<usize, LedgerError> {
        let limit = micros(now.saturating_add(AHEAD).unwrap_or(now));
        let ahead = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM collector
                     WHERE EXISTS (SELECT 1 FROM run WHERE run.collector = name AND run.agent = collector.agent
                        AND at > ?1 AND outcome <> 'failed'))",
                )?
                .query_row([limit], |row| row.get::<_, bool>(0))
        })?;
        if !ahead {
            return Ok(0);
        }
        let taken = self.transact(|connection, in_force| quarantine(connection, in_force, now, limit))?;
        for (collector, readings) in &taken {
            *self.put_aside.entry(collector.clone()).or_default() += readings;
        }
        Ok(taken.values().sum())
    }

    /// What was quarantined so since this was asked last, by collector.
    pub fn take_put_aside(&mut self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.put_aside)
    }
}

/// How many readings of each collector are taken out.
fn quarantine(
    connection: &Connection,
    in_force: &InForce,
    now: Timestamp,
    limit: i64,
) -> sql::Result<BTreeMap<String, usize>> {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let mut changed = Changed::new();
    let runs: Vec<(i64, String, i64, String)> = connection
        .prepare("SELECT id, collector, at, agent FROM run WHERE at > ?1 AND outcome <> 'failed'")?
        .query_map([limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<sql::Result<_>>()?;
    for (run, collector, at, agent) in runs {
        let reason = format!(
            "the run believed that it was {}, which has not come yet (now is {now}): the clock was ahead",
            instant(at)
        );
        let series: Vec<(i64, String)> = connection
            .prepare_cached(
                "SELECT DISTINCT series.id, source.name || ' ' || labels FROM reading
                 JOIN series ON series.id = reading.series JOIN source ON source.id = series.source
                 WHERE run = ?1 AND reading.at > ?2",
            )?
            .query_map([run, limit], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<sql::Result<_>>()?;
        connection.execute(
            "DELETE FROM identity WHERE (series, at, start) IN (
                SELECT series, at, start FROM reading WHERE run = ?1 AND at > ?2)",
            [run, limit],
        )?;
        let readings = connection.execute("DELETE FROM reading WHERE run = ?1 AND at > ?2", [run, limit])?;
        *taken.entry(collector.clone()).or_default() += readings;
        for (series, what) in series {
            connection.execute(
                "INSERT INTO quarantine (agent, collector, at, what, reason) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![agent, collector, micros(now), what, reason],
            )?;
            // The next complete run says again whether it has ended.
            connection.execute("UPDATE series SET live = 1 WHERE id = ?1", [series])?;
            let month = Some(in_force.zone.period_of(now));
            recount_from(connection, in_force, &[series], month, &mut changed)?;
            connection.execute(
                "UPDATE series SET last = (SELECT max(at) FROM reading WHERE series = ?1) WHERE id = ?1",
                [series],
            )?;
        }
        connection.execute(
            "UPDATE run SET outcome = 'failed', message = ?2, quarantined = quarantined + ?3 WHERE id = ?1",
            params![run, reason, i64::try_from(readings).unwrap_or(i64::MAX)],
        )?;
        // A source with history is read again from the start of the month: where it got to was told by that clock, too. A
        // host does so by itself (queue/outbox.rs).
        connection.execute(
            "UPDATE collector SET checkpoint = NULL WHERE name = ?1 AND agent = ?2",
            [&collector, &agent],
        )?;
    }
    changed_components(connection, changed)?;
    Ok(taken)
}
