//! What was learnt of the server: its clock and capabilities, its rows, and when it may be tried again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::amount::StatementKey;
use crate::ledger::db::columns::{decimal, instant, micros, two_decimals, uuid_column};
use crate::ledger::db::sql::{self, OptionalExtension, Row, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// When something may be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Why it failed: failures of another cause are counted anew.
    pub cause: String,
    pub failures: i64,
    /// Our own backoff included.
    pub next: Timestamp,
    pub words: String,
    /// Until when the server asked to be left alone (`Retry-After`): nobody is to come earlier, also who is in a hurry.
    pub asked: Option<Timestamp>,
    /// Something could not be read; else it could not be sent.
    pub unread: bool,
}

impl Retry {
    /// Whether it is too early to try again. `hurried`: our own backoff is not waited for.
    pub fn waits(&self, now: Timestamp, hurried: bool) -> bool {
        if hurried { self.asked.is_some_and(|asked| asked > now) } else { self.next > now }
    }
}

/// An offering for which the token has no role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithoutRole {
    pub offering: Uuid,
    /// What Waldur calls it; empty where that is not known.
    pub name: String,
    pub since: Timestamp,
}

impl WithoutRole {
    pub fn words(&self) -> String {
        offering_in_words(self.offering, &self.name)
    }
}

/// `Cluster (91ab...)`, and the UUID alone where it has no name.
pub fn offering_in_words(offering: Uuid, name: &str) -> String {
    match name {
        "" => offering.to_string(),
        name => format!("{name} ({offering})"),
    }
}

/// Who wrote a number that the server holds, and when, as the server says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writer {
    /// A number, a name or an address, depending on the server's version.
    pub by: Option<String>,
    /// When it was written, where the row tells.
    pub at: Option<Timestamp>,
    /// The row's `date`: whoever reports may choose it, so that it does not tell when that was.
    pub dated: Option<Timestamp>,
}

impl Writer {
    /// `written 04:54Z by user 99`, or `dated 04:54Z, by user 99` where only the date is known; `ours`: it is the user whose
    /// token this agent has; `moment`: how instants are shown. `None`: the server says nothing.
    pub fn words(&self, ours: bool, moment: impl Fn(Timestamp) -> String) -> Option<String> {
        // Of an address, what it ends in says who it is.
        let by = self.by.as_deref().map(|by| by.trim_end_matches('/'));
        let by = by.map(|by| by.rsplit('/').next().unwrap_or(by)).filter(|by| !by.is_empty());
        let by = by.map(|by| if ours { "this agent's user".to_owned() } else { format!("user {by}") });
        match (self.at.map(&moment), self.dated.map(&moment), by) {
            (Some(at), _, Some(by)) => Some(format!("written {at} by {by}")),
            (Some(at), _, None) => Some(format!("written {at} by nobody named")),
            (None, Some(date), Some(by)) => Some(format!("dated {date}, by {by}")),
            (None, Some(date), None) => Some(format!("dated {date}, by nobody named")),
            (None, None, Some(by)) => Some(format!("written by {by}")),
            (None, None, None) => None,
        }
    }
}

/// A row of the server's, as it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRead {
    pub uuid: Uuid,
    /// What it held, whoever wrote it.
    pub amount: Decimal,
    pub at: Timestamp,
    pub writer: Writer,
}

impl Ledger {
    /// When a resource (or, with `None`, the server) may be tried again.
    pub fn retry(&self, resource: Option<Uuid>) -> Result<Option<Retry>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT failures, next, words, cause, asked, unread FROM retry WHERE resource = ?",
                )?
                .query_row([retry_key(resource)], retry)
                .optional()
        })
    }

    pub fn set_retry(&mut self, resource: Option<Uuid>, retry: Option<Retry>) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            match retry {
                Some(retry) => connection.execute(
                    "INSERT INTO retry (resource, cause, failures, next, words, asked, unread) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT (resource)
                     DO UPDATE SET cause = ?2, failures = ?3, next = ?4, words = ?5, asked = ?6, unread = ?7",
                    params![
                        retry_key(resource),
                        retry.cause,
                        retry.failures,
                        micros(retry.next),
                        retry.words,
                        retry.asked.map(micros),
                        retry.unread
                    ],
                )?,
                None => connection.execute("DELETE FROM retry WHERE resource = ?", [retry_key(resource)])?,
            };
            Ok(())
        })
    }

    /// Resources that are put off, each with when it is tried again.
    pub fn put_off(&self) -> Result<Vec<(Uuid, Retry)>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT failures, next, words, cause, asked, unread, resource FROM retry WHERE resource <> '' ORDER BY resource",
                )?
                .query_map([], |row| Ok((uuid_column(row, 6)?, retry(row)?)))?
                .collect()
        })
    }

    /// Notes whether the token has a role for an offering; `name`: what Waldur calls it, where that is known.
    pub fn note_role(
        &mut self,
        offering: Uuid,
        (has_role, name): (bool, &str),
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let key = format!("{NO_ROLE}{offering}");
        self.transact(|connection, _| {
            match has_role {
                true => connection.prepare_cached("DELETE FROM server WHERE key = ?")?.execute([key])?,
                false => connection
                    .prepare_cached(
                        "INSERT INTO server (key, value, at) VALUES (?1, ?2, ?3)
                         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    )?
                    .execute(params![key, name, micros(now)])?,
            };
            Ok(())
        })
    }

    /// Offerings for which the token has no role.
    pub fn without_role(&self) -> Result<Vec<WithoutRole>, LedgerError> {
        self.look(|connection| {
            let facts: Vec<(String, String, i64)> = connection
                .prepare_cached("SELECT key, value, at FROM server WHERE key LIKE ?1 || '%' ORDER BY key")?
                .query_map([NO_ROLE], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<sql::Result<_>>()?;
            let offering = |key: &str| Uuid::parse_str(key.strip_prefix(NO_ROLE)?).ok();
            let facts = facts.into_iter().filter_map(|(key, name, at)| {
                Some(WithoutRole { offering: offering(&key)?, name, since: instant(at) })
            });
            Ok(facts.collect())
        })
    }

    /// Whether those are all that there are.
    pub fn has_no_role(&self) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM server WHERE key LIKE ?1 || '%')
                     AND NOT EXISTS (SELECT 1 FROM offering WHERE NOT EXISTS (
                        SELECT 1 FROM server WHERE key = ?1 || offering.uuid))",
                )?
                .query_row([NO_ROLE], |row| row.get(0))
        })
    }

    /// The server's row of a component, where users' amounts go, and when it was last read.
    pub fn usage_row(
        &self,
        key: StatementKey,
        component: &str,
    ) -> Result<Option<(Uuid, Timestamp)>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT uuid, read FROM usage_row
                     WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4",
                )?
                .query_row(
                    params![key.resource.to_string(), key.period.to_string(), micros(key.part), component],
                    |row| Ok((uuid_column(row, 0)?, instant(row.get(1)?))),
                )
                .optional()
        })
    }

    /// What became of calls that sent just this total of a resource's month: of each, its outcome.
    pub fn outcomes_of(
        &self,
        resource: Uuid,
        period: BillingPeriod,
        (component, amount): (&str, Decimal),
    ) -> Result<BTreeSet<String>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT outcome FROM sent WHERE resource = ?1 AND period = ?2 AND component = ?3
                     AND username = '' AND amount = ?4 AND outcome <> 'read'",
                )?
                .query_map(
                    params![resource.to_string(), period.to_string(), component, two_decimals(amount)],
                    |row| row.get(0),
                )?
                .collect()
        })
    }

    /// The total of a component of a resource's month that was accepted last, in whichever part.
    pub fn accepted_last(
        &self,
        resource: Uuid,
        period: BillingPeriod,
        component: &str,
    ) -> Result<Option<Decimal>, LedgerError> {
        self.look(|connection| {
            let amount: Option<String> = connection
                .prepare_cached(
                    "SELECT amount FROM sent WHERE resource = ?1 AND period = ?2 AND component = ?3 AND username = ''
                     AND outcome = 'accepted' ORDER BY id DESC LIMIT 1",
                )?
                .query_row(params![resource.to_string(), period.to_string(), component], |row| row.get(0))
                .optional()?;
            Ok(decimal(amount))
        })
    }

    /// The UUIDs of the rows that are known to be of other parts of the statement's month.
    pub fn usage_rows_of_other_parts(&self, key: StatementKey) -> Result<BTreeSet<Uuid>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT uuid FROM usage_row WHERE resource = ?1 AND period = ?2 AND part <> ?3",
                )?
                .query_map(
                    params![key.resource.to_string(), key.period.to_string(), micros(key.part)],
                    |row| uuid_column(row, 0),
                )?
                .collect()
        })
    }

    /// The rows of a statement's components, as they were last read.
    pub fn rows_read(&self, key: StatementKey) -> Result<BTreeMap<String, RowRead>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT component, uuid, amount, read, written_by, written_at, dated FROM usage_row
                     WHERE resource = ?1 AND period = ?2 AND part = ?3",
                )?
                .query_map(
                    params![key.resource.to_string(), key.period.to_string(), micros(key.part)],
                    |row| {
                        let (at, dated): (Option<i64>, Option<i64>) = (row.get(5)?, row.get(6)?);
                        let (at, dated) = (at.map(instant), dated.map(instant));
                        let writer = Writer { by: row.get(4)?, at, dated };
                        let (uuid, at) = (uuid_column(row, 1)?, instant(row.get(3)?));
                        let amount = decimal(row.get(2)?).unwrap_or_default();
                        Ok((row.get(0)?, RowRead { uuid, amount, at, writer }))
                    },
                )?
                .collect()
        })
    }

    /// Notes a row that was read.
    pub fn put_usage_row(
        &mut self,
        key: StatementKey,
        component: &str,
        row: &RowRead,
    ) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            connection
                .prepare_cached(
                    "INSERT INTO usage_row (resource, period, part, component, uuid, read, amount, written_by, written_at,
                        dated)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                     ON CONFLICT (resource, period, part, component) DO UPDATE SET uuid = ?5, read = ?6, amount = ?7,
                        written_by = ?8, written_at = ?9, dated = ?10",
                )?
                .execute(params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    micros(key.part),
                    component,
                    row.uuid.to_string(),
                    micros(row.at),
                    two_decimals(row.amount),
                    row.writer.by,
                    row.writer.at.map(micros),
                    row.writer.dated.map(micros)
                ])?;
            Ok(())
        })
    }

    /// Something that was learnt of the server, and when.
    pub fn server_fact(&self, name: &str) -> Result<Option<(String, Timestamp)>, LedgerError> {
        self.look(|connection| {
            connection
                .query_row("SELECT value, at FROM server WHERE key = ?", [name], |row| {
                    Ok((row.get(0)?, instant(row.get(1)?)))
                })
                .optional()
        })
    }

    pub fn put_server_fact(&mut self, name: &str, value: &str, now: Timestamp) -> Result<(), LedgerError> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.transact(|connection, _| {
            connection.execute(
                "INSERT INTO server (key, value, at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET value = ?2, at = ?3",
                params![name, value, micros(now)],
            )?;
            Ok(())
        })
    }

    pub fn forget_server_facts(&mut self, names: &[&str]) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            for name in names {
                connection.prepare_cached("DELETE FROM server WHERE key = ?")?.execute([name])?;
            }
            Ok(())
        })
    }
}

/// What the key of an offering without a role begins with.
const NO_ROLE: &str = "no_role ";

fn retry(row: &Row<'_>) -> sql::Result<Retry> {
    Ok(Retry {
        failures: row.get(0)?,
        next: instant(row.get(1)?),
        words: row.get(2)?,
        cause: row.get(3)?,
        asked: row.get::<_, Option<i64>>(4)?.map(instant),
        unread: row.get(5)?,
    })
}

fn retry_key(resource: Option<Uuid>) -> String {
    resource.map(|uuid| uuid.to_string()).unwrap_or_default()
}
