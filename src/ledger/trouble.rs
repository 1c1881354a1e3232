//! What is not sent, and why: held, parked and stranded things, and a person's decisions about them.
//!
//! The reasons are the submitter's (submitter/trouble.rs); here they are kept. Lifting a trouble makes its statement
//! pending again, and never changes a number.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::outbox::{StatementKey, decimal, settle};
use super::rows::uuid_column;
use super::statements::two_decimals;
use super::{Ledger, LedgerError, instant, micros};

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
}

pub(super) fn troubles(
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
