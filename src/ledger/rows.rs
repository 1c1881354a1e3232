//! Points and quantities as rows: the two that metering reads and writes, a series at a time.
//!
//! Statements are held while many series are counted, because most of the cost of a small one is in finding it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::{instant, micros};
use crate::metering::exact::Exact;
use crate::metering::measure::{Measure, Point, Quantity, RunFacts};
use crate::metering::period::{BillingPeriod, BillingZone, Timeline};
use crate::metering::reading::{Epoch, Kind};
use crate::metering::trail::Trail;

/// The points that the next one needs to know of.
pub(super) fn trail_before(connection: &Connection, series: i64, before: i64) -> rusqlite::Result<Trail> {
    let last =
        |query: &str| connection.prepare_cached(query)?.query_row(params![series, before], point).optional();
    let previous = last(&LAST_BEFORE)?;
    let present = match &previous {
        Some(point) if point.value.is_none() => last(&LAST_PRESENT_BEFORE)?,
        _ => previous.clone(),
    };
    if let Some(Kind::Counter) = kind_of(connection, series)? {
        // A counter's past decides more than its last points: it is read from its start.
        let mut query = connection.prepare_cached(&POINTS_BEFORE)?;
        let points =
            query.query_map(params![series, before], point)?.collect::<rusqlite::Result<Vec<_>>>()?;
        return Ok(followed(Measure::Increase(None), points));
    }
    Ok(followed(Measure::Level, present.filter(|_| previous.is_some()).into_iter().chain(previous)))
}

fn kind_of(connection: &Connection, series: i64) -> rusqlite::Result<Option<Kind>> {
    let kind: Option<String> = connection
        .prepare_cached(
            "SELECT source.kind FROM series JOIN source ON source.id = series.source WHERE series.id = ?",
        )?
        .query_row([series], |row| row.get(0))
        .optional()?;
    Ok(kind.and_then(|kind| kind.parse().ok()))
}

/// A trail that has followed these points.
fn followed(measure: Measure, points: impl IntoIterator<Item = Point>) -> Trail {
    let timeline = Timeline::new(BillingZone::utc(), Vec::new());
    let mut trail = Trail::default();
    for point in points {
        trail.advance(measure, point, &timeline);
    }
    trail
}

/// How far many series have been read, each to its end.
pub(super) struct Trails<'a> {
    connection: &'a Connection,
    last: CachedStatement<'a>,
    /// The last readings of most series came with the same few runs.
    runs: HashMap<i64, RunFacts>,
}

impl<'a> Trails<'a> {
    pub(super) fn of(connection: &'a Connection) -> rusqlite::Result<Self> {
        // Counters and gauges have no start that would order those of one instant.
        let last = connection.prepare_cached(
            "SELECT at, start, value, epoch, began, run FROM reading WHERE series = ?1 ORDER BY at DESC, id DESC LIMIT 1",
        )?;
        Ok(Trails { connection, last, runs: HashMap::new() })
    }

    /// What the next point of the series needs to know if it comes behind all others.
    pub(super) fn at_the_end(&mut self, series: i64, kind: Kind) -> rusqlite::Result<Trail> {
        if matches!(kind, Kind::Total | Kind::Counter) {
            return trail_before(self.connection, series, i64::MAX);
        }
        let last = |row: &Row<'_>| Ok((point_in(row, RunFacts::default())?, row.get::<_, i64>(5)?));
        let Some((mut point, run)) = self.last.query_row([series], last).optional()? else {
            return Ok(Trail::default());
        };
        if point.value.is_none() {
            return trail_before(self.connection, series, i64::MAX);
        }
        point.run = match self.runs.entry(run) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let facts = self
                    .connection
                    .prepare_cached("SELECT previous, listed, max_gap FROM run WHERE id = ?")?
                    .query_row([run], |row| facts(row, 0))?;
                *new.insert(facts)
            }
        };
        Ok(followed(Measure::Level, [point]))
    }
}

static LAST_BEFORE: LazyLock<String> = LazyLock::new(|| points_where("reading.at < ?2", "DESC") + " LIMIT 1");
static LAST_PRESENT_BEFORE: LazyLock<String> =
    LazyLock::new(|| points_where("reading.at < ?2 AND reading.value IS NOT NULL", "DESC") + " LIMIT 1");
static POINTS_BEFORE: LazyLock<String> = LazyLock::new(|| points_where("reading.at < ?2", "ASC"));
/// Points of series ?1 from the instant ?2 on.
pub(super) static POINTS_FROM: LazyLock<String> = LazyLock::new(|| points_where("reading.at >= ?2", "ASC"));

/// Points of series ?1, with their runs' facts; `condition` may use ?2. Of one instant, what speaks of the time before it
/// comes first: a total of the month that ends there must follow that month's, not the next one's.
fn points_where(condition: &str, order: &str) -> String {
    format!(
        "SELECT reading.at, reading.start, reading.value, reading.epoch, reading.began,
                run.previous, run.listed, run.max_gap, reading.id
         FROM reading JOIN run ON run.id = reading.run
         WHERE reading.series = ?1 AND {condition}
         ORDER BY reading.at {order}, reading.start IS NULL {order}, reading.id {order}"
    )
}

pub(super) fn point(row: &Row<'_>) -> rusqlite::Result<Point> {
    point_in(row, facts(row, 5)?)
}

fn point_in(row: &Row<'_>, run: RunFacts) -> rusqlite::Result<Point> {
    Ok(Point {
        at: instant(row.get(0)?),
        start: row.get::<_, Option<i64>>(1)?.map(instant),
        value: row.get::<_, Option<String>>(2)?.and_then(|text| text.parse().ok()),
        epoch: Epoch { id: row.get(3)?, began: row.get::<_, Option<i64>>(4)?.map(instant), shared: false },
        run,
    })
}

/// What was recorded of a run, whose columns `previous, listed, max_gap` start at `first`.
fn facts(row: &Row<'_>, first: usize) -> rusqlite::Result<RunFacts> {
    Ok(RunFacts {
        previous: row.get::<_, Option<i64>>(first)?.map(instant),
        listed: row.get::<_, Option<i64>>(first + 1)?.map(instant),
        max_gap: row.get::<_, Option<i64>>(first + 2)?.map(SignedDuration::from_micros),
    })
}

/// What is kept of the quantities.
pub(super) struct Quantities<'a> {
    load: CachedStatement<'a>,
    put: CachedStatement<'a>,
    remove: CachedStatement<'a>,
}

impl<'a> Quantities<'a> {
    pub(super) fn of(connection: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Quantities {
            load: connection.prepare_cached(
                "SELECT sum, max, last, covered, missed, gaps, resets FROM quantity
                 WHERE series = ?1 AND measure = ?2 AND segment = ?3",
            )?,
            put: connection.prepare_cached(
                "INSERT OR REPLACE INTO quantity
                    (series, measure, segment, period, sum, max, last, covered, missed, gaps, resets)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?,
            remove: connection
                .prepare_cached("DELETE FROM quantity WHERE series = ?1 AND measure = ?2 AND segment = ?3")?,
        })
    }

    pub(super) fn load(
        &mut self,
        series: i64,
        measure: Measure,
        segment: Timestamp,
    ) -> rusqlite::Result<Option<Quantity>> {
        let key = params![series, measure.name(), micros(segment)];
        self.load.query_row(key, |row| quantity(row, 0)).optional()
    }

    /// Puts what was counted in the place of what was kept.
    pub(super) fn put(
        &mut self,
        series: i64,
        measure: Measure,
        segment: Timestamp,
        period: BillingPeriod,
        quantity: &Quantity,
    ) -> rusqlite::Result<()> {
        let (measure, segment) = (measure.name(), micros(segment));
        if *quantity == Quantity::default() {
            // As if nothing had ever been counted: what a recount would find.
            self.remove.execute(params![series, measure, segment])?;
            return Ok(());
        }
        self.put.execute(params![
            series,
            measure,
            segment,
            period.to_string(),
            quantity.sum.to_string(),
            quantity.max.map(|max| max.to_string()),
            quantity.last.map(|last| last.to_string()),
            quantity.covered,
            quantity.missed,
            quantity.gaps,
            quantity.resets
        ])?;
        Ok(())
    }

    pub(super) fn remove(
        &mut self,
        series: i64,
        measure: Measure,
        segment: Timestamp,
    ) -> rusqlite::Result<()> {
        self.remove.execute(params![series, measure.name(), micros(segment)])?;
        Ok(())
    }
}

/// The quantity whose columns `sum, max, last, covered, missed, gaps, resets` start at `first`.
pub(super) fn quantity(row: &Row<'_>, first: usize) -> rusqlite::Result<Quantity> {
    let sum: String = row.get(first)?;
    let decimal = |column: usize| -> rusqlite::Result<Option<Decimal>> {
        Ok(row.get::<_, Option<String>>(column)?.and_then(|text| text.parse().ok()))
    };
    Ok(Quantity {
        sum: sum.parse::<Exact>().map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(first, rusqlite::types::Type::Text, error.into())
        })?,
        max: decimal(first + 1)?,
        last: decimal(first + 2)?,
        covered: row.get(first + 3)?,
        missed: row.get(first + 4)?,
        gaps: row.get(first + 5)?,
        resets: row.get(first + 6)?,
        ..Quantity::default()
    })
}

pub(super) fn uuid_column(row: &Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    let text: String = row.get(column)?;
    Uuid::parse_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}

pub(super) fn period_column(row: &Row<'_>, column: usize) -> rusqlite::Result<BillingPeriod> {
    row.get::<_, String>(column)?.parse().map_err(|error: String| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}
