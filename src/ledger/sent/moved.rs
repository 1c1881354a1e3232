//! Differences of months that are over: what was used by the rules of a month, less what was accepted from us, in posted
//! cents (law 7). Carried forward, one is a row for both months: taken away in the part of the one that it was used in, added
//! in the other.
//!
//! It is worked out anew while the month that it goes to runs, and fixed when that ends. In that month never less than
//! nothing is posted, for the total and each user; what does not fit stays where it was. Whether anything is carried at all,
//! the submitter says.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::amount::{StatementKey, key};
use crate::ledger::books::statements::state_all;
use crate::ledger::db::columns::{decimal_column, instant, period_column};
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

mod carrying;

use carrying::{Carrying, Settled, Turn};

/// What is carried out of a component's month, and was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    pub resource: Uuid,
    pub from: BillingPeriod,
    pub component: String,
    pub before: Decimal,
    pub after: Decimal,
}

/// A difference that was moved between months, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub component: String,
    /// '' is the total.
    pub user: String,
    pub from: BillingPeriod,
    /// `None`: a person gave it up.
    pub to: Option<BillingPeriod>,
    pub amount: Decimal,
    pub recorded: Timestamp,
}

/// The reasons of what was left over when its month ended, of what the server refused after that, of what only the closing
/// itself left, and of what can't be changed any more where it was reported, because its plan period has ended
/// (submitter/reason.rs).
const LEFT_OVER: [&str; 5] = ["period_ended", "late_refused", "closing_rest", "late_share", PLAN_ENDED];
const PLAN_ENDED: &str = "plan_ended";

impl Ledger {
    /// What was moved from or to a resource's month.
    pub fn moved(&self, resource: Uuid, period: BillingPeriod) -> Result<Vec<Moved>, LedgerError> {
        let rows: Vec<Moved> = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT component, username, from_period, to_period, amount, recorded FROM moved
                     WHERE resource = ?1 AND (from_period = ?2 OR to_period = ?2)
                     ORDER BY component, from_period, to_period, username",
                )?
                .query_map(params![resource.to_string(), period.to_string()], |row| {
                    Ok(Moved {
                        component: row.get(0)?,
                        user: row.get(1)?,
                        from: period_column(row, 2)?,
                        to: row.get::<_, String>(3)?.parse().ok(),
                        amount: decimal_column(row, 4)?,
                        recorded: instant(row.get(5)?),
                    })
                })?
                .collect()
        })?;
        // Of the parts of a month together.
        let mut moved: Vec<Moved> = Vec::new();
        for row in rows {
            let of = |one: &Moved| (one.component.clone(), one.user.clone(), one.from, one.to);
            match moved.last_mut().filter(|last| of(last) == of(&row)) {
                Some(last) => {
                    last.amount += row.amount;
                    last.recorded = last.recorded.max(row.recorded);
                }
                None => moved.push(row),
            }
        }
        moved.retain(|moved| !moved.amount.is_zero());
        Ok(moved)
    }

    /// The parts of a month of which something was moved to a later one.
    pub fn moved_within(&self, period: BillingPeriod) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT resource, from_period, from_part FROM moved WHERE to_period = ?1 AND from_period = ?1",
                )?
                .query_map([period.to_string()], |row| key(row, 0))?
                .collect()
        })
    }

    /// Works out anew what is carried from months that are over to the part of the running month that holds `to`. With
    /// `new` unset, only what is carried already changes. Returns what changed, and keeps it if `write` is set.
    pub fn carry_forward(
        &mut self,
        to: Timestamp,
        how: (bool, bool),
        now: Timestamp,
    ) -> Result<Vec<Carried>, LedgerError> {
        self.carry_forward_but(&BTreeSet::new(), to, how, now)
    }

    /// The same of all resources but these.
    pub fn carry_forward_but(
        &mut self,
        but: &BTreeSet<Uuid>,
        to: Timestamp,
        (new, write): (bool, bool),
        now: Timestamp,
    ) -> Result<Vec<Carried>, LedgerError> {
        self.state(now)?;
        self.transact(|connection, in_force| {
            let mut changes = Vec::new();
            let mut candidates = candidates(connection, in_force.zone.period_of(to))?;
            candidates.retain(|(resource, _)| !but.contains(resource));
            let mut settled = BTreeSet::new();
            // What is taken back is taken last, from all that there is then; so the same facts always give the same rows.
            for turn in Turn::ALL {
                for &(resource, from) in &candidates {
                    let only_ours = false;
                    let carrying = Carrying { connection, in_force, resource, from, to, only_ours, turn };
                    changes.extend(carrying.work_out(&mut settled, (new, write), now)?);
                }
            }
            if write && !changes.is_empty() {
                state_all(connection, in_force, now)?;
            }
            Ok(changes)
        })
    }

    /// Moves what the parts of a month before this one came to since they were reported to this one, which a later plan
    /// period begins; with `new` unset, what is moved already, and what Waldur holds too much of. Returns what changed, and
    /// keeps it if `write` is set.
    pub fn move_to_later_part(
        &mut self,
        key: StatementKey,
        later: Timestamp,
        (new, write): (bool, bool),
        now: Timestamp,
    ) -> Result<Vec<Carried>, LedgerError> {
        self.state(now)?;
        self.transact(|connection, in_force| {
            let mut changes = Vec::new();
            for turn in Turn::ALL {
                let (resource, from) = (key.resource, key.period);
                let (to, only_ours) = (later, !new);
                let carrying = Carrying { connection, in_force, resource, from, to, only_ours, turn };
                let how = (new || turn == Turn::TakenBack, write);
                changes.extend(carrying.work_out(&mut Settled::new(), how, now)?);
            }
            if write && !changes.is_empty() {
                state_all(connection, in_force, now)?;
            }
            Ok(changes)
        })
    }
}

/// Months that are over and of which something is left over, or was carried: what has become too much since is taken back,
/// as soon as there is something that it can be taken from.
fn candidates(connection: &Connection, running: BillingPeriod) -> sql::Result<Vec<(Uuid, BillingPeriod)>> {
    let month = running.to_string();
    let mut found: Vec<(Uuid, BillingPeriod)> = connection
        .prepare_cached(
            "SELECT resource, from_period FROM moved WHERE from_period < ?1 AND to_period <> ''
             UNION SELECT resource, period FROM blocked WHERE period < ?1 AND reason IN (?2, ?3, ?4, ?5, ?6)
             UNION SELECT resource, period FROM statement WHERE period < ?1 AND closed IS NULL
                AND EXISTS (SELECT 1 FROM line WHERE line.resource = statement.resource
                    AND line.period = statement.period AND line.part = statement.part)",
        )?
        .query_map(
            params![month, LEFT_OVER[0], LEFT_OVER[1], LEFT_OVER[2], LEFT_OVER[3], LEFT_OVER[4]],
            |row| {
                let resource: String = row.get(0)?;
                Ok((Uuid::parse_str(&resource).unwrap_or_default(), period_column(row, 1)?))
            },
        )?
        .collect::<sql::Result<_>>()?;
    // In order here: asked for in order, all that was ever stated would be gone through.
    found.sort_unstable();
    Ok(found)
}
