//! The host's side of a shared ledger: runs that wait in a file of its own are sent there, in order and once each.
//!
//! A run is known by its agent, the random id of the file, and its number in the file. Where the shared ledger has got to is
//! asked there, not remembered: after a failover to a server that lagged, or a restore, it is sent again what it has lost. So
//! runs are kept for days after they were sent. It never reads or writes any other row there than those of its agent.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::parcel::{Cover, Parcel, READINGS_AT_ONCE};
use super::{FAILED, Head, NO_RUN, Queued};
use crate::config::clock::{SharedClock, Steady};
use crate::config::place::{Database, Place};
use crate::ledger::db::clock::{AHEAD, of_database};
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::rules::digest;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError, Rulebook, connect_to_append};

/// Nothing that a host asks takes long.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// A host that says nothing for so long may have been installed anew.
const AWAY: SignedDuration = SignedDuration::from_mins(15);

/// Where a collector has got to: its name, its checkpoint, and from where it was first read.
pub type Progress = (String, Option<String>, Option<i64>);

/// As what the runs of a file are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// A random id.
    pub file: String,
    /// The last run that was sent before it had this one.
    pub base: i64,
    /// Whose runs it held until now, where that is another agent.
    pub was: Option<String>,
    /// The id that it had before.
    pub previous: Option<String>,
}

/// The shared ledger, as a host that only appends sees it.
#[derive(Debug)]
pub struct Outbox {
    connection: Connection,
    place: Place,
    agent: String,
    file: String,
    /// The database's clock less ours.
    pub skew: SignedDuration,
}

impl Outbox {
    pub fn connect(
        database: &Database,
        agent: &str,
        file: &str,
        now: impl Fn() -> Timestamp,
    ) -> Result<Outbox, LedgerError> {
        let place = Place::Database(database.clone());
        let connection = connect_to_append(database)?;
        connection.be_patient_for(ANSWERED_WITHIN);
        let clock = of_database(&connection).map_err(|error| LedgerError::from_sql(&place, error))?;
        let skew = clock.duration_since(now());
        Ok(Outbox { connection, place, agent: agent.to_owned(), file: file.to_owned(), skew })
    }

    /// From now on what is sent has this id.
    pub fn send_as(&mut self, file: String) {
        self.file = file;
    }

    /// The last run that arrived: its number, and when it looked.
    pub fn last(&self) -> Result<Option<(i64, Timestamp)>, LedgerError> {
        let last = self.connection.query_row(
            "SELECT number, at FROM (
                SELECT number, at FROM inbox WHERE agent = ?1 AND file = ?2 AND part = 0
                UNION ALL SELECT number, at FROM agent WHERE name = ?1 AND file = ?2) run
             WHERE number > 0 ORDER BY number DESC LIMIT 1",
            [&self.agent, &self.file],
            |row| Ok((row.get(0)?, instant(row.get(1)?))),
        );
        last.optional().map_err(|error| LedgerError::from_sql(&self.place, error))
    }

    /// Whether another host has this agent's name now. `last`: when this one looked last; `previous`: the id that its file had
    /// before; `planned`: how long a gap is by this host's own schedules, because the ledger knows what is usual for the other
    /// one only once two of its runs are counted.
    pub fn is_anothers(
        &self,
        last: Option<Timestamp>,
        previous: Option<&str>,
        planned: SignedDuration,
    ) -> Result<bool, LedgerError> {
        let newest = self.connection.query_row(
            "SELECT file, at, (SELECT max(patience) FROM agent WHERE name = ?1 AND retired IS NULL) FROM (
                SELECT file, at FROM agent WHERE name = ?1 AND retired IS NULL
                UNION ALL SELECT file, at FROM inbox WHERE agent = ?1 AND part = 0 AND number > 0) run
             ORDER BY at DESC LIMIT 1",
            [&self.agent],
            |row| {
                let patience = SignedDuration::from_micros(row.get::<_, Option<i64>>(2)?.unwrap_or(0));
                let until = instant(row.get(1)?).saturating_add(patience.max(planned).max(AWAY));
                Ok((row.get::<_, String>(0)?, until.unwrap_or(Timestamp::MAX)))
            },
        );
        let newest = newest.optional().map_err(|error| LedgerError::from_sql(&self.place, error))?;
        Ok(newest.is_some_and(|(file, until)| {
            file != self.file && previous != Some(&file) && last.is_some_and(|last| last < until)
        }))
    }

    /// Fails where another host has this agent's name, and lets the ledger know: both would be taken for one.
    pub fn check_name(
        &self,
        last: Option<Timestamp>,
        previous: Option<&str>,
        planned: SignedDuration,
    ) -> Result<(), LedgerError> {
        if !self.is_anothers(last, previous, planned)? {
            return Ok(());
        }
        let noted = self.connection.execute(
            "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES (?1, ?2, ?3, 0, ?4, '', ?4)
             ON CONFLICT (agent, file, number, part) DO NOTHING",
            params![self.agent, self.file, NO_RUN, last.map_or(0, micros)],
        );
        noted.map_err(|error| LedgerError::from_sql(&self.place, error))?;
        Err(LedgerError::second_host(&self.agent, &self.place))
    }

    /// Sends a run; again, if it has arrived already, changes nothing.
    pub fn send(&self, parcel: &Parcel, now: Timestamp) -> Result<(), LedgerError> {
        let send = || {
            self.connection.begin_to_append()?;
            for (part, body) in (0_i64..).zip(&parcel.bodies) {
                self.connection.execute(
                    "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT (agent, file, number, part) DO NOTHING",
                    params![self.agent, self.file, parcel.number, part, parcel.at, body, micros(now)],
                )?;
            }
            crate::fail_point("before a run is sent");
            self.connection.commit()?;
            crate::fail_point("after a run is sent");
            Ok(())
        };
        let sent: sql::Result<()> = send();
        if sent.is_err() && !self.connection.is_autocommit() {
            drop(self.connection.roll_back());
        }
        sent.map_err(|error| LedgerError::from_sql(&self.place, error))
    }
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

    /// Under which id the runs of this file are sent by this agent, and after which of them. A file that another agent has
    /// sent (of a host that was renamed, of a machine that was cloned) gets a new one: what that one has sent stays its own,
    /// and is not sent again under another name.
    pub fn identify(&mut self, agent: &str) -> Result<Identity, LedgerError> {
        let known = self.identity()?;
        let name: String =
            self.look(|connection| connection.query_row("SELECT name FROM agent", [], |row| row.get(0)))?;
        if name == agent {
            return Ok(known);
        }
        self.transact(|connection, _| {
            if name.is_empty() {
                connection.execute("UPDATE agent SET name = ?", [agent])?;
                return Ok(known);
            }
            let anew = begin_anew(connection, agent, sent(connection)?)?;
            Ok(Identity { was: Some(name), ..anew })
        })
    }

    /// Notes how far the database's clock is from this host's, so that runs are told by it also when that is set meanwhile.
    pub fn note_database_clock(&mut self, skew: SignedDuration) -> Result<(), LedgerError> {
        let Some(clock) = self.clock.clone() else { return Ok(()) };
        let Some(Steady { boot, up }) = clock.steady() else { return Ok(()) };
        let booted = [skew, -up].iter().fold(clock.now(), |at, by| at.saturating_add(*by).unwrap_or(at));
        self.transact(|connection, _| {
            connection
                .execute("UPDATE agent SET boot = ?1, booted = ?2", params![boot, micros(booted)])
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

    /// Under which id the runs of this file are sent, by whichever agent.
    pub fn identity(&self) -> Result<Identity, LedgerError> {
        self.look(|connection| {
            connection.query_row("SELECT file, base, previous FROM agent", [], |row| {
                Ok(Identity { file: row.get(0)?, base: row.get(1)?, was: None, previous: row.get(2)? })
            })
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

    /// The first run after this number, packed.
    pub fn parcel_after(&self, number: i64) -> Result<Option<Parcel>, LedgerError> {
        self.look(|connection| {
            let next: Option<i64> = connection
                .prepare_cached("SELECT id FROM run WHERE id > ? ORDER BY id LIMIT 1")?
                .query_row([number], |row| row.get(0))
                .optional()?;
            next.map(|number| pack(connection, number, &self.rulebook)).transpose()
        })
    }

    /// Where this file was put back (a snapshot of the machine), and gives numbers that were given before, its runs are sent
    /// under another id from then on. `last`: the last run of this file that arrived. `None`: it was not put back.
    pub fn begin_anew_if_put_back(
        &mut self,
        agent: &str,
        last: Option<(i64, Timestamp)>,
    ) -> Result<Option<Identity>, LedgerError> {
        let Some((number, at)) = last else { return Ok(None) };
        let was_put_back = self.look(|connection| {
            // The last run is always kept.
            let newest: i64 =
                connection.query_row("SELECT coalesce(max(id), 0) FROM run", [], |row| row.get(0))?;
            let here: Option<i64> = connection
                .query_row("SELECT at FROM run WHERE id = ?", [number], |row| row.get(0))
                .optional()?;
            Ok(number > newest || here.is_some_and(|here| here != micros(at)))
        })?;
        if !was_put_back {
            return Ok(None);
        }
        self.transact(|connection, _| {
            let after = sent(connection)?.min(number - 1);
            begin_anew(connection, agent, after).map(Some)
        })
    }

    /// How many runs were not sent yet, as far as is known here.
    pub fn not_sent(&self) -> Result<i64, LedgerError> {
        self.look(|connection| {
            connection.query_row(
                "SELECT count(*) FROM run WHERE id > (SELECT number FROM agent)",
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
            // Once: they are not met again.
            connection
                .execute(&format!("UPDATE run SET outcome = 'failed' WHERE {ahead}"), [limit, number])?;
            Ok(collectors)
        })
    }

    /// Notes that all runs up to this number have arrived, and no longer keeps those of them that ended before `until`. The
    /// last of each collector stays, for its sake and because numbers are never given twice.
    pub fn note_sent(&mut self, number: i64, until: Timestamp) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            connection.execute("UPDATE agent SET number = ?", [number])?;
            let old = "finished < ?1 AND id <= ?2 AND id < (
                SELECT max(id) FROM run later WHERE later.collector = run.collector)";
            for (table, key) in [("queued", "run"), ("queued_end", "run"), ("run", "id")] {
                connection
                    .prepare_cached(&format!(
                        "DELETE FROM {table} WHERE {key} IN (SELECT id FROM run WHERE {old})"
                    ))?
                    .execute([micros(until), number])?;
            }
            Ok(())
        })
    }
}

/// The last run that is known to have arrived.
fn sent(connection: &Connection) -> sql::Result<i64> {
    connection.query_row("SELECT number FROM agent", [], |row| row.get(0))
}

/// Gives the runs after this one a new id. All at once: under a new name and the old id they would all be sent again.
fn begin_anew(connection: &Connection, agent: &str, base: i64) -> sql::Result<Identity> {
    let file = new_id();
    let previous = connection.query_row("SELECT file FROM agent", [], |row| row.get(0))?;
    connection.execute(
        "UPDATE agent SET name = ?1, file = ?2, base = ?3, number = ?3, previous = ?4",
        params![agent, file, base, previous],
    )?;
    Ok(Identity { file, base, was: None, previous: Some(previous) })
}

fn new_id() -> String {
    Uuid::from_u128(fastrand::u128(..)).simple().to_string()
}

fn pack(connection: &Connection, number: i64, rulebook: &Rulebook) -> sql::Result<Parcel> {
    let head = connection
        .prepare_cached(
            "SELECT collector, at, finished, outcome, message, quarantined, lists_everything, scope, withheld, skew,
                    history
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
    let mut bodies = Vec::new();
    if head.outcome != FAILED {
        let mut query = connection.prepare_cached(
            "SELECT name, kind, value, unit, start, at, labels, id, epoch, began, shared FROM queued
             WHERE run = ? ORDER BY number",
        )?;
        let mut rows = query.query([number])?;
        let mut part = Vec::new();
        while let Some(row) = rows.next()? {
            part.push(Queued {
                name: row.get(0)?,
                kind: row.get(1)?,
                value: row.get(2)?,
                unit: row.get(3)?,
                start: row.get(4)?,
                at: row.get(5)?,
                labels: row.get(6)?,
                id: row.get(7)?,
                epoch: row.get(8)?,
                began: row.get(9)?,
                shared: row.get(10)?,
            });
            if part.len() == READINGS_AT_ONCE {
                bodies.push(json(&std::mem::take(&mut part))?);
            }
        }
        if !part.is_empty() {
            bodies.push(json(&part)?);
        }
    }
    let at = head.at;
    let base = connection.query_row("SELECT base FROM agent", [], |row| row.get(0)).optional()?.unwrap_or(0);
    let rules = rulebook.of(&head.collector).map(digest).transpose()?;
    let cover = Cover { head, quarantined, ends, since, parts: bodies.len() as i64, rules, base };
    bodies.insert(0, json(&cover)?);
    Ok(Parcel { number, at, bodies })
}

fn json(what: &impl serde::Serialize) -> sql::Result<String> {
    serde_json::to_string(what).map_err(sql::Error::unreadable)
}
