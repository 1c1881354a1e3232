//! Puts the queued readings of one run where they belong: source, series, and the row that has their identity (law 2).
//!
//! It finds out whether a reading is new, the same again, a correction, or one for a month whose readings are no longer
//! kept; what that changes is counted by `count`. It never judges whether a value is plausible.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::changed::{self, Verdict};
use super::count::{KnownSeries, SeriesChanges};
use super::known::{self, Known, Wanted};
use super::place::{Unplaced, place_by_all};
use super::quantities::{RunRow, bearings};
use super::row::Row;
use super::spent;
use crate::collectors::{Bearing, Quarantined};
use crate::ledger::db::columns::{instant, micros, unreadable};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::queue::{Spans, part};
use crate::metering::measure::RunFacts;
use crate::metering::reading::{Kind, Labels};

mod others;

/// A run that is being counted.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) id: i64,
    /// Which agent's it is.
    pub(super) agent: String,
    /// The file of a host that it waited in.
    pub(super) file: Option<String>,
    /// It adds what is not known, and replaces nothing.
    pub(super) superseded: bool,
    pub(super) collector: String,
    pub(super) at: Timestamp,
    pub(super) finished: Timestamp,
    /// Series of which it concludes nothing.
    pub(super) withheld: Vec<Bearing>,
    /// What was known before it.
    pub(super) known: RunRow,
    pub(super) scope: String,
    /// When what its collector asks for was changed, if ever.
    pub(super) change: Option<changed::Change>,
    /// What its collector goes on reading, and what this run has read whole.
    pub(super) history: Spans,
}

impl Head {
    fn withholds(&self, name: &str, labels: &str) -> bool {
        if self.withheld.is_empty() {
            return false;
        }
        let labels: Labels = serde_json::from_str(labels).unwrap_or_default();
        self.withheld.iter().any(|bearing| bearing.covers(name, &labels))
    }
}

/// Bearings of a run's row.
pub(super) fn withheld(text: &str) -> Vec<Bearing> {
    bearings(text)
}

pub(super) enum ReadingOutcome {
    New,
    Corrected,
    Same,
    /// For a month that is compacted, whose readings have neighbours: recorded, not counted. What it says, for people.
    Late(String),
    Refused(Quarantined),
}

/// A queued reading, with its columns as they are.
#[derive(Debug, Clone)]
pub(super) struct Queued {
    name: String,
    kind: String,
    unit: Option<String>,
    labels: String,
    row: Row,
}

impl From<part::Queued> for Queued {
    fn from(queued: part::Queued) -> Self {
        let part::Queued { name, kind, value, unit, start, at, labels, id, epoch, began, shared } = queued;
        let row = Row { at, start, id, value: Some(value), epoch, began, shared };
        Queued { name, kind, unit, labels, row }
    }
}

impl Queued {
    /// The reading as one that is not counted.
    pub(super) fn quarantined(&self, reason: String) -> Quarantined {
        let value = self.row.value.as_deref().unwrap_or_default();
        let what: String = format!("{} {value} {}", self.name, self.labels).chars().take(200).collect();
        Quarantined { what, reason, bears_on: Bearing::readings([self.name.as_str()]) }
    }

    /// Whether it is a look at the moment of the run, whose place among others hangs on that instant alone. What a source
    /// dates itself, and deltas, which need no neighbours, stay what they are.
    pub(super) fn is_momentary(&self, run: &Head) -> bool {
        self.row.start == 0 && self.row.at == micros(run.at) && self.kind != Kind::Delta.name()
    }
}

/// A source as it was met.
#[derive(Debug, Clone)]
pub(super) struct Source {
    id: i64,
    kind: Kind,
    /// Sources of other collectors with readings of the same name.
    others: Rc<[i64]>,
    /// Up to here the same was measured by readings of another kind, of a collector that this one continues.
    after: Option<i64>,
}

/// Puts the readings of one run where they belong.
pub(super) struct Store<'a> {
    connection: &'a Connection,
    in_force: &'a InForce,
    run: &'a Head,
    sources: HashMap<String, Source>,
    /// Series of which something came.
    seen: HashSet<i64>,
    /// How many new readings say what another with another id says.
    alike: usize,
    /// Series that nothing was known of, or that had ended.
    begun: HashSet<i64>,
    /// From where those go on, at the latest: by name and labels.
    levels: HashMap<(String, String), Queued>,
    puts_levels: bool,
    /// Lives of counters before this run, once they were looked up; and series that go on with one that was another's.
    lives: Option<others::Lives>,
    /// Those of their series that it sees, likewise.
    seen_lives: Option<HashSet<i64>>,
    taken_over: HashMap<i64, others::Life>,
    relabelled: usize,
    first_relabelled: Option<(String, i64)>,
    /// Names of which something else is said than was counted, and stays.
    settled: BTreeSet<String>,
    /// Where readings are of what was read whole, with their ids.
    put: HashSet<(known::At, String)>,
    known: Known<'a>,
}

impl<'a> Store<'a> {
    pub(super) fn new(connection: &'a Connection, in_force: &'a InForce, run: &'a Head) -> sql::Result<Self> {
        Ok(Store {
            connection,
            in_force,
            run,
            sources: sources(connection, &run.collector)?,
            seen: HashSet::new(),
            alike: 0,
            begun: HashSet::new(),
            levels: HashMap::new(),
            puts_levels: false,
            lives: None,
            seen_lives: None,
            taken_over: HashMap::new(),
            relabelled: 0,
            first_relabelled: None,
            settled: BTreeSet::new(),
            put: HashSet::new(),
            known: Known::new(connection, &run.agent)?,
        })
    }

    /// Looks up what is known of readings that are put next.
    pub(super) fn look_up(&mut self, queued: &[Queued]) -> sql::Result<()> {
        let mut accepted: Vec<(Source, &Queued)> = Vec::with_capacity(queued.len());
        for one in queued {
            accepted.extend(self.source_of(one)?.ok().map(|source| (source, one)));
        }
        let wanted: Vec<Wanted<'_>> = accepted
            .iter()
            .map(|(source, one)| Wanted {
                source: source.id,
                kind: source.kind,
                others: &source.others,
                labels: &one.labels,
                row: &one.row,
            })
            .collect();
        self.known.look_up(&wanted)?;
        let made = self.known.make_series(&wanted)?;
        let unplaced: Vec<Unplaced<'_>> = made
            .iter()
            .map(|(series, source, labels)| Unplaced {
                series: *series,
                source: *source,
                collector: &self.run.collector,
                labels,
            })
            .collect();
        place_by_all(self.connection, self.in_force, &unplaced, self.run.finished)?;
        self.find_lives(&accepted)
    }

    /// The source of a reading, or why it is refused.
    fn source_of(&mut self, queued: &Queued) -> sql::Result<Result<Source, String>> {
        let Queued { name, kind, unit, row, .. } = queued;
        let Ok(kind) = kind.parse::<Kind>() else { return Ok(Err(format!("`{kind}` is no kind"))) };
        let (start, end) = (if row.start == 0 { row.at } else { row.start }, row.at);
        if kind == Kind::Total
            && let Err(reason) = self.in_force.zone.check_total(instant(start), instant(end))
        {
            return Ok(Err(reason));
        }
        let source = self.source(name, kind, unit.as_deref())?;
        if source.kind != kind {
            return Ok(Err(format!(
                "it is a {kind}, but earlier readings of that name were a {}: give it another name, or rename the \
                 collector (with `continues:` where what it has measured is to go on)",
                source.kind
            )));
        }
        let begins = match kind {
            Kind::Total => micros(self.in_force.zone.start(self.in_force.zone.period_of(instant(start)))),
            _ => start,
        };
        if let Some(after) = source.after.filter(|after| begins < *after) {
            return Ok(Err(format!(
                "it reaches back before {}, up to which the same was measured as readings of another kind by the collector \
                 that this one continues: it would be counted twice",
                instant(after)
            )));
        }
        Ok(Ok(source))
    }

    pub(super) fn put(&mut self, queued: Queued, touched: &mut SeriesChanges) -> sql::Result<ReadingOutcome> {
        let source = match self.source_of(&queued)? {
            Ok(source) => source,
            Err(reason) => return Ok(ReadingOutcome::Refused(queued.quarantined(reason))),
        };
        let Queued { name, labels, row, .. } = queued;
        let met = self.series(&source, &labels)?;
        let series = met.id;
        self.seen.insert(series);
        // What is no longer kept is from before its series was compacted, or has left its id.
        let is_old = met.compacted.is_some_and(|until| row.at < micros(until));
        let late = match is_old || self.known.is_spent(source.id, &row.id) {
            true if self.run.superseded && self.is_spent(&source, &met, &row)? => {
                return Ok(ReadingOutcome::Same);
            }
            true => self.put_late(&source, &met, (&name, &row), touched)?,
            false => None,
        };
        let corrects_spent = match late {
            None => false,
            Some(ReadingOutcome::Corrected) => true,
            Some(done) => return Ok(done),
        };
        // What lies behind all that is known of its series, and has no id of its own, was not seen before; nor was one whose
        // id is new.
        let place = (series, row.at, row.start);
        let known_at = match row.id.is_empty() {
            true => Some(place).filter(|_| !touched.meet(&met).is_behind(instant(row.at))),
            false => self.known.place_of(source.id, &row.id),
        };
        let before = known_at.and_then(|at| Some((at.0, self.known.row(at, &row.id)?)));
        if self.run.change.is_some() && row.start != 0 && self.run.history.contains_key(&name) {
            self.put.insert((place, row.id.clone()));
        }
        if let Some((old_series, old)) = &before
            && (*old_series == series && **old == row || self.run.superseded && old.value.is_some())
        {
            return Ok(ReadingOutcome::Same);
        }
        let is_last = met.last.is_some_and(|last| micros(last) == row.at);
        let verdict = self.run.change.map_or(Verdict::Counts, |change| {
            let windows = self.run.history.get(&name).map(Vec::as_slice);
            change.judge(source.kind, &row, (before.as_ref().map(|(_, old)| old.as_ref()), is_last), windows)
        });
        let row = match verdict {
            Verdict::Counts => row,
            Verdict::Stays => {
                self.settled.insert(name);
                return Ok(ReadingOutcome::Same);
            }
            Verdict::CountsFrom(cut) => {
                self.settled.insert(name);
                let Some((_, after)) = changed::cut(&row, cut) else { return Ok(ReadingOutcome::Same) };
                if let Some((of, old)) = &before {
                    let of = if *of == met.id { met.clone() } else { self.met(*of, &source)? };
                    self.keep_until((&source, &of), old, cut, touched)?;
                }
                return self.put_rest(&source, &met, after, touched);
            }
            Verdict::NewLevel => {
                self.settled.insert(name);
                self.begin_at(&met, (row.at, row.value), touched)?;
                return Ok(ReadingOutcome::Same);
            }
            Verdict::Level if self.puts_levels => row,
            Verdict::Level => {
                if self.begun.contains(&series) && met.last.is_none_or(|last| micros(last) < row.at) {
                    let key = (name.clone(), labels.clone());
                    if self.levels.get(&key).is_none_or(|known| known.row.at < row.at) {
                        self.levels.insert(
                            key,
                            Queued { name, kind: source.kind.name().to_owned(), unit: None, labels, row },
                        );
                    }
                }
                return Ok(ReadingOutcome::Same);
            }
        };
        if let Some((old_series, old)) = &before {
            let of_old = if *old_series == series { met.clone() } else { self.met(*old_series, &source)? };
            // Only deltas are taken back by what they added, and those ask nothing of their run.
            touched.meet(&of_old).removed(old.point(RunFacts::default()));
            self.known.remove_row(*old_series, old)?;
        } else if !row.id.is_empty() && source.kind == Kind::Delta && !corrects_spent {
            self.note_same_ids(&source, &met, &row)?;
        }
        self.known.put_id(source.id, &row.id, place)?;
        self.take_over((&source, &met), touched)?;
        touched.meet(&met).added(row.point(self.run.known.facts(&name, &labels, &row.id)));
        self.known.add_row(series, row, self.run.id)?;
        // A marker that the series was not seen is no reading; one that takes its place is new.
        let new = !corrects_spent && before.is_none_or(|(_, old)| old.value.is_none());
        Ok(if new { ReadingOutcome::New } else { ReadingOutcome::Corrected })
    }

    /// Names of which something else is said than was counted, and stays.
    pub(super) fn settled(&self) -> &BTreeSet<String> {
        &self.settled
    }

    /// How many readings say, under a new id, what an earlier one says under another.
    pub(super) fn alike(&self) -> usize {
        self.alike
    }

    /// What becomes of a reading whose month is no longer kept, if it is one: `None` if it is none. `Corrected`: what it
    /// added was taken back, and what it says now is still to be put.
    fn put_late(
        &mut self,
        source: &Source,
        met: &KnownSeries,
        (name, row): (&str, &Row),
        touched: &mut SeriesChanges,
    ) -> sql::Result<Option<ReadingOutcome>> {
        let earlier = spent::find(self.connection, self.owner(source), met.id, row)?;
        let late = met.compacted.is_some_and(|until| row.at < micros(until));
        match &earlier {
            Some((of, earlier)) if *of == met.id && earlier.is_same(row) => {
                return Ok(Some(ReadingOutcome::Same));
            }
            Some(_) if self.run.change.is_some_and(|change| change.settles(row)) => {
                return Ok(Some(ReadingOutcome::Same));
            }
            Some((of, earlier)) if source.kind == Kind::Delta => {
                // It needs no neighbours: what it added is taken back, and what it says now is counted below.
                let of = if *of == met.id { met.clone() } else { self.met(*of, source)? };
                touched.meet(&of).removed(earlier.row().point(RunFacts::default()));
                spent::forget(self.connection, self.owner(source), of.id, row)?;
                return Ok(Some(ReadingOutcome::Corrected));
            }
            None if !late || source.kind == Kind::Delta => return Ok(None),
            _ => {}
        }
        let earlier = earlier.and_then(|(_, earlier)| earlier.into_row().value);
        let new = self
            .connection
            .prepare_cached(
                "INSERT INTO late_correction (series, at, start, id, value, earlier, run)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (series, at, start, id) DO UPDATE SET value = ?5, run = ?7 WHERE late_correction.value <> ?5",
            )?
            .execute(params![
                met.id,
                row.at,
                row.start,
                row.id,
                row.value,
                earlier,
                self.run.id
            ])?;
        if new == 0 {
            return Ok(Some(ReadingOutcome::Same));
        }
        let counted = earlier.unwrap_or_else(|| "nothing".to_owned());
        let says = row.value.as_deref().unwrap_or("nothing");
        Ok(Some(ReadingOutcome::Late(format!(
            "`{name}` of {} says {says}, {counted} was known",
            instant(row.at)
        ))))
    }

    fn is_spent(&self, source: &Source, met: &KnownSeries, row: &Row) -> sql::Result<bool> {
        Ok(spent::find(self.connection, self.owner(source), met.id, row)?.is_some())
    }

    /// Whether another agent has read the very same: both reach one source.
    fn look_for_other_agents(&mut self, source: &Source, met: &KnownSeries, row: &Row) -> sql::Result<()> {
        // Hosts that have nothing to do say the same in good faith.
        if row
            .value
            .as_deref()
            .and_then(|value| value.parse().ok())
            .is_none_or(|value: Decimal| value.is_zero())
        {
            return Ok(());
        }
        let twin: Option<String> = self
            .connection
            .prepare_cached(
                "SELECT identity.agent FROM identity JOIN reading ON reading.series = identity.series
                    AND reading.at = identity.at AND reading.start = identity.start AND reading.id = identity.id
                 JOIN series ON series.id = identity.series
                    AND series.labels = (SELECT labels FROM series own WHERE own.id = ?7)
                 WHERE identity.source = ?1 AND identity.id = ?2 AND identity.agent <> ?3 AND identity.at = ?4
                    AND identity.start = ?5 AND reading.value = ?6",
            )?
            .query_row(
                params![source.id, row.id, self.run.agent, row.at, row.start, row.value, met.id],
                |row| row.get(0),
            )
            .optional()?;
        let Some(other) = twin else { return Ok(()) };
        let new = self
            .connection
            .prepare_cached(
                "INSERT INTO same_ids (source, other, id) VALUES (?1, ?1, ?2) ON CONFLICT (source, other) DO NOTHING",
            )?
            .execute(params![source.id, row.id])?;
        if new > 0 {
            let named = |agent: &str| match agent {
                "" => "whoever holds its lock (`once`)".to_owned(),
                agent => agent.to_owned(),
            };
            let words = format!(
                "the collector {} reads the same on {} and on {} (such as `{}`): what one source has is counted twice. \
                 Under a new name with `once: true` one of them reads it",
                self.run.collector,
                named(&other),
                named(&self.run.agent),
                row.id
            );
            tell(self.connection, About::default(), EventKind::Readings, &words, self.run.finished)?;
        }
        Ok(())
    }

    /// Whether a new reading may be one that is known under another id, of this collector or of another.
    fn note_same_ids(&mut self, source: &Source, met: &KnownSeries, row: &Row) -> sql::Result<()> {
        let says_the_same =
            |other: &Row, run: i64| run != self.run.id && row.value.is_some() && other.value == row.value;
        let place = (met.id, row.at, row.start);
        let alike = self.known.rows_at(place).any(|(other, run)| says_the_same(other, *run));
        self.alike += usize::from(alike);
        if self.known.is_elsewhere(source.id, &row.id) {
            self.look_for_other_agents(source, met, row)?;
        }
        for other in source.others.iter() {
            if self.known.is_elsewhere(*other, &row.id) {
                self.connection
                    .prepare_cached(
                        "INSERT INTO same_ids (source, other, id) VALUES (?1, ?2, ?3)
                         ON CONFLICT (source, other) DO NOTHING",
                    )?
                    .execute(params![source.id, other, row.id])?;
            }
        }
        Ok(())
    }

    /// Within what an id is one reading's.
    fn owner(&self, source: &Source) -> (i64, &'a str) {
        (source.id, &self.run.agent)
    }

    fn source(&mut self, name: &str, kind: Kind, unit: Option<&str>) -> sql::Result<Source> {
        if let Some(known) = self.sources.get(name) {
            return Ok(known.clone());
        }
        let collector = &self.run.collector;
        self.connection
            .prepare_cached(
                "INSERT INTO source (collector, name, kind, unit) SELECT ?1, ?2, ?3, ?4
                 WHERE NOT EXISTS (SELECT 1 FROM source
                    WHERE collector = ?1 AND name = ?2 AND kind <> ?3 AND continued = 0)
                 ON CONFLICT (collector, name, kind) DO NOTHING",
            )?
            .execute(params![collector, name, kind.name(), unit])?;
        let (id, text): (i64, String) = self.connection.query_row(
            "SELECT id, kind FROM source WHERE collector = ?1 AND name = ?2
             ORDER BY continued, CASE WHEN kind = ?3 THEN 0 ELSE 1 END LIMIT 1",
            params![collector, name, kind.name()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        self.connection
            .prepare_cached("UPDATE source SET continued = 0 WHERE id = ?1 AND continued = 1")?
            .execute([id])?;
        let others = self
            .connection
            .prepare_cached("SELECT id FROM source WHERE name = ?1 AND id <> ?2")?
            .query_map(params![name, id], |row| row.get(0))?
            .collect::<sql::Result<Vec<_>>>()?
            .into();
        let after = self
            .connection
            .prepare_cached(&format!("SELECT {MEASURED_BEFORE} FROM source WHERE id = ?"))?
            .query_row([id], |row| row.get(0))?;
        let source = Source { id, kind: text.parse().unwrap_or(kind), others, after };
        self.sources.insert(name.to_owned(), source.clone());
        Ok(source)
    }

    /// Writes what was put.
    pub(super) fn keep(&mut self) -> sql::Result<()> {
        self.known.keep()
    }

    /// To be called when what was touched has been counted: what was known of series is old.
    pub(super) fn counted(&mut self) {
        self.known.forget_series();
    }

    /// The series of a reading that was looked up.
    fn series(&mut self, source: &Source, labels: &str) -> sql::Result<KnownSeries> {
        let met = self.known.series(source.id, labels).ok_or(sql::Error::NoRow)?.clone();
        if met.last.is_none() {
            self.begun.insert(met.id);
        }
        if self.known.wakes(met.id) {
            self.begun.insert(met.id);
            self.connection.prepare_cached("UPDATE series SET live = 1 WHERE id = ?1")?.execute([met.id])?;
        }
        Ok(met)
    }

    fn met(&self, id: i64, source: &Source) -> sql::Result<KnownSeries> {
        self.connection
            .prepare_cached("SELECT id, compacted, last, state FROM series WHERE id = ?")?
            .query_row([id], |row| known::met(row, 0, (source.id, source.kind)))
    }

    /// A run that does not see a series ends it there, unless something odd may have been of it, or its source tells ends
    /// by itself (`told`: the names of its readings).
    pub(super) fn end_unseen(&mut self, told: &Ends, touched: &mut SeriesChanges) -> sql::Result<()> {
        if self.run.withheld.contains(&Bearing::All) {
            return Ok(());
        }
        let mut unseen: Vec<(i64, Source, String, String)> = Vec::new();
        let mut query = self.connection.prepare_cached(
            "SELECT series.id, series.source, source.kind, source.name, series.labels FROM series
             JOIN source ON source.id = series.source
             WHERE source.collector = ?1 AND series.agent = ?2 AND source.kind IN ('counter', 'gauge')
               AND series.live = 1",
        )?;
        let mut rows = query.query([&self.run.collector, &self.run.agent])?;
        while let Some(row) = rows.next()? {
            // Of most series something came.
            let id = row.get(0)?;
            if self.seen.contains(&id) || told.contains_key(row.get_ref(3)?.as_str()?) {
                continue;
            }
            let kind = row.get_ref(2)?.as_str()?.parse().unwrap_or(Kind::Gauge);
            let source = Source { id: row.get(1)?, kind, others: Rc::default(), after: None };
            unseen.push((id, source, row.get(3)?, row.get(4)?));
        }
        drop(rows);
        for (series, source, name, labels) in unseen {
            if self.run.withholds(&name, &labels) {
                continue;
            }
            self.connection.prepare_cached("UPDATE series SET live = 0 WHERE id = ?1")?.execute([series])?;
            let met = self.met(series, &source)?;
            // What it has read of later instants knows better.
            if met.last.is_none_or(|last| last < self.run.at) {
                self.mark_gone(&met, (&name, &labels), self.run.at, touched)?;
            }
        }
        Ok(())
    }

    /// Marks the end of a gauge that a source with history tells. A reading of the same instant knows better, and what is
    /// compacted stays as it is. A counter of such a source goes on where it comes back.
    pub(super) fn end(
        &mut self,
        name: &str,
        labels: &str,
        at: Timestamp,
        touched: &mut SeriesChanges,
    ) -> sql::Result<()> {
        let known = self
            .connection
            .prepare_cached(
                "SELECT series.id, series.source FROM series JOIN source ON source.id = series.source
                 WHERE source.collector = ?1 AND source.name = ?2 AND source.kind = 'gauge'
                   AND series.labels = ?3 AND series.agent = ?5 AND ?4 >= coalesce(series.compacted, ?4)",
            )?
            .query_row(params![self.run.collector, name, labels, micros(at), self.run.agent], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let Some((series, source)) = known else { return Ok(()) };
        let met =
            self.met(series, &Source { id: source, kind: Kind::Gauge, others: Rc::default(), after: None })?;
        self.known.keep()?;
        let read = self
            .connection
            .prepare_cached("SELECT 1 FROM reading WHERE series = ?1 AND at = ?2")?
            .exists([series, micros(at)])?;
        if read { Ok(()) } else { self.mark_gone(&met, (name, labels), at, touched) }
    }

    fn mark_gone(
        &mut self,
        met: &KnownSeries,
        (name, labels): (&str, &str),
        at: Timestamp,
        touched: &mut SeriesChanges,
    ) -> sql::Result<()> {
        let (id, value, epoch, began) = (String::new(), None, None, None);
        let row = Row { at: micros(at), start: 0, id, value, epoch, began, shared: false };
        touched.meet(met).added(row.point(self.run.known.facts(name, labels, "")));
        self.known.add_row(met.id, row, self.run.id)
    }
}

/// The last reading of another kind that a source's name had in a collector that its own continues.
const MEASURED_BEFORE: &str = "(SELECT max(coalesce((SELECT max(reading.at) FROM reading
        WHERE reading.series = series.id AND reading.value IS NOT NULL), series.last))
    FROM source AS former JOIN series ON series.source = former.id
    WHERE former.collector = source.collector AND former.name = source.name AND former.kind <> source.kind
        AND former.continued = 1)";

/// The sources of a collector, by the names of their readings.
fn sources(connection: &Connection, collector: &str) -> sql::Result<HashMap<String, Source>> {
    let mut others: HashMap<i64, Vec<i64>> = HashMap::new();
    let mut query = connection.prepare_cached(
        "SELECT source.id, other.id FROM source JOIN source other ON other.name = source.name AND other.id <> source.id
         WHERE source.collector = ?",
    )?;
    let mut rows = query.query([collector])?;
    while let Some(row) = rows.next()? {
        others.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    connection
        .prepare_cached(&format!(
            "SELECT name, id, kind, {MEASURED_BEFORE} FROM source WHERE collector = ? AND continued = 0"
        ))?
        .query_map([collector], |row| {
            let id: i64 = row.get(1)?;
            let kind = row.get::<_, String>(2)?.parse().map_err(|error: String| unreadable(2, error))?;
            let others = others.remove(&id).unwrap_or_default().into();
            Ok((row.get(0)?, Source { id, kind, others, after: row.get(3)? }))
        })?
        .collect()
}

/// By the names of readings whose source tells ends by itself: labels, and the instant.
pub(super) type Ends = BTreeMap<String, Vec<(String, Timestamp)>>;

/// The ends that a run tells.
pub(super) fn ends_of(connection: &Connection, run: i64) -> sql::Result<Ends> {
    let mut ends = Ends::new();
    let mut query = connection
        .prepare_cached("SELECT name, labels, at FROM queued_end WHERE run = ? ORDER BY name, at")?;
    let mut rows = query.query([run])?;
    while let Some(row) = rows.next()? {
        let of_name = ends.entry(row.get(0)?).or_default();
        // The first row of a name only says that its source tells ends.
        if !row.get_ref(1)?.as_str()?.is_empty() {
            of_name.push((row.get(1)?, instant(row.get(2)?)));
        }
    }
    Ok(ends)
}
