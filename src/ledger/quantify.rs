//! Keeps the quantities of each series in step with its readings.
//!
//! A reading that comes last in its series only adds what it adds. Any other (late, corrected, removed) has the
//! segments around it counted again from the readings. Both are `Trail::advance`, so both give what a recount gives.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::ingest::Restate;
use super::rows::{POINTS_FROM, Quantities, Trails, period_column, point, trail_before};
use super::{Rulebook, adjustment, compact, instant, micros};
use crate::metering::exact::Exact;
use crate::metering::measure::{Measure, Point, Quantity};
use crate::metering::period::{BillingPeriod, Segment, Timeline};
use crate::metering::reading::Kind;
use crate::metering::trail::{self, Trail};

/// A series as it was met while a run was put away.
#[derive(Debug, Clone)]
pub(super) struct Met {
    pub(super) id: i64,
    pub(super) source: i64,
    pub(super) kind: Kind,
    pub(super) resource: Option<Rc<str>>,
    pub(super) compacted: Option<i64>,
}

/// What a run did to the readings of each series.
pub(super) struct Touched<'a> {
    series: BTreeMap<i64, Change>,
    trails: Trails<'a>,
}

/// What a run did to the readings of one series.
#[derive(Debug)]
pub(super) struct Change {
    met: Met,
    /// How far the series was read before the run.
    trail: Trail,
    /// The last instant that it has a reading of.
    last: Option<Timestamp>,
    /// Whether all that happened is that readings came in behind all others, each behind the one before.
    in_order: bool,
    /// From the earliest to the latest instant that a touched reading speaks of.
    from: Timestamp,
    to: Timestamp,
    /// The readings that came in and those that they replaced.
    added: Vec<Point>,
    removed: Vec<Point>,
}

impl<'a> Touched<'a> {
    pub(super) fn new(connection: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Touched { series: BTreeMap::new(), trails: Trails::of(connection)? })
    }

    /// How a series stood before the first of its readings was put away or replaced, and what has become of it since: to
    /// be asked for before either is done.
    pub(super) fn meet(&mut self, met: &Met) -> rusqlite::Result<&mut Change> {
        let new = match self.series.entry(met.id) {
            btree_map::Entry::Occupied(known) => return Ok(known.into_mut()),
            btree_map::Entry::Vacant(new) => new,
        };
        // A delta needs no neighbours.
        let trail = match met.kind {
            Kind::Delta => Trail::default(),
            kind => self.trails.at_the_end(met.id, kind)?,
        };
        Ok(new.insert(Change {
            met: met.clone(),
            last: trail.last_at(),
            trail,
            in_order: true,
            from: Timestamp::MAX,
            to: Timestamp::MIN,
            added: Vec::new(),
            removed: Vec::new(),
        }))
    }
}

impl Change {
    /// Whether an instant lies behind all readings of the series.
    pub(super) fn is_behind(&self, at: Timestamp) -> bool {
        self.met.kind != Kind::Delta && self.last.is_none_or(|last| last < at)
    }

    pub(super) fn added(&mut self, point: Point) {
        self.in_order &= self.last.is_none_or(|last| last < point.at);
        self.last = self.last.max(Some(point.at));
        self.reach(&point);
        self.added.push(point);
    }

    pub(super) fn removed(&mut self, point: Point) {
        self.in_order = false;
        self.reach(&point);
        self.removed.push(point);
    }

    fn reach(&mut self, point: &Point) {
        let began = point.start.into_iter().chain(point.epoch.began).chain(point.run.listed);
        self.from = began.fold(point.at, Timestamp::min).min(self.from);
        self.to = self.to.max(point.at);
    }
}

/// Brings the quantities of all touched series up to date; returns which statements are to be made anew.
pub(super) fn update(
    connection: &Connection,
    rulebook: &Rulebook,
    touched: &Touched<'_>,
) -> rusqlite::Result<Restate> {
    let mut quantities = Quantities::of(connection)?;
    let mut sources: HashMap<i64, Counted> = HashMap::new();
    let mut timelines: HashMap<Option<&str>, Rc<Timeline>> = HashMap::new();
    let mut changed: BTreeSet<(Option<&str>, BillingPeriod, i64)> = BTreeSet::new();
    for (&series, change) in &touched.series {
        if change.added.is_empty() && change.removed.is_empty() {
            continue;
        }
        let source = match sources.entry(change.met.source) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Counted::of(connection, rulebook, change.met.source)?),
        };
        let resource = change.met.resource.as_deref();
        let timeline = match timelines.entry(resource) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(timeline(connection, rulebook, resource)?.into()),
        };
        let facts = SeriesFacts {
            counted: source.clone(),
            timeline: timeline.clone(),
            compacted: change.met.compacted.map_or(Timestamp::MIN, instant),
        };
        for &measure in facts.measures() {
            let periods = if change.met.kind == Kind::Delta {
                exchange(&mut quantities, &facts, series, measure, change)?
            } else if change.in_order {
                append(&mut quantities, &facts, series, measure, change)?
            } else {
                recount_around(connection, &mut quantities, &facts, series, measure, change)?
            };
            changed.extend(periods.into_iter().map(|period| (resource, period, change.met.source)));
        }
    }
    let mut restate = Restate::new();
    for (resource, period, source) in changed {
        if let (Some(resource), Some(source)) = (resource, sources.get(&source)) {
            source.restate(resource, period, &mut restate);
        }
    }
    Ok(restate)
}

/// Counts a whole series anew, from its first reading, and returns the periods it touches.
pub(super) fn recount(
    connection: &Connection,
    rulebook: &Rulebook,
    series: i64,
    restate: &mut Restate,
) -> rusqlite::Result<()> {
    let (resource, facts) = SeriesFacts::of(connection, rulebook, series)?;
    let mut periods: BTreeSet<BillingPeriod> = connection
        .prepare_cached("SELECT DISTINCT period FROM quantity WHERE series = ?")?
        .query_map([series], |row| period_column(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    // Where nothing says any more how it is counted, what was counted stands.
    if facts.counted.configured {
        let mut quantities = Quantities::of(connection)?;
        connection.prepare_cached("DELETE FROM quantity WHERE series = ?")?.execute([series])?;
        for &measure in facts.measures() {
            for ((segment, period), quantity) in compact::subtotals(connection, series, measure)? {
                quantities.put(series, measure, instant(segment), period, &quantity)?;
                periods.insert(period);
            }
            for (segment, quantity) in count(connection, &facts, series, measure)? {
                periods.insert(segment.period);
                quantities.put(series, measure, segment.start, segment.period, &quantity)?;
            }
        }
    }
    if let Some(resource) = resource {
        for period in periods {
            facts.counted.restate(&resource, period, restate);
        }
    }
    Ok(())
}

/// The quantities of a series by the definition: all its readings, from the first.
fn count(
    connection: &Connection,
    facts: &SeriesFacts,
    series: i64,
    measure: Measure,
) -> rusqlite::Result<BTreeMap<Segment, Quantity>> {
    let mut quantities: BTreeMap<Segment, Quantity> = BTreeMap::new();
    let mut trail = Trail::default();
    let mut query = connection.prepare_cached(&POINTS_FROM)?;
    let mut rows = query.query(params![series, i64::MIN])?;
    while let Some(row) = rows.next()? {
        for (segment, part) in facts.advance(&mut trail, measure, point(row)?) {
            quantities.entry(segment).or_default().absorb(part);
        }
    }
    Ok(quantities)
}

/// What is counted over the readings of one source, and which components that makes.
#[derive(Debug, Clone, Default)]
struct Counted {
    /// Each way of counting once.
    measures: Rc<[Measure]>,
    components: Rc<[String]>,
    /// Whether the configuration still has its collector.
    configured: bool,
}

impl Counted {
    fn of(connection: &Connection, rulebook: &Rulebook, source: i64) -> rusqlite::Result<Self> {
        let (collector, name, kind): (String, String, String) = connection
            .prepare_cached("SELECT collector, name, kind FROM source WHERE id = ?")?
            .query_row([source], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let (Some(rules), Ok(kind)) = (rulebook.of(&collector), kind.parse::<Kind>()) else {
            return Ok(Counted::default());
        };
        let meters = || rules.meters.iter().filter(|meter| meter.reading == name);
        let measures: BTreeSet<Measure> = meters().filter_map(|meter| meter.measure(kind).ok()).collect();
        let components: BTreeSet<String> = meters().map(|meter| meter.component.clone()).collect();
        Ok(Counted {
            measures: measures.into_iter().collect(),
            components: components.into_iter().collect(),
            configured: true,
        })
    }

    /// Notes that all it makes of this resource is to be stated anew.
    fn restate(&self, resource: &str, period: BillingPeriod, restate: &mut Restate) {
        for component in self.components.iter() {
            restate.insert((resource.to_owned(), period.to_string(), component.clone()));
        }
    }
}

/// What must be known of a series to count it.
pub(super) struct SeriesFacts {
    counted: Counted,
    pub(super) timeline: Rc<Timeline>,
    /// Before this instant only subtotals are left, and they stand.
    compacted: Timestamp,
}

impl SeriesFacts {
    /// The facts of a series that is known, and its resource.
    pub(super) fn of(
        connection: &Connection,
        rulebook: &Rulebook,
        series: i64,
    ) -> rusqlite::Result<(Option<String>, Self)> {
        let (source, resource, compacted): (i64, Option<String>, Option<i64>) = connection
            .prepare_cached(
                "SELECT series.source, target.resource, series.compacted
                 FROM series LEFT JOIN target ON target.id = series.target WHERE series.id = ?",
            )?
            .query_row([series], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let facts = SeriesFacts {
            counted: Counted::of(connection, rulebook, source)?,
            timeline: timeline(connection, rulebook, resource.as_deref())?.into(),
            compacted: compacted.map_or(Timestamp::MIN, instant),
        };
        Ok((resource, facts))
    }

    pub(super) fn measures(&self) -> &[Measure] {
        &self.counted.measures
    }

    /// What a point adds, but for what it would add to months that are compacted: that is in their subtotals.
    pub(super) fn advance(
        &self,
        trail: &mut Trail,
        measure: Measure,
        point: Point,
    ) -> Vec<(Segment, Quantity)> {
        let mut parts = trail.advance(measure, point, &self.timeline);
        parts.retain(|(segment, _)| segment.start >= self.compacted);
        for (_, part) in &mut parts {
            // There are no columns for these yet.
            *part = Quantity { held: Exact::zero(), holds: 0, dips: 0, ..part.clone() };
        }
        parts
    }
}

/// Time as this resource sees it.
fn timeline(
    connection: &Connection,
    rulebook: &Rulebook,
    resource: Option<&str>,
) -> rusqlite::Result<Timeline> {
    let cuts = match resource {
        Some(resource) => adjustment::cuts(connection, resource)?,
        None => Vec::new(),
    };
    Ok(Timeline::new(rulebook.zone.clone(), cuts))
}

/// Time as this resource's plans cut it, and nothing else.
pub(super) fn plans(
    connection: &Connection,
    rulebook: &Rulebook,
    resource: &str,
) -> rusqlite::Result<Timeline> {
    Ok(Timeline::new(rulebook.zone.clone(), cuts(connection, resource)?))
}

/// Where the months of this resource are cut: at switches of its plan. Its first plan period is no switch: the server
/// files under it what was used of that month before it began, too (documented), and there is no other to file it under.
pub(super) fn cuts(connection: &Connection, resource: &str) -> rusqlite::Result<Vec<Timestamp>> {
    connection
        .prepare_cached(
            "SELECT start FROM plan_period WHERE resource = ?1
             AND start > (SELECT min(start) FROM plan_period WHERE resource = ?1)",
        )?
        .query_map([resource], |row| row.get(0).map(instant))?
        .collect()
}

/// A delta needs no neighbours: what it adds can be taken back when it is replaced. Returns the periods that changed.
fn exchange(
    quantities: &mut Quantities<'_>,
    facts: &SeriesFacts,
    series: i64,
    measure: Measure,
    change: &Change,
) -> rusqlite::Result<BTreeSet<BillingPeriod>> {
    let mut sums: BTreeMap<Segment, Exact> = BTreeMap::new();
    let parts = |point: &Point| {
        let at_most = match measure {
            Measure::Sum(at_most) => at_most,
            _ => None,
        };
        let mut parts = trail::sum(at_most, point, &facts.timeline);
        parts.retain(|(segment, _)| segment.start >= facts.compacted);
        parts
    };
    for point in &change.added {
        for (segment, part) in parts(point) {
            *sums.entry(segment).or_insert_with(Exact::zero) += part.sum;
        }
    }
    for point in &change.removed {
        for (segment, part) in parts(point) {
            *sums.entry(segment).or_insert_with(Exact::zero) -= part.sum;
        }
    }
    let parts = sums.into_iter().map(|(segment, sum)| (segment, Quantity { sum, ..Quantity::default() }));
    add(quantities, series, measure, parts)
}

/// Adds what readings behind all others add. Returns the periods that changed.
fn append(
    quantities: &mut Quantities<'_>,
    facts: &SeriesFacts,
    series: i64,
    measure: Measure,
    change: &Change,
) -> rusqlite::Result<BTreeSet<BillingPeriod>> {
    let mut trail = change.trail.clone();
    let mut parts: BTreeMap<Segment, Quantity> = BTreeMap::new();
    for point in &change.added {
        for (segment, part) in facts.advance(&mut trail, measure, point.clone()) {
            parts.entry(segment).or_default().absorb(part);
        }
    }
    add(quantities, series, measure, parts)
}

/// Adds parts to what is kept of their segments. Returns the periods that changed.
fn add(
    quantities: &mut Quantities<'_>,
    series: i64,
    measure: Measure,
    parts: impl IntoIterator<Item = (Segment, Quantity)>,
) -> rusqlite::Result<BTreeSet<BillingPeriod>> {
    let mut periods = BTreeSet::new();
    for (segment, part) in parts {
        let mut quantity = quantities.load(series, measure, segment.start)?.unwrap_or_default();
        quantity.absorb(part);
        quantities.put(series, measure, segment.start, segment.period, &quantity)?;
        periods.insert(segment.period);
    }
    Ok(periods)
}

/// Counts anew every segment that a change can have reached: from the reading before it to the one after it.
fn recount_around(
    connection: &Connection,
    quantities: &mut Quantities<'_>,
    facts: &SeriesFacts,
    series: i64,
    measure: Measure,
    change: &Change,
) -> rusqlite::Result<BTreeSet<BillingPeriod>> {
    let neighbour = |condition: &str, at: Timestamp| {
        connection
            .prepare_cached(&format!("SELECT at FROM reading WHERE series = ?1 AND {condition} LIMIT 1"))?
            .query_row([series, micros(at)], |row| row.get(0).map(instant))
            .optional()
    };
    let before =
        neighbour("value IS NOT NULL AND at < ?2 ORDER BY at DESC", change.from)?.unwrap_or(change.from);
    // Up to the next present one, or where there is none, to where the series was seen to be gone.
    let next = match neighbour("value IS NOT NULL AND at > ?2 ORDER BY at", change.to)? {
        Some(next) => Some(next),
        None => neighbour("at > ?2 ORDER BY at", change.to)?,
    };
    let mut to = next.unwrap_or(change.to);
    if change.met.kind == Kind::Counter {
        // What a counter does decides how all that comes after it is taken.
        to = neighbour("at >= ?2 ORDER BY at DESC", change.to)?.unwrap_or(to);
    }
    // A life may have begun before its first reading, and which reading is the first may have changed.
    let began: Option<Timestamp> = connection
        .prepare_cached(
            "SELECT min(min(coalesce(reading.began, reading.at), coalesce(run.listed, reading.at)))
             FROM reading JOIN run ON run.id = reading.run
             WHERE reading.series = ?1 AND reading.at BETWEEN ?2 AND ?3",
        )?
        .query_row([series, micros(before), micros(to)], |row| row.get::<_, Option<i64>>(0))?
        .map(instant);
    let mut from = began.map_or(before, |began| began.min(before));
    // A total speaks of its period from the first instant on, and the last word on one may be dated with the first
    // instant of the next.
    let zone = facts.timeline.zone();
    let just_before = from.saturating_sub(SignedDuration::from_micros(1)).unwrap_or(from);
    from = from.min(zone.start(zone.period_of(just_before)));

    let mut segments: BTreeSet<Segment> =
        facts.timeline.pieces(from, to).into_iter().map(|piece| piece.segment).collect();
    segments.insert(facts.timeline.segment_at(to));
    let mut periods = BTreeSet::new();
    for segment in segments.into_iter().filter(|segment| segment.start >= facts.compacted) {
        let quantity = count_segment(connection, facts, series, measure, segment)?;
        quantities.remove(series, measure, segment.start)?;
        if let Some(quantity) = quantity {
            quantities.put(series, measure, segment.start, segment.period, &quantity)?;
        }
        periods.insert(segment.period);
    }
    Ok(periods)
}

/// One segment by the definition. Readings outside matter as neighbours only: those before it from the last present
/// one on, those after it up to the first present one.
fn count_segment(
    connection: &Connection,
    facts: &SeriesFacts,
    series: i64,
    measure: Measure,
    segment: Segment,
) -> rusqlite::Result<Option<Quantity>> {
    let start = micros(segment.start);
    let mut trail = trail_before(connection, series, start)?;
    let mut quantity: Option<Quantity> = None;
    let mut query = connection.prepare_cached(&POINTS_FROM)?;
    let mut rows = query.query(params![series, start])?;
    let mut beyond: Option<Timestamp> = None;
    while let Some(row) = rows.next()? {
        let point = point(row)?;
        // Several of one instant may each speak of the segment before it: totals do.
        if beyond.is_some_and(|beyond| point.at > beyond) {
            break;
        }
        if point.at >= segment.end && point.value.is_some() {
            beyond = Some(point.at);
        }
        for (found, part) in facts.advance(&mut trail, measure, point) {
            if found == segment {
                quantity.get_or_insert_default().absorb(part);
            }
        }
    }
    Ok(quantity)
}
