//! Adjustments: opening balances, and what is carried forward from one month to another. They decide amounts as readings
//! do (law 3), so they are kept as rows that a recount counts again and `explain` shows.
//!
//! An opening balance cuts its component's time at its instant: what was metered before is not counted again. What is
//! carried is one row for both months, added in one and taken away in the other, so that it can't be there twice. The
//! rules are in `metering::adjustment`; whether an adjustment is made is the submitter's and a person's to say.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::lines::Place;
use super::lock::is_current;
use super::makers::makers_of;
use super::outbox::{Amount, StatementKey, acknowledge_in};
use super::statements::restate_all;
use super::{Ledger, LedgerError, catalog, instant, micros, quantify};
use crate::metering::adjustment::{Shares, onward};
use crate::metering::exact::Exact;
use crate::metering::meter::Meter;
use crate::metering::period::{BillingPeriod, Timeline};

/// A recorded adjustment, as `status` and `explain` show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjustment {
    pub component: String,
    /// '' is the total.
    pub user: String,
    pub amount: Exact,
    /// The month that it is part of.
    pub period: BillingPeriod,
    /// An opening balance speaks of this instant; what is carried belongs to the part of the month that holds it.
    pub at: Timestamp,
    /// What is carried: the month that it was used in.
    pub from: Option<BillingPeriod>,
    /// Where it comes from.
    pub words: String,
    pub recorded: Timestamp,
}

impl Adjustment {
    pub fn kind(&self) -> &'static str {
        if self.from.is_some() { "carried forward" } else { "opening balance" }
    }
}

/// What the server held of a component at an instant, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub component: String,
    pub at: Timestamp,
    pub total: Decimal,
    pub users: BTreeMap<String, Decimal>,
    pub words: String,
}

/// What the adjustments of a component do to one part of a month.
#[derive(Debug, Default)]
pub(super) struct Adjusted {
    pub(super) opening: Option<(i64, Shares)>,
    /// Carried here, less what was carried from here.
    pub(super) moved: Shares,
}

/// Where the time of this resource is cut: at switches of its plan, and at opening balances.
pub(super) fn cuts(connection: &Connection, resource: &str) -> rusqlite::Result<Vec<Timestamp>> {
    let mut cuts = quantify::cuts(connection, resource)?;
    let openings = connection
        .prepare_cached("SELECT DISTINCT at FROM adjustment WHERE resource = ? AND from_period = ''")?
        .query_map([resource], |row| row.get(0).map(instant))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    cuts.extend(openings);
    Ok(cuts)
}

/// The first instant of the part of the month that holds this instant.
pub(super) fn part_of(timeline: &Timeline, period: BillingPeriod, at: Timestamp) -> i64 {
    let (start, end) = (timeline.zone().start(period), timeline.zone().end(period));
    let last = end.saturating_sub(SignedDuration::from_micros(1)).unwrap_or(end);
    micros(timeline.segment_at(at.clamp(start, last.max(start))).start)
}

pub(super) fn exact(text: &str) -> rusqlite::Result<Exact> {
    text.parse().map_err(|error: String| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
    })
}

/// The adjustments of a component in a month, by its parts. `timeline` is cut at switches of the plan alone.
pub(super) fn of_place(
    connection: &Connection,
    timeline: &Timeline,
    place: Place<'_>,
    period: BillingPeriod,
) -> rusqlite::Result<BTreeMap<i64, Adjusted>> {
    let mut parts: BTreeMap<i64, Adjusted> = BTreeMap::new();
    let mut query = connection.prepare_cached(
        "SELECT user, amount, period, at, from_period, from_at FROM adjustment
         WHERE resource = ?1 AND component = ?2 AND (period = ?3 OR from_period = ?3)",
    )?;
    let mut rows = query.query(params![place.resource, place.component, place.period])?;
    while let Some(row) = rows.next()? {
        let (user, amount): (String, String) = (row.get(0)?, row.get(1)?);
        let amount = exact(&amount)?;
        let (to, at, from): (String, i64, String) = (row.get(2)?, row.get(3)?, row.get(4)?);
        if from.is_empty() {
            let part = parts.entry(part_of(timeline, period, instant(at))).or_default();
            part.opening.get_or_insert_with(|| (at, Shares::default())).1.add(&user, amount);
            continue;
        }
        if to == place.period {
            let part = parts.entry(part_of(timeline, period, instant(at))).or_default();
            part.moved.add(&user, amount.clone());
        }
        if from == place.period {
            let part = parts.entry(part_of(timeline, period, instant(row.get(5)?))).or_default();
            part.moved.add(&user, -amount);
        }
    }
    Ok(parts)
}

/// The instant of the opening balance of a component, if there is one in this part.
pub(super) fn opened_at(
    connection: &Connection,
    timeline: &Timeline,
    place: Place<'_>,
    period: BillingPeriod,
) -> rusqlite::Result<BTreeMap<i64, Timestamp>> {
    let parts = of_place(connection, timeline, place, period)?;
    let opened = parts.into_iter().filter_map(|(part, adjusted)| Some((part, instant(adjusted.opening?.0))));
    Ok(opened.collect())
}

/// All components that an adjustment has to do with, with their months: a recount states them anew, too.
pub(super) fn places(connection: &Connection) -> rusqlite::Result<super::ingest::Restate> {
    connection
        .prepare(
            "SELECT resource, period, component FROM adjustment
             UNION SELECT resource, from_period, component FROM adjustment WHERE from_period <> ''",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

impl Ledger {
    /// The adjustments of a resource that are part of this month or were carried out of it.
    pub fn adjustments(&self, resource: Uuid, period: BillingPeriod) -> Result<Vec<Adjustment>, LedgerError> {
        self.look(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT component, user, amount, period, at, from_period, words, recorded FROM adjustment
                 WHERE resource = ?1 AND (period = ?2 OR from_period = ?2)
                 ORDER BY component, from_period, at, period, user",
            )?;
            query
                .query_map(params![resource.to_string(), period.to_string()], |row| {
                    Ok(Adjustment {
                        component: row.get(0)?,
                        user: row.get(1)?,
                        amount: exact(&row.get::<_, String>(2)?)?,
                        period: row.get::<_, String>(3)?.parse().unwrap_or(period),
                        at: instant(row.get(4)?),
                        from: row.get::<_, String>(5)?.parse().ok(),
                        words: row.get(6)?,
                        recorded: instant(row.get(7)?),
                    })
                })?
                .collect()
        })
    }

    /// When the opening balance of this component in this part was recorded, if there is one.
    pub fn opened(&self, key: StatementKey, component: &str) -> Result<Option<Timestamp>, LedgerError> {
        let timeline = self.timeline_of(key.resource)?;
        self.look(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT at, recorded FROM adjustment
                 WHERE resource = ?1 AND period = ?2 AND component = ?3 AND user = '' AND from_period = ''",
            )?;
            let mut rows =
                query.query(params![key.resource.to_string(), key.period.to_string(), component])?;
            while let Some(row) = rows.next()? {
                if part_of(&timeline, key.period, instant(row.get(0)?)) == micros(key.part) {
                    return row.get(1).map(|at| Some(instant(at)));
                }
            }
            Ok(None)
        })
    }

    /// Why a component can't be adopted, if it can't.
    pub fn can_open(&self, resource: Uuid, component: &str) -> Result<Result<(), &'static str>, LedgerError> {
        let rulebook = &self.rulebook;
        self.look(|connection| {
            let makers = makers_of(connection, rulebook, component)?;
            let makers = makers.of(connection, &resource.to_string())?;
            Ok(onward(makers.iter().map(|maker| maker.measure)).map(|_| ()))
        })
    }

    /// Whether the users' parts of a component are parts of its total.
    pub fn adds_up(&self, resource: Uuid, component: &str) -> Result<bool, LedgerError> {
        let rulebook = &self.rulebook;
        self.look(|connection| {
            let makers = makers_of(connection, rulebook, component)?;
            let makers = makers.of(connection, &resource.to_string())?;
            Ok(makers.iter().all(|maker| Meter::additive(maker.measure)))
        })
    }

    /// Records what the server held as the opening balance of a part, in place of an earlier one, and that the server is
    /// known to hold it. Everything of the resource is counted again, because its time is cut anew.
    pub fn adopt(&mut self, key: StatementKey, opening: Opening, now: Timestamp) -> Result<(), LedgerError> {
        let turn = self.own_turn();
        let done = self.transact(|connection, rulebook| {
            if !is_current(connection, turn)? {
                return Ok(None);
            }
            let resource = key.resource.to_string();
            let period = key.period.to_string();
            let timeline = quantify::plans(connection, rulebook, &resource)?;
            let earlier: Vec<i64> = connection
                .prepare_cached(
                    "SELECT DISTINCT at FROM adjustment
                     WHERE resource = ?1 AND period = ?2 AND component = ?3 AND from_period = ''",
                )?
                .query_map(params![resource, period, opening.component], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            for at in earlier {
                if part_of(&timeline, key.period, instant(at)) == micros(key.part) {
                    connection.execute(
                        "DELETE FROM adjustment WHERE resource = ?1 AND period = ?2 AND component = ?3
                         AND from_period = '' AND at = ?4",
                        params![resource, period, opening.component, at],
                    )?;
                }
            }
            let users = opening.users.iter().map(|(user, amount)| (user.as_str(), *amount));
            let held: Vec<(&str, Decimal)> = std::iter::once(("", opening.total)).chain(users).collect();
            let mut balance = Shares::default();
            for (user, amount) in &held {
                balance.add(user, Exact::from(*amount));
            }
            let carried = carried_and_reported(connection, &timeline, key, &opening.component)?;
            let words = if carried == Shares::default() {
                opening.words
            } else {
                format!("{}; less what was carried forward to this month and reported before", opening.words)
            };
            let balance = balance.less(&carried);
            for (user, amount) in std::iter::once((&String::new(), &balance.total)).chain(&balance.users) {
                let row = Row { user, amount, at: opening.at, from: None };
                insert(connection, key, &opening.component, row, &words, now)?;
            }
            catalog::recount_resource(connection, rulebook, &resource, now)?;
            // Where nothing was metered yet, no series asks for it.
            let place = (resource, period, opening.component.clone());
            restate_all(connection, rulebook, &[place].into_iter().collect(), now)?;
            let amount = |(user, amount): (&str, Decimal)| Amount {
                component: opening.component.clone(),
                user: user.to_owned(),
                amount,
            };
            let amounts = held.into_iter().map(amount).collect();
            acknowledge_in(connection, key, amounts, ("read back", turn), now).map(Some)
        })?;
        self.in_turn(done)
    }

    pub(super) fn timeline_of(&self, resource: Uuid) -> Result<Timeline, LedgerError> {
        self.look(|connection| quantify::plans(connection, &self.rulebook, &resource.to_string()))
    }
}

/// What was carried to this part, as far as it was reported there. It stays a row of its own, so that it is once in the
/// amount, it is not in the opening balance too: another hand that wrote over our report wrote over that as well.
fn carried_and_reported(
    connection: &Connection,
    timeline: &Timeline,
    key: StatementKey,
    component: &str,
) -> rusqlite::Result<Shares> {
    let (resource, period) = (key.resource.to_string(), key.period.to_string());
    let reported: Option<i64> = connection
        .prepare_cached(
            "SELECT at FROM acknowledgement
             WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ''",
        )?
        .query_row(params![resource, period, micros(key.part), component], |row| row.get(0))
        .optional()?;
    let mut carried = Shares::default();
    let Some(reported) = reported else { return Ok(carried) };
    // What is carried is noted by the server's clock, what was reported by ours.
    let skew: Option<String> = connection
        .query_row("SELECT value FROM server WHERE key = 'skew_us'", [], |row| row.get(0))
        .optional()?;
    let skew: i64 = skew.and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut query = connection.prepare_cached(
        "SELECT user, amount, at, recorded FROM adjustment
         WHERE resource = ?1 AND period = ?2 AND component = ?3 AND from_period <> ''",
    )?;
    let mut rows = query.query(params![resource, period, component])?;
    while let Some(row) = rows.next()? {
        let (user, amount): (String, String) = (row.get(0)?, row.get(1)?);
        let (at, recorded): (i64, i64) = (row.get(2)?, row.get(3)?);
        let here = part_of(timeline, key.period, instant(at)) == micros(key.part);
        if here && (recorded <= reported || at.saturating_sub(skew) <= reported) {
            carried.add(&user, exact(&amount)?);
        }
    }
    Ok(carried)
}

pub(super) struct Row<'a> {
    pub(super) user: &'a str,
    pub(super) amount: &'a Exact,
    pub(super) at: Timestamp,
    pub(super) from: Option<(BillingPeriod, Timestamp)>,
}

/// `into`: the statement that the adjustment is part of.
pub(super) fn insert(
    connection: &Connection,
    into: StatementKey,
    component: &str,
    row: Row<'_>,
    words: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO adjustment
                (resource, component, user, amount, period, at, from_period, from_at, words, recorded)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            into.resource.to_string(),
            component,
            row.user,
            row.amount.to_string(),
            into.period.to_string(),
            micros(row.at),
            row.from.map_or(String::new(), |(period, _)| period.to_string()),
            row.from.map_or(0, |(_, at)| micros(at)),
            words,
            micros(now)
        ])?;
    Ok(())
}
