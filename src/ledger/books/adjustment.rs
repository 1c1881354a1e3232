//! What enters amounts beside readings: opening balances, and differences moved between months (metering::adjustment has
//! the rules). It only reads; `sent` records them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::lines::Place;
use crate::ledger::db::columns::{decimal, instant, micros};
use crate::ledger::db::sql::{self, Connection, params};
use crate::metering::adjustment::Shares;
use crate::metering::exact::Exact;
use crate::metering::period::{BillingPeriod, Timeline};

/// The first instant of the part of the month that holds this instant.
pub(in crate::ledger) fn part_of(timeline: &Timeline, period: BillingPeriod, at: Timestamp) -> i64 {
    let (start, end) = (timeline.zone().start(period), timeline.zone().end(period));
    let last = end.saturating_sub(SignedDuration::from_micros(1)).unwrap_or(end);
    micros(timeline.segment_at(at.clamp(start, last.max(start))).start)
}

/// The opening balances of a component in a month, by the part that they are in: their instant and amounts.
pub(in crate::ledger) fn openings(
    connection: &Connection,
    timeline: &Timeline,
    place: Place<'_>,
    period: BillingPeriod,
) -> sql::Result<BTreeMap<i64, (i64, Shares)>> {
    let mut parts: BTreeMap<i64, (i64, Shares)> = BTreeMap::new();
    let mut query = connection.prepare_cached(
        "SELECT username, amount, at FROM opening WHERE resource = ?1 AND component = ?2 AND period = ?3",
    )?;
    let mut rows = query.query(params![place.resource, place.component, place.period])?;
    while let Some(row) = rows.next()? {
        let (user, amount, at): (String, Option<String>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let amount = decimal(amount).map_or_else(Exact::zero, Exact::from);
        let part = part_of(timeline, period, instant(at));
        parts.entry(part).or_insert_with(|| (at, Shares::default())).1.add(&user, amount);
    }
    Ok(parts)
}

/// What was moved to and from a component's month, in cents, by user; '' is the total.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// By the part that it went to.
    pub(super) to: BTreeMap<String, Vec<(i64, i64)>>,
    /// With the part that it was taken from parts before: one of the same month, or none.
    pub(super) from: BTreeMap<String, Vec<(i64, i64)>>,
}

pub(super) fn moved(
    connection: &Connection,
    timeline: &Timeline,
    place: Place<'_>,
    period: BillingPeriod,
) -> sql::Result<Moved> {
    let mut moved = Moved::default();
    let mut query = connection.prepare_cached(
        "SELECT username, from_period, to_period, to_part, cents FROM moved
         WHERE resource = ?1 AND component = ?2 AND (from_period = ?3 OR to_period = ?3)",
    )?;
    let mut rows = query.query(params![place.resource, place.component, place.period])?;
    while let Some(row) = rows.next()? {
        let (user, cents): (String, i64) = (row.get(0)?, row.get(4)?);
        let (out, into) =
            (row.get_ref(1)?.as_str()? == place.period, row.get_ref(2)?.as_str()? == place.period);
        // Within the month it goes to a plan period that began in it, whether or not that cuts the month.
        let part = match (out, into) {
            (true, true) => row.get(3)?,
            (false, true) => part_of(timeline, period, instant(row.get(3)?)),
            (_, false) => i64::MAX,
        };
        if into {
            moved.to.entry(user.clone()).or_default().push((part, cents));
        }
        if out {
            moved.from.entry(user).or_default().push((part, cents));
        }
    }
    // What was taken back comes first: only then can it be seen how much the month still has of what was carried out of it.
    for from in moved.from.values_mut() {
        from.sort_unstable_by_key(|(_, cents)| *cents);
    }
    Ok(moved)
}
