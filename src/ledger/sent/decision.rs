//! What a person, or `on_conflict`, decided about what another writer or earlier rules have put on the bill. It is carried out
//! by the submitter; nothing here talks to the server.

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::amount::{StatementKey, key};
use crate::ledger::books::freed::free;
use crate::ledger::books::unstated::all_of_month;
use crate::ledger::db::columns::{decimal, instant, micros, two_decimals};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// A person's decision about what another writer, or earlier rules, have put on the bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Waldur is to agree with the ledger.
    Overwrite,
    /// What Waldur holds is the opening balance: of this instant, or of the row's own.
    Adopt { at: Option<Timestamp> },
}

/// A decision about one component of one month, in the part that one plan period covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub period: BillingPeriod,
    pub component: String,
    pub decision: Decision,
    /// What the server held when it was made.
    pub held: Option<Decimal>,
    pub at: Timestamp,
    /// Made by `on_conflict`.
    pub by_itself: bool,
    /// It is about a limit, not about another writer.
    pub for_limit: bool,
}

/// The reasons that a decision is about (submitter/reason.rs).
const CONFLICT: &str = "conflict";
const UNADOPTABLE: &str = "conflict_overwrite";
const SHARES: &str = "conflict_shares";
const LIMIT: &str = "limit";

impl Ledger {
    /// A person decided what is to become of the components of a resource that are in conflict, or that changed rules have
    /// left on the bill. Returns the components and months, each with what the server holds.
    pub fn decide(
        &mut self,
        resource: Uuid,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Vec<Decided>, LedgerError> {
        self.transact(|connection, _| decide(connection, resource, decision, now))
    }

    /// What was decided of a component's month.
    pub fn decided(&self, key: StatementKey, component: &str) -> Result<Option<Decided>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT decision, balance_at, at, held, by_itself, for_limit FROM decision
                     WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4",
                )?
                .query_row(
                    params![key.resource.to_string(), key.period.to_string(), micros(key.part), component],
                    |row| {
                        let decision = match row.get_ref(0)?.as_str()? {
                            "adopt" => Decision::Adopt { at: row.get::<_, Option<i64>>(1)?.map(instant) },
                            _ => Decision::Overwrite,
                        };
                        Ok(Decided {
                            period: key.period,
                            component: component.to_owned(),
                            decision,
                            held: decimal(row.get(3)?),
                            at: instant(row.get(2)?),
                            by_itself: row.get(4)?,
                            for_limit: row.get(5)?,
                        })
                    },
                )
                .optional()
        })
    }

    /// What the server was known to hold of a component's total since an instant, in order.
    pub fn held_since(
        &self,
        key: StatementKey,
        component: &str,
        since: Timestamp,
    ) -> Result<Vec<Decimal>, LedgerError> {
        self.look(|connection| {
            let amounts: Vec<String> = connection
                .prepare_cached(
                    "SELECT amount FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
                     AND username = '' AND outcome IN ('accepted', 'read') AND at >= ?5 ORDER BY id",
                )?
                .query_map(
                    params![
                        key.resource.to_string(),
                        key.period.to_string(),
                        micros(key.part),
                        component,
                        micros(since)
                    ],
                    |row| row.get(0),
                )?
                .collect::<sql::Result<_>>()?;
            Ok(amounts.into_iter().filter_map(|amount| decimal(Some(amount))).collect())
        })
    }

    /// When a person last decided about something of a month.
    pub fn last_decided(&self, period: BillingPeriod) -> Result<Option<Timestamp>, LedgerError> {
        self.look(|connection| {
            let at: Option<i64> = connection
                .prepare_cached("SELECT max(at) FROM decision WHERE period = ?1 AND by_itself = 0")?
                .query_row([period.to_string()], |row| row.get(0))?;
            Ok(at.map(instant))
        })
    }

    /// Notes that `on_conflict` has decided by itself.
    pub fn decided_by_itself(
        &mut self,
        key: StatementKey,
        component: &str,
        held: Decimal,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            insert_decision(connection, (key, component), Decision::Overwrite, (Some(held), true, false), now)
        })
    }
}

fn decide(
    connection: &Connection,
    resource: Uuid,
    decision: Decision,
    now: Timestamp,
) -> sql::Result<Vec<Decided>> {
    let resource = resource.to_string();
    // Each part of a month has a number of its own.
    let concerned: Vec<(StatementKey, String, Option<String>, Option<bool>)> = connection
        .prepare_cached(
            "SELECT resource, period, part, component, amount, CASE WHEN reason = ?3 THEN 1 ELSE 0 END FROM blocked
             WHERE resource = ?1 AND username = '' AND reason IN (?2, ?3, ?4, ?5)
             UNION ALL SELECT resource, period, part, component, NULL, NULL FROM line
             WHERE resource = ?1 AND held IS NOT NULL AND NOT EXISTS (
                SELECT 1 FROM blocked WHERE blocked.resource = line.resource AND blocked.period = line.period
                AND blocked.part = line.part AND blocked.component = line.component AND blocked.username = ''
                AND blocked.reason IN (?2, ?3, ?4, ?5))
             ORDER BY 2, 3, 4",
        )?
        .query_map(params![resource, CONFLICT, LIMIT, UNADOPTABLE, SHARES], |row| {
            Ok((key(row, 0)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })?
        .collect::<sql::Result<_>>()?;
    let mut decided = Vec::new();
    for (key, component, held, for_limit) in concerned {
        // What the books hold, and what a limit does, is about what was accepted.
        let held = match for_limit {
            Some(false) => decimal(held),
            Some(true) | None => accepted(connection, key, &component)?,
        };
        let for_limit = for_limit == Some(true);
        let period = key.period.to_string();
        insert_decision(connection, (key, &component), decision, (held, false, for_limit), now)?;
        free_held(connection, (&resource, &period, &component), now)?;
        let about = About { resource: &resource, period: &period, component: &component };
        let name = match decision {
            Decision::Overwrite => "is to be overwritten",
            Decision::Adopt { .. } => "is to be adopted",
        };
        let shown = held.map_or_else(|| "what Waldur holds".to_owned(), |held| format!("Waldur's {held:.2}"));
        tell(connection, about, EventKind::Writer, &format!("a person decided: {shown} {name}"), now)?;
        connection.execute(
            "DELETE FROM blocked WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND reason IN (?5, ?6, ?7, ?8)",
            params![resource, period, micros(key.part), component, CONFLICT, LIMIT, UNADOPTABLE, SHARES],
        )?;
        // Also of a month that was closed: it is looked at again, whichever it is, and the decision carried out.
        connection
            .prepare_cached(
                "UPDATE statement SET closed = NULL WHERE resource = ?1 AND period = ?2 AND closed IS NOT NULL
                 AND EXISTS (SELECT 1 FROM line WHERE line.resource = statement.resource AND line.period = statement.period
                    AND line.part = statement.part AND line.component = ?3)",
            )?
            .execute(params![resource, period, component])?;
        // What was held because of this component may be another resource's, too.
        all_of_month(connection, None, &period)?;
        let period = key.period;
        decided.push(Decided { period, component, decision, held, at: now, by_itself: false, for_limit });
    }
    Ok(decided)
}

/// What changed rules hold of a component is decided, for just the reasons that it is held for.
fn free_held(connection: &Connection, of: (&str, &str, &str), now: Timestamp) -> sql::Result<()> {
    let reasons: Vec<String> = connection
        .prepare_cached(
            "SELECT DISTINCT held FROM line
             WHERE resource = ?1 AND period = ?2 AND component = ?3 AND held IS NOT NULL",
        )?
        .query_map([of.0, of.1, of.2], |row| row.get(0))?
        .collect::<sql::Result<_>>()?;
    reasons.iter().try_for_each(|reason| free(connection, of, reason, now))
}

/// What the server accepted last of a component.
fn accepted(connection: &Connection, key: StatementKey, component: &str) -> sql::Result<Option<Decimal>> {
    let amount: Option<String> = connection
        .prepare_cached(
            "SELECT amount FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND username = ''
             AND current = 1 AND outcome IN ('accepted', 'read') ORDER BY id DESC LIMIT 1",
        )?
        .query_row(
            params![key.resource.to_string(), key.period.to_string(), micros(key.part), component],
            |row| row.get(0),
        )
        .optional()?;
    Ok(decimal(amount))
}

fn insert_decision(
    connection: &Connection,
    (key, component): (StatementKey, &str),
    decision: Decision,
    (held, by_itself, for_limit): (Option<Decimal>, bool, bool),
    now: Timestamp,
) -> sql::Result<()> {
    let (name, balance_at) = match decision {
        Decision::Overwrite => ("overwrite", None),
        Decision::Adopt { at } => ("adopt", at.map(micros)),
    };
    connection
        .prepare_cached(
            "INSERT INTO decision (resource, period, part, component, decision, held, at, balance_at, by_itself, for_limit)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (resource, period, part, component) DO UPDATE SET decision = ?5, held = ?6, at = ?7,
                balance_at = ?8, by_itself = ?9, for_limit = ?10",
        )?
        .execute(params![
            key.resource.to_string(),
            key.period.to_string(),
            micros(key.part),
            component,
            name,
            held.map(two_decimals),
            micros(now),
            balance_at,
            by_itself,
            for_limit
        ])?;
    Ok(())
}
