//! Carrying forward: what the server does not hold of a month that is over goes to the month that runs, as rows that both
//! months are made with (`adjustment`).
//!
//! What is carried is a function of what was used and of what the server is known to hold, worked out anew each time; so it
//! can't happen twice, and it is taken back where it was mended otherwise. Whether it is done at all, the submitter says.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::adjustment::{Row, exact, insert, part_of};
use super::makers::makers_of;
use super::outbox::{StatementKey, settle, statement};
use super::rows::uuid_column;
use super::statements::restate_all;
use super::trouble::{LATE_REFUSED, PERIOD_ENDED};
use super::{Ledger, LedgerError, instant, micros, quantify};
use crate::metering::adjustment::{Shares, can_be_carried, carried};
use crate::metering::exact::Exact;
use crate::metering::period::{BillingPeriod, Timeline};
use crate::metering::statement::POSTED_PLACES;

/// What is carried out of a statement, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    pub component: String,
    pub before: Exact,
    pub amount: Exact,
}

impl Ledger {
    /// Statements of which something was carried to this month.
    pub fn carried_to(&self, month: BillingPeriod) -> Result<Vec<StatementKey>, LedgerError> {
        let rows: Vec<(Uuid, String, i64)> = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT resource, from_period, from_at FROM adjustment
                     WHERE period = ? AND from_period <> ''",
                )?
                .query_map([month.to_string()], |row| Ok((uuid_column(row, 0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })?;
        let mut keys = Vec::new();
        for (resource, period, at) in rows {
            let Ok(period) = period.parse::<BillingPeriod>() else { continue };
            let part = instant(part_of(&self.timeline_of(resource)?, period, instant(at)));
            keys.push(StatementKey { resource, period, part });
        }
        Ok(keys)
    }

    /// Brings what is carried from a statement of a month that is over to what the server does not hold of it. It goes
    /// to the part of the month that runs at `to`; what went to a month that is over by now stays there. With `new`
    /// unset, only less than before is carried, never more. Without `write` it only says what it would do.
    pub fn carry_forward(
        &mut self,
        key: StatementKey,
        to: Timestamp,
        (new, write): (bool, bool),
        now: Timestamp,
    ) -> Result<Vec<Carried>, LedgerError> {
        self.transact(|connection, rulebook| {
            let resource = key.resource.to_string();
            let timeline = quantify::plans(connection, rulebook, &resource)?;
            let target = timeline.zone().period_of(to);
            let running = part_of(&timeline, target, to);
            let Some(found) = statement(connection, key)? else { return Ok(Vec::new()) };
            let mut done = Vec::new();
            for (component, entry) in &found.components {
                let stuck = entry.trouble.as_ref().is_some_and(|trouble| !trouble.is_left_over());
                if entry.intended.is_some() || stuck || key.period >= target {
                    continue;
                }
                let makers = makers_of(connection, rulebook, component)?;
                let makers = makers.of(connection, &resource)?;
                let Some(rounding) = makers.first().map(|maker| maker.meter.rounding) else { continue };
                if !can_be_carried(makers.iter().map(|maker| maker.measure)) {
                    continue;
                }
                let (mut used, mut held) = (Shares::default(), Shares::default());
                used.add("", exact(&entry.exact)?);
                held.add("", entry.acknowledged.as_ref().map_or_else(Exact::zero, |held| held.amount.into()));
                for ((_, user), share) in found.users.iter().filter(|((of, _), _)| of == component) {
                    used.add(user, exact(&share.exact)?);
                    held.add(user, share.acknowledged.as_ref().map_or_else(Exact::zero, |h| h.amount.into()));
                }
                // What can't be posted is not carried, unless that is because more was carried than was used after all.
                let negative = used.total.is_negative() || used.users.values().any(Exact::is_negative);
                if entry.posted.is_none() && !negative {
                    continue;
                }
                // As if nothing had been carried to the month that runs; what is in earlier ones stays there.
                let before = open_rows(connection, &timeline, key, component, (target, running))?;
                for row in &before {
                    used.add(&row.user, row.amount.clone());
                }
                let mut was = Shares::default();
                for row in &before {
                    was.add(&row.user, row.amount.clone());
                }
                let rounded = |exact: &Exact| exact.round(POSTED_PLACES, rounding);
                let agrees = rounded(&used.total) == rounded(&held.total);
                let after = carried(&used, &held).filter(|_| !agrees).unwrap_or_default();
                if after == was || (after.total > was.total && !new) {
                    continue;
                }
                let (before_total, after_total) = (was.total, after.total.clone());
                done.push(Carried { component: component.clone(), before: before_total, amount: after_total });
                if !write {
                    continue;
                }
                let at = before.first().map_or(to, |row| row.at);
                for row in &before {
                    connection.execute(
                        "DELETE FROM adjustment WHERE resource = ?1 AND component = ?2 AND user = ?3 AND period = ?4
                         AND at = ?5 AND from_period = ?6 AND from_at = ?7",
                        params![
                            resource,
                            component,
                            row.user,
                            target.to_string(),
                            micros(row.at),
                            key.period.to_string(),
                            micros(row.from_at)
                        ],
                    )?;
                }
                let words = format!("used in {} and not reported before it was over", key.period);
                let into = StatementKey { period: target, part: instant(running), ..key };
                let total = Some((String::new(), after.total)).filter(|(_, total)| !total.is_zero());
                let rows: Vec<(String, Exact)> = total.into_iter().chain(after.users).collect();
                for (user, amount) in &rows {
                    let row = Row { user, amount, at, from: Some((key.period, key.part)) };
                    insert(connection, into, component, row, &words, now)?;
                }
                connection.execute(
                    "DELETE FROM trouble WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
                     AND user = '' AND reason IN (?5, ?6)",
                    params![
                        resource,
                        key.period.to_string(),
                        micros(key.part),
                        component,
                        PERIOD_ENDED,
                        LATE_REFUSED
                    ],
                )?;
                let places = [key.period, target].map(|period| {
                    (resource.clone(), period.to_string(), component.clone())
                });
                restate_all(connection, rulebook, &places.into_iter().collect(), now)?;
                settle(connection, key)?;
                settle(connection, into)?;
            }
            Ok(done)
        })
    }
}

/// A row of what is carried to the part that runs.
struct OpenRow {
    user: String,
    amount: Exact,
    at: Timestamp,
    from_at: Timestamp,
}

fn open_rows(
    connection: &Connection,
    timeline: &Timeline,
    key: StatementKey,
    component: &str,
    (target, running): (BillingPeriod, i64),
) -> rusqlite::Result<Vec<OpenRow>> {
    let rows: Vec<(String, String, i64, i64)> = connection
        .prepare_cached(
            "SELECT user, amount, at, from_at FROM adjustment
             WHERE resource = ?1 AND component = ?2 AND period = ?3 AND from_period = ?4 ORDER BY user",
        )?
        .query_map(
            params![key.resource.to_string(), component, target.to_string(), key.period.to_string()],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )?
        .collect::<rusqlite::Result<_>>()?;
    let here = |at: i64, from_at: i64| {
        part_of(timeline, target, instant(at)) == running
            && part_of(timeline, key.period, instant(from_at)) == micros(key.part)
    };
    let rows = rows.into_iter().filter(|(_, _, at, from_at)| here(*at, *from_at));
    rows.map(|(user, amount, at, from_at)| {
        Ok(OpenRow { user, amount: exact(&amount)?, at: instant(at), from_at: instant(from_at) })
    })
    .collect()
}
