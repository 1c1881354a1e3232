//! What enters amounts beside readings: opening balances, and differences moved between months (metering::adjustment has
//! the rules). It only reads; `sent` records them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::lines::Place;
use crate::ledger::db::columns::{decimal, instant, micros};
use crate::ledger::db::sql::{self, Connection, Row, ToSql};
use crate::metering::adjustment::Shares;
use crate::metering::exact::Exact;
use crate::metering::period::{BillingPeriod, Timeline};

/// The first instant of the part of the month that holds this instant.
pub(in crate::ledger) fn part_of(timeline: &Timeline, period: BillingPeriod, at: Timestamp) -> i64 {
    let (start, end) = (timeline.zone().start(period), timeline.zone().end(period));
    let last = end.saturating_sub(SignedDuration::from_micros(1)).unwrap_or(end);
    micros(timeline.segment_at(at.clamp(start, last.max(start))).start)
}

/// Opening balances of a component in a month, by the part that they are in: their instant and amounts.
pub(in crate::ledger) type Openings = BTreeMap<i64, (i64, Shares)>;

/// The opening balances of a component in a month.
pub(in crate::ledger) fn openings(
    connection: &Connection,
    timeline: &Timeline,
    place: Place<'_>,
    period: BillingPeriod,
) -> sql::Result<Openings> {
    openings_of_all(connection, &[(place, period, timeline)]).map(|mut all| all.pop().unwrap_or_default())
}

/// The same of each of these, in their order.
pub(super) fn openings_of_all(
    connection: &Connection,
    places: &[(Place<'_>, BillingPeriod, &Timeline)],
) -> sql::Result<Vec<Openings>> {
    let mut all = vec![Openings::new(); places.len()];
    each_of(
        connection,
        places,
        "SELECT v.column4, username, amount, at FROM (VALUES {rows}) v CROSS JOIN opening
         WHERE opening.resource = v.column1 AND opening.component = v.column2 AND opening.period = v.column3",
        |number, row| {
            let (Some((_, period, timeline)), Some(parts)) = (places.get(number), all.get_mut(number)) else {
                return Ok(());
            };
            let (user, amount, at): (String, Option<String>, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
            let amount = decimal(amount).map_or_else(Exact::zero, Exact::from);
            let part = part_of(timeline, *period, instant(at));
            parts.entry(part).or_insert_with(|| (at, Shares::default())).1.add(&user, amount);
            Ok(())
        },
    )?;
    Ok(all)
}

/// What was moved to and from a component's month, in cents, by user; '' is the total.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// By the part that it went to.
    pub(super) to: BTreeMap<String, Vec<(i64, i64)>>,
    /// With the part that it was taken from parts before: one of the same month, or none.
    pub(super) from: BTreeMap<String, Vec<(i64, i64)>>,
}

/// What was moved to and from each of these, in their order.
pub(super) fn moved_of_all(
    connection: &Connection,
    places: &[(Place<'_>, BillingPeriod, &Timeline)],
) -> sql::Result<Vec<Moved>> {
    let mut all: Vec<Moved> = places.iter().map(|_| Moved::default()).collect();
    each_of(
        connection,
        places,
        "SELECT v.column4, username, from_period, to_period, to_part, cents FROM (VALUES {rows}) v CROSS JOIN moved
         WHERE moved.resource = v.column1 AND moved.component = v.column2
           AND (moved.from_period = v.column3 OR moved.to_period = v.column3)",
        |number, row| {
            let (Some((place, period, timeline)), Some(moved)) = (places.get(number), all.get_mut(number)) else {
                return Ok(());
            };
            let (user, cents): (String, i64) = (row.get(1)?, row.get(5)?);
            let (out, into) =
                (row.get_ref(2)?.as_str()? == place.period, row.get_ref(3)?.as_str()? == place.period);
            // Within the month it goes to a plan period that began in it, whether or not that cuts the month.
            let part = match (out, into) {
                (true, true) => row.get(4)?,
                (false, true) => part_of(timeline, *period, instant(row.get(4)?)),
                (_, false) => i64::MAX,
            };
            if into {
                moved.to.entry(user.clone()).or_default().push((part, cents));
            }
            if out {
                moved.from.entry(user).or_default().push((part, cents));
            }
            Ok(())
        },
    )?;
    // What was taken back comes first: only then can it be seen how much the month still has of what was carried out of it.
    for from in all.iter_mut().flat_map(|moved| moved.from.values_mut()) {
        from.sort_unstable_by_key(|(_, cents)| *cents);
    }
    Ok(all)
}

/// Hands over what a query finds of each of these, with its place among them. In `FROM (VALUES {rows}) v` it has resource,
/// component, period, and that place, which is its first column.
fn each_of(
    connection: &Connection,
    places: &[(Place<'_>, BillingPeriod, &Timeline)],
    sql: &str,
    mut take: impl FnMut(usize, &Row<'_>) -> sql::Result<()>,
) -> sql::Result<()> {
    let numbers: Vec<i64> = (0..).take(places.len()).collect();
    let rows: Vec<[&dyn ToSql; 4]> = places
        .iter()
        .zip(&numbers)
        .map(|((place, ..), number)| [&place.resource as &dyn ToSql, &place.component, &place.period, number])
        .collect();
    connection
        .query_rows(sql, &rows, |row| take(usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX), row))
}
