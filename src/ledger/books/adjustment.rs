//! What enters amounts beside readings: opening balances, and differences moved between months (metering::adjustment has
//! the rules). It only reads; `sent` records them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use super::lines::Place;
use crate::ledger::db::columns::{decimal, decimal_column, instant, micros};
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
        "opening",
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

/// What was moved to and from the lines of a component's month, by part and user; '' is the total.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) to: BTreeMap<(i64, String), Decimal>,
    pub(super) from: BTreeMap<(i64, String), Decimal>,
    /// What of that a person gave up: it was not billed.
    pub(super) given_up: BTreeMap<(i64, String), Decimal>,
}

/// What was moved to and from each of these, in their order.
pub(super) fn moved_of_all(
    connection: &Connection,
    places: &[(Place<'_>, BillingPeriod, &Timeline)],
) -> sql::Result<Vec<Moved>> {
    let mut all: Vec<Moved> = places.iter().map(|_| Moved::default()).collect();
    each_of(
        connection,
        "moved",
        places,
        "SELECT v.column4, username, from_period, from_part, to_period, to_part, amount
         FROM (VALUES {rows}) v CROSS JOIN moved
         WHERE moved.resource = v.column1 AND moved.component = v.column2
           AND (moved.from_period = v.column3 OR moved.to_period = v.column3)",
        |number, row| {
            let (Some((place, period, timeline)), Some(moved)) = (places.get(number), all.get_mut(number))
            else {
                return Ok(());
            };
            let (user, amount): (String, Decimal) = (row.get(1)?, decimal_column(row, 6)?);
            let (out, into) =
                (row.get_ref(2)?.as_str()? == place.period, row.get_ref(4)?.as_str()? == place.period);
            if into {
                let to = row.get(5)?;
                // Within the month it goes to a plan period that began in it, whether or not that cuts the month.
                let part = if out { to } else { part_of(timeline, *period, instant(to)) };
                *moved.to.entry((part, user.clone())).or_default() += amount;
            }
            if out {
                let part = part_of(timeline, *period, instant(row.get(3)?));
                if row.get_ref(4)?.as_str()?.is_empty() {
                    *moved.given_up.entry((part, user.clone())).or_default() += amount;
                }
                *moved.from.entry((part, user)).or_default() += amount;
            }
            Ok(())
        },
    )?;
    Ok(all)
}

/// Hands over what a query of a table finds of each of these, with its place among them. In `FROM (VALUES {rows}) v` it has resource,
/// component, period, and that place, which is its first column.
fn each_of(
    connection: &Connection,
    table: &str,
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
    connection.query_rows_of(table, sql, &rows, |row| {
        take(usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX), row)
    })
}
