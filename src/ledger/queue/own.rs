//! A host's own file: what it has recorded waits there for the shared ledger, and is kept for days after it was sent, because
//! that may lose what it had. It counts nothing.
//!
//! The runs of a file are sent under its random id. The file gets another id where the same numbers may stand for other runs:
//! when its host is renamed or is a copy of another, and when the file was put back to an earlier state. What was recorded
//! before goes on being sent under the id of then, so that whoever else sends it, it is known for what it is.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::packed_run::{Manifest, PackedRun};
use super::{FAILED, Head, part};
use crate::config::clock::{SharedClock, Steady};
use crate::config::place::Place;
use crate::ledger::db::clock::AHEAD;
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::rules::digest;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError, Rulebook};

/// Where a collector has got to: its name, its checkpoint, and from where it was first read.
pub type Progress = (String, Option<String>, Option<i64>);

/// Under which id some runs of a file are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// As whose they were recorded.
    pub agent: String,
    /// A random id.
    pub file: String,
    /// The last run before them.
    pub base: i64,
    /// The last of them; `None`: those to come, too.
    pub until: Option<i64>,
}

impl Ledger {
    /// Opens the file in which the runs of a host of a shared ledger wait: a ledger that counts nothing.
    pub fn open_queue(place: &Place, rulebook: Rulebook, clock: &SharedClock) -> Result<Ledger, LedgerError> {
        let mut queue = Ledger::open(place, rulebook)?;
        queue.only_appends = true;
        queue.clock = Some(clock.clone());
        let file = new_id();
        queue.transact(|connection, _| {
            connection
                .execute(
                    "INSERT INTO agent (name, file, number, at, arrived, skew)
                     SELECT '', ?1, 0, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM agent)",
                    [&file],
                )
                .map(drop)
        })?;
        Ok(queue)
    }

    /// What is recorded from here on is this agent's; returns whose it was, if that was another. A file that another agent
    /// has recorded in (of a host that was renamed, of a machine that was copied) gets a new id.
    pub fn identify(&mut self, agent: &str) -> Result<Option<String>, LedgerError> {
        let name: String = self.look(|connection| {
            connection.query_row("SELECT name FROM agent WHERE retired IS NULL", [], |row| row.get(0))
        })?;
        if name == agent {
            return Ok(None);
        }
        self.transact(|connection, _| {
            if name.is_empty() {
                connection.execute("UPDATE agent SET name = ?", [agent])?;
                return Ok(None);
            }
            let newest = newest(connection)?;
            begin_anew(connection, agent, newest)?;
            Ok(Some(name))
        })
    }

    /// Under which ids the runs of this file are sent, the earlier ones first.
    pub fn identities(&self) -> Result<Vec<Identity>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare("SELECT name, file, base, retired FROM agent ORDER BY base, retired IS NULL")?
                .query_map([], |row| {
                    Ok(Identity {
                        agent: row.get(0)?,
                        file: row.get(1)?,
                        base: row.get(2)?,
                        until: row.get(3)?,
                    })
                })?
                .collect()
        })
    }

    /// Notes how far the database's clock is from this host's, so that runs are told by it also when that is set meanwhile.
    pub fn note_database_clock(&mut self, skew: SignedDuration) -> Result<(), LedgerError> {
        let Some(clock) = self.clock.clone() else { return Ok(()) };
        let Some(Steady { boot, up }) = clock.steady() else { return Ok(()) };
        let booted = [skew, -up].iter().fold(clock.now(), |at, by| at.saturating_add(*by).unwrap_or(at));
        self.transact(|connection, _| {
            connection
                .execute(
                    "UPDATE agent SET boot = ?1, booted = ?2 WHERE retired IS NULL",
                    params![boot, micros(booted)],
                )
                .map(drop)
        })
    }

    /// Where each collector of this ledger's agent has got to: its name, its checkpoint, and from where it was first read.
    pub fn progress(&self) -> Result<Vec<Progress>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare("SELECT name, checkpoint, since FROM collector WHERE agent = ?")?
                .query_map([&self.agent], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })
    }

    /// Lets the collectors go on where they have got to elsewhere.
    pub fn go_on_at(&mut self, progress: &[Progress]) -> Result<(), LedgerError> {
        let agent = self.agent.clone();
        self.transact(|connection, _| {
            for (name, checkpoint, since) in progress {
                connection.execute(
                    "INSERT INTO collector (agent, name, checkpoint, since) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (name, agent) DO UPDATE SET checkpoint = ?3, since = ?4",
                    params![agent, name, checkpoint, since],
                )?;
            }
            Ok(())
        })
    }

    /// When the last run of this file looked.
    pub fn last_look(&self) -> Result<Option<Timestamp>, LedgerError> {
        self.look(|connection| {
            connection.query_row("SELECT max(at) FROM run", [], |row| {
                row.get::<_, Option<i64>>(0).map(|at| at.map(instant))
            })
        })
    }

    /// The first of these runs after this number, packed for this agent.
    pub fn packed_run_after(
        &self,
        number: i64,
        identity: &Identity,
        agent: &str,
    ) -> Result<Option<PackedRun>, LedgerError> {
        let until = identity.until.unwrap_or(i64::MAX);
        self.look(|connection| {
            let next: Option<i64> = connection
                .prepare_cached("SELECT id FROM run WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT 1")?
                .query_row([number, until], |row| row.get(0))
                .optional()?;
            next.map(|number| pack(connection, number, &self.rulebook, (identity, agent))).transpose()
        })
    }

    /// Where this file was put back (a snapshot of the machine), or a copy of it has sent meanwhile, numbers stand for other
    /// runs than those that are known there: what was not sent is sent under another id from then on. `last`: the last run
    /// of this id that arrived. Returns whether that was so.
    pub fn begin_anew_if_put_back(
        &mut self,
        file: &str,
        last: Option<(i64, Timestamp)>,
    ) -> Result<bool, LedgerError> {
        let Some((number, at)) = last else { return Ok(false) };
        let was_put_back = self.look(|connection| {
            // Another process may have seen it meanwhile.
            if !connection
                .prepare("SELECT 1 FROM agent WHERE file = ? AND retired IS NULL")?
                .exists([file])?
            {
                return Ok(false);
            }
            // The last run is always kept.
            let newest = newest(connection)?;
            let here: Option<i64> = connection
                .query_row("SELECT at FROM run WHERE id = ?", [number], |row| row.get(0))
                .optional()?;
            Ok(number > newest || here.is_some_and(|here| here != micros(at)))
        })?;
        if was_put_back {
            self.transact(|connection, _| {
                let (sent, name): (i64, String) = connection.query_row(
                    "SELECT number, name FROM agent WHERE retired IS NULL",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )?;
                begin_anew(connection, &name, sent.min(number - 1))
            })?;
        }
        Ok(was_put_back)
    }

    /// How many runs were not sent yet, as far as is known here.
    pub fn not_sent(&self) -> Result<i64, LedgerError> {
        self.look(|connection| {
            connection.query_row(
                "SELECT count(*) FROM run JOIN agent ON run.id > number AND run.id <= coalesce(retired, run.id)",
                [],
                |row| row.get(0),
            )
        })
    }

    /// Lets sources with history be read again whose runs were made while this host's clock was ahead: where they had got to
    /// was told by that clock. Only of runs that have arrived, because what is sent stays as it was. Only a caller who knows
    /// the time from another clock may ask for it. Returns the collectors concerned.
    pub fn forget_future(&mut self, number: i64, now: Timestamp) -> Result<Vec<String>, LedgerError> {
        let limit = micros(now.saturating_add(AHEAD).unwrap_or(now));
        self.transact(|connection, _| {
            let ahead = "outcome <> 'failed' AND at > ?1 AND id <= ?2";
            let collectors: Vec<String> = connection
                .prepare_cached(&format!(
                    "SELECT DISTINCT collector FROM run WHERE {ahead} ORDER BY collector"
                ))?
                .query_map([limit, number], |row| row.get(0))?
                .collect::<sql::Result<_>>()?;
            for collector in &collectors {
                connection.execute("UPDATE collector SET checkpoint = NULL WHERE name = ?1", [collector])?;
            }
            // Once: they are not met again here. A database that has lost them is sent what they were.
            connection.execute(
                &format!("UPDATE run SET sent_as = outcome, outcome = 'failed' WHERE {ahead}"),
                [limit, number],
            )?;
            Ok(collectors)
        })
    }

    /// Notes that all runs of an id up to this number have arrived.
    pub fn note_sent(&mut self, identity: &Identity, number: i64) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            connection
                .execute("UPDATE agent SET number = ?2 WHERE file = ?1", params![identity.file, number])
                .map(drop)
        })
    }

    /// No longer keeps runs that have arrived and that ended before `until`. The last of each collector stays, for its sake
    /// and because numbers are never given twice.
    pub fn forget_sent(&mut self, until: Timestamp) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            let old = "finished < ?1 AND id < (
                    SELECT max(id) FROM run later WHERE later.collector = run.collector)
                AND EXISTS (SELECT 1 FROM agent WHERE run.id > base AND run.id <= number)";
            for (table, key) in [("queued", "run"), ("queued_end", "run"), ("run", "id")] {
                connection
                    .prepare_cached(&format!(
                        "DELETE FROM {table} WHERE {key} IN (SELECT id FROM run WHERE {old})"
                    ))?
                    .execute([micros(until)])?;
            }
            forget_empty(connection)
        })
    }
}

/// The last run of the file.
fn newest(connection: &Connection) -> sql::Result<i64> {
    connection.query_row("SELECT coalesce(max(id), 0) FROM run", [], |row| row.get(0))
}

/// Gives the runs after this one a new id. All at once: under a new name and the old id they would be another's.
fn begin_anew(connection: &Connection, agent: &str, base: i64) -> sql::Result<()> {
    connection
        .execute("UPDATE agent SET retired = ?1, number = min(number, ?1) WHERE retired IS NULL", [base])?;
    connection.execute(
        "INSERT INTO agent (name, file, base, number, at, arrived, skew, boot, booted)
         SELECT ?1, ?2, ?3, ?3, 0, 0, 0, boot, booted FROM agent WHERE retired = ?3 ORDER BY base DESC LIMIT 1",
        params![agent, new_id(), base],
    )?;
    forget_empty(connection)
}

/// Forgets earlier ids of which no run is kept.
fn forget_empty(connection: &Connection) -> sql::Result<()> {
    connection
        .execute(
            "DELETE FROM agent WHERE retired IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM run WHERE run.id > base AND run.id <= agent.retired)",
            [],
        )
        .map(drop)
}

fn new_id() -> String {
    Uuid::from_u128(fastrand::u128(..)).simple().to_string()
}

fn pack(
    connection: &Connection,
    number: i64,
    rulebook: &Rulebook,
    (identity, agent): (&Identity, &str),
) -> sql::Result<PackedRun> {
    let head = connection
        .prepare_cached(
            "SELECT collector, at, finished, coalesce(sent_as, outcome), message, quarantined, lists_everything, scope,
                    withheld, skew, history
             FROM run WHERE id = ?",
        )?
        .query_row([number], |row| {
            Ok(Head {
                collector: row.get(0)?,
                at: row.get(1)?,
                finished: row.get(2)?,
                outcome: row.get(3)?,
                message: row.get(4)?,
                quarantined: row.get(5)?,
                lists_everything: row.get(6)?,
                scope: row.get(7)?,
                withheld: row.get(8)?,
                skew: row.get(9)?,
                history: serde_json::from_str(row.get_ref(10)?.as_str()?).unwrap_or_default(),
            })
        })?;
    let quarantined = connection
        .prepare_cached(
            "SELECT what, reason FROM quarantine WHERE collector = ?1 AND at = ?2 ORDER BY id DESC LIMIT ?3",
        )?
        .query_map(params![head.collector, head.at, head.quarantined], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<sql::Result<_>>()?;
    let ends = connection
        .prepare_cached("SELECT name, labels, at FROM queued_end WHERE run = ?")?
        .query_map([number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<sql::Result<_>>()?;
    let since = connection
        .prepare_cached("SELECT since FROM collector WHERE name = ?")?
        .query_row([&head.collector], |row| row.get(0))
        .optional()?
        .flatten();
    let mut bodies = if head.outcome == FAILED { Vec::new() } else { part::bodies(connection, number)? };
    let at = head.at;
    let was = (identity.agent != agent).then(|| identity.agent.clone());
    let rules = rulebook.of(&head.collector).map(digest).transpose()?;
    let parts = bodies.len() as i64;
    let cover = Manifest { head, quarantined, ends, since, parts, rules, base: identity.base, was };
    bodies.insert(0, json(&cover)?);
    Ok(PackedRun { number, at, bodies })
}

fn json(what: &impl serde::Serialize) -> sql::Result<String> {
    serde_json::to_string(what).map_err(sql::Error::unreadable)
}
