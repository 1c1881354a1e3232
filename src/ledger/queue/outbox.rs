//! The host's side of a shared ledger: how what waits in its own file gets there, in order and once each.
//!
//! A run is known by its agent, the random id of the file, and its number in the file. Where the shared ledger has got to is
//! asked there, not remembered: after a failover to a server that lagged, or a restore, it is sent again what it has lost.
//! It never reads or writes any other row there than those of its agent.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::NO_RUN;
use super::own::Identity;
use super::packed_run::PackedRun;
use crate::config::place::{Database, Place};
use crate::ledger::db::clock::of_database;
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{LedgerError, LedgerErrorKind, connect_to_append};

/// Nothing that a host asks takes long.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// A host that says nothing for so long may have been installed anew.
const AWAY: SignedDuration = SignedDuration::from_mins(15);

/// The shared ledger, as a host that only appends sees it.
#[derive(Debug)]
pub struct Outbox {
    connection: Connection,
    place: Place,
    agent: String,
    /// The database's clock less ours.
    pub skew: SignedDuration,
}

/// This host, as it is known where its agent's name may be another host's.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Under which ids it sends, the one of now last.
    pub identities: Vec<Identity>,
    /// When it looked last.
    pub last_look: Option<Timestamp>,
    /// How long a gap is by its own schedules, because the ledger knows what is usual for the other one only once two of its
    /// runs are counted.
    pub planned: SignedDuration,
}

impl Outbox {
    pub fn connect(
        database: &Database,
        agent: &str,
        now: impl Fn() -> Timestamp,
    ) -> Result<Outbox, LedgerError> {
        let place = Place::Database(database.clone());
        let connection = connect_to_append(database)?;
        connection.set_answer_timeout(ANSWERED_WITHIN);
        let clock = of_database(&connection).map_err(|error| LedgerError::from_sql(&place, error))?;
        let skew = clock.duration_since(now());
        Ok(Outbox { connection, place, agent: agent.to_owned(), skew })
    }

    /// The last run of this file that arrived: its number, and when it looked.
    pub fn last(&self, file: &str) -> Result<Option<(i64, Timestamp)>, LedgerError> {
        let last = self.connection.query_row(
            "SELECT number, at FROM (
                SELECT number, at FROM inbox WHERE agent = ?1 AND file = ?2 AND part = 0
                UNION ALL SELECT number, at FROM agent WHERE name = ?1 AND file = ?2) run
             WHERE number > 0 ORDER BY number DESC LIMIT 1",
            [self.agent.as_str(), file],
            |row| Ok((row.get(0)?, instant(row.get(1)?))),
        );
        last.optional().map_err(|error| LedgerError::from_sql(&self.place, error))
    }

    /// Whether another host has this agent's name now: what came last under it came from another file, not long before this
    /// host looked. One that was put back has a new id, too, and can't be told from a copy of it.
    pub fn is_name_taken(&self, claim: &Claim) -> Result<bool, LedgerError> {
        let newest = self.connection.query_row(
            "SELECT file, max(at), max(number), (SELECT max(patience) FROM agent WHERE name = ?1 AND retired IS NULL) FROM (
                SELECT file, at, number FROM agent WHERE name = ?1 AND retired IS NULL
                UNION ALL SELECT file, at, number FROM inbox WHERE agent = ?1 AND part = 0 AND number > 0) run
             GROUP BY file ORDER BY 2 DESC LIMIT 1",
            [&self.agent],
            |row| {
                let patience = SignedDuration::from_micros(row.get::<_, Option<i64>>(3)?.unwrap_or(0));
                let until = instant(row.get(1)?).saturating_add(patience.max(claim.planned).max(AWAY));
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(2)?, until.unwrap_or(Timestamp::MAX)))
            },
        );
        let newest = newest.optional().map_err(|error| LedgerError::from_sql(&self.place, error))?;
        // Its own, and what it has sent under an earlier id, unless that goes on where this host has stopped.
        let is_own = |file: &str, number: i64| {
            let of = claim.identities.iter().find(|of| of.file == file);
            of.is_some_and(|of| of.until.is_none_or(|until| number <= until))
        };
        Ok(newest.is_some_and(|(file, number, until)| {
            !is_own(&file, number) && claim.last_look.is_some_and(|last| last < until)
        }))
    }

    /// Fails where another host has this agent's name, and lets the ledger know: both would be taken for one.
    pub fn check_name(&self, claim: &Claim) -> Result<(), LedgerError> {
        let Some(own) = claim.identities.last() else { return Ok(()) };
        if !self.is_name_taken(claim)? {
            return Ok(());
        }
        let noted = self.connection.execute(
            "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES (?1, ?2, ?3, 0, ?4, '', ?4)
             ON CONFLICT (agent, file, number, part) DO NOTHING",
            params![self.agent, own.file, NO_RUN, claim.last_look.map_or(0, micros)],
        );
        noted.map_err(|error| LedgerError::from_sql(&self.place, error))?;
        Err(LedgerError::second_host(&self.agent, &self.place))
    }

    /// Tries whether a run could be sent under this agent's name, and takes it back.
    pub fn try_to_append(&self) -> Result<(), LedgerError> {
        let tries = || {
            self.connection.begin_to_append()?;
            self.connection.execute(
                "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES (?1, '', ?2, 0, 0, '', 0)
                 ON CONFLICT (agent, file, number, part) DO NOTHING",
                params![self.agent, NO_RUN],
            )
        };
        let tried: sql::Result<usize> = tries();
        drop(self.connection.roll_back());
        let tried = tried.map_err(|error| LedgerError::from_sql(&self.place, error));
        match tried {
            Err(error) if error.kind == LedgerErrorKind::Forbidden => {
                Err(LedgerError::not_own(&self.place, &self.agent, &error))
            }
            tried => tried.map(drop),
        }
    }

    /// Sends a run of this file; again, if it has arrived already, changes nothing.
    pub fn send(&self, file: &str, packed_run: &PackedRun, now: Timestamp) -> Result<(), LedgerError> {
        let send = || {
            self.connection.begin_to_append()?;
            for (part, body) in (0_i64..).zip(&packed_run.bodies) {
                self.connection.execute(
                    "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT (agent, file, number, part) DO NOTHING",
                    params![self.agent, file, packed_run.number, part, packed_run.at, body, micros(now)],
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
