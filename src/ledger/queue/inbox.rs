//! The shared ledger's side: runs that hosts have sent are taken into its queue, those of one file in their order. From there
//! on they are counted as any others.
//!
//! Only whoever may write the books takes them, and gives them the number by which they are counted: so the order in which
//! they were committed by their hosts does not matter. What can't be read stops nothing else: it is a run that failed.

use jiff::Timestamp;

use super::parcel::{Cover, INSTANTS, readings};
use super::{Head, TOGETHER, insert_end, insert_readings, insert_run, keep_quarantined};
use crate::collectors::{Bearing, Quarantined};
use crate::ledger::db::columns::instant;
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::db::{Ledger, LedgerError};

/// Runs that are taken in one transaction.
const AT_ONCE: i64 = 50;

/// Where a run came from: agent, file and number.
type Origin = (String, String, i64);

/// From where a collector of an agent was first read, as a run tells it, where that is news.
pub(in crate::ledger) type Since = (String, String, Timestamp);

impl Ledger {
    /// Takes some of the runs that have arrived; returns how many, and from where their collectors were first read. None:
    /// there are no more.
    pub(in crate::ledger) fn take_arrived(&mut self) -> Result<(usize, Vec<Since>), LedgerError> {
        if self.place().file().is_some() {
            return Ok((0, Vec::new()));
        }
        let arrived = self.look(arrived)?;
        if arrived.is_empty() {
            return Ok((0, Vec::new()));
        }
        self.transact(|connection, _| {
            let mut since = Vec::new();
            for origin in &arrived {
                since.extend(take(connection, origin)?);
            }
            crate::fail_point("before arrived runs are taken");
            Ok((arrived.len(), since))
        })
    }

    /// Whether runs of hosts wait to be taken.
    pub(in crate::ledger) fn has_arrived(&self) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection.prepare_cached("SELECT 1 FROM inbox WHERE part = 0 LIMIT 1")?.exists([])
        })
    }
}

fn arrived(connection: &Connection) -> sql::Result<Vec<Origin>> {
    connection
        .prepare_cached(
            "SELECT agent, file, number FROM inbox WHERE part = 0 ORDER BY agent, file, number LIMIT ?",
        )?
        .query_map([AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

fn take(connection: &Connection, origin: &Origin) -> sql::Result<Option<Since>> {
    let (agent, file, number) = origin;
    let parts: Vec<(String, i64, i64)> = connection
        .prepare_cached(
            "SELECT body, sent, arrived FROM inbox WHERE agent = ?1 AND file = ?2 AND number = ?3 ORDER BY part",
        )?
        .query_map(params![agent, file, number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<sql::Result<_>>()?;
    connection
        .prepare_cached("DELETE FROM inbox WHERE agent = ?1 AND file = ?2 AND number = ?3")?
        .execute(params![agent, file, number])?;
    let Some((body, sent, arrived)) = parts.first() else { return Ok(None) };
    let sent = if INSTANTS.contains(sent) { sent } else { arrived };
    let before: i64 = connection
        .prepare_cached("SELECT coalesce(max(number), 0) FROM agent WHERE name = ?1 AND file = ?2")?
        .query_row([agent, file], |row| row.get(0))?;
    if *number <= before {
        // Sent again: its host did not know that it had arrived.
        return Ok(None);
    }
    let now = instant(*arrived);
    if before > 0 && *number > before + 1 {
        let words = format!(
            "{} runs of the agent {agent} are missing: this ledger has lost them, and the host no longer keeps them",
            number - before - 1
        );
        tell(connection, About::default(), EventKind::Readings, &words, now)?;
    }
    let bodies: Vec<&str> = parts.iter().map(|(body, ..)| body.as_str()).collect();
    let unpacked = unpack(body, bodies.get(1..).unwrap_or_default());
    let (cover, readings) = match unpacked {
        Ok(unpacked) => unpacked,
        Err(why) => (unreadable(*sent, &why), Vec::new()),
    };
    let run = insert_run(connection, (agent, false), &cover.head)?;
    for (number, some) in (0_i64..).zip(readings.chunks(TOGETHER)) {
        insert_readings(connection, run, number * TOGETHER as i64, some)?;
    }
    for end in &cover.ends {
        insert_end(connection, run, end)?;
    }
    let quarantined = cover.quarantined.into_iter().map(|(what, reason)| {
        // What they bear on stands in the run.
        Quarantined { what, reason, bears_on: Bearing::nothing() }
    });
    let quarantined: Vec<Quarantined> = quarantined.collect();
    let Head { collector, at, .. } = &cover.head;
    keep_quarantined(connection, (agent, collector), instant(*at), &quarantined)?;
    connection
        .prepare_cached(
            "INSERT INTO agent (name, file, number, at, arrived, skew) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (name, file) DO UPDATE SET number = ?3, at = ?4, arrived = ?5, skew = ?6, retired = NULL",
        )?
        .execute(params![agent, file, number, at, arrived, arrived.saturating_sub(*sent)])?;
    let Some(since) = cover.since else { return Ok(None) };
    let known: Option<i64> = connection
        .prepare_cached("SELECT since FROM collector WHERE name = ?1 AND agent = ?2")?
        .query_row([collector, agent], |row| row.get(0))?;
    let earlier = known.is_none_or(|known| since < known);
    Ok(earlier.then(|| (agent.clone(), collector.clone(), instant(since))))
}

fn unpack(cover: &str, parts: &[&str]) -> Result<(Cover, Vec<super::Queued>), String> {
    let cover = Cover::read(cover)?;
    if usize::try_from(cover.parts) != Ok(parts.len()) {
        return Err(format!("it has {} parts with readings instead of {}", parts.len(), cover.parts));
    }
    let mut all = Vec::new();
    for part in parts {
        all.extend(readings(part)?);
    }
    Ok((cover, all))
}

/// A run of which nothing can be read.
fn unreadable(sent: i64, why: &str) -> Cover {
    let at = crate::ledger::db::columns::micros(instant(sent));
    let head = Head {
        collector: String::new(),
        at,
        finished: at,
        outcome: super::FAILED.to_owned(),
        message: Some(format!("what its host has sent can't be read: {why}")),
        quarantined: 0,
        lists_everything: false,
        scope: String::new(),
        withheld: "[]".to_owned(),
    };
    Cover { head, quarantined: Vec::new(), ends: Vec::new(), since: None, parts: 0 }
}
