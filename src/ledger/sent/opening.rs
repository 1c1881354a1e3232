//! Opening balances: what the server held when the agent took over from another writer (law 8).
//!
//! One cuts its component's time at its instant: what was metered before is not counted again. Whether one is recorded is
//! the submitter's and a person's to say.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::amount::{Amount, StatementKey};
use super::rows::note_read;
use super::statement::Statement;
use crate::ledger::books::adjustment::part_of;
use crate::ledger::books::catalog::recount_resource;
use crate::ledger::books::cuts::plans;
use crate::ledger::books::sourced_meters::meters_of;
use crate::ledger::books::statements::state_all;
use crate::ledger::books::unstated::changed_components;
use crate::ledger::db::columns::{decimal, decimal_column, instant, micros, two_decimals};
use crate::ledger::db::sql::{self, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::adjustment::{Onward, onward};
use crate::metering::period::BillingPeriod;

/// A recorded opening balance, as `status` and `explain` show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpeningBalance {
    pub component: String,
    /// '' is the total.
    pub user: String,
    pub amount: Decimal,
    pub at: Timestamp,
    /// Where it comes from.
    pub words: String,
    pub recorded: Timestamp,
}

/// What the server held of a component at an instant, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub component: String,
    pub at: Timestamp,
    pub total: Decimal,
    pub users: BTreeMap<String, Decimal>,
    pub words: String,
    /// This token's own user wrote it: then it has all that was carried to the month, also where the ledger was put back since.
    pub ours: bool,
}

impl Ledger {
    /// The opening balances of a resource's month.
    pub fn openings(
        &self,
        resource: Uuid,
        period: BillingPeriod,
    ) -> Result<Vec<OpeningBalance>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT component, username, amount, at, words, recorded FROM opening
                     WHERE resource = ?1 AND period = ?2 ORDER BY component, at, username",
                )?
                .query_map(params![resource.to_string(), period.to_string()], |row| {
                    Ok(OpeningBalance {
                        component: row.get(0)?,
                        user: row.get(1)?,
                        amount: decimal(row.get(2)?).unwrap_or_default(),
                        at: instant(row.get(3)?),
                        words: row.get(4)?,
                        recorded: instant(row.get(5)?),
                    })
                })?
                .collect()
        })
    }

    /// When the opening balance of this component in this month was recorded, if there is one.
    pub fn opened(&self, key: StatementKey, component: &str) -> Result<Option<Timestamp>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT recorded FROM opening WHERE resource = ?1 AND period = ?2 AND component = ?3 AND username = ''",
                )?
                .query_row(params![key.resource.to_string(), key.period.to_string(), component], |row| {
                    row.get(0).map(instant)
                })
                .optional()
        })
    }

    /// Why a component can't be adopted, if it can't.
    pub fn can_open(
        &self,
        key: StatementKey,
        component: &str,
    ) -> Result<Result<(), &'static str>, LedgerError> {
        Ok(self.goes_on(key, component)?.map(|_| ()))
    }

    /// How a component goes on from an opening balance; why it can't, if it can't.
    pub fn goes_on(
        &self,
        key: StatementKey,
        component: &str,
    ) -> Result<Result<Onward, &'static str>, LedgerError> {
        let version = self.in_force.in_month(key.period);
        self.look(|connection| {
            let makers = meters_of(connection, version, component)?;
            let makers = makers.of(connection, &key.resource.to_string())?;
            Ok(onward(makers.iter().map(|maker| maker.measure)))
        })
    }

    /// Whether the users' parts of a component are parts of its total.
    pub fn adds_up(&self, key: StatementKey, component: &str) -> Result<bool, LedgerError> {
        let version = self.in_force.in_month(key.period);
        self.look(|connection| {
            let makers = meters_of(connection, version, component)?;
            let makers = makers.of(connection, &key.resource.to_string())?;
            Ok(makers.iter().all(|maker| maker.measure.adds_up()))
        })
    }

    /// What the statement would be if this were its opening balance; nothing is kept.
    pub fn rehearse_adopting(
        &mut self,
        key: StatementKey,
        opening: Opening,
        now: Timestamp,
    ) -> Result<Option<Statement>, LedgerError> {
        self.rehearse(|ledger| {
            ledger.adopt(key, opening, now)?;
            ledger.statement(key)
        })
    }

    /// Records what the server held as the opening balance of a part, in place of an earlier one, and that the server is
    /// known to hold it. The month of the resource is counted again, because its time is cut anew.
    pub fn adopt(&mut self, key: StatementKey, opening: Opening, now: Timestamp) -> Result<(), LedgerError> {
        self.transact_in_turn(|connection, in_force, turn| {
            let (resource, period) = (key.resource.to_string(), key.period.to_string());
            let timeline = plans(connection, &in_force.zone, &resource)?;
            let component = &opening.component;
            let earlier: Vec<i64> = connection
                .prepare_cached(
                    "SELECT DISTINCT at FROM opening WHERE resource = ?1 AND period = ?2 AND component = ?3",
                )?
                .query_map(params![resource, period, component], |row| row.get(0))?
                .collect::<sql::Result<_>>()?;
            for at in earlier {
                if part_of(&timeline, key.period, instant(at)) == micros(key.part) {
                    connection.execute(
                        "DELETE FROM opening WHERE resource = ?1 AND period = ?2 AND component = ?3 AND at = ?4",
                        params![resource, period, component, at],
                    )?;
                }
            }
            // What was carried to this part stays a row of its own, so that it is once in the amount.
            let mut carried: BTreeMap<String, Decimal> = BTreeMap::new();
            {
                // Another writer's number has what of it was reported before, if it goes on from that.
                let reported: Option<i64> = connection
                    .prepare_cached(
                        "SELECT max(at) FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
                         AND username = '' AND outcome = 'accepted'",
                    )?
                    .query_row(params![resource, period, micros(key.part), component], |row| row.get(0))?;
                let mut query = connection.prepare_cached(
                    "SELECT username, to_part, amount, since FROM moved
                     WHERE resource = ?1 AND component = ?2 AND to_period = ?3",
                )?;
                let mut rows = query.query(params![resource, component, period])?;
                while let Some(row) = rows.next()? {
                    let here = part_of(&timeline, key.period, instant(row.get(1)?)) == micros(key.part);
                    let since: i64 = row.get(3)?;
                    if here && reported.is_some_and(|at| opening.ours || since <= at) {
                        *carried.entry(row.get(0)?).or_default() += decimal_column(&row, 2)?;
                    }
                }
            }
            let words = if carried.is_empty() {
                opening.words.clone()
            } else {
                format!("{}; less what was carried forward to this month and reported before", opening.words)
            };
            let total = (String::new(), opening.total);
            let held: Vec<(String, Decimal)> =
                std::iter::once(total).chain(opening.users.iter().map(|(user, amount)| (user.clone(), *amount))).collect();
            for (user, amount) in &held {
                let balance = *amount - carried.get(user).copied().unwrap_or_default();
                connection
                    .prepare_cached(
                        "INSERT INTO opening (resource, component, username, period, at, amount, words, recorded)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                         ON CONFLICT (resource, component, username, period, at)
                         DO UPDATE SET amount = ?6, words = ?7, recorded = ?8",
                    )?
                    .execute(params![
                        resource,
                        component,
                        user,
                        period,
                        micros(opening.at),
                        two_decimals(balance),
                        words,
                        micros(now)
                    ])?;
            }
            recount_resource(connection, in_force, &resource, Some(key.period))?;
            // Where nothing was metered yet, no series asks for it.
            changed_components(connection, [(resource, period, component.clone())].into_iter().collect())?;
            state_all(connection, in_force, now)?;
            for (user, amount) in held {
                let amount = Amount { component: component.clone(), user, amount };
                note_read(connection, key, &amount, (&words, turn), now)?;
            }
            connection.execute(
                "DELETE FROM blocked WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4",
                params![key.resource.to_string(), key.period.to_string(), micros(key.part), component],
            )?;
            Ok(())
        })
    }
}
