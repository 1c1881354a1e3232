//! One record of what was sent, of what the server holds, and of how that is known.
//!
//! A number is written before it is sent (open), and that row takes the outcome: accepted, refused, or not there when it
//! was looked for. What is found in the server's rows stands beside it (read). What is pending is the difference between
//! lines and this record; it is never kept. Nothing here decides what to do about a difference; the submitter does.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::lock::is_current;
use crate::ledger::db::columns::{decimal, instant, micros, period_column, two_decimals, uuid_column};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, Row, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// Which statement: one resource, one billing period, and the part of it that one plan period covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementKey {
    pub resource: Uuid,
    pub period: BillingPeriod,
    /// The first instant of the part.
    pub part: Timestamp,
}

/// An amount of a component ('' as user) or of one of its users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    pub component: String,
    pub user: String,
    pub amount: Decimal,
}

/// What is about to be sent in one call.
#[derive(Debug, Clone, Copy)]
pub struct Intent<'a> {
    pub key: StatementKey,
    /// `set_usage`, `set_user_usage` or `set_user_usages`.
    pub call: &'a str,
    pub amounts: &'a [Amount],
    /// The shares that belong to these totals.
    pub planned: &'a [Amount],
    /// The last run that is counted in the totals.
    pub counted: i64,
}

/// What the server is known to hold, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    pub id: i64,
    pub amount: Decimal,
    /// `accepted` or `read`.
    pub how: String,
    pub at: Timestamp,
    /// The last run that is counted in it; 0 where it was found in the server's rows.
    pub counted: i64,
}

/// A number that was sent and whose outcome is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub id: i64,
    pub amount: Decimal,
    pub at: Timestamp,
}

/// What is known of one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) acknowledged: Option<Acknowledged>,
    pub(super) open: Vec<Open>,
    /// A share that belongs to the total that was sent last.
    pub(super) planned: Option<Decimal>,
}

impl Known {
    /// What of it is the server's: accepted, or still to be completed as part of what was.
    pub(super) fn held(&self) -> Decimal {
        let accepted = self.acknowledged.as_ref().map(|known| known.amount);
        self.planned.or(accepted).unwrap_or_default()
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    /// Certainly not applied.
    Refused,
    /// It may have been applied: to be looked for in the server's rows.
    Unknown,
}

/// One row of the record, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub at: Timestamp,
    pub resource: Uuid,
    pub period: BillingPeriod,
    /// `set_usage`, `set_user_usage`, `set_user_usages` or `read`.
    pub call: String,
    /// What was sent, for people: `cpu_hours 0.03, ram_gb_hours 1.20`.
    pub amounts: String,
    /// `accepted`, `open`, `refused`, ...
    pub outcome: String,
    pub words: String,
}

impl Ledger {
    /// Writes down what is about to be sent, and the shares that belong to it; returns the numbers of what is sent.
    pub fn intend(&mut self, intent: Intent<'_>, now: Timestamp) -> Result<Vec<i64>, LedgerError> {
        let Intent { key, call, amounts, planned, counted } = intent;
        self.transact_in_turn(|connection, _, turn| {
            let row = |amount, outcome| New { key, amount, call, at: now, turn, outcome, words: "", counted };
            // What was planned with an earlier total of these components is not any more.
            for total in amounts.iter().filter(|amount| amount.user.is_empty()) {
                connection
                    .prepare_cached(
                        "UPDATE sent SET current = 0 WHERE resource = ?1 AND period = ?2 AND part = ?3
                         AND component = ?4 AND current = 1 AND outcome = 'planned'",
                    )?
                    .execute(params![
                        key.resource.to_string(),
                        key.period.to_string(),
                        micros(key.part),
                        total.component
                    ])?;
            }
            for amount in planned {
                insert(connection, row(amount, "planned"))?;
            }
            let mut ids = Vec::with_capacity(amounts.len());
            for amount in amounts {
                ids.push(insert(connection, row(amount, "open"))?);
            }
            Ok(ids)
        })
    }

    /// Notes what became of what was sent. Of a process whose turn is over, an acceptance is not believed but stays open: a
    /// later holder may have sent newer amounts before or since.
    pub fn conclude(
        &mut self,
        ids: &[i64],
        outcome: Outcome,
        words: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let turn = self.own_turn();
        let done = self.transact(|connection, _| {
            let current = is_current(connection, turn)?;
            let mut concluded = BTreeSet::new();
            for id in ids {
                let known = if current { outcome } else { Outcome::Unknown };
                concluded.insert(conclude(connection, *id, known, words, now)?);
                if !current && outcome == Outcome::Accepted {
                    // It landed after what was accepted since: whatever stands now is to be looked for.
                    put_last(connection, *id)?;
                }
            }
            for key in concluded.into_iter().filter(|_| current && outcome == Outcome::Accepted) {
                reopen(connection, key)?;
            }
            Ok(current.then_some(()))
        })?;
        self.in_turn(done)
    }

    /// Notes what the server's rows hold, where that is taken for what it should: our own number, or one that was decided
    /// upon.
    pub fn note_read(
        &mut self,
        key: StatementKey,
        amounts: &[Amount],
        words: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact_in_turn(|connection, _, turn| {
            for amount in amounts {
                note_read(connection, key, amount, (words, turn), now)?;
            }
            Ok(())
        })
    }

    /// Ends what is open: the server's row was read after the longest time that a call may take, or it is one of them
    /// (`there`) that the row holds.
    pub fn close_open(
        &mut self,
        open: &[i64],
        there: Option<i64>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact_in_turn(|connection, _, _| {
            for &id in open {
                if Some(id) == there {
                    let key =
                        conclude(connection, id, Outcome::Accepted, "found when it was looked for", now)?;
                    reopen(connection, key)?;
                } else {
                    connection
                        .prepare_cached("UPDATE sent SET outcome = 'not there', current = 0 WHERE id = ?")?
                        .execute([id])?;
                    let (key, component, user) = line_of(connection, id)?;
                    if user.is_empty() {
                        plan_as_before(connection, key, &component, id)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Whether the server has ever accepted a report of another resource.
    pub fn has_accepted_of_others(&self, resource: Uuid) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM sent WHERE outcome = 'accepted' AND resource <> ?1)",
                )?
                .query_row([resource.to_string()], |row| row.get(0))
        })
    }

    /// Whether this amount was ever sent for this month with an outcome that was not learnt at once.
    pub fn was_in_doubt(
        &self,
        key: StatementKey,
        component: &str,
        amount: Decimal,
    ) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT 1 FROM sent WHERE resource = ?1 AND period = ?2 AND component = ?3 AND username = ''
                     AND amount = ?4 AND (outcome IN ('open', 'not there') OR words <> '')",
                )?
                .exists(params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    component,
                    two_decimals(amount)
                ])
        })
    }

    /// The record of a resource's month, oldest first; what went in one call together.
    pub fn calls(&self, resource: Uuid, period: BillingPeriod) -> Result<Vec<Call>, LedgerError> {
        let rows: Vec<(i64, String, String, String, String, String, String)> = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT at, call, component, username, amount, outcome, words FROM sent
                     WHERE resource = ?1 AND period = ?2 AND outcome <> 'planned' ORDER BY id",
                )?
                .query_map(params![resource.to_string(), period.to_string()], |row| {
                    Ok((
                        row.get(0)?,
                        row.get(1)?,
                        row.get(2)?,
                        row.get(3)?,
                        row.get(4)?,
                        row.get(5)?,
                        row.get(6)?,
                    ))
                })?
                .collect()
        })?;
        let mut calls: Vec<Call> = Vec::new();
        for (at, call, component, user, amount, outcome, words) in rows {
            let shown = if user.is_empty() {
                format!("{component} {amount}")
            } else {
                format!("{component} of {user} {amount}")
            };
            let at = instant(at);
            match calls.last_mut() {
                Some(last)
                    if (last.at, &last.call, &last.outcome, &last.words) == (at, &call, &outcome, &words) =>
                {
                    last.amounts += &format!(", {shown}");
                }
                _ => calls.push(Call { at, resource, period, call, amounts: shown, outcome, words }),
            }
        }
        Ok(calls)
    }
}

/// A new row of the record.
struct New<'a> {
    key: StatementKey,
    amount: &'a Amount,
    call: &'a str,
    at: Timestamp,
    turn: i64,
    outcome: &'a str,
    words: &'a str,
    counted: i64,
}

fn insert(connection: &Connection, new: New<'_>) -> sql::Result<i64> {
    connection
        .prepare_cached(
            "INSERT INTO sent (resource, period, part, component, username, amount, call, at, turn, outcome, words,
                current, counted)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 1, ?12)
             RETURNING id",
        )?
        .query_row(params![
            new.key.resource.to_string(),
            new.key.period.to_string(),
            micros(new.key.part),
            new.amount.component,
            new.amount.user,
            two_decimals(new.amount.amount),
            new.call,
            micros(new.at),
            new.turn,
            new.outcome,
            new.words,
            new.counted
        ], |row| row.get(0))
}

/// Makes a row the last of the record.
fn put_last(connection: &Connection, id: i64) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO sent (resource, period, part, component, username, amount, call, at, turn, outcome, words,
                current, counted)
             SELECT resource, period, part, component, username, amount, call, at, turn, outcome, words, current, counted
             FROM sent WHERE id = ?",
        )?
        .execute([id])?;
    connection.prepare_cached("DELETE FROM sent WHERE id = ?")?.execute([id])?;
    Ok(())
}

/// Another row takes the place of what was known of a line.
fn supersede(connection: &Connection, key: StatementKey, component: &str, user: &str) -> sql::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sent SET current = 0 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND username = ?5 AND current = 1 AND outcome IN ('accepted', 'read')",
        )?
        .execute(params![
            key.resource.to_string(),
            key.period.to_string(),
            micros(key.part),
            component,
            user
        ])?;
    Ok(())
}

/// Notes what became of one number; returns whose it is.
fn conclude(
    connection: &Connection,
    id: i64,
    outcome: Outcome,
    words: &str,
    now: Timestamp,
) -> sql::Result<StatementKey> {
    let (key, component, user) = line_of(connection, id)?;
    let (outcome, current) = match outcome {
        Outcome::Accepted => ("accepted", true),
        Outcome::Refused => ("refused", false),
        Outcome::Unknown => ("open", true),
    };
    match outcome {
        "accepted" if user.is_empty() => supersede(connection, key, &component, &user)?,
        // A share is replaced by name, so that one is as good as another; and what was planned is done.
        "accepted" => {
            connection
                .prepare_cached(
                    "UPDATE sent SET current = 0 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
                     AND username = ?5 AND current = 1 AND id <> ?6",
                )?
                .execute(params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    micros(key.part),
                    component,
                    user,
                    id
                ])?;
        }
        _ => {}
    }
    if outcome == "refused" && user.is_empty() {
        plan_as_before(connection, key, &component, id)?;
    }
    connection
        .prepare_cached("UPDATE sent SET outcome = ?2, words = ?3, current = ?4, at = CASE WHEN ?6 = 1 THEN ?5 ELSE at END WHERE id = ?1")?
        .execute(params![id, outcome, words, current, micros(now), outcome == "accepted"])?;
    Ok(key)
}

fn line_of(connection: &Connection, id: i64) -> sql::Result<(StatementKey, String, String)> {
    connection
        .prepare_cached("SELECT resource, period, part, component, username FROM sent WHERE id = ?")?
        .query_row([id], |row| Ok((key(row, 0)?, row.get(3)?, row.get(4)?)))
}

/// A total was not taken: the shares that belong to it are not planned, and those of the total that was accepted before are
/// again, as far as they are not there yet.
fn plan_as_before(
    connection: &Connection,
    key: StatementKey,
    component: &str,
    refused: i64,
) -> sql::Result<()> {
    let (resource, period, part) = (key.resource.to_string(), key.period.to_string(), micros(key.part));
    connection
        .prepare_cached(
            "UPDATE sent SET current = 0 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND outcome = 'planned' AND current = 1 AND id < ?5",
        )?
        .execute(params![resource, period, part, component, refused])?;
    let accepted: Option<i64> = connection
        .prepare_cached(
            "SELECT max(id) FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND username = ''
             AND outcome = 'accepted'",
        )?
        .query_row(params![resource, period, part, component], |row| row.get(0))?;
    let Some(accepted) = accepted.filter(|accepted| *accepted < refused) else { return Ok(()) };
    connection
        .prepare_cached(
            "UPDATE sent SET current = 1 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND outcome = 'planned' AND id < ?5
             AND id > (SELECT coalesce(max(id), 0) FROM sent before WHERE before.resource = ?1 AND before.period = ?2
                AND before.part = ?3 AND before.component = ?4 AND before.username = '' AND before.id < ?5)
             AND NOT EXISTS (SELECT 1 FROM sent done WHERE done.resource = ?1 AND done.period = ?2 AND done.part = ?3
                AND done.component = ?4 AND done.username = sent.username AND done.outcome = 'accepted' AND done.id > sent.id)",
        )?
        .execute(params![resource, period, part, component, accepted])?;
    Ok(())
}

pub(super) fn note_read(
    connection: &Connection,
    key: StatementKey,
    amount: &Amount,
    (words, turn): (&str, i64),
    now: Timestamp,
) -> sql::Result<()> {
    supersede(connection, key, &amount.component, &amount.user)?;
    // Where it is what is stated, it has what that has.
    let counted = connection
        .prepare_cached(
            "SELECT statement.counted FROM statement JOIN line ON line.resource = statement.resource
                AND line.period = statement.period AND line.part = statement.part
             WHERE statement.resource = ?1 AND statement.period = ?2 AND statement.part = ?3 AND line.component = ?4
                AND line.username = ?5 AND line.posted = ?6",
        )?
        .query_row(
            params![
                key.resource.to_string(),
                key.period.to_string(),
                micros(key.part),
                amount.component,
                amount.user,
                two_decimals(amount.amount)
            ],
            |row| row.get(0),
        )
        .optional()?
        .unwrap_or(0);
    insert(connection, New { key, amount, call: "read", at: now, turn, outcome: "read", words, counted })?;
    Ok(())
}

/// Something was posted again, so it is to be read back again.
fn reopen(connection: &Connection, key: StatementKey) -> sql::Result<()> {
    connection
        .prepare_cached(
            "UPDATE statement SET closed = NULL
             WHERE resource = ?1 AND period = ?2 AND part = ?3 AND closed IS NOT NULL",
        )?
        .execute(params![key.resource.to_string(), key.period.to_string(), micros(key.part)])?;
    Ok(())
}

/// A plan was switched before it was known: what was reported since then, as a total of the whole part, the server has filed
/// under the new plan period. It is our own number, to be corrected there, and says nothing of the old one. Where it was
/// filed of a report that was under way then (`doubtful` to `since`), only the rows tell.
pub(in crate::ledger) fn file_under_new_part(
    connection: &Connection,
    resource: &str,
    period: &str,
    (old, new): (i64, i64),
    (doubtful, since): (i64, i64),
) -> sql::Result<()> {
    connection.execute(
        "INSERT INTO sent (resource, period, part, component, username, amount, call, at, turn, outcome, words,
            current, counted)
         SELECT resource, period, ?4, component, username, amount, call, at, turn, 'open', words, 1, counted FROM sent
         WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?5 AND at <= ?6 AND username = ''
           AND outcome IN ('open', 'accepted')",
        params![resource, period, old, new, doubtful, since],
    )?;
    connection.execute(
        "UPDATE sent SET outcome = 'open', current = 1
         WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?4 AND at <= ?5 AND username = ''
           AND outcome = 'accepted'",
        params![resource, period, old, doubtful, since],
    )?;
    connection.execute(
        "UPDATE sent SET part = ?4 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?5",
        params![resource, period, old, new, since],
    )?;
    // What is left of the old part is what was known of it before.
    connection.execute(
        "UPDATE sent SET current = 1 WHERE id IN (
            SELECT max(id) FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND outcome IN ('accepted', 'read')
            GROUP BY component, username)",
        params![resource, period, old],
    )?;
    connection.execute(
        "INSERT INTO statement (resource, period, part, changed) VALUES (?1, ?2, ?3, ?3)
         ON CONFLICT (resource, period, part) DO NOTHING",
        params![resource, period, new],
    )?;
    connection
        .execute("DELETE FROM usage_row WHERE resource = ?1 AND period = ?2", params![resource, period])?;
    Ok(())
}

/// Which lines of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Whole,
    /// Not those of users.
    Totals,
}

/// Whether anything of the users of a statement was accepted or read.
pub(super) fn has_shares(connection: &Connection, key: StatementKey) -> sql::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND current = 1 AND username <> ''
             AND outcome IN ('accepted', 'read') LIMIT 1",
        )?
        .exists(params![key.resource.to_string(), key.period.to_string(), micros(key.part)])
}

/// What is known of the lines of a statement, by component and user.
pub(super) fn known(
    connection: &Connection,
    key: StatementKey,
    which: Scope,
) -> sql::Result<BTreeMap<(String, String), Known>> {
    let mut lines: BTreeMap<(String, String), Known> = BTreeMap::new();
    let mut query = connection.prepare_cached(match which {
        Scope::Whole => {
            "SELECT component, username, amount, outcome, at, id, counted FROM sent
             WHERE resource = ?1 AND period = ?2 AND part = ?3 AND current = 1 ORDER BY id"
        }
        Scope::Totals => {
            "SELECT component, username, amount, outcome, at, id, counted FROM sent
             WHERE resource = ?1 AND period = ?2 AND part = ?3 AND current = 1 AND username = '' ORDER BY id"
        }
    })?;
    let mut rows =
        query.query(params![key.resource.to_string(), key.period.to_string(), micros(key.part)])?;
    while let Some(row) = rows.next()? {
        let known = lines.entry((row.get(0)?, row.get(1)?)).or_default();
        let Some(amount) = decimal(row.get(2)?) else { continue };
        let at = instant(row.get(4)?);
        match row.get_ref(3)?.as_str()? {
            "open" => known.open.push(Open { id: row.get(5)?, amount, at }),
            "planned" => known.planned = Some(amount),
            how => {
                let (id, counted) = (row.get(5)?, row.get(6)?);
                known.acknowledged = Some(Acknowledged { id, amount, how: how.to_owned(), at, counted });
            }
        }
    }
    Ok(lines)
}

pub(in crate::ledger) fn key(row: &Row<'_>, first: usize) -> sql::Result<StatementKey> {
    Ok(StatementKey {
        resource: uuid_column(row, first)?,
        period: period_column(row, first + 1)?,
        part: instant(row.get(first + 2)?),
    })
}
