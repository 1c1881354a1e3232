//! The levels of a host that is gone for good, or that goes on under another name. Nobody sees them any more, so that they would
//! stand for ever beside what another host measures of the same thing. Their end is a run of that host's, which is counted as any
//! other; what it measured before stays, and where the host is back, its levels are.

use std::collections::BTreeMap;

use super::{Head, Spans, insert_end, insert_run};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};

/// Ends the gauges of an agent that have not ended: just after what it saw of them last, or at this instant where that is later.
/// Returns how many there were.
pub(in crate::ledger) fn end_levels(
    connection: &Connection,
    agent: &str,
    at_least: i64,
    arrived: i64,
) -> sql::Result<usize> {
    let levels: Vec<(String, i64, String, String)> = connection
        .prepare_cached(
            "SELECT source.collector, series.id, source.name, series.labels FROM series
             JOIN source ON source.id = series.source
             WHERE series.agent = ?1 AND series.live = 1 AND source.kind = 'gauge' ORDER BY series.id",
        )?
        .query_map([agent], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<sql::Result<_>>()?;
    let mut of_collectors: BTreeMap<String, Vec<(i64, String, String)>> = BTreeMap::new();
    let count = levels.len();
    for (collector, series, name, labels) in levels {
        of_collectors.entry(collector).or_default().push((series, name, labels));
    }
    for (collector, levels) in of_collectors {
        let last: Option<(i64, i64, String, Option<String>)> = connection
            .prepare_cached(
                "SELECT at, finished, scope, file FROM run
                 WHERE collector = ?1 AND agent = ?2 AND outcome <> 'failed' ORDER BY at DESC, id DESC LIMIT 1",
            )?
            .query_row([collector.as_str(), agent], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()?;
        let Some((at, finished, scope, file)) = last else { continue };
        let ended = at.saturating_add(1).max(at_least);
        let after = ended.max(finished.saturating_add(1));
        let head = Head {
            collector,
            at: after,
            finished: after,
            outcome: "ok".to_owned(),
            message: None,
            quarantined: 0,
            lists_everything: false,
            scope,
            withheld: "[]".to_owned(),
            history: Spans::new(),
            skew: None,
        };
        let from = file.as_deref().map(|file| (file, arrived));
        let run = insert_run(connection, (agent, false, from), &head)?;
        for (series, name, labels) in levels {
            insert_end(connection, run, &(name, labels, ended))?;
            connection.prepare_cached("UPDATE series SET live = 0 WHERE id = ?1")?.execute([series])?;
        }
    }
    Ok(count)
}

/// The agents as whose this host measured until it was renamed: it sent what was theirs, and has measured nothing under its own
/// name yet. Each is found once.
pub(super) fn former_names(connection: &Connection, agent: &str, arrived: i64) -> sql::Result<Vec<String>> {
    let found: Vec<(String, String)> = connection
        .prepare_cached(
            "SELECT former.name, former.file FROM agent own
             JOIN agent former ON former.file = own.file AND former.name <> own.name
             WHERE own.name = ?1 AND own.retired IS NULL AND EXISTS (
                SELECT 1 FROM collector JOIN run ON run.collector = collector.name AND run.agent = collector.agent
                WHERE collector.agent = former.name AND run.file = former.file)",
        )?
        .query_map([agent], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<sql::Result<_>>()?;
    for (former, file) in &found {
        connection
            .prepare_cached("UPDATE agent SET retired = ?3 WHERE file = ?2 AND name IN (?1, ?4)")?
            .execute(params![former, file, arrived, agent])?;
    }
    let mut names: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
    names.dedup();
    Ok(names)
}
