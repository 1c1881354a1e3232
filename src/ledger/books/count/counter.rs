//! Counts series one after the other, and keeps what came of it some at a time.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use jiff::Timestamp;

use super::Changed;
use super::changes::Change;
use super::counted::{Counted, at_least, limit};
use crate::ledger::books::cuts::Timelines;
use crate::ledger::books::quantities::{Additions, POINTS_FROM, RunRow, point};
use crate::ledger::books::targets;
use crate::ledger::db::columns::{instant, micros, unreadable};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, ToSql, params};
use crate::metering::measure::{Measure, Point, Quantity};
use crate::metering::period::{BillingPeriod, Segment, Timeline};
use crate::metering::reading::{Kind, Labels};
use crate::metering::series_state::{SeriesState, sum};

/// What must be known of a series to count it.
pub(super) struct SeriesFacts {
    series: i64,
    source: i64,
    kind: Kind,
    /// All ways in which it is counted in some month; at least one, so that it is known how far it was counted.
    measures: Rc<[Measure]>,
    /// Where some of them depend on those.
    labels: Labels,
    timeline: Rc<Timeline>,
}

/// A source: its collector, name, and all its measures; and how it is counted in some month.
type Source = (String, String, Rc<[Measure]>, Rc<Counted>);

pub(super) struct Counter<'a> {
    connection: &'a Connection,
    in_force: &'a InForce,
    pub(super) timelines: Timelines<'a>,
    additions: Additions,
    /// How far series were counted, and their last readings, as far as those are to be written.
    reached: Vec<(i64, Option<String>, Option<i64>)>,
    /// How far series had been counted before their first reading of a month, likewise.
    months: Vec<(i64, String, String)>,
    sources: HashMap<i64, Source>,
    /// By rules and source.
    counted: HashMap<(i64, i64), Rc<Counted>>,
    runs: HashMap<i64, RunRow>,
    /// Segments whose quantities changed, by series and source.
    changed: BTreeSet<(i64, i64, Segment)>,
    /// Readings that came with this run and that are not what they seem, in words, by series, segment and instant.
    told: Vec<(i64, i64, Segment, Timestamp, EventKind, String)>,
    /// Collectors with readings of months whose rules do not know them.
    unruled: BTreeSet<(String, BillingPeriod)>,
}

impl<'a> Counter<'a> {
    pub(super) fn new(connection: &'a Connection, in_force: &'a InForce) -> Self {
        Counter {
            connection,
            in_force,
            timelines: Timelines::new(connection, in_force),
            additions: Additions::default(),
            reached: Vec::new(),
            months: Vec::new(),
            sources: HashMap::new(),
            counted: HashMap::new(),
            runs: HashMap::new(),
            changed: BTreeSet::new(),
            told: Vec::new(),
            unruled: BTreeSet::new(),
        }
    }

    /// Notes how far a series was counted, and its last reading.
    pub(super) fn reached(
        &mut self,
        series: i64,
        state: Option<String>,
        last: Option<Timestamp>,
    ) -> sql::Result<()> {
        self.reached.push((series, state, last.map(micros)));
        if self.reached.len() + self.additions.len() >= KEPT_TOGETHER { self.keep() } else { Ok(()) }
    }

    /// Writes what is to be written.
    pub(super) fn keep(&mut self) -> sql::Result<()> {
        self.additions.keep(self.connection)?;
        let months: Vec<[&dyn ToSql; 3]> =
            self.months.iter().map(|(series, month, state)| [series as &dyn ToSql, month, state]).collect();
        self.connection.execute_rows(
            "INSERT INTO month_state (series, month, state) VALUES {rows}
             ON CONFLICT (series, month) DO NOTHING",
            &months,
        )?;
        self.months.clear();
        let reached: Vec<[&dyn ToSql; 3]> =
            self.reached.iter().map(|(series, state, last)| [series as &dyn ToSql, state, last]).collect();
        self.connection.execute_rows(
            "UPDATE series SET state = coalesce(v.column2, state), last = coalesce(v.column3, last)
             FROM (VALUES {rows}) v WHERE series.id = v.column1",
            &reached,
        )?;
        self.reached.clear();
        Ok(())
    }

    pub(super) fn facts(&mut self, series: i64, source: i64, kind: Kind) -> sql::Result<SeriesFacts> {
        let (mut measures, counted) = match self.sources.entry(source) {
            Entry::Occupied(known) => (known.get().2.clone(), known.get().3.clone()),
            Entry::Vacant(new) => {
                let (collector, name): (String, String) = self
                    .connection
                    .prepare_cached("SELECT collector, name FROM source WHERE id = ?")?
                    .query_row([source], |row| Ok((row.get(0)?, row.get(1)?)))?;
                let rules =
                    self.in_force.effective().into_iter().filter_map(|version| version.of(&collector));
                let meters = rules.flat_map(|rules| &rules.meters).filter(|meter| meter.reading == name);
                let mut counted = Counted::default();
                for meter in meters {
                    if let Ok(measure) = meter.measure(kind) {
                        counted.add(meter, measure);
                    }
                }
                let measures = at_least(kind, counted.measures.iter().copied());
                let known = new.insert((collector, name, measures, Rc::new(counted)));
                (known.2.clone(), known.3.clone())
            }
        };
        let mut labels = Labels::default();
        if !counted.by_weight.is_empty() {
            let text: String = self
                .connection
                .prepare_cached("SELECT labels FROM series WHERE id = ?")?
                .query_row([series], |row| row.get(0))?;
            labels = serde_json::from_str(&text).map_err(|error| unreadable(0, error))?;
            measures = at_least(kind, counted.of(&labels));
        }
        let timeline = self.timelines.of_series(series)?;
        Ok(SeriesFacts { series, source, kind, measures, labels, timeline })
    }

    /// What is counted over a source by the rules of a month.
    fn counted(&mut self, source: i64, kind: Kind, period: BillingPeriod) -> Rc<Counted> {
        let version = self.in_force.in_month(period);
        let known = self.counted.entry((version.id, source));
        let sources = &self.sources;
        known
            .or_insert_with(|| {
                let Some((collector, name, ..)) = sources.get(&source) else { return Rc::default() };
                let meters = version.of(collector).map(|rules| rules.meters.as_slice()).unwrap_or_default();
                let mut counted = Counted::default();
                for meter in meters.iter().filter(|meter| meter.reading == *name) {
                    if let Ok(measure) = meter.measure(kind) {
                        counted.add(meter, measure);
                        counted.components.push(meter.component.clone());
                    }
                }
                Rc::new(counted)
            })
            .clone()
    }

    /// Adds what readings of a month add, as far as that month's rules count it.
    fn put(
        &mut self,
        facts: &SeriesFacts,
        measure: Measure,
        month: BillingPeriod,
        parts: impl IntoIterator<Item = (Segment, Quantity)>,
    ) -> sql::Result<()> {
        for (segment, part) in parts {
            let counted = self.counted(facts.source, facts.kind, segment.period);
            if !counted.of(&facts.labels).any(|of| of == measure) {
                self.note_unruled(facts, segment.period);
                continue;
            }
            self.additions.add(facts.series, measure, segment, month, part);
            self.changed.insert((facts.series, facts.source, segment));
        }
        Ok(())
    }

    /// Notes readings of a month whose rules do not know their collector, which rules of later months do.
    fn note_unruled(&mut self, facts: &SeriesFacts, period: BillingPeriod) {
        let Some((collector, ..)) = self.sources.get(&facts.source) else { return };
        let known = self.in_force.in_month(period).of(collector).is_some();
        if !known && self.in_force.latest().of(collector).is_some() {
            self.unruled.insert((collector.clone(), period));
        }
    }

    /// A delta needs no neighbours: what it adds can be taken back when it is replaced.
    pub(super) fn exchange(&mut self, facts: &SeriesFacts, change: &Change) -> sql::Result<()> {
        for &measure in facts.measures.iter() {
            let mut parts: BTreeMap<(BillingPeriod, Segment), Quantity> = BTreeMap::new();
            for (point, taken) in change
                .added
                .iter()
                .map(|point| (point, false))
                .chain(change.removed.iter().map(|point| (point, true)))
            {
                let month = self.in_force.zone.period_of(point.at);
                for (segment, part) in sum(limit(measure), point, &facts.timeline) {
                    if !taken && part.holds > 0 {
                        let (kind, words) = oddity(self.connection, facts.series, point, &part)?;
                        self.told.push((facts.series, facts.source, segment, point.at, kind, words));
                    }
                    let sums = parts.entry((month, segment)).or_default();
                    if taken { sums.take_back(part) } else { sums.absorb(part) }
                }
            }
            for ((month, segment), part) in parts {
                self.put(facts, measure, month, [(segment, part)])?;
            }
        }
        Ok(())
    }

    /// Adds what readings behind all others add.
    pub(super) fn append(&mut self, facts: &SeriesFacts, change: &Change) -> sql::Result<()> {
        let state = trail(change.met.state.as_deref())?;
        let month = change.met.last.map(|last| self.in_force.zone.period_of(last));
        self.advance(facts, state, month, (change.added.iter().cloned().map(Ok), true))
    }

    /// Notes that what is counted of a series from a month on changes.
    pub(super) fn note_counted(&mut self, facts: &SeriesFacts, month: &str) -> sql::Result<()> {
        let counted: Vec<(i64, String)> = self
            .connection
            .prepare_cached(
                "SELECT DISTINCT segment, period FROM quantity WHERE series = ?1 AND month >= ?2",
            )?
            .query_map(params![facts.series, month], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<sql::Result<_>>()?;
        for (segment, period) in counted {
            let Ok(period) = period.parse() else { continue };
            // Its end matters to nobody.
            let at = instant(segment);
            self.changed.insert((facts.series, facts.source, Segment { start: at, end: at, period }));
        }
        Ok(())
    }

    /// Counts again what readings from this instant's month on add.
    pub(super) fn recount(&mut self, facts: &SeriesFacts, from: Timestamp) -> sql::Result<()> {
        self.keep()?;
        let zone = &self.in_force.zone;
        let month = zone.period_of(from.max(EARLIEST));
        let (start, name) = (micros(zone.start(month)), month.to_string());
        self.note_counted(facts, &name)?;
        let before: Option<String> = self
            .connection
            .prepare_cached(
                "SELECT state FROM month_state WHERE series = ?1 AND month >= ?2 ORDER BY month LIMIT 1",
            )?
            .query_row(params![facts.series, name], |row| row.get(0))
            .optional()?;
        let state = match before {
            Some(text) => state(&text)?,
            // Nothing of that month or later was counted yet.
            None => self.state_of(facts.series)?,
        };
        for table in ["quantity", "month_state"] {
            self.connection
                .prepare_cached(&format!("DELETE FROM {table} WHERE series = ?1 AND month >= ?2"))?
                .execute(params![facts.series, name])?;
        }
        let connection = self.connection;
        let (source, labels): (String, String) = connection
            .prepare_cached(
                "SELECT source.name, series.labels FROM series JOIN source ON source.id = series.source WHERE series.id = ?",
            )?
            .query_row([facts.series], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut query = connection.prepare_cached(POINTS_FROM)?;
        let mut rows = query.query(params![facts.series, start])?;
        if facts.kind == Kind::Delta {
            while let Some(row) = rows.next()? {
                let point = point(&row)?;
                let month = self.in_force.zone.period_of(point.at);
                for &measure in facts.measures.iter() {
                    self.put(facts, measure, month, sum(limit(measure), &point, &facts.timeline))?;
                }
            }
            return Ok(());
        }
        let mut points = Vec::new();
        while let Some(row) = rows.next()? {
            let mut point = point(&row)?;
            let run: i64 = row.get(6)?;
            point.run = match self.runs.entry(run) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(RunRow::of(connection, run)?),
            }
            .facts(&source, &labels, row.get_ref(7)?.as_str()?);
            points.push(point);
        }
        drop(rows);
        self.advance(facts, state, None, (points.into_iter().map(Ok), false))
    }

    /// Takes points through the definition, in order; `month`: that of the point before.
    fn advance(
        &mut self,
        facts: &SeriesFacts,
        state: SeriesState,
        mut month: Option<BillingPeriod>,
        (points, tells): (impl Iterator<Item = sql::Result<Point>>, bool),
    ) -> sql::Result<()> {
        let mut trails: Vec<(Measure, SeriesState)> =
            facts.measures.iter().map(|measure| (*measure, state.clone())).collect();
        let mut parts: BTreeMap<(usize, Segment), Quantity> = BTreeMap::new();
        let mut last = None;
        for point in points {
            let point = point?;
            let of_point = self.in_force.zone.period_of(point.at);
            if month != Some(of_point) {
                if let Some(month) = month {
                    self.put_all(facts, month, std::mem::take(&mut parts))?;
                }
                let before = trails.first().map_or(&state, |(_, trail)| trail);
                self.months.push((facts.series, of_point.to_string(), text(before)?));
                month = Some(of_point);
            }
            last = Some(point.at);
            for (place, (measure, trail)) in trails.iter_mut().enumerate() {
                for (segment, part) in trail.advance(*measure, point.clone(), &facts.timeline) {
                    if tells && part.resets + part.dips + part.holds > 0 {
                        let (kind, words) = oddity(self.connection, facts.series, &point, &part)?;
                        self.told.push((facts.series, facts.source, segment, point.at, kind, words));
                    }
                    parts.entry((place, segment)).or_default().absorb(part);
                }
            }
        }
        if let Some(month) = month {
            self.put_all(facts, month, parts)?;
        }
        let after = trails.first().map_or(&state, |(_, trail)| trail);
        let after = text(after)?;
        self.reached(facts.series, Some(after), last)
    }

    fn put_all(
        &mut self,
        facts: &SeriesFacts,
        month: BillingPeriod,
        parts: BTreeMap<(usize, Segment), Quantity>,
    ) -> sql::Result<()> {
        for ((place, segment), part) in parts {
            let Some(&measure) = facts.measures.get(place) else { continue };
            self.put(facts, measure, month, [(segment, part)])?;
        }
        Ok(())
    }

    /// How far a series was counted.
    fn state_of(&self, series: i64) -> sql::Result<SeriesState> {
        let known: Option<String> = self
            .connection
            .prepare_cached("SELECT state FROM series WHERE id = ?")?
            .query_row([series], |row| row.get(0))?;
        trail(known.as_deref())
    }

    /// Tells of readings that are not what they seem, once each.
    fn tell(&mut self) -> sql::Result<()> {
        for (collector, period) in std::mem::take(&mut self.unruled) {
            let month = period.to_string();
            let about = About { period: &month, ..About::default() };
            let words = format!(
                "readings of {collector} in {period} are not counted: the rules of that month do not know it (where it goes \
                 on in place of another collector, `continues: NAME` says so)"
            );
            tell(self.connection, about, EventKind::Readings, &words, self.in_force.zone.start(period))?;
        }
        for (series, source, segment, at, event, words) in std::mem::take(&mut self.told) {
            let version = self.in_force.in_month(segment.period);
            let target = self.timelines.target_of(version, series)?;
            let mappings = target.map(|target| self.timelines.mappings(target)).transpose()?;
            let resource = mappings.as_deref().and_then(|mappings| targets::at(mappings, segment.start));
            let kind = self.kind_of(source)?;
            let period = segment.period.to_string();
            let components = self.counted(source, kind, segment.period).components.clone();
            for component in &components {
                let about = About { resource: resource.unwrap_or_default(), period: &period, component };
                tell(self.connection, about, event, &words, at)?;
            }
        }
        Ok(())
    }

    /// Notes what the changed segments are part of.
    pub(super) fn finish(mut self, changed: &mut Changed) -> sql::Result<()> {
        self.keep()?;
        self.tell()?;
        let segments = std::mem::take(&mut self.changed);
        let mut last: Option<(i64, i64, Timestamp)> = None;
        for (series, source, segment) in segments {
            if last == Some((series, source, segment.start)) {
                continue;
            }
            last = Some((series, source, segment.start));
            let version = self.in_force.in_month(segment.period);
            let Some(target) = self.timelines.target_of(version, series)? else { continue };
            let mappings = self.timelines.mappings(target)?;
            let Some(resource) = targets::at(&mappings, segment.start) else { continue };
            let kind: Kind = self.kind_of(source)?;
            for component in &self.counted(source, kind, segment.period).components {
                changed.insert((resource.to_owned(), segment.period.to_string(), component.clone()));
            }
        }
        Ok(())
    }

    fn kind_of(&self, source: i64) -> sql::Result<Kind> {
        let text: String = self
            .connection
            .prepare_cached("SELECT kind FROM source WHERE id = ?")?
            .query_row([source], |row| row.get(0))?;
        text.parse().map_err(|error: String| unreadable(0, error))
    }
}

/// What is odd about a reading, for people.
fn oddity(
    connection: &Connection,
    series: i64,
    point: &Point,
    part: &Quantity,
) -> sql::Result<(EventKind, String)> {
    let (name, labels): (String, String) = connection
        .prepare_cached(
            "SELECT source.name, series.labels FROM series JOIN source ON source.id = series.source WHERE series.id = ?",
        )?
        .query_row([series], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let before: Option<String> = connection
        .prepare_cached(
            "SELECT value FROM reading WHERE series = ?1 AND at < ?2 AND value IS NOT NULL ORDER BY at DESC LIMIT 1",
        )?
        .query_row(params![series, micros(point.at)], |row| row.get(0))
        .optional()?;
    let from = before.map(|before| format!("from {before} ")).unwrap_or_default();
    let to = point.value.map(|value| value.to_string()).unwrap_or_default();
    let what = if part.holds > 0 {
        format!(
            "held: {} of it is not counted: it is more than the meter's `at_most`, or more than ten times the highest rate \
             so far, or the counter had fallen before, or its source tells a new start with each look, or one since which it \
             can't have come so far, or it comes from another file of its host (which is installed anew, put back, or another \
             machine). If it was used: raise `at_most`, or correct the source and run `collect NAME --since`",
            part.held
        )
    } else if part.resets > 0 {
        "the counter was reset: its new value counts from zero".to_owned()
    } else {
        "the counter fell without a reset: nothing counts until its old level is passed, for at most a day"
            .to_owned()
    };
    let kind = if part.holds > 0 { EventKind::Held } else { EventKind::Counter };
    let words = format!("`{name}` {labels} goes {from}to {to} at {}: {what}", point.at);
    Ok((kind, words))
}

/// So much is written together.
const KEPT_TOGETHER: usize = 1_000;

/// No reading is from before.
const EARLIEST: Timestamp = Timestamp::UNIX_EPOCH;

/// How far a series was counted; nothing is known of one that never was.
fn trail(known: Option<&str>) -> sql::Result<SeriesState> {
    known.map_or_else(|| Ok(SeriesState::default()), state)
}

fn state(text: &str) -> sql::Result<SeriesState> {
    serde_json::from_str(text).map_err(|error| unreadable(0, error))
}

fn text(trail: &SeriesState) -> sql::Result<String> {
    serde_json::to_string(trail).map_err(|error| unreadable(0, error))
}
