//! What is to be sent, what was about to be sent, what the server is known to hold, and what keeps the rest back.
//!
//! The queue is not a queue: it is the difference between statements and acknowledgements, so it is never longer
//! than resources x open periods. Nothing here decides what to do about a difference; the submitter does.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::lock::is_current;
use super::periods::reopen;
use super::rows::{period_column, uuid_column};
use super::statements::two_decimals;
use super::trouble::{Trouble, troubles};
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
    pub changed: Timestamp,
    /// When, after its month, what was posted last had been read back equal.
    pub closed: Option<Timestamp>,
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

    /// All statements of a period, of resources that were found in Waldur.
    pub fn keys_of_known_resources(&self, period: BillingPeriod) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT statement.resource, period, part FROM statement
                     JOIN resource ON resource.uuid = statement.resource WHERE period = ?1",
                )?
                .query_map([period.to_string()], |row| key(row, 0))?
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
        let turn = self.own_turn();
        let done = self.transact(|connection, _| {
            if !is_current(connection, turn)? {
                return Ok(None);
            }
            intend(connection, key, amounts, now, turn).map(Some)
        })?;
        self.in_turn(done)
    }

    /// Whether the server has ever accepted a report of another resource.
    pub fn has_accepted_of_others(&self, resource: Uuid) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM acknowledgement WHERE how = 'accepted' AND resource <> ?1)",
                )?
                .query_row([resource.to_string()], |row| row.get(0))
        })
    }

    /// The server is known to hold these amounts; `how` is `accepted` or `read back`. Of a process whose turn is over,
    /// an acceptance is not believed but kept as a doubt: a later holder may have sent newer amounts before or since.
    pub fn acknowledge(
        &mut self,
        key: StatementKey,
        amounts: Vec<Amount>,
        how: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let turn = self.own_turn();
        let done = self.transact(|connection, _| {
            if is_current(connection, turn)? {
                return acknowledge_in(connection, key, amounts, (how, turn), now).map(Some);
            }
            if how == "accepted" {
                intend(connection, key, amounts, now, turn)?;
                settle(connection, key)?;
            }
            Ok(None)
        })?;
        self.in_turn(done)
    }

    /// What was about to be sent certainly did not happen.
    pub fn take_back(&mut self, key: StatementKey, amounts: Vec<Amount>) -> Result<(), LedgerError> {
        let turn = self.own_turn();
        let done = self.transact(|connection, _| {
            if !is_current(connection, turn)? {
                return Ok(None);
            }
            for amount in amounts {
                forget_intent(connection, key, &amount.component, &amount.user, None)?;
            }
            Ok(Some(()))
        })?;
        self.in_turn(done)
    }

    /// Recomputes whether a statement is agreed, after something that belongs to it changed.
    pub fn settle(&mut self, key: StatementKey) -> Result<(), LedgerError> {
        self.transact(|connection, _| settle(connection, key))
    }

    /// Notes whether an amount that may have been sent was there when it was looked for.
    pub fn note_doubt(
        &mut self,
        key: StatementKey,
        component: &str,
        amount: Decimal,
        is_there: bool,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.note_call(Call {
            at: now,
            resource: key.resource,
            period: key.period,
            call: READ_BACK.to_owned(),
            amounts: format!("{component} {amount:.2}"),
            outcome: if is_there { "there" } else { "not there" }.to_owned(),
            words: String::new(),
        })
    }

    /// By component, the amounts of a month that were ever in doubt.
    pub fn doubted(&self, key: StatementKey) -> Result<BTreeSet<(String, Decimal)>, LedgerError> {
        let noted: Vec<String> = self.look(|connection| {
            connection
                .prepare_cached("SELECT amounts FROM call WHERE resource = ?1 AND period = ?2 AND call = ?3")?
                .query_map(params![key.resource.to_string(), key.period.to_string(), READ_BACK], |row| {
                    row.get(0)
                })?
                .collect()
        })?;
        let read = |text: &String| {
            let (component, amount) = text.rsplit_once(' ')?;
            Some((component.to_owned(), amount.parse().ok()?))
        };
        Ok(noted.iter().filter_map(read).collect())
    }

    /// Whether this amount was sent for this month and its outcome was in doubt, or still is.
    pub fn was_in_doubt(
        &self,
        key: StatementKey,
        component: &str,
        amount: Decimal,
    ) -> Result<bool, LedgerError> {
        let doubted = self.doubted(key)?;
        if doubted.contains(&(component.to_owned(), amount)) {
            return Ok(true);
        }
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT 1 FROM intent
                     WHERE resource = ?1 AND period = ?2 AND component = ?3 AND user = '' AND amount = ?4",
                )?
                .exists(params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    component,
                    two_decimals(amount)
                ])
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
}

/// What a call is named by whose outcome was looked for.
const READ_BACK: &str = "read back";

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

pub(super) fn key(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<StatementKey> {
    Ok(StatementKey {
        resource: uuid_column(row, first)?,
        period: period_column(row, first + 1)?,
        part: instant(row.get(first + 2)?),
    })
}

pub(super) fn acknowledge_in(
    connection: &Connection,
    key: StatementKey,
    amounts: Vec<Amount>,
    (how, turn): (&str, i64),
    now: Timestamp,
) -> rusqlite::Result<()> {
    if how == "accepted" {
        reopen(connection, key)?;
    }
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
        // No total is sent while an intent stands, so another turn's is a doubt that came up meanwhile: only reading
        // answers it. A user's share is simply sent again.
        let of_turn = (how == "accepted" && amount.user.is_empty()).then_some(turn);
        forget_intent(connection, key, &amount.component, &amount.user, of_turn)?;
    }
    settle(connection, key)
}

fn intend(
    connection: &Connection,
    key: StatementKey,
    amounts: Vec<Amount>,
    now: Timestamp,
    turn: i64,
) -> rusqlite::Result<()> {
    for amount in amounts {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO intent (resource, period, part, component, user, amount, at, turn)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                key.resource.to_string(),
                key.period.to_string(),
                micros(key.part),
                amount.component,
                amount.user,
                two_decimals(amount.amount),
                micros(now),
                turn
            ])?;
    }
    Ok(())
}

/// Forgets what was about to be sent, in this turn or (`None`) in any.
fn forget_intent(
    connection: &Connection,
    key: StatementKey,
    component: &str,
    user: &str,
    turn: Option<i64>,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM intent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5
             AND (?6 IS NULL OR turn = ?6)",
        )?
        .execute(params![
            key.resource.to_string(),
            key.period.to_string(),
            micros(key.part),
            component,
            user,
            turn
        ])?;
    Ok(())
}

/// Marks a statement as agreed if nothing of it is left to send. What is in trouble is not left to send; it shows.
pub(super) fn settle(connection: &Connection, key: StatementKey) -> rusqlite::Result<()> {
    forget_dropped(connection, key)?;
    let Some(statement) = statement(connection, key)? else { return Ok(()) };
    let waits = statement.components.values().chain(statement.users.values()).any(Entry::to_send);
    let agreed = if waits { statement.agreed.min(statement.revision - 1) } else { statement.revision };
    connection
        .prepare_cached("UPDATE statement SET agreed = ?4 WHERE resource = ?1 AND period = ?2 AND part = ?3")?
        .execute(params![key.resource.to_string(), key.period.to_string(), micros(key.part), agreed])?;
    Ok(())
}

/// What was dropped and has another amount now is as if it had never been.
fn forget_dropped(connection: &Connection, key: StatementKey) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM trouble WHERE resource = ?1 AND period = ?2 AND part = ?3 AND state = 'dropped'
             AND amount IS NOT (SELECT posted FROM line WHERE line.resource = trouble.resource
                AND line.period = trouble.period AND line.part = trouble.part
                AND line.component = trouble.component AND line.user = trouble.user)",
        )?
        .execute(params![key.resource.to_string(), key.period.to_string(), micros(key.part)])?;
    Ok(())
}

pub(super) fn statement(connection: &Connection, key: StatementKey) -> rusqlite::Result<Option<Statement>> {
    let columns = (key.resource.to_string(), key.period.to_string(), micros(key.part));
    let head = connection
        .prepare_cached(
            "SELECT revision, agreed, changed, closed FROM statement
             WHERE resource = ?1 AND period = ?2 AND part = ?3",
        )?
        .query_row(params![columns.0, columns.1, columns.2], |row| {
            let closed = row.get::<_, Option<i64>>(3)?.map(instant);
            Ok((row.get(0)?, row.get(1)?, instant(row.get(2)?), closed))
        })
        .optional()?;
    let Some((revision, agreed, changed, closed)) = head else { return Ok(None) };
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
        "SELECT component, user, amount FROM intent WHERE resource = ?1 AND period = ?2 AND part = ?3 ORDER BY at",
    )?;
    let mut rows = query.query(params![columns.0, columns.1, columns.2])?;
    while let Some(row) = rows.next()? {
        entries.entry((row.get(0)?, row.get(1)?)).or_default().intended = decimal(row.get(2)?);
    }
    let mut troubles = troubles(connection, &columns)?;
    // What was dropped is dropped at the amount that it had then.
    troubles.retain(|place, (trouble, amount)| {
        trouble.waits() || *amount == entries.get(place).and_then(|entry| entry.posted)
    });
    let of = |component: &str, user: &str| {
        troubles.get(&(component.to_owned(), user.to_owned())).map(|(trouble, _)| trouble)
    };
    for ((component, user), entry) in &mut entries {
        entry.trouble = of("", "").or(of(component, "")).or(of(component, user)).cloned();
    }
    let (components, users): (BTreeMap<_, _>, BTreeMap<_, _>) =
        entries.into_iter().partition(|((_, user), _)| user.is_empty());
    let components = components.into_iter().map(|((component, _), entry)| (component, entry)).collect();
    Ok(Some(Statement { key, revision, agreed, changed, closed, components, users }))
}

pub(super) fn decimal(text: Option<String>) -> Option<Decimal> {
    text.and_then(|text| text.parse().ok())
}
