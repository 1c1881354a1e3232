//! What is not sent, and why: held, parked and stranded things, and a person's decisions about them.
//!
//! The reasons are the submitter's (submitter/trouble.rs); here they are kept. Lifting a trouble makes its statement
//! pending again, and never changes a number.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::outbox::{StatementKey, decimal, key, settle};
use super::rows::uuid_column;
use super::statements::two_decimals;
use super::{Ledger, LedgerError, instant, micros};
use crate::metering::period::BillingPeriod;

/// Why something is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// held, parked or stranded; or dropped, by a person.
    pub state: String,
    pub reason: String,
    pub words: String,
    pub since: Timestamp,
}

/// The state of what a person gave up: it waits for nobody, and stands until its amount changes.
pub const DROPPED: &str = "dropped";

/// The reasons of what was left over when its month ended, and of what the server refused after that
/// (submitter/trouble.rs).
pub(super) const PERIOD_ENDED: &str = "period_ended";
pub(super) const LATE_REFUSED: &str = "late_refused";

impl Trouble {
    /// Whether it waits for a person or for a changed state.
    pub fn waits(&self) -> bool {
        self.state != DROPPED
    }

    /// Whether it is usage that only came too late for its month.
    pub(super) fn is_left_over(&self) -> bool {
        self.waits() && [PERIOD_ENDED, LATE_REFUSED].contains(&self.reason.as_str())
    }
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

impl Ledger {
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
    /// again. What a person dropped stays dropped. Returns how many.
    pub fn clear_trouble(&mut self, resource: Option<Uuid>, reasons: &[&str]) -> Result<usize, LedgerError> {
        let resource = resource.map(|uuid| uuid.to_string());
        let reasons = serde_json::to_string(reasons).unwrap_or_default();
        self.transact(|connection, _| {
            let chosen = "(?1 IS NULL OR resource = ?1) AND state <> 'dropped'
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
                .prepare_cached(
                    "SELECT DISTINCT resource FROM trouble WHERE reason = ? AND state <> 'dropped'",
                )?
                .query_map([reason], |row| uuid_column(row, 0))?
                .collect()
        })
    }

    /// Statements of months before this one of which something was left over when their month ended; `refused`: also those
    /// that the server refused to take after that.
    pub fn left_over(&self, before: BillingPeriod, refused: bool) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT resource, period, part FROM trouble
                     WHERE reason IN (?1, ?3) AND period < ?2 AND state <> 'dropped' ORDER BY resource, period, part",
                )?
                .query_map(
                    [PERIOD_ENDED, &before.to_string(), if refused { LATE_REFUSED } else { PERIOD_ENDED }],
                    |row| key(row, 0),
                )?
                .collect()
        })
    }

    /// Tries again what was left over of these statements when their month ended.
    pub fn lift_stranded(&mut self, keys: &[StatementKey]) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            for key in keys {
                connection
                    .prepare_cached(
                        "DELETE FROM trouble WHERE resource = ?1 AND period = ?2 AND part = ?3 AND reason = ?4
                         AND state <> 'dropped'",
                    )?
                    .execute(params![
                        key.resource.to_string(),
                        key.period.to_string(),
                        micros(key.part),
                        PERIOD_ENDED
                    ])?;
                settle(connection, *key)?;
            }
            Ok(())
        })
    }

    /// Takes back what a person dropped of a resource: it is tried again. Returns how many things.
    pub fn pick_up_dropped(&mut self, resource: Uuid) -> Result<usize, LedgerError> {
        self.transact(|connection, _| {
            connection.execute(
                "UPDATE statement SET agreed = min(agreed, revision - 1) WHERE resource = ?1 AND EXISTS (
                    SELECT 1 FROM trouble WHERE trouble.resource = statement.resource AND state = 'dropped'
                    AND trouble.period = statement.period AND trouble.part = statement.part)",
                [resource.to_string()],
            )?;
            connection.execute(
                "DELETE FROM trouble WHERE resource = ?1 AND state = 'dropped'",
                [resource.to_string()],
            )
        })
    }

    /// A person gives up what is kept back for these reasons (of a resource; of one of its months, components or users,
    /// if named): it stays recorded as dropped, and is not sent until its amount changes. Returns how many.
    pub fn drop_trouble(&mut self, dropped: &Dropped, reasons: &[&str]) -> Result<usize, LedgerError> {
        let reasons = serde_json::to_string(reasons).unwrap_or_default();
        self.transact(|connection, _| {
            let chosen: Vec<(String, i64, [String; 3])> = connection
                .prepare_cached(
                    "SELECT period, part, component, user, reason FROM trouble
                     WHERE resource = ?1 AND (?2 IS NULL OR period = ?2) AND (?3 IS NULL OR component IN ('', ?3))
                     AND (?4 IS NULL OR user = ?4) AND state <> 'dropped'
                     AND reason IN (SELECT value FROM json_each(?5))",
                )?
                .query_map(
                    params![
                        dropped.resource.to_string(),
                        dropped.period.map(|period| period.to_string()),
                        dropped.component,
                        dropped.user,
                        reasons
                    ],
                    |row| Ok((row.get(0)?, row.get(1)?, [row.get(2)?, row.get(3)?, row.get(4)?])),
                )?
                .collect::<rusqlite::Result<_>>()?;
            let mut done = 0;
            for (period, part, what) in chosen {
                done += drop_one(connection, dropped, (&period, part), &what)?;
                let Ok(period) = period.parse() else { continue };
                settle(connection, StatementKey { resource: dropped.resource, period, part: instant(part) })?;
            }
            Ok(done)
        })
    }

    /// A person decided what is to become of the months that this resource is held for.
    pub fn decide(
        &mut self,
        resource: Uuid,
        reason: &str,
        decision: Decision,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let (uuid, cause) = (resource.to_string(), reason.to_owned());
        let (name, balance_at) = match decision {
            Decision::Overwrite => ("overwrite", None),
            Decision::Adopt { at } => ("adopt", at.map(micros)),
        };
        self.transact(|connection, _| {
            connection.execute(
                "INSERT OR REPLACE INTO decision (resource, period, decision, at, balance_at)
                 SELECT DISTINCT resource, period, ?4, ?3, ?5 FROM trouble WHERE resource = ?1 AND reason = ?2",
                params![uuid, cause, micros(now), name, balance_at],
            )?;
            Ok(())
        })?;
        self.clear_trouble(Some(resource), &[reason])?;
        Ok(())
    }

    /// What a person decided of this resource and month, and when.
    pub fn decided(&self, key: StatementKey) -> Result<Option<(Decision, Timestamp)>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT decision, balance_at, at FROM decision WHERE resource = ?1 AND period = ?2",
                )?
                .query_row(params![key.resource.to_string(), key.period.to_string()], |row| {
                    let decision = match row.get::<_, String>(0)?.as_str() {
                        "adopt" => Decision::Adopt { at: row.get::<_, Option<i64>>(1)?.map(instant) },
                        _ => Decision::Overwrite,
                    };
                    Ok((decision, instant(row.get(2)?)))
                })
                .optional()
        })
    }
}

/// A person's decision about a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Waldur is to agree with the ledger.
    Overwrite,
    /// What Waldur holds is the opening balance: of this instant, or of the row's own.
    Adopt { at: Option<Timestamp> },
}

/// What a person gives up: all that is kept back of a resource, or less.
#[derive(Debug, Clone)]
pub struct Dropped {
    pub resource: Uuid,
    pub period: Option<BillingPeriod>,
    pub component: Option<String>,
    pub user: Option<String>,
}

/// Drops one thing at the amount that it has now. What keeps back a whole statement is dropped component by component,
/// so that each comes back when its own amount changes.
fn drop_one(
    connection: &Connection,
    dropped: &Dropped,
    (period, part): (&str, i64),
    [component, user, reason]: &[String; 3],
) -> rusqlite::Result<usize> {
    let resource = dropped.resource.to_string();
    if component.is_empty() {
        connection.execute(
            "INSERT OR IGNORE INTO trouble (resource, period, part, component, user, state, reason, words, since)
             SELECT line.resource, line.period, line.part, line.component, '', state, reason, words, since
             FROM line JOIN trouble USING (resource, period, part)
             WHERE line.resource = ?1 AND period = ?2 AND part = ?3 AND line.user = '' AND trouble.component = ''",
            params![resource, period, part],
        )?;
        connection.execute(
            "DELETE FROM trouble WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ''",
            params![resource, period, part],
        )?;
    }
    let own = Some(component.as_str()).filter(|component| !component.is_empty());
    let chosen = dropped.component.as_deref().or(own);
    connection.execute(
        "UPDATE trouble SET state = 'dropped', amount = (
            SELECT posted FROM line WHERE line.resource = trouble.resource AND line.period = trouble.period
            AND line.part = trouble.part AND line.component = trouble.component AND line.user = trouble.user)
         WHERE resource = ?1 AND period = ?2 AND part = ?3 AND (?4 IS NULL OR component = ?4) AND user = ?5
         AND component <> '' AND state <> 'dropped' AND reason = ?6",
        params![resource, period, part, chosen, user, reason],
    )
}

/// By component and user, with the amount that each is about.
pub(super) type Troubles = BTreeMap<(String, String), (Trouble, Option<Decimal>)>;

pub(super) fn troubles(
    connection: &Connection,
    (resource, period, part): &(String, String, i64),
) -> rusqlite::Result<Troubles> {
    connection
        .prepare_cached(
            "SELECT component, user, state, reason, words, since, amount FROM trouble
             WHERE resource = ?1 AND period = ?2 AND part = ?3",
        )?
        .query_map(params![resource, period, part], |row| {
            let trouble = Trouble {
                state: row.get(2)?,
                reason: row.get(3)?,
                words: row.get(4)?,
                since: instant(row.get(5)?),
            };
            Ok(((row.get(0)?, row.get(1)?), (trouble, decimal(row.get(6)?))))
        })?
        .collect()
}
