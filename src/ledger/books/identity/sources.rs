//! The sources of a collector: what readings of one name, kind and unit come from.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Queued, Store};
use crate::ledger::db::columns::{instant, micros, unreadable};
use crate::ledger::db::sql::{self, Connection, params};
use crate::metering::reading::Kind;

/// A source as it was met.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) id: i64,
    pub(super) kind: Kind,
    /// Sources of other collectors with readings of the same name.
    pub(super) others: Rc<[i64]>,
    /// Up to here the same was measured by readings of another kind, of a collector that this one continues.
    pub(super) after: Option<i64>,
}

/// The last reading of another kind that a source's name had in a collector that its own continues.
const MEASURED_BEFORE: &str = "(SELECT max(coalesce((SELECT max(reading.at) FROM reading
        WHERE reading.series = series.id AND reading.value IS NOT NULL), series.last))
    FROM source AS former JOIN series ON series.source = former.id
    WHERE former.collector = source.collector AND former.name = source.name AND former.kind <> source.kind
        AND former.continued = 1)";

/// The sources of a collector, by the names of their readings.
pub(super) fn sources(connection: &Connection, collector: &str) -> sql::Result<HashMap<String, Source>> {
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

impl Store<'_> {
    /// The source of a reading, or why it is refused.
    pub(super) fn source_of(&mut self, queued: &Queued) -> sql::Result<Result<Source, String>> {
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

    pub(super) fn source(&mut self, name: &str, kind: Kind, unit: Option<&str>) -> sql::Result<Source> {
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
}
