//! Points and quantities as rows: the two that metering reads and writes, a series at a time.
//!
//! Quantities of many series are read and written together.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::collectors::Bearing;
use crate::ledger::db::columns::{decimal_in, exact_column, instant, micros, period_column};
use crate::ledger::db::sql::{self, Connection, Row, ToSql, params};
use crate::metering::measure::{Measure, Point, Quantity, RunFacts};
use crate::metering::period::{BillingPeriod, Segment};
use crate::metering::reading::{Epoch, Labels};

/// What was known of a run's predecessors, of series that it could see and of those that it could not.
#[derive(Debug, Clone, Default)]
pub(in crate::ledger) struct RunRow {
    usual: RunFacts,
    complete: RunFacts,
    /// Series to which `complete` applies.
    doubtful: Vec<Bearing>,
}

impl RunRow {
    pub(super) fn new(usual: RunFacts, complete: RunFacts, doubtful: Vec<Bearing>) -> RunRow {
        RunRow { usual, complete, doubtful }
    }

    /// Whether its collector had run before, by the same machine.
    pub(super) fn follows_another(&self) -> bool {
        self.usual.previous.is_some()
    }

    pub(in crate::ledger) fn of(connection: &Connection, run: i64) -> sql::Result<RunRow> {
        connection
            .prepare_cached(
                "SELECT previous, listed, previous_complete, listed_complete, max_gap, doubtful, anew FROM run
                 WHERE id = ?",
            )?
            .query_row([run], |row| {
                let at = |column: usize| row.get::<_, Option<i64>>(column).map(|at| at.map(instant));
                let max_gap = row.get::<_, Option<i64>>(4)?.map(SignedDuration::from_micros);
                let doubtful = row.get_ref(5)?.as_str()?;
                let anew = at(6)?;
                Ok(RunRow {
                    usual: RunFacts { previous: at(0)?, listed: at(1)?, max_gap, anew },
                    complete: RunFacts { previous: at(2)?, listed: at(3)?, max_gap, anew },
                    doubtful: bearings(doubtful),
                })
            })
    }

    /// What was known when a reading of this series came in.
    pub(in crate::ledger) fn facts(&self, name: &str, labels: &str, id: &str) -> RunFacts {
        if id == LEVEL {
            return RunFacts::default();
        }
        if self.doubtful.is_empty() {
            return self.usual;
        }
        let labels: Labels = serde_json::from_str(labels).unwrap_or_default();
        match self.doubtful.iter().any(|bearing| bearing.covers(name, &labels)) {
            true => self.complete,
            false => self.usual,
        }
    }
}

/// The ids of readings that the books made themselves, at the instant of one that they follow: the series ended there,
pub(in crate::ledger) const GONE: &str = "~gone";
/// and there is a level from which it goes on. It was counted elsewhere, and adds nothing.
pub(in crate::ledger) const LEVEL: &str = "~level";

/// Bearings as a run's row has them.
pub(super) fn bearings(text: &str) -> Vec<Bearing> {
    if text == "[]" {
        return Vec::new();
    }
    // What can't be read bears on everything.
    serde_json::from_str(text).unwrap_or_else(|_| vec![Bearing::All])
}

/// Points of series ?1 from the instant ?2 on: at, start, value, epoch, began, shared, run, id. Of one instant, what speaks
/// of the time before it comes first: a total of the month that ends there must follow that month's, not the next one's.
pub(in crate::ledger) const POINTS_FROM: &str =
    "SELECT at, start, value, epoch, began, shared, run, id FROM reading WHERE series = ?1 AND at >= ?2
     ORDER BY at, start = 0, start, id";

/// A point, but for the facts of its run.
pub(in crate::ledger) fn point(row: &Row<'_>) -> sql::Result<Point> {
    Ok(Point {
        at: instant(row.get(0)?),
        start: Some(row.get::<_, i64>(1)?).filter(|start| *start != 0).map(instant),
        value: row.get_ref(2)?.as_str_or_null()?.and_then(|text| text.parse().ok()),
        epoch: Epoch {
            id: row.get(3)?,
            began: row.get::<_, Option<i64>>(4)?.map(instant),
            shared: row.get(5)?,
        },
        run: RunFacts::default(),
    })
}

/// What is to be added to quantities: it is put together first, and then kept for all at once.
#[derive(Debug, Default)]
pub(super) struct Additions(BTreeMap<Place, (BillingPeriod, Quantity)>);

/// Whose quantity: series, measure, the first instant of the segment, and the month of the readings.
type Place = (i64, Measure, i64, BillingPeriod);

impl Additions {
    /// Adds what readings of a month add to a segment.
    pub(super) fn add(
        &mut self,
        series: i64,
        measure: Measure,
        segment: Segment,
        month: BillingPeriod,
        part: Quantity,
    ) {
        let place = (series, measure, micros(segment.start), month);
        self.0.entry(place).or_insert((segment.period, Quantity::default())).1.absorb(part);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds all of it to what is kept.
    pub(super) fn keep(&mut self, connection: &Connection) -> sql::Result<()> {
        let mut added = std::mem::take(&mut self.0);
        let mut known: BTreeMap<Place, Quantity> = BTreeMap::new();
        let names: Vec<(String, String)> = added
            .keys()
            .map(|(_, measure, _, month)| (measure.name().into_owned(), month.to_string()))
            .collect();
        let measures: BTreeMap<&str, Measure> =
            added.keys().zip(&names).map(|(place, (name, _))| (name.as_str(), place.1)).collect();
        let places: Vec<[&dyn ToSql; 4]> = added
            .keys()
            .zip(&names)
            .map(|((series, _, segment, _), (measure, month))| {
                [series as &dyn ToSql, measure, segment, month]
            })
            .collect();
        connection.query_rows(
            "SELECT quantity.series, quantity.measure, quantity.segment, quantity.month, sum, max, last, covered, missed,
                    gaps, resets, held, holds, dips
             FROM (VALUES {rows}) v CROSS JOIN quantity
             WHERE quantity.series = v.column1 AND quantity.measure = v.column2 AND quantity.segment = v.column3
               AND quantity.month = v.column4",
            &places,
            |row| {
                let Some(&measure) = measures.get(row.get_ref(1)?.as_str()?) else { return Ok(()) };
                known.insert((row.get(0)?, measure, row.get(2)?, period_column(row, 3)?), quantity(row, 4)?);
                Ok(())
            },
        )?;
        for (place, (_, part)) in &mut added {
            if let Some(mut quantity) = known.remove(place) {
                quantity.absorb(std::mem::take(part));
                *part = quantity;
            }
        }
        // As if nothing had ever been counted: what a recount would find.
        let (nothing, some): (Vec<_>, Vec<_>) =
            added.into_iter().partition(|(_, (_, quantity))| *quantity == Quantity::default());
        for ((series, measure, segment, month), _) in nothing {
            connection
                .prepare_cached(
                    "DELETE FROM quantity WHERE series = ?1 AND measure = ?2 AND segment = ?3 AND month = ?4",
                )?
                .execute(params![series, measure.name(), segment, month.to_string()])?;
        }
        let texts: Vec<[Option<String>; 7]> = some
            .iter()
            .map(|((_, measure, _, month), (period, quantity))| {
                [
                    Some(measure.name().into_owned()),
                    Some(month.to_string()),
                    Some(period.to_string()),
                    Some(quantity.sum.to_string()),
                    quantity.max.map(|max| max.to_string()),
                    quantity.last.map(|last| last.to_string()),
                    Some(quantity.held.to_string()),
                ]
            })
            .collect();
        let rows: Vec<[&dyn ToSql; 15]> = some
            .iter()
            .zip(&texts)
            .map(
                |(
                    ((series, _, segment, _), (_, quantity)),
                    [measure, month, period, sum, max, last, held],
                )| {
                    let Quantity { covered, missed, gaps, resets, holds, dips, .. } = quantity;
                    [
                        series as &dyn ToSql,
                        measure,
                        segment,
                        month,
                        period,
                        sum,
                        max,
                        last,
                        covered,
                        missed,
                        gaps,
                        resets,
                        held,
                        holds,
                        dips,
                    ]
                },
            )
            .collect();
        connection.execute_rows(
            "INSERT INTO quantity (series, measure, segment, month, period, sum, max, last, covered, missed, gaps, resets,
                                   held, holds, dips)
             VALUES {rows}
             ON CONFLICT (series, measure, segment, month) DO UPDATE SET sum = excluded.sum, max = excluded.max,
                last = excluded.last, covered = excluded.covered, missed = excluded.missed, gaps = excluded.gaps,
                resets = excluded.resets, held = excluded.held, holds = excluded.holds, dips = excluded.dips",
            &rows,
        )
    }
}

/// Of the quantity whose columns `sum, max, last, covered, missed, gaps, resets, held, holds, dips` start at `first`: all.
pub(in crate::ledger) fn quantity(row: &Row<'_>, first: usize) -> sql::Result<Quantity> {
    Ok(Quantity {
        missed: row.get(first + 4)?,
        gaps: row.get(first + 5)?,
        resets: row.get(first + 6)?,
        held: exact_column(row, first + 7)?,
        holds: row.get(first + 8)?,
        dips: row.get(first + 9)?,
        ..counted(row, first)?
    })
}

/// And as far as its value takes: the first four of them.
pub(super) fn counted(row: &Row<'_>, first: usize) -> sql::Result<Quantity> {
    let (sum, covered) = (exact_column(row, first)?, row.get(first + 3)?);
    let (max, last) = (decimal_in(row, first + 1)?, decimal_in(row, first + 2)?);
    Ok(Quantity { sum, max, last, covered, ..Quantity::default() })
}
