//! Puts the queued readings of one run where they belong: source, series, and the row that has their identity (law 2).
//!
//! It finds out whether a reading is new, the same again, a correction, or one for a month whose readings are no longer
//! kept; what that changes is counted by `count`. It never judges whether a value is plausible.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use super::changed::{self, Verdict};
use super::count::{KnownSeries, SeriesChanges};
use super::known::{self, Known, Wanted};
use super::place::{Unplaced, place_by_all};
use super::quantities::{RunRow, bearings};
use super::row::Row;
use super::spent;
use crate::collectors::{Bearing, Quarantined};
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::queue::{Spans, part};
use crate::metering::measure::RunFacts;
use crate::metering::reading::{Kind, Labels};

mod ends;
mod former;
mod others;
mod sources;
mod twins;

pub(super) use ends::ends_of;
pub(super) use former::take_former_ids;
use sources::{Source, sources};

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

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Between which instants it was used up, if it is a delta.
    pub(super) fn used(&self) -> Option<(Timestamp, Timestamp)> {
        let began = if self.row.start == 0 { self.row.at } else { self.row.start };
        (self.kind == Kind::Delta.name()).then(|| (instant(began), instant(self.row.at)))
    }

    /// Whether it is a look at the moment of the run, whose place among others hangs on that instant alone. What a source
    /// dates itself, and deltas, which need no neighbours, stay what they are.
    pub(super) fn is_momentary(&self, run: &Head) -> bool {
        self.row.start == 0 && self.row.at == micros(run.at) && self.kind != Kind::Delta.name()
    }
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
        // Of a counter or a level its run says how it is counted: there the last one that brought it stays.
        let settles = self.run.change.filter(|change| source.kind == Kind::Delta && change.settles(&row));
        let is_confirmed = settles.zip(before.as_ref()).is_some_and(|(change, (of, old))| {
            // Of one that was cut at a month's end only the rest is known by its id.
            let is_cut = old.start > row.start;
            let found_by = || self.known.run_of((*of, old.at, old.start), &old.id);
            !is_cut && found_by().is_some_and(|run| change.has_confirmed(run))
        });
        if let Some((old_series, old)) = &before
            && (*old_series == series && **old == row || self.run.superseded && old.value.is_some())
        {
            if settles.is_some() && !is_confirmed && !self.run.superseded {
                self.known.confirm(place, &row.id, self.run.id)?;
            }
            return Ok(ReadingOutcome::Same);
        }
        let is_last = met.last.is_some_and(|last| micros(last) == row.at);
        let verdict = self.run.change.filter(|_| !is_confirmed).map_or(Verdict::Counts, |change| {
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
                self.settled.insert(name.to_owned());
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

    /// Within what an id is one reading's.
    fn owner(&self, source: &Source) -> (i64, &'a str) {
        (source.id, &self.run.agent)
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
}
