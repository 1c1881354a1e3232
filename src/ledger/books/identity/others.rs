//! What a run's readings do to others: to what was read of the same while something else was asked for, and to a counter that
//! has other labels now.

use std::collections::{HashMap, HashSet};

use rust_decimal::Decimal;

use super::super::changed;
use super::super::count::{KnownSeries, SeriesChanges};
use super::super::quantities::{GONE, LEVEL};
use super::super::row::Row;
use super::{Head, Queued, ReadingOutcome, Source, Store};
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::queue::part;
use crate::metering::measure::RunFacts;
use crate::metering::reading::Kind;

/// The last reading of a counter that was there before the run, and whose it is.
#[derive(Debug, Clone)]
pub(super) struct Life {
    series: i64,
    name: String,
    labels: String,
    at: i64,
    value: String,
}

/// Lives of counters, by source, id and beginning.
pub(super) type Lives = HashMap<(i64, String, Option<i64>), Vec<Life>>;

/// What a life's id contains that is of one thing alone: a boot and, in it, the inode of a control group. A boot alone is the life
/// of all that one machine counts.
const OF_ONE: char = '/';

impl Store<'_> {
    /// The levels from which series go on that are new since what is asked for was changed.
    pub(in crate::ledger::books) fn take_levels(&mut self) -> Vec<Queued> {
        self.puts_levels = true;
        std::mem::take(&mut self.levels).into_values().collect()
    }

    /// What was counted of a delta before an instant stays, under an id of its own.
    pub(super) fn keep_until(
        &mut self,
        (source, met): (&Source, &KnownSeries),
        old: &Row,
        cut: i64,
        touched: &mut SeriesChanges,
    ) -> sql::Result<()> {
        let place = (met.id, old.at, old.start);
        let run =
            self.known.rows_at(place).find(|(row, _)| row.id == old.id).map_or(self.run.id, |(_, run)| *run);
        touched.meet(met).removed(old.point(RunFacts::default()));
        self.known.remove_row(met.id, old)?;
        if old.start >= cut {
            return Ok(());
        }
        let first =
            if old.at > cut { changed::cut(old, cut).map(|(first, _)| first) } else { Some(old.clone()) };
        let Some(first) = first else { return Ok(()) };
        let id = format!("{} until {}", old.id, instant(cut));
        let first = Row { id: id.clone(), ..first };
        touched.meet(met).added(first.point(RunFacts::default()));
        self.known.add_id(source.id, &id, (met.id, first.at, first.start));
        self.known.add_row(met.id, first, run)
    }

    /// The rest of a delta of which what was counted before stays.
    pub(super) fn put_rest(
        &mut self,
        source: &Source,
        met: &KnownSeries,
        row: Row,
        touched: &mut SeriesChanges,
    ) -> sql::Result<ReadingOutcome> {
        let place = (met.id, row.at, row.start);
        self.known.put_id(source.id, &row.id, place)?;
        touched.meet(met).added(row.point(RunFacts::default()));
        self.known.add_row(met.id, row, self.run.id)?;
        Ok(ReadingOutcome::Corrected)
    }

    /// From here on a series counts what it rises above this level, whatever it had before.
    pub(super) fn begin_at(
        &mut self,
        met: &KnownSeries,
        (at, value): (i64, Option<String>),
        touched: &mut SeriesChanges,
    ) -> sql::Result<()> {
        self.mark(met, at, (GONE, None), touched)?;
        self.mark(met, at, (LEVEL, value), touched)
    }

    /// A series ends where it was read last.
    fn end_at(&mut self, met: &KnownSeries, at: i64, touched: &mut SeriesChanges) -> sql::Result<()> {
        self.connection.prepare_cached("UPDATE series SET live = 0 WHERE id = ?1")?.execute([met.id])?;
        self.mark(met, at, (GONE, None), touched)
    }

    fn mark(
        &mut self,
        met: &KnownSeries,
        at: i64,
        (id, value): (&str, Option<String>),
        touched: &mut SeriesChanges,
    ) -> sql::Result<()> {
        let row = Row { at, start: 0, id: id.to_owned(), value, epoch: None, began: None, shared: false };
        touched.meet(met).added(row.point(RunFacts::default()));
        self.known.add_row(met.id, row, self.run.id)
    }

    /// Finds counters that are not new, but have other labels than before (a user's name): their life was another series' up to
    /// this run.
    pub(super) fn find_lives(&mut self, accepted: &[(Source, &Queued)]) -> sql::Result<()> {
        for (source, queued) in accepted {
            let Queued { labels, row, .. } = queued;
            let counts = source.kind == Kind::Counter && !row.shared;
            let Some(id) = row.epoch.clone().filter(|id| counts && id.contains(OF_ONE)) else { continue };
            let Some(met) = self.known.series(source.id, labels) else { continue };
            let (series, is_begun) = (met.id, met.last.is_none() || self.known.is_asleep(met.id));
            if !is_begun {
                continue;
            }
            if self.lives.is_none() {
                self.lives = Some(lives(self.connection, self.run)?);
            }
            let of_life = self.lives.as_ref().and_then(|lives| lives.get(&(source.id, id, row.began)));
            let Some([life]) = of_life.map(Vec::as_slice) else { continue };
            let number = |text: &str| text.parse::<Decimal>().ok();
            let is_higher = number(&life.value) > row.value.as_deref().and_then(number);
            if life.series == series || is_higher {
                continue;
            }
            let life = life.clone();
            if self.seen_lives.is_none() {
                self.seen_lives = Some(self.lives_seen()?);
            }
            if self.seen_lives.as_ref().is_some_and(|seen| !seen.contains(&life.series)) {
                self.taken_over.insert(series, life);
            }
        }
        Ok(())
    }

    /// The series among those that have lives that this run sees as before.
    fn lives_seen(&self) -> sql::Result<HashSet<i64>> {
        let lives = self.lives.iter().flatten().flat_map(|(_, lives)| lives);
        let series: HashMap<(&str, &str), i64> =
            lives.map(|life| ((life.name.as_str(), life.labels.as_str()), life.series)).collect();
        let mut seen = HashSet::new();
        let mut next = part::after(self.connection, self.run.id, 0)?;
        while let Some((number, readings)) = next {
            for one in readings {
                seen.extend(series.get(&(one.name.as_str(), one.labels.as_str())));
            }
            next = part::after(self.connection, self.run.id, number)?;
        }
        Ok(seen)
    }

    /// A series goes on where its life was read last, under other labels.
    pub(super) fn take_over(
        &mut self,
        (source, met): (&Source, &KnownSeries),
        touched: &mut SeriesChanges,
    ) -> sql::Result<()> {
        let Some(life) = self.taken_over.remove(&met.id) else { return Ok(()) };
        let former = self.met(life.series, source)?;
        self.end_at(&former, life.at, touched)?;
        self.begin_at(met, (life.at, Some(life.value)), touched)?;
        self.relabelled += 1;
        self.first_relabelled.get_or_insert((life.labels, met.id));
        Ok(())
    }

    /// Tells which counters have other labels now.
    pub(in crate::ledger::books) fn tell_of_lives(&self) -> sql::Result<()> {
        let Some((before, series)) = &self.first_relabelled else { return Ok(()) };
        let labels: String = self
            .connection
            .prepare_cached("SELECT labels FROM series WHERE id = ?")?
            .query_row([series], |row| row.get(0))?;
        let words = format!(
            "counters of the collector {} have other labels now: {} (such as {before}, which is {labels}). They count on from \
             where they were",
            self.run.collector, self.relabelled
        );
        tell(self.connection, About::default(), EventKind::Readings, &words, self.run.finished)
    }

    /// What this run has read whole takes the place of what was read there while something else was asked for. Returns how
    /// many readings of each name are replaced.
    pub(in crate::ledger::books) fn replace_unseen(
        &mut self,
        touched: &mut SeriesChanges,
    ) -> sql::Result<Vec<(String, usize)>> {
        let Some(change) = self.run.change else { return Ok(Vec::new()) };
        let mut replaced = Vec::new();
        for (name, windows) in &self.run.history {
            let Some(source) = self.sources.get(name).cloned() else { continue };
            let mut old: Vec<(i64, Row)> = Vec::new();
            for (from, to) in windows {
                let found = self
                    .connection
                    .prepare_cached(
                        "SELECT reading.series, reading.at, start, reading.id, value, epoch, began, shared FROM reading
                         JOIN series ON series.id = reading.series JOIN run ON run.id = reading.run
                         WHERE series.source = ?1 AND series.agent = ?2 AND reading.at > ?3 AND start >= ?3 AND start < ?4
                           AND run.scope <> ?5",
                    )?
                    .query_map(
                        params![source.id, self.run.agent, (*from).max(change.settled), to, self.run.scope],
                        |row| Ok((row.get(0)?, Row::of(row, 1)?)),
                    )?
                    .collect::<sql::Result<Vec<(i64, Row)>>>()?;
                let is_seen = |(series, row): &(i64, Row)| {
                    self.put.contains(&((*series, row.at, row.start), row.id.clone()))
                };
                old.extend(found.into_iter().filter(|one| !is_seen(one)));
            }
            for (series, row) in &old {
                let met = self.met(*series, &source)?;
                touched.meet(&met).removed(row.point(RunFacts::default()));
                self.known.remove_row(*series, row)?;
                self.connection
                    .prepare_cached(
                        "DELETE FROM identity WHERE source = ?1 AND id = ?2 AND agent = ?3 AND series = ?4",
                    )?
                    .execute(params![source.id, row.id, self.run.agent, series])?;
            }
            if !old.is_empty() {
                replaced.push((name.clone(), old.len()));
            }
        }
        Ok(replaced)
    }

    /// Since what is asked for was changed, readings of history have other labels: what they were under the former ones ends
    /// where it was read last.
    pub(in crate::ledger::books) fn end_former(&mut self, touched: &mut SeriesChanges) -> sql::Result<()> {
        let Some(change) = self.run.change.filter(|change| change.is_new) else { return Ok(()) };
        for name in self.run.history.keys() {
            let Some(source) = self.sources.get(name).cloned() else { continue };
            let live: Vec<(i64, String)> = self
                .connection
                .prepare_cached(
                    "SELECT id, labels FROM series WHERE source = ?1 AND agent = ?2 AND live = 1",
                )?
                .query_map(params![source.id, self.run.agent], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<sql::Result<_>>()?;
            let is_begun = |(series, _): &&(i64, String)| self.begun.contains(series);
            if !matches!(source.kind, Kind::Counter | Kind::Gauge) || !live.iter().any(|one| is_begun(&one)) {
                continue;
            }
            for (series, labels) in live {
                let met = self.met(series, &source)?;
                let last = met.last.map(micros).filter(|last| *last <= change.read_to);
                if self.seen.contains(&series) || self.run.withholds(name, &labels) {
                    continue;
                }
                let Some(at) = last else { continue };
                self.end_at(&met, at, touched)?;
            }
        }
        Ok(())
    }
}

/// The lives of a collector's counters that the last complete run saw.
fn lives(connection: &Connection, run: &Head) -> sql::Result<Lives> {
    let mut lives = Lives::new();
    let mut query = connection.prepare_cached(
        "SELECT series.source, reading.epoch, reading.began, series.id, source.name, series.labels, reading.at, reading.value
         FROM source JOIN series ON series.source = source.id
         JOIN reading ON reading.series = series.id AND reading.at = series.last
         WHERE source.collector = ?1 AND source.kind = 'counter' AND series.agent = ?2 AND series.live = 1
           AND reading.epoch IS NOT NULL AND reading.shared = 0 AND reading.value IS NOT NULL AND reading.run <> ?3",
    )?;
    let mut rows = query.query(params![run.collector, run.agent, run.id])?;
    while let Some(row) = rows.next()? {
        let (series, name, labels) = (row.get(3)?, row.get(4)?, row.get(5)?);
        let life = Life { series, name, labels, at: row.get(6)?, value: row.get(7)? };
        lives.entry((row.get(0)?, row.get(1)?, row.get(2)?)).or_default().push(life);
    }
    Ok(lives)
}
