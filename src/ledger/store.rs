//! Puts the readings of one run where they belong: source, series, and the row that has their identity (law 2).
//!
//! It finds out whether a reading is new, the same again, a correction, or one for a month that is compacted; what that
//! changes is counted by `quantify`. It never judges whether a value is plausible, only whether its time is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::ingest::Head;
use super::quantify::{Met, Touched};
use super::rules::{Placed, place};
use super::{Rulebook, compact, instant, micros};
use crate::collectors::{Bearing, Ended, Quarantined, SeriesFilter};
use crate::metering::measure::{Point, RunFacts};
use crate::metering::reading::{Epoch, Kind, Reading, Span};

/// A reading from further ahead than this is a clock gone wrong.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// Nobody sold computing through Waldur before; a machine that boots in 1970 did not measure anything then.
const EARLIEST_SECOND: i64 = 1_262_304_000; // 2010-01-01T00:00:00Z

pub(super) enum Put {
    New,
    Corrected,
    Same,
    Late,
    Refused(Quarantined),
}

/// Puts the readings of one run where they belong.
pub(super) struct Store<'a> {
    connection: &'a Connection,
    rulebook: &'a Rulebook,
    run: &'a Head,
    run_id: i64,
    facts: RunFacts,
    sources: HashMap<String, (i64, Kind)>,
    /// Series of which something came.
    seen: HashSet<i64>,
    /// The resources of targets.
    resources: HashMap<i64, Option<Rc<str>>>,
    find_series: CachedStatement<'a>,
    insert: CachedStatement<'a>,
}

impl<'a> Store<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        rulebook: &'a Rulebook,
        run: &'a Head,
        run_id: i64,
        facts: RunFacts,
    ) -> rusqlite::Result<Self> {
        Ok(Store {
            connection,
            rulebook,
            run,
            run_id,
            facts,
            sources: HashMap::new(),
            seen: HashSet::new(),
            resources: HashMap::new(),
            find_series: connection.prepare_cached(
                "SELECT id, compacted, target, live FROM series WHERE source = ?1 AND labels = ?2",
            )?,
            insert: connection.prepare_cached(
                "INSERT OR REPLACE INTO reading (series, at, id, start, value, epoch, began, run)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?,
        })
    }

    pub(super) fn put(&mut self, reading: Reading, touched: &mut Touched<'_>) -> rusqlite::Result<Put> {
        let refuse = |reading: &Reading, reason: String| {
            let what = format!("{} {} {:?}", reading.name, reading.value, reading.labels);
            let bears_on = Bearing::Some(vec![SeriesFilter {
                name: Some(reading.name.clone()),
                labels: reading.labels.clone(),
                ..SeriesFilter::default()
            }]);
            Ok(Put::Refused(Quarantined { what: what.chars().take(200).collect(), reason, bears_on }))
        };
        if let Some(reason) = implausible(&reading, self.run.at.max(self.run.finished)) {
            return refuse(&reading, reason);
        }
        if reading.kind == Kind::Total
            && let Err(reason) = self.rulebook.zone.check_total(reading.span.start(), reading.span.end())
        {
            return refuse(&reading, reason);
        }
        let (source, kind) = self.source(&reading)?;
        if kind != reading.kind {
            let reason = format!("it is a {}, but earlier readings of that name were a {kind}", reading.kind);
            return refuse(&reading, reason);
        }
        let met = self.series(source, kind, &reading)?;
        let series = met.id;
        self.seen.insert(series);
        let row = Row::of(&reading);
        // Only what has been compacted can have been spent.
        if met.compacted.is_some() || !row.id.is_empty() {
            match compact::spent(self.connection, source, series, &row)? {
                Some(earlier) if earlier.same => return Ok(Put::Same),
                Some(earlier) => return self.late(series, &row, Some(earlier.value)),
                None if met.compacted.is_some_and(|until| row.at < until) => {
                    return self.late(series, &row, None);
                }
                None => {}
            }
        }
        let change = touched.meet(&met)?;
        // What lies behind all that is known of its series, and has no id of its own, was not seen before.
        let before = match row.id.is_empty() && change.is_behind(instant(row.at)) {
            true => None,
            false => self.known(source, series, &row)?,
        };
        if let Some((old_series, old, _)) = &before
            && *old_series == series
            && *old == row
        {
            return Ok(Put::Same);
        }
        if let Some((old_series, old, facts)) = &before {
            let elsewhere = match *old_series == series {
                true => None,
                false => Some(self.met(*old_series, source, kind)?),
            };
            touched.meet(elsewhere.as_ref().unwrap_or(&met))?.removed(old.point(*facts));
            self.connection
                .prepare_cached("DELETE FROM reading WHERE series = ?1 AND at = ?2 AND id = ?3")?
                .execute(params![old_series, old.at, old.id])?;
        }
        self.insert.execute(params![
            series,
            row.at,
            row.id,
            row.start,
            row.value,
            row.epoch,
            row.began,
            self.run_id
        ])?;
        if !row.id.is_empty() {
            self.connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO identity (source, id, series, at) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![source, row.id, series, row.at])?;
        }
        touched.meet(&met)?.added(row.point(self.facts));
        // A marker that the series was not seen is no reading; one that takes its place is new.
        let new = before.is_none_or(|(_, old, _)| old.value.is_none());
        Ok(if new { Put::New } else { Put::Corrected })
    }

    fn source(&mut self, reading: &Reading) -> rusqlite::Result<(i64, Kind)> {
        if let Some(known) = self.sources.get(&reading.name) {
            return Ok(*known);
        }
        self.connection
            .prepare_cached(
                "INSERT OR IGNORE INTO source (collector, name, kind, unit) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![self.run.collector, reading.name, reading.kind.name(), reading.unit])?;
        let known = self.connection.query_row(
            "SELECT id, kind FROM source WHERE collector = ?1 AND name = ?2",
            params![self.run.collector, reading.name],
            |row| Ok((row.get(0)?, row.get::<_, String>(1)?)),
        )?;
        let known = (known.0, known.1.parse().unwrap_or(reading.kind));
        self.sources.insert(reading.name.clone(), known);
        Ok(known)
    }

    /// Records a reading of a month that is compacted; it changes no amount.
    fn late(&self, series: i64, row: &Row, earlier: Option<String>) -> rusqlite::Result<Put> {
        let new = self
            .connection
            .prepare_cached(
                "INSERT INTO late_correction (series, at, id, start, value, earlier, run)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (series, at, id) DO UPDATE SET value = ?5, run = ?7 WHERE value <> ?5",
            )?
            .execute(params![series, row.at, row.id, row.start, row.value, earlier, self.run_id])?;
        Ok(if new > 0 { Put::Late } else { Put::Same })
    }

    /// The series of a reading; it is made if it is new.
    fn series(&mut self, source: i64, kind: Kind, reading: &Reading) -> rusqlite::Result<Met> {
        let labels = labels_text(&reading.labels);
        let known = self
            .find_series
            .query_row(params![source, labels], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get(1)?,
                    row.get::<_, Option<i64>>(2)?,
                    row.get::<_, bool>(3)?,
                ))
            })
            .optional()?;
        if let Some((id, compacted, target, live)) = known {
            if !live {
                self.connection.prepare_cached("UPDATE series SET live = 1 WHERE id = ?1")?.execute([id])?;
            }
            return Ok(Met { id, source, kind, compacted, resource: self.resource(target)? });
        }
        let placed = match self.rulebook.of(&self.run.collector) {
            Some(rules) => place(self.connection, rules, &reading.labels, self.run.finished)?,
            None => Placed::nowhere("no rules"),
        };
        self.connection
            .prepare_cached(
                "INSERT INTO series (source, labels, target, user, nowhere) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![source, labels, placed.target, placed.user, placed.nowhere])?;
        let id = self.connection.last_insert_rowid();
        Ok(Met { id, source, kind, compacted: None, resource: self.resource(placed.target)? })
    }

    fn met(&mut self, id: i64, source: i64, kind: Kind) -> rusqlite::Result<Met> {
        let (compacted, target) = self
            .connection
            .prepare_cached("SELECT compacted, target FROM series WHERE id = ?")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Met { id, source, kind, compacted, resource: self.resource(target)? })
    }

    fn resource(&mut self, target: Option<i64>) -> rusqlite::Result<Option<Rc<str>>> {
        let Some(target) = target else { return Ok(None) };
        if let Some(known) = self.resources.get(&target) {
            return Ok(known.clone());
        }
        let resource: Option<Rc<str>> = self
            .connection
            .prepare_cached("SELECT resource FROM target WHERE id = ?")?
            .query_row([target], |row| row.get(0))?;
        self.resources.insert(target, resource.clone());
        Ok(resource)
    }

    /// A complete run that does not see a series ends it there, unless its source tells ends by itself.
    pub(super) fn end_unseen(&mut self, told: &Ended, touched: &mut Touched<'_>) -> rusqlite::Result<()> {
        let mut query = self.connection.prepare_cached(
            "SELECT series.id, series.source, source.kind, source.name FROM series JOIN source ON source.id = series.source
             WHERE source.collector = ?1 AND source.kind IN ('counter', 'gauge') AND series.live = 1",
        )?;
        let mut unseen: Vec<(i64, i64, Kind)> = Vec::new();
        let mut rows = query.query([&self.run.collector])?;
        while let Some(row) = rows.next()? {
            let series = row.get(0)?;
            if self.seen.contains(&series) || told.contains_key(row.get_ref(3)?.as_str()?) {
                continue;
            }
            let kind =
                if row.get_ref(2)?.as_str()? == Kind::Counter.name() { Kind::Counter } else { Kind::Gauge };
            unseen.push((series, row.get(1)?, kind));
        }
        for (series, source, kind) in unseen {
            self.connection.prepare_cached("UPDATE series SET live = 0 WHERE id = ?1")?.execute([series])?;
            let change = touched.meet(&self.met(series, source, kind)?)?;
            let marked = self
                .connection
                .prepare_cached(
                    "INSERT INTO reading (series, at, id, value, run)
                     SELECT ?1, ?2, '', NULL, ?3
                     WHERE NOT EXISTS (SELECT 1 FROM reading WHERE series = ?1 AND at >= ?2)",
                )?
                .execute(params![series, micros(self.run.at), self.run_id])?;
            if marked > 0 {
                change.added(self.gone(self.run.at));
            }
        }
        Ok(())
    }

    /// Marks the ends of gauges that a source with history tells. A reading of the same instant knows better, and what
    /// is compacted stays as it is. A counter of such a source goes on where it comes back.
    pub(super) fn end(&mut self, told: &Ended, touched: &mut Touched<'_>) -> rusqlite::Result<()> {
        for (name, ends) in told {
            for (labels, at) in ends {
                let at = micros(*at);
                let known = self
                    .connection
                    .prepare_cached(
                        "SELECT series.id, series.source FROM series JOIN source ON source.id = series.source
                         WHERE source.collector = ?1 AND source.name = ?2 AND source.kind = 'gauge'
                           AND series.labels = ?3 AND ?4 >= coalesce(series.compacted, ?4)",
                    )?
                    .query_row(params![self.run.collector, name, labels_text(labels), at], |row| {
                        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
                    })
                    .optional()?;
                let Some((series, source)) = known else { continue };
                let change = touched.meet(&self.met(series, source, Kind::Gauge)?)?;
                let marked = self
                    .connection
                    .prepare_cached(
                        "INSERT INTO reading (series, at, id, value, run)
                         SELECT ?1, ?2, '', NULL, ?3
                         WHERE NOT EXISTS (SELECT 1 FROM reading WHERE series = ?1 AND at = ?2)",
                    )?
                    .execute(params![series, at, self.run_id])?;
                if marked > 0 {
                    change.added(self.gone(instant(at)));
                }
            }
        }
        Ok(())
    }

    fn gone(&self, at: Timestamp) -> Point {
        Point { at, start: None, value: None, epoch: Epoch::default(), run: self.facts }
    }

    /// The row that has this reading's identity, if there is one: by its id, else by series and time. With what was
    /// known when it came in and decides how far back it may have counted.
    fn known(&self, source: i64, series: i64, row: &Row) -> rusqlite::Result<Option<(i64, Row, RunFacts)>> {
        let mut place = (series, row.at);
        if !row.id.is_empty() {
            let found = self
                .connection
                .prepare_cached("SELECT series, at FROM identity WHERE source = ?1 AND id = ?2")?
                .query_row(params![source, row.id], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            match found {
                Some(found) => place = found,
                None => return Ok(None),
            }
        }
        self.connection
            .prepare_cached(
                "SELECT reading.at, reading.id, start, value, epoch, began, run.listed
                 FROM reading JOIN run ON run.id = reading.run
                 WHERE series = ?1 AND reading.at = ?2 AND reading.id = ?3",
            )?
            .query_row(params![place.0, place.1, row.id], |row| {
                Ok((
                    place.0,
                    Row {
                        at: row.get(0)?,
                        id: row.get(1)?,
                        start: row.get(2)?,
                        value: row.get(3)?,
                        epoch: row.get(4)?,
                        began: row.get(5)?,
                    },
                    RunFacts { listed: row.get::<_, Option<i64>>(6)?.map(instant), ..RunFacts::default() },
                ))
            })
            .optional()
    }
}

/// A reading as a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) at: i64,
    pub(super) id: String,
    pub(super) start: Option<i64>,
    pub(super) value: Option<String>,
    epoch: Option<String>,
    began: Option<i64>,
}

impl Row {
    fn of(reading: &Reading) -> Row {
        Row {
            at: micros(reading.span.end()),
            id: reading.id.clone().unwrap_or_default(),
            start: match reading.span {
                Span::At(_) => None,
                Span::Interval { start, .. } => Some(micros(start)),
            },
            // 1.50 and 1.5 are the same value.
            value: Some(reading.value.normalize().to_string()),
            epoch: reading.epoch.id.clone(),
            began: reading.epoch.began.map(micros),
        }
    }

    /// The row as metering sees it, with what is known of the run that brought it.
    fn point(&self, run: RunFacts) -> Point {
        Point {
            at: instant(self.at),
            start: self.start.map(instant),
            value: self.value.as_ref().and_then(|text| text.parse().ok()),
            epoch: Epoch { id: self.epoch.clone(), began: self.began.map(instant), shared: false },
            run,
        }
    }
}

/// Labels as the ledger keeps them: one text for one set of labels.
fn labels_text(labels: &BTreeMap<String, String>) -> String {
    serde_json::to_string(labels).unwrap_or_default()
}

fn implausible(reading: &Reading, now: Timestamp) -> Option<String> {
    let (start, end) = (reading.span.start(), reading.span.end());
    if end > now.saturating_add(AHEAD).unwrap_or(Timestamp::MAX) {
        return Some(format!("its time {end} lies in the future (now is {now}); is a clock wrong?"));
    }
    let earliest = reading.epoch.began.map_or(start, |began| began.min(start));
    if earliest.as_second() < EARLIEST_SECOND {
        return Some(format!("its time {earliest} lies before 2010; is a clock wrong?"));
    }
    None
}
