//! Points and quantities as rows: the two that metering reads and writes, a series at a time.
//!
//! Statements are held while many series are counted, because most of the cost of a small one is in finding it.

use jiff::SignedDuration;
use rust_decimal::Decimal;

use crate::collectors::Bearing;
use crate::ledger::db::columns::{exact_column, instant, micros};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, Row, Statement, params};
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

    pub(in crate::ledger) fn of(connection: &Connection, run: i64) -> sql::Result<RunRow> {
        connection
            .prepare_cached(
                "SELECT previous, listed, previous_complete, listed_complete, max_gap, doubtful FROM run WHERE id = ?",
            )?
            .query_row([run], |row| {
                let at = |column: usize| row.get::<_, Option<i64>>(column).map(|at| at.map(instant));
                let max_gap = row.get::<_, Option<i64>>(4)?.map(SignedDuration::from_micros);
                let doubtful = row.get_ref(5)?.as_str()?;
                Ok(RunRow {
                    usual: RunFacts { previous: at(0)?, listed: at(1)?, max_gap },
                    complete: RunFacts { previous: at(2)?, listed: at(3)?, max_gap },
                    doubtful: bearings(doubtful),
                })
            })
    }

    /// What was known when a reading of this series came in.
    pub(in crate::ledger) fn facts(&self, name: &str, labels: &str) -> RunFacts {
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

/// What is kept of the quantities.
pub(in crate::ledger) struct Quantities<'a> {
    load: Statement<'a>,
    put: Statement<'a>,
    remove: Statement<'a>,
}

impl<'a> Quantities<'a> {
    pub(super) fn of(connection: &'a Connection) -> sql::Result<Self> {
        Ok(Quantities {
            load: connection.prepare_cached(
                "SELECT sum, max, last, covered, missed, gaps, resets, held, holds, dips FROM quantity
                 WHERE series = ?1 AND measure = ?2 AND segment = ?3 AND month = ?4",
            )?,
            put: connection.prepare_cached(
                "INSERT INTO quantity (series, measure, segment, month, period, sum, max, last, covered, missed, gaps,
                                       resets, held, holds, dips)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
                 ON CONFLICT (series, measure, segment, month) DO UPDATE SET sum = ?6, max = ?7, last = ?8, covered = ?9,
                    missed = ?10, gaps = ?11, resets = ?12, held = ?13, holds = ?14, dips = ?15",
            )?,
            remove: connection.prepare_cached(
                "DELETE FROM quantity WHERE series = ?1 AND measure = ?2 AND segment = ?3 AND month = ?4",
            )?,
        })
    }

    /// Adds what readings of a month add to a segment.
    pub(super) fn add(
        &mut self,
        series: i64,
        measure: Measure,
        segment: Segment,
        month: BillingPeriod,
        part: Quantity,
    ) -> sql::Result<()> {
        let (measure, start, month) = (measure.name(), micros(segment.start), month.to_string());
        let known =
            self.load.query_row(params![series, measure, start, month], |row| quantity(row, 0)).optional()?;
        let mut quantity = known.unwrap_or_default();
        quantity.absorb(part);
        if quantity == Quantity::default() {
            // As if nothing had ever been counted: what a recount would find.
            self.remove.execute(params![series, measure, start, month])?;
            return Ok(());
        }
        self.put.execute(params![
            series,
            measure,
            start,
            month,
            segment.period.to_string(),
            quantity.sum.to_string(),
            quantity.max.map(|max| max.to_string()),
            quantity.last.map(|last| last.to_string()),
            quantity.covered,
            quantity.missed,
            quantity.gaps,
            quantity.resets,
            quantity.held.to_string(),
            quantity.holds,
            quantity.dips,
        ])?;
        Ok(())
    }
}

/// The quantity whose columns `sum, max, last, covered, missed, gaps, resets, held, holds, dips` start at `first`.
pub(in crate::ledger) fn quantity(row: &Row<'_>, first: usize) -> sql::Result<Quantity> {
    let decimal = |column: usize| -> sql::Result<Option<Decimal>> {
        Ok(row.get_ref(column)?.as_str_or_null()?.and_then(|text| text.parse().ok()))
    };
    Ok(Quantity {
        sum: exact_column(row, first)?,
        max: decimal(first + 1)?,
        last: decimal(first + 2)?,
        covered: row.get(first + 3)?,
        missed: row.get(first + 4)?,
        gaps: row.get(first + 5)?,
        resets: row.get(first + 6)?,
        held: exact_column(row, first + 7)?,
        holds: row.get(first + 8)?,
        dips: row.get(first + 9)?,
    })
}
