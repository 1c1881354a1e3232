//! What is to be sent, what was about to be sent, what the server is known to hold, and what keeps the rest back.
//!
//! The queue is not a queue: it is the difference between statements and acknowledgements, so it is never longer
//! than resources x open periods. Nothing here decides what to do about a difference; the submitter does.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::catalog::uuid_column;
use super::statements::two_decimals;
use super::{Ledger, LedgerError, instant, micros};
use crate::metering::period::BillingPeriod;

/// Which statement: one resource, one billing period, and the part of it that one plan period covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementKey {
    pub resource: Uuid,
    pub period: BillingPeriod,
    /// The first instant of the part.
    pub part: Timestamp,
}

/// A statement with what is known of the server's side.
#[derive(Debug, Clone)]
pub struct Statement {
    pub key: StatementKey,
    pub revision: i64,
    pub agreed: i64,
    pub state: String,
    pub changed: Timestamp,
    /// By component.
    pub components: BTreeMap<String, Entry>,
    /// By component and user.
    pub users: BTreeMap<(String, String), Entry>,
}

/// One number of a statement: what should be, what is known to be, and what was about to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    pub exact: String,
    pub posted: Option<Decimal>,
    /// Why it can't be posted.
    pub problem: Option<String>,
    pub acknowledged: Option<Acknowledged>,
    /// Sent, with an outcome that was never learnt.
    pub intended: Option<Decimal>,
    pub trouble: Option<Trouble>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    pub amount: Decimal,
    pub how: String,
    pub at: Timestamp,
}

/// Why something is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// held, parked or stranded.
    pub state: String,
    pub reason: String,
    pub words: String,
    pub since: Timestamp,
}

/// A trouble and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TroubleAt {
    pub resource: Uuid,
    pub period: String,
    /// '' is all of the resource's statement.
    pub component: String,
    /// '' is the total.
    pub user: String,
    /// What was refused.
    pub amount: Option<Decimal>,
    pub trouble: Trouble,
}

/// When something may be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    pub failures: i64,
    pub next: Timestamp,
    pub words: String,
}

/// An amount of a component ('' as user) or of one of its users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    pub component: String,
    pub user: String,
    pub amount: Decimal,
}

impl Entry {
    /// Whether the server is not known to hold what it should. What was never posted and is zero need not be.
    pub fn differs(&self) -> bool {
        match (self.posted, &self.acknowledged) {
            (None, _) => false,
            (Some(posted), None) => !posted.is_zero() || self.intended.is_some(),
            (Some(posted), Some(acknowledged)) => posted != acknowledged.amount || self.intended.is_some(),
        }
    }

    pub fn to_send(&self) -> bool {
        self.differs() && self.trouble.is_none()
    }
}

impl Ledger {
    /// Statements of which something may be different at the server.
    pub fn pending(&self) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT resource, period, part FROM statement INDEXED BY statement_pending
                     WHERE revision > agreed ORDER BY resource, period, part",
                )?
                .query_map([], |row| key(row, 0))?
                .collect()
        })
    }

    pub fn statement(&self, key: StatementKey) -> Result<Option<Statement>, LedgerError> {
        self.look(|connection| statement(connection, key))
    }

    /// All statements of these periods, or of all periods.
    pub fn statements(&self, period: Option<BillingPeriod>) -> Result<Vec<Statement>, LedgerError> {
        self.look(|connection| {
            let keys: Vec<StatementKey> = connection
                .prepare_cached(
                    "SELECT resource, period, part FROM statement WHERE ?1 IS NULL OR period = ?1
                     ORDER BY period, resource, part",
                )?
                .query_map([period.map(|period| period.to_string())], |row| self::key(row, 0))?
                .collect::<rusqlite::Result<_>>()?;
            keys.into_iter().filter_map(|key| statement(connection, key).transpose()).collect()
        })
    }

    /// Writes down what is about to be sent.
    pub fn intend(
        &mut self,
        key: StatementKey,
        amounts: Vec<Amount>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            for amount in amounts {
                connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO intent (resource, period, part, component, user, amount, at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    )?
                    .execute(params![
                        key.resource.to_string(),
                        key.period.to_string(),
                        micros(key.part),
                        amount.component,
                        amount.user,
                        two_decimals(amount.amount),
                        micros(now)
                    ])?;
            }
            Ok(())
        })
    }

    /// The server is known to hold these amounts; `how` is `accepted` or `read back`.
    pub fn acknowledge(
        &mut self,
        key: StatementKey,
        amounts: Vec<Amount>,
        how: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            for amount in amounts {
                let columns = params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    micros(key.part),
                    amount.component,
                    amount.user,
                    two_decimals(amount.amount),
                    how,
                    micros(now)
                ];
                connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO acknowledgement
                            (resource, period, part, component, user, amount, how, at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                    )?
                    .execute(columns)?;
                forget_intent(connection, key, &amount.component, &amount.user)?;
            }
            settle(connection, key)
        })
    }

    /// What was about to be sent certainly did not happen.
    pub fn take_back(&mut self, key: StatementKey, amounts: Vec<Amount>) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            for amount in amounts {
                forget_intent(connection, key, &amount.component, &amount.user)?;
            }
            Ok(())
        })
    }

    /// Holds, parks or strands something of a statement: a component or user of it, or (both '') all of it. Only of
    /// this part: what an ended plan period can't take any more says nothing of the one that runs.
    pub fn set_trouble(
        &mut self,
        key: StatementKey,
        component: &str,
        user: &str,
        trouble: Trouble,
        amount: Option<Decimal>,
    ) -> Result<(), LedgerError> {
        let (component, user) = (component.to_owned(), user.to_owned());
        self.transact(|connection, _| {
            connection
                .prepare_cached(
                    "INSERT INTO trouble (resource, period, component, user, state, reason, words, amount, since, part)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                     ON CONFLICT (resource, period, part, component, user)
                     DO UPDATE SET state = ?5, reason = ?6, words = ?7, amount = ?8",
                )?
                .execute(params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    component,
                    user,
                    trouble.state,
                    trouble.reason,
                    trouble.words,
                    amount.map(two_decimals),
                    micros(trouble.since),
                    micros(key.part)
                ])?;
            settle(connection, key)
        })
    }

    /// Lifts troubles of a resource (of all, if `None`) that have this reason (any, if `None`), so that it is tried
    /// again. Returns how many.
    pub fn clear_trouble(&mut self, resource: Option<Uuid>, reasons: &[&str]) -> Result<usize, LedgerError> {
        let resource = resource.map(|uuid| uuid.to_string());
        let reasons = serde_json::to_string(reasons).unwrap_or_default();
        self.transact(|connection, _| {
            let chosen = "(?1 IS NULL OR resource = ?1)
                 AND (?2 = '[]' OR reason IN (SELECT value FROM json_each(?2)))";
            connection.execute(
                &format!(
                    "UPDATE statement SET agreed = min(agreed, revision - 1) WHERE EXISTS (
                        SELECT 1 FROM trouble WHERE trouble.resource = statement.resource
                        AND trouble.period = statement.period AND trouble.part = statement.part AND {chosen})",
                )
                .replace("(?1 IS NULL OR resource = ?1)", "(?1 IS NULL OR trouble.resource = ?1)"),
                params![resource, reasons],
            )?;
            connection.execute(&format!("DELETE FROM trouble WHERE {chosen}"), params![resource, reasons])
        })
    }

    /// Everything that is held, parked or stranded.
    pub fn troubles(&self) -> Result<Vec<TroubleAt>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT resource, period, component, user, amount, state, reason, words, since FROM trouble
                     ORDER BY resource, period, part, component, user",
                )?
                .query_map([], |row| {
                    Ok(TroubleAt {
                        resource: uuid_column(row, 0)?,
                        period: row.get(1)?,
                        component: row.get(2)?,
                        user: row.get(3)?,
                        amount: decimal(row.get(4)?),
                        trouble: Trouble {
                            state: row.get(5)?,
                            reason: row.get(6)?,
                            words: row.get(7)?,
                            since: instant(row.get(8)?),
                        },
                    })
                })?
                .collect()
        })
    }

    /// Resources that are in trouble for this reason.
    pub fn resources_in_trouble(&self, reason: &str) -> Result<Vec<Uuid>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached("SELECT DISTINCT resource FROM trouble WHERE reason = ?")?
                .query_map([reason], |row| uuid_column(row, 0))?
                .collect()
        })
    }

    /// A person decided that Waldur is to agree with the ledger in the months that this resource is held for.
    pub fn decide_overwrite(
        &mut self,
        resource: Uuid,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let (uuid, cause) = (resource.to_string(), reason.to_owned());
        self.transact(|connection, _| {
            connection.execute(
                "INSERT OR REPLACE INTO decision (resource, period, decision, at)
                 SELECT DISTINCT resource, period, 'overwrite', ?3 FROM trouble WHERE resource = ?1 AND reason = ?2",
                params![uuid, cause, micros(now)],
            )?;
            Ok(())
        })?;
        self.clear_trouble(Some(resource), &[reason])?;
        Ok(())
    }

    pub fn decided_overwrite(&self, key: StatementKey) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM decision WHERE resource = ?1 AND period = ?2")?
                .exists(params![key.resource.to_string(), key.period.to_string()])
        })
    }

    /// Recomputes whether a statement is agreed, after something that belongs to it changed.
    pub fn settle(&mut self, key: StatementKey) -> Result<(), LedgerError> {
        self.transact(|connection, _| settle(connection, key))
    }

    pub fn set_state(&mut self, key: StatementKey, state: &str) -> Result<(), LedgerError> {
        let state = state.to_owned();
        self.transact(|connection, _| {
            connection
                .prepare_cached(
                    "UPDATE statement SET state = ?4 WHERE resource = ?1 AND period = ?2 AND part = ?3",
                )?
                .execute(params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    micros(key.part),
                    state
                ])?;
            Ok(())
        })
    }

    /// When a resource (or, with `None`, the server) may be tried again.
    pub fn retry(&self, resource: Option<Uuid>) -> Result<Option<Retry>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached("SELECT failures, next, words FROM retry WHERE resource = ?")?
                .query_row([retry_key(resource)], |row| {
                    Ok(Retry { failures: row.get(0)?, next: instant(row.get(1)?), words: row.get(2)? })
                })
                .optional()
        })
    }

    /// The earliest instant at which something that was put off may be tried again: the server, or a resource of which
    /// there is something to send.
    pub fn next_retry(&self) -> Result<Option<Timestamp>, LedgerError> {
        self.look(|connection| {
            connection.query_row(
                "SELECT min(next) FROM retry WHERE resource = '' OR EXISTS (
                    SELECT 1 FROM statement INDEXED BY statement_pending
                    WHERE statement.resource = retry.resource AND revision > agreed)",
                [],
                |row| row.get::<_, Option<i64>>(0).map(|next| next.map(instant)),
            )
        })
    }

    pub fn set_retry(&mut self, resource: Option<Uuid>, retry: Option<Retry>) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            match retry {
                Some(retry) => connection.execute(
                    "INSERT OR REPLACE INTO retry (resource, failures, next, words) VALUES (?1, ?2, ?3, ?4)",
                    params![retry_key(resource), retry.failures, micros(retry.next), retry.words],
                )?,
                None => connection.execute("DELETE FROM retry WHERE resource = ?", [retry_key(resource)])?,
            };
            Ok(())
        })
    }

    /// Notes a call that changed, or tried to change, what the server holds.
    pub fn note_call(&mut self, call: Call) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            connection
                .prepare_cached(
                    "INSERT INTO call (at, resource, period, call, amounts, outcome, words)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    micros(call.at),
                    call.resource.to_string(),
                    call.period.to_string(),
                    call.call,
                    call.amounts,
                    call.outcome,
                    call.words
                ])?;
            Ok(())
        })
    }

    /// The server's row of a component, where users' amounts go.
    pub fn usage_row(&self, key: StatementKey, component: &str) -> Result<Option<Uuid>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT uuid FROM usage_row WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4",
                )?
                .query_row(
                    params![key.resource.to_string(), key.period.to_string(), micros(key.part), component],
                    |row| uuid_column(row, 0),
                )
                .optional()
        })
    }

    pub fn put_usage_row(
        &mut self,
        key: StatementKey,
        component: &str,
        row: Uuid,
    ) -> Result<(), LedgerError> {
        let component = component.to_owned();
        self.transact(|connection, _| {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO usage_row (resource, period, part, component, uuid)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    micros(key.part),
                    component,
                    row.to_string()
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
                "INSERT OR REPLACE INTO server (key, value, at) VALUES (?1, ?2, ?3)",
                params![name, value, micros(now)],
            )?;
            Ok(())
        })
    }
}

/// A call that changed, or tried to change, what the server holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub at: Timestamp,
    pub resource: Uuid,
    pub period: BillingPeriod,
    /// `set_usage`, `set_user_usage`, `set_user_usages` or `read back`.
    pub call: String,
    /// What was sent, for people: `cpu_hours 0.03, ram_gb_hours 1.20`.
    pub amounts: String,
    /// `accepted`, `unknown`, `refused`, ...
    pub outcome: String,
    pub words: String,
}

fn retry_key(resource: Option<Uuid>) -> String {
    resource.map(|uuid| uuid.to_string()).unwrap_or_default()
}

fn key(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<StatementKey> {
    let period: String = row.get(first + 1)?;
    Ok(StatementKey {
        resource: uuid_column(row, first)?,
        period: period.parse().map_err(|error: String| {
            rusqlite::Error::FromSqlConversionFailure(first + 1, rusqlite::types::Type::Text, error.into())
        })?,
        part: instant(row.get(first + 2)?),
    })
}

fn forget_intent(
    connection: &Connection,
    key: StatementKey,
    component: &str,
    user: &str,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM intent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5",
        )?
        .execute(params![key.resource.to_string(), key.period.to_string(), micros(key.part), component, user])?;
    Ok(())
}

/// Marks a statement as agreed if nothing of it is left to send. What is in trouble is not left to send; it shows.
fn settle(connection: &Connection, key: StatementKey) -> rusqlite::Result<()> {
    let Some(statement) = statement(connection, key)? else { return Ok(()) };
    let waits = statement.components.values().chain(statement.users.values()).any(Entry::to_send);
    let agreed = if waits { statement.agreed.min(statement.revision - 1) } else { statement.revision };
    connection
        .prepare_cached("UPDATE statement SET agreed = ?4 WHERE resource = ?1 AND period = ?2 AND part = ?3")?
        .execute(params![key.resource.to_string(), key.period.to_string(), micros(key.part), agreed])?;
    Ok(())
}

fn statement(connection: &Connection, key: StatementKey) -> rusqlite::Result<Option<Statement>> {
    let columns = (key.resource.to_string(), key.period.to_string(), micros(key.part));
    let head = connection
        .prepare_cached(
            "SELECT revision, agreed, state, changed FROM statement WHERE resource = ?1 AND period = ?2 AND part = ?3",
        )?
        .query_row(params![columns.0, columns.1, columns.2], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, instant(row.get(3)?)))
        })
        .optional()?;
    let Some((revision, agreed, state, changed)) = head else { return Ok(None) };
    let mut entries: BTreeMap<(String, String), Entry> = BTreeMap::new();
    let mut query = connection.prepare_cached(
        "SELECT component, user, exact, posted, problem FROM line WHERE resource = ?1 AND period = ?2 AND part = ?3",
    )?;
    let mut rows = query.query(params![columns.0, columns.1, columns.2])?;
    while let Some(row) = rows.next()? {
        let entry = Entry {
            exact: row.get(2)?,
            posted: decimal(row.get(3)?),
            problem: row.get(4)?,
            ..Entry::default()
        };
        entries.insert((row.get(0)?, row.get(1)?), entry);
    }
    let mut query = connection.prepare_cached(
        "SELECT component, user, amount, how, at FROM acknowledgement
         WHERE resource = ?1 AND period = ?2 AND part = ?3",
    )?;
    let mut rows = query.query(params![columns.0, columns.1, columns.2])?;
    while let Some(row) = rows.next()? {
        let entry = entries.entry((row.get(0)?, row.get(1)?)).or_default();
        if let Some(amount) = decimal(row.get(2)?) {
            entry.acknowledged = Some(Acknowledged { amount, how: row.get(3)?, at: instant(row.get(4)?) });
        }
    }
    let mut query = connection.prepare_cached(
        "SELECT component, user, amount FROM intent WHERE resource = ?1 AND period = ?2 AND part = ?3",
    )?;
    let mut rows = query.query(params![columns.0, columns.1, columns.2])?;
    while let Some(row) = rows.next()? {
        entries.entry((row.get(0)?, row.get(1)?)).or_default().intended = decimal(row.get(2)?);
    }
    let troubles = troubles(connection, &columns)?;
    for ((component, user), entry) in &mut entries {
        let of_all = troubles.get(&(String::new(), String::new()));
        let of_component = troubles.get(&(component.clone(), String::new()));
        let of_user = troubles.get(&(component.clone(), user.clone()));
        entry.trouble = of_all.or(of_component).or(of_user).cloned();
    }
    let (components, users): (BTreeMap<_, _>, BTreeMap<_, _>) =
        entries.into_iter().partition(|((_, user), _)| user.is_empty());
    let components = components.into_iter().map(|((component, _), entry)| (component, entry)).collect();
    Ok(Some(Statement { key, revision, agreed, state, changed, components, users }))
}

fn troubles(
    connection: &Connection,
    (resource, period, part): &(String, String, i64),
) -> rusqlite::Result<BTreeMap<(String, String), Trouble>> {
    connection
        .prepare_cached(
            "SELECT component, user, state, reason, words, since FROM trouble
             WHERE resource = ?1 AND period = ?2 AND part = ?3",
        )?
        .query_map(params![resource, period, part], |row| {
            let trouble = Trouble {
                state: row.get(2)?,
                reason: row.get(3)?,
                words: row.get(4)?,
                since: instant(row.get(5)?),
            };
            Ok(((row.get(0)?, row.get(1)?), trouble))
        })?
        .collect()
}

fn decimal(text: Option<String>) -> Option<Decimal> {
    text.and_then(|text| text.parse().ok())
}
