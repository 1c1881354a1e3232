//! Compaction: readings of long past months become daily subtotals, and the file shrinks again.
//!
//! A subtotal is what the readings of one day added to one segment, so that the subtotals of a segment sum to exactly
//! what its readings summed to. The last readings before the cut stay, because the next month starts from them. The
//! identity of every reading that goes is kept, so that history which is read again never counts twice.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::quantify::SeriesFacts;
use super::rows::{POINTS_FROM, Quantities, period_column, point, quantity, trail_before};
use super::store::Row;
use super::{Ledger, LedgerError, Rulebook, instant, micros};
use crate::metering::measure::{Measure, Quantity};
use crate::metering::period::{BillingPeriod, Segment};

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    pub series: usize,
    pub readings: usize,
}

/// A reading that is no longer kept: the value that was counted, and whether the reading at hand is that one unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) value: String,
    pub(super) same: bool,
}

/// How many pages of the file are given back at a time.
const PAGES: i64 = 2_000;

impl Ledger {
    /// Compacts months that ended longer than `keep` ago and have nothing left to send: one month a call, oldest first,
    /// one transaction. Does nothing most of the time.
    pub fn compact(&mut self, now: Timestamp, keep: SignedDuration) -> Result<Compacted, LedgerError> {
        let done = self.transact(|connection, rulebook| {
            let Some(period) = oldest(connection, rulebook, now, keep)? else {
                return Ok(Compacted::default());
            };
            compact(connection, rulebook, period)
        })?;
        if done.readings > 0 {
            self.look(|connection| {
                // Each step of this statement gives back one page.
                let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
                let mut steps = vacuum.query([])?;
                while steps.next()?.is_some() {}
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            })?;
        }
        Ok(done)
    }
}

/// The oldest month that may be compacted and is not.
fn oldest(
    connection: &Connection,
    rulebook: &Rulebook,
    now: Timestamp,
    keep: SignedDuration,
) -> rusqlite::Result<Option<BillingPeriod>> {
    // Readings that stay behind for their neighbours' sake lie before their series' cut.
    let first: Option<i64> = connection.query_row(
        "SELECT min(reading.at) FROM reading JOIN series ON series.id = reading.series
         WHERE reading.at >= coalesce(series.compacted, reading.at)",
        [],
        |row| row.get(0),
    )?;
    let Some(first) = first else { return Ok(None) };
    let period = rulebook.zone.period_of(instant(first));
    let ended = rulebook.zone.end(period).saturating_add(keep).unwrap_or(Timestamp::MAX);
    let pending: bool = connection
        .prepare("SELECT 1 FROM statement WHERE period <= ? AND revision > agreed")?
        .exists([period.to_string()])?;
    Ok((ended <= now && !pending).then_some(period))
}

fn compact(
    connection: &Connection,
    rulebook: &Rulebook,
    period: BillingPeriod,
) -> rusqlite::Result<Compacted> {
    let (start, end) = (rulebook.zone.start(period), rulebook.zone.end(period));
    let series: Vec<i64> = connection
        .prepare(
            "SELECT id FROM series WHERE (compacted IS NULL OR compacted < ?2)
             AND EXISTS (SELECT 1 FROM reading WHERE reading.series = series.id AND reading.at >= ?1 AND reading.at < ?2)",
        )?
        .query_map([micros(start), micros(end)], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut done = Compacted::default();
    for series in series {
        let (_, facts) = SeriesFacts::of(connection, rulebook, series)?;
        for &measure in facts.measures() {
            subtotal(connection, &facts, series, measure, period)?;
        }
        done.series += 1;
        done.readings += spend(connection, series, period, micros(end))?;
    }
    Ok(done)
}

/// Writes what the readings of each day added to the segments of the month, and of those before it that are not compacted
/// because the series has no reading there: a job may reach back into them, or a level be held through them.
fn subtotal(
    connection: &Connection,
    facts: &SeriesFacts,
    series: i64,
    measure: Measure,
    period: BillingPeriod,
) -> rusqlite::Result<()> {
    let zone = facts.timeline.zone();
    let (start, end) = (zone.start(period), zone.end(period));
    let mut days: BTreeMap<(Segment, String), (Quantity, i64)> = BTreeMap::new();
    let mut trail = trail_before(connection, series, micros(start))?;
    let mut query = connection.prepare_cached(&POINTS_FROM)?;
    let mut rows = query.query(params![series, micros(start)])?;
    let mut beyond: Option<Timestamp> = None;
    while let Some(row) = rows.next()? {
        let point = point(row)?;
        let at = point.at;
        // Several of one instant may each speak of the month before it: totals do.
        if beyond.is_some_and(|beyond| at > beyond) && !matches!(measure, Measure::Sum(_)) {
            break;
        }
        if at >= end && point.value.is_some() {
            beyond = Some(at);
        }
        for (segment, part) in facts.advance(&mut trail, measure, point) {
            if segment.start < end {
                // What a later reading adds to a month it adds to its last day.
                let over = zone.end(segment.period);
                let last = over.saturating_sub(SignedDuration::from_micros(1)).unwrap_or(over);
                let entry = days.entry((segment, zone.date_of(at.min(last)).to_string())).or_default();
                entry.0.absorb(part);
                entry.1 += i64::from(at < over);
            }
        }
    }
    let mut segments: BTreeMap<Segment, Quantity> = BTreeMap::new();
    for ((segment, day), (part, readings)) in days {
        segments.entry(segment).or_default().absorb(part.clone());
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO subtotal (series, measure, segment, day, period, sum, max, last, covered, missed,
                                       gaps, resets, readings)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                series,
                measure.name(),
                micros(segment.start),
                day,
                segment.period.to_string(),
                part.sum.to_string(),
                part.max.map(|max| max.to_string()),
                part.last.map(|last| last.to_string()),
                part.covered,
                part.missed,
                part.gaps,
                part.resets,
                readings
            ])?;
    }
    let mut quantities = Quantities::of(connection)?;
    for (segment, counted) in segments {
        // What is kept from here on is what the bill was made of; a ledger that disagrees with itself keeps its readings.
        let kept = quantities.load(series, measure, segment.start)?.unwrap_or_default();
        if kept != counted {
            return Err(rusqlite::Error::ToSqlConversionFailure(
                format!("series {series} does not agree with its readings in {period}; run `recount --write` first").into(),
            ));
        }
    }
    Ok(())
}

/// Replaces the readings before the cut by their identities. The last of them stay for the month after.
fn spend(connection: &Connection, series: i64, period: BillingPeriod, cut: i64) -> rusqlite::Result<usize> {
    let (source, is_delta): (i64, bool) = connection.query_row(
        "SELECT source.id, source.kind = 'delta' FROM series JOIN source ON source.id = series.source
         WHERE series.id = ?",
        [series],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mut query = connection
        .prepare_cached("SELECT at, id, start, value FROM reading WHERE series = ?1 AND at < ?2")?;
    let mut rows = query.query([series, cut])?;
    while let Some(row) = rows.next()? {
        let (at, id, start): (i64, String, Option<i64>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let Some(value) = row.get::<_, Option<String>>(3)? else { continue };
        if id.is_empty() {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO spent_sample (series, at, start, value) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![series, at, start, value])?;
            continue;
        }
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO spent_id (identity, value, print, period) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![identity(source, &id), value, print(at, start, &value), period.to_string()])?;
        connection
            .prepare_cached("DELETE FROM identity WHERE source = ?1 AND id = ?2")?
            .execute(params![source, id])?;
    }
    // A delta needs no neighbours; of all else, also of what has an id, the next month starts from the last.
    let stays = "SELECT max(at) FROM reading WHERE series = ?1 AND at < ?2";
    let gone = connection
        .prepare_cached(&format!(
            "DELETE FROM reading WHERE series = ?1 AND at < ?2
               AND (?3 OR (at <> ({stays}) AND at <> coalesce(({stays} AND value IS NOT NULL), 0)))"
        ))?
        .execute(params![series, cut, is_delta])?;
    connection.prepare_cached("UPDATE series SET compacted = ?2 WHERE id = ?1")?.execute([series, cut])?;
    Ok(gone)
}

/// What is kept of the quantities of compacted segments: the sums of their days.
pub(super) fn subtotals(
    connection: &Connection,
    series: i64,
    measure: Measure,
) -> rusqlite::Result<BTreeMap<(i64, BillingPeriod), Quantity>> {
    let mut quantities: BTreeMap<(i64, BillingPeriod), Quantity> = BTreeMap::new();
    let mut query = connection.prepare_cached(
        "SELECT segment, period, sum, max, last, covered, missed, gaps, resets FROM subtotal
         WHERE series = ?1 AND measure = ?2 ORDER BY segment, day",
    )?;
    let mut rows = query.query(params![series, measure.name()])?;
    while let Some(row) = rows.next()? {
        quantities.entry((row.get(0)?, period_column(row, 1)?)).or_default().absorb(quantity(row, 2)?);
    }
    Ok(quantities)
}

/// Whether the reading is one of those that are no longer kept.
pub(super) fn spent(
    connection: &Connection,
    source: i64,
    series: i64,
    row: &Row,
) -> rusqlite::Result<Option<Spent>> {
    let value = row.value.as_deref().unwrap_or_default();
    if row.id.is_empty() {
        return connection
            .prepare_cached("SELECT value, start FROM spent_sample WHERE series = ?1 AND at = ?2")?
            .query_row([series, row.at], |found| {
                let (counted, start): (String, Option<i64>) = (found.get(0)?, found.get(1)?);
                Ok(Spent { same: counted == value && start == row.start, value: counted })
            })
            .optional();
    }
    connection
        .prepare_cached("SELECT value, print FROM spent_id WHERE identity = ?")?
        .query_row([identity(source, &row.id)], |found| {
            let same = found.get::<_, [u8; 8]>(1)? == print(row.at, row.start, value);
            Ok(Spent { value: found.get(0)?, same })
        })
        .optional()
}

/// Stable over versions of this program and of the compiler.
const NAMESPACE: Uuid = Uuid::from_u128(0x8a1f_6f0e_52a4_4c0f_9d0b_6c1d_2f7e_91b3);

/// The identity of a reading with an id of its own (law 2), wide enough that no two ever share it.
fn identity(source: i64, id: &str) -> [u8; 16] {
    Uuid::new_v5(&NAMESPACE, format!("{source} {id}").as_bytes()).into_bytes()
}

/// What must be equal for a reading to be the same one unchanged.
fn print(at: i64, start: Option<i64>, value: &str) -> [u8; 8] {
    let hash = Uuid::new_v5(&NAMESPACE, format!("{at} {start:?} {value}").as_bytes());
    hash.as_u64_pair().0.to_be_bytes()
}
