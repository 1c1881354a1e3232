//! What is known of some queued readings, looked up for all of them together, and what is to be written of them, written
//! together: a shared ledger is never asked once a reading. It judges nothing; `identity` does.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use super::count::KnownSeries;
use super::row::Row;
use super::spent;
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::sql::{self, Connection, Row as SqlRow, ToSql};
use crate::metering::reading::Kind;

/// Where a reading is: its series, its instant, and its start.
pub(super) type At = (i64, i64, i64);

/// A reading that is to be looked up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'q> {
    pub(super) source: i64,
    pub(super) kind: Kind,
    /// Sources of other collectors that may have the same.
    pub(super) others: &'q [i64],
    pub(super) labels: &'q str,
    pub(super) row: &'q Row,
}

/// What is known of some readings of an agent.
pub(super) struct Known<'a> {
    connection: &'a Connection,
    agent: &'a str,
    /// Whether there is any reading with an id that is no longer kept.
    some_are_spent: bool,
    /// Series, by source and labels.
    series: HashMap<i64, HashMap<String, KnownSeries>>,
    /// Those of them that the last complete run did not see.
    asleep: HashSet<i64>,
    /// Where readings with an id of their own are, by source and id.
    ids: HashMap<i64, HashMap<String, At>>,
    /// Ids that other agents or other collectors have, by source.
    elsewhere: HashMap<i64, HashSet<String>>,
    /// Ids of readings that are no longer kept, by source.
    spent: HashMap<i64, HashSet<String>>,
    /// Readings by where they are, each with its run.
    rows: HashMap<At, Vec<(Rc<Row>, i64)>>,
    new_ids: Vec<(i64, String, At)>,
    new_rows: Vec<(i64, Rc<Row>, i64)>,
}

impl<'a> Known<'a> {
    pub(super) fn new(connection: &'a Connection, agent: &'a str) -> sql::Result<Self> {
        Ok(Known {
            connection,
            agent,
            some_are_spent: connection.prepare_cached("SELECT 1 FROM compacted_id LIMIT 1")?.exists([])?,
            series: HashMap::new(),
            asleep: HashSet::new(),
            ids: HashMap::new(),
            elsewhere: HashMap::new(),
            spent: HashMap::new(),
            rows: HashMap::new(),
            new_ids: Vec::new(),
            new_rows: Vec::new(),
        })
    }

    /// Looks up all of these. What it knew of others is forgotten; that must have been kept.
    pub(super) fn look_up(&mut self, wanted: &[Wanted<'_>]) -> sql::Result<()> {
        (self.ids, self.elsewhere, self.spent, self.rows) = Default::default();
        self.look_up_series(wanted)?;
        self.look_up_ids(wanted)?;
        if self.some_are_spent {
            self.look_up_spent(wanted)?;
        }
        self.look_up_rows(wanted)
    }

    fn look_up_series(&mut self, wanted: &[Wanted<'_>]) -> sql::Result<()> {
        let mut kinds: HashMap<i64, Kind> = HashMap::new();
        let mut places: BTreeSet<(i64, &str)> = BTreeSet::new();
        for one in wanted {
            kinds.insert(one.source, one.kind);
            if self.series(one.source, one.labels).is_none() {
                places.insert((one.source, one.labels));
            }
        }
        let rows: Vec<[&dyn ToSql; 3]> =
            places.iter().map(|(source, labels)| [source as &dyn ToSql, labels, &self.agent]).collect();
        let (series, asleep) = (&mut self.series, &mut self.asleep);
        self.connection.query_rows(
            "SELECT series.source, series.labels, series.id, series.compacted, series.last, series.state, series.live
             FROM (VALUES {rows}) v CROSS JOIN series
             WHERE series.source = v.column1 AND series.labels = v.column2 AND series.agent = v.column3",
            &rows,
            |row| {
                let source: i64 = row.get(0)?;
                let Some(&kind) = kinds.get(&source) else { return Ok(()) };
                let met = met(row, 2, (source, kind))?;
                if !row.get::<_, bool>(6)? {
                    asleep.insert(met.id);
                }
                series.entry(source).or_default().insert(row.get(1)?, met);
                Ok(())
            },
        )
    }

    /// Makes the series that are not there; returns their numbers, sources and labels.
    pub(super) fn make_series(&mut self, wanted: &[Wanted<'_>]) -> sql::Result<Vec<(i64, i64, String)>> {
        let mut new: BTreeMap<(i64, &str), Kind> = BTreeMap::new();
        for one in wanted.iter().filter(|one| self.series(one.source, one.labels).is_none()) {
            new.insert((one.source, one.labels), one.kind);
        }
        let rows: Vec<[&dyn ToSql; 3]> =
            new.keys().map(|(source, labels)| [source as &dyn ToSql, labels, &self.agent]).collect();
        let mut made: Vec<(i64, i64, String)> = Vec::with_capacity(rows.len());
        self.connection.query_rows(
            "INSERT INTO series (source, labels, agent) VALUES {rows} RETURNING id, source, labels",
            &rows,
            |row| {
                made.push((row.get(0)?, row.get(1)?, row.get(2)?));
                Ok(())
            },
        )?;
        for (id, source, labels) in &made {
            let Some(&kind) = new.get(&(*source, labels.as_str())) else { continue };
            let met =
                KnownSeries { id: *id, source: *source, kind, compacted: None, last: None, state: None };
            self.series.entry(*source).or_default().insert(labels.clone(), met);
        }
        Ok(made)
    }

    fn look_up_ids(&mut self, wanted: &[Wanted<'_>]) -> sql::Result<()> {
        let mut rows: Vec<[&dyn ToSql; 2]> = Vec::new();
        for one in wanted.iter().filter(|one| !one.row.id.is_empty()) {
            rows.push([&one.source, &one.row.id]);
            if one.kind == Kind::Delta {
                rows.extend(one.others.iter().map(|other| [other as &dyn ToSql, &one.row.id]));
            }
        }
        let own: HashSet<i64> = wanted.iter().map(|one| one.source).collect();
        let (agent, ids, elsewhere) = (self.agent, &mut self.ids, &mut self.elsewhere);
        self.connection.query_rows(
            "SELECT identity.source, identity.id, identity.agent, identity.series, identity.at, identity.start
             FROM (VALUES {rows}) v CROSS JOIN identity
             WHERE identity.source = v.column1 AND identity.id = v.column2",
            &rows,
            |row| {
                let (source, id): (i64, String) = (row.get(0)?, row.get(1)?);
                if own.contains(&source) && row.get_ref(2)?.as_str()? == agent {
                    ids.entry(source).or_default().insert(id, (row.get(3)?, row.get(4)?, row.get(5)?));
                } else {
                    elsewhere.entry(source).or_default().insert(id);
                }
                Ok(())
            },
        )
    }

    fn look_up_spent(&mut self, wanted: &[Wanted<'_>]) -> sql::Result<()> {
        let with_id: Vec<&Wanted<'_>> = wanted.iter().filter(|one| !one.row.id.is_empty()).collect();
        let hashes: HashMap<[u8; 16], (i64, &str)> = with_id
            .iter()
            .map(|one| (spent::identity(one.source, &one.row.id), (one.source, one.row.id.as_str())))
            .collect();
        let rows: Vec<[&dyn ToSql; 2]> =
            hashes.keys().map(|hash| [hash as &dyn ToSql, &self.agent]).collect();
        let spent = &mut self.spent;
        self.connection.query_rows(
            "SELECT compacted_id.identity FROM (VALUES {rows}) v CROSS JOIN compacted_id
             WHERE compacted_id.identity = v.column1 AND compacted_id.agent = v.column2",
            &rows,
            |row| {
                let hash: Vec<u8> = row.get(0)?;
                let of = <[u8; 16]>::try_from(hash).ok().and_then(|hash| hashes.get(&hash));
                if let Some((source, id)) = of {
                    spent.entry(*source).or_default().insert((*id).to_owned());
                }
                Ok(())
            },
        )
    }

    /// Readings that may be these already, or say the same: behind all others of a series there is none.
    fn look_up_rows(&mut self, wanted: &[Wanted<'_>]) -> sql::Result<()> {
        let mut places: BTreeSet<At> = BTreeSet::new();
        for one in wanted {
            if let Some(known) = self.place_of(one.source, &one.row.id) {
                places.insert(known);
            }
            let Some(met) = self.series(one.source, one.labels) else { continue };
            let among = met.last.is_some_and(|last| one.row.at <= micros(last));
            if among && (one.row.id.is_empty() || one.kind == Kind::Delta) {
                places.insert((met.id, one.row.at, one.row.start));
            }
        }
        let sought: Vec<[&dyn ToSql; 3]> =
            places.iter().map(|(series, at, start)| [series as &dyn ToSql, at, start]).collect();
        let rows = &mut self.rows;
        self.connection.query_rows(
            "SELECT reading.series, reading.at, reading.start, reading.id, reading.value, reading.epoch, reading.began,
                    reading.shared, reading.run
             FROM (VALUES {rows}) v CROSS JOIN reading
             WHERE reading.series = v.column1 AND reading.at = v.column2 AND reading.start = v.column3",
            &sought,
            |row| {
                let (series, found) = (row.get(0)?, Row::of(row, 1)?);
                let place = (series, found.at, found.start);
                rows.entry(place).or_default().push((Rc::new(found), row.get(8)?));
                Ok(())
            },
        )
    }

    pub(super) fn series(&self, source: i64, labels: &str) -> Option<&KnownSeries> {
        self.series.get(&source)?.get(labels)
    }

    /// To be called when what was touched has been counted: what was known of series is old.
    pub(super) fn forget_series(&mut self) {
        self.series.clear();
    }

    /// Whether a series was not there when the last complete run looked, and is not woken yet.
    pub(super) fn is_asleep(&self, series: i64) -> bool {
        self.asleep.contains(&series)
    }

    /// Whether a series is to be woken; it is asked once.
    pub(super) fn wakes(&mut self, series: i64) -> bool {
        self.asleep.remove(&series)
    }

    /// Where the reading with this id is.
    pub(super) fn place_of(&self, source: i64, id: &str) -> Option<At> {
        self.ids.get(&source)?.get(id).copied()
    }

    /// Whether another agent has this id of the source; of another collector's source, whether anybody has.
    pub(super) fn is_elsewhere(&self, source: i64, id: &str) -> bool {
        self.elsewhere.get(&source).is_some_and(|ids| ids.contains(id))
    }

    /// Whether the reading with this id is no longer kept.
    pub(super) fn is_spent(&self, source: i64, id: &str) -> bool {
        self.spent.get(&source).is_some_and(|ids| ids.contains(id))
    }

    /// The reading with this id (or without one) at a place.
    pub(super) fn row(&self, place: At, id: &str) -> Option<Rc<Row>> {
        self.rows_at(place).map(|(row, _)| row).find(|row| row.id == id).cloned()
    }

    /// All readings at a place, each with its run.
    pub(super) fn rows_at(&self, place: At) -> impl Iterator<Item = &(Rc<Row>, i64)> {
        self.rows.get(&place).into_iter().flatten()
    }

    /// The last run that brought the reading at a place, or found it as it is.
    pub(super) fn run_of(&self, place: At, id: &str) -> Option<i64> {
        self.rows_at(place).find(|(row, _)| row.id == id).map(|(_, run)| *run)
    }

    /// Notes that a run has found a reading as it is.
    pub(super) fn confirm(&mut self, place: At, id: &str, by: i64) -> sql::Result<()> {
        for (_, run) in self.rows.get_mut(&place).into_iter().flatten().filter(|(row, _)| row.id == id) {
            *run = by;
        }
        let (series, at, start) = place;
        self.connection
            .prepare_cached(
                "UPDATE reading SET run = ?5 WHERE series = ?1 AND at = ?2 AND start = ?3 AND id = ?4",
            )?
            .execute(sql::params![series, at, start, id, by])?;
        Ok(())
    }

    /// A reading with an id that was not known.
    pub(super) fn add_id(&mut self, source: i64, id: &str, place: At) {
        self.ids.entry(source).or_default().insert(id.to_owned(), place);
        self.new_ids.push((source, id.to_owned(), place));
    }

    /// Notes where the reading with this id is from now on, if it has one.
    pub(super) fn put_id(&mut self, source: i64, id: &str, place: At) -> sql::Result<()> {
        match self.place_of(source, id) {
            _ if id.is_empty() => {}
            Some(at) if at == place => {}
            Some(_) => self.move_id(source, id, place)?,
            None => self.add_id(source, id, place),
        }
        Ok(())
    }

    /// Moves a known id to another place.
    fn move_id(&mut self, source: i64, id: &str, place: At) -> sql::Result<()> {
        self.keep()?;
        self.ids.entry(source).or_default().insert(id.to_owned(), place);
        self.connection
            .prepare_cached(
                "UPDATE identity SET series = ?3, at = ?4, start = ?5 WHERE source = ?1 AND id = ?2 AND agent = ?6",
            )?
            .execute(sql::params![source, id, place.0, place.1, place.2, self.agent])?;
        Ok(())
    }

    pub(super) fn add_row(&mut self, series: i64, row: Row, run: i64) -> sql::Result<()> {
        let place = (series, row.at, row.start);
        if self.row(place, &row.id).is_some() {
            // Of two writes of one row the order matters.
            self.remove_row(series, &row)?;
        }
        let row = Rc::new(row);
        self.rows.entry(place).or_default().push((row.clone(), run));
        self.new_rows.push((series, row, run));
        Ok(())
    }

    pub(super) fn remove_row(&mut self, series: i64, row: &Row) -> sql::Result<()> {
        self.keep()?;
        if let Some(rows) = self.rows.get_mut(&(series, row.at, row.start)) {
            rows.retain(|(known, _)| known.id != row.id);
        }
        self.connection
            .prepare_cached("DELETE FROM reading WHERE series = ?1 AND at = ?2 AND start = ?3 AND id = ?4")?
            .execute(sql::params![series, row.at, row.start, row.id])?;
        Ok(())
    }

    /// Writes what is to be written.
    pub(super) fn keep(&mut self) -> sql::Result<()> {
        // In the order in which the tables are: what lies together is then written together.
        self.new_ids.sort_unstable();
        self.new_rows.sort_by(|(one, row, _), (other, next, _)| {
            (one, row.at, row.start, &row.id).cmp(&(other, next.at, next.start, &next.id))
        });
        let ids: Vec<[&dyn ToSql; 6]> = self
            .new_ids
            .iter()
            .map(|(source, id, (series, at, start))| {
                [source as &dyn ToSql, id, &self.agent, series, at, start]
            })
            .collect();
        self.connection.execute_rows(
            "INSERT INTO identity (source, id, agent, series, at, start) VALUES {rows}
             ON CONFLICT (source, id, agent) DO NOTHING",
            &ids,
        )?;
        self.new_ids.clear();
        let rows: Vec<[&dyn ToSql; 9]> = self
            .new_rows
            .iter()
            .map(|(series, row, run)| {
                let Row { at, start, id, value, epoch, began, shared } = row.as_ref();
                [series as &dyn ToSql, at, start, id, value, epoch, began, shared, run]
            })
            .collect();
        self.connection.execute_rows(
            "INSERT INTO reading (series, at, start, id, value, epoch, began, shared, run) VALUES {rows}
             ON CONFLICT (series, at, start, id) DO UPDATE SET value = excluded.value, epoch = excluded.epoch,
                began = excluded.began, shared = excluded.shared, run = excluded.run",
            &rows,
        )?;
        self.new_rows.clear();
        Ok(())
    }
}

/// A series of columns `id, compacted, last, state`.
pub(super) fn met(row: &SqlRow<'_>, first: usize, (source, kind): (i64, Kind)) -> sql::Result<KnownSeries> {
    let at = |column: usize| row.get::<_, Option<i64>>(column).map(|at| at.map(instant));
    Ok(KnownSeries {
        id: row.get(first)?,
        source,
        kind,
        compacted: at(first + 1)?,
        last: at(first + 2)?,
        state: row.get_ref(first + 3)?.as_str_or_null()?.map(Rc::from),
    })
}
