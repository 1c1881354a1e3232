//! What was sent, of the record: a resource's calls for people, and the numbers that were accepted since a moment. It only
//! reads; what the record means is in sent/record.rs.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::ledger::db::columns::{decimal, instant, period_column, uuid_column};
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// One number that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub resource: Uuid,
    pub period: BillingPeriod,
    pub component: String,
    /// '' is the total.
    pub user: String,
    pub amount: Decimal,
    /// What Waldur was known to hold before.
    pub was: Option<Decimal>,
}

/// Which numbers of the record: after this one, in these turns of submission. Others may be at the same ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Since {
    pub after: i64,
    pub turns: BTreeSet<i64>,
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
    /// What this process sends from here on in the turn that it has.
    pub fn from_here(&self) -> Result<Since, LedgerError> {
        let after = self.look(|connection| {
            connection.query_row("SELECT coalesce(max(id), 0) FROM sent", [], |row| row.get(0))
        })?;
        Ok(Since { after, turns: BTreeSet::from([self.own_turn()]) })
    }

    /// Those that Waldur is known to have accepted, by resource in the order in which they were sent; at most so many.
    pub fn accepted(&self, since: &Since, most: Option<usize>) -> Result<Vec<Sent>, LedgerError> {
        let mut sent = Vec::new();
        for (resource, period, _) in self.accepted_months(since)? {
            if most.is_some_and(|most| sent.len() >= most) {
                break;
            }
            sent.extend(self.look(|connection| accepted_of(connection, (resource, period), since))?);
        }
        sent.truncate(most.unwrap_or(usize::MAX));
        Ok(sent)
    }

    /// How many those are, and of how many resources.
    pub fn count_accepted(&self, since: &Since) -> Result<(usize, usize), LedgerError> {
        let months = self.accepted_months(since)?;
        let resources: BTreeSet<Uuid> = months.iter().map(|(resource, ..)| *resource).collect();
        let numbers: i64 = months.iter().map(|(.., numbers)| numbers).sum();
        Ok((usize::try_from(numbers).unwrap_or(0), resources.len()))
    }

    /// The months of resources of which those are, and how many, in the order in which they were sent.
    fn accepted_months(&self, since: &Since) -> Result<Vec<(Uuid, BillingPeriod, i64)>, LedgerError> {
        let by_turn: Vec<(i64, (Uuid, BillingPeriod), i64)> = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT turn, resource, period, count(*) FROM sent
                     WHERE id > ?1 AND outcome = 'accepted' AND call <> 'read'
                     GROUP BY turn, resource, period ORDER BY min(id)",
                )?
                .query_map([since.after], |row| {
                    Ok((row.get(0)?, (uuid_column(row, 1)?, period_column(row, 2)?), row.get(3)?))
                })?
                .collect()
        })?;
        let mut months: Vec<(Uuid, BillingPeriod, i64)> = Vec::new();
        let mut places = HashMap::new();
        for (_, month, numbers) in by_turn.into_iter().filter(|(turn, ..)| since.turns.contains(turn)) {
            let place = *places.entry(month).or_insert(months.len());
            match months.get_mut(place) {
                Some(known) => known.2 += numbers,
                None => months.push((month.0, month.1, numbers)),
            }
        }
        Ok(months)
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

/// What of a resource's month was accepted, each with what was known before.
fn accepted_of(
    connection: &Connection,
    (resource, period): (Uuid, BillingPeriod),
    since: &Since,
) -> sql::Result<Vec<Sent>> {
    let mut sent = Vec::new();
    let mut known: HashMap<(i64, String, String), Decimal> = HashMap::new();
    let mut query = connection.prepare_cached(
        "SELECT id, part, component, username, amount, call, turn FROM sent
         WHERE resource = ?1 AND period = ?2 AND outcome IN ('accepted', 'read') ORDER BY id",
    )?;
    let mut rows = query.query(params![resource.to_string(), period.to_string()])?;
    while let Some(row) = rows.next()? {
        let (component, user): (String, String) = (row.get(2)?, row.get(3)?);
        let Some(amount) = decimal(row.get(4)?) else { continue };
        let was = known.insert((row.get(1)?, component.clone(), user.clone()), amount);
        let is_meant = row.get::<_, i64>(0)? > since.after && since.turns.contains(&row.get(6)?);
        if is_meant && row.get_ref(5)?.as_str()? != "read" {
            sent.push(Sent { resource, period, component, user, amount, was });
        }
    }
    Ok(sent)
}
