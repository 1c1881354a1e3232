//! Which series end with a run: those that it does not see, and those whose end its source tells.

use std::collections::BTreeMap;
use std::rc::Rc;

use jiff::Timestamp;

use super::{Source, Store};
use crate::collectors::Bearing;
use crate::ledger::books::count::{KnownSeries, SeriesChanges};
use crate::ledger::books::row::Row;
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::metering::reading::Kind;

/// By the names of readings whose source tells ends by itself: labels, and the instant.
pub(in crate::ledger::books) type Ends = BTreeMap<String, Vec<(String, Timestamp)>>;

/// The ends that a run tells.
pub(in crate::ledger::books) fn ends_of(connection: &Connection, run: i64) -> sql::Result<Ends> {
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

impl Store<'_> {
    /// A run that does not see a series ends it there, unless something odd may have been of it, or its source tells ends
    /// by itself (`told`: the names of its readings).
    pub(in crate::ledger::books) fn end_unseen(
        &mut self,
        told: &Ends,
        touched: &mut SeriesChanges,
    ) -> sql::Result<()> {
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
    pub(in crate::ledger::books) fn end(
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
